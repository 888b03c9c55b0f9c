//! Python's pickles, read and never executed.
//!
//! A pickle is a program for a small stack machine. Here the machine builds values, and where the program calls a function or makes an
//! object of a class, it writes down which one and with what: nothing is looked up, imported or called, whatever its name.
//! Whoever reads the values decides which calls it knows.
//!
//! Source: `pickletools.py` of CPython, which documents each opcode of the protocols 0 to 5.

mod machine;
mod opcodes;
mod value;

use std::borrow::Cow;

pub(super) use self::value::{Node, NodeId, Object, Pickle, Value};

/// Why bytes are not a pickle that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// They end before the pickle does.
    Ended,
    /// They break a rule, or go beyond a limit.
    Broken {
        /// The opcode that does, in bytes from the pickle's start.
        at: usize,
        reason: Cow<'static, str>,
    },
}

impl Fault {
    fn new(at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Broken {
            at,
            reason: reason.into(),
        }
    }
}

/// The bytes of the pickle that `bytes` begin with: up to the opcode that ends it.
pub(super) fn extent(bytes: &[u8]) -> Result<usize, Fault> {
    let mut opcodes = opcodes::Opcodes::new(bytes);
    while opcodes.next()? != opcodes::Opcode::Stop {}
    Ok(opcodes.at())
}

/// Whether a file that begins so may be a pickle: they say their protocol first, from protocol 2 on.
pub(super) fn begins(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}
