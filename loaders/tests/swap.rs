//! A model takes the memory that another one left, whatever the sizes of its tensors.

mod common;

use ckload_loaders::{Checkpoint, Loader, Model};
use ckload_pool::BufferPool;
use common::{MIB, Sample, await_all_returned, octets, random};

/// Bytes of a decoder's tensors in file order, all dimensions an eighth of the published ones, two bytes an element.
struct Shrunk {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    key_value: usize,
    vocabulary: usize,
}

const LLAMA_2_7B: Shrunk = Shrunk {
    layers: 32,
    hidden: 4096 / 8,
    intermediate: 11_008 / 8,
    key_value: 4096 / 8,
    vocabulary: 32_000 / 8,
};
const QWEN_2_7B: Shrunk = Shrunk {
    layers: 28,
    hidden: 3584 / 8,
    intermediate: 18_944 / 8,
    key_value: 512 / 8,
    vocabulary: 152_064 / 8,
};

impl Shrunk {
    fn sample(&self) -> Sample {
        let (hidden, wide, narrow) = (self.hidden, self.intermediate, self.key_value);
        let mut elements = vec![self.vocabulary * hidden];
        for _ in 0..self.layers {
            elements.extend([hidden, hidden * wide, hidden * wide, hidden * wide, hidden]);
            elements.extend([narrow * hidden, hidden * hidden, hidden * hidden]);
            elements.push(narrow * hidden);
        }
        elements.extend([hidden, self.vocabulary * hidden]);
        let tensors = elements.into_iter().enumerate();
        Sample::of(
            tensors
                .map(|(number, elements)| octets(&format!("t{number:04}"), 2 * elements))
                .collect(),
        )
    }
}

/// Loads all of `checkpoint`, and says which share of its bytes took new memory.
fn load(loader: &Loader, sample: &Sample, checkpoint: &Checkpoint) -> (Model, f64) {
    let model = loader.load(checkpoint).expect("a valid checkpoint");
    sample.check_all(model.tensors());
    let fresh = model.report().allocation.fresh_bytes as f64 / sample.bytes() as f64;
    (model, fresh)
}

#[test]
fn models_of_two_families_take_turns_in_one_memory() {
    let (llama, qwen) = (LLAMA_2_7B.sample(), QWEN_2_7B.sample());
    let (larger, smaller) = (qwen.bytes() as usize, llama.bytes() as usize);
    assert!(larger > smaller && larger < 250 * MIB);
    for [first, second] in [[&llama, &qwen], [&qwen, &llama]] {
        let (a, b) = (first.open(), second.open());
        let pool = BufferPool::builder()
            .min_buffer_size(64 << 10)
            .max_bytes(larger / 10 * 11)
            .build();
        let loader = Loader::new().pool(&pool).threads(2);
        let (model, fresh) = load(&loader, first, &a);
        assert!(fresh >= 1.0);
        drop(model);
        for (sample, checkpoint) in [(second, &b), (first, &a), (second, &b)] {
            let lacking = 1.0 - (pool.stats().idle_bytes as f64 / sample.bytes() as f64).min(1.0);
            let (model, fresh) = load(&loader, sample, checkpoint);
            println!("{:.1} % of {} bytes are new", 100.0 * fresh, sample.bytes());
            assert!(fresh <= 0.2 + lacking, "{fresh}: {:?}", model.report());
            assert!(model.report().peak_pool_bytes as usize <= larger / 10 * 11 + 4096);
        }
        assert!(pool.stats().peak_bytes <= pool.max_bytes().expect("it has a cap"));
    }
}

#[test]
fn what_lies_idle_is_divided_without_a_cap_too() {
    let mut random = random();
    let pool = BufferPool::builder().min_buffer_size(64 << 10).build();
    // On the loader's threads nothing larger than 4 MiB stays private.
    let loader = Loader::new().pool(&pool).threads(1);
    let whole = Sample::uniform(1, 80 * MIB);
    drop(load(&loader, &whole, &whole.open()));
    for _ in 0..5 {
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 72 * MIB {
            sizes.push(random.usize(0..=7 * MIB));
        }
        let parts = Sample::of(
            sizes
                .iter()
                .enumerate()
                .map(|(number, &len)| octets(&number.to_string(), len))
                .collect(),
        );
        let (model, fresh) = load(&loader, &parts, &parts.open());
        assert_eq!(fresh, 0.0, "{:?}", model.report());
    }
    assert_eq!(pool.stats().fresh, 1, "one buffer served them all");
}

#[test]
fn small_models_do_not_take_much_larger_buffers() {
    let pool = BufferPool::builder().min_buffer_size(64 << 10).build();
    let loader = Loader::new().pool(&pool).threads(1);
    let large = Sample::uniform(1, 90 * MIB);
    drop(load(&loader, &large, &large.open()));
    let small = Sample::uniform(3, 9 * MIB);
    let (model, fresh) = load(&loader, &small, &small.open());
    assert!(fresh >= 1.0, "{:?}", model.report());
    assert!(pool.stats().leased_bytes <= 27 * MIB / 8 * 9);
}

#[test]
fn loads_that_meet_over_one_pool_each_get_what_they_need() {
    let samples: Vec<Sample> = [3, 5, 7]
        .map(|mib| Sample::uniform(40 / mib, mib * MIB))
        .into();
    let pool = BufferPool::builder()
        .min_buffer_size(64 << 10)
        .max_bytes(96 * MIB)
        .build();
    std::thread::scope(|scope| {
        for sample in &samples {
            let loader = Loader::new().pool(&pool).threads(2);
            scope.spawn(move || {
                let checkpoint = sample.open();
                for _ in 0..12 {
                    drop(load(&loader, sample, &checkpoint));
                }
            });
        }
    });
    assert!(pool.stats().peak_bytes <= 96 * MIB);
    // The loaders' threads may still be ending, and hand over what they kept.
    await_all_returned(&pool);
}

#[test]
fn a_model_that_comes_back_takes_no_new_memory() {
    // The largest block would do for each of these tensors, the smallest for one only; and each lies in another shard, where whoever looks
    // there first finds it.
    let sizes = [65, 67, 69, 71].map(|mib| mib * MIB);
    let tensors = sizes.into_iter().enumerate();
    let sample = Sample::of(
        tensors
            .map(|(number, bytes)| octets(&format!("t{number}"), bytes))
            .collect(),
    );
    let checkpoint = sample.open();
    let pool = BufferPool::builder()
        .num_shards(8)
        .max_buffers_per_shard(1)
        .build();
    let loader = Loader::new().pool(&pool).threads(4);
    let (model, fresh) = load(&loader, &sample, &checkpoint);
    assert!(fresh >= 1.0);
    drop(model);
    for _ in 0..8 {
        let model = loader.load(&checkpoint).expect("a valid checkpoint");
        assert_eq!(model.report().allocation.fresh, 0, "{:?}", model.report());
    }
}
