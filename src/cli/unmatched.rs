//! Globs of the command line that match no tensor: slips, most likely.

use ckload::{Checkpoint, Select};

use super::Error;
use super::options::NamePattern;

/// So many names are suggested for one glob.
const SUGGESTED_NAMES: usize = 3;

/// What to say of each pattern that matches no tensor of any of `checkpoints`.
pub(crate) fn unmatched(
    patterns: &[NamePattern],
    checkpoints: &[Checkpoint],
) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for pattern in patterns {
        let select = Select::all().include(&pattern.glob)?;
        let mut tensors = checkpoints.iter().flat_map(Checkpoint::tensors);
        if !tensors.any(|tensor| select.admits(&tensor.name)) {
            told.push(sentence(pattern, checkpoints));
        }
    }
    Ok(told)
}

fn sentence(NamePattern { option, glob }: &NamePattern, checkpoints: &[Checkpoint]) -> String {
    let similar = checkpoints
        .iter()
        .map(|checkpoint| checkpoint.similar_names(glob))
        .find(|names| !names.is_empty())
        .unwrap_or_default();
    let named = similar.into_iter().take(SUGGESTED_NAMES);
    let named = named.collect::<Vec<_>>().join(", ");
    if named.is_empty() {
        format!("{option} '{glob}' matches no tensor; `ckload inspect` lists their names")
    } else {
        format!("{option} '{glob}' matches no tensor; did you mean {named}?")
    }
}
