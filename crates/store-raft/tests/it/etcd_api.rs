//! The etcd v3 API over members: what they tell of one another, and what the one that is left of them still answers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use etcd::wire::etcdserverpb::watch_request::RequestUnion;
use etcd::wire::etcdserverpb::{
    HashKvRequest, MemberListRequest, MoveLeaderRequest, PutRequest, RangeRequest, SnapshotRequest,
    StatusRequest, WatchCreateRequest, WatchRequest, cluster_client::ClusterClient, kv_client::KvClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use foundation::{CancellationToken, ManualClock, SharedClock, SystemClock};
use futures::FutureExt as _;
use store::{Op, Range, Store, Txn};
use store_raft::peers::Peers;
use store_raft::{Member, RaftStore};
use tonic::Request;
use tonic::transport::Channel;

use super::cluster::{Cluster, Network, Under};
use super::failover::soon;

/// Where members serve clients: told by their names.
fn peers(member: Arc<RaftStore>, clock: SharedClock) -> Peers {
    let urls = |member: Arc<RaftStore>| {
        let one = |member: &Member| (member.id, vec![format!("https://{}:2379", member.name)]);
        let urls = member.standing().borrow().members.iter().map(one).collect();
        std::future::ready(urls).boxed()
    };
    Peers::new(member, Box::new(urls), clock)
}

/// Serves a member's store, until the token is dropped.
async fn served(member: Arc<RaftStore>, clock: SharedClock) -> (Channel, tokio_util::sync::DropGuard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let members: Arc<dyn etcd::Members> = Arc::new(peers(member.clone(), clock));
    let options =
        etcd::Options { id: member.identity().member, members: Some(members), ..Default::default() };
    let server = etcd::Server::new(member, options, SystemClock::shared());
    let stop = CancellationToken::new();
    tokio::spawn(etcd::serve(server, listener, None, stop.clone()));
    (Channel::from_shared(url).unwrap().connect_lazy(), stop.drop_guard())
}

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_lost_majority_can_be_looked_into_and_saved() {
    const KEYS: usize = 10;
    let mut cluster = Cluster::start(Under::Memory(Network::default())).await;
    let leader = cluster.leader();
    let (survivor, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let member = cluster.member(survivor);
    let lease = soon(member.lease_grant(300, 7)).await.unwrap().id;
    for n in 0..KEYS {
        let (key, value) = (format!("k/{n}").into(), store::PutValue::Plain("v".into()));
        soon(member.txn(Txn::of(vec![Op::Put { key, value, lease }]))).await.unwrap();
    }
    let clock = ManualClock::default();
    let (channel, _stop) = served(member.clone(), Arc::new(clock.clone())).await;
    let mut kv = KvClient::new(channel.clone());
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let mut members = ClusterClient::new(channel.clone());

    let list = members.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let mut ids: Vec<_> = list.members.iter().map(|member| member.id).collect();
    let mut expected: Vec<_> = (0..3).map(|index| cluster.id(index)).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.leader, status.header.unwrap().member_id), (cluster.id(leader), cluster.id(survivor)));
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let create = WatchCreateRequest { key: "k/0".into(), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut watch = WatchClient::new(channel).watch(with_leader(receiver)).await.unwrap().into_inner();
    assert!(soon(watch.message()).await.unwrap().unwrap().created);

    cluster.kill(leader).await;
    cluster.kill(other).await;
    soon(member.standing().wait_for(|standing| standing.leader == 0)).await.unwrap();
    // Who wants a leader is sent away at once, and from its watches when nobody has been elected for a while.
    let put = PutRequest { key: "k/new".into(), ..Default::default() };
    let refused = kv.put(with_leader(put.clone())).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: no leader");
    let ended = soon(async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    });
    soon(clock.wait_for_sleepers(1)).await;
    clock.advance(Duration::from_secs(3));
    assert_eq!(ended.await.unwrap_err().message(), "etcdserver: no leader");
    // Whoever does not say so waits in vain.
    let late = cluster.patience_ends(survivor, kv.put(put)).await.unwrap_err();
    assert_eq!((late.code(), late.message()), (tonic::Code::Unavailable, "etcdserver: request timed out"));

    // What it knows it still tells.
    let known = Range::prefix("k/").serializable();
    let found = soon(member.range(known)).await.unwrap();
    assert_eq!(found.kvs.len(), KEYS);
    let range =
        RangeRequest { key: "k/".into(), range_end: "k0".into(), serializable: true, ..Default::default() };
    assert_eq!(kv.range(range).await.unwrap().into_inner().count, KEYS as i64);
    let list = members.member_list(MemberListRequest { linearizable: false }).await.unwrap();
    assert_eq!(list.into_inner().members.len(), 3);
    maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
    let mut stream = maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut file = tempfile::tempfile().unwrap();
    while let Some(piece) = stream.message().await.unwrap() {
        file.write_all(&piece.blob).unwrap();
    }
    let saved = etcd::snapshot::read(&mut file).unwrap();
    assert_eq!(saved.revision(), found.revision);
    assert_eq!(saved.leases().collect::<Vec<_>>(), [(lease, 300)]);
    let mut keys = saved.into_keys();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(keys, found.kvs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_moved_and_all_members_are_told_of() {
    let cluster = Cluster::start(Under::Memory(Network::default())).await;
    let moved = async { while !moved(&cluster).await {} };
    soon(moved).await;
    let former = cluster.member(0);
    soon(former.txn(Txn::of(vec![Op::put("k", "v")]))).await.unwrap();
}

/// Looks at the members and moves the lead. `false`: somebody else was elected meanwhile, as on a slow machine.
async fn moved(cluster: &Cluster) -> bool {
    let leader = cluster.leader();
    let (target, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (leads, follows) = (cluster.member(leader), cluster.member(other));
    let terms = || [&leads, &follows].map(|member| member.standing().borrow().term);
    let before = terms();
    let (led, _stop) = served(leads.clone(), SystemClock::shared()).await;
    let (following, _stop_too) = served(follows.clone(), SystemClock::shared()).await;
    let list = ClusterClient::new(led.clone()).member_list(MemberListRequest { linearizable: false }).await;
    let (mut led, mut following) = (MaintenanceClient::new(led), MaintenanceClient::new(following));
    let ask = |target_id| MoveLeaderRequest { target_id };
    let elsewhere = following.move_leader(ask(cluster.id(target))).await;
    let unknown = led.move_leader(ask(1)).await;
    let itself = led.move_leader(ask(cluster.id(leader))).await;
    if terms() != before || before[0] != before[1] {
        return false;
    }
    for member in list.unwrap().into_inner().members {
        let own = member.id == cluster.id(leader);
        let expected = if own { Vec::new() } else { vec![format!("https://{}:2379", member.name)] };
        assert_eq!(member.client_ur_ls, expected, "its own it is told by its settings");
    }
    assert_eq!(elsewhere.unwrap_err().message(), "etcdserver: not leader");
    let unknown = unknown.unwrap_err();
    let told = (unknown.code(), unknown.message());
    assert_eq!(told, (tonic::Code::FailedPrecondition, "etcdserver: bad leader transferee"));
    itself.unwrap();
    // It is answered once the other one leads.
    led.move_leader(ask(cluster.id(target))).await.is_ok()
}
