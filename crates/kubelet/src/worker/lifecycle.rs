//! postStart and preStop hooks.
//!
//! Runs commands in containers through the runtime and makes HTTP and TCP connections to the pod. Not here: when.
//! Upstream: `pkg/kubelet/lifecycle/handlers.go`.

use std::time::Duration;

use api::types::core::v1::{Container, LifecycleHandler};

use crate::node::Node;
use crate::probe::network;

/// Runs `handler` in the container `id`, at most for `limit`. The error is what the event says.
pub async fn run(
    node: &Node,
    handler: &LifecycleHandler,
    container: &Container,
    id: &str,
    ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let (code, output) = node.runtime.exec(id, &command, limit).await.map_err(|error| error.message())?;
        return match code {
            0 => Ok(()),
            code => Err(format!(
                "command '{}' exited with {code}: {}",
                command.join(" "),
                String::from_utf8_lossy(&output).trim_end()
            )),
        };
    }
    if let Some(http) = &handler.http_get {
        let target = network::http_target(http, container, ip)?;
        return match network::http(&target, limit).await? {
            (code, _) if (200..400).contains(&code) => Ok(()),
            (code, _) => Err(format!("HTTP request failed with statuscode: {code}")),
        };
    }
    if let Some(tcp) = &handler.tcp_socket {
        let port = network::port(&tcp.port, container)?;
        return network::tcp(tcp.host.as_deref().unwrap_or(ip), port, limit).await;
    }
    if let Some(sleep) = &handler.sleep {
        node.clock.sleep(Duration::from_secs(sleep.seconds.max(0) as u64).min(limit)).await;
    }
    Ok(())
}
