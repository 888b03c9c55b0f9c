//! Names that are like one that is not there: what a mistyped name may mean.

use std::collections::HashSet;
use std::fmt;

use crate::Checkpoint;

/// Names at least so much alike are worth naming; 1 is the same.
const ALIKE: f64 = 0.85;

/// How much names are alike that differ in a prefix only.
const PREFIXED: f64 = 0.95;

/// Longer names are not compared: that takes time in proportion to the product of both lengths.
const COMPARED_BYTES: usize = 256;

/// The names among `names` that are like `wanted`, the most alike first. Of names that differ in numbers only, the best is there.
pub(crate) fn similar<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    if wanted.len() > COMPARED_BYTES {
        return Vec::new();
    }
    let short = names
        .into_iter()
        .filter(|name| name.len() <= COMPARED_BYTES);
    let mut alike: Vec<(f64, &str)> = short
        .map(|name| (likeness(wanted, name), name))
        .filter(|&(likeness, _)| likeness >= ALIKE)
        .collect();
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut kinds = HashSet::new();
    alike.retain(|(_, name)| kinds.insert(name.replace(|c: char| c.is_ascii_digit(), "")));
    alike.into_iter().map(|(_, name)| name).collect()
}

/// How much two names are alike: 1 if they are the same, 0 if they have nothing in common.
fn likeness(wanted: &str, name: &str) -> f64 {
    let slip = strsim::jaro_winkler(wanted, name);
    if lacks_prefix(wanted, name) || lacks_prefix(name, wanted) {
        slip.max(PREFIXED)
    } else {
        slip
    }
}

/// Whether `part` is `whole` but for what stands before a dot, such as `transformer.`: whoever saved the model has added that.
fn lacks_prefix(part: &str, whole: &str) -> bool {
    let prefix = whole.strip_suffix(part);
    part.contains('.') && prefix.is_some_and(|prefix| prefix.ends_with('.'))
}

/// The names of a checkpoint's tensors, for an error to say which may have been meant.
///
/// They are compared when the error is shown: many a lookup that fails was only a question.
#[derive(Clone)]
pub struct Names(Checkpoint);

impl Names {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        Self(checkpoint.clone())
    }

    /// What an error adds to a name that is not among these.
    pub(crate) fn hint(&self, wanted: &str) -> String {
        match self.0.similar_names(wanted).first() {
            Some(name) => format!("; did you mean {name:?}?"),
            None => "; `ckload inspect` lists its tensors".to_owned(),
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.0.tensors().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "wte.weight",
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_attn.bias",
        "h.1.attn.c_attn.weight",
        "h.1.mlp.c_fc.weight",
    ];

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        for (wanted, meant) in [
            ("wte.wieght", "wte.weight"),
            ("h.1.atn.c_attn.weight", "h.1.attn.c_attn.weight"),
            ("h.*.attn.c_atn.weight", "h.0.attn.c_attn.weight"),
            (
                "transformer.h.0.attn.c_attn.weight",
                "h.0.attn.c_attn.weight",
            ),
            ("mlp.c_fc.weight", "h.1.mlp.c_fc.weight"),
            ("h.0.attn.c_attn", "h.0.attn.c_attn.bias"),
        ] {
            assert_eq!(similar(wanted, NAMES).first(), Some(&meant), "{wanted}");
        }
    }

    #[test]
    fn what_is_like_nothing_finds_nothing() {
        for wanted in ["", "*", "transformer.*", "embeddings", "weight"] {
            assert!(similar(wanted, NAMES).is_empty(), "{wanted}");
        }
        let long = "n".repeat(COMPARED_BYTES + 1);
        assert!(similar(&long, [&long[..]]).is_empty());
    }

    #[test]
    fn blocks_of_a_model_count_once() {
        let found = similar("h.7.attn.c_attn.weight", NAMES);
        assert_eq!(found[0], "h.0.attn.c_attn.weight");
        assert!(!found.contains(&"h.1.attn.c_attn.weight"), "{found:?}");
    }
}
