//! Loads checkpoints into candle's tensors on a GPU, in candle's own ways and through ckload: compares every byte, and times them in turn.
//!
//! ```text
//! cargo run --release -p ckload-peers-gpu --features cuda -- MODEL...    # safetensors files, indexes or folders
//! ```
//!
//! Without the feature `cuda`, or without a GPU, the tensors stay on the CPU: then it checks the same, and its times say little. Files are in the
//! page cache; the process has loaded the model before, so that ckload's memory is recycled and candle's allocator has what it keeps.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
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
        let bench = Bench::new(&path, &device)?;
        bench.check()?;
        bench.measure()?;
    }
    Ok(())
}

struct Bench {
    checkpoint: Checkpoint,
    files: Vec<PathBuf>,
    device: Device,
    loader: Loader,
}

/// A way of loading, by its name.
type Way = (&'static str, fn(&Bench) -> Result<Vec<Tensor>>);

const WAYS: [Way; 5] = [
    ("candle_core::safetensors::load", Bench::candle_load),
    ("candle MmapedSafetensors", Bench::candle_mmap),
    ("ckload::candle::load", Bench::ckload_load),
    ("ckload::candle::var_builder", Bench::ckload_var_builder),
    ("ckload, into host memory only", Bench::host_only),
];

impl Bench {
    fn new(path: &PathBuf, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let pool = BufferPool::builder().pinned_memory(true).build();
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
            loader: Loader::new().pool(&pool),
        })
    }

    /// Every tensor is candle's, bit by bit: as it is, and as other types.
    fn check(&self) -> Result<()> {
        let mut expected = HashMap::new();
        for file in &self.files {
            expected.extend(candle_core::safetensors::load(file, &self.device)?);
        }
        let loaded = ckload::candle::load(&self.loader, &self.checkpoint, &self.device)?;
        for (name, tensor) in &expected {
            let ours = loaded.get(name).ok_or("a tensor is missing")?;
            same(name, ours, tensor)?;
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let builder =
                ckload::candle::var_builder(&self.loader, &self.checkpoint, dtype, &self.device)?;
            for (name, tensor) in &expected {
                let ours = builder.get_unchecked_dtype(name, dtype)?;
                same(name, &ours, &tensor.to_dtype(dtype)?)?;
            }
        }
        println!("{} tensors are candle's, bit by bit", expected.len());
        Ok(())
    }

    fn measure(&self) -> Result<()> {
        let mut times: [Vec<Duration>; WAYS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for ((_, load), times) in WAYS.iter().zip(&mut times) {
                let start = Instant::now();
                let tensors = load(self)?;
                self.device.synchronize()?;
                times.push(start.elapsed());
                drop(tensors);
            }
        }
        println!("| way | median ms | min to max |\n|---|--:|--:|");
        for ((name, _), times) in WAYS.iter().zip(&mut times) {
            times.sort_unstable();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            println!(
                "| {name} | {:.1} | {:.1} to {:.1} |",
                ms(times[ROUNDS / 2]),
                ms(times[0]),
                ms(times[ROUNDS - 1])
            );
        }
        Ok(())
    }

    fn candle_load(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for file in &self.files {
            all.extend(candle_core::safetensors::load(file, &self.device)?.into_values());
        }
        Ok(all)
    }

    #[expect(unsafe_code, reason = "candle's own way: the files must not change")]
    fn candle_mmap(&self) -> Result<Vec<Tensor>> {
        // SAFETY: whoever runs a benchmark leaves its files alone.
        let maps = unsafe { MmapedSafetensors::multi(&self.files) }?;
        let names = self.checkpoint.tensors().iter().map(|info| &info.name);
        let load = |name: &String| maps.load(name, &self.device);
        Ok(names.map(load).collect::<candle_core::Result<_>>()?)
    }

    fn ckload_load(&self) -> Result<Vec<Tensor>> {
        let tensors = ckload::candle::load(&self.loader, &self.checkpoint, &self.device)?;
        Ok(tensors.into_values().collect())
    }

    fn ckload_var_builder(&self) -> Result<Vec<Tensor>> {
        let dtype = match self.checkpoint.tensors().first().map(|info| info.dtype) {
            Some(ckload::Dtype::BF16) => DType::BF16,
            _ => DType::F32,
        };
        let builder =
            ckload::candle::var_builder(&self.loader, &self.checkpoint, dtype, &self.device)?;
        let names = self.checkpoint.tensors().iter().map(|info| &info.name);
        let get = |name: &String| builder.get_unchecked_dtype(name, dtype);
        Ok(names.map(get).collect::<candle_core::Result<_>>()?)
    }

    fn host_only(&self) -> Result<Vec<Tensor>> {
        self.loader.load(&self.checkpoint)?;
        Ok(Vec::new())
    }
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
