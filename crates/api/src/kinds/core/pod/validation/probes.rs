//! Probes and lifecycle handlers of a container.

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{not_negative_if_set, port, port_number, required};
use crate::kinds::optional::{items, text};
use crate::meta_validation::push_invalid;
use crate::types::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};

/// The actions probes and lifecycle handlers share.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// Lifecycle and probes of a container that may have them. `grace` is how long the pod may take to end.
pub(super) fn container(errors: &mut ErrorList, container: &Container, grace: Option<i64>, path: &Path) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(handler) = handler {
                self::handler(errors, &of_lifecycle(handler), grace, &path.child(name));
            }
        }
    }
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let path = path.child(name);
        self::probe(errors, probe, &path);
        if name == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                let message = "must not be set for readinessProbes";
                errors.push(field::invalid(&path.child("terminationGracePeriodSeconds"), seconds, message));
            }
        } else if probe.success_threshold != Some(1) {
            let threshold = probe.success_threshold.unwrap_or(0);
            errors.push(field::invalid(&path.child("successThreshold"), threshold, "must be 1"));
        }
    }
}

fn of_lifecycle(handler: &LifecycleHandler) -> Handler<'_> {
    Handler {
        exec: handler.exec.as_ref(),
        http: handler.http_get.as_ref(),
        tcp: handler.tcp_socket.as_ref(),
        sleep: handler.sleep.as_ref(),
        grpc: None,
    }
}

fn probe(errors: &mut ErrorList, probe: &Probe, path: &Path) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    self::handler(errors, &handler, None, path);
    not_negative_if_set(errors, &path.child("initialDelaySeconds"), probe.initial_delay_seconds);
    not_negative_if_set(errors, &path.child("timeoutSeconds"), probe.timeout_seconds);
    not_negative_if_set(errors, &path.child("periodSeconds"), probe.period_seconds);
    not_negative_if_set(errors, &path.child("successThreshold"), probe.success_threshold);
    not_negative_if_set(errors, &path.child("failureThreshold"), probe.failure_threshold);
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|&seconds| seconds <= 0) {
        errors.push(field::invalid(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
}

fn handler(errors: &mut ErrorList, handler: &Handler<'_>, grace: Option<i64>, path: &Path) {
    let present = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http.is_some()),
        ("tcpSocket", handler.tcp.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    let mut named = present.iter().filter(|(_, present)| *present).map(|(name, _)| *name);
    let Some(first) = named.next() else {
        errors.push(field::required(path, "must specify a handler type"));
        return;
    };
    action(errors, handler, first, grace, &path.child(first));
    for name in named {
        errors.push(field::forbidden(&path.child(name), "may not specify more than 1 handler type"));
    }
}

fn action(errors: &mut ErrorList, handler: &Handler<'_>, name: &str, grace: Option<i64>, path: &Path) {
    match name {
        "exec" => {
            if handler.exec.is_some_and(|exec| items(&exec.command).is_empty()) {
                errors.push(field::required(&path.child("command"), ""));
            }
        }
        "httpGet" => handler.http.iter().for_each(|http| http_get(errors, http, path)),
        "tcpSocket" => handler.tcp.iter().for_each(|tcp| port(errors, &path.child("port"), &tcp.port)),
        "grpc" => handler.grpc.iter().for_each(|grpc| port_number(errors, &path.child("port"), grpc.port)),
        _ => {
            if let (Some(sleep), Some(grace)) = (handler.sleep, grace)
                && !(0..=grace).contains(&sleep.seconds)
            {
                errors.push(field::invalid(
                    path,
                    sleep.seconds,
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
                ));
            }
        }
    }
}

fn http_get(errors: &mut ErrorList, http: &HTTPGetAction, path: &Path) {
    required(errors, &path.child("path"), text(&http.path));
    port(errors, &path.child("port"), &http.port);
    let scheme = text(&http.scheme);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(field::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(&http.http_headers) {
        let is_name = !header.name.is_empty()
            && header.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                           'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            push_invalid(errors, &path.child("httpHeaders"), &header.name, vec![message.to_owned()]);
        }
    }
}
