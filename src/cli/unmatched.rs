//! Globs of the command line that match no tensor: slips, most likely.

use std::collections::BTreeSet;

use ckload::{Checkpoint, Select};

use super::options::NamePattern;
use super::{Error, units};

/// So many names are suggested for one glob.
const SUGGESTED_NAMES: usize = 3;

/// Parts of names at least so much alike are taken for one another.
const ALIKE: f64 = 0.85;

/// What to say of each pattern that matches no tensor of any of `checkpoints`.
pub(crate) fn unmatched<'a>(
    patterns: impl IntoIterator<Item = &'a NamePattern>,
    checkpoints: &[Checkpoint],
) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for pattern in patterns {
        if matches(&pattern.glob, checkpoints)? == 0 {
            told.push(sentence(pattern, checkpoints)?);
        }
    }
    Ok(told)
}

/// Why the globs leave no tensor of `checkpoint`.
pub(crate) fn none_left(
    patterns: &[NamePattern],
    checkpoint: &Checkpoint,
) -> Result<String, Error> {
    let mut includes = patterns
        .iter()
        .filter(|pattern| pattern.option == "--include")
        .peekable();
    if includes.peek().is_none() {
        return Ok("--exclude leaves out all; `ckload inspect` lists their names".into());
    }
    let unmatched = unmatched(includes, std::slice::from_ref(checkpoint))?;
    Ok(if unmatched.is_empty() {
        "--exclude leaves out all that --include matches; `ckload inspect` lists their names".into()
    } else {
        unmatched.join("; ")
    })
}

/// How many tensors `glob` matches.
fn matches(glob: &str, checkpoints: &[Checkpoint]) -> Result<usize, Error> {
    let select = Select::all().include(glob)?;
    let tensors = checkpoints.iter().flat_map(Checkpoint::tensors);
    let admitted = tensors.filter(|tensor| select.admits(&tensor.name));
    Ok(admitted.count())
}

fn sentence(
    NamePattern { option, glob }: &NamePattern,
    checkpoints: &[Checkpoint],
) -> Result<String, Error> {
    let problem = format!("{option} '{glob}' matches no tensor");
    if glob.contains('*') {
        for other in corrections(glob, checkpoints) {
            let count = matches(&other, checkpoints)?;
            if count > 0 {
                let count = units::counted(count as u64, "tensor");
                return Ok(format!("{problem}; did you mean '{other}', {count}?"));
            }
        }
    }
    let similar = checkpoints
        .iter()
        .map(|checkpoint| checkpoint.similar_names(glob))
        .find(|names| !names.is_empty())
        .unwrap_or_default();
    let named = similar.into_iter().take(SUGGESTED_NAMES);
    let named = named.collect::<Vec<_>>().join(", ");
    Ok(if named.is_empty() {
        format!("{problem}; `ckload inspect` lists their names")
    } else {
        format!("{problem}; did you mean {named}?")
    })
}

/// Globs that `glob` may have been meant to be: without slips in its parts, with or without another model's prefix.
fn corrections(glob: &str, checkpoints: &[Checkpoint]) -> Vec<String> {
    let tensors = checkpoints.iter().flat_map(Checkpoint::tensors);
    let known: BTreeSet<&str> = tensors.flat_map(|tensor| tensor.name.split('.')).collect();
    let parts = glob.split('.').map(|part| corrected(part, &known));
    let spelled = parts.collect::<Vec<_>>().join(".");
    let without_prefix = glob.split_once('.').map(|(_, rest)| rest.to_owned());
    let has_name = |rest: &String| rest.contains(|c: char| c.is_alphanumeric());
    let mut corrections = vec![spelled];
    corrections.push(format!("*.{glob}"));
    corrections.extend(without_prefix.filter(has_name));
    corrections
}

/// The part of a name that is like `part`, if it is none itself.
fn corrected<'a>(part: &'a str, known: &BTreeSet<&'a str>) -> &'a str {
    let is_word = part.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !is_word || known.contains(part) {
        return part;
    }
    let likeness = |name: &&str| strsim::jaro_winkler(part, name);
    let nearest = known
        .iter()
        .copied()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest
        .filter(|name| likeness(name) >= ALIKE)
        .unwrap_or(part)
}
