//! Keeps APIServices true: makes and removes those of custom groups, checks the remote ones, writes their conditions,
//! and says who serves what from now on.
//!
//! Works when an APIService, the table of resources or, where there are remote groups, a Service or EndpointSlice
//! changes. A remote group is checked again every 30 seconds, because what is wrong between two machines changes
//! nothing in the cluster; without remote groups there is no timer.
//! Upstream: kube-aggregator/pkg/controllers/{status,autoregister}, pkg/controlplane/controller/crdregistration.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::{GroupResource, Object, Status};
use bytes::Bytes;
use foundation::metrics::{Family, Gauge, registry};
use futures::FutureExt;
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Request, header};
use serde_json::Value;

use super::connect::{self, Unreachable};
use super::{Remote, Routes, local, openapi, proxy};
use crate::engine::timestamp;
use crate::proxy as transport;
use crate::request::User;
use crate::server::Server;

/// How often a remote group in order is looked at, and at most how long after a failure.
const PERIOD: Duration = Duration::from_secs(30);
/// The first pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest discovery document that is read.
const DOCUMENT: usize = 4 << 20;

/// What the last check of a remote group was about, and what it found.
struct Checked {
    /// The spec and the versions of what it depends on.
    of: String,
    due: Duration,
    failures: u32,
    remote: Arc<Remote>,
}

fn resource() -> GroupResource {
    GroupResource::new("apiregistration.k8s.io", "apiservices")
}

/// Keeps them true from now on.
pub(crate) fn start(server: &Arc<Server>) {
    let server = server.clone();
    server.tasks.clone().spawn_until_cancelled("aggregation", async move {
        let mut checked = HashMap::new();
        loop {
            if let Err(error) = follow(&server, &mut checked).await {
                tracing::warn!(%error, "APIServices could not be looked after, trying again");
                server.clock.sleep(PERIOD).await;
            }
        }
    });
}

/// One round, and the wait for what makes the next one necessary.
async fn follow(server: &Arc<Server>, checked: &mut HashMap<String, Checked>) -> Result<(), Status> {
    // Subscribed before anything is read: no change is missed.
    let mut own = server.cluster.changes(&resource()).await?;
    let mut table = server.registry.changes();
    let had_remotes = !checked.is_empty();
    let mut others = match had_remotes {
        true => Some((
            server.cluster.changes(&GroupResource::new("", "services")).await?,
            server.cluster.changes(&GroupResource::new("discovery.k8s.io", "endpointslices")).await?,
        )),
        false => None,
    };
    round(server, checked).await?;
    if had_remotes == checked.is_empty() {
        // The first remote group came, or the last one went: there is more, or less, to wait for.
        return Ok(());
    }
    let now = server.clock.monotonic();
    let due = checked.values().map(|checked| checked.due.saturating_sub(now)).min();
    let places = async {
        match &mut others {
            Some((services, slices)) => tokio::select! {
                _ = services.changed() => {}
                _ = slices.changed() => {}
            },
            None => std::future::pending().await,
        }
    };
    let timer = async {
        match due {
            Some(due) => server.clock.sleep(due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = own.changed() => {}
        _ = table.changed() => {}
        () = places => {}
        () = timer => {}
    }
    Ok(())
}

async fn round(server: &Arc<Server>, checked: &mut HashMap<String, Checked>) -> Result<(), Status> {
    let listed = server.cluster.list(&resource(), "").await?;
    let objects: Vec<Object> =
        listed.items.iter().filter_map(|item| serde_json::from_slice(item).ok().map(Object)).collect();
    register(server, &objects).await;
    let now = timestamp(server.clock.now());
    let (remote, own): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|object| object.0["spec"]["service"].is_object());
    for object in own {
        write(server, object, local::condition(&now)).await;
    }
    let names: BTreeSet<&str> = remote.iter().map(Object::name).collect();
    checked.retain(|name, _| {
        let there = names.contains(name.as_str());
        if !there {
            gauge().remove(&[name]);
        }
        there
    });
    let former = std::mem::take(checked);
    // Boxed one by one: of closures over references the compiler cannot see that they may be sent.
    let mut looks = Vec::new();
    for object in &remote {
        looks.push(look(server, object, former.get(object.name())).boxed());
    }
    let looked = join_all(looks).await;
    for (object, (next, condition)) in remote.into_iter().zip(looked) {
        let name = object.name().to_owned();
        checked.insert(name, next);
        if let Some(mut condition) = condition {
            condition["lastTransitionTime"] = now.as_str().into();
            write(server, object, condition).await;
        }
    }
    let routes = checked.values().map(|checked| {
        let remote = &checked.remote;
        ((remote.group.clone(), remote.version.clone()), remote.clone())
    });
    server.aggregator.routes.store(Arc::new(Routes(routes.collect())));
    openapi::refresh(server);
    Ok(())
}

/// Makes the APIServices of custom groups, and removes those of groups that are gone.
async fn register(server: &Arc<Server>, objects: &[Object]) {
    let wanted: BTreeSet<(String, String)> = {
        let table = server.registry.table();
        let custom = table.all().filter(|resource| resource.is_custom()).map(|resource| &resource.descriptor);
        custom.map(|d| (d.group.to_string(), d.version.to_string())).collect()
    };
    let Some(own) = server.registry.table().preferred(&resource()).cloned() else { return };
    let now = timestamp(server.clock.now());
    for (group, version) in &wanted {
        let object = local::custom(group, version, &now);
        if !objects.iter().any(|known| known.name() == object.name())
            && let Err(error) = crate::bootstrap::create(server, object).await
        {
            tracing::warn!(group, version, %error, "an APIService could not be made");
        }
    }
    for object in objects.iter().filter(|object| local::is_custom(object)) {
        let text = |field: &str| object.0["spec"][field].as_str().unwrap_or_default().to_owned();
        if wanted.contains(&(text("group"), text("version"))) {
            continue;
        }
        let Ok(revision) = object.resource_version().parse() else { continue };
        if let Err(error) = server.storage.delete(&own, "", object.name(), revision).await {
            tracing::warn!(name = object.name(), %error, "an APIService could not be removed");
        }
    }
}

/// Checks one remote group, unless the last check still holds. The condition is given where it was checked.
async fn look(server: &Arc<Server>, object: &Object, former: Option<&Checked>) -> (Checked, Option<Value>) {
    let spec = &object.0["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&spec["service"]["namespace"]), text(&spec["service"]["name"]));
    let port = spec["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let place = connect::place(server, &namespace, &name).await;
    let of = format!("{spec} {}", place.as_ref().map_or("", |place| place.version.as_str()));
    let now = server.clock.monotonic();
    if let Some(former) = former.filter(|former| former.of == of && now < former.due) {
        let remote = former.remote.clone();
        return (Checked { of, due: former.due, failures: former.failures, remote }, None);
    }
    let mut remote = Remote {
        name: object.name().to_owned(),
        group: text(&spec["group"]),
        version: text(&spec["version"]),
        group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
        version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
        tls: connect::tls(spec, &server.aggregator.options),
        available: false,
        // What was known is told on, as stale, while the server cannot be asked.
        resources: former.and_then(|former| former.remote.resources.clone()),
        openapi: former.and_then(|former| former.remote.openapi.clone()),
        service: (namespace.clone(), name.clone(), port),
    };
    let found = match place {
        Err(error) => Err(connect::unreadable(&namespace, &name, &error)),
        Ok(place) => place
            .resolve((&namespace, &name, port), |count| server.randomness.u64() % count)
            .map(|(host, port)| format!("https://{host}:{port}")),
    };
    let answered = match found {
        Err(problem) => Err(problem),
        Ok(base) => ask(server, &mut remote).await.map_err(|problem| {
            let path = format!("{base}/apis/{}/{}", remote.group, remote.version);
            let message = match problem {
                Problem::Code(code) => {
                    format!("failing or missing response from {path}: bad status from {path}: {code}")
                }
                Problem::Other(problem) => format!("failing or missing response from {path}: {problem}"),
            };
            Unreachable::no("FailedDiscoveryCheck", message)
        }),
    };
    let (status, reason, message, failures) = match answered {
        Ok(()) => ("True", "Passed", "all checks passed".to_owned(), 0),
        Err(problem) => {
            let failures = former.map_or(0, |former| former.failures).saturating_add(1);
            (problem.status, problem.reason, problem.message, failures)
        }
    };
    remote.available = failures == 0;
    unavailable(object.name(), failures, reason);
    let pause = match failures {
        0 => PERIOD,
        count => AGAIN.saturating_mul(1 << count.min(10)).min(PERIOD),
    };
    let condition =
        serde_json::json!({"type": "Available", "status": status, "reason": reason, "message": message});
    (Checked { of, due: now + pause, failures, remote: Arc::new(remote) }, Some(condition))
}

/// 1 for an APIService that cannot be reached; upstream's name and labels.
fn gauge() -> Family<Gauge> {
    registry().gauge(
        "aggregator_unavailable_apiservice",
        "1 for each APIService that cannot be reached.",
        &["name"],
    )
}

/// Counts how an APIService was found.
fn unavailable(name: &str, failures: u32, reason: &str) {
    gauge().with(&[name]).set(if failures == 0 { 0.0 } else { 1.0 });
    if failures == 1 {
        let counter = registry().counter(
            "aggregator_unavailable_apiservice_total",
            "How often an APIService became unreachable, by reason.",
            &["name", "reason"],
        );
        counter.with(&[name, reason]).inc();
    }
}

enum Problem {
    Code(u16),
    Other(String),
}

/// Asks the server what it serves.
async fn ask(server: &Arc<Server>, remote: &mut Remote) -> Result<(), Problem> {
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let list = get(server, remote, &path).await?;
    remote.resources = serde_json::from_slice(&list).ok().map(Arc::new);
    let path = format!("apis/{}/{}", remote.group, remote.version);
    // A server without OpenAPI v3 is in order.
    let index: Option<Value> =
        get(server, remote, "/openapi/v3").await.ok().and_then(|index| serde_json::from_slice(&index).ok());
    remote.openapi = index
        .and_then(|index| index["paths"][&path]["serverRelativeURL"].as_str().map(str::to_owned))
        .filter(|url| url.starts_with("/openapi/v3/"));
    Ok(())
}

async fn get(server: &Arc<Server>, remote: &Remote, path: &str) -> Result<Bytes, Problem> {
    // As upstream: a check that nobody relies on does not depend on the certificate.
    let tls = connect::unverified(&server.aggregator.options);
    let checker = User::new("system:kube-aggregator", &[User::MASTERS]);
    let asked = Asked { path, user: &checker, tag: None, limit: DOCUMENT, patience: PATIENCE };
    let answer = exchange(server, remote, tls, asked).await.map_err(Problem::Other)?;
    match answer.code {
        200..300 => Ok(answer.body),
        code => Err(Problem::Code(code)),
    }
}

/// What another server is asked for.
pub(super) struct Asked<'a> {
    pub path: &'a str,
    /// In whose name.
    pub user: &'a User,
    /// What is known already, by the other server's tag.
    pub tag: Option<HeaderValue>,
    /// The largest body that is read.
    pub limit: usize,
    /// How long it may take.
    pub patience: Duration,
}

/// What it answered.
pub(super) struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    /// Empty unless the code says success.
    pub body: Bytes,
}

/// Asks another server for JSON.
pub(super) async fn exchange(
    server: &Arc<Server>,
    remote: &Remote,
    tls: Arc<rustls::ClientConfig>,
    asked: Asked<'_>,
) -> Result<Answer, String> {
    let to = proxy::destination(server, remote, tls).await.ok_or("no endpoint")?;
    let mut request = Request::get(asked.path)
        .header(header::ACCEPT, "application/json")
        .body(client::empty_body())
        .map_err(|problem| problem.to_string())?;
    request.headers_mut().extend(asked.tag.map(|tag| (header::IF_NONE_MATCH, tag)));
    proxy::introduce(request.headers_mut(), asked.user).map_err(|problem| problem.to_string())?;
    let exchange = async {
        let response = transport::pass_on(server, &to, request, None, None).await;
        let response = response.map_err(|why| why.dialing().message)?;
        let (head, body) = response.into_parts();
        let body = match head.status.is_success() {
            true => crate::response::read(body, asked.limit).await.map_err(|problem| problem.to_string())?,
            false => Bytes::new(),
        };
        Ok(Answer { code: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::select! {
        answer = exchange => answer,
        () = server.clock.sleep(asked.patience) => Err("no answer in time".to_owned()),
    }
}

/// Writes the condition `Available` where it says something new.
async fn write(server: &Server, mut object: Object, said: Value) {
    let condition = &said;
    let conditions = object.0["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.iter().find(|known| known["type"] == condition["type"]);
    let same = |field: &str| known.is_some_and(|known| known[field] == condition[field]);
    if ["status", "reason", "message"].into_iter().all(same) {
        return;
    }
    let mut condition = condition.clone();
    if same("status")
        && let Some(known) = known
    {
        condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
    }
    let mut next: Vec<Value> =
        conditions.iter().filter(|known| known["type"] != condition["type"]).cloned().collect();
    next.push(condition);
    object.0["status"]["conditions"] = next.into();
    let name = object.name().to_owned();
    // A conflict is a change, which brings us here again.
    if let Err(error) = server.cluster.replace(&resource(), object).await
        && !error.is_conflict()
        && !error.is_not_found()
    {
        tracing::warn!(name, %error, "the condition of an APIService could not be written");
    }
}
