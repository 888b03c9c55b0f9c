//! A writer of pickles: Python values, and protocol 2 of them.

/// A Python value, or the call that makes one.
#[derive(Clone, Debug)]
pub(crate) enum Py {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Tuple(Vec<Py>),
    List(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    Global(&'static str, &'static str),
    Persistent(Box<Py>),
    /// What calling the first with the second gives.
    Call(Box<Py>, Box<Py>),
    /// The first, with its state restored from the second.
    Built(Box<Py>, Box<Py>),
    /// The first, with items set.
    With(Box<Py>, Vec<(Py, Py)>),
    /// Opcodes, right or wrong.
    Raw(Vec<u8>),
}

pub(crate) fn text(text: &str) -> Py {
    Py::Str(text.to_owned())
}

pub(crate) fn ints(numbers: &[i64]) -> Py {
    Py::Tuple(numbers.iter().map(|&number| Py::Int(number)).collect())
}

pub(crate) fn dict(items: Vec<(&str, Py)>) -> Py {
    Py::Dict(keyed(items))
}

pub(crate) fn ordered(items: Vec<(&str, Py)>) -> Py {
    let empty = call("collections", "OrderedDict", vec![]);
    Py::With(Box::new(empty), keyed(items))
}

fn keyed(items: Vec<(&str, Py)>) -> Vec<(Py, Py)> {
    let items = items.into_iter();
    items.map(|(key, value)| (text(key), value)).collect()
}

pub(crate) fn call(module: &'static str, name: &'static str, arguments: Vec<Py>) -> Py {
    Py::Call(
        Box::new(Py::Global(module, name)),
        Box::new(Py::Tuple(arguments)),
    )
}

/// An object of a class, with these attributes.
pub(crate) fn object(module: &'static str, class: &'static str, attributes: Py) -> Py {
    Py::Built(Box::new(call(module, class, vec![])), Box::new(attributes))
}

impl Py {
    /// The value's pickle, without a memo.
    pub(crate) fn pickle(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, 2];
        self.put(&mut bytes);
        bytes.push(b'.');
        bytes
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::None => bytes.push(b'N'),
            Self::Bool(value) => bytes.push(if *value { 0x88 } else { 0x89 }),
            Self::Int(value) => match (u8::try_from(*value), i32::try_from(*value)) {
                (Ok(value), _) => bytes.extend([b'K', value]),
                (_, Ok(value)) => {
                    bytes.push(b'J');
                    bytes.extend(value.to_le_bytes());
                }
                _ => {
                    bytes.extend([0x8a, 8]);
                    bytes.extend(value.to_le_bytes());
                }
            },
            Self::Float(value) => {
                bytes.push(b'G');
                bytes.extend(value.to_be_bytes());
            }
            Self::Str(text) => {
                bytes.push(b'X');
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            Self::Tuple(parts) => {
                bytes.push(b'(');
                parts.iter().for_each(|part| part.put(bytes));
                bytes.push(b't');
            }
            Self::List(parts) => {
                bytes.extend(b"](");
                parts.iter().for_each(|part| part.put(bytes));
                bytes.push(b'e');
            }
            Self::Dict(items) => {
                bytes.push(b'}');
                put_items(items, bytes);
            }
            Self::Global(module, name) => {
                bytes.extend(format!("c{module}\n{name}\n").as_bytes());
            }
            Self::Persistent(id) => {
                id.put(bytes);
                bytes.push(b'Q');
            }
            Self::Call(callable, arguments) => {
                callable.put(bytes);
                arguments.put(bytes);
                bytes.push(b'R');
            }
            Self::Built(object, state) => {
                object.put(bytes);
                state.put(bytes);
                bytes.push(b'b');
            }
            Self::With(object, items) => {
                object.put(bytes);
                put_items(items, bytes);
            }
            Self::Raw(opcodes) => bytes.extend(opcodes),
        }
    }
}

fn put_items(items: &[(Py, Py)], bytes: &mut Vec<u8>) {
    bytes.push(b'(');
    for (key, value) in items {
        key.put(bytes);
        value.put(bytes);
    }
    bytes.push(b'u');
}
