//! Requests of the API and what they are answered, by this server and by a real etcd 3.5: the same.
//!
//! A table of requests that clients of etcd make and `etcdctl` does not, each with its answer; what only this server
//! answers so stands apart. `tests/tools.sh` installs the etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use etcd::wire::etcdserverpb::watch_create_request::FilterType;
use etcd::wire::etcdserverpb::watch_request::RequestUnion;
use etcd::wire::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, HashRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    MemberListRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, request_op, response_op, watch_client::WatchClient,
};
use etcd::wire::mvccpb::{KeyValue, event::EventType};
use testkit::etcd::Etcd;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::etcdctl::World;

/// What is asked.
#[derive(Clone)]
enum Ask {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64),
    Grant(i64),
    Revoke(i64),
    TimeToLive(i64),
    KeepAlive(i64),
    Leases,
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn prefix(key: &str, change: impl Fn(&mut RangeRequest)) -> Ask {
    let mut request = RangeRequest { range_end: store::prefix_end(key.as_bytes()), ..get(key) };
    change(&mut request);
    Ask::Range(request)
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    op(request_op::Request::RequestPut(put(key, value)))
}

fn get_op(request: RangeRequest) -> RequestOp {
    op(request_op::Request::RequestRange(request))
}

fn delete_op(request: DeleteRangeRequest) -> RequestOp {
    op(request_op::Request::RequestDeleteRange(request))
}

fn txn_op(request: TxnRequest) -> RequestOp {
    op(request_op::Request::RequestTxn(request))
}

fn all(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

fn modified(key: &str, result: CompareResult, revision: i64) -> Compare {
    Compare {
        key: key.to_owned().into(),
        result: result.into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

/// Yes or no, by a comparison.
fn asks(compare: Compare) -> Ask {
    Ask::Txn(TxnRequest { compare: vec![compare], ..Default::default() })
}

/// Requests to an empty store, in order, and what each is answered.
fn table() -> Vec<(Ask, &'static str)> {
    let lease = |id: i64| PutRequest { lease: id, ..put("leased", "x") };
    let kept = PutRequest { ignore_value: true, ..put("none", "") };
    vec![
        // Every operation of a transaction says the revision, but for an inner transaction, which says nothing.
        (Ask::Put(put("k/a", "3")), "rev 2"),
        (Ask::Put(put("k/b", "1")), "rev 3"),
        (Ask::Put(PutRequest { prev_kv: true, ..put("k/b", "2") }), "rev 4 prev k/b=1@3/3/1"),
        (Ask::Put(put("k/c", "1")), "rev 5"),
        (
            Ask::Txn(all(vec![
                put_op("t/a", "1"),
                get_op(get("t/a")),
                delete_op(DeleteRangeRequest { prev_kv: true, ..delete("k/c") }),
                delete_op(delete("none")),
                txn_op(all(vec![put_op("t/b", "2"), delete_op(delete("nobody"))])),
                txn_op(all(vec![])),
            ])),
            "rev 6 yes [put rev 6; range rev 6 t/a=1@6/6/1 count 1; delete rev 6 1 prev k/c=1@5/5/1; delete rev 6 0; \
             txn rev 0 yes [put rev 6; delete rev 6 0]; txn rev 0 yes []]",
        ),
        // One that only looks.
        (Ask::Txn(all(vec![get_op(get("t/b"))])), "rev 6 yes [range rev 6 t/b=2@6/6/1 count 1]"),
        (Ask::Txn(TxnRequest::default()), "rev 6 yes []"),
        (Ask::Delete(delete("none")), "rev 6 0"),
        // Orders and limits.
        (Ask::Put(put("k/c", "1")), "rev 7"),
        (
            prefix("k/", |range| (range.sort_target, range.limit) = (SortTarget::Version.into(), 2)),
            "rev 7 k/a=3@2/2/1 k/c=1@7/7/1 more count 3",
        ),
        (
            prefix("k/", |range| range.sort_target = SortTarget::Value.into()),
            "rev 7 k/c=1@7/7/1 k/b=2@3/4/2 k/a=3@2/2/1 count 3",
        ),
        (
            prefix("k/", |range| {
                (range.sort_target, range.sort_order) = (SortTarget::Mod.into(), SortOrder::Descend.into());
                range.limit = 1;
            }),
            "rev 7 k/c=1@7/7/1 more count 3",
        ),
        (prefix("k/", |range| range.limit = -1), "rev 7 k/a=3@2/2/1 k/b=2@3/4/2 k/c=1@7/7/1 count 3"),
        (prefix("k/", |range| range.count_only = true), "rev 7 count 3"),
        (prefix("k/", |range| (range.keys_only, range.limit) = (true, 1)), "rev 7 k/a=@2/2/1 more count 3"),
        // Bounds of revisions. The count is that of the range.
        (prefix("k/", |range| range.min_mod_revision = 4), "rev 7 k/b=2@3/4/2 k/c=1@7/7/1 count 3"),
        (prefix("k/", |range| range.max_mod_revision = 4), "rev 7 k/a=3@2/2/1 k/b=2@3/4/2 count 3"),
        (prefix("k/", |range| range.min_create_revision = 4), "rev 7 k/c=1@7/7/1 count 3"),
        (
            prefix("k/", |range| (range.max_create_revision, range.limit) = (3, 1)),
            "rev 7 k/a=3@2/2/1 more count 3",
        ),
        (
            prefix("k/", |range| (range.serializable, range.limit) = (true, 1)),
            "rev 7 k/a=3@2/2/1 more count 3",
        ),
        // Ranges that hold nothing.
        (Ask::Range(RangeRequest { range_end: "k/a".into(), ..get("k/c") }), "rev 7 count 0"),
        (
            Ask::Range(RangeRequest { revision: 99, ..get("k/a") }),
            "OutOfRange: etcdserver: mvcc: required revision is a future revision",
        ),
        (Ask::Range(get("")), "InvalidArgument: etcdserver: key is not provided"),
        // Comparisons with what no revision is.
        (asks(modified("k/a", CompareResult::Greater, -1)), "rev 7 yes []"),
        (asks(modified("k/a", CompareResult::NotEqual, -1)), "rev 7 yes []"),
        (asks(modified("k/a", CompareResult::Less, -1)), "rev 7 no []"),
        (asks(modified("k/a", CompareResult::Equal, -1)), "rev 7 no []"),
        (asks(modified("none", CompareResult::Greater, -1)), "rev 7 yes []"),
        (asks(Compare { target_union: None, ..modified("none", CompareResult::Equal, 0) }), "rev 7 yes []"),
        // Refusals.
        (Ask::Txn(all(vec![RequestOp { request: None }])), "InvalidArgument: etcdserver: key not found"),
        (
            Ask::Txn(all(vec![put_op("d", "1"), put_op("d", "2")])),
            "InvalidArgument: etcdserver: duplicate key given in txn request",
        ),
        (
            Ask::Txn(all(vec![
                put_op("k/d", "1"),
                delete_op(DeleteRangeRequest { range_end: "k0".into(), ..delete("k/") }),
            ])),
            "InvalidArgument: etcdserver: duplicate key given in txn request",
        ),
        (
            Ask::Txn(all(vec![get_op(get("k/a")); 129])),
            "InvalidArgument: etcdserver: too many operations in txn request",
        ),
        (Ask::Put(kept.clone()), "InvalidArgument: etcdserver: key not found"),
        (
            Ask::Txn(all(vec![op(request_op::Request::RequestPut(kept.clone())), put_op("k/d", "1")])),
            "InvalidArgument: etcdserver: key not found",
        ),
        (
            Ask::Txn(all(vec![
                op(request_op::Request::RequestPut(PutRequest { ignore_value: true, ..put("k/a", "") })),
                get_op(RangeRequest { revision: 99, ..get("k/a") }),
            ])),
            "OutOfRange: etcdserver: mvcc: required revision is a future revision",
        ),
        (
            Ask::Put(PutRequest { ignore_lease: true, lease: 1, ..put("k/a", "") }),
            "InvalidArgument: etcdserver: lease is provided",
        ),
        // Leases, also those that have ended.
        (Ask::Grant(11), "rev 7 lease 11 ttl 300"),
        (Ask::Grant(11), "FailedPrecondition: etcdserver: lease already exists"),
        (Ask::Put(lease(11)), "rev 8"),
        (Ask::Put(lease(12)), "NotFound: etcdserver: requested lease not found"),
        (Ask::TimeToLive(11), "rev 8 lease 11 of 300 keys leased"),
        (Ask::KeepAlive(11), "rev 8 lease 11 ttl 300"),
        (Ask::Leases, "rev 8 leases 11"),
        (Ask::Revoke(11), "rev 9"),
        (Ask::Revoke(11), "NotFound: etcdserver: requested lease not found"),
        (Ask::TimeToLive(11), "rev 9 lease 11 has ended"),
        (Ask::KeepAlive(11), "rev 9 lease 11 ttl 0"),
        (Ask::Leases, "rev 9 leases"),
        // The past.
        (Ask::Range(RangeRequest { revision: 3, ..get("k/b") }), "rev 9 k/b=1@3/3/1 count 1"),
        (Ask::Compact(99), "OutOfRange: etcdserver: mvcc: required revision is a future revision"),
        (Ask::Compact(5), "rev 9"),
        (Ask::Compact(5), "OutOfRange: etcdserver: mvcc: required revision has been compacted"),
        (
            Ask::Range(RangeRequest { revision: 3, ..get("k/b") }),
            "OutOfRange: etcdserver: mvcc: required revision has been compacted",
        ),
    ]
}

fn rev(header: Option<ResponseHeader>) -> String {
    header.map_or("no header".to_owned(), |header| format!("rev {}", header.revision))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `key=value@created/modified/version`.
fn kvs<'a>(found: impl IntoIterator<Item = &'a KeyValue>) -> String {
    let one = |kv: &KeyValue| {
        let (key, value) = (text(&kv.key), text(&kv.value));
        format!(" {key}={value}@{}/{}/{}", kv.create_revision, kv.mod_revision, kv.version)
    };
    found.into_iter().map(one).collect()
}

fn prev<'a>(found: impl IntoIterator<Item = &'a KeyValue>) -> String {
    let found = kvs(found);
    if found.is_empty() { found } else { format!(" prev{found}") }
}

fn answers(responses: &[ResponseOp]) -> String {
    use response_op::Response as Answer;
    let one = |answer: &ResponseOp| match answer.response.as_ref().expect("every operation has an answer") {
        Answer::ResponseRange(found) => format!("range {}", range(found)),
        Answer::ResponsePut(done) => format!("put {}{}", rev(done.header), prev(&done.prev_kv)),
        Answer::ResponseDeleteRange(done) => {
            format!("delete {} {}{}", rev(done.header), done.deleted, prev(&done.prev_kvs))
        }
        Answer::ResponseTxn(done) => format!("txn {}", txn(done)),
    };
    responses.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn range(found: &etcd::wire::etcdserverpb::RangeResponse) -> String {
    let more = if found.more { " more" } else { "" };
    format!("{}{}{more} count {}", rev(found.header), kvs(&found.kvs), found.count)
}

fn txn(done: &etcd::wire::etcdserverpb::TxnResponse) -> String {
    let held = if done.succeeded { "yes" } else { "no" };
    format!("{} {held} [{}]", rev(done.header), answers(&done.responses))
}

/// What a request is answered.
async fn answer(channel: &Channel, ask: Ask) -> Result<String, Status> {
    let (mut kv, mut leases) = (KvClient::new(channel.clone()), LeaseClient::new(channel.clone()));
    Ok(match ask {
        Ask::Range(request) => range(&kv.range(request).await?.into_inner()),
        Ask::Put(request) => {
            let done = kv.put(request).await?.into_inner();
            format!("{}{}", rev(done.header), prev(&done.prev_kv))
        }
        Ask::Delete(request) => {
            let done = kv.delete_range(request).await?.into_inner();
            format!("{} {}{}", rev(done.header), done.deleted, prev(&done.prev_kvs))
        }
        Ask::Txn(request) => txn(&kv.txn(request).await?.into_inner()),
        Ask::Compact(revision) => {
            let request = CompactionRequest { revision, physical: true };
            rev(kv.compact(request).await?.into_inner().header)
        }
        Ask::Grant(id) => {
            let granted = leases.lease_grant(LeaseGrantRequest { ttl: 300, id }).await?.into_inner();
            format!("{} lease {} ttl {}", rev(granted.header), granted.id, granted.ttl)
        }
        Ask::Revoke(id) => rev(leases.lease_revoke(LeaseRevokeRequest { id }).await?.into_inner().header),
        Ask::TimeToLive(id) => {
            let request = LeaseTimeToLiveRequest { id, keys: true };
            let found = leases.lease_time_to_live(request).await?.into_inner();
            let keys: String = found.keys.iter().map(|key| format!(" {}", text(key))).collect();
            let head = format!("{} lease {}", rev(found.header), found.id);
            match found.ttl {
                -1 => format!("{head} has ended"),
                _ => format!("{head} of {} keys{keys}", found.granted_ttl),
            }
        }
        Ask::KeepAlive(id) => {
            let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
            let mut stream = leases.lease_keep_alive(requests).await?.into_inner();
            let kept = stream.message().await?.expect("an answer for every request");
            format!("{} lease {} ttl {}", rev(kept.header), kept.id, kept.ttl)
        }
        Ask::Leases => {
            let found = leases.lease_leases(LeaseLeasesRequest {}).await?.into_inner();
            let ids: String = found.leases.iter().map(|lease| format!(" {}", lease.id)).collect();
            format!("{} leases{ids}", rev(found.header))
        }
    })
}

async fn run(channel: &Channel) {
    for (number, (ask, expected)) in table().into_iter().enumerate() {
        let found = answer(channel, ask).await;
        let found = found.unwrap_or_else(|status| format!("{:?}: {}", status.code(), status.message()));
        assert_eq!(found, expected, "row {number}");
    }
}

/// A stream of watches.
struct Watches {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watches {
    /// With its first watch: an etcd says nothing, not even that it listens, before it is asked for one.
    async fn open(channel: &Channel, first: WatchCreateRequest) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(first)) };
        requests.send(first).await.unwrap();
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let opened = tokio::time::timeout(Duration::from_secs(60), client.watch(receiver)).await;
        let answers = opened.expect("the stream is not opened").unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&self, request: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(request)).await;
    }

    async fn next(&mut self) -> WatchResponse {
        let answer = tokio::time::timeout(Duration::from_secs(60), self.answers.message()).await;
        answer.expect("nothing was told in time").unwrap().expect("the stream has ended")
    }

    /// The next answer: what it says of the watch, and its events.
    async fn line(&mut self) -> String {
        let answer = self.next().await;
        let mut line = format!("watch {}", answer.watch_id);
        for (is, word) in [(answer.created, " created"), (answer.canceled, " canceled")] {
            line.push_str(if is { word } else { "" });
        }
        if !answer.cancel_reason.is_empty() {
            line.push_str(&format!(" ({})", answer.cancel_reason));
        }
        if answer.compact_revision != 0 {
            line.push_str(&format!(" compacted at {}", answer.compact_revision));
        }
        if answer.events.is_empty() && !answer.created && !answer.canceled {
            line.push_str(&format!(" {}", rev(answer.header)));
        }
        for event in &answer.events {
            let kind = if event.r#type() == EventType::Put { " put" } else { " delete" };
            line.push_str(&format!("{kind}{}{}", kvs(&event.kv), prev(&event.prev_kv)));
        }
        line
    }
}

/// Of a store whose revision is 1.
async fn watch(channel: &Channel) {
    let on = |key: &str| WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: store::prefix_end(key.as_bytes()),
        ..Default::default()
    };
    let filtered =
        |filter: FilterType, request| WatchCreateRequest { filters: vec![filter.into()], ..request };
    let mut watches = Watches::open(channel, filtered(FilterType::Noput, on("k/"))).await;
    assert_eq!(watches.line().await, "watch 0 created");
    for (request, expected) in [
        (
            WatchCreateRequest { watch_id: 7, prev_kv: true, ..filtered(FilterType::Nodelete, on("k/")) },
            "watch 7 created",
        ),
        (
            WatchCreateRequest { watch_id: 7, ..on("l/") },
            "watch -1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)",
        ),
        (
            WatchCreateRequest { range_end: "a".into(), ..on("l/") },
            "watch -1 created canceled (mvcc: watcher range is empty)",
        ),
        (on("other/"), "watch 1 created"),
    ] {
        watches.create(request).await;
        assert_eq!(watches.line().await, expected);
    }
    for ask in [Ask::Put(put("k/a", "1")), Ask::Put(put("k/a", "2")), Ask::Delete(delete("k/a"))] {
        answer(channel, ask).await.unwrap();
    }
    // Those of one watch are in order; which of two is told first is nobody's affair.
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..3 {
        let line = watches.line().await;
        let (watch, events) = line.split_at(7);
        told.entry(watch.to_owned()).or_default().push(events.to_owned());
    }
    assert_eq!(told["watch 0"], [" delete k/a=@0/4/0"]);
    assert_eq!(told["watch 7"], [" put k/a=1@2/2/1", " put k/a=2@2/3/2 prev k/a=1@2/2/1"]);
    // All watches have been told of everything up to here.
    watches.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    assert_eq!(watches.line().await, "watch -1 rev 4");
    watches.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 7 })).await;
    assert_eq!(watches.line().await, "watch 7 canceled");
    // Its number is free again; the others go on.
    watches.create(WatchCreateRequest { watch_id: 7, start_revision: 3, ..on("k/") }).await;
    assert_eq!(watches.line().await, "watch 7 created");
    let mut past = String::new();
    while !past.contains("delete") {
        past.push_str(watches.line().await.strip_prefix("watch 7").expect("nothing else has happened"));
    }
    assert_eq!(past, " put k/a=2@2/3/2 delete k/a=@0/4/0");
    answer(channel, Ask::Put(put("other/a", "1"))).await.unwrap();
    assert_eq!(watches.line().await, "watch 1 put other/a=1@5/5/1");
    // What is compacted is told by its revision.
    answer(channel, Ask::Compact(5)).await.unwrap();
    watches.create(WatchCreateRequest { start_revision: 2, ..on("k/") }).await;
    assert!(watches.line().await.ends_with(" created"));
    let line = watches.line().await;
    assert!(line.contains(" canceled") && line.ends_with(" compacted at 5"), "{line}");
}

async fn channel(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect_lazy()
}

/// A real etcd, once it answers.
async fn real() -> (Etcd, Channel) {
    let etcd = Etcd::new("3.5").started();
    let channel = channel(&etcd.url()).await;
    let answers = async {
        while answer(&channel, Ask::Range(get("k"))).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answers).await.expect("the etcd answers");
    (etcd, channel)
}

/// Runs a test on a server of ours with an empty store.
fn ours<T>(test: impl AsyncFnOnce(&Channel) -> T) -> T {
    let world = World::new();
    world.runtime.block_on(async { test(&channel(&world.url).await).await })
}

fn theirs(test: impl AsyncFnOnce(&Channel)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (_etcd, channel) = real().await;
        test(&channel).await;
    });
}

#[test]
fn requests_are_answered() {
    ours(async |channel| run(channel).await);
}

#[test]
fn requests_are_answered_so_by_etcd() {
    theirs(async |channel| run(channel).await);
}

#[test]
fn watches_share_a_stream() {
    ours(async |channel| watch(channel).await);
}

#[test]
fn watches_share_a_stream_of_etcd() {
    theirs(async |channel| watch(channel).await);
}

#[test]
fn a_large_answer_comes_in_pieces_to_whom_asks_for_them() {
    ours(async |channel| {
        let large = "x".repeat(700 << 10);
        let ops = ["l/a", "l/b", "l/c", "l/d"].map(|key| put_op(key, &large));
        answer(channel, Ask::Txn(all(ops.into()))).await.unwrap();
        for fragment in [true, false] {
            let (key, range_end) = ("l/".into(), "l0".into());
            let request =
                WatchCreateRequest { key, range_end, fragment, start_revision: 2, ..Default::default() };
            let mut watches = Watches::open(channel, request).await;
            assert_eq!(watches.line().await, "watch 0 created");
            let mut pieces = Vec::new();
            loop {
                let piece = watches.next().await;
                pieces.push(piece.events.len());
                if !piece.fragment {
                    break;
                }
            }
            let expected: &[usize] = if fragment { &[2, 2] } else { &[4] };
            assert_eq!(pieces, expected);
        }
    });
}

#[test]
fn upkeep() {
    let hashes = async |channel: &Channel| {
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let mut found = Vec::new();
        for value in ["1", "2"] {
            answer(channel, Ask::Put(put("k", value))).await.unwrap();
            found.push(maintenance.hash(HashRequest {}).await.unwrap().into_inner().hash);
        }
        let request = HashKvRequest { revision: 2 };
        let hash = maintenance.hash_kv(request).await.unwrap().into_inner();
        assert_eq!((hash.hash, hash.hash_revision), (found[0], 2), "as it was then");
        let alarms = maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner().alarms;
        assert_eq!(alarms, []);
        for linearizable in [true, false] {
            let request = MemberListRequest { linearizable };
            let members =
                ClusterClient::new(channel.clone()).member_list(request).await.unwrap().into_inner();
            assert_eq!((rev(members.header), members.members.len()), ("rev 3".to_owned(), 1));
        }
        found
    };
    let (first, second) = (ours(hashes), ours(hashes));
    assert_eq!(first, second, "two stores with the same content");
    assert_ne!(first[0], first[1]);
}

#[test]
fn who_asks_for_a_leader_is_served_where_there_is_one_member() {
    ours(async |channel| {
        let mut request = Request::new(get("k"));
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        KvClient::new(channel.clone()).range(request).await.unwrap();
    });
}
