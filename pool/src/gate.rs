//! The line in which requests wait for room: first come, first served.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicUsize, Condvar, Mutex, MutexGuard};

/// Set when the last handle is gone; below it the number of waiting requests is counted.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A waiting request asks as often as this whether its caller still wants it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a request may wait.
#[derive(Clone, Copy)]
pub(crate) enum Patience<'caller> {
    None,
    Until(Instant),
    Endless,
    /// Until then, but no longer than the caller wants it.
    Unless {
        deadline: Instant,
        is_over: &'caller dyn Fn() -> bool,
    },
}

impl Patience<'_> {
    pub(crate) fn for_at_most(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => Self::Until(deadline),
            None => Self::Endless,
        }
    }
}

/// The pool's waiting line, and the one word that says whether a returning thread has to care.
#[derive(Default)]
pub(crate) struct Gate {
    /// Who changes this, looks at the idle buffers afterwards; who adds an idle buffer or frees memory, looks at this
    /// afterwards. With sequentially consistent steps, or a lock or an exchanged word that both pass, one of the two
    /// always sees the other.
    attention: CachePadded<AtomicUsize>,
    line: Mutex<Line>,
}

/// Waiting requests, the next first.
type Line = VecDeque<Arc<Condvar>>;

impl Gate {
    /// Whether returning threads have to look: somebody waits, or the pool is closed.
    #[inline]
    pub(crate) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.attention.load(Ordering::SeqCst) & CLOSED != 0
    }

    pub(crate) fn waiting(&self) -> usize {
        self.line.lock().len()
    }

    pub(crate) fn close(&self) {
        self.attention.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Wakes the next request, so that it looks again.
    pub(crate) fn wake_next(&self) {
        if let Some(next) = self.line.lock().front() {
            next.notify_one();
        }
    }

    pub(crate) fn shrink_to_fit(&self) {
        self.line.lock().shrink_to_fit();
    }

    /// Runs `attempt` as soon as it is this request's turn, and again whenever something may have changed, until it
    /// succeeds or patience ends. It runs under the line's lock; its argument says whether the request stands in line.
    ///
    /// Also returns how long the request stood in line, if it did.
    pub(crate) fn pass<T>(
        &self,
        patience: Patience<'_>,
        mut attempt: impl FnMut(bool) -> Option<T>,
    ) -> (Option<T>, Option<Duration>) {
        let mut line = self.line.lock();
        if line.is_empty()
            && let Some(passed) = attempt(false)
        {
            return (Some(passed), None);
        }
        if matches!(patience, Patience::None) {
            return (None, None);
        }
        let since = Instant::now();
        let turn = Arc::new(Condvar::new());
        line.push_back(Arc::clone(&turn));
        self.attention.fetch_add(1, Ordering::SeqCst);
        let mut place = Place {
            gate: self,
            line,
            turn,
        };
        let mut late = false;
        loop {
            if place.is_first()
                && let Some(passed) = attempt(true)
            {
                return (Some(passed), Some(since.elapsed()));
            }
            if late {
                return (None, Some(since.elapsed()));
            }
            match patience {
                Patience::Until(deadline) => {
                    late = place.turn.wait_until(&mut place.line, deadline).timed_out();
                }
                Patience::Unless { deadline, is_over } => {
                    let look = deadline.min(Instant::now() + LOOK_EVERY);
                    let in_vain = place.turn.wait_until(&mut place.line, look).timed_out();
                    late = is_over() || (in_vain && look == deadline);
                }
                _ => place.turn.wait(&mut place.line),
            }
        }
    }
}

/// A request's place in the line; leaving it lets the next one look.
struct Place<'gate> {
    gate: &'gate Gate,
    line: MutexGuard<'gate, Line>,
    turn: Arc<Condvar>,
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        self.line
            .front()
            .is_some_and(|first| Arc::ptr_eq(first, &self.turn))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
        self.gate.attention.fetch_sub(1, Ordering::SeqCst);
        if let Some(next) = self.line.front() {
            next.notify_one();
        }
    }
}
