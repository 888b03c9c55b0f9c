//! Loads checkpoints into candle's tensors on a GPU, in candle's own ways and through ckload: compares every byte, and times them in turn.
//!
//! ```text
//! cargo run --release -p ckload-peers-gpu --features cuda -- MODEL...    # safetensors files, indexes or folders
//! ```
//!
//! Without the feature `cuda`, or without a GPU, the tensors stay on the CPU: then it checks the same, and its times say little. Files are in the
//! page cache; the process has loaded the model before, so that ckload's memory is recycled and candle's allocator has what it keeps. On a GPU, ckload's
//! ways come twice: with a pool whose buffers are locked (`mlock`), and with one whose buffers are registered with the driver. Registering costs once,
//! which the line about the first load shows.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use ckload::cuda::HostRegister;
use ckload::{BufferPool, Checkpoint, Loader};
use half::{bf16, f16};

/// Rounds; every way has its turn in each.
const ROUNDS: usize = 5;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let models: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if models.is_empty() {
        return Err("name a model: a safetensors file, an index or a folder".into());
    }
    let device = Device::cuda_if_available(0)?;
    println!("tensors on {device:?}");
    for path in models {
        let mut bench = Bench::new(&path, &device)?;
        bench.check()?;
        bench.first_load()?;
        bench.measure()?;
    }
    Ok(())
}

struct Bench {
    checkpoint: Checkpoint,
    files: Vec<PathBuf>,
    device: Device,
    locked: Loader,
    /// On a GPU only.
    registered: Option<Loader>,
}

/// Loads through a loader; candle's own ways have no use for it.
type Load = fn(&Bench, &Loader) -> Result<Vec<Tensor>>;

/// A way of loading.
struct Way<'a> {
    name: &'static str,
    load: Load,
    loader: &'a Loader,
    times: Vec<Duration>,
}

impl Bench {
    fn new(path: &PathBuf, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        println!(
            "\n{}: {} tensors, {} bytes",
            path.display(),
            checkpoint.tensors().len(),
            checkpoint.bytes()
        );
        Ok(Self {
            files: checkpoint.files().iter().map(|f| f.path.clone()).collect(),
            checkpoint,
            device: device.clone(),
            locked: Loader::new().pool(&locked()),
            registered: registered(device)?.map(|pool| Loader::new().pool(&pool)),
        })
    }

    fn loaders(&self) -> impl Iterator<Item = &Loader> {
        [&self.locked].into_iter().chain(&self.registered)
    }

    /// Every tensor is candle's, bit by bit: as it is, and as other types.
    fn check(&self) -> Result<()> {
        let mut expected = HashMap::new();
        for file in &self.files {
            expected.extend(candle_core::safetensors::load(file, &self.device)?);
        }
        for loader in self.loaders() {
            self.check_through(loader, &expected)?;
        }
        println!("{} tensors are candle's, bit by bit", expected.len());
        Ok(())
    }

    fn check_through(&self, loader: &Loader, expected: &HashMap<String, Tensor>) -> Result<()> {
        let loaded = ckload::candle::load(loader, &self.checkpoint, &self.device)?;
        for (name, tensor) in expected {
            let ours = loaded.get(name).ok_or("a tensor is missing")?;
            same(name, ours, tensor)?;
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let builder =
                ckload::candle::var_builder(loader, &self.checkpoint, dtype, &self.device)?;
            for (name, tensor) in expected {
                let ours = builder.get_unchecked_dtype(name, dtype)?;
                same(name, &ours, &tensor.to_dtype(dtype)?)?;
            }
        }
        Ok(())
    }

    /// What new pools cost, which are measured with from then on.
    fn first_load(&mut self) -> Result<()> {
        let pool = locked();
        self.locked = Loader::new().pool(&pool);
        let time = self.time(Self::load, &self.locked)?;
        println!("first load with a new pool, locked: {:.1} ms", ms(time));
        let Some(pool) = registered(&self.device)? else {
            return Ok(());
        };
        let loader = self.registered.insert(Loader::new().pool(&pool)).clone();
        let time = self.time(Self::load, &loader)?;
        let stats = pool.stats();
        println!(
            "first load with a new pool, registered: {:.1} ms, for {} bytes in {} buffers",
            ms(time),
            stats.pinned_bytes,
            stats.fresh
        );
        match stats.last_pin_error {
            Some(reason) => Err(format!("the driver registers nothing: {reason}").into()),
            None => Ok(()),
        }
    }

    fn ways(&self) -> Vec<Way<'_>> {
        let ours: [(&[&'static str; 2], Load); 2] = [
            (
                &["ckload::candle::load", "ckload::candle::load, registered"],
                Self::load,
            ),
            (
                &[
                    "ckload::candle::var_builder",
                    "ckload::candle::var_builder, registered",
                ],
                Self::var_builder,
            ),
        ];
        let mut ways = vec![
            self.way("candle_core::safetensors::load", Self::candle_load),
            self.way("candle MmapedSafetensors", Self::candle_mmap),
        ];
        for (names, load) in ours {
            for (&name, loader) in names.iter().zip(self.loaders()) {
                ways.push(Way {
                    loader,
                    ..self.way(name, load)
                });
            }
        }
        ways.push(self.way("ckload, into host memory only", Self::host_only));
        ways
    }

    fn way(&self, name: &'static str, load: Load) -> Way<'_> {
        Way {
            name,
            load,
            loader: &self.locked,
            times: Vec::new(),
        }
    }

    fn measure(&self) -> Result<()> {
        let mut ways = self.ways();
        for _ in 0..ROUNDS {
            for way in &mut ways {
                way.times.push(self.time(way.load, way.loader)?);
            }
        }
        println!("| way | median ms | min to max |\n|---|--:|--:|");
        for Way { name, times, .. } in &mut ways {
            times.sort_unstable();
            println!(
                "| {name} | {:.1} | {:.1} to {:.1} |",
                ms(times[ROUNDS / 2]),
                ms(times[0]),
                ms(times[ROUNDS - 1])
            );
        }
        Ok(())
    }

    /// How long a load takes until the tensors can be computed with.
    fn time(&self, load: Load, loader: &Loader) -> Result<Duration> {
        let start = Instant::now();
        let tensors = load(self, loader)?;
        self.device.synchronize()?;
        let time = start.elapsed();
        drop(tensors);
        Ok(time)
    }

    fn candle_load(&self, _: &Loader) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for file in &self.files {
            all.extend(candle_core::safetensors::load(file, &self.device)?.into_values());
        }
        Ok(all)
    }

    #[expect(unsafe_code, reason = "candle's own way: the files must not change")]
    fn candle_mmap(&self, _: &Loader) -> Result<Vec<Tensor>> {
        // SAFETY: whoever runs a benchmark leaves its files alone.
        let maps = unsafe { MmapedSafetensors::multi(&self.files) }?;
        let names = self.checkpoint.tensors().iter().map(|info| &info.name);
        let load = |name: &String| maps.load(name, &self.device);
        Ok(names.map(load).collect::<candle_core::Result<_>>()?)
    }

    fn load(&self, loader: &Loader) -> Result<Vec<Tensor>> {
        let tensors = ckload::candle::load(loader, &self.checkpoint, &self.device)?;
        Ok(tensors.into_values().collect())
    }

    fn var_builder(&self, loader: &Loader) -> Result<Vec<Tensor>> {
        let dtype = match self.checkpoint.tensors().first().map(|info| info.dtype) {
            Some(ckload::Dtype::BF16) => DType::BF16,
            _ => DType::F32,
        };
        let builder = ckload::candle::var_builder(loader, &self.checkpoint, dtype, &self.device)?;
        let names = self.checkpoint.tensors().iter().map(|info| &info.name);
        let get = |name: &String| builder.get_unchecked_dtype(name, dtype);
        Ok(names.map(get).collect::<candle_core::Result<_>>()?)
    }

    fn host_only(&self, loader: &Loader) -> Result<Vec<Tensor>> {
        loader.load(&self.checkpoint)?;
        Ok(Vec::new())
    }
}

/// A new pool of locked memory.
fn locked() -> BufferPool {
    BufferPool::builder().pinned_memory(true).build()
}

/// A new pool of memory that the driver of `device` knows, if that is a GPU.
fn registered(device: &Device) -> Result<Option<BufferPool>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let pool = BufferPool::builder().pin_with(HostRegister::new(0)?);
    Ok(Some(pool.build()))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn same(name: &str, ours: &Tensor, theirs: &Tensor) -> Result<()> {
    let alike = ours.dtype() == theirs.dtype()
        && ours.dims() == theirs.dims()
        && ours.device().same_device(theirs.device());
    if alike && bits(ours)? == bits(theirs)? {
        Ok(())
    } else {
        Err(format!("{name}: {ours:?} is not {theirs:?}").into())
    }
}

/// The bits of every element, in the CPU's memory.
fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F32 => flat
            .to_vec1::<f32>()?
            .into_iter()
            .map(f32::to_bits)
            .collect(),
        DType::BF16 => {
            let values = flat.to_vec1::<bf16>()?.into_iter();
            values.map(|value| value.to_bits().into()).collect()
        }
        DType::F16 => {
            let values = flat.to_vec1::<f16>()?.into_iter();
            values.map(|value| value.to_bits().into()).collect()
        }
        DType::U8 => flat.to_vec1::<u8>()?.into_iter().map(u32::from).collect(),
        other => return Err(format!("checkpoints with {other:?} are not compared").into()),
    })
}
