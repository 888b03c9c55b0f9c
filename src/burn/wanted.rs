//! Which tensors a module will ask for, and in which order.

use std::collections::{BTreeMap, HashSet};

use burn_core::module::{ModuleVisitor, Param};
use burn_core::tensor::{Bool, Int, Tensor};
use burn_store::{ModuleAdapter, ModuleContext, ModuleSnapshot, PathFilter};

/// Walks a module as burn-store's `Applier` will, and notes what that will look up.
///
/// Parameters are not looked at: one that is not initialised yet stays so.
pub(super) struct Wanted<'a> {
    /// The checkpoint's names, by the names that burn sees.
    names: &'a BTreeMap<String, String>,
    filter: Option<&'a PathFilter>,
    adapter: &'a dyn ModuleAdapter,
    skip_enum_variants: bool,
    path: Vec<String>,
    containers: Vec<String>,
    seen: HashSet<&'a str>,
    order: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    /// The names, as burn sees them, of the tensors that `module` will be given: each once, in the order of asking.
    pub(super) fn by(
        module: &impl ModuleSnapshot,
        names: &'a BTreeMap<String, String>,
        filter: Option<&'a PathFilter>,
        adapter: &'a dyn ModuleAdapter,
        skip_enum_variants: bool,
    ) -> Vec<&'a str> {
        let mut wanted = Self {
            names,
            filter,
            adapter,
            skip_enum_variants,
            path: Vec::new(),
            containers: Vec::new(),
            seen: HashSet::new(),
            order: Vec::new(),
        };
        module.visit(&mut wanted);
        wanted.order
    }

    fn note(&mut self) {
        let is_admitted = self
            .filter
            .is_none_or(|filter| filter.matches_with_container_path(&self.path, &self.containers));
        if let Some(name) = self.source().filter(|_| is_admitted)
            && self.seen.insert(name)
        {
            self.order.push(name);
        }
    }

    /// The tensor that the parameter at the current path is filled from: its own, or the one that the adapter names.
    fn source(&self) -> Option<&'a str> {
        let stored = |name: String| {
            self.names
                .get_key_value(&name)
                .map(|(name, _)| name.as_str())
        };
        stored(self.path.join(".")).or_else(|| {
            let (parameter, parents) = self.path.split_last()?;
            let module = ModuleContext::new(&self.containers).module_type()?;
            let other = self.adapter.get_alternative_param_name(parameter, module)?;
            let path: Vec<&str> = parents
                .iter()
                .map(String::as_str)
                .chain([&*other])
                .collect();
            stored(path.join("."))
        })
    }

    fn is_in_path(&self, container: &str) -> bool {
        !self.skip_enum_variants || !container.starts_with("Enum:")
    }
}

impl ModuleVisitor for Wanted<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.containers.push(container_type.to_owned());
        if self.is_in_path(container_type) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.containers.pop();
        if self.is_in_path(container_type) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.note();
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.note();
    }

    fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
        self.note();
    }
}
