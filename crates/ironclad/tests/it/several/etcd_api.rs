//! The etcd v3 API of servers that keep the store together: where each is reached, and who leads.

use serde_json::Value;
use testkit::{etcd, wait};

use super::server::Server;
use super::settled;

/// Runs `etcdctl` as an administrator against some servers.
fn ctl(version: &str, servers: &[&Server], command: &[&str]) -> Result<String, String> {
    let urls: Vec<_> = servers.iter().map(|server| format!("https://{}", server.etcd)).collect();
    let file = |name: &str| servers[0].data_dir().join("pki").join(name).display().to_string();
    let (urls, authority) = (urls.join(","), file("ca.crt"));
    let (certificate, key) = (file("admin.crt"), file("admin.key"));
    let reach = ["--endpoints", &urls, "--cacert", &authority, "--cert", &certificate, "--key", &key];
    etcd::etcdctl(version, &[&reach[..], command].concat())
}

/// The id of each member and the first URL that clients are told, by name, as one server lists them.
fn listed(server: &Server) -> Result<Vec<(String, u64, String)>, String> {
    let list = ctl("3.5", &[server], &["member", "list", "-w", "json"])?;
    let list: Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    let members = list["members"].as_array().ok_or("no members")?.iter();
    let mut members: Vec<_> = members
        .map(|member| {
            let url = member["clientURLs"][0].as_str().unwrap_or_default();
            (member["name"].as_str().unwrap().to_owned(), member["ID"].as_u64().unwrap(), url.to_owned())
        })
        .collect();
    members.sort();
    Ok(members)
}

/// Waits until a server tells that clients reach the members there.
fn told(server: &Server, wanted: &[&str]) -> Vec<(String, u64, String)> {
    wait::until("all are told where the members are", || {
        let found = listed(server)?;
        let same = found.iter().map(|member| member.2.as_str()).eq(wanted.iter().copied());
        if same { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

#[test]
fn members_tell_where_they_are_reached_and_give_the_lead_to_whom_they_are_told() {
    let mut servers: Vec<Server> = (1..=2).map(Server::new).collect();
    let flags: Vec<_> = servers.iter().map(|server| format!("--etcd-listen={}", server.etcd)).collect();
    servers[0].start(&["--cluster-init", &flags[0]]);
    let token = format!("--token={}", servers[0].ironclad(&["token", "server"]).unwrap());
    let first = format!("--server={}", servers[0].url());
    servers[1].start(&[&first, &token, &flags[1]]);
    let urls: Vec<_> = servers.iter().map(|server| format!("https://{}", server.etcd)).collect();
    let mut members = Vec::new();
    for server in &servers {
        members = told(server, &[&urls[0], &urls[1]]);
    }
    assert!(members.iter().zip(&servers).all(|(member, server)| member.0 == server.name), "{members:?}");

    // By each version to the one that does not lead.
    for version in ["3.4", "3.5"] {
        let leader = settled(&servers[0], 2);
        let other = members.iter().find(|member| member.0 != leader).unwrap();
        let id = format!("{:x}", other.1);
        wait::until("the lead is moved", || {
            let answer = ctl(version, &[&servers[0], &servers[1]], &["move-leader", &id]);
            if settled(&servers[1], 2) == other.0 { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }

    // What serves the API no more says so.
    assert!(servers[1].stop().success());
    servers[1].start(&[]);
    told(&servers[0], &[&urls[0], ""]);

    // And what a member has said does not outlive it.
    assert!(servers[1].stop().success());
    servers[1].start(&[&flags[1]]);
    told(&servers[0], &[&urls[0], &urls[1]]);
    let said = || ctl("3.5", &[&servers[0]], &["get", "--prefix", "--keys-only", "/registry/ironclad/etcd/"]);
    let both = said().unwrap();
    assert!(members.iter().all(|member| both.contains(&format!("{:016x}", member.1))), "{both}");
    wait::until("the member is removed", || {
        let removed = ctl("3.5", &[&servers[0]], &["member", "remove", &format!("{:x}", members[1].1)]);
        if listed(&servers[0])?.len() == 1 { Ok(()) } else { Err(format!("{removed:?}")) }
    });
    wait::until("what it said is gone", || {
        let left = said()?;
        let (own, gone) = (format!("{:016x}", members[0].1), format!("{:016x}", members[1].1));
        if left.contains(&own) && !left.contains(&gone) { Ok(()) } else { Err(left) }
    });
}
