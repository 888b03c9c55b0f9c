//! The server: its parts, its beginning and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use ckload::candle::Storages;
use ckload::{BufferPool, Loader};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::Options;
use crate::api::{self, App};
use crate::folders::Folders;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::registry::{Change, Registry};

/// A server that listens, and answers once it [runs](Self::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    grace: Duration,
    storages: Storages,
}

impl Server {
    /// Loads the models that were asked for, and begins to listen. Who drops the future ends the load that is under way.
    ///
    /// # Errors
    ///
    /// A folder or a model is not what it should be, or the address is taken.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let pool = BufferPool::builder().pinned_memory(true).build();
        let storages = Storages::new(options.keep);
        let metrics = Metrics::new(&pool, &storages);
        let registry = Arc::new(Registry::new(
            Folders::open(&options.folders)?,
            Loader::new().pool(&pool),
            storages.clone(),
            options.max_models,
            metrics.loads(),
        ));
        for (name, path) in options.load {
            api::change(&registry, &name, path, Change::Load).await?;
        }
        let app = App {
            registry,
            queue: Queue::new(options.queue, options.workers),
            metrics,
            max_texts: options.max_texts,
            body_timeout: Duration::from_secs(options.body_timeout.into()),
        };
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.with_context(|| options.listen.to_string())?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            router: api::router(app, options.max_body),
            grace: Duration::from_secs(options.grace.into()),
            storages,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What keeps the memory of models for the next ones.
    #[must_use]
    pub fn storages(&self) -> &Storages {
        &self.storages
    }

    /// Answers requests until `ended`, and then those that have begun.
    ///
    /// When the time for those is over, what they compute or load may still be under way on the runtime's blocking threads: a program that
    /// is to end by then shuts the runtime down [in the background](tokio::runtime::Runtime::shutdown_background).
    ///
    /// # Errors
    ///
    /// Some were not done when the time for that was over.
    pub async fn run(self, ended: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let (ending, has_ended) = oneshot::channel();
        let served = axum::serve(self.listener, self.router).with_graceful_shutdown(async move {
            ended.await;
            // Nobody listens if the server failed by itself.
            let _ = ending.send(());
        });
        let too_late = async {
            if has_ended.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            result = served => Ok(result?),
            () = too_late => bail!("some requests were not done after {:?}", self.grace),
        }
    }
}
