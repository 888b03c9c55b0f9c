//! An inference server as an adopter of ckload would write it: sentence embeddings over HTTP, by models that are swapped under load.
//!
//! | request | |
//! |---|---|
//! | `POST /embed` `{"texts": ["…"], "model": "name"}` | one vector a text; `model` may be left out while there is one |
//! | `GET /models` | all models, with their state |
//! | `POST /models` `{"name": "…", "path": "…"}` | loads another model |
//! | `PUT /models/{name}` `{"path": "…"}` | loads a model in place of one; that serves until the new one is whole, and stays if it is refused |
//! | `DELETE /models/{name}` | unloads it |
//! | `GET /metrics` | OpenMetrics text for Prometheus |
//! | `GET /health` | 200 |
//!
//! An error is `{"error": {"kind": "…", "message": "…"}}`, with `path` if it is about a file.
//!
//! What clients can make it hold is bounded: bodies of requests for embeddings by the places in the queue, which are taken before a body is
//! received, and each body by its size and its time. Connections are not: `axum::serve` limits neither their number nor the time that a
//! request's head takes. Where clients are not trusted, a proxy in front of the server has to.

mod api;
mod error;
mod folders;
mod metrics;
mod options;
mod queue;
pub mod random_bert;
mod registry;
mod server;

pub use self::metrics::resident_bytes;
pub use self::options::Options;
pub use self::server::Server;
