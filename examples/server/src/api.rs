//! The requests that the server answers.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ckload::{ByteSize, Cancel};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::registry::{Change, ModelState, Registry};

/// What answers requests.
pub(crate) struct App {
    pub(crate) registry: Arc<Registry>,
    pub(crate) queue: Queue,
    pub(crate) metrics: Metrics,
    pub(crate) max_texts: NonZeroUsize,
}

type Body<T> = Result<Json<T>, JsonRejection>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedRequest {
    texts: Vec<String>,
    model: Option<String>,
}

#[derive(Serialize)]
struct EmbedResponse {
    embeddings: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    name: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SwapRequest {
    path: String,
}

pub(crate) fn router(app: App, max_body: ByteSize) -> Router {
    Router::new()
        .route("/embed", post(embed))
        .route("/models", get(list).post(load))
        .route("/models/{name}", put(swap).delete(unload))
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(max_body.as_u64() as usize))
        .with_state(Arc::new(app))
}

async fn embed(
    State(app): State<Arc<App>>,
    body: Body<EmbedRequest>,
) -> Result<Json<EmbedResponse>, ApiError> {
    let Json(EmbedRequest { texts, model }) = body?;
    if texts.len() > app.max_texts.get() {
        let message = format!(
            "{} texts are too many at once; {} are allowed",
            texts.len(),
            app.max_texts
        );
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_many_texts",
            message,
        ));
    }
    let registry = Arc::clone(&app.registry);
    let work = move || {
        // Which model it is shows only now: who waited in line need not keep one from being given up.
        let served = registry.get(model.as_deref())?;
        let embeddings = served.embedder.embed(&texts);
        embeddings.map_err(|error| ApiError::failed(format!("{error:#}")))
    };
    let result = app.queue.run(work).await;
    app.metrics.answered(&result);
    Ok(Json(EmbedResponse {
        embeddings: result?,
    }))
}

async fn list(State(app): State<Arc<App>>) -> Json<Vec<ModelState>> {
    Json(app.registry.list())
}

async fn load(
    State(app): State<Arc<App>>,
    body: Body<LoadRequest>,
) -> Result<(StatusCode, Json<ModelState>), ApiError> {
    let Json(LoadRequest { name, path }) = body?;
    let state = change(&app.registry, &name, path, Change::Load).await?;
    Ok((StatusCode::CREATED, Json(state)))
}

async fn swap(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    body: Body<SwapRequest>,
) -> Result<Json<ModelState>, ApiError> {
    let Json(SwapRequest { path }) = body?;
    let state = change(&app.registry, &name, path, Change::Swap).await?;
    Ok(Json(state))
}

/// Loads a model where it may block. A client that goes away ends the load.
pub(crate) async fn change(
    registry: &Arc<Registry>,
    name: &str,
    path: String,
    change: Change,
) -> Result<ModelState, ApiError> {
    let ticket = registry.begin(name, change)?;
    let end = EndOnDrop(Cancel::new());
    let cancel = end.0.clone();
    let loaded = spawn_blocking(move || ticket.load(&path, &cancel)).await;
    loaded.unwrap_or_else(|panic| Err(ApiError::failed(panic.to_string())))
}

/// Ends a load that nobody waits for any more.
struct EndOnDrop(Cancel);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn unload(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let unloaded = app.registry.unload(&name)?;
    // To give so much memory back takes a while.
    spawn_blocking(move || drop(unloaded));
    Ok(StatusCode::NO_CONTENT)
}

async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let text = app
        .metrics
        .text()
        .map_err(|error| ApiError::failed(error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
