//! Loads into the caller's memory.

use std::collections::HashMap;

use super::{Loader, known};
use crate::plan::Plan;
use crate::read::{Files, Slot};
use crate::report::Meter;
use crate::{Checkpoint, Error, Report};

impl Loader {
    /// Loads tensors into the caller's memory: for each name, exactly as many bytes as the tensor has.
    ///
    /// Tensors of the checkpoint that are not named are not read. The memory's content is unspecified if the load fails.
    ///
    /// # Errors
    ///
    /// A name is unknown or given twice, the memory is not of the tensor's size; a file cannot be read, or is not the one that was
    /// opened; the observer panics; somebody cancels.
    pub fn load_into<'a>(
        &self,
        checkpoint: &Checkpoint,
        targets: impl IntoIterator<Item = (&'a str, &'a mut [u8])>,
    ) -> Result<Report, Error> {
        let meter = Meter::start(checkpoint.open_time());
        let mut memory: HashMap<&str, &mut [u8]> = HashMap::new();
        for (name, target) in targets {
            let info = known(checkpoint, name)?;
            let unfit = |reason| Error::Target {
                tensor: name.to_owned(),
                reason,
            };
            if target.len() as u64 != info.bytes {
                let reason = format!("it has {} bytes, the tensor {}", target.len(), info.bytes);
                return Err(unfit(reason));
            }
            if memory.insert(name, target).is_some() {
                return Err(unfit("the tensor was named twice".to_owned()));
            }
        }
        let wanted = checkpoint.only(|info| memory.contains_key(info.name.as_str()));
        let slots = wanted
            .tensors()
            .iter()
            .filter_map(|info| memory.remove(info.name.as_str()))
            .filter(|target| !target.is_empty())
            .map(Slot::from)
            .collect();
        let loader = traced!(self, "load_into", &wanted);
        Error::catch(|| loader.fill_all(&wanted, slots, &meter))
    }

    /// Fills `slots`, one for each tensor of `checkpoint` that has bytes.
    fn fill_all(
        &self,
        checkpoint: &Checkpoint,
        slots: Vec<Slot<'_>>,
        meter: &Meter,
    ) -> Result<Report, Error> {
        self.cancels.check()?;
        let policy = self.policy(checkpoint);
        let plan = Plan::separate(checkpoint.tensors(), policy.read_bytes);
        let files = Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?;
        self.announce(checkpoint);
        self.workers(&policy)?
            .install(|| self.fill(&files, &plan, checkpoint, slots, meter))?;
        files.check_unchanged()?;
        Ok(self.finish(checkpoint, meter))
    }
}
