//! From the values of a pickle to tensors and their names.
//!
//! A name is the path to the tensor, joined by dots: keys of dictionaries, places in lists, attributes of objects. A module that was saved
//! whole gives the names of its `state_dict`. A tensor that is reached on two paths has two names; one that was saved alone is called
//! [`ALONE`].

use std::collections::HashMap;

use super::calls::Call;
use super::storage::{Elements, FLOAT4_PAIR, StorageRef, count_of, dtype_of};
use crate::format::input::Input;
use crate::format::pickle::{Node, NodeId, Object, Pickle, Value};
use crate::format::safetensors::MAX_HEADER_BYTES;
use crate::format::view::View;
use crate::stored::{ByteOrder, Storage, Stored};
use crate::{Dtype, Error, TensorInfo};

/// The name of a tensor that was saved by itself.
const ALONE: &str = "tensor";

/// How deep containers may be nested. (Python's pickler itself recurses, a thousand calls at most.)
const MAX_DEPTH: usize = 256;

/// How many values are looked at, one that is reached on several paths once for each.
const MAX_STEPS: u64 = 64 << 20;

/// So many bytes of a name count as a value.
const BYTES_OF_STEP: usize = 64;

/// How many names tensors may have.
const MAX_NAMES: usize = 1 << 20;

/// Tensors may share bytes and repeat them: together they may be so many times as large as what is stored, …
const MOST_REPEATS: u64 = 16;

/// … and so many bytes more.
const FREE_REPEATED_BYTES: u64 = 1 << 30;

/// What keeps a module's tensors, and its modules, among the attributes of a `torch.nn.Module`; the names do not show it.
const MODULE_PARTS: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// Finds the tensors in a pickle, in the order of their bytes. `storages` are those of the file, by their keys.
pub(super) fn find(
    input: &Input<'_>,
    pickle: &Pickle<'_>,
    storages: &HashMap<String, Storage>,
    byte_order: ByteOrder,
) -> Result<Vec<TensorInfo>, Error> {
    let stored: u64 = storages.values().map(Storage::bytes).sum();
    let mut finder = Finder {
        input,
        pickle,
        storages,
        byte_order,
        path: String::new(),
        depth: 0,
        within: vec![false; pickle.nodes().len()],
        barren: vec![false; pickle.nodes().len()],
        found: Vec::new(),
        steps: 0,
        name_bytes: 0,
        left: stored
            .saturating_mul(MOST_REPEATS)
            .saturating_add(FREE_REPEATED_BYTES),
    };
    finder.visit(pickle.root())?;
    let mut tensors = finder.found;
    let mut names: Vec<&str> = tensors.iter().map(|info| info.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let place = format!("tensor {:?}", pair[0]);
        return Err(input.unsupported(place, "two tensors have this name, joined by dots"));
    }
    tensors.sort_by_key(|info| info.offset);
    Ok(tensors)
}

/// Why a tensor's description gives no view.
enum Fault {
    /// It breaks a rule.
    Broken(String),
    /// It is of a kind that cannot be loaded.
    Unsupported(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Broken(reason.to_owned())
    }
}

struct Finder<'a, 'p> {
    input: &'a Input<'a>,
    pickle: &'a Pickle<'p>,
    storages: &'a HashMap<String, Storage>,
    byte_order: ByteOrder,
    /// Where in the pickle it is.
    path: String,
    depth: usize,
    /// For each node, whether the path leads through it.
    within: Vec<bool>,
    /// For each node, whether it was seen to hold no tensor.
    barren: Vec<bool>,
    found: Vec<TensorInfo>,
    steps: u64,
    name_bytes: u64,
    /// How many bytes further tensors may have.
    left: u64,
}

impl<'p> Finder<'_, 'p> {
    /// Finds the tensors in a value.
    fn visit(&mut self, value: Value<'p>) -> Result<(), Error> {
        let Value::Node(id) = value else {
            return Ok(());
        };
        // What holds itself has been named on the way here.
        if self.barren[id.index()] || self.within[id.index()] {
            return Ok(());
        }
        if self.depth == MAX_DEPTH {
            return Err(self.broken(format!("values are nested more than {MAX_DEPTH} deep")));
        }
        let before = self.found.len();
        self.depth += 1;
        self.within[id.index()] = true;
        self.visit_node(id)?;
        self.within[id.index()] = false;
        self.depth -= 1;
        self.barren[id.index()] = self.found.len() == before;
        Ok(())
    }

    fn visit_node(&mut self, id: NodeId) -> Result<(), Error> {
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::Tuple(parts) => self.visit_parts(parts),
            Node::List(parts) | Node::Set(parts) => self.visit_parts(parts),
            Node::Dict(items) => self.visit_items(items),
            Node::Text(_) | Node::Global { .. } => Ok(()),
            &Node::Persistent(id) => self.visit_storage(id),
            Node::Object(object) => {
                self.visit_call(object.callable, object.arguments)?;
                self.visit_content(object)
            }
        }
    }

    fn visit_parts(&mut self, parts: &[Value<'p>]) -> Result<(), Error> {
        self.count(parts.len())?;
        for (number, &part) in parts.iter().enumerate() {
            if let Value::Node(_) = part {
                self.visit_under(&number.to_string(), part)?;
            }
        }
        Ok(())
    }

    fn visit_items(&mut self, items: &[(Value<'p>, Value<'p>)]) -> Result<(), Error> {
        self.count(items.len())?;
        for &(key, value) in items {
            if let Value::Node(_) = value {
                self.visit_item(key, value)?;
            }
        }
        Ok(())
    }

    fn visit_item(&mut self, key: Value<'p>, value: Value<'p>) -> Result<(), Error> {
        let pickle = self.pickle;
        if let Some(key) = pickle.text(key) {
            return self.visit_under(key, value);
        }
        if let Value::Int(key) = key {
            return self.visit_under(&key.to_string(), value);
        }
        let before = self.found.len();
        self.visit_under("?", value)?;
        match self.found.get(before) {
            None => Ok(()),
            Some(info) => Err(self.input.unsupported(
                format!("tensor {:?}", info.name),
                "the key at the place of the question mark is neither text nor a whole number",
            )),
        }
    }

    fn visit_under(&mut self, part: &str, value: Value<'p>) -> Result<(), Error> {
        // A key may be as long as the pickle, and stand at a million places.
        self.count(part.len() / BYTES_OF_STEP)?;
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(part);
        if self.path.len() as u64 > MAX_HEADER_BYTES {
            return Err(self.too_many_names());
        }
        self.visit(value)?;
        self.path.truncate(before);
        Ok(())
    }

    /// Finds the tensors in what a call makes.
    fn visit_call(&mut self, callable: Value<'p>, arguments: Value<'p>) -> Result<(), Error> {
        let pickle = self.pickle;
        let given = pickle.sequence(arguments).unwrap_or_default();
        match Call::of(pickle, callable) {
            Call::Tensor { dtype, metadata } => {
                let view = self.view(given, dtype, metadata);
                let view = view.map_err(|fault| match fault {
                    Fault::Broken(reason) => self.refused(reason),
                    Fault::Unsupported(reason) => self.unsupported(reason),
                })?;
                self.add(view)
            }
            Call::First => given.first().map_or(Ok(()), |&first| self.visit(first)),
            Call::Another => match given {
                // Through the depth's count: such calls can be nested.
                &[function, _, arguments, ..] => self.visit_nested_call(function, arguments),
                _ => Err(self.refused("its description is too short")),
            },
            Call::Mapping => {
                for &argument in given {
                    self.visit_pairs(argument)?;
                }
                Ok(())
            }
            Call::Sequence => given.first().map_or(Ok(()), |&first| self.visit(first)),
            Call::Refused(reason) => Err(self.unsupported(reason)),
            Call::Unknown => {
                let before = self.found.len();
                self.visit(arguments)?;
                if self.found.len() == before {
                    return Ok(());
                }
                let reason = format!(
                    "it depends on {}, which is not known here and never called",
                    self.named(callable)
                );
                Err(self.unsupported(reason))
            }
        }
    }

    fn visit_nested_call(
        &mut self,
        callable: Value<'p>,
        arguments: Value<'p>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(self.broken(format!("values are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        self.visit_call(callable, arguments)?;
        self.depth -= 1;
        Ok(())
    }

    /// Finds the tensors in what a dictionary is made from: another, or (Python 2) a list of pairs.
    fn visit_pairs(&mut self, argument: Value<'p>) -> Result<(), Error> {
        let pickle = self.pickle;
        let Some(pairs) = pickle.sequence(argument) else {
            return self.visit(argument);
        };
        self.count(pairs.len())?;
        for &pair in pairs {
            match pickle.sequence(pair) {
                Some(&[key, value]) => self.visit_item(key, value)?,
                _ => return Err(self.broken("a dictionary is made from what are no pairs")),
            }
        }
        Ok(())
    }

    /// Finds the tensors in what an object is given after it is made.
    fn visit_content(&mut self, object: &Object<'p>) -> Result<(), Error> {
        let pickle = self.pickle;
        self.visit_parts(&object.elements)?;
        self.visit_items(&object.items)?;
        match Call::of(pickle, object.callable) {
            // What is set on a tensor or on a dictionary (`_metadata`) has no tensors that `torch.load` would count as its own.
            Call::Tensor { .. } | Call::First | Call::Another | Call::Mapping => return Ok(()),
            Call::Sequence | Call::Refused(_) | Call::Unknown => {}
        }
        let Some(attributes) = pickle.dict(object.state) else {
            return match pickle.sequence(object.state) {
                // An object with `__slots__`: its dictionary, and its slots.
                Some(&[attributes, slots]) if pickle.dict(slots).is_some() => {
                    self.visit(attributes)?;
                    self.visit(slots)
                }
                _ => self.visit(object.state),
            };
        };
        self.count(attributes.len())?;
        let part = |name: &str| {
            let mut of_name = attributes.iter();
            of_name.find(|(key, _)| pickle.text(*key) == Some(name))
        };
        match MODULE_PARTS.map(part) {
            [Some(parameters), Some(buffers), Some(modules)] => [parameters, buffers, modules]
                .into_iter()
                .try_for_each(|&(_, part)| self.visit(part)),
            _ => self.visit(object.state),
        }
    }

    /// A storage that was saved by itself is its elements in a row.
    fn visit_storage(&mut self, id: Value<'p>) -> Result<(), Error> {
        let pickle = self.pickle;
        let parsed = StorageRef::parse(pickle, id).map_err(|reason| self.refused(reason))?;
        let Some(storage) = parsed else {
            return Ok(());
        };
        let (_, count) = storage.part.unwrap_or((0, storage.count));
        let dtype = match storage.elements {
            Elements::Typed(dtype) => dtype,
            Elements::Untyped => Dtype::U8,
        };
        let view = self
            .place(&storage, dtype, 0, vec![count], vec![1])
            .map_err(|reason| self.refused(reason))?;
        self.add((view, false))
    }

    /// The view that is described by `given`, and whether its elements are pairs of 4-bit floats.
    fn view(
        &self,
        given: &[Value<'p>],
        dtype: Option<usize>,
        metadata: usize,
    ) -> Result<(View, bool), Fault> {
        let pickle = self.pickle;
        let &[storage, first, shape, strides, ..] = given else {
            return Err("its description is too short".into());
        };
        let id = match storage {
            Value::Node(id) => match *pickle.node(id) {
                Node::Persistent(id) => Some(id),
                _ => None,
            },
            _ => None,
        };
        let storage = id.map(|id| StorageRef::parse(pickle, id)).transpose()?;
        let storage = storage.flatten().ok_or("it has no storage")?;
        let lazy = given.get(metadata).and_then(|&value| pickle.dict(value));
        if lazy.is_some_and(|bits| bits.iter().any(|&(_, set)| set == Value::Bool(true))) {
            let reason = "its elements have yet to be conjugated or negated";
            return Err(Fault::Unsupported(reason.to_owned()));
        }
        let name = match dtype {
            None => None,
            Some(at) => {
                let global = given.get(at).and_then(|&dtype| pickle.global(dtype));
                match global {
                    Some(("torch", name)) => Some(name),
                    _ => return Err("its dtype is not described".into()),
                }
            }
        };
        let pairs = name == Some(FLOAT4_PAIR);
        let dtype = match (name, storage.elements) {
            (Some(FLOAT4_PAIR), _) => Dtype::U8,
            (Some(name), _) => dtype_of(name).ok_or_else(|| {
                Fault::Unsupported(format!("its dtype torch.{name} is not supported"))
            })?,
            (None, Elements::Typed(dtype)) => dtype,
            (None, Elements::Untyped) => return Err("its dtype is not described".into()),
        };
        let first = count_of(first).ok_or("its offset is no count")?;
        let shape = self.counts(shape).ok_or("its shape has what is no count")?;
        let strides = self
            .counts(strides)
            .ok_or("its strides have what is no count")?;
        let view = self.place(&storage, dtype, first, shape, strides)?;
        Ok((view, pairs))
    }

    /// The numbers of a tuple, or of a `torch.Size` of one.
    fn counts(&self, value: Value<'p>) -> Option<Vec<u64>> {
        let pickle = self.pickle;
        let numbers = match pickle.object(value) {
            Some(size) if pickle.global(size.callable) == Some(("torch", "Size")) => {
                *pickle.sequence(size.arguments)?.first()?
            }
            _ => value,
        };
        let numbers = pickle.sequence(numbers)?;
        numbers.iter().map(|&number| count_of(number)).collect()
    }

    /// Where a view lies in the file.
    fn place(
        &self,
        storage: &StorageRef<'_>,
        dtype: Dtype,
        first: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
    ) -> Result<View, String> {
        let key = storage.key;
        let kept = self.storages.get(key);
        let kept = kept.ok_or_else(|| format!("the file lacks its storage {key:?}"))?;
        let element = storage.elements.bytes();
        let beyond = |what: &str| {
            format!(
                "{what} of its storage {key:?} are beyond its {} bytes",
                kept.bytes()
            )
        };
        let within = |first: u64, count: u64| {
            let end = first.checked_add(count)?.checked_mul(element)?;
            (end <= kept.bytes()).then(|| first * element)
        };
        within(0, storage.count)
            .ok_or_else(|| beyond(&format!("the {} elements", storage.count)))?;
        let start = match storage.part {
            None => 0,
            Some((first, count)) => {
                within(first, count).ok_or_else(|| beyond("a part's elements"))?
            }
        };
        let start = first
            .checked_mul(dtype.block().bytes)
            .and_then(|first| first.checked_add(start))
            .ok_or("its offset overflows")?;
        Ok(View {
            dtype,
            shape,
            strides,
            start,
            storage: kept.clone(),
        })
    }

    /// Adds the tensor that the path leads to.
    fn add(&mut self, (view, pairs): (View, bool)) -> Result<(), Error> {
        let name = self.name().to_owned();
        self.name_bytes += name.len() as u64;
        let info = view.into_info(name, self.byte_order);
        let mut info = info.map_err(|reason| self.refused(reason))?;
        if pairs {
            halve(&mut info).map_err(|reason| self.unsupported(reason))?;
        }
        if self.found.len() == MAX_NAMES || self.name_bytes > MAX_HEADER_BYTES {
            return Err(self.too_many_names());
        }
        let left = self.left.checked_sub(info.bytes);
        self.left = left.ok_or_else(|| {
            self.refused("tensors share or repeat their elements so much that they would take many times the file's size")
        })?;
        self.found.push(info);
        Ok(())
    }

    /// Counts values that are looked at.
    fn count(&mut self, values: usize) -> Result<(), Error> {
        self.steps += values as u64;
        if self.steps > MAX_STEPS {
            return Err(self.broken("the same values are reached on too many paths"));
        }
        Ok(())
    }

    /// How an error names what would be called.
    fn named(&self, callable: Value<'p>) -> String {
        let class = match callable {
            Value::Node(id) => match *self.pickle.node(id) {
                // A module's class, in files of torch before 1.6: what it is, its class, its source.
                Node::Persistent(id) => self.pickle.sequence(id).and_then(|id| id.get(1).copied()),
                _ => None,
            },
            _ => None,
        };
        match self.pickle.global(class.unwrap_or(callable)) {
            Some((module, name)) => format!("{module}.{name}"),
            None => "the result of another call".to_owned(),
        }
    }

    fn refused(&self, reason: impl Into<String>) -> Error {
        self.input
            .malformed(format!("tensor {:?}", self.name()), reason)
    }

    fn unsupported(&self, reason: impl Into<String>) -> Error {
        self.input
            .unsupported(format!("tensor {:?}", self.name()), reason)
    }

    fn name(&self) -> &str {
        match self.path.as_str() {
            "" => ALONE,
            path => path,
        }
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        self.input.malformed("the pickle", reason)
    }

    fn too_many_names(&self) -> Error {
        self.broken(format!(
            "its tensors have more than {MAX_NAMES} names, or names of more than {MAX_HEADER_BYTES} bytes"
        ))
    }
}

/// Makes single 4-bit floats of pairs.
fn halve(info: &mut TensorInfo) -> Result<(), &'static str> {
    if info.stored != Stored::InPlace {
        return Err(
            "pairs of 4-bit floats are supported only where they lie one behind the other, not compressed",
        );
    }
    let last = info.shape.last_mut();
    let last = last.ok_or("a pair of 4-bit floats has no dimension")?;
    *last = last.checked_mul(2).ok_or("its shape overflows")?;
    info.dtype = Dtype::F4;
    Ok(())
}
