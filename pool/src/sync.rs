//! What threads share, through one door: the real types, or in the crate's own tests under `cfg(pool_loom)` those that loom explores.
//!
//! The name is our own, since other crates change under `cfg(loom)`.
//!
//! What nothing is ordered by, such as counters, comes from `std` in both cases: loom would only lose time over it.

#[cfg(all(test, pool_loom))]
pub(crate) use self::modelled::*;
#[cfg(not(all(test, pool_loom)))]
pub(crate) use self::real::*;

#[cfg(not(all(test, pool_loom)))]
mod real {
    use std::mem::ManuallyDrop;
    use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::atomic::{AtomicUsize, fence};

    use crossbeam_utils::atomic::AtomicCell;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

    /// The account of a pool's bytes.
    pub(crate) type Held = AtomicUsize;

    /// What a slot says of its buffer.
    pub(crate) type Tag = AtomicU64;

    /// A place for a box, one word, exchanged atomically.
    ///
    /// Of a type without a destructor, for which a store need not look at what was there. So what lies in it is dropped only by
    /// whoever takes it.
    pub(crate) struct BoxCell<T>(AtomicCell<ManuallyDrop<Option<Box<T>>>>);

    impl<T> Default for BoxCell<T> {
        fn default() -> Self {
            Self(AtomicCell::default())
        }
    }

    impl<T> BoxCell<T> {
        /// Fills an empty place, by a plain store.
        #[inline]
        pub(crate) fn put(&self, value: Box<T>) {
            self.0.store(ManuallyDrop::new(Some(value)));
        }

        /// Empties the place.
        #[inline]
        pub(crate) fn take(&self) -> Option<Box<T>> {
            ManuallyDrop::into_inner(self.0.swap(ManuallyDrop::default()))
        }

        #[cfg(test)]
        pub(crate) fn is_lock_free() -> bool {
            AtomicCell::<ManuallyDrop<Option<Box<T>>>>::is_lock_free()
        }
    }

    /// Declares a static.
    macro_rules! global {
        ($($declaration:tt)*) => {
            $($declaration)*
        };
    }

    /// Declares a static of each thread's own.
    macro_rules! per_thread {
        ($($declaration:tt)*) => {
            std::thread_local! { $($declaration)* }
        };
    }

    pub(crate) use {global, per_thread};
}

#[cfg(all(test, pool_loom))]
mod modelled {
    use std::{
        mem,
        ops::{Deref, DerefMut},
        sync::{self, PoisonError, atomic::Ordering},
        thread::panicking,
        time::Instant,
    };

    pub(crate) use ::loom::sync::atomic::{AtomicUsize, fence};
    use ::loom::{cell::Cell, sync as loom, sync::atomic::AtomicU64};

    /// Sequentially consistent loads are to loom no more than acquiring ones. An exchange sees the last value, as they would.
    #[derive(Default)]
    pub(crate) struct Held(AtomicUsize);

    impl Held {
        pub(crate) fn load(&self, _: Ordering) -> usize {
            self.0.fetch_add(0, Ordering::AcqRel)
        }

        pub(crate) fn fetch_sub(&self, by: usize, order: Ordering) -> usize {
            self.0.fetch_sub(by, order)
        }

        pub(crate) fn fetch_update(
            &self,
            set: Ordering,
            fetch: Ordering,
            mut update: impl FnMut(usize) -> Option<usize>,
        ) -> Result<usize, usize> {
            let mut before = self.load(fetch);
            while let Some(after) = update(before) {
                match self.0.compare_exchange(before, after, set, fetch) {
                    Ok(_) => return Ok(before),
                    Err(now) => before = now,
                }
            }
            Err(before)
        }
    }

    /// Loom knows in which order two exchanges of a word came, but a store that races with an exchange may seem to come
    /// both before and after it, which no machine allows. So a store is an exchange here, that acquires nothing, and who
    /// learns of an exchange by a load, acquires what came before it.
    #[derive(Default)]
    pub(crate) struct Tag(AtomicU64);

    impl Tag {
        pub(crate) fn load(&self, _: Ordering) -> u64 {
            self.0.load(Ordering::Acquire)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.0.swap(value, order);
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.0.compare_exchange(current, new, success, failure)
        }
    }

    /// The word is the place of a box in a table, plus one. Loom also sees to it that a box is seen whole by whoever takes it.
    pub(crate) struct BoxCell<T> {
        word: AtomicUsize,
        table: sync::Mutex<Table<T>>,
    }

    /// Boxes that were put in, and what shows whether all of a box's past is known to who takes it.
    type Table<T> = Vec<Option<(Box<T>, Cell<()>)>>;

    impl<T> Default for BoxCell<T> {
        fn default() -> Self {
            Self {
                word: AtomicUsize::new(0),
                table: sync::Mutex::default(),
            }
        }
    }

    impl<T> BoxCell<T> {
        fn table(&self) -> sync::MutexGuard<'_, Table<T>> {
            self.table.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn put(&self, value: Box<T>) {
            let word = {
                let mut table = self.table();
                table.push(Some((value, Cell::new(()))));
                table.len()
            };
            // The orders are those of `AtomicCell`.
            self.word.store(word, Ordering::Release);
        }

        /// As an exchange, but without a write where the place was empty already: see [`Tag`] for what loom would make of
        /// that, where the owner, who knows that the place is empty, stores.
        pub(crate) fn take(&self) -> Option<Box<T>> {
            // An exchange that fails sees the last value, as a load need not.
            let mut found = usize::MAX;
            let word = loop {
                let exchanged =
                    self.word
                        .compare_exchange(found, 0, Ordering::AcqRel, Ordering::Acquire);
                match exchanged {
                    Ok(word) => break word,
                    Err(0) => return None,
                    Err(word) => found = word,
                }
            };
            let (value, written) = self.table()[word - 1].take().expect("a box is taken once");
            written.set(());
            Some(value)
        }
    }

    impl<T> Drop for BoxCell<T> {
        fn drop(&mut self) {
            let lost = self.table().iter().flatten().count();
            assert!(lost == 0 || panicking(), "{lost} boxes were overwritten");
        }
    }

    #[derive(Default)]
    pub(crate) struct Mutex<T>(loom::Mutex<T>);

    /// Absent only while a condition is waited for.
    pub(crate) struct MutexGuard<'mutex, T> {
        guard: Option<loom::MutexGuard<'mutex, T>>,
        mutex: &'mutex Mutex<T>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard {
                guard: self.0.lock().ok(),
                mutex: self,
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.guard.as_ref().expect("locked")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_mut().expect("locked")
        }
    }

    #[derive(Default)]
    pub(crate) struct Condvar(loom::Condvar);

    pub(crate) struct TimedOut;

    impl TimedOut {
        pub(crate) fn timed_out(&self) -> bool {
            true
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notify_one(&self) -> bool {
            self.0.notify_one();
            true
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let locked = guard.guard.take().expect("locked");
            guard.guard = self.0.wait(locked).ok();
        }

        /// There is no time: the wait ends at once, but whatever the others do meanwhile is tried.
        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> TimedOut {
            guard.guard = None;
            guard.guard = guard.mutex.0.lock().ok();
            TimedOut
        }
    }

    #[derive(Default)]
    pub(crate) struct RwLock<T>(loom::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> loom::RwLockReadGuard<'_, T> {
            self.0.read().expect("never poisoned")
        }

        pub(crate) fn write(&self) -> loom::RwLockWriteGuard<'_, T> {
            self.0.write().expect("never poisoned")
        }
    }

    /// A thread's own value; left alone when a model has failed, since outside of it nothing can be done.
    pub(crate) struct Local<T>(Option<T>);

    impl<T> Local<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Some(value))
        }
    }

    impl<T> Deref for Local<T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("there until the drop")
        }
    }

    impl<T> Drop for Local<T> {
        fn drop(&mut self) {
            if panicking() {
                mem::forget(self.0.take());
            }
        }
    }

    macro_rules! per_thread {
        ($(#[$attribute:meta])* static $name:ident: $type:ty = const $value:block;) => {
            ::loom::thread_local! {
                $(#[$attribute])* static $name: $crate::sync::Local<$type> =
                    $crate::sync::Local::new($value);
            }
        };
    }

    macro_rules! global {
        ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
            ::loom::lazy_static! {
                $(#[$attribute])* static ref $name: $type = $value;
            }
        };
    }

    pub(crate) use {global, per_thread};
}
