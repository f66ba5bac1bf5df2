//! The embedded plugins at work, and routes between nodes, in network namespaces of the test's own. Needs root.

mod it {
    //! Further cases.
    pub mod routes;
}

use std::{fs::File, net::IpAddr, path::Path};

use network::{
    client::{Network, Sandbox},
    conflist::{self, PodNetwork},
};
use sys::netlink::route::RouteSocket;

/// Moves the calling thread into a fresh network namespace.
fn fresh_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
}

/// Makes a network namespace that lives as long as the returned file; its path works within this thread.
fn pod_namespace() -> File {
    std::thread::spawn(|| {
        fresh_namespace();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

fn sandbox(id: &str, namespace: &File) -> Sandbox {
    use std::os::fd::AsRawFd;
    Sandbox {
        id: id.into(),
        netns: format!("/proc/self/fd/{}", namespace.as_raw_fd()).into(),
        pod_name: id.into(),
        pod_namespace: "default".into(),
        ..Sandbox::default()
    }
}

fn pod_network(directory: &Path) -> Network {
    let bin = directory.join("bin");
    let conf = directory.join("net.d");
    conflist::link_plugins(&bin, &std::env::current_exe().unwrap()).unwrap();
    let network = PodNetwork {
        subnet: "10.42.0.0/24".into(),
        bridge: "cni0".into(),
        ipam_dir: directory.join("networks"),
        mtu: 0,
    };
    conflist::write(&conf, &network).unwrap();
    Network::load(&conf, &bin, &directory.join("cache")).unwrap()
}

#[test]
fn two_pods_reach_each_other_through_the_host_and_leave_nothing() {
    fresh_namespace();
    let directory = tempfile::tempdir().unwrap();
    let network = pod_network(directory.path());
    let (left, right) = (pod_namespace(), pod_namespace());
    let one = network.add(&sandbox("one", &left)).unwrap();
    let two = network.add(&sandbox("two", &right)).unwrap();
    assert_eq!(one.ips[0].address, "10.42.0.2/24");
    assert_eq!(two.ips[0].address, "10.42.0.3/24");
    network.check(&sandbox("one", &left)).unwrap();

    let server =
        sys::netlink::within(&right, || std::net::TcpListener::bind("10.42.0.3:80").unwrap()).unwrap();
    let client =
        sys::netlink::within(&left, || std::net::TcpStream::connect("10.42.0.3:80").unwrap()).unwrap();
    let (_, peer) = server.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from([10, 42, 0, 2]), "the client's own address is seen");
    drop(client);

    network.del(&sandbox("one", &left)).unwrap();
    network.del(&sandbox("one", &left)).unwrap();
    network.del(&sandbox("two", &right)).unwrap();
    let links = RouteSocket::open().unwrap().links().unwrap();
    assert!(links.iter().all(|link| link.kind.as_deref() != Some("veth")), "{links:?}");
    assert_eq!(network.add(&sandbox("three", &left)).unwrap().ips[0].address, "10.42.0.4/24");
}

#[test]
fn a_host_port_leads_to_its_pod_until_the_pod_is_gone() {
    fresh_namespace();
    let directory = tempfile::tempdir().unwrap();
    let network = pod_network(directory.path());
    let pod = pod_namespace();
    let mapping = serde_json::json!({"hostPort": 8080, "containerPort": 80, "protocol": "TCP"});
    let one = Sandbox { port_mappings: vec![mapping.clone()], ..sandbox("one", &pod) };
    network.add(&one).unwrap();
    let server = sys::netlink::within(&pod, || std::net::TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    std::net::TcpStream::connect("10.42.0.1:8080").expect("from the host");
    server.accept().unwrap();
    network.check(&one).unwrap();

    let other = pod_namespace();
    let two = Sandbox { port_mappings: vec![mapping], ..sandbox("two", &other) };
    let error = network.add(&two).unwrap_err();
    assert!(error.message.contains("portmap"), "the port is taken: {error}");
    network.del(&one).unwrap();
    network.add(&two).expect("the port is free again");
}

#[test]
fn a_failed_add_gives_the_address_back() {
    fresh_namespace();
    let directory = tempfile::tempdir().unwrap();
    let network = pod_network(directory.path());
    let missing = Sandbox { netns: "/does/not/exist".into(), ..sandbox("gone", &pod_namespace()) };
    let error = network.add(&missing).unwrap_err();
    assert!(error.message.contains("failed to open netns"), "{error}");
    let taken = std::fs::read_dir(directory.path().join("networks/ironclad"));
    assert!(taken.is_err(), "no address was taken");
}

#[test]
fn a_node_without_configuration_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let error = Network::load(directory.path(), directory.path(), directory.path()).unwrap_err();
    assert_eq!(error.code, network::cni::Code::NotAvailable as u32);
    assert!(error.message.contains("no network config found"), "{error}");
}
