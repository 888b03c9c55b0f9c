//! A model of the Llama family in 8 parts, divided as inference servers divide it.

use std::ops::ControlFlow;

use ckload::synth::{IfExists, Llama};
use ckload::{Checkpoint, Error, Io, Loader, Model, Select, Shard, Tensor};
use tempfile::TempDir;

const RANKS: usize = 8;

/// Along which dimension a tensor is divided: by rows before a sum, by columns behind it; norms are whole.
fn dim_of(name: &str) -> Option<usize> {
    let by_columns = ["o_proj", "down_proj"];
    let is_whole = name.contains("norm");
    let is_by_columns = by_columns.iter().any(|part| name.contains(part));
    (!is_whole).then_some(usize::from(is_by_columns))
}

/// What rank `rank` keeps.
fn rules(rank: usize) -> Result<Select, Error> {
    let [rows, columns] = [0, 1].map(|dim| Shard::new(dim, rank, RANKS));
    Select::all()
        .shard("*.{q,k,v,gate,up}_proj.weight", rows)?
        .shard("*.{o,down}_proj.weight", columns)?
        .shard("model.embed_tokens.weight", rows)
}

fn llama() -> (TempDir, Checkpoint) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("llama");
    Llama::TINY
        .blueprint()
        .write_folder_with(&path, 7, IfExists::Refuse, |_| ControlFlow::Continue(()))
        .expect("a disk with room");
    let checkpoint = Checkpoint::open(&path).expect("a valid checkpoint");
    (folder, checkpoint)
}

/// A tensor's bytes, put together from those of all ranks.
fn joined(parts: &[&Tensor], whole: &Tensor) -> Vec<u8> {
    let Some(dim) = dim_of(whole.name()) else {
        assert!(parts.iter().all(|part| part.shape() == whole.shape()));
        return parts[RANKS - 1].bytes().to_vec();
    };
    let rows = whole.shape()[..dim].iter().product::<u64>() as usize;
    let run = parts[0].bytes().len() / rows;
    let mut bytes = Vec::new();
    for row in 0..rows {
        for part in parts {
            bytes.extend_from_slice(&part.bytes()[row * run..][..run]);
        }
    }
    bytes
}

#[test]
fn eight_ranks_are_the_whole_and_each_moves_little_more_than_it_keeps() {
    let (_folder, checkpoint) = llama();
    let whole = Loader::new().load(&checkpoint).expect("it loads");
    for io in [Io::Auto, Io::Buffered] {
        let ranks: Vec<Model> = (0..RANKS)
            .map(|rank| {
                let part = rules(rank).and_then(|rules| checkpoint.select(&rules));
                let part = part.expect("it is even");
                let model = Loader::new().io(io).load(&part).expect("it loads");
                let report = model.report();
                let kept = report.bytes;
                assert_eq!(kept, part.bytes());
                let moved = report.io.buffered_bytes + report.io.direct_bytes;
                assert!(
                    moved as f64 <= 1.1 * kept as f64,
                    "{io}: {moved} for {kept}"
                );
                // Norms are a small part of it.
                assert!(kept < checkpoint.bytes() / RANKS as u64 * 21 / 20);
                model
            })
            .collect();
        for tensor in whole.tensors() {
            let parts: Vec<&Tensor> = (ranks.iter())
                .map(|model| model.tensor(tensor.name()).expect("every rank has a part"))
                .collect();
            assert!(&joined(&parts, tensor) == tensor.bytes(), "{tensor:?}");
        }
    }
}

#[test]
fn seven_ranks_cannot_share_it() {
    let (_folder, checkpoint) = llama();
    let select = Select::all()
        .shard_rest(Shard::new(0, 0, 7))
        .expect("a rule");
    let error = checkpoint.select(&select).expect_err("7 divides nothing");
    assert_eq!(error.kind(), "shard");
    let message = error.to_string();
    assert!(
        message.contains("which 7 ranks cannot share evenly"),
        "{message}"
    );
}
