//! A channel that tells an observer of each call: its name, how long it took, whether it failed.
//!
//! Sits under both clients, so that whoever adds a call need not think of counting it. A call that streams counts until
//! its first answer. Not here: what is done with it (the kubelet's metrics).
//! Upstream: pkg/kubelet/kuberuntime/instrumented_services.go (the names of the operations).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::transport::Channel;
use tower::Service;

/// Told when a call begins, by the operation's name in upstream's metrics (`run_podsandbox`); what it returns is told at
/// the end whether the call succeeded.
pub type Observer = Arc<dyn Fn(&str) -> Box<dyn FnOnce(bool) + Send> + Send + Sync>;

/// A [`Channel`] that is observed.
#[derive(Clone)]
pub struct Counted {
    channel: Channel,
    observer: Option<Observer>,
}

impl Counted {
    /// Calls on `channel` are told to `observer`, if there is one.
    pub fn new(channel: Channel, observer: Option<Observer>) -> Self {
        Self { channel, observer }
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("channel", &self.channel).finish_non_exhaustive()
    }
}

type Request = http::Request<tonic::body::Body>;
type Answer = http::Response<tonic::body::Body>;

impl Service<Request> for Counted {
    type Response = Answer;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let ended = self.observer.as_ref().map(|observer| {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            observer(&operation(method))
        });
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Some(ended) = ended {
                // A refusal comes as a head with its status, without a body.
                ended(answer.as_ref().is_ok_and(|answer| {
                    answer.headers().get("grpc-status").is_none_or(|status| status == "0")
                }));
            }
            answer
        })
    }
}

/// `RunPodSandbox` as `run_podsandbox`.
fn operation(method: &str) -> String {
    let mut name = String::with_capacity(method.len() + 4);
    for (index, letter) in method.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name.replace("pod_sandbox", "podsandbox")
}

#[cfg(test)]
mod tests {
    use super::operation;

    #[test]
    fn operations_have_upstreams_names() {
        for (method, expected) in [
            ("RunPodSandbox", "run_podsandbox"),
            ("PodSandboxStatus", "podsandbox_status"),
            ("ListContainers", "list_containers"),
            ("ExecSync", "exec_sync"),
            ("Version", "version"),
        ] {
            assert_eq!(operation(method), expected);
        }
    }
}
