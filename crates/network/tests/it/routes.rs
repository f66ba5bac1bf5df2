//! Three nodes keep routes to each other's pods: two on one network, the third behind a router.
//!
//! Each node is a network namespace with an event loop of its own in it; the router is the test's namespace.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use api::types::core::v1::Node;
use client::{Informer, Informers};
use foundation::{SystemClock, Tasks};
use network::{
    client::Sandbox,
    conflist::{self, PodNetwork},
    routes::{self, plan},
};
use sys::netlink::{
    self,
    route::{Link, NewLink, Route, RouteSocket},
};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use crate::{fresh_namespace, pod_namespace, sandbox};

/// Until when a change must have arrived in the kernel, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("{what}: last seen: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("skipped: needs root");
    }
    root
}

/// A node: its part of the cluster, and a running keeper of routes.
struct Host {
    namespace: File,
    nodes: Informer<Node>,
    mtu: watch::Receiver<Option<u32>>,
    stop: Option<oneshot::Sender<()>>,
    event_loop: Option<JoinHandle<()>>,
    directory: TempDir,
    address: Ipv4Addr,
    number: u8,
}

impl Host {
    /// `uplink` is the name of the router's end of its cable.
    fn start(address: [u8; 4], router: [u8; 4], number: u8, uplink: &str) -> Host {
        let namespace = pod_namespace();
        let mut outside = RouteSocket::open().unwrap();
        let cable = NewLink::Veth { peer: "eth0", peer_namespace: Some(&namespace), peer_mac: None };
        outside.create(uplink, 0, &cable).unwrap();
        let end = outside.link(uplink).unwrap().unwrap();
        outside.set_up(end.index).unwrap();
        let mut inside = RouteSocket::open_in(&namespace).unwrap();
        let [lo, eth0] = ["lo", "eth0"].map(|name| {
            let link = inside.link(name).unwrap().unwrap();
            inside.set_up(link.index).unwrap();
            link.index
        });
        assert_ne!(lo, eth0);
        inside.add_address(eth0, address.into(), 24).unwrap();
        let any = Route::to(Ipv4Addr::UNSPECIFIED.into(), 0);
        inside.replace_route(&Route { gateway: Some(router.into()), ..any }).unwrap();

        let nodes = Informers::unfed().informer::<Node>();
        let (stop, stopped) = oneshot::channel();
        let (sender, receiver) = std::sync::mpsc::channel();
        let event_loop = std::thread::spawn({
            let (namespace, nodes) = (namespace.try_clone().unwrap(), nodes.clone());
            move || {
                // Threads of the event loop are started by this one and are where it is.
                sys::namespace::enter(&namespace).unwrap();
                let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                event_loop.block_on(async {
                    let tasks = Tasks::new("node");
                    let options = routes::Options {
                        node_name: format!("node-{number}"),
                        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
                    };
                    let mtu = routes::start(options, nodes, &tasks, SystemClock::shared()).unwrap();
                    sender.send(mtu).unwrap();
                    let _ = stopped.await;
                    tasks.shutdown(PATIENCE).await;
                });
            }
        });
        Host {
            namespace,
            nodes,
            mtu: receiver.recv().unwrap(),
            stop: Some(stop),
            event_loop: Some(event_loop),
            directory: tempfile::tempdir().unwrap(),
            address: address.into(),
            number,
        }
    }

    fn node(&self) -> Node {
        let node = serde_json::json!({
            "metadata": {"name": format!("node-{}", self.number)},
            "spec": {"podCIDR": format!("10.42.{}.0/24", self.number)},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
        });
        serde_json::from_value(node).unwrap()
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netlink::within(&self.namespace, work).unwrap()
    }

    /// Connects a pod as the runtime would, with packets as large as the keeper of routes says.
    fn pod(&self) -> File {
        let pod = pod_namespace();
        let path = self.directory.path();
        let (bin, conf) = (path.join("bin"), path.join("net.d"));
        conflist::link_plugins(&bin, &std::env::current_exe().unwrap()).unwrap();
        let network = PodNetwork {
            subnet: format!("10.42.{}.0/24", self.number),
            bridge: "cni0".into(),
            ipam_dir: path.join("networks"),
            mtu: self.mtu.borrow().unwrap(),
        };
        conflist::write(&conf, &network).unwrap();
        let network = network::client::Network::load(&conf, &bin, &path.join("cache")).unwrap();
        let sandbox: Sandbox = sandbox("pod", &pod);
        self.within(|| network.add(&sandbox)).unwrap();
        pod
    }

    fn pod_address(&self) -> IpAddr {
        IpAddr::from([10, 42, self.number, 2])
    }

    fn kernel(&self) -> RouteSocket {
        RouteSocket::open_in(&self.namespace).unwrap()
    }

    fn tunnel(&self) -> Option<Link> {
        self.kernel().link(plan::TUNNEL).unwrap()
    }

    /// The routes of ours.
    fn routes(&self) -> Vec<Route> {
        let routes = self.kernel().routes().unwrap();
        routes.into_iter().filter(|route| route.protocol == plan::PROTOCOL).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.event_loop.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Sends more than a packet holds from one namespace to another and back; returns the address the server saw.
fn exchange(client: &File, server: &File, to: IpAddr) -> IpAddr {
    const AMOUNT: usize = 300_000;
    let listener = netlink::within(server, || TcpListener::bind(SocketAddr::new(to, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut received = vec![0; AMOUNT];
        stream.read_exact(&mut received).unwrap();
        stream.write_all(&received).unwrap();
        peer.ip()
    });
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).unwrap();
    let mut stream = netlink::within(client, connect).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&vec![7; AMOUNT]).unwrap());
    let mut received = vec![0; AMOUNT];
    stream.read_exact(&mut received).unwrap();
    sending.join().unwrap();
    answering.join().unwrap()
}

#[test]
fn pods_on_three_nodes_reach_each_other() {
    if !is_root() {
        return;
    }
    fresh_namespace();
    let mut router = RouteSocket::open().unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    router.create("lan", 0, &NewLink::Bridge).unwrap();
    let lan = router.link("lan").unwrap().unwrap().index;
    router.set_up(lan).unwrap();
    router.add_address(lan, [192, 0, 2, 254].into(), 24).unwrap();
    let left = Host::start([192, 0, 2, 1], [192, 0, 2, 254], 1, "left");
    let right = Host::start([192, 0, 2, 2], [192, 0, 2, 254], 2, "right");
    for name in ["left", "right"] {
        let port = router.link(name).unwrap().unwrap().index;
        router.attach(port, lan, false).unwrap();
    }
    let far = Host::start([198, 51, 100, 7], [198, 51, 100, 254], 3, "far");
    let port = router.link("far").unwrap().unwrap().index;
    router.add_address(port, [198, 51, 100, 254].into(), 24).unwrap();

    let hosts = [&left, &right, &far];
    let foreign = Route { gateway: Some([192, 0, 2, 254].into()), ..Route::to([10, 42, 99, 0].into(), 24) };
    left.kernel().replace_route(&foreign).unwrap();
    for host in hosts {
        host.nodes.feed(hosts.map(Host::node).into());
    }
    let settled = |host: &Host| match (host.routes().len(), *host.mtu.borrow()) {
        (2, Some(1450)) => Ok(()),
        seen => Err(format!("{seen:?}")),
    };
    for host in hosts {
        until("routes and the largest packet", || settled(host));
    }
    let pods = hosts.map(Host::pod);
    for (from, client) in pods.iter().enumerate() {
        for (to, server) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
            let seen = exchange(client, server, hosts[to].pod_address());
            assert_eq!(seen, hosts[from].pod_address(), "a pod is seen by its own address");
        }
        // The host itself, too, as probes and Services need it.
        for (to, server) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
            let seen = exchange(&hosts[from].namespace, server, hosts[to].pod_address());
            let beyond = from == 2 || to == 2;
            let expected: IpAddr = match beyond {
                true => [10, 42, hosts[from].number, 0].into(),
                false => hosts[from].address.into(),
            };
            assert_eq!(seen, expected);
        }
    }

    // Somebody else's hands.
    let there = left.routes();
    left.kernel().delete_route(&there[0]).unwrap();
    until("the route is put back", || if left.routes() == there { Ok(()) } else { Err(String::new()) });
    let tunnel = left.tunnel().unwrap().index;
    left.kernel().delete_neighbour(tunnel, [10, 42, 3, 0].into()).unwrap();
    for entry in left.kernel().forwardings().unwrap() {
        left.kernel().delete_forwarding(&entry).unwrap();
    }
    until("who is beyond the tunnel is known again", || {
        let mut kernel = left.kernel();
        let (neighbours, entries) = (kernel.neighbours().unwrap(), kernel.forwardings().unwrap());
        let known = neighbours.iter().any(|known| known.link == tunnel && known.permanent);
        if known && !entries.is_empty() { Ok(()) } else { Err(format!("{neighbours:?} {entries:?}")) }
    });
    left.kernel().delete(tunnel).unwrap();
    until("the tunnel is made again", || settled(&left));
    exchange(&pods[0], &pods[2], far.pod_address());
    let eth0 = left.kernel().link("eth0").unwrap().unwrap().index;
    set_down(&left, eth0);
    left.kernel().set_up(eth0).unwrap();
    let any = Route::to(Ipv4Addr::UNSPECIFIED.into(), 0);
    left.kernel().replace_route(&Route { gateway: Some([192, 0, 2, 254].into()), ..any }).unwrap();
    left.kernel().replace_route(&foreign).unwrap();
    until("a link that was down has its routes again", || settled(&left));
    exchange(&pods[0], &pods[1], right.pod_address());
    exchange(&pods[0], &pods[2], far.pod_address());

    // The far node leaves.
    left.nodes.feed(vec![left.node(), right.node()]);
    until("nothing of it is left", || match (left.routes().len(), left.tunnel(), *left.mtu.borrow()) {
        (1, None, Some(1500)) => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    let foreign_stays = left.kernel().routes().unwrap().into_iter().any(|route| {
        (route.destination, route.gateway, route.protocol)
            == (foreign.destination, foreign.gateway, foreign.protocol)
    });
    assert!(foreign_stays);
    exchange(&pods[0], &pods[1], right.pod_address());
    left.within(routes::uninstall).unwrap();
}

/// `ip link set down`: nothing of ours needs it.
fn set_down(host: &Host, index: u32) {
    let name = host.kernel().links().unwrap().into_iter().find(|link| link.index == index).unwrap().name;
    host.within(|| {
        let done = std::process::Command::new("ip").args(["link", "set", &name, "down"]).status().unwrap();
        assert!(done.success());
    });
}
