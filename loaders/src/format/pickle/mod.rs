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

#[cfg(test)]
mod tests {
    use super::*;

    /// A value, as Python would write it; a call as the name of what would be called, its arguments, its state.
    fn shown(pickle: &Pickle<'_>, value: Value<'_>) -> String {
        let all = |values: &[Value<'_>]| {
            let values: Vec<String> = values.iter().map(|&value| shown(pickle, value)).collect();
            values.join(", ")
        };
        let pairs = |items: &[(Value<'_>, Value<'_>)]| {
            let items = items.iter();
            let items: Vec<String> = items
                .map(|&(key, value)| format!("{}: {}", shown(pickle, key), shown(pickle, value)))
                .collect();
            items.join(", ")
        };
        let Value::Node(id) = value else {
            return match value {
                Value::Text(text) => format!("{text:?}"),
                Value::Bytes(bytes) | Value::Long(bytes) => format!("{bytes:?}"),
                Value::Int(value) => value.to_string(),
                Value::Float(value) => value.to_string(),
                Value::Bool(value) => value.to_string(),
                _ => "none".to_owned(),
            };
        };
        match pickle.node(id) {
            Node::Tuple(parts) => format!("({})", all(parts)),
            Node::List(parts) => format!("[{}]", all(parts)),
            Node::Set(parts) => format!("{{{}}}", all(parts)),
            Node::Dict(items) => format!("{{{}}}", pairs(items)),
            Node::Text(text) => format!("{text:?}"),
            Node::Global { module, name } => format!("{module}.{name}"),
            Node::Persistent(id) => format!("<{}>", shown(pickle, *id)),
            Node::Object(object) => format!(
                "{}{} {} [{}] {{{}}}",
                shown(pickle, object.callable),
                shown(pickle, object.arguments),
                shown(pickle, object.state),
                all(&object.elements),
                pairs(&object.items)
            ),
        }
    }

    #[track_caller]
    fn check(cases: &[(&[u8], &str)]) {
        for &(bytes, expected) in cases {
            let pickle = Pickle::read(bytes)
                .unwrap_or_else(|fault| panic!("{}: {fault:?}", bytes.escape_ascii()));
            assert_eq!(shown(&pickle, pickle.root()), expected);
            assert_eq!(extent(&[bytes, &b"more"[..]].concat()), Ok(bytes.len()));
            // However short it is cut, that is noticed.
            for end in 0..bytes.len() {
                assert_eq!(extent(&bytes[..end]), Err(Fault::Ended));
            }
        }
    }

    #[test]
    fn scalars_of_every_protocol() {
        check(&[
            (b"N.", "none"),
            (b"I01\n.", "true"),
            (b"\x80\x02\x89.", "false"),
            (b"I-7\n.", "-7"),
            (b"L123L\n.", "123"),
            (b"K\xff.", "255"),
            (b"M\x01\x02.", "513"),
            (b"J\xfe\xff\xff\xff.", "-2"),
            (b"\x8a\x00.", "0"),
            (b"\x8a\x02\x00\xff.", "-256"),
            (b"\x8b\x01\0\0\0\x7f.", "127"),
            (
                b"\x8a\x09\0\0\0\0\0\0\0\0\x01.",
                "[0, 0, 0, 0, 0, 0, 0, 0, 1]",
            ),
            (b"F0.5\n.", "0.5"),
            (b"G\x3f\xe0\0\0\0\0\0\0.", "0.5"),
            (b"S'a b'\n.", "\"a b\""),
            (b"Va\\u00df\\U0001f980\\x\n.", "\"aß🦀\\\\x\""),
            (b"U\x02hi.", "\"hi\""),
            (b"U\x01\xff.", "[255]"),
            (b"T\x02\0\0\0hi.", "\"hi\""),
            (b"X\x02\0\0\0\xc3\x9f.", "\"ß\""),
            (b"\x8c\x02hi.", "\"hi\""),
            (b"\x8d\x02\0\0\0\0\0\0\0hi.", "\"hi\""),
            (b"C\x01\x07.", "[7]"),
            (b"B\x01\0\0\0\x07.", "[7]"),
            (b"\x8e\x01\0\0\0\0\0\0\0\x07.", "[7]"),
            (b"\x80\x05\x96\x01\0\0\0\0\0\0\0\x07.", "[7]"),
        ]);
    }

    #[test]
    fn containers_of_every_protocol() {
        check(&[
            (b"(I1\nI2\nt.", "(1, 2)"),
            (b").", "()"),
            (b"K\x01\x85.", "(1)"),
            (b"K\x01K\x02\x86.", "(1, 2)"),
            (b"K\x01K\x02K\x03\x87.", "(1, 2, 3)"),
            (b"(lp0\nI1\na.", "[1]"),
            (b"(K\x01K\x02l.", "[1, 2]"),
            (b"](K\x01K\x02e.", "[1, 2]"),
            (b"(dp0\nS'a'\nI1\ns.", "{\"a\": 1}"),
            (b"}(K\x01NK\x02Nu.", "{1: none, 2: none}"),
            (b"(K\x01Nd.", "{1: none}"),
            (b"\x80\x04\x8f(K\x01\x90.", "{1}"),
            (b"\x80\x04(K\x01\x91.", "{1}"),
            (b"]q\x00h\x00\x86.", "([], [])"),
            (b"]r\x00\0\0\0j\0\0\0\0\x86.", "([], [])"),
            (b"\x80\x04]\x94]\x94h\x00\x87.", "([], [], [])"),
            (b"]p0\ng0\n\x86.", "([], [])"),
            (b"K\x012\x86.", "(1, 1)"),
            (b"K\x01K\x020.", "1"),
            (b"K\x01(NN1.", "1"),
        ]);
    }

    #[test]
    fn calls_are_written_down() {
        check(&[
            (b"cos\nsystem\n.", "os.system"),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
            (b"cos\nsystem\n(S'ls'\ntR.", "os.system(\"ls\") none [] {}"),
            (b"ca\nB\n)\x81}b.", "a.B() {} [] {}"),
            (b"ca\nB\n)}\x92.", "a.B((), {}) none [] {}"),
            (b"(ca\nB\nK\x01o.", "a.B(1) none [] {}"),
            (b"(K\x01ia\nB\n.", "a.B(1) none [] {}"),
            (b"ca\nB\n)R(K\x01K\x02e.", "a.B() none [1, 2] {}"),
            (b"ca\nB\n)R(K\x01K\x02u.", "a.B() none [] {1: 2}"),
            (b"Pkey\n.", "<\"key\">"),
            (b"K\x01Q.", "<1>"),
        ]);
    }

    #[test]
    fn a_value_may_be_part_of_itself() {
        let pickle = Pickle::read(b"]q\x00h\x00a.").expect("valid");
        let root = pickle.root();
        assert_eq!(pickle.sequence(root), Some(&[root][..]));
    }
}
