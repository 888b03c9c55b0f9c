//! What a pickle holds.

use super::{Fault, machine};

/// A value; what has parts, or is text that had to be decoded, is a [`Node`] of the [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::format) enum Value<'p> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, as the pickle has it: little-endian in two's complement, or as text in protocol 0.
    Long(&'p [u8]),
    Float(f64),
    Text(&'p str),
    Bytes(&'p [u8]),
    Node(NodeId),
}

/// Which of a pickle's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::format) struct NodeId(pub(super) u32);

impl NodeId {
    /// Its place among the nodes.
    pub(in crate::format) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value with parts. They may be shared by several values, and a value may be part of itself.
#[derive(Debug, PartialEq)]
pub(in crate::format) enum Node<'p> {
    Tuple(Box<[Value<'p>]>),
    List(Vec<Value<'p>>),
    Set(Vec<Value<'p>>),
    /// In the pickle's order; a key may occur more than once.
    Dict(Vec<(Value<'p>, Value<'p>)>),
    /// Text with escapes, decoded.
    Text(String),
    /// The name of something in a Python module.
    Global {
        module: &'p str,
        name: &'p str,
    },
    /// What the program that wrote the pickle keeps elsewhere, by its description.
    Persistent(Value<'p>),
    Object(Box<Object<'p>>),
}

/// What a call would give.
#[derive(Debug, PartialEq)]
pub(in crate::format) struct Object<'p> {
    /// What would be called: nearly always a global.
    pub(in crate::format) callable: Value<'p>,
    /// A tuple; of arguments with names, a tuple of the others' tuple and a dictionary.
    pub(in crate::format) arguments: Value<'p>,
    /// What it would be given to restore its state from.
    pub(in crate::format) state: Value<'p>,
    /// What would be appended to it.
    pub(in crate::format) elements: Vec<Value<'p>>,
    /// What would be stored in it under keys.
    pub(in crate::format) items: Vec<(Value<'p>, Value<'p>)>,
}

/// A pickle's values.
///
/// They lie in one list and name each other by number, so that neither a value in itself nor one within a million others is a trap for
/// whoever drops them.
#[derive(Debug)]
pub(in crate::format) struct Pickle<'p> {
    pub(super) nodes: Vec<Node<'p>>,
    pub(super) root: Value<'p>,
}

impl<'p> Pickle<'p> {
    /// Reads the pickle that `bytes` begin with; how far it goes tells [`extent`](super::extent).
    ///
    /// Memory is bounded by the size of `bytes`, see [`machine`].
    pub(in crate::format) fn read(bytes: &'p [u8]) -> Result<Self, Fault> {
        machine::run(bytes)
    }

    /// The value that was pickled.
    pub(in crate::format) fn root(&self) -> Value<'p> {
        self.root
    }

    /// Every node, in the order in which they were made.
    pub(in crate::format) fn nodes(&self) -> &[Node<'p>] {
        &self.nodes
    }

    pub(in crate::format) fn node(&self, id: NodeId) -> &Node<'p> {
        &self.nodes[id.index()]
    }

    fn node_of(&self, value: Value<'p>) -> Option<&Node<'p>> {
        match value {
            Value::Node(id) => Some(self.node(id)),
            _ => None,
        }
    }

    pub(in crate::format) fn text(&self, value: Value<'p>) -> Option<&str> {
        match (value, self.node_of(value)) {
            (Value::Text(text), _) => Some(text),
            (_, Some(Node::Text(text))) => Some(text),
            _ => None,
        }
    }

    /// The parts of a tuple or of a list.
    pub(in crate::format) fn sequence(&self, value: Value<'p>) -> Option<&[Value<'p>]> {
        match self.node_of(value)? {
            Node::Tuple(parts) => Some(parts),
            Node::List(parts) => Some(parts),
            _ => None,
        }
    }

    pub(in crate::format) fn dict(&self, value: Value<'p>) -> Option<&[(Value<'p>, Value<'p>)]> {
        match self.node_of(value)? {
            Node::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// Module and name of a global.
    pub(in crate::format) fn global(&self, value: Value<'p>) -> Option<(&'p str, &'p str)> {
        match self.node_of(value)? {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    pub(in crate::format) fn object(&self, value: Value<'p>) -> Option<&Object<'p>> {
        match self.node_of(value)? {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }
}
