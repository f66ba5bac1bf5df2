//! The gRPC face of the runtime: CRI's two services over the engine and the image store.
//!
//! Only conversion. Upstream: containerd internal/cri/instrument (codes of errors).

mod images;
mod runtime;

use std::sync::Arc;

use tonic::{Code, Status};

use crate::engine::{Engine, Error};
use crate::streaming::Streaming;

/// Serves both services.
#[derive(Clone)]
pub(crate) struct Service {
    pub engine: Arc<Engine>,
    pub streaming: Arc<Streaming>,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound { .. } => Code::NotFound,
            Error::Invalid(_) => Code::InvalidArgument,
            Error::State(_) => Code::FailedPrecondition,
            Error::Timeout(_) => Code::DeadlineExceeded,
            _ => Code::Unknown,
        };
        Self::new(code, chain(&error))
    }
}

/// An error with its causes, as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
