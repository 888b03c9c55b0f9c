//! Copies to a device that go on while others begin.

use candle_core::{Device, Result};

use super::error;
use crate::{Stream, Tensor};

/// So many bytes are copied before the copies are waited for: enough that waiting costs next to nothing.
const UNDER_WAY_BYTES: u64 = 64 << 20;

/// Waits until all that this thread has begun on `device` is done.
///
/// A copy from memory that the driver knows as pinned goes on when candle has returned, and candle gives each thread a stream of its own on
/// a CUDA device. So before that, the memory must not go back to its pool, nor another thread compute with the tensor.
pub(super) fn finish(device: &Device) -> Result<()> {
    if device.is_cuda() {
        device.synchronize()?;
    }
    Ok(())
}

/// Takes all tensors from `stream`: `copy` begins to copy one to `device`, `arrived` gets what it made when that is there.
pub(super) fn all<T>(
    stream: &Stream,
    device: &Device,
    copy: impl FnMut(&Tensor) -> Result<T>,
    arrived: impl FnMut(T),
) -> Result<()> {
    take_all(stream, || finish(device), copy, arrived)
}

fn take_all<T>(
    stream: &Stream,
    finish: impl Fn() -> Result<()>,
    mut copy: impl FnMut(&Tensor) -> Result<T>,
    mut arrived: impl FnMut(T),
) -> Result<()> {
    // What is held here is missing from the budget of those who read.
    let most = UNDER_WAY_BYTES.min(stream.budget().as_u64() / 4);
    let mut copies = Copies {
        finish,
        sources: Vec::new(),
        made: Vec::new(),
        bytes: 0,
    };
    loop {
        let ready = if copies.bytes < most {
            stream.try_receive()
        } else {
            None
        };
        if ready.is_none() {
            // The next one may need the memory of those.
            copies.end()?.for_each(&mut arrived);
        }
        let Some(tensor) = ready.or_else(|| stream.receive()) else {
            return Ok(());
        };
        copies.begin(tensor.map_err(error::wrap)?, &mut copy)?;
    }
}

/// Copies that are under way. Dropping them waits for their ends.
struct Copies<T, F: Fn() -> Result<()>> {
    finish: F,
    sources: Vec<Tensor>,
    made: Vec<T>,
    bytes: u64,
}

impl<T, F: Fn() -> Result<()>> Copies<T, F> {
    fn begin(&mut self, source: Tensor, copy: &mut impl FnMut(&Tensor) -> Result<T>) -> Result<()> {
        self.bytes += source.bytes().len() as u64;
        // Before it is copied, so that it stays also if that fails halfway.
        self.sources.push(source);
        if let Some(source) = self.sources.last() {
            self.made.push(copy(source)?);
        }
        Ok(())
    }

    /// What arrived; where it came from goes back.
    fn end(&mut self) -> Result<impl Iterator<Item = T>> {
        if !self.sources.is_empty() {
            (self.finish)()?;
            self.sources.clear();
            self.bytes = 0;
        }
        Ok(self.made.drain(..))
    }
}

impl<T, F: Fn() -> Result<()>> Drop for Copies<T, F> {
    fn drop(&mut self) {
        if !self.sources.is_empty() {
            // There is an error already.
            let _ = (self.finish)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use super::*;
    use crate::{BufferPool, ByteSize, Checkpoint, Loader};

    /// A device on which copies are done when they are waited for.
    #[derive(Default)]
    struct Lazy {
        under_way: RefCell<Vec<String>>,
        done: RefCell<Vec<String>>,
        finishes: Cell<usize>,
    }

    impl Lazy {
        fn copy(&self, tensor: &Tensor) -> Result<String> {
            let name = tensor.name().to_owned();
            self.under_way.borrow_mut().push(name.clone());
            Ok(name)
        }

        fn finish(&self) -> Result<()> {
            self.finishes.set(self.finishes.get() + 1);
            let ended = self.under_way.take();
            self.done.borrow_mut().extend(ended);
            Ok(())
        }
    }

    fn tiny() -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let model = crate::synth::Gpt2::TINY.blueprint();
        model.write_file(&path, 0).expect("a model");
        let checkpoint = Checkpoint::open(&path).expect("a model");
        (folder, checkpoint)
    }

    #[test]
    fn what_arrives_was_waited_for_within_any_budget() {
        let (_folder, checkpoint) = tiny();
        let count = checkpoint.tensors().len();
        let largest = checkpoint.tensors().iter().map(|info| info.bytes).max();
        let pool = BufferPool::builder().min_buffer_size(0).build();
        let tight = pool.capacity_for(largest.expect("tensors") as usize);
        for budget in [ByteSize::b(tight as u64), ByteSize::mib(256)] {
            let loader = Loader::new().pool(&pool).budget(budget).threads(2);
            let loader = loader.patience(Duration::from_secs(60));
            let stream = loader.stream(&checkpoint).expect("a stream");
            let (device, mut arrived) = (Lazy::default(), 0);
            let (copy, finish) = (|tensor: &Tensor| device.copy(tensor), || device.finish());
            take_all(&stream, finish, copy, |name| {
                assert!(device.done.borrow().contains(&name), "{name}");
                arrived += 1;
            })
            .expect("it loads");
            assert_eq!(arrived, count);
            assert!((1..=count).contains(&device.finishes.get()));
        }
    }

    #[test]
    fn copies_are_waited_for_when_one_fails() {
        let (_folder, checkpoint) = tiny();
        let stream = Loader::new().stream(&checkpoint).expect("a stream");
        let device = Lazy::default();
        let copy = |tensor: &Tensor| -> Result<()> {
            device.copy(tensor)?;
            candle_core::bail!("no room on the device")
        };
        let arrived = |()| panic!("nothing was made");
        take_all(&stream, || device.finish(), copy, arrived).expect_err("no room");
        assert_eq!(device.under_way.borrow().len(), 0);
        assert_eq!(device.done.borrow().len(), 1);
    }
}
