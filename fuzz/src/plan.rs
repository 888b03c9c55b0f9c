//! The target whose input is a description of tensors: they are written to a file, which is planned, and loaded if it is small.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use ckload_loaders::{ByteSize, Checkpoint, Dtype, Loader};
use ckload_pool::BufferPool;

use crate::checks::{LOADER, check_loads};
use crate::file::MemoryFile;
use crate::places::{check_places, in_place};
use crate::slices::check_slices;

/// A plan has about so many reads at most.
const MOST_READS: u64 = 1000;

/// Smaller files have content, and are loaded as well.
const MOST_CONTENT_BYTES: u64 = 64 << 10;

/// Files are no larger, in bytes; more than any that there are, and little enough to be counted by the system.
const MOST_BYTES: u64 = 1 << 46;

/// Tensors are divided between so many ranks at most.
const MOST_RANKS: u8 = 8;

/// GGUF's alignment if a file says nothing.
const ALIGNMENT: u64 = 32;

/// Some of GGUF's types, with their numbers: blocks that are aligned in each way, and of many sizes.
const GGML_TYPES: [(u32, Dtype); 10] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (8, Dtype::Q8_0),
    (12, Dtype::Q4_K),
    (14, Dtype::Q6_K),
    (24, Dtype::I8),
    (28, Dtype::F64),
    (30, Dtype::BF16),
    (39, Dtype::MXFP4),
];

/// Keeps so few buffers that blocks have to be large.
static FRUGAL: LazyLock<Loader> = LazyLock::new(|| {
    let pool = BufferPool::builder().num_shards(1).max_buffers_per_shard(2);
    LOADER.clone().pool(&pool.build())
});

/// Tensors, and how they are to be planned.
#[derive(Arbitrary, Debug)]
pub struct Planned {
    container: Container,
    tensors: Vec<Described>,
    read_bytes: u32,
    is_frugal: bool,
    /// How tensors are divided, those that can be.
    dim: u8,
    world_size: u8,
}

/// The format of the file that has the tensors.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Container {
    /// Its header is longer by so many bytes than it has to be, so that data may start anywhere.
    Safetensors(u8),
    Gguf,
}

#[derive(Arbitrary, Debug)]
struct Described {
    dtype: u8,
    /// All dimensions but the last.
    outer: Outer,
    /// The blocks of the last dimension.
    blocks: Blocks,
    /// GGUF only: so many times the alignment lie between this tensor and the one before.
    gap: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Outer {
    None,
    One(u8),
    Two(u8, u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Blocks {
    Few(u8),
    Some(u16),
    Many(u32),
}

impl Described {
    fn shape(&self, dtype: Dtype) -> Vec<u64> {
        let mut shape = match self.outer {
            Outer::None => vec![],
            Outer::One(rows) => vec![u64::from(rows)],
            Outer::Two(planes, rows) => vec![u64::from(planes), u64::from(rows)],
        };
        let blocks = match self.blocks {
            Blocks::Few(blocks) => u64::from(blocks),
            Blocks::Some(blocks) => u64::from(blocks),
            Blocks::Many(blocks) => u64::from(blocks),
        };
        shape.push(blocks * dtype.block().elements);
        shape
    }
}

/// A file's header, and how long the file is.
struct Written {
    header: Vec<u8>,
    len: u64,
}

fn bytes_of(dtype: Dtype, shape: &[u64]) -> u64 {
    shape.iter().product::<u64>() / dtype.block().elements * dtype.block().bytes
}

impl Planned {
    fn write(&self) -> Written {
        match self.container {
            Container::Safetensors(padding) => self.write_safetensors(padding),
            Container::Gguf => self.write_gguf(),
        }
    }

    fn write_safetensors(&self, padding: u8) -> Written {
        let held = |dtype: &Dtype| dtype.to_safetensors().is_some();
        let dtypes: Vec<Dtype> = Dtype::ALL.into_iter().filter(held).collect();
        let mut end = 0;
        let mut entries = Vec::new();
        for (number, tensor) in self.tensors.iter().enumerate() {
            let dtype = dtypes[usize::from(tensor.dtype) % dtypes.len()];
            let shape = tensor.shape(dtype);
            let start = end;
            end += bytes_of(dtype, &shape);
            entries.push(format!(
                r#""{number}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
            ));
        }
        let padding = " ".repeat(padding.into());
        let json = format!("{{{}}}{padding}", entries.join(","));
        let header = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
        Written {
            len: header.len() as u64 + end,
            header,
        }
    }

    fn write_gguf(&self) -> Written {
        let mut header = b"GGUF\x03\0\0\0".to_vec();
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend(0u64.to_le_bytes());
        let mut end = 0u64;
        for (number, tensor) in self.tensors.iter().enumerate() {
            let (kind, dtype) = GGML_TYPES[usize::from(tensor.dtype) % GGML_TYPES.len()];
            let shape = tensor.shape(dtype);
            let name = number.to_string();
            let offset = end.next_multiple_of(ALIGNMENT) + u64::from(tensor.gap) * ALIGNMENT;
            end = offset + bytes_of(dtype, &shape);
            header.extend((name.len() as u64).to_le_bytes());
            header.extend(name.as_bytes());
            header.extend((shape.len() as u32).to_le_bytes());
            for dim in shape.iter().rev() {
                header.extend(dim.to_le_bytes());
            }
            header.extend(kind.to_le_bytes());
            header.extend(offset.to_le_bytes());
        }
        Written {
            len: (header.len() as u64).next_multiple_of(ALIGNMENT) + end,
            header,
        }
    }
}

/// Plans tensors of a file that holds them.
pub fn plan(planned: &Planned) {
    let Written { header, len } = planned.write();
    if len > MOST_BYTES {
        return;
    }
    let mut content = header;
    let has_content = len <= MOST_CONTENT_BYTES;
    if has_content {
        // No two stretches of the file are alike.
        content.extend((content.len() as u64..len).map(|at| (at ^ ((at >> 8) * 31)) as u8));
    }
    let file = MemoryFile::new(&content, len);
    let checkpoint = Checkpoint::open(file.path()).expect("the file is valid");
    assert_eq!(checkpoint.tensors().len(), planned.tensors.len());
    let loader = if planned.is_frugal {
        &*FRUGAL
    } else {
        &*LOADER
    };
    let read_bytes = u64::from(planned.read_bytes).max(len / MOST_READS);
    let loader = loader.clone().read_size(ByteSize::b(read_bytes));
    check_places(&checkpoint, &loader.plan(&checkpoint), in_place);
    let model = if has_content {
        check_loads(&checkpoint, &loader, &content)
    } else {
        None
    };
    let (dim, world_size) = (planned.dim % 3, 1 + planned.world_size % MOST_RANKS);
    check_slices(
        &checkpoint,
        &loader,
        model.as_ref(),
        dim.into(),
        world_size.into(),
    );
}
