//! Tensors one by one, or piece by piece, within a budget.

mod chunks;
mod feed;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytesize::ByteSize;
use parking_lot::Mutex;

pub(crate) use self::chunks::chunk_bytes;
pub use self::chunks::{Chunk, Chunks};
pub(crate) use self::feed::Setting;
use self::feed::{Consumer, Crew, Feed, Permit, Work};
use crate::{Error, Loader, Report, Tensor, TensorInfo};

/// Neighbouring tensors up to this many bytes together are one job, so that small ones share a read.
const BATCH_BYTES: u64 = 4 << 20;

/// The tensors of a checkpoint, holding no more than a budget; see [`Loader::stream`].
///
/// They come in the order in which they arrive, or in that of the file if [`in_order`](Self::in_order) was asked for. An error ends
/// the stream. Dropping it ends the load: reads that have begun are finished, no others begin.
///
/// Several threads may take tensors from one stream, each through a reference: every tensor goes to one of them. For whom nothing has arrived
/// reads meanwhile, as long as the page cache has what is read: what it reads is still in its core's cache when it gets it.
///
/// ```no_run
/// # fn main() -> Result<(), ckload_loaders::Error> {
/// # use ckload_loaders::{Checkpoint, Loader};
/// let stream = Loader::new().stream(&Checkpoint::open("model.safetensors")?)?;
/// std::thread::scope(|scope| {
///     for _ in 0..2 {
///         scope.spawn(|| {
///             while let Some(tensor) = stream.receive() {
///                 println!("{}", tensor.expect("it loads").name());
///             }
///         });
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stream {
    consumer: Consumer<Batch>,
    /// For a stream that keeps an order.
    order: Option<Mutex<Order>>,
}

/// Tensors that are read together, as a range of the checkpoint's.
pub(crate) struct Batch {
    tensors: Range<usize>,
    charge: u64,
}

/// Puts what arrives into an order.
#[derive(Debug)]
struct Order {
    /// Each tensor's turn.
    turns: Vec<usize>,
    /// Whose turn it is.
    now: usize,
    /// What arrived before its turn, by turn.
    early: BTreeMap<usize, Tensor>,
}

impl Work for Batch {
    type Item = Tensor;

    fn charge(&self) -> u64 {
        self.charge
    }

    fn carry_out(self, feed: &Arc<Feed<Self>>, permit: Permit, crew: Crew) -> Result<(), Error> {
        let bytes = feed.read_tensors(self.tensors.clone(), permit, crew)?;
        let tensors: Vec<_> = self
            .tensors
            .zip(bytes)
            .map(|(index, bytes)| {
                let tensor = feed
                    .loader
                    .tensor(&feed.checkpoint, index, bytes, &feed.meter);
                feed.loaded(index);
                Ok(tensor)
            })
            .collect();
        feed.deliver_all(tensors);
        Ok(())
    }
}

impl Stream {
    /// A stream of the checkpoint's tensors in this order, of their numbers, or as they arrive if there is none.
    pub(crate) fn new(setting: Setting<'_>, order: Option<&[usize]>) -> Self {
        let tensors = setting.checkpoint.tensors();
        let threads = setting.files.policy().waiting_threads as u64;
        let batch_bytes = BATCH_BYTES.min(setting.budget.as_u64() / (2 * threads));
        let file_order: Vec<usize>;
        let sequence = match order {
            Some(order) => order,
            None => {
                file_order = (0..tensors.len()).collect();
                &file_order
            }
        };
        let work = batches(tensors, sequence, batch_bytes)
            .into_iter()
            .map(|range| Batch {
                charge: charge(setting.loader, &tensors[range.clone()]),
                tensors: range,
            })
            .collect();
        let items = tensors.len();
        Self {
            consumer: Consumer::start(setting, work, items),
            order: order.map(|order| Mutex::new(Order::new(order))),
        }
    }

    /// Gives the tensors in file order. They are still read in parallel and ahead; what arrives before its turn waits, within
    /// the budget.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        let count = self.consumer.checkpoint().tensors().len();
        let file_order: Vec<usize> = (0..count).collect();
        self.order
            .get_or_insert_with(|| Mutex::new(Order::new(&file_order)));
        self
    }

    /// Waits for the next tensor. `None` if there is none for this thread any more; others may still wait for theirs.
    ///
    /// Iterating does the same; this is for several threads.
    ///
    /// # Errors
    ///
    /// As [`Loader::stream`]; after an error nothing comes any more, to no thread.
    pub fn receive(&self) -> Option<Result<Tensor, Error>> {
        match &self.order {
            None => self.consumer.next(),
            Some(order) => order.lock().next(|| self.consumer.next()),
        }
    }

    /// The next tensor if it has arrived already; waits for nothing and reads nothing. `None` says nothing about what is to come.
    ///
    /// It is for those who pass tensors on by the handful: [`receive`](Self::receive) one, and take what else is there.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn try_receive(&self) -> Option<Result<Tensor, Error>> {
        match &self.order {
            None => self.consumer.try_next(),
            // Who holds the lock waits for the tensor whose turn it is.
            Some(order) => order.try_lock()?.next(|| self.consumer.try_next()),
        }
    }

    /// What the stream has done so far; final once it has ended.
    #[must_use]
    pub fn report(&self) -> Report {
        self.consumer.report()
    }

    /// The bytes that the stream may hold at once.
    #[must_use]
    pub fn budget(&self) -> ByteSize {
        self.consumer.budget()
    }
}

impl Order {
    fn new(order: &[usize]) -> Self {
        let mut turns = vec![0; order.len()];
        for (turn, &tensor) in order.iter().enumerate() {
            turns[tensor] = turn;
        }
        Self {
            turns,
            now: 0,
            early: BTreeMap::new(),
        }
    }

    /// The tensor whose turn it is, from those that `arrival` gives.
    fn next(
        &mut self,
        arrival: impl Fn() -> Option<Result<Tensor, Error>>,
    ) -> Option<Result<Tensor, Error>> {
        loop {
            if let Some(tensor) = self.early.remove(&self.now) {
                self.now += 1;
                return Some(Ok(tensor));
            }
            match arrival()? {
                Ok(tensor) => {
                    self.early.insert(self.turns[tensor.index()], tensor);
                }
                Err(error) => {
                    self.early.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Iterator for Stream {
    type Item = Result<Tensor, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receive()
    }
}

/// What tensors take of a budget together.
fn charge(loader: &Loader, tensors: &[TensorInfo]) -> u64 {
    tensors.iter().map(|info| loader.charge(info.bytes)).sum()
}

/// Groups tensors that follow one another both in `sequence` and in file order into batches of at most `batch_bytes`, as ranges of their
/// numbers; a larger tensor is alone in its batch.
fn batches(tensors: &[TensorInfo], sequence: &[usize], batch_bytes: u64) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for &tensor in sequence {
        let info = &tensors[tensor];
        match batches.last_mut() {
            Some(batch)
                if batch.end == tensor
                    && bytes + info.bytes <= batch_bytes
                    && batch.len() < crate::plan::MAX_PARTS =>
            {
                batch.end = tensor + 1;
                bytes += info.bytes;
            }
            _ => {
                batches.push(tensor..tensor + 1);
                bytes = info.bytes;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn batches_follow_the_order_and_keep_to_their_size() {
        let infos: Vec<TensorInfo> = [60, 40, 500, 1, 1]
            .into_iter()
            .map(|bytes| TensorInfo::in_place(String::new(), Dtype::U8, vec![bytes], bytes, 8))
            .collect();
        assert_eq!(batches(&infos, &[0, 1, 2, 3, 4], 100), [0..2, 2..3, 3..5]);
        assert_eq!(
            batches(&infos, &[3, 4, 1, 0, 2], 100),
            [3..5, 1..2, 0..1, 2..3]
        );
    }
}
