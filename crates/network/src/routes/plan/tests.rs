//! Plans for clusters small enough to be drawn: this node is 192.0.2.1 on `eth0` (index 2), with pods in 10.42.0.0/24.

use std::sync::Arc;

use super::*;

const ETH0: u32 = 2;
const TUNNEL_INDEX: u32 = 9;

fn member(name: &str, address: &str, pods: &str) -> Arc<Member> {
    let (address, pods) = (address.parse().unwrap(), pods.parse().unwrap());
    Arc::new(Member { name: name.into(), address, pods, since: None })
}

/// The same, made so many seconds after the first.
fn aged(name: &str, address: &str, pods: &str, seconds: u8) -> Arc<Member> {
    let since = format!("2026-11-22T10:00:{seconds:02}Z").parse().ok();
    Arc::new(Member { since, ..(*member(name, address, pods)).clone() })
}

fn cluster(others: &[(&str, &str, &str)]) -> Cluster {
    Cluster {
        cidr: "10.42.0.0/16".parse().unwrap(),
        own: member("own", "192.0.2.1", "10.42.0.0/24"),
        others: others.iter().map(|(name, address, pods)| member(name, address, pods)).collect(),
    }
}

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        mac: vec![2, 0, 0, 0, 0, index as u8],
        mtu: 1500,
        master: None,
        kind: None,
        peer: None,
        up: true,
        vxlan: None,
    }
}

fn route(to: &str, gateway: Option<&str>, index: u32) -> Route {
    let to = network(to);
    let gateway = gateway.map(|text| text.parse().unwrap());
    Route { gateway, link: Some(index), ..Route::to(to.address.into(), to.prefix) }
}

fn ours(to: &str, gateway: &str, index: u32) -> Route {
    Route { protocol: PROTOCOL, onlink: index == TUNNEL_INDEX, ..route(to, Some(gateway), index) }
}

/// A host with an address, its network, and a router.
fn host() -> Observed {
    Observed {
        links: vec![link(1, "lo"), link(ETH0, "eth0")],
        addresses: vec![Address { link: ETH0, ip: [192, 0, 2, 1].into(), prefix: 24, scope: 0 }],
        routes: vec![route("0.0.0.0/0", Some("192.0.2.254"), ETH0), route("192.0.2.0/24", None, ETH0)],
        forwards: true,
        ..Observed::default()
    }
}

/// The same with a tunnel to 198.51.100.7, whose pods are 10.42.7.0/24.
fn host_with_tunnel() -> Observed {
    let mut observed = host();
    observed.links.push(Link {
        mac: mac_of([192, 0, 2, 1].into()).into(),
        mtu: 1450,
        kind: Some("vxlan".into()),
        vxlan: Some(Vxlan { network: 1, port: 8472, local: [192, 0, 2, 1].into() }),
        ..link(TUNNEL_INDEX, TUNNEL)
    });
    observed.addresses.push(Address { link: TUNNEL_INDEX, ip: [10, 42, 0, 0].into(), prefix: 32, scope: 0 });
    let (destination, mac) = (Ipv4Addr::from([198, 51, 100, 7]), mac_of([198, 51, 100, 7].into()));
    observed.neighbours =
        vec![Neighbour { link: TUNNEL_INDEX, ip: [10, 42, 7, 0].into(), mac, permanent: true }];
    observed.forwardings = vec![Forwarding { link: TUNNEL_INDEX, mac, destination }];
    observed.routes.push(ours("10.42.7.0/24", "10.42.7.0", TUNNEL_INDEX));
    observed
}

const NEAR: (&str, &str, &str) = ("near", "192.0.2.2", "10.42.2.0/24");
const FAR: (&str, &str, &str) = ("far", "198.51.100.7", "10.42.7.0/24");

fn direct(gateway: &str) -> Way {
    Way::Direct { gateway: gateway.parse().unwrap(), link: ETH0 }
}

#[test]
fn nodes_on_one_link_are_reached_through_their_addresses() {
    let near = Command::PutRoute(network("10.42.2.0/24"), direct("192.0.2.2"));
    let good = ours("10.42.2.0/24", "192.0.2.2", ETH0);
    let stale = ours("10.42.3.0/24", "192.0.2.3", ETH0);
    let static_route = route("10.42.3.0/24", Some("192.0.2.3"), ETH0);
    for (case, others, routes, expected) in [
        ("alone", vec![], vec![], vec![]),
        ("a new node", vec![NEAR], vec![], vec![near.clone()]),
        ("as it should be", vec![NEAR], vec![good], vec![]),
        ("somebody deleted it", vec![NEAR], vec![static_route], vec![near.clone()]),
        ("another address", vec![NEAR], vec![ours("10.42.2.0/24", "192.0.2.9", ETH0)], vec![near.clone()]),
        ("a node left", vec![NEAR], vec![good, stale], vec![Command::DeleteRoute(stale)]),
        ("another network", vec![NEAR], vec![stale], vec![Command::DeleteRoute(stale), near.clone()]),
        ("foreign routes stay", vec![], vec![static_route], vec![]),
        ("foreign routes are not replaced", vec![NEAR], vec![route("10.42.2.0/24", None, 1)], vec![]),
        (
            "one beside ours",
            vec![NEAR],
            vec![good, Route { metric: 50, ..route("10.42.2.0/24", None, 1) }],
            vec![],
        ),
        (
            "ours with a metric of somebody's making",
            vec![NEAR],
            vec![good, Route { metric: 7, ..good }],
            vec![Command::DeleteRoute(Route { metric: 7, ..good })],
        ),
    ] {
        let mut observed = host();
        observed.routes.extend(routes);
        let plan = plan(&cluster(&others), &observed);
        assert_eq!(plan.commands, expected, "{case}");
        assert_eq!(plan.mtu, Some(1500), "{case}");
        assert_eq!(plan.refused.is_empty(), case != "foreign routes are not replaced", "{case}");
        assert_eq!(plan.links, [ETH0].into(), "{case}");
    }
}

#[test]
fn a_host_that_forwards_nothing_is_told_to() {
    let observed = Observed { forwards: false, ..host() };
    let expected = [
        Command::Set("ipv4/ip_forward".into(), "1"),
        Command::PutRoute(network("10.42.2.0/24"), direct("192.0.2.2")),
    ];
    assert_eq!(plan(&cluster(&[NEAR]), &observed).commands, expected);
    assert_eq!(plan(&cluster(&[]), &observed).commands, [], "a node alone leaves it to the first pod");
}

#[test]
fn what_the_kernel_would_do_decides_who_is_near() {
    let near = |to| Some(Way::Direct { gateway: [192, 0, 2, 2].into(), link: to });
    for (case, routes, expected) in [
        ("its own network", vec![], near(ETH0)),
        (
            "a longer prefix through a router",
            vec![route("192.0.2.2/32", Some("192.0.2.254"), ETH0)],
            Some(Way::Tunnel),
        ),
        ("a longer prefix on another link", vec![route("192.0.2.0/30", None, 5)], near(5)),
        (
            "a better metric",
            vec![
                Route { metric: 100, ..route("192.0.2.0/28", None, 5) },
                route("192.0.2.0/28", Some("192.0.2.254"), ETH0),
            ],
            Some(Way::Tunnel),
        ),
        ("our own routes are no argument", vec![ours("192.0.2.2/32", "192.0.2.254", ETH0)], near(ETH0)),
        (
            "several next hops",
            vec![Route { link: None, ..route("192.0.2.0/28", None, 0) }],
            Some(Way::Tunnel),
        ),
    ] {
        let mut observed = host();
        observed.routes.extend(routes);
        assert_eq!(way_to([192, 0, 2, 2].into(), &observed), expected, "{case}");
    }
    assert_eq!(way_to([192, 0, 2, 2].into(), &Observed::default()), None);
}

#[test]
fn a_node_elsewhere_is_reached_through_a_tunnel() {
    let planned = plan(&cluster(&[FAR, NEAR]), &host());
    let far = Ipv4Addr::from([198, 51, 100, 7]);
    let expected = [
        Command::MakeTunnel {
            between: Vxlan { network: 1, port: 8472, local: [192, 0, 2, 1].into() },
            mac: [0x0a, 0x1c, 192, 0, 2, 1],
            mtu: 1450,
        },
        Command::Set("ipv4/conf/ironclad.1/rp_filter".into(), "2"),
        Command::AddTunnelAddress([10, 42, 0, 0].into()),
        Command::TunnelUp,
        Command::PutForwarding(mac_of(far), far),
        Command::PutNeighbour([10, 42, 7, 0].into(), mac_of(far)),
        Command::PutRoute(network("10.42.2.0/24"), direct("192.0.2.2")),
        Command::PutRoute(network("10.42.7.0/24"), Way::Tunnel),
    ];
    assert_eq!(planned.commands, expected);
    assert_eq!(planned.mtu, Some(1450));

    let settled = plan(&cluster(&[FAR]), &host_with_tunnel());
    assert_eq!((settled.commands, settled.mtu), (vec![], Some(1450)));
}

#[test]
fn a_tunnel_is_put_right() {
    let far = Ipv4Addr::from([198, 51, 100, 7]);
    type Damage = fn(&mut Observed);
    let cases: [(&str, Damage, Vec<Command>); 10] = [
        ("down", |o| o.links[2].up = false, vec![Command::TunnelUp]),
        ("a larger link", |o| o.links[1].mtu = 9000, vec![Command::TunnelMtu(8950)]),
        ("no address", |o| o.addresses.truncate(1), vec![Command::AddTunnelAddress([10, 42, 0, 0].into())]),
        (
            "another address",
            |o| o.addresses[1].ip = [10, 42, 5, 0].into(),
            vec![
                Command::RemoveTunnelAddress(IpAddr::from([10, 42, 5, 0]), 32),
                Command::AddTunnelAddress([10, 42, 0, 0].into()),
            ],
        ),
        (
            "no neighbour",
            |o| o.neighbours.clear(),
            vec![Command::PutNeighbour([10, 42, 7, 0].into(), mac_of(far))],
        ),
        (
            "a neighbour that ages",
            |o| o.neighbours[0].permanent = false,
            vec![Command::PutNeighbour([10, 42, 7, 0].into(), mac_of(far))],
        ),
        ("no forwarding", |o| o.forwardings.clear(), vec![Command::PutForwarding(mac_of(far), far)]),
        (
            "forwarding elsewhere",
            |o| o.forwardings[0].destination = [198, 51, 100, 8].into(),
            vec![
                Command::DeleteForwarding(Forwarding {
                    link: TUNNEL_INDEX,
                    mac: mac_of(far),
                    destination: [198, 51, 100, 8].into(),
                }),
                Command::PutForwarding(mac_of(far), far),
            ],
        ),
        (
            "a route past it",
            |o| o.routes[2] = ours("10.42.7.0/24", "192.0.2.254", ETH0),
            vec![Command::PutRoute(network("10.42.7.0/24"), Way::Tunnel)],
        ),
        (
            "a route that is gone",
            |o| o.routes.truncate(2),
            vec![Command::PutRoute(network("10.42.7.0/24"), Way::Tunnel)],
        ),
    ];
    for (case, damage, expected) in cases {
        let mut observed = host_with_tunnel();
        damage(&mut observed);
        assert_eq!(plan(&cluster(&[FAR]), &observed).commands, expected, "{case}");
    }

    // Of another address, it is another tunnel: made anew with all that leads through it.
    let mut observed = host_with_tunnel();
    observed.links[2].vxlan = Some(Vxlan { network: 1, port: 8472, local: [192, 0, 2, 77].into() });
    let commands = plan(&cluster(&[FAR]), &observed).commands;
    assert_eq!(commands[0], Command::DeleteTunnel);
    assert!(matches!(commands[1], Command::MakeTunnel { .. }));
    assert_eq!(commands.last(), Some(&Command::PutRoute(network("10.42.7.0/24"), Way::Tunnel)));
}

#[test]
fn a_tunnel_to_nobody_is_taken_down_after_its_traffic_has_gone_elsewhere() {
    let stale = ours("10.42.7.0/24", "10.42.7.0", TUNNEL_INDEX);
    let left = plan(&cluster(&[]), &host_with_tunnel());
    assert_eq!(left.commands, [Command::DeleteRoute(stale), Command::DeleteTunnel]);
    assert_eq!(left.mtu, Some(1500));
    let moved = plan(&cluster(&[("far", "192.0.2.7", "10.42.7.0/24")]), &host_with_tunnel());
    let expected = [Command::PutRoute(network("10.42.7.0/24"), direct("192.0.2.7")), Command::DeleteTunnel];
    assert_eq!(moved.commands, expected);
    // Its neighbours change with its network.
    let other = plan(&cluster(&[("far", "198.51.100.7", "10.42.8.0/24")]), &host_with_tunnel());
    let mac = mac_of([198, 51, 100, 7].into());
    let expected = [
        Command::DeleteNeighbour(IpAddr::from([10, 42, 7, 0])),
        Command::PutNeighbour([10, 42, 8, 0].into(), mac),
        Command::DeleteRoute(stale),
        Command::PutRoute(network("10.42.8.0/24"), Way::Tunnel),
    ];
    assert_eq!(other.commands, expected);
}

#[test]
fn a_link_that_is_down_for_a_moment_costs_no_route() {
    for (others, mut observed) in [(FAR, host_with_tunnel()), (NEAR, host())] {
        observed.routes.retain(|route| route.protocol == PROTOCOL);
        let plan = plan(&cluster(&[others]), &observed);
        assert_eq!(plan.commands, []);
        assert_eq!(plan.refused.len(), 1);
    }
    let observed = Observed { addresses: vec![], ..host() };
    assert_eq!(plan(&cluster(&[NEAR]), &observed).mtu, None, "nothing tells: what was known goes on");
}

#[test]
fn networks_that_nobody_may_have_get_no_route() {
    for (case, others, refused) in [
        ("everything", vec![("x", "192.0.2.2", "0.0.0.0/0")], "is outside of the pods' 10.42.0.0/16"),
        ("Services", vec![("x", "192.0.2.2", "10.43.0.0/24")], "is outside of the pods' 10.42.0.0/16"),
        ("ours", vec![("x", "192.0.2.2", "10.42.0.128/25")], "overlaps this node's 10.42.0.0/24"),
        ("another's", vec![NEAR, ("x", "192.0.2.3", "10.42.2.0/24")], "overlaps 10.42.2.0/24 of node near"),
        ("a part", vec![NEAR, ("x", "192.0.2.3", "10.42.2.64/26")], "overlaps 10.42.2.0/24 of node near"),
        ("more", vec![NEAR, ("x", "192.0.2.3", "10.42.2.0/23")], "overlaps 10.42.2.0/24 of node near"),
        ("loopback", vec![("x", "127.0.0.1", "10.42.2.0/24")], "nobody is reached at its address 127.0.0.1"),
    ] {
        let plan = plan(&cluster(&others), &host());
        assert_eq!(plan.commands.len(), others.len() - 1, "{case}: {:?}", plan.commands);
        let [refusal] = plan.refused.iter().collect::<Vec<_>>()[..] else { panic!("{case}") };
        assert!(refusal.node == "x" && refusal.reason.contains(refused), "{case}: {refusal:?}");
    }
    let simulated = plan(&cluster(&[("simulated", "192.0.2.1", "10.42.5.0/24")]), &host());
    assert_eq!(
        (simulated.commands.len(), simulated.refused.len()),
        (0, 0),
        "a node that says it is here is passed over"
    );
}

/// Node `0` comes first by name, and says that another node's network is its own.
#[test]
fn a_network_is_not_taken_from_who_has_it() {
    let (one, two) = ("192.0.2.2", "192.0.2.9");
    let to = |gateway| ours("10.42.2.0/24", gateway, ETH0);
    let victim = |seconds| aged("victim", one, "10.42.2.0/24", seconds);
    for (case, thief, victim, route, refused) in [
        ("the older", aged("0", two, "10.42.2.0/24", 9), victim(1), None, "0"),
        ("a part of it", aged("0", two, "10.42.2.128/25", 9), victim(1), None, "0"),
        ("all of it", aged("0", two, "10.42.2.0/23", 9), victim(1), None, "0"),
        ("of one second the first by name", aged("0", two, "10.42.2.0/24", 1), victim(1), None, "victim"),
        ("who has the route", aged("0", two, "10.42.2.0/24", 1), victim(9), Some(to(one)), "0"),
        (
            "who has the route, if it is larger",
            aged("0", two, "10.42.2.0/23", 1),
            victim(9),
            Some(to(one)),
            "0",
        ),
        (
            "a route that leads to nobody",
            aged("0", two, "10.42.2.0/24", 9),
            victim(1),
            Some(to("192.0.2.7")),
            "0",
        ),
    ] {
        let mut observed = host();
        observed.routes.extend(route);
        let cluster = Cluster { others: vec![thief, victim], ..cluster(&[]) };
        let plan = plan(&cluster, &observed);
        let [refusal] = plan.refused.iter().collect::<Vec<_>>()[..] else { panic!("{case}: {plan:?}") };
        assert_eq!(refusal.node, refused, "{case}");
        let moves = plan.commands.iter().any(|command| {
            matches!(command, Command::PutRoute(_, Way::Direct { gateway, .. }) if gateway.to_string() == two)
        });
        assert_eq!(moves, refused == "victim", "{case}: {:?}", plan.commands);
    }

    // The tunnel's end is told by its neighbour.
    let others =
        vec![aged("0", "198.51.100.9", "10.42.7.0/24", 1), aged("far", "198.51.100.7", "10.42.7.0/24", 9)];
    let tunnelled = plan(&Cluster { others, ..cluster(&[]) }, &host_with_tunnel());
    assert_eq!(tunnelled.commands, []);
    assert_eq!(tunnelled.refused.first().unwrap().node, "0");

    // While the way to its node is down for a moment, it is not anybody's.
    let mut observed = host();
    observed.routes = vec![to(one), route("198.51.100.0/24", Some("192.0.2.254"), ETH0)];
    let others = vec![aged("0", "198.51.100.9", "10.42.2.0/25", 1), victim(9)];
    let down = plan(&Cluster { others, ..cluster(&[]) }, &observed);
    assert_eq!(down.commands, []);
    assert_eq!(down.refused.len(), 2);
}
