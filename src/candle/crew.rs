//! Several threads that take from one stream.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use candle_core::{Error, Result};

use crate::Cancel;

/// Runs `work` on the calling thread and on `others`, as far as the system gives them, and gives what each made. The first failure, or panic,
/// is what comes of it, and cancels what `cancel` is for, so that nobody works on in vain.
pub(super) fn run<T: Send>(
    others: usize,
    cancel: &Cancel,
    work: impl Fn() -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let first_error: Mutex<Option<Error>> = Mutex::new(None);
    let guarded = || {
        let made = catch_unwind(AssertUnwindSafe(&work));
        if !matches!(made, Ok(Ok(_))) {
            cancel.cancel();
        }
        match made {
            Ok(Ok(made)) => Some(made),
            Ok(Err(error)) => {
                let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                // An error of the cancelling comes after that of its cause, but perhaps before it is noted.
                let is_cause = !super::cause(&error).is_some_and(is_cancelled);
                if first.is_none() || is_cause {
                    *first = Some(error);
                }
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    };
    let made = thread::scope(|scope| {
        let others: Vec<_> = (0..others)
            .map_while(|_| {
                let thread = thread::Builder::new().name("ckload-candle-crew".to_owned());
                thread.spawn_scoped(scope, guarded).ok()
            })
            .collect();
        let mut made: Vec<T> = guarded().into_iter().collect();
        for other in others {
            made.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        made
    });
    let first_error = first_error.into_inner();
    match first_error.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(made),
    }
}

fn is_cancelled(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Cancelled)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn the_first_failure_ends_the_others_and_is_what_is_told() {
        let cancel = Cancel::new();
        let turn = AtomicUsize::new(0);
        let work = || -> Result<()> {
            if turn.fetch_add(1, Relaxed) == 1 {
                candle_core::bail!("the second one fails");
            }
            while !cancel.is_cancelled() {
                thread::yield_now();
            }
            Err(super::super::error::wrap(crate::Error::Cancelled))
        };
        let error = run(3, &cancel, work).expect_err("one fails");
        assert!(
            error.to_string().contains("the second one fails"),
            "{error}"
        );
    }

    #[test]
    fn what_each_made_is_there() {
        let turn = AtomicUsize::new(0);
        let mut made =
            run(2, &Cancel::new(), || Ok(turn.fetch_add(1, Relaxed))).expect("none fails");
        made.sort_unstable();
        assert_eq!(made, [0, 1, 2]);
    }
}
