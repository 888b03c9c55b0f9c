//! A writer of GGUF files that gives a test every freedom that the format gives, and some that it does not.

use ckload_loaders::{ByteOrder, Dtype, MetadataValue};
use fastrand::Rng;

use super::{Content, KIB};

/// The types of tensors: number, type, elements and bytes of a block, as `ggml.h` and `ggml-common.h` of llama.cpp have them.
pub(crate) const GGML_TYPES: [(u32, Dtype, u64, u64); 35] = [
    (0, Dtype::F32, 1, 4),
    (1, Dtype::F16, 1, 2),
    (2, Dtype::Q4_0, 32, 18),
    (3, Dtype::Q4_1, 32, 20),
    (6, Dtype::Q5_0, 32, 22),
    (7, Dtype::Q5_1, 32, 24),
    (8, Dtype::Q8_0, 32, 34),
    (9, Dtype::Q8_1, 32, 36),
    (10, Dtype::Q2_K, 256, 84),
    (11, Dtype::Q3_K, 256, 110),
    (12, Dtype::Q4_K, 256, 144),
    (13, Dtype::Q5_K, 256, 176),
    (14, Dtype::Q6_K, 256, 210),
    (15, Dtype::Q8_K, 256, 292),
    (16, Dtype::IQ2_XXS, 256, 66),
    (17, Dtype::IQ2_XS, 256, 74),
    (18, Dtype::IQ3_XXS, 256, 98),
    (19, Dtype::IQ1_S, 256, 50),
    (20, Dtype::IQ4_NL, 32, 18),
    (21, Dtype::IQ3_S, 256, 110),
    (22, Dtype::IQ2_S, 256, 82),
    (23, Dtype::IQ4_XS, 256, 136),
    (24, Dtype::I8, 1, 1),
    (25, Dtype::I16, 1, 2),
    (26, Dtype::I32, 1, 4),
    (27, Dtype::I64, 1, 8),
    (28, Dtype::F64, 1, 8),
    (29, Dtype::IQ1_M, 256, 56),
    (30, Dtype::BF16, 1, 2),
    (34, Dtype::TQ1_0, 256, 54),
    (35, Dtype::TQ2_0, 256, 66),
    (39, Dtype::MXFP4, 32, 17),
    (40, Dtype::NVFP4, 64, 36),
    (41, Dtype::Q1_0, 128, 18),
    (42, Dtype::Q2_0, 64, 18),
];

/// A metadata value of any type of the format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Vec<u8>),
    /// The number of the elements' type, and the elements.
    Array(u32, Vec<Self>),
    U64(u64),
    I64(i64),
    F64(f64),
    /// A type's number, and whatever bytes.
    Raw(u32, Vec<u8>),
}

impl Value {
    pub(crate) fn string(text: &str) -> Self {
        Self::String(text.into())
    }

    pub(crate) fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
            Self::Raw(kind, _) => *kind,
        }
    }

    /// What a reader has to make of it.
    pub(crate) fn read(&self) -> MetadataValue {
        match self {
            Self::U8(value) => MetadataValue::Unsigned(u64::from(*value)),
            Self::I8(value) => MetadataValue::Signed(i64::from(*value)),
            Self::U16(value) => MetadataValue::Unsigned(u64::from(*value)),
            Self::I16(value) => MetadataValue::Signed(i64::from(*value)),
            Self::U32(value) => MetadataValue::Unsigned(u64::from(*value)),
            Self::I32(value) => MetadataValue::Signed(i64::from(*value)),
            Self::U64(value) => MetadataValue::Unsigned(*value),
            Self::I64(value) => MetadataValue::Signed(*value),
            Self::F32(value) => MetadataValue::F32(*value),
            Self::F64(value) => MetadataValue::F64(*value),
            Self::Bool(value) => MetadataValue::Bool(*value),
            Self::String(bytes) => {
                MetadataValue::String(String::from_utf8_lossy(bytes).into_owned())
            }
            Self::Array(_, values) => MetadataValue::Array(values.iter().map(Self::read).collect()),
            Self::Raw(..) => panic!("not a value that can be read"),
        }
    }
}

/// A tensor's description, right or wrong.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// Innermost first.
    pub(crate) dims: Vec<u64>,
    /// The number of the type.
    pub(crate) kind: u32,
    /// From the data's start.
    pub(crate) offset: u64,
}

/// One file, right or wrong.
#[derive(Clone, Debug)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) order: ByteOrder,
    /// If not the number of tensors.
    pub(crate) tensor_count: Option<u64>,
    /// If not the number of values.
    pub(crate) value_count: Option<u64>,
    pub(crate) values: Vec<(Vec<u8>, Value)>,
    pub(crate) entries: Vec<Entry>,
    /// Where tensors may start; in the file only if a value says so.
    pub(crate) alignment: u64,
    pub(crate) data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            version: 3,
            order: ByteOrder::Little,
            tensor_count: None,
            value_count: None,
            values: Vec::new(),
            entries: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }

    /// A file with these tensors, one behind the other.
    pub(crate) fn of(tensors: &[Content]) -> Self {
        tensors.iter().fold(Self::new(), Self::tensor)
    }

    /// The same with one more tensor, whose bytes begin at the next place.
    pub(crate) fn tensor(mut self, content: &Content) -> Self {
        let (kind, ..) = GGML_TYPES
            .into_iter()
            .find(|&(_, dtype, ..)| dtype == content.dtype)
            .expect("a type of the format");
        let offset = (self.data.len() as u64).next_multiple_of(self.alignment);
        self.data.resize(offset as usize, 0xEE);
        self.data.extend(&content.bytes);
        self.entries.push(Entry {
            name: content.name.clone().into_bytes(),
            dims: content.shape.iter().rev().copied().collect(),
            kind,
            offset,
        });
        self
    }

    pub(crate) fn value(mut self, key: &str, value: Value) -> Self {
        self.values.push((key.into(), value));
        self
    }

    /// The same as a part of a split model.
    pub(crate) fn part(self, number: u16, count: u16, tensors: i32) -> Self {
        self.value("split.no", Value::U16(number))
            .value("split.count", Value::U16(count))
            .value("split.tensors.count", Value::I32(tensors))
    }

    /// Everything before the padding and the data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = Out {
            order: self.order,
            bytes: b"GGUF".to_vec(),
        };
        out.u32(self.version);
        out.u64(self.tensor_count.unwrap_or(self.entries.len() as u64));
        out.u64(self.value_count.unwrap_or(self.values.len() as u64));
        for (key, value) in &self.values {
            out.string(key);
            out.u32(value.kind());
            out.value(value);
        }
        for entry in &self.entries {
            out.string(&entry.name);
            out.u32(entry.dims.len() as u32);
            entry.dims.iter().for_each(|&dim| out.u64(dim));
            out.u32(entry.kind);
            out.u64(entry.offset);
        }
        out.bytes
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        if !self.entries.is_empty() {
            let start = bytes.len().next_multiple_of(self.alignment as usize);
            bytes.resize(start, 0xEE);
        }
        bytes.extend(&self.data);
        bytes
    }
}

/// Bytes in one order.
struct Out {
    order: ByteOrder,
    bytes: Vec<u8>,
}

impl Out {
    fn number<const N: usize>(&mut self, mut little: [u8; N]) {
        if self.order == ByteOrder::Big {
            little.reverse();
        }
        self.bytes.extend(little);
    }

    fn u32(&mut self, value: u32) {
        self.number(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.number(value.to_le_bytes());
    }

    fn string(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::U8(value) => self.number(value.to_le_bytes()),
            Value::I8(value) => self.number(value.to_le_bytes()),
            Value::U16(value) => self.number(value.to_le_bytes()),
            Value::I16(value) => self.number(value.to_le_bytes()),
            Value::U32(value) => self.number(value.to_le_bytes()),
            Value::I32(value) => self.number(value.to_le_bytes()),
            Value::U64(value) => self.number(value.to_le_bytes()),
            Value::I64(value) => self.number(value.to_le_bytes()),
            Value::F32(value) => self.number(value.to_le_bytes()),
            Value::F64(value) => self.number(value.to_le_bytes()),
            Value::Bool(value) => self.bytes.push(u8::from(*value)),
            Value::String(bytes) => self.string(bytes),
            Value::Array(kind, values) => {
                self.u32(*kind);
                self.u64(values.len() as u64);
                values.iter().for_each(|value| self.value(value));
            }
            Value::Raw(_, bytes) => self.bytes.extend(bytes),
        }
    }
}

/// A file with all that the format allows, and its tensors in the order of their descriptions.
pub(crate) fn random_gguf(random: &mut Rng) -> (Gguf, Vec<Content>) {
    let mut gguf = Gguf::new();
    gguf.version = random.u32(2..=3);
    if random.bool() {
        gguf.order = ByteOrder::Big;
    }
    for number in 0..random.usize(0..6) {
        let value = random_value(random, 0);
        gguf = gguf.value(&format!("ß.key {number}"), value);
    }
    if random.bool() {
        let alignment = 1 << random.u32(0..14);
        gguf.alignment = u64::from(alignment);
        gguf = gguf.value("general.alignment", Value::U32(alignment));
    }
    let mut tensors: Vec<Content> = (0..random.usize(0..25))
        .map(|number| random_tensor(random, number))
        .collect();
    for content in &tensors {
        if random.u8(..8) == 0 {
            let gap = random.usize(..5 * KIB);
            gguf.data.extend(vec![0xEE; gap]);
        }
        gguf = gguf.tensor(content);
    }
    if random.bool() {
        gguf.data.extend(vec![0xEE; random.usize(..100)]);
    }
    if random.u8(..4) == 0 {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        random.shuffle(&mut order);
        gguf.entries = order.iter().map(|&at| gguf.entries[at].clone()).collect();
        tensors = order.iter().map(|&at| tensors[at].clone()).collect();
    }
    (gguf, tensors)
}

fn random_value(random: &mut Rng, depth: usize) -> Value {
    let kind = random.u32(0..13);
    random_value_of(random, kind, depth)
}

fn random_value_of(random: &mut Rng, kind: u32, depth: usize) -> Value {
    match kind {
        0 => Value::U8(random.u8(..)),
        1 => Value::I8(random.i8(..)),
        2 => Value::U16(random.u16(..)),
        3 => Value::I16(random.i16(..)),
        4 => Value::U32(random.u32(..)),
        5 => Value::I32(random.i32(..)),
        6 => Value::F32(random.f32()),
        7 => Value::Bool(random.bool()),
        8 => {
            let text = ["", "a", "▁der", "模型", "two\nlines", "\u{0}"];
            Value::string(random.choice(text).expect("not empty"))
        }
        9 => {
            let of = random.u32(0..if depth < 4 { 13 } else { 9 });
            let count = random.usize(0..4);
            let values = (0..count).map(|_| random_value_of(random, of, depth + 1));
            Value::Array(of, values.collect())
        }
        10 => Value::U64(random.u64(..)),
        11 => Value::I64(random.i64(..)),
        _ => Value::F64(random.f64()),
    }
}

fn random_tensor(random: &mut Rng, number: usize) -> Content {
    let (_, dtype, elements, bytes) = random.choice(GGML_TYPES).expect("not empty");
    let rank = random.usize(usize::from(elements > 1)..=4);
    let mut shape: Vec<u64> = (0..rank).map(|_| random.u64(1..4)).collect();
    if let Some(row) = shape.last_mut() {
        let most = random.choice([3, 300]).expect("not empty");
        *row = elements * random.u64(1..=most);
    }
    if rank > 0 && random.u8(..8) == 0 {
        shape[random.usize(..rank)] = 0;
    }
    let blocks = shape.iter().product::<u64>() / elements;
    let mut content = vec![0; (blocks * bytes) as usize];
    random.fill(&mut content);
    Content {
        name: format!("blk.{number}.ffn_ß"),
        dtype,
        shape,
        bytes: content,
    }
}
