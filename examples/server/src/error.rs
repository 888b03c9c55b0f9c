//! What a request that fails is answered.

use std::path::Path;

use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ckload::Cancel;
use serde::Serialize;

/// Why a request failed, in the words of ckload where that knows.
#[derive(Debug, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    /// A stable word for programs.
    pub(crate) kind: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

/// What a response that is an error bears for whoever counts it.
#[derive(Clone)]
pub(crate) struct ErrorKind(pub(crate) String);

#[derive(Serialize)]
struct Body {
    error: ApiError,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            message: message.into(),
            path: None,
        }
    }

    pub(crate) fn about(mut self, path: &Path) -> Self {
        self.path = Some(path.display().to_string());
        self
    }

    /// A folder whose model cannot be had, or whose load `cancel` ended.
    pub(crate) fn refused(error: &anyhow::Error, folder: &Path, cancel: &Cancel) -> Self {
        let known = error.chain().find_map(|link| {
            // While the model was built it was told to candle.
            let told = || ckload::candle::cause(link.downcast_ref()?);
            link.downcast_ref::<ckload::Error>().or_else(told)
        });
        let kind = match known {
            Some(known) => known.kind(),
            None if cancel.is_cancelled() => "cancelled",
            None => "model",
        };
        let path = known.and_then(ckload::Error::path).unwrap_or(folder);
        let status = match kind {
            "memory" | "pool_too_small" | "threads" | "cancelled" => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            "worker_panicked" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, kind, format!("{error:#}")).about(path)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        let kind = if status == StatusCode::PAYLOAD_TOO_LARGE {
            "too_large"
        } else {
            "bad_request"
        };
        Self::new(status, kind, rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = ErrorKind(self.kind.clone());
        (self.status, Extension(kind), Json(Body { error: self })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use ckload::{Checkpoint, Loader, synth::Gpt2};

    use super::*;

    #[test]
    fn what_fails_while_a_model_is_built_keeps_its_kind_and_its_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("model.safetensors");
        let shape = Gpt2::TINY.blueprint();
        shape.write_file(&file, 0).expect("a disk with room");
        let checkpoint = Checkpoint::open(&file).expect("a valid file");
        std::fs::remove_file(&file).expect("our own file");
        let loader = Loader::new();
        let built = ckload::candle::var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu)
            .and_then(|weights| weights.get(96, "ln_f.weight"));
        let error = anyhow::Error::from(built.expect_err("the file is gone")).context("building");
        let refused = ApiError::refused(&error, folder.path(), &Cancel::new());
        assert_eq!(refused.kind, "io");
        assert_eq!(refused.path, Some(file.display().to_string()));
    }
}
