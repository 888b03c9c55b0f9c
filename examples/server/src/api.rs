//! The requests that the server answers.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ckload::{ByteSize, Cancel};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{ApiError, ErrorKind};
use crate::metrics::Metrics;
use crate::queue::{Place, Queue};
use crate::registry::{Change, ModelState, Registry};

/// What answers requests.
pub(crate) struct App {
    pub(crate) registry: Arc<Registry>,
    pub(crate) queue: Queue,
    pub(crate) metrics: Metrics,
    pub(crate) max_texts: NonZeroUsize,
    pub(crate) body_timeout: Duration,
}

/// The body of a request for a model is a name and a path.
const MAX_PATHS: usize = 64 << 10;

/// A request's body, which has to arrive in time.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let received = timeout(app.body_timeout, Json::from_request(request, app)).await;
        let late = |_| {
            let message = format!("the body was not there after {:?}", app.body_timeout);
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "late", message)
        };
        let Json(body) = received.map_err(late)??;
        Ok(Self(body))
    }
}

/// Taken before the body is received, so that there are no more bodies than places.
impl FromRequestParts<Arc<App>> for Place {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        app.queue.place()
    }
}

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
    let app = Arc::new(app);
    let max_body = max_body.as_u64() as usize;
    let counted = from_fn_with_state(Arc::clone(&app), count);
    let models = Router::new()
        .route("/models", get(list).post(load))
        .route("/models/{name}", put(swap).delete(unload))
        .layer(DefaultBodyLimit::max(max_body.min(MAX_PATHS)));
    Router::new()
        .route("/embed", post(embed).route_layer(counted))
        .layer(DefaultBodyLimit::max(max_body))
        .merge(models)
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { "ok\n" }))
        .with_state(app)
}

/// Counts a request for embeddings, whatever comes of it.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let asked = app.metrics.asked();
    let response = next.run(request).await;
    let error = response.extensions().get::<ErrorKind>();
    asked.answered(error.map_or("ok", |ErrorKind(kind)| kind));
    response
}

async fn embed(
    State(app): State<Arc<App>>,
    place: Place,
    Body(EmbedRequest { texts, model }): Body<EmbedRequest>,
) -> Result<Json<EmbedResponse>, ApiError> {
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
    let embeddings = app.queue.run(place, work).await?;
    Ok(Json(EmbedResponse { embeddings }))
}

async fn list(State(app): State<Arc<App>>) -> Json<Vec<ModelState>> {
    Json(app.registry.list())
}

async fn load(
    State(app): State<Arc<App>>,
    Body(LoadRequest { name, path }): Body<LoadRequest>,
) -> Result<(StatusCode, Json<ModelState>), ApiError> {
    let state = change(&app.registry, &name, path, Change::Load).await?;
    Ok((StatusCode::CREATED, Json(state)))
}

async fn swap(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Body(SwapRequest { path }): Body<SwapRequest>,
) -> Result<Json<ModelState>, ApiError> {
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
