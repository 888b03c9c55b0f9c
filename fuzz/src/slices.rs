//! What must hold of the parts of tensors: the ranks' parts together are the whole, read from where the whole lies.

use ckload_loaders::{Arrangement, Checkpoint, Loader, Model, Select, Shard, TensorInfo};

use crate::checks::check_streams;
use crate::places::check_places;

/// Divides what can be divided along `dim` between `world_size` ranks. `model` is the whole, if it is to be loaded.
pub(crate) fn check_slices(
    whole: &Checkpoint,
    loader: &Loader,
    model: Option<&Model>,
    dim: usize,
    world_size: usize,
) {
    let divisible = whole.tensors().iter();
    let divisible = divisible.filter(|info| is_divisible(info, dim, world_size as u64));
    let names: Vec<&str> = divisible.map(|info| info.name.as_str()).collect();
    for rank in 0..world_size {
        let select = Select::names(names.iter().copied());
        let select = select.shard_rest(Shard::new(dim, rank, world_size));
        let select = select.expect("there is such a rank");
        let part = whole.select(&select).expect("what is left can be divided");
        assert_eq!(part.tensors().len(), names.len());
        let division = Division {
            dim,
            rank: rank as u64,
            world_size: world_size as u64,
        };
        check_places(&part, &loader.plan(&part), |info, at| {
            let whole = whole.tensor(&info.name).expect("it is a part of that");
            let (at, following) = division.source(whole, at);
            (whole.offset + at, following)
        });
        if let Some(model) = model {
            check_bytes(&part, loader, model, division);
        }
    }
}

fn check_bytes(part: &Checkpoint, loader: &Loader, model: &Model, division: Division) {
    let loaded = loader.load(part).expect("the whole loaded before");
    check_streams(part, loader, &loaded);
    for tensor in loaded.tensors() {
        let whole = model.tensor(tensor.name()).expect("it loaded before");
        let bytes = tensor.bytes();
        assert_eq!(bytes.len() as u64, whole.info().bytes / division.world_size);
        let mut at = 0;
        while at < bytes.len() {
            let (start, following) = division.source(whole.info(), at as u64);
            let len = (following as usize).min(bytes.len() - at);
            let expected = &whole.bytes()[start as usize..][..len];
            assert_eq!(bytes[at..][..len], *expected, "{tensor:?}, byte {at}");
            at += len;
        }
    }
}

/// Whether no part ends within an element, or within a block of them.
fn is_divisible(info: &TensorInfo, dim: usize, world_size: u64) -> bool {
    let Some(&size) = info.shape.get(dim) else {
        return false;
    };
    let block = info.dtype.block().elements;
    // Of what is packed and a view already the parts may start within a block all the same.
    (block == 1 || info.arrangement() == Arrangement::InPlace)
        && size.is_multiple_of(world_size)
        && (info.bytes == 0 || run(info, dim, size / world_size).is_multiple_of(block))
}

/// The elements that lie together of `len` steps along `dim`, of a tensor that has some.
fn run(info: &TensorInfo, dim: usize, len: u64) -> u64 {
    info.shape[dim + 1..].iter().product::<u64>() * len
}

/// One rank's share.
#[derive(Clone, Copy)]
struct Division {
    dim: usize,
    rank: u64,
    world_size: u64,
}

impl Division {
    /// Where in the whole byte `at` of the part is, and how many bytes follow there.
    fn source(self, whole: &TensorInfo, at: u64) -> (u64, u64) {
        let block = whole.dtype.block();
        let elements = run(whole, self.dim, whole.shape[self.dim] / self.world_size);
        let run = elements / block.elements * block.bytes;
        let (number, within) = (at / run, at % run);
        let start = (number * self.world_size + self.rank) * run;
        (start + within, run - within)
    }
}
