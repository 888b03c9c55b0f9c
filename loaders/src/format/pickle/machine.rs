//! The stack machine that a pickle is a program for.
//!
//! Every step takes constant time but for the values that it moves, each of which an earlier step has made. Memory is bounded: a pickle
//! of n bytes may take [`FREE_BYTES`] and [`BYTES_OF_ONE`] times n, and never more than [`MOST_BYTES`]. (What torch writes of a tensor is
//! about 150 bytes, and takes 1,100 here.)

use std::mem::size_of;

use super::opcodes::{Opcode, Opcodes};
use super::{Fault, Node, NodeId, Object, Pickle, Value};

/// Memory that a pickle of any size may take.
const FREE_BYTES: usize = 64 << 20;

/// Memory that a byte of a pickle may take, in bytes.
const BYTES_OF_ONE: usize = 32;

/// Memory that no pickle may go beyond, in bytes.
const MOST_BYTES: usize = 1 << 30;

/// How many containers may be under construction within each other. Python itself gives up at about a thousand.
const MAX_MARKS: usize = 10_000;

const VALUE_BYTES: usize = size_of::<Value<'_>>();

/// Runs the program that `bytes` begin with.
pub(super) fn run(bytes: &[u8]) -> Result<Pickle<'_>, Fault> {
    let mut machine = Machine {
        opcodes: Opcodes::new(bytes),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        nodes: Vec::new(),
        deepest: 0,
        left: bytes
            .len()
            .saturating_mul(BYTES_OF_ONE)
            .saturating_add(FREE_BYTES)
            .min(MOST_BYTES),
    };
    loop {
        match machine.opcodes.next()? {
            Opcode::Stop => break,
            opcode => machine.step(opcode)?,
        }
    }
    let root = machine.pop()?;
    if !machine.stack.is_empty() {
        return Err(machine.opcodes.fault("it ends with values left over"));
    }
    Ok(Pickle {
        nodes: machine.nodes,
        root,
    })
}

struct Machine<'p> {
    opcodes: Opcodes<'p>,
    stack: Vec<Value<'p>>,
    /// Heights of the stack where marks were set.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'p>>>,
    nodes: Vec<Node<'p>>,
    /// The most values that were on the stack.
    deepest: usize,
    /// Memory that the pickle may still take, in bytes.
    left: usize,
}

impl<'p> Machine<'p> {
    fn step(&mut self, opcode: Opcode<'p>) -> Result<(), Fault> {
        match opcode {
            Opcode::Nothing | Opcode::Stop => Ok(()),
            Opcode::Push(value) => self.push(value),
            Opcode::PushText(text) => {
                self.charge(text.len())?;
                self.push_node(Node::Text(text))
            }
            Opcode::PushGlobal { module, name } => self.push_node(Node::Global { module, name }),
            Opcode::StackGlobal => self.stack_global(),
            Opcode::PushPersistent(text) => self.push_node(Node::Persistent(Value::Text(text))),
            Opcode::BinPersistent => {
                let description = self.pop()?;
                self.push_node(Node::Persistent(description))
            }
            Opcode::Mark => self.mark(),
            Opcode::Pop => self.pop().map(drop),
            Opcode::PopMark => self.pop_marked().map(drop),
            Opcode::Dup => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)
            }
            Opcode::EmptyList => self.push_node(Node::List(Vec::new())),
            Opcode::EmptyDict => self.push_node(Node::Dict(Vec::new())),
            Opcode::EmptySet => self.push_node(Node::Set(Vec::new())),
            Opcode::Tuple(count) => {
                let mut parts = [Value::None; 3];
                for part in parts[..count].iter_mut().rev() {
                    *part = self.pop()?;
                }
                self.push_tuple(parts[..count].to_vec())
            }
            Opcode::MarkedTuple => {
                let parts = self.pop_marked()?;
                self.push_tuple(parts)
            }
            Opcode::MarkedList => {
                let parts = self.pop_marked()?;
                self.charge(parts.len() * VALUE_BYTES)?;
                self.push_node(Node::List(parts))
            }
            Opcode::MarkedDict => {
                let items = self.pop_marked_pairs()?;
                self.charge(items.len() * 2 * VALUE_BYTES)?;
                self.push_node(Node::Dict(items))
            }
            Opcode::MarkedFrozenSet => {
                let parts = self.pop_marked()?;
                self.charge(parts.len() * VALUE_BYTES)?;
                self.push_node(Node::Set(parts))
            }
            Opcode::Append => {
                let part = self.pop()?;
                self.extend(vec![part])
            }
            Opcode::Appends | Opcode::AddItems => {
                let parts = self.pop_marked()?;
                self.extend(parts)
            }
            Opcode::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])
            }
            Opcode::SetItems => {
                let items = self.pop_marked_pairs()?;
                self.set_items(items)
            }
            Opcode::Put(at) => self.put(at),
            Opcode::Memoize => self.put(self.memo.len()),
            Opcode::Get(at) => match self.memo.get(at) {
                Some(&Some(value)) => self.push(value),
                _ => Err(self
                    .opcodes
                    .fault(format!("nothing is in the memo at {at}"))),
            },
            Opcode::Reduce | Opcode::NewObject => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.push_object(callable, arguments)
            }
            Opcode::NewObjectWithNames => {
                let (named, unnamed, class) = (self.pop()?, self.pop()?, self.pop()?);
                let arguments = self.tuple(vec![unnamed, named])?;
                self.push_object(class, arguments)
            }
            Opcode::MarkedObject => {
                let mut parts = self.pop_marked()?;
                if parts.is_empty() {
                    return Err(self.opcodes.fault("an object has no class"));
                }
                let class = parts.remove(0);
                let arguments = self.tuple(parts)?;
                self.push_object(class, arguments)
            }
            Opcode::MarkedInstance { module, name } => {
                let parts = self.pop_marked()?;
                let arguments = self.tuple(parts)?;
                let class = self.allocate(Node::Global { module, name })?;
                self.push_object(class, arguments)
            }
            Opcode::Build => self.build(),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| {
            let reason = "its values take more memory than a pickle of its size may";
            self.opcodes.fault(reason)
        })?;
        Ok(())
    }

    fn push(&mut self, value: Value<'p>) -> Result<(), Fault> {
        self.stack.push(value);
        if self.stack.len() > self.deepest {
            self.deepest = self.stack.len();
            self.charge(2 * VALUE_BYTES)?; // a vector that grows doubles
        }
        Ok(())
    }

    fn allocate(&mut self, node: Node<'p>) -> Result<Value<'p>, Fault> {
        self.charge(2 * size_of::<Node<'_>>())?;
        let id = u32::try_from(self.nodes.len());
        let id = id.map_err(|_| self.opcodes.fault("it has too many values"))?;
        self.nodes.push(node);
        Ok(Value::Node(NodeId(id)))
    }

    fn push_node(&mut self, node: Node<'p>) -> Result<(), Fault> {
        let value = self.allocate(node)?;
        self.push(value)
    }

    fn tuple(&mut self, parts: Vec<Value<'p>>) -> Result<Value<'p>, Fault> {
        self.charge(parts.len() * VALUE_BYTES)?;
        self.allocate(Node::Tuple(parts.into_boxed_slice()))
    }

    fn push_tuple(&mut self, parts: Vec<Value<'p>>) -> Result<(), Fault> {
        let tuple = self.tuple(parts)?;
        self.push(tuple)
    }

    fn push_object(&mut self, callable: Value<'p>, arguments: Value<'p>) -> Result<(), Fault> {
        self.charge(size_of::<Object<'_>>())?;
        self.push_node(Node::Object(Box::new(Object {
            callable,
            arguments,
            state: Value::None,
            elements: Vec::new(),
            items: Vec::new(),
        })))
    }

    /// Takes the top of the stack, which a mark protects.
    fn pop(&mut self) -> Result<Value<'p>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.opcodes.fault("it takes a value that is not there"));
        }
        let top = self.stack.pop();
        top.ok_or_else(|| self.opcodes.fault("it takes a value that is not there"))
    }

    fn mark(&mut self) -> Result<(), Fault> {
        if self.marks.len() == MAX_MARKS {
            let reason = format!("its values are nested more than {MAX_MARKS} deep");
            return Err(self.opcodes.fault(reason));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes everything above the last mark, and the mark.
    fn pop_marked(&mut self) -> Result<Vec<Value<'p>>, Fault> {
        let mark = self.marks.pop();
        let mark =
            mark.ok_or_else(|| self.opcodes.fault("it goes back to a mark that is not set"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_marked_pairs(&mut self) -> Result<Vec<(Value<'p>, Value<'p>)>, Fault> {
        let parts = self.pop_marked()?;
        let (pairs, rest) = parts.as_chunks();
        if !rest.is_empty() {
            return Err(self.opcodes.fault("a key has no value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn top(&self) -> Option<NodeId> {
        match self.stack.last() {
            Some(&Value::Node(id)) => Some(id),
            _ => None,
        }
    }

    /// Appends to the list on top of the stack.
    fn extend(&mut self, parts: Vec<Value<'p>>) -> Result<(), Fault> {
        self.charge(parts.len() * 2 * VALUE_BYTES)?;
        let list = match self.top().map(|id| &mut self.nodes[id.index()]) {
            Some(Node::List(list) | Node::Set(list)) => list,
            Some(Node::Object(object)) => &mut object.elements,
            _ => return Err(self.opcodes.fault("it appends to what is no list")),
        };
        list.extend(parts);
        Ok(())
    }

    /// Adds to the dictionary on top of the stack.
    fn set_items(&mut self, added: Vec<(Value<'p>, Value<'p>)>) -> Result<(), Fault> {
        self.charge(added.len() * 4 * VALUE_BYTES)?;
        let items = match self.top().map(|id| &mut self.nodes[id.index()]) {
            Some(Node::Dict(items)) => items,
            Some(Node::Object(object)) => &mut object.items,
            _ => return Err(self.opcodes.fault("it sets items of what is no dictionary")),
        };
        items.extend(added);
        Ok(())
    }

    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        match self.top().map(|id| &mut self.nodes[id.index()]) {
            Some(Node::Object(object)) => object.state = state,
            _ => return Err(self.opcodes.fault("it restores the state of what has none")),
        }
        Ok(())
    }

    fn put(&mut self, at: usize) -> Result<(), Fault> {
        let top = self.pop()?;
        self.push(top)?;
        // Memos are numbered from 0, and each takes an opcode.
        if at > self.opcodes.at() {
            let reason = format!("the place {at} in the memo is beyond the pickle's size");
            return Err(self.opcodes.fault(reason));
        }
        if at >= self.memo.len() {
            self.charge((at + 1 - self.memo.len()) * 2 * VALUE_BYTES)?;
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(top);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), Fault> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => {
                self.push_node(Node::Global { module, name })
            }
            _ => Err(self.opcodes.fault("the name of a global is no text")),
        }
    }
}
