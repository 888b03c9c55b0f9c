//! Fills storages: reads into them what is to stay as it is, and converts the rest on its way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result};

use super::convert::convert;
use super::layout::{Base, Group};
use super::loading::Job;
use super::storages::Lease;
use super::{crew, dtype, error};
use crate::{Cancel, Checkpoint, Chunks, Select};

/// Loads the tensors of `groups` into storages, one for each.
pub(super) fn load(job: &Job, groups: &[Group]) -> Result<Vec<Base>> {
    let mut leases = groups
        .iter()
        .map(|group| Lease::new(job.storages.as_ref(), group.dtype, group.room()))
        .collect::<Result<Vec<_>>>()?;
    let tensors = job.checkpoint.tensors();
    let mut as_they_are: Vec<(&str, &mut [u8])> = Vec::new();
    let mut converted: HashMap<&str, Destination<'_>> = HashMap::new();
    for (group, lease) in groups.iter().zip(&mut leases) {
        let memory = lease.bytes_mut();
        let origin = group.origin_in(memory);
        let (mut rest, mut cut) = (memory, 0);
        for member in &group.members {
            let info = &tensors[member.tensor];
            let tail = rest.split_at_mut(origin + member.offset - cut).1;
            let (target, tail) = tail.split_at_mut(member.bytes);
            (rest, cut) = (tail, origin + member.offset + member.bytes);
            if dtype::is_converted(info, group.dtype) {
                let destination = Destination::new(group.dtype, target);
                converted.insert(&info.name, destination);
            } else {
                as_they_are.push((&info.name, target));
            }
        }
    }
    if !as_they_are.is_empty() {
        let report = job.loader.load_into(&job.checkpoint, as_they_are);
        report.map_err(error::wrap)?;
    }
    if !converted.is_empty() {
        convert_all(job, converted)?;
    }
    let bases = groups.iter().zip(leases);
    Ok(bases.map(|(group, lease)| base(group, lease)).collect())
}

fn base(group: &Group, mut lease: Lease) -> Base {
    let origin = group.origin_in(lease.bytes_mut());
    let memory = lease.into_memory();
    let dims = group.dims.clone();
    let dims = dims.unwrap_or_else(|| vec![memory.len() / memory.width()]);
    Base {
        tensor: memory.into_tensor(group.dtype, dims),
        origin,
    }
}

/// Where the elements of a tensor go as they arrive.
struct Destination<'a> {
    dtype: DType,
    /// What is not filled yet, by where it starts.
    rest: BTreeMap<usize, &'a mut [u8]>,
}

impl<'a> Destination<'a> {
    fn new(dtype: DType, memory: &'a mut [u8]) -> Self {
        Self {
            dtype,
            rest: BTreeMap::from([(0, memory)]),
        }
    }

    /// Takes `len` bytes from `start` on, which no one has taken before.
    fn take(&mut self, start: usize, len: usize) -> Option<&'a mut [u8]> {
        let (&from, _) = self.rest.range(..=start).next_back()?;
        let memory = self.rest.remove(&from)?;
        let (before, memory) = memory.split_at_mut_checked(start - from)?;
        let (taken, behind) = memory.split_at_mut_checked(len)?;
        if !before.is_empty() {
            self.rest.insert(from, before);
        }
        if !behind.is_empty() {
            self.rest.insert(start + len, behind);
        }
        Some(taken)
    }
}

/// Converts the tensors of `destinations`, by as many threads as read, piece by piece: each is in the CPU's cache when it is converted.
fn convert_all(job: &Job, destinations: HashMap<&str, Destination<'_>>) -> Result<()> {
    let names = destinations.keys().copied();
    let wanted = job.checkpoint.select(&Select::names(names));
    let wanted: Checkpoint = wanted.map_err(error::wrap)?;
    let cancel = Cancel::new();
    let loader = job.loader.clone().cancel_with(&cancel);
    let chunks = loader.chunks(&wanted).map_err(error::wrap)?;
    let destinations = Mutex::new(destinations);
    let others = job.loader.policy(&wanted).threads.saturating_sub(1);
    crew::run(others, &cancel, || convert_chunks(&chunks, &destinations))?;
    Ok(())
}

fn convert_chunks(
    chunks: &Chunks,
    destinations: &Mutex<HashMap<&str, Destination<'_>>>,
) -> Result<()> {
    while let Some(chunk) = chunks.receive() {
        let chunk = chunk.map_err(error::wrap)?;
        let info = chunk.tensor();
        let from_width = info.dtype.block().bytes as usize;
        let elements = chunk.bytes().len() / from_width;
        let first = chunk.offset() as usize / from_width;
        let taken = {
            let mut destinations = destinations.lock().unwrap_or_else(PoisonError::into_inner);
            let destination = destinations.get_mut(info.name.as_str());
            destination.and_then(|destination| {
                let width = dtype::width(destination.dtype);
                let taken = destination.take(first * width, elements * width)?;
                Some((destination.dtype, taken))
            })
        };
        match taken {
            Some((dtype, to)) => convert(info.dtype, chunk.bytes(), dtype, to)?,
            None => candle_core::bail!("a part of the tensor {:?} came twice", info.name),
        }
    }
    Ok(())
}
