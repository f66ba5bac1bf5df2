//! The rules at work on real packets, in network namespaces of the test's own. Needs root.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use api::types::{core::v1::Service, discovery::v1::EndpointSlice};
use proxy::{
    kernel::Kernel,
    plan::{self, Here, ServicePlan},
    ruleset::Settings,
};
use serde_json::{Value, json};
use sys::netlink::{
    self,
    route::{NewLink, Route, RouteSocket},
};

const SERVICE_IP: &str = "10.43.0.7";

fn unshare_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
}

/// A host (the calling thread) with pods behind a bridge, each in a namespace of its own.
struct Host {
    pods: BTreeMap<u8, File>,
}

impl Host {
    fn new(pods: &[u8]) -> Self {
        unshare_network();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0").unwrap();
        let mut host = RouteSocket::open().unwrap();
        let lo = host.link("lo").unwrap().unwrap();
        host.set_up(lo.index).unwrap();
        host.create("cni0", 0, &NewLink::Bridge).unwrap();
        // As the bridge plugin does: a redirect would use up the one ICMP message that a host may get per second.
        std::fs::write("/proc/sys/net/ipv4/conf/cni0/send_redirects", "0").unwrap();
        let bridge = host.link("cni0").unwrap().unwrap();
        host.set_up(bridge.index).unwrap();
        host.add_address(bridge.index, IpAddr::from([10, 42, 0, 1]), 24).unwrap();
        let default = Route { link: Some(bridge.index), ..Route::to(IpAddr::from([0, 0, 0, 0]), 0) };
        host.replace_route(&default).unwrap();
        let pods = pods.iter().map(|number| (*number, Self::pod(&mut host, bridge.index, *number))).collect();
        Self { pods }
    }

    fn pod(host: &mut RouteSocket, bridge: u32, number: u8) -> File {
        let namespace = std::thread::spawn(|| {
            unshare_network();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let veth = NewLink::Veth { peer: "eth0", peer_namespace: Some(&namespace), peer_mac: None };
        let name = format!("veth{number}");
        host.create(&name, 0, &veth).unwrap();
        let port = host.link(&name).unwrap().unwrap();
        host.attach(port.index, bridge, true).unwrap();
        let mut inside = RouteSocket::open_in(&namespace).unwrap();
        let eth0 = inside.link("eth0").unwrap().unwrap();
        inside.set_up(eth0.index).unwrap();
        inside.add_address(eth0.index, IpAddr::from([10, 42, 0, number]), 32).unwrap();
        let gateway = IpAddr::from([10, 42, 0, 1]);
        let link = Some(eth0.index);
        inside.replace_route(&Route { link, ..Route::to(gateway, 32) }).unwrap();
        let any = IpAddr::from([0, 0, 0, 0]);
        inside.replace_route(&Route { gateway: Some(gateway), link, ..Route::to(any, 0) }).unwrap();
        namespace
    }

    /// A server in a pod that answers every connection with its number and the client's address.
    fn serve(&self, number: u8) {
        let listener =
            netlink::within(&self.pods[&number], || TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = write!(stream, "{number} {}", peer.ip());
            }
        });
    }

    /// What a client in a pod (or on the host) is told by the server behind an address.
    fn call(&self, from: Option<u8>, to: &str) -> std::io::Result<String> {
        let address: SocketAddr = to.parse().unwrap();
        let call = move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        match from {
            Some(pod) => netlink::within(&self.pods[&pod], call).unwrap(),
            None => call(),
        }
    }
}

fn service(spec: Value) -> Service {
    let mut spec = spec;
    spec["clusterIPs"] = json!([SERVICE_IP]);
    spec["ports"] = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080},
                           {"name": "dns", "port": 53, "protocol": "UDP"}]);
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "default"}, "spec": spec})).unwrap()
}

fn planned(service: &Service, pods: &[u8]) -> ServicePlan {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|n| json!({"addresses": [Ipv4Addr::new(10, 42, 0, *n)], "nodeName": "here"}))
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
    }))
    .unwrap();
    plan::plan(service, &[Arc::new(slice)], &Here { node_name: "here".into() })
}

fn kernel() -> Kernel {
    Kernel::open(Settings { cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16) }).unwrap()
}

fn apply(kernel: &mut Kernel, plan: ServicePlan) {
    kernel.apply(vec![("default/s".into(), plan)]).unwrap();
}

#[test]
fn packets_to_a_service_reach_its_endpoints() {
    let host = Host::new(&[2, 3, 4]);
    for pod in [2, 3] {
        host.serve(pod);
    }
    let mut kernel = kernel();
    let service = service(json!({}));
    let entry = format!("{SERVICE_IP}:80");

    apply(&mut kernel, planned(&service, &[]));
    let refused = host.call(Some(4), &entry).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "no endpoints: {refused}");
    assert_eq!(host.call(None, &entry).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    apply(&mut kernel, planned(&service, &[2, 3]));
    let mut seen: Vec<String> = (0..64).map(|_| host.call(Some(4), &entry).unwrap()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["2 10.42.0.4", "3 10.42.0.4"], "both serve, and see the client's own address");
    host.call(None, &entry).expect("from the host itself");

    apply(&mut kernel, planned(&service, &[3]));
    for _ in 0..16 {
        assert_eq!(
            host.call(Some(4), &entry).unwrap(),
            "3 10.42.0.4",
            "the endpoint that is gone gets nothing"
        );
    }
    assert_eq!(host.call(Some(3), &entry).unwrap(), "3 10.42.0.1", "a pod reaches itself");

    assert_eq!(host.call(Some(4), "10.42.0.1:30080").unwrap(), "3 10.42.0.1", "by node port");
    let refused = host.call(Some(4), &format!("{SERVICE_IP}:81")).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "a port that the Service does not have"
    );

    // A new process with no memory of the old one's rules takes over without a gap in what they do.
    let mut second = self::kernel();
    apply(&mut second, planned(&service, &[2]));
    assert_eq!(host.call(Some(4), &entry).unwrap(), "2 10.42.0.4");
    second.remove().unwrap();
    assert!(host.call(Some(4), &entry).is_err());
}

#[test]
fn a_client_stays_with_its_endpoint_until_it_is_gone() {
    let host = Host::new(&[2, 3, 4]);
    for pod in [2, 3] {
        host.serve(pod);
    }
    let mut kernel = kernel();
    let service = service(json!({"sessionAffinity": "ClientIP"}));
    let entry = format!("{SERVICE_IP}:80");
    apply(&mut kernel, planned(&service, &[2, 3]));
    let first = host.call(Some(4), &entry).unwrap();
    for _ in 0..32 {
        assert_eq!(host.call(Some(4), &entry).unwrap(), first);
    }
    let other = if first.starts_with('2') { 3 } else { 2 };
    apply(&mut kernel, planned(&service, &[other]));
    assert_eq!(host.call(Some(4), &entry).unwrap(), format!("{other} 10.42.0.4"));
}

#[test]
fn a_udp_client_with_a_fixed_port_follows_the_endpoints() {
    let host = Host::new(&[2, 3, 4]);
    let server = |pod| {
        let bind = || UdpSocket::bind("0.0.0.0:5353").unwrap();
        let socket = netlink::within(&host.pods[&pod], bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket
    };
    let (one, two) = (server(2), server(3));
    let client = netlink::within(&host.pods[&4], || UdpSocket::bind("0.0.0.0:4000").unwrap()).unwrap();
    let ask = || client.send_to(b"?", (SERVICE_IP, 53)).unwrap();
    let mut kernel = kernel();
    let service = service(json!({}));
    let mut buffer = [0; 8];
    apply(&mut kernel, planned(&service, &[2]));
    ask();
    one.recv(&mut buffer).unwrap();
    apply(&mut kernel, planned(&service, &[3]));
    ask();
    two.recv(&mut buffer).expect("the connection to the endpoint that is gone was forgotten");
}

#[test]
fn what_the_kernel_refused_is_made_up_for() {
    let host = Host::new(&[2, 3, 4]);
    for pod in [2, 3] {
        host.serve(pod);
    }
    let mut kernel = kernel();
    let service = service(json!({"sessionAffinity": "ClientIP"}));
    apply(&mut kernel, planned(&service, &[2, 3]));
    // Somebody takes the table away: which clients stay with an endpoint that goes can no longer be read.
    self::kernel().remove().unwrap();
    kernel.apply(vec![("default/s".into(), planned(&service, &[3]))]).unwrap_err();
    // The executor tries the same change again.
    apply(&mut kernel, planned(&service, &[3]));
    assert_eq!(host.call(Some(4), &format!("{SERVICE_IP}:80")).unwrap(), "3 10.42.0.4");
}
