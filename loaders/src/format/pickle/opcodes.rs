//! The opcodes of a pickle and their arguments, one after the other.

use super::{Fault, Value};

/// One step of the stack machine; opcodes that differ only in how an argument is encoded are one.
#[derive(Debug, PartialEq)]
pub(super) enum Opcode<'p> {
    /// `PROTO`, `FRAME`: nothing to do.
    Nothing,
    Stop,
    Push(Value<'p>),
    PushText(String),
    PushGlobal {
        module: &'p str,
        name: &'p str,
    },
    StackGlobal,
    PushPersistent(&'p str),
    BinPersistent,
    Mark,
    Pop,
    PopMark,
    Dup,
    EmptyList,
    EmptyDict,
    EmptySet,
    /// A tuple of so many values.
    Tuple(usize),
    MarkedTuple,
    MarkedList,
    MarkedDict,
    MarkedFrozenSet,
    Append,
    Appends,
    AddItems,
    SetItem,
    SetItems,
    Put(usize),
    Memoize,
    Get(usize),
    Reduce,
    NewObject,
    NewObjectWithNames,
    /// `OBJ`: the class is the first value after the mark.
    MarkedObject,
    /// `INST`: the class is the argument.
    MarkedInstance {
        module: &'p str,
        name: &'p str,
    },
    Build,
}

/// Reads opcodes until one breaks off.
pub(super) struct Opcodes<'p> {
    bytes: &'p [u8],
    at: usize,
    /// Where the opcode begins that is being read.
    start: usize,
}

impl<'p> Opcodes<'p> {
    pub(super) fn new(bytes: &'p [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            start: 0,
        }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A fault of the opcode that was read last.
    pub(super) fn fault(&self, reason: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
        Fault::new(self.start, reason)
    }

    pub(super) fn next(&mut self) -> Result<Opcode<'p>, Fault> {
        self.start = self.at;
        let [code] = self.array()?;
        Ok(match code {
            0x80 => {
                let [protocol] = self.array()?;
                if protocol > 5 {
                    return Err(self.fault(format!("its protocol {protocol} is unknown")));
                }
                Opcode::Nothing
            }
            0x95 => {
                self.take(8)?;
                Opcode::Nothing
            }
            b'.' => Opcode::Stop,

            b'N' => Opcode::Push(Value::None),
            0x88 => Opcode::Push(Value::Bool(true)),
            0x89 => Opcode::Push(Value::Bool(false)),
            b'I' => Opcode::Push(match self.line()? {
                "01" => Value::Bool(true),
                "00" => Value::Bool(false),
                digits => self.integer(digits)?,
            }),
            b'L' => {
                let digits = self.line()?;
                Opcode::Push(self.integer(digits.strip_suffix('L').unwrap_or(digits))?)
            }
            b'J' => Opcode::Push(Value::Int(i32::from_le_bytes(self.array()?).into())),
            b'K' => Opcode::Push(Value::Int(u8::from_le_bytes(self.array()?).into())),
            b'M' => Opcode::Push(Value::Int(u16::from_le_bytes(self.array()?).into())),
            0x8a => Opcode::Push(long(self.sized(1)?)),
            0x8b => Opcode::Push(long(self.sized(4)?)),
            b'F' => {
                let digits = self.line()?;
                let float = digits.parse();
                Opcode::Push(Value::Float(
                    float.map_err(|_| self.fault("a float is not a number"))?,
                ))
            }
            b'G' => Opcode::Push(Value::Float(f64::from_be_bytes(self.array()?))),

            b'S' => {
                let line = self.line()?;
                self.quoted(line)?
            }
            b'V' => {
                let line = self.line()?;
                match unescape(line) {
                    None => Opcode::Push(Value::Text(line)),
                    Some(text) => Opcode::PushText(text),
                }
            }
            b'U' | 0x8c => Opcode::Push(text(self.sized(1)?)),
            b'T' | b'X' => Opcode::Push(text(self.sized(4)?)),
            0x8d => Opcode::Push(text(self.sized(8)?)),
            b'C' => Opcode::Push(Value::Bytes(self.sized(1)?)),
            b'B' => Opcode::Push(Value::Bytes(self.sized(4)?)),
            0x8e | 0x96 => Opcode::Push(Value::Bytes(self.sized(8)?)),

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Opcode::PushGlobal { module, name }
            }
            0x93 => Opcode::StackGlobal,
            b'P' => Opcode::PushPersistent(self.line()?),
            b'Q' => Opcode::BinPersistent,

            b'(' => Opcode::Mark,
            b'0' => Opcode::Pop,
            b'1' => Opcode::PopMark,
            b'2' => Opcode::Dup,
            b']' => Opcode::EmptyList,
            b'}' => Opcode::EmptyDict,
            0x8f => Opcode::EmptySet,
            b')' => Opcode::Tuple(0),
            0x85 => Opcode::Tuple(1),
            0x86 => Opcode::Tuple(2),
            0x87 => Opcode::Tuple(3),
            b't' => Opcode::MarkedTuple,
            b'l' => Opcode::MarkedList,
            b'd' => Opcode::MarkedDict,
            0x91 => Opcode::MarkedFrozenSet,
            b'a' => Opcode::Append,
            b'e' => Opcode::Appends,
            0x90 => Opcode::AddItems,
            b's' => Opcode::SetItem,
            b'u' => Opcode::SetItems,

            b'p' => {
                let line = self.line()?;
                Opcode::Put(self.memo(line)?)
            }
            b'q' => Opcode::Put(u8::from_le_bytes(self.array()?).into()),
            b'r' => Opcode::Put(u32::from_le_bytes(self.array()?) as usize),
            0x94 => Opcode::Memoize,
            b'g' => {
                let line = self.line()?;
                Opcode::Get(self.memo(line)?)
            }
            b'h' => Opcode::Get(u8::from_le_bytes(self.array()?).into()),
            b'j' => Opcode::Get(u32::from_le_bytes(self.array()?) as usize),

            b'R' => Opcode::Reduce,
            0x81 => Opcode::NewObject,
            0x92 => Opcode::NewObjectWithNames,
            b'o' => Opcode::MarkedObject,
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                Opcode::MarkedInstance { module, name }
            }
            b'b' => Opcode::Build,

            0x82..=0x84 => {
                return Err(self.fault("it takes a global from the extension registry, by number"));
            }
            0x97 | 0x98 => return Err(self.fault("it keeps buffers outside of itself")),
            _ => return Err(self.fault(format!("the opcode {code:#04x} is unknown"))),
        })
    }

    fn take(&mut self, count: usize) -> Result<&'p [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(Fault::Ended)?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (array, _) = self.bytes[self.at..]
            .split_first_chunk()
            .ok_or(Fault::Ended)?;
        self.at += N;
        Ok(*array)
    }

    /// As many bytes as a little-endian number of `width` bytes before them says.
    fn sized(&mut self, width: usize) -> Result<&'p [u8], Fault> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        // A length of more bytes than memory has addresses is more than there are.
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| Fault::Ended)?;
        self.take(length)
    }

    /// An argument in text, up to the end of its line.
    fn line(&mut self) -> Result<&'p str, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or(Fault::Ended)?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.fault("a line is not UTF-8"))
    }

    fn integer(&self, digits: &'p str) -> Result<Value<'p>, Fault> {
        let significant = digits.strip_prefix('-').unwrap_or(digits).as_bytes();
        if significant.is_empty() || !significant.iter().all(u8::is_ascii_digit) {
            return Err(self.fault("an integer is not a number"));
        }
        Ok(digits
            .parse()
            .map_or(Value::Long(digits.as_bytes()), Value::Int))
    }

    fn memo(&self, digits: &str) -> Result<usize, Fault> {
        digits
            .parse()
            .map_err(|_| self.fault("a place in the memo is not a number"))
    }

    /// A string of protocol 0, which Python 2 wrote as its source would have it.
    fn quoted(&self, line: &'p str) -> Result<Opcode<'p>, Fault> {
        let inner = ['\'', '"']
            .into_iter()
            .find_map(|quote| line.strip_prefix(quote)?.strip_suffix(quote))
            .ok_or_else(|| self.fault("a string has no quotes"))?;
        if inner.contains('\\') {
            return Err(self.fault("a string of protocol 0 has escapes, which are not read"));
        }
        Ok(Opcode::Push(Value::Text(inner)))
    }
}

/// Bytes that are text, if they are UTF-8: Python 2 has one type for both.
fn text(bytes: &[u8]) -> Value<'_> {
    std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
}

/// A little-endian integer of any length in two's complement.
fn long(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

/// The text of which `line` is the `raw-unicode-escape`; `None` if it has no escapes.
fn unescape(line: &str) -> Option<String> {
    if !line.contains("\\u") && !line.contains("\\U") {
        return None;
    }
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = match rest.as_bytes().get(1) {
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let escaped = rest
            .get(2..2 + digits)
            .filter(|_| digits > 0)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let used = if escaped.is_some() { 2 + digits } else { 1 };
        text.push(escaped.unwrap_or('\\'));
        rest = &rest[used..];
    }
    text.push_str(rest);
    Some(text)
}
