//! Where the state is: an etcd that several servers share, and backups of it and of the embedded store.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use testkit::etcd::{Etcd, VERSIONS, etcdctl, ports};
use testkit::{Cluster, Options, wait};

use crate::IRONCLAD;
use crate::it::several::server::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Has an etcd be the cluster's store.
fn on(etcd: &Etcd) -> String {
    format!("--datastore-endpoint={}", etcd.url())
}

/// Makes a data directory of a save and of the keys of the cluster that was saved.
fn restore(file: &Path, keys: &Path, data_dir: &Path) {
    let restored = Command::new(IRONCLAD)
        .args(["store", "snapshot", "restore", "--data-dir"])
        .args([data_dir, file])
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    copy(keys, data_dir);
}

/// What a second server needs of the first, and a restored cluster of the old one.
fn copy(keys: &Path, data_dir: &Path) {
    std::fs::create_dir_all(data_dir).unwrap();
    let copied = Command::new("cp").arg("-r").args([keys, data_dir]).status().unwrap();
    assert!(copied.success());
}

/// Ends a loop in another thread, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn deployment(name: &str, replicas: usize) -> serde_json::Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "one", "image": "none"}]}}},
    })
}

#[test]
fn two_servers_share_an_etcd_and_one_takes_over_when_the_other_is_killed() {
    let etcd = Etcd::new("3.5").started();
    // Little room, so that two servers that choose alone would soon choose the same.
    let narrow = |options: Options| options.flag(&on(&etcd)).flag("--service-cidr=10.43.0.0/27");
    let mut first = Cluster::start(narrow(Options::hollow(IRONCLAD, 1)));
    let second = Cluster::start_on(narrow(Options::control_plane(IRONCLAD)), |data_dir| {
        copy(&first.data_dir().join("pki"), data_dir);
    });

    // What one has acknowledged the other knows.
    for n in 0..20 {
        let (write, read) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}")},
                             "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let made = write.send("POST", SERVICES, "application/json", service.to_string());
        assert_eq!(made.code, 201, "{}", made.body);
        let list = read.send("GET", SERVICES, "application/json", "");
        let items = list.body["items"].as_array().unwrap();
        assert!(items.iter().any(|item| item["metadata"] == made.body["metadata"]), "{}", list.body);
    }
    let list = second.send("GET", SERVICES, "application/json", "").body;
    let items = list["items"].as_array().unwrap();
    for pointer in ["/spec/clusterIP", "/spec/ports/0/nodePort"] {
        let mut given: Vec<String> =
            items.iter().filter_map(|item| item.pointer(pointer)).map(ToString::to_string).collect();
        let count = given.len();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), count, "{pointer} is given once: {given:?}");
    }

    // The first was there alone, so it leads.
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let made = second.send("POST", deployments, "application/json", deployment("web", 2).to_string());
    assert_eq!(made.code, 201, "{}", made.body);
    let scheduled = |wanted: usize| {
        wait::until("the pods are scheduled", || {
            let pods = second.send("GET", "/api/v1/namespaces/default/pods", "application/json", "").body;
            let items = pods["items"].as_array().ok_or("no list")?;
            let bound = items.iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
            if bound == wanted { Ok(()) } else { Err(pods.to_string()) }
        });
    };
    scheduled(2);
    // What the Lease of each says of who holds it.
    let leases = || {
        ["kube-scheduler", "kube-controller-manager"].map(|component| {
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{component}");
            let lease = second.send("GET", &path, "application/json", "");
            assert_eq!(lease.code, 200, "{}", lease.body);
            lease.body["spec"].clone()
        })
    };
    let before = leases();
    first.kill_server();
    let held = leases();
    second.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    scheduled(5);
    for ((before, held), taken) in before.into_iter().zip(held).zip(leases()) {
        assert_eq!(held["holderIdentity"], before["holderIdentity"], "who is killed gives nothing back");
        assert_ne!(taken["holderIdentity"], held["holderIdentity"], "the other server leads: {taken}");
        let time = |lease: &serde_json::Value, field: &str| -> jiff::Timestamp {
            lease[field].as_str().unwrap().parse().unwrap()
        };
        // By what the two have written, not by how long this test had to wait for it.
        let length = jiff::SignedDuration::from_secs(held["leaseDurationSeconds"].as_i64().unwrap());
        let end = time(&held, "renewTime") + length;
        let acquired = time(&taken, "acquireTime");
        println!("taken over {:#} after the last renewal", acquired.duration_since(end - length));
        assert!(acquired >= end, "while it was held: {held} {taken}");
        assert!(acquired <= end + length, "it was free for longer than it is held: {held} {taken}");
        assert_eq!(
            taken["leaseTransitions"].as_i64().unwrap(),
            held["leaseTransitions"].as_i64().unwrap() + 1,
            "by one, once"
        );
    }
}

#[test]
fn a_server_on_an_etcd_goes_on_where_it_was_killed_and_what_etcds_tools_saved_is_restored() {
    let etcd = Etcd::new("3.4").started();
    let mut cluster = Cluster::start(Options::hollow(IRONCLAD, 1).flag(&on(&etcd)));
    // More node ports than an etcd takes operations in a transaction by default.
    let ports: Vec<_> = (1..=300).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wide"},
                         "spec": {"type": "NodePort", "ports": ports}});
    let made = cluster.send("POST", SERVICES, "application/json", service.to_string());
    assert_eq!(made.code, 201, "{}", made.body);
    let gone = cluster.send("DELETE", &format!("{SERVICES}/wide"), "application/json", "");
    assert_eq!(gone.code, 200, "{}", gone.body);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let seen = cluster.field(&["configmap", "kept"], "{.metadata.uid}/{.metadata.resourceVersion}");
    cluster.kill_server();
    cluster.start_server();
    assert_eq!(cluster.field(&["configmap", "kept"], "{.metadata.uid}/{.metadata.resourceVersion}"), seen);

    let file = cluster.folder().join("saved");
    etcd.etcdctl(&["snapshot", "save", file.to_str().unwrap()]).unwrap();
    let keys = cluster.data_dir().join("pki");
    let restored =
        Cluster::start_on(Options::hollow(IRONCLAD, 1), |data_dir| restore(&file, &keys, data_dir));
    assert_eq!(restored.field(&["configmap", "kept"], "{.metadata.uid}/{.data.a}"), {
        let uid = seen.split('/').next().unwrap();
        format!("{uid}/b")
    });
}

#[test]
fn etcdctl_saves_a_server_under_load_and_the_save_brings_everything_back() {
    let [port] = ports();
    let address = format!("127.0.0.1:{port}");
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1).flag(&format!("--etcd-listen={address}")));
    let pki = cluster.data_dir().join("pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let endpoint = format!("https://{address}");
    let authority = file("ca.crt");
    let stranger =
        ["--endpoints", &endpoint, "--cacert", &authority, "--command-timeout=3s", "--dial-timeout=3s"];
    let ask = ["get", "/registry/", "--prefix", "--keys-only"];
    for version in VERSIONS {
        let refused = etcdctl(version, &[&stranger[..], &ask].concat());
        assert!(refused.is_err(), "whoever shows no certificate is refused");
    }

    let maps = "/api/v1/namespaces/default/configmaps";
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let saved = VERSIONS.map(|version| cluster.folder().join(format!("saved-{version}")));
    let acknowledged = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n:05}")}});
                assert_eq!(cluster.send("POST", maps, "application/json", map.to_string()).code, 201);
                written.store(n + 1, Ordering::SeqCst);
            }
        });
        wait::until("some writes", || {
            if written.load(Ordering::SeqCst) >= 50 { Ok(()) } else { Err(String::new()) }
        });
        let acknowledged = written.load(Ordering::SeqCst);
        let (certificate, key) = (file("admin.crt"), file("admin.key"));
        let administrator =
            ["--endpoints", &endpoint, "--cacert", &authority, "--cert", &certificate, "--key", &key];
        for (version, to) in VERSIONS.iter().zip(&saved) {
            let to = to.display().to_string();
            etcdctl(version, &[&administrator[..], &["snapshot", "save", &to]].concat()).unwrap();
        }
        acknowledged
    });
    let is_whole = |list: &serde_json::Value| {
        let names: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|map| map["metadata"]["name"].as_str())
            .filter(|name| name.starts_with('m'))
            .collect();
        assert!(names.len() >= acknowledged, "what was acknowledged before the save is in it");
        let expected: Vec<String> = (0..names.len()).map(|n| format!("m{n:05}")).collect();
        assert_eq!(names, expected, "as of one moment: nothing is missing in between");
        names.len()
    };
    let old = cluster.send("GET", maps, "application/json", "").body;
    let revision = |list: &serde_json::Value| -> u64 {
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };

    // Into a cluster of one server.
    let restored =
        Cluster::start_on(Options::hollow(IRONCLAD, 1), |data_dir| restore(&saved[0], &pki, data_dir));
    let list = restored.send("GET", maps, "application/json", "").body;
    is_whole(&list);
    // The new store's revisions are later than all that anybody saw of the old one.
    assert!(revision(&list) > revision(&old));
    drop(restored);

    // Into one of three.
    let mut servers: Vec<Server> = (21..=23).map(Server::new).collect();
    restore(&saved[1], &pki, &servers[0].data_dir());
    servers[0].start(&["--cluster-init"]);
    let (server, token) = (servers[0].url(), servers[0].ironclad(&["token", "server"]).unwrap());
    let join = [format!("--server={server}"), format!("--token={token}")];
    for joiner in &mut servers[1..] {
        joiner.start(&join.each_ref().map(String::as_str));
    }
    let mut found = Vec::new();
    for server in &servers {
        let (code, list) = server.send("GET", maps, "");
        assert_eq!(code, 200, "{list}");
        assert!(revision(&list) > revision(&old));
        found.push(is_whole(&list));
    }
    assert!(found.iter().all(|count| *count == found[0]), "every server has all: {found:?}");
    // They go on from there, without the one that had the save.
    servers[0].kill();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "after"}}).to_string();
    wait::until("a write is acknowledged", || match servers[1].send("POST", maps, &map) {
        // The one before it may have been carried out though its answer was lost.
        (201 | 409, _) => Ok(()),
        (code, answer) => Err(format!("{code} {answer}")),
    });
    let (code, list) = servers[2].send("GET", maps, "");
    assert_eq!(code, 200, "{list}");
    assert_eq!(is_whole(&list), found[0]);
}
