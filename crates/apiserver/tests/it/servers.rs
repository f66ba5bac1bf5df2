//! Several servers on one store.

use apiserver::{ApiServer, Options};
use foundation::{SystemClock, SystemRandomness};
use serde_json::{Value, json};
use store::Store;

use crate::world::{Answer, User_, World};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// Room for thirteen Services besides `kubernetes`, and for four node ports.
fn narrow(options: &mut Options) {
    options.service_cidr = apiserver::Cidr::parse("10.43.0.0/28").unwrap();
    options.node_ports = (30_000, 30_003);
}

/// One more server on the world's store, and an administrator who asks it.
pub(crate) async fn another(world: &World) -> (ApiServer, User_) {
    let mut options = Options { advertise: Some(([127, 0, 0, 2].into(), 6443)), ..Options::default() };
    narrow(&mut options);
    let (clock, randomness) = (SystemClock::shared(), SystemRandomness::shared());
    let server = ApiServer::new(world.store.clone(), options, &world.tasks, clock, randomness).await.unwrap();
    let admin = world.user_of(&server, "admin", &[apiserver::User::MASTERS]);
    (server, admin)
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn names(list: &Answer, pointer: &str) -> Vec<String> {
    let items = list.at("/items").as_array().unwrap();
    let mut names: Vec<String> =
        items.iter().filter_map(|item| Some(item.pointer(pointer)?.as_str()?.to_owned())).collect();
    names.sort();
    names
}

/// Every Service has an address of its own, and the IPAddresses are those of the Services.
async fn consistent(user: &User_) {
    let services = names(&user.get("/api/v1/services").await, "/spec/clusterIP");
    let mut different = services.clone();
    different.dedup();
    assert_eq!(services, different, "no address is given twice");
    assert_eq!(names(&user.get(ADDRESSES).await, "/metadata/name"), services);
}

#[tokio::test]
async fn two_servers_never_give_one_address_or_port_to_two_services() {
    let world = World::with(narrow).await;
    let (_server, second) = another(&world).await;
    let users = [&world.admin, &second];
    // Both have chosen before, and so believe something.
    for (user, name) in users.iter().zip(["first", "second"]) {
        user.post(SERVICES, &service(name, json!({"ports": [{"port": 80}]}))).await.is(201);
    }
    let rest = (0..11).map(|n| async move {
        let body = service(&format!("s{n}"), json!({"ports": [{"port": 80}]}));
        users[n % 2].post(SERVICES, &body).await.is(201);
    });
    futures::future::join_all(rest).await;
    consistent(&second).await;
    let one_more = service("one-more", json!({"ports": [{"port": 80}]}));
    let refused = second.post(SERVICES, &one_more).await;
    assert!(refused.message().contains("range is full"), "{}", refused.message());

    // What one gives up is free on the other, whether it was to choose or is asked for.
    world.admin.delete(&format!("{SERVICES}/s3"), None).await.is(200);
    let given = second.post(SERVICES, &one_more).await.is(201).text("/spec/clusterIP").to_owned();
    second.delete(&format!("{SERVICES}/one-more"), None).await.is(200);
    let asking = service("asking", json!({"clusterIP": given, "ports": [{"port": 80}]}));
    world.admin.post(SERVICES, &asking).await.is(201);
    let refused = second.post(SERVICES, &service("late", asking["spec"].clone())).await.is(422);
    assert!(refused.message().contains("provided IP is already allocated"), "{}", refused.message());
    consistent(&world.admin).await;

    // Ports, by a change and by asking for one.
    let typed = json!({"spec": {"type": "NodePort"}});
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..4 {
        let path = format!("{SERVICES}/s{}", [0, 1, 2, 4][n]);
        let patched = users[n % 2].patch(&path, "merge-patch+json", &typed).await.is(200);
        assert!(ports.insert(patched.at("/spec/ports/0/nodePort").as_u64().unwrap()));
    }
    let full = second.patch(&format!("{SERVICES}/s5"), "merge-patch+json", &typed).await;
    assert!(full.message().contains("range is full"), "{}", full.message());
}

#[tokio::test]
async fn services_with_hundreds_of_node_ports_come_and_go_on_two_servers_at_once() {
    let wide = |options: &mut Options| options.node_ports = (30_000, 32_767);
    let world = World::with(wide).await;
    let options = Options { node_ports: (30_000, 32_767), ..Options::default() };
    let (clock, randomness) = (SystemClock::shared(), SystemRandomness::shared());
    let server = ApiServer::new(world.store.clone(), options, &world.tasks, clock, randomness).await.unwrap();
    let second = world.user_of(&server, "admin", &[apiserver::User::MASTERS]);
    let users = [&world.admin, &second];
    let many = |ports: u16| {
        let ports: Vec<_> =
            (1..=ports).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        json!({"type": "NodePort", "ports": ports})
    };
    let made = (0..12).map(|n| async move {
        users[n % 2].post(SERVICES, &service(&format!("s{n}"), many(200))).await.is(201);
    });
    futures::future::join_all(made).await;
    let ports = |list: &Answer| {
        let services = list.at("/items").as_array().unwrap().iter();
        let ports = services.flat_map(|service| service["spec"]["ports"].as_array().unwrap());
        let mut ports: Vec<u64> = ports.filter_map(|port| port["nodePort"].as_u64()).collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all, "no port is given twice");
        all
    };
    assert_eq!(ports(&second.get(SERVICES).await), 2400);
    // Some give up theirs while others take more.
    let changed = (0..12).map(|n| async move {
        let path = format!("{SERVICES}/s{n}");
        match n % 3 {
            0 => drop(users[n % 2].delete(&path, None).await.is(200)),
            1 => {
                let typed = json!({"spec": {"type": "ClusterIP"}});
                users[n % 2].patch(&path, "merge-patch+json", &typed).await.is(200);
            }
            _ => {
                let more = json!({"spec": many(210)});
                users[n % 2].patch(&path, "merge-patch+json", &more).await.is(200);
            }
        }
    });
    futures::future::join_all(changed).await;
    assert_eq!(ports(&world.admin.get(SERVICES).await), 840);
    let claimed = world.store.range(store::Range::prefix("/registry/ranges/")).await.unwrap();
    let claimed: usize = claimed
        .kvs
        .iter()
        .map(|kv| serde_json::from_slice::<Value>(&kv.value).unwrap().as_object().unwrap().len())
        .sum();
    assert_eq!(claimed, 840, "what was given up is nobody's");
}

#[tokio::test]
async fn an_address_that_someone_holds_is_not_given_to_a_service() {
    let world = World::with(narrow).await;
    let held = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.43.0.9"},
        "spec": {"parentRef": {"resource": "routers", "group": "example.com", "name": "r"}}});
    world.admin.post(ADDRESSES, &held).await.is(201);
    for n in 0..12 {
        let body = service(&format!("s{n}"), json!({"ports": [{"port": 80}]}));
        let made = world.admin.post(SERVICES, &body).await.is(201);
        assert_ne!(made.text("/spec/clusterIP"), "10.43.0.9");
    }
    let asking = service("asking", json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}));
    world.admin.post(SERVICES, &asking).await.is(422);
}

#[tokio::test]
async fn a_service_gives_up_only_what_is_its_own() {
    let world = World::with(narrow).await;
    let made = world.admin.post(SERVICES, &service("a", json!({"ports": [{"port": 80}]}))).await.is(201);
    let address = format!("{ADDRESSES}/{}", made.text("/spec/clusterIP"));
    // Somebody takes the address away from it, and for something else.
    world.admin.delete(&address, None).await.is(200);
    let taken = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": made.text("/spec/clusterIP")},
        "spec": {"parentRef": {"resource": "routers", "group": "example.com", "name": "r"}}});
    world.admin.post(ADDRESSES, &taken).await.is(201);
    world.admin.delete(&format!("{SERVICES}/a"), None).await.is(200);
    world.admin.get(&address).await.is(200);
}

#[tokio::test]
async fn a_port_that_is_not_allocated_is_not_claimed() {
    let world = World::with(narrow).await;
    let ports = json!([{"port": 80, "nodePort": 30_001}]);
    world.admin.post(SERVICES, &service("a", json!({"type": "NodePort", "ports": ports}))).await.is(201);
    let own = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports});
    world.admin.post(SERVICES, &service("b", own)).await.is(201);
    world.admin.delete(&format!("{SERVICES}/b"), None).await.is(200);
    let refused =
        world.admin.post(SERVICES, &service("c", json!({"type": "NodePort", "ports": ports}))).await;
    assert!(refused.message().contains("provided port is already allocated"), "{}", refused.message());
}

#[tokio::test]
async fn claims_are_put_right_by_the_next_server() {
    let world = World::with(narrow).await;
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let made = world.admin.post(SERVICES, &service("a", node_port)).await.is(201);
    let address = made.text("/spec/clusterIP").to_owned();
    let port = made.at("/spec/ports/0/nodePort").as_u64().unwrap();
    let others: Vec<u64> = (30_000..30_004).filter(|other| *other != port).collect();
    let ranges = "/registry/ranges/";
    let found = world.store.range(store::Range::prefix(ranges)).await.unwrap().kvs;
    // Its port is another's now, one is of a Service that is not there, one as an earlier version stored it.
    let block = json!({others[0].to_string(): "default/gone", "29999": "of/another-range"}).to_string();
    let single = format!("{ranges}servicenodeports/{}", others[1]);
    let ops = vec![store::Op::put(found[0].key.clone(), block), store::Op::put(single, "{}")];
    world.store.txn(store::Txn::of(ops)).await.unwrap();
    // As a store that was filled by a server without claims, and one whose Service went without its own.
    world.admin.delete(&format!("{ADDRESSES}/{address}"), None).await.is(200);
    let orphan = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.43.0.14",
        "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    world.admin.post(ADDRESSES, &orphan).await.is(201);
    let (_server, second) = another(&world).await;
    second.post(SERVICES, &service("b", json!({"ports": [{"port": 80}]}))).await.is(201);
    consistent(&second).await;
    let found = world.store.range(store::Range::prefix(ranges)).await.unwrap().kvs;
    let blocks: Vec<Value> = found.iter().map(|kv| serde_json::from_slice(&kv.value).unwrap()).collect();
    assert_eq!(blocks, [json!({port.to_string(): "default/a", "29999": "of/another-range"})]);
}
