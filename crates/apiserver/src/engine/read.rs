//! GET of one object and of lists.
//!
//! One object comes from the store. Lists come from the watch cache once it is as new as they need it to
//! be; only lists of the past (`resourceVersionMatch=Exact`, the later pieces of a list in pieces) read
//! the store at their revision.

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use bytes::Bytes;
use serde_json::{Value, json};
use store::Range;

use super::Call;
use super::continuation::Token;
use super::selection::{self, Selection, When};
use crate::cache::{Cache, Cached, Limit};
use crate::metrics::caches;
use crate::response::Response;
use crate::storage::{self, unreadable};

/// How long a read waits for a revision that the server has not seen yet (upstream's blockTimeout).
const FUTURE_WAIT: Duration = Duration::from_secs(3);
/// Objects read from the store at a time when a selector may drop most of them.
const PAGE: usize = 10_000;

pub(super) async fn get(call: &Call) -> Result<Response, Status> {
    if call.resource.rest.items(call).await?.is_some() {
        return from_items(call).await;
    }
    let text = call.query.get("resourceVersion").unwrap_or_default();
    if let Some(revision) = selection::parse_revision(text)?.filter(|revision| *revision > 0) {
        reach(call, revision).await?;
    }
    let kv = call.server.storage.read(&call.resource, &call.info.namespace, &call.info.name).await?;
    match kv {
        Some(kv) => {
            unreadable::check(&kv)?;
            Ok(call.respond(200, &call.resource.view.served(&kv.value).await?))
        }
        None => Err(Status::not_found(&call.resource.group_resource, &call.info.name)),
    }
}

/// Resources that are computed, not stored.
async fn from_items(call: &Call) -> Result<Response, Status> {
    let items = call.resource.rest.items(call).await?.unwrap_or_default();
    let named =
        |item: &&Value| item.pointer("/metadata/name").and_then(Value::as_str) == Some(&call.info.name);
    if call.info.verb == "get" {
        return match items.iter().find(named) {
            Some(item) => Ok(call.respond(200, &crate::encoding::to_json(item))),
            None => Err(Status::not_found(&call.resource.group_resource, &call.info.name)),
        };
    }
    let items = items.iter().map(crate::encoding::to_json).collect();
    Ok(call.output().list(json!({"resourceVersion": ""}), items))
}

/// What a list asks for.
pub(super) struct Asked {
    selection: Selection,
    when: When,
    limit: usize,
}

impl Asked {
    /// Reads it from the call's query. `paged`: who asks reads in pieces although the client named no limit.
    pub fn of(call: &Call, paged: bool) -> Result<Self, Status> {
        let limit = selection::limit(call)?;
        Ok(Self {
            limit,
            when: selection::list_when(call, limit > 0 || paged)?,
            selection: Selection::of(call)?,
        })
    }
}

/// How a list ended.
pub(super) enum Listed {
    /// Its ListMeta and its objects.
    Found(Value, Vec<Arc<Cached>>),
    /// What it was to go on from is no more; the answer says how to go on all the same.
    Expired(Response),
}

pub(super) async fn list(call: &Call) -> Result<Response, Status> {
    if call.resource.rest.items(call).await?.is_some() {
        return from_items(call).await;
    }
    Ok(match find(call, &Asked::of(call, false)?).await? {
        Listed::Found(metadata, objects) => {
            call.output().list(metadata, objects.iter().map(|object| object.value.clone()).collect())
        }
        Listed::Expired(answer) => answer,
    })
}

/// Finds what is asked for.
pub(super) async fn find(call: &Call, asked: &Asked) -> Result<Listed, Status> {
    let Asked { selection, when, limit } = asked;
    if let Some(token) = call.query.get("continue").filter(|token| !token.is_empty()) {
        let token = Token::decode(token)?;
        let revision = u64::try_from(token.revision).unwrap_or(0);
        return past(call, selection, revision, Some(&token), *limit).await;
    }
    if let When::Exact(revision) = *when {
        return past(call, selection, revision, None, *limit).await;
    }
    let mut span = crate::traces::span("cacher.GetList");
    settle(call, *when).await?;
    span.event("Ready");
    // In this order: the cache then holds every change up to `now`, also when caches were dropped meanwhile.
    let now = call.server.hub.revision();
    let cache = cache(call, selection).await?;
    // Upstream's cache answers «any» in one piece, whatever the limit.
    let objects = if *when == When::Any { 0 } else { *limit };
    let limit = Limit { objects, count_rest: selection.is_everything() };
    let snapshot = cache.snapshot(&selection.interest, &selection.wanted(), now, None, limit, |object| {
        selection.matches(object)
    });
    let field = selection.interest.field().and_then(|at| call.resource.descriptor.selectable_fields.get(at));
    cache.counters.listed(field.map(|field| &*field.name), snapshot.seen, snapshot.objects.len());
    span.event("Listed items from cache");
    span.set("count", i64::try_from(snapshot.objects.len()).unwrap_or(i64::MAX));
    drop(span);
    let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
    if snapshot.rest > 0
        && let Some(last) = snapshot.objects.last()
    {
        let last = String::from_utf8_lossy(&last.key);
        let left = limit.count_rest.then_some(snapshot.rest as u64);
        metadata["continue"] = Token::after(snapshot.revision.cast_signed(), &last, left).encode().into();
        if let Some(left) = left {
            metadata["remainingItemCount"] = left.into();
        }
    }
    Ok(Listed::Found(metadata, snapshot.objects))
}

/// The cache of the call's resource.
///
/// # Errors
/// That of the store; and a StoreReadError where something that the call is about cannot be read. It names nothing else: what
/// is in other namespaces is not for everybody to know.
pub(super) async fn cache(call: &Call, selection: &Selection) -> Result<Arc<Cache>, Status> {
    let prefix = &call.resource.view.prefix;
    let meant = |key: &[u8]| selection.may_mean(key);
    let cache = call.server.hub.cache(&call.resource.view).await;
    let cache = cache.map_err(|status| unreadable::withheld(status, prefix, meant))?;
    let unread = cache.unread(meant);
    if unread.is_empty() { Ok(cache) } else { Err(unreadable::undecodable(prefix, &unread)) }
}

/// Waits until the caches are as new as `when` wants them.
pub(super) async fn settle(call: &Call, when: When) -> Result<(), Status> {
    let clock = &call.server.clock;
    let started = clock.monotonic();
    let settled = match when {
        When::Any => return Ok(()),
        When::Newest => call.server.hub.catch_up().await.map(|_| ()).map_err(storage::status),
        When::NotOlderThan(revision) | When::Exact(revision) => reach(call, revision).await,
    };
    caches::waited(&call.info.group, &call.info.resource, clock.monotonic().saturating_sub(started));
    settled
}

/// Waits for a revision, but not for one that is far off.
async fn reach(call: &Call, revision: u64) -> Result<(), Status> {
    let hub = &call.server.hub;
    tokio::select! {
        () = hub.reach(revision) => Ok(()),
        () = call.server.clock.sleep(FUTURE_WAIT) => Err(too_large(revision, hub.revision())),
    }
}

fn too_large(asked: u64, current: u64) -> Status {
    let mut status =
        Status::new(504, Reason::Timeout, format!("Too large resource version: {asked}, current: {current}"));
    status.details = Some(Box::new(api::status::Details {
        causes: vec![api::status::Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..Default::default()
    }));
    status
}

/// A list as of a revision (0: the newest), from the store.
async fn past(
    call: &Call,
    selection: &Selection,
    mut revision: u64,
    token: Option<&Token>,
    limit: usize,
) -> Result<Listed, Status> {
    let view = &call.resource.view;
    let whole = selection.range(&view.prefix);
    let mut start = whole.start.clone();
    if let Some(token) = token {
        // Whatever the token says: nothing before the place that was authorized is read.
        start = start.max([view.prefix.as_ref(), token.start.as_bytes()].concat().into());
    }
    let everything = selection.is_everything();
    let mut left = token.and_then(|token| token.left).filter(|_| everything);
    let mut items: Vec<Arc<Cached>> = Vec::new();
    let mut fetched = 0;
    let mut metadata = json!({});
    loop {
        let page = if limit > 0 && everything { limit - items.len() } else { PAGE };
        // Counting costs the whole rest: once per list, and what is left is then in the token.
        let uncounted = !everything || limit == 0 || left.is_some();
        let range = Range { start, end: whole.end.clone(), uncounted, ..Range::default() };
        let range = range.at(revision).limit(page);
        let span = crate::traces::span("List(recursive=true) etcd3");
        let found = call.server.storage.store.range(range).await;
        drop(span);
        let found = match found {
            Ok(found) => found,
            Err(store::Error::Compacted { .. }) => return Ok(Listed::Expired(expired(call, token))),
            Err(store::Error::FutureRevision { current }) => return Err(too_large(revision, current)),
            Err(error) => return Err(unreadable::of_list(&view.prefix, error)),
        };
        if revision == 0 {
            revision = found.revision;
        }
        let mut last = Bytes::new();
        let mut unread = Vec::new();
        let (mut seen, returned) = (0, found.kvs.len() as u64);
        fetched += returned;
        let stored = found.kvs.iter().map(|kv| kv.value.clone()).collect();
        let served = view.all_served(stored).await?;
        for (kv, value) in found.kvs.into_iter().zip(served) {
            seen += 1;
            last = kv.key.slice(view.prefix.len()..);
            let Some(facts) = view.extractor.extract(&value) else {
                unread.push((last.clone(), kv.mod_revision));
                continue;
            };
            let object = Cached { key: last.clone(), value, revision: kv.mod_revision, facts };
            if selection.matches(&object) {
                items.push(Arc::new(object));
                if limit > 0 && items.len() == limit {
                    break;
                }
            }
        }
        if !unread.is_empty() {
            return Err(unreadable::undecodable(&view.prefix, &unread));
        }
        let rest =
            if uncounted { left.map(|left| left.saturating_sub(seen)) } else { Some(found.count - seen) };
        if !found.more && seen == returned {
            break;
        }
        if limit > 0 && items.len() == limit {
            let last = String::from_utf8_lossy(&last);
            let rest = rest.filter(|rest| *rest > 0);
            metadata["continue"] = Token::after(revision.cast_signed(), &last, rest).encode().into();
            if let Some(rest) = rest {
                metadata["remainingItemCount"] = rest.into();
            }
            break;
        }
        left = rest;
        start = [view.prefix.as_ref(), last.as_ref(), b"\0"].concat().into();
    }
    crate::metrics::storage::listed(&call.resource.group_resource, fetched, items.len());
    metadata["resourceVersion"] = revision.to_string().into();
    Ok(Listed::Found(metadata, items))
}

/// What the client is told of a revision that is no more, with a token to go on inconsistently.
fn expired(call: &Call, token: Option<&Token>) -> Response {
    let Some(token) = token else {
        let status = Status::expired("The resourceVersion for the provided list is too old.");
        return crate::output::failure(call.accepted, &status);
    };
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
         that were created, modified, or deleted between the time the first chunk was returned and now may show \
         up in the list.",
    );
    let mut body = status.to_json();
    let inconsistent = Token { revision: -1, left: None, ..token.clone() };
    body["metadata"] = json!({"continue": inconsistent.encode()});
    call.respond_value(410, &body)
}
