//! What is changed while several servers run: the tokens, everywhere; and what may not be: the networks and names.

use serde_json::{Value, json};
use testkit::wait;

use super::server::Server;
use super::{refused, settled};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// The id and the secret of an agents' token.
fn parts(token: &str) -> (&str, &str) {
    token.split_once("::").unwrap().1.split_once('.').unwrap()
}

fn secret(server: &Server, token: &str) -> u16 {
    server.send("GET", &format!("{SECRETS}/bootstrap-token-{}", parts(token).0), "").0
}

/// What a server answers to somebody who shows an agents' token.
fn shown(server: &Server, token: &str) -> u16 {
    let mut config = client::kubeconfig::load(&server.data_dir().join("kubeconfig.yaml")).unwrap();
    let (id, secret) = parts(token);
    config.identity = client::Identity::Token(format!("{id}.{secret}"));
    let transport = std::sync::Arc::new(client::HttpsTransport::new(&config).unwrap());
    super::server::exchange(transport, "GET", "/api", "").0
}

fn same(what: &str, servers: &[&Server], command: [&str; 2], wanted: &str) {
    for server in servers {
        wait::until(what, || match server.ironclad(&command)? {
            found if found == wanted => Ok(()),
            found => Err(found),
        });
    }
}

#[test]
fn tokens_change_on_all_servers_and_the_clusters_own_settings_on_none() {
    let mut servers: Vec<Server> = (1..=3).map(Server::new).collect();
    servers[0].start(&["--cluster-init"]);
    let (by_servers, by_agents) = (["token", "server"], ["token", "agent"]);
    let first = servers[0].ironclad(&by_servers).unwrap();
    let url = format!("--server={}", servers[0].url());
    servers[1].start(&[&url, &format!("--token={first}")]);
    settled(&servers[1], 2);

    // What a cluster has for life: a member whose flags were changed does not start, and says why.
    assert!(servers[1].stop().success());
    let said = refused(&servers[1], &["--cluster-domain=other.example"]);
    assert!(said.contains("not those of its cluster, as server-1 has them"), "{said}");
    assert!(said.contains("--cluster-domain is other.example here and cluster.local there"), "{said}");
    servers[1].start(&["--service-account-issuer=https://other.example"]);
    assert!(
        servers[1].log().contains("--service-account-issuer is https://other.example here"),
        "{}",
        servers[1].log()
    );
    assert!(servers[1].stop().success());
    servers[1].start(&[]);
    settled(&servers[1], 2);

    // Every server is known by its names, for whoever approves certificates.
    for server in &servers[..2] {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/ironclad-api-server.{}", server.name);
        let (code, map) = servers[0].send("GET", &path, "");
        assert_eq!(code, 200, "{map}");
        let names: Vec<&str> = map["data"]["names"].as_str().unwrap().lines().collect();
        assert!(names.contains(&&*server.name) && names.contains(&"kubernetes.default"), "{names:?}");
    }

    // The servers' token, changed at the second: the first takes the old one no more.
    let fresh = servers[1].ironclad(&["token", "rotate", "server"]).unwrap();
    assert_ne!(fresh, first);
    let said = refused(&servers[2], &[&url, &format!("--token={first}")]);
    assert!(said.contains("the token is not this cluster's"), "{said}");
    same("the other server has the new token", &[&servers[0], &servers[1]], by_servers, &fresh);
    servers[2].start(&[&url, &format!("--token={fresh}")]);
    settled(&servers[2], 3);

    // The agents', changed while one is down.
    let old = servers[0].ironclad(&by_agents).unwrap();
    wait::until("the token is known", || match shown(&servers[2], &old) {
        200 => Ok(()),
        code => Err(code.to_string()),
    });
    servers[0].kill();
    let fresh = wait::until("the token is changed", || servers[1].ironclad(&["token", "rotate", "agent"]));
    assert_eq!((secret(&servers[1], &old), secret(&servers[1], &fresh)), (404, 200));
    wait::until("the old token is known no more", || {
        match (shown(&servers[2], &old), shown(&servers[2], &fresh)) {
            (401, 200) => Ok(()),
            codes => Err(format!("{codes:?}")),
        }
    });
    servers[0].start(&[]);
    same("all have the new token", &servers.iter().collect::<Vec<_>>(), by_agents, &fresh);
    assert_eq!(secret(&servers[0], &old), 404, "a server that was away has brought it back");

    // Withdrawn, it stays so, whoever starts.
    let (id, _) = parts(&fresh);
    let (code, _) = servers[0].send("DELETE", &format!("{SECRETS}/bootstrap-token-{id}"), "");
    assert_eq!(code, 200);
    for server in &mut servers {
        assert!(server.stop().success());
        server.start(&[]);
    }
    assert_eq!(secret(&servers[2], &fresh), 404);
    let listed: Value = servers[0].send("GET", SECRETS, "").1;
    let tokens: Vec<&Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|secret| secret["type"] == json!("bootstrap.kubernetes.io/token"))
        .collect();
    assert!(tokens.is_empty(), "{tokens:?}");
    let fresh = servers[2].ironclad(&["token", "rotate", "agent"]).unwrap();
    assert_eq!(secret(&servers[0], &fresh), 200, "there is a way back");

    // One that does not come back leaves no names behind: its machine may become a node.
    servers[2].kill();
    wait::until("the member is removed", || servers[0].ironclad(&["member", "remove", "server-3"]));
    let path = "/api/v1/namespaces/kube-system/configmaps/ironclad-api-server.server-3";
    assert_eq!(servers[0].send("GET", path, "").0, 404);
}
