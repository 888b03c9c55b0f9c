//! ckload's errors as candle's, and back again.

use std::fmt;
use std::io;
use std::sync::Arc;

use candle_core::Error;

/// One error, for everyone who asks for a tensor of the load that it ended.
#[derive(Clone, Debug)]
struct Shared(Arc<crate::Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// ckload's error behind one of candle's that came out of a `VarBuilder` of ours, or of another function of this module.
///
/// `None` if it is candle's own: a tensor that is not there, or of another shape than the model wants.
///
/// ```
/// use candle_core::{DType, Device};
/// use ckload::candle::{cause, var_builder};
/// use ckload::{Checkpoint, Error, Loader};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
///
/// let checkpoint = Checkpoint::open(&path)?;
/// std::fs::remove_file(&path)?; // somebody else does
/// let vb = var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu)?;
/// let error = vb.get(96, "ln_f.weight").unwrap_err();
/// assert_eq!(cause(&error).map(Error::kind), Some("io"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn cause(error: &Error) -> Option<&crate::Error> {
    shared(error).map(|shared| &*shared.0)
}

/// As candle's, from which [`cause`] has it back.
pub(super) fn wrap(error: crate::Error) -> Error {
    of_shared(Shared(Arc::new(error)))
}

/// The same error once more.
pub(super) fn again(error: &Error) -> Error {
    match shared(error) {
        Some(shared) => of_shared(shared.clone()),
        None => Error::msg(error),
    }
}

/// Of candle's errors only this one keeps another in a way that lets it be found.
fn of_shared(shared: Shared) -> Error {
    Error::Io(io::Error::other(shared)).bt()
}

fn shared(error: &Error) -> Option<&Shared> {
    match error {
        Error::Io(error) => error.get_ref()?.downcast_ref(),
        Error::Context { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::WithBacktrace { inner, .. } => shared(inner),
        _ => None,
    }
}
