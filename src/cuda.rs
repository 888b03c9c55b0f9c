//! Buffers that NVIDIA's driver knows as pinned, so that the GPU copies from them by itself.

#![allow(unsafe_code)] // the driver's functions are unsafe to call; those that are called are here

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::sync::Arc;

use cudarc::driver::result::{DriverError, ctx};
use cudarc::driver::{CudaContext, sys};
use libloading::Library;

use crate::pool::PinMemory;

/// Registers a pool's buffers with the CUDA driver (`cuMemHostRegister`), each once, when it is new.
///
/// The driver copies from memory that it does not know through a buffer of its own; from registered memory the GPU reads by itself, several times as
/// fast. Registering takes time, tens of milliseconds a gigabyte, once for each buffer: keep the pool. Registered memory is never swapped out.
///
/// **Such a copy is asynchronous**: who hands bytes to `cuMemcpyHtoDAsync`, `cudaMemcpyAsync` or cudarc's `clone_htod` must wait for the
/// stream before the tensor is dropped, since its buffer is filled with something else at once. What `ckload::candle` returns has arrived.
///
/// A process that forks while it copies should keep its memory to itself ([`dont_fork`](crate::pool::Builder::dont_fork)): drivers on older kernels
/// lose sight of pages that parent and child share. CUDA does not work in a forked child, where new buffers are not registered.
///
/// ```no_run
/// use ckload::cuda::HostRegister;
/// use ckload::{BufferPool, Checkpoint, Loader};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = BufferPool::builder().pin_with(HostRegister::new(0)?).build();
/// let loader = Loader::new().pool(&pool);
/// let checkpoint = Checkpoint::open("models/llama")?;
///
/// # #[cfg(feature = "candle")]
/// # {
/// // With candle:
/// let device = candle_core::Device::new_cuda(0)?;
/// let tensors = ckload::candle::load(&loader, &checkpoint, &device)?;
/// # let _ = tensors;
/// # }
///
/// // Or with copies of your own:
/// for tensor in loader.stream(&checkpoint)? {
///     let tensor = tensor?;
/// #   let copy_and_wait = |_: &[u8]| ();
///     copy_and_wait(tensor.bytes());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HostRegister {
    context: Arc<CudaContext>,
}

/// Why nothing can be registered with a GPU's driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver's library is not there.
    #[error(
        "there is no CUDA driver (libcuda) here; install NVIDIA's driver, and in a container pass it in (`--gpus all`, with the NVIDIA Container Toolkit)"
    )]
    NoDriver,
    /// The driver sees no GPU.
    #[error(
        "the CUDA driver sees no GPU; `nvidia-smi -L` lists those of the machine, and CUDA_VISIBLE_DEVICES hides all that it does not name"
    )]
    NoDevice,
    /// There are GPUs, but none with this number.
    #[error(
        "there is no GPU {ordinal}, but {count}, counted from 0; CUDA_VISIBLE_DEVICES hides those that it does not name"
    )]
    NoSuchDevice {
        /// The number that was asked for.
        ordinal: usize,
        /// How many GPUs the driver sees.
        count: usize,
    },
    /// The driver does not work, or refuses the GPU.
    #[error("the CUDA driver refuses: {source}; see whether `nvidia-smi` works")]
    Refused {
        /// What the driver said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HostRegister {
    /// For the GPU with this number, counted from 0 as CUDA does. Memory that it registers is pinned for the others as well.
    ///
    /// It keeps the GPU's primary context, which candle and the CUDA runtime use too.
    ///
    /// # Errors
    ///
    /// There is no driver, no GPU, or none with this number; the driver refuses.
    pub fn new(ordinal: usize) -> Result<Self, Error> {
        // Held until cudarc has the library, which panics where there is none.
        let _driver = driver().ok_or(Error::NoDriver)?;
        let count = match CudaContext::device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            Err(error) => return Err(refused(error)),
        };
        match count {
            0 => Err(Error::NoDevice),
            _ if ordinal >= count => Err(Error::NoSuchDevice { ordinal, count }),
            _ => Ok(Self {
                context: CudaContext::new(ordinal).map_err(refused)?,
            }),
        }
    }

    /// Does something with the driver in our context, and leaves the thread the one that it had: with the CUDA runtime it says which GPU is
    /// the current one.
    fn in_context(&self, call: impl FnOnce() -> sys::CUresult) -> Result<(), DriverError> {
        let before = ctx::get_current()?;
        self.context.bind_to_thread()?;
        let called = call().result();
        if let Some(before) = before
            && before != self.context.cu_ctx()
        {
            // SAFETY: it was the thread's a moment ago. Whoever destroys a context that another thread uses breaks CUDA's rules by himself.
            // If it is gone, the thread has ours instead; what was called is done all the same.
            let _ = unsafe { ctx::set_current(before) };
        }
        called
    }
}

impl PinMemory for HostRegister {
    fn pin(&self, memory: &[u8]) -> io::Result<()> {
        let registered = self.in_context(|| {
            // SAFETY: the range is mapped, since it is borrowed. The driver notes where its pages are and keeps them there; it reads and
            // writes nothing by itself. The pool unregisters the range before it unmaps it. Where somebody else who calls this does not,
            // copies from that address get what lies in the pages that the driver kept, which are nobody else's.
            unsafe {
                sys::cuMemHostRegister_v2(
                    memory.as_ptr().cast_mut().cast::<c_void>(),
                    memory.len(),
                    sys::CU_MEMHOSTREGISTER_PORTABLE,
                )
            }
        });
        registered.map_err(io::Error::other)
    }

    fn unpin(&self, memory: &[u8]) {
        // Nobody could be told of a failure. It means that the driver has forgotten the memory, as it does when the process ends.
        let _ = self.in_context(|| {
            // SAFETY: the driver looks the address up among those that were registered, and refuses any other.
            unsafe { sys::cuMemHostUnregister(memory.as_ptr().cast_mut().cast::<c_void>()) }
        });
    }
}

impl fmt::Debug for HostRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostRegister")
            .field("ordinal", &self.context.ordinal())
            .finish()
    }
}

/// The driver's library, under a name by which cudarc finds it too.
fn driver() -> Option<Library> {
    ["libcuda.so.1", "libcuda.so"].iter().find_map(|name| {
        // SAFETY: what runs when this library is loaded is NVIDIA's, made for being loaded so: the CUDA runtime does the same.
        unsafe { Library::new(*name) }.ok()
    })
}

fn refused(error: DriverError) -> Error {
    Error::Refused {
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferPool;

    #[test]
    fn memory_is_registered_or_the_error_says_what_is_missing() {
        let register = match HostRegister::new(0) {
            Ok(register) => register,
            Err(error) => {
                assert_eq!(driver().is_none(), matches!(error, Error::NoDriver));
                let message = error.to_string();
                assert!(
                    message.contains("CUDA") && message.contains("; "),
                    "{message}"
                );
                eprintln!("no memory is registered here: {message}");
                return;
            }
        };
        let pool = BufferPool::builder().pin_with(register.clone()).build();
        for _ in 0..2 {
            let held = [64 << 10, 3 << 20, 40 << 20].map(|len| pool.get(len));
            assert!(held.iter().all(crate::PooledBuffer::is_pinned));
            for buffer in &held {
                let again = register.pin(buffer).expect_err("it is registered");
                assert!(again.to_string().contains("ALREADY_REGISTERED"), "{again}");
            }
            drop(held);
            pool.clear();
            assert_eq!(pool.stats().pinned_bytes, 0);
        }
        assert_eq!(pool.stats().pin_failures, 0);
        // What was registered is not any more.
        let memory = vec![0; 1 << 20];
        for _ in 0..2 {
            register.pin(&memory).expect("it is not registered");
            register.unpin(&memory);
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        match HostRegister::new(usize::MAX) {
            Err(Error::NoSuchDevice { ordinal, count }) => {
                assert!(ordinal == usize::MAX && count > 0);
            }
            Err(_) => assert!(HostRegister::new(0).is_err()),
            Ok(register) => panic!("{register:?}"),
        }
    }
}
