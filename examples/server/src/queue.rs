//! Embeddings are computed beside the threads that answer requests, a few at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::error::ApiError;

/// A line of bounded length before a few workers.
pub(crate) struct Queue {
    /// One for each request that is in line or at work.
    places: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

/// The right to be in line or at work; whoever drops it leaves.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    pub(crate) fn new(places: NonZeroUsize, workers: NonZeroUsize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.get())),
            workers: Arc::new(Semaphore::new(workers.get())),
        }
    }

    /// A place in line, if there is one.
    pub(crate) fn place(&self) -> Result<Place, ApiError> {
        let full = |_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "too many requests wait; try again later",
            )
        };
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        Ok(Place { _permit: permit })
    }

    /// Does `work` once a worker is free. Work whose request is given up while it is in line is not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let worker = Arc::clone(&self.workers).acquire_owned().await;
        let worker = worker.map_err(|closed| ApiError::failed(closed.to_string()))?;
        let done = spawn_blocking(move || {
            let _until_done = (place, worker);
            work()
        });
        done.await
            .unwrap_or_else(|panic| Err(ApiError::failed(panic.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    #[tokio::test]
    async fn who_finds_no_place_in_line_is_told_so_at_once() {
        let queue = Arc::new(Queue::new(ONE.saturating_add(1), ONE));
        let (begun, has_begun) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        let task = |work| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.run(queue.place()?, work).await })
        };
        let first: Box<dyn FnOnce() -> Result<u8, ApiError> + Send> = Box::new(move || {
            begun.send(()).unwrap();
            may_finish.recv().unwrap();
            Ok(1)
        });
        let working = task(first);
        while has_begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let waiting = task(Box::new(|| Ok(2)));
        while queue.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.place().err().unwrap().kind, "busy");

        // Who gives up in line makes room.
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(queue.places.available_permits(), 1);
        finish.send(()).unwrap();
        assert_eq!(working.await.unwrap().unwrap(), 1);
        let place = queue.place().unwrap();
        assert_eq!(queue.run(place, || Ok(3)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_leaves_its_place() {
        let queue = Queue::new(ONE, ONE);
        let failed = queue
            .run(queue.place().unwrap(), || -> Result<(), ApiError> {
                panic!("a bug")
            })
            .await;
        assert_eq!(failed.unwrap_err().kind, "failed");
        let place = queue.place().unwrap();
        assert_eq!(queue.run(place, || Ok(1)).await.unwrap(), 1);
    }
}
