//! Several servers that keep the store together: they join by tokens, lose their leader, a minority, the majority and all,
//! and lose nothing that was acknowledged.

mod changes;
mod etcd_api;
pub mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::wait;

use server::{Server, forget_member};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Writes one, and says what was answered.
fn write(server: &Server, name: &str) -> u16 {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    server.send("POST", MAPS, &map.to_string()).0
}

/// The names that a server lists.
fn names(server: &Server) -> BTreeSet<String> {
    let (code, list) = server.send("GET", MAPS, "");
    assert_eq!(code, 200, "{list}");
    let items = list["items"].as_array().unwrap().iter();
    items.filter_map(|map| map["metadata"]["name"].as_str()).map(str::to_owned).collect()
}

fn members(server: &Server) -> Vec<Value> {
    let (code, list) = server.send("GET", "/ironclad/v1/members", "");
    assert_eq!(code, 200, "{list}");
    list["members"].as_array().unwrap().clone()
}

/// Waits until so many vote and one of them leads; says which.
fn settled(server: &Server, wanted: usize) -> String {
    wait::until("the members are settled", || {
        let members = members(server);
        let votes = members.iter().filter(|member| member["state"] != "learner").count();
        let leader = members.iter().find(|member| member["state"] == "leader");
        match leader.and_then(|leader| leader["name"].as_str()) {
            Some(name) if votes == wanted && members.len() == wanted => Ok(name.to_owned()),
            _ => Err(format!("{members:?}")),
        }
    })
}

/// Waits until a write through a server is acknowledged.
fn writes(server: &Server, name: &str) {
    wait::until("a write is acknowledged", || match write(server, name) {
        // The one before it may have been carried out though its answer was lost.
        201 | 409 => Ok(()),
        code => Err(code.to_string()),
    });
}

/// Says in one sentence why a server does not start.
fn refused(server: &Server, flags: &[&str]) -> String {
    let output = server.command(flags).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends the loops of other threads, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Watches from a revision until told to stop: the revisions of the names that were added, in the order they came.
fn watch(server: &Server, revision: &str, stop: &AtomicBool, seen: &Mutex<Vec<(String, u64)>>) {
    let transport = server.transport();
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}");
    let request = http::Request::builder().uri(path).body(bytes::Bytes::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = transport.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut body, mut rest) = (response.into_body(), Vec::new());
        while !stop.load(Ordering::SeqCst) {
            let look = std::time::Duration::from_millis(100);
            let Ok(frame) = tokio::time::timeout(look, body.frame()).await else { continue };
            rest.extend_from_slice(&frame.expect("a watch goes on").unwrap().into_data().unwrap());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                assert_eq!(event["type"], "ADDED", "{event}");
                let meta = &event["object"]["metadata"];
                let revision = meta["resourceVersion"].as_str().unwrap().parse().unwrap();
                seen.lock().push((meta["name"].as_str().unwrap().to_owned(), revision));
            }
        }
    });
}

/// Kills the server that leads while writes go to the two others and one of those is watched.
fn lose_the_leader_under_load(servers: &mut [Server], leader: usize) -> BTreeSet<String> {
    let survivors: Vec<usize> = (0..servers.len()).filter(|index| *index != leader).collect();
    let (_, list) = servers[survivors[0]].send("GET", MAPS, "");
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let (stop, seen, acknowledged) = (AtomicBool::new(false), Mutex::default(), Mutex::new(BTreeSet::new()));
    // Out of the slice, so that the threads may use the others meanwhile.
    let mut victim = std::mem::replace(&mut servers[leader], Server::new(9));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let (stop, acknowledged, servers) = (&stop, &acknowledged, &*servers);
        let (seen, watched) = (&seen, &servers[survivors[0]]);
        scope.spawn(move || watch(watched, &revision, stop, seen));
        for (writer, index) in survivors.iter().copied().enumerate() {
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let name = format!("w{writer}-{number:05}");
                    if write(&servers[index], &name) == 201 {
                        acknowledged.lock().insert(name);
                    }
                }
            });
        }
        let written = |what: &str, more: usize| {
            let before = acknowledged.lock().len();
            wait::until(what, || {
                let now = acknowledged.lock().len();
                if now >= before + more { Ok(()) } else { Err(format!("{now} writes")) }
            });
        };
        written("some writes", 30);
        victim.kill();
        written("writes resume", 60);
        stop.store(true, Ordering::SeqCst);
    });
    servers[leader] = victim;
    let acknowledged = acknowledged.into_inner();
    let survivor = &servers[survivors[1]];
    let listed = names(survivor);
    let lost: Vec<_> = acknowledged.difference(&listed).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    // What the watch saw until it was ended: each once, in order, and nothing in between is missing.
    let seen: Vec<(String, u64)> = seen.into_inner();
    assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1), "out of order, or twice: {seen:?}");
    let last = seen.last().expect("it saw something").1;
    let (_, list) = survivor.send("GET", MAPS, "");
    let stored: BTreeMap<u64, String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|map| &map["metadata"])
        .filter(|meta| meta["name"].as_str().unwrap().starts_with('w'))
        .map(|meta| {
            let revision = meta["resourceVersion"].as_str().unwrap().parse().unwrap();
            (revision, meta["name"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected: Vec<(String, u64)> =
        stored.range(..=last).map(|(revision, name)| (name.clone(), *revision)).collect();
    assert_eq!(seen, expected, "the watch missed something");
    acknowledged
}

/// Whether a stopped member can be compacted: the others have to agree, if there are any.
#[derive(PartialEq, Eq)]
enum Compacts {
    Yes,
    No,
}

/// Every file of a member's directory, with its content.
fn files(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(server.data_dir().join("raft")).unwrap().map(|entry| entry.unwrap());
    let entries = entries.filter(|entry| entry.metadata().unwrap().is_file());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

/// What an operator does with a stopped member that has a ConfigMap of this name.
fn look_after(server: &Server, name: &str, compacts: Compacts) {
    let before = files(server);
    let run = |arguments: &[&str]| server.ironclad(&[&["store"], arguments].concat());
    let sound = run(&["verify"]).unwrap();
    assert!(sound.contains(": sound") && sound.contains("all sound"), "{sound}");
    let dumped = run(&["dump", "--prefix=/registry/core/configmaps/"]).unwrap();
    assert!(dumped.lines().any(|line| line.contains(&format!("/{name} made "))), "{dumped}");
    let figure = |printed: &str, what: &str| -> u64 {
        let line =
            printed.lines().find_map(|line| line.strip_prefix(what).filter(|rest| rest.starts_with("  ")));
        line.unwrap_or_else(|| panic!("no {what} in {printed}")).trim().parse().unwrap()
    };
    let stats = run(&["stats"]).unwrap();
    let (revision, keys) = (figure(&stats, "revision"), figure(&stats, "keys"));
    let file = server.data_dir().join("saved").display().to_string();
    let saved = run(&["snapshot", "save", &file]).unwrap();
    assert!(saved.starts_with(&format!("saved revision {revision} with {keys} keys to ")), "{saved}");
    let held = etcd::snapshot::read(&mut std::fs::File::open(&file).unwrap()).unwrap();
    let key = format!("/registry/core/configmaps/default/{name}");
    assert!(held.keys().iter().any(|kv| kv.key == key.as_bytes()), "the save holds {key}");
    assert!(files(server) == before, "nothing of the member has changed");
    match compacts {
        Compacts::Yes => {
            let compacted = run(&["compact"]).unwrap();
            assert!(compacted.starts_with("compacted at revision "), "{compacted}");
            let after = run(&["stats"]).unwrap();
            assert!(
                figure(&after, "compact revision") >= revision && figure(&after, "keys") == keys,
                "{after}"
            );
        }
        Compacts::No => {
            let refused = run(&["compact"]).unwrap_err();
            assert!(refused.contains("several servers keep together"), "{refused}");
            assert!(files(server) == before, "nothing of the member has changed");
        }
    }
}

#[test]
fn three_servers_lose_their_leader_their_majority_and_all_and_nothing_that_was_acknowledged() {
    let mut servers: Vec<Server> = (1..=3).map(Server::new).collect();

    // One that was alone becomes the first of several, with what it has.
    servers[0].start(&[]);
    assert_eq!(write(&servers[0], "from-before"), 201);
    let token = servers[0].ironclad(&["token", "server"]).unwrap();
    let url = servers[0].url();
    let (server, by_token) = (format!("--server={url}"), format!("--token={token}"));
    let said = refused(&servers[1], &[&server, &by_token]);
    assert!(said.contains("start it with --cluster-init"), "{said}");
    assert!(!servers[1].data_dir().join("pki").exists(), "it made no keys of its own");
    assert!(servers[0].stop().success());
    servers[0].start(&["--cluster-init"]);
    assert!(names(&servers[0]).contains("from-before"));
    let said = servers[0].ironclad(&["store", "stats"]).unwrap_err();
    assert!(said.contains("in use by another process") && said.contains("--endpoints"), "{said}");
    // One that is alone yet is an operator's while it is stopped.
    assert!(servers[0].stop().success());
    look_after(&servers[0], "from-before", Compacts::Yes);
    servers[0].start(&["--cluster-init"]);
    assert!(names(&servers[0]).contains("from-before"));

    // Who may not join is told why.
    let (head, secret) = token.split_at(token.len() - 32);
    let wrong = format!("--token={head}{}", "0".repeat(32));
    let other_hash = format!("--token=K10{}::server:{secret}", "0".repeat(64));
    let no_hash = format!("--token={secret}");
    let cases: [(&[&str], &str); 5] = [
        (&[&server, &wrong], "the token is not this cluster's"),
        (&[&server, &other_hash], "not the one that the token names"),
        (&[&server, &no_hash], "does not name the cluster's authority"),
        (&[&server], "needs the token"),
        (
            &[&server, &by_token, "--service-cidr=10.44.0.0/16"],
            "--service-cidr is 10.44.0.0/16 here and 10.43.0.0/16 there",
        ),
    ];
    for (flags, sentence) in cases {
        let said = refused(&servers[1], flags);
        assert!(said.contains(sentence), "{flags:?}: {said}");
    }

    // The second joins through the first, the third through the second.
    servers[1].start(&[&server, &by_token]);
    let file = servers[0].data_dir().join("server-token").display().to_string();
    let (server, by_file) = (format!("--server={}", servers[1].url()), format!("--token-file={file}"));
    servers[2].start(&[&server, &by_file]);
    let leader = settled(&servers[2], 3);
    for index in 0..3 {
        let name = format!("through-{index}");
        assert_eq!(write(&servers[index], &name), 201);
        for other in &servers {
            assert!(names(other).contains(&name), "what one has acknowledged the others know");
        }
        assert_eq!(
            std::fs::read(servers[index].data_dir().join("pki/sa.key")).unwrap(),
            std::fs::read(servers[0].data_dir().join("pki/sa.key")).unwrap()
        );
        let agent = servers[index].ironclad(&["token", "agent"]).unwrap();
        assert_eq!(agent, servers[0].ironclad(&["token", "agent"]).unwrap());
    }

    wait::until("clients are told of all servers", || {
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let (_, slice) = servers[0].send("GET", path, "");
        let told = slice["endpoints"].as_array().map_or(0, Vec::len);
        if told == 3 { Ok(()) } else { Err(slice.to_string()) }
    });

    let leader = servers.iter().position(|server| server.name == leader).unwrap();
    let acknowledged = lose_the_leader_under_load(&mut servers, leader);
    // It comes back by what it has, whatever the flags say.
    servers[leader].start(&["--server=https://127.0.0.1:1", "--token=0123456789abcdef"]);
    settled(&servers[leader], 3);
    assert!(names(&servers[leader]).is_superset(&acknowledged));

    // Without a majority nothing is written, and the one that is left says so.
    servers[0].kill();
    assert!(servers[1].stop().success());
    wait::until("the survivor says what is wrong", || {
        let (code, page) = servers[2].page("/readyz");
        if code == 500 && page.contains("[-]store-members") { Ok(()) } else { Err(page) }
    });
    let code = write(&servers[2], "without-a-majority");
    assert!(code >= 500, "{code}");
    let (code, _) = servers[2].send("GET", &format!("{MAPS}/from-before"), "");
    assert!(code == 200 || code >= 500, "a read is answered: {code}");
    servers[0].start(&[]);
    servers[1].start(&[]);
    writes(&servers[2], "with-a-majority");

    // All stop, and start in another order.
    assert!(servers.iter().all(|server| names(server).contains("with-a-majority")));
    for server in &mut servers {
        assert!(server.stop().success(), "{}", server.log());
    }
    for server in &servers {
        look_after(server, "with-a-majority", Compacts::No);
    }
    servers[2].launch(&[]);
    servers[0].launch(&[]);
    servers[2].ready();
    servers[0].ready();
    servers[1].start(&[]);
    settled(&servers[0], 3);
    for server in &servers {
        let names = names(server);
        assert!(names.is_superset(&acknowledged) && names.contains("with-a-majority"));
    }

    // Two are lost for good: the third goes on, and others join it anew.
    for server in &mut servers {
        server.kill();
    }
    servers[1].start(&["--cluster-reset"]);
    assert!(servers[1].log().contains("This server goes on alone"), "{}", servers[1].log());
    assert_eq!(settled(&servers[1], 1), "server-2");
    assert!(names(&servers[1]).is_superset(&acknowledged));
    let server = format!("--server={}", servers[1].url());
    for index in [0, 2] {
        forget_member(&servers[index].data_dir());
        servers[index].start(&[&server, &by_token]);
    }
    settled(&servers[0], 3);
    assert!(names(&servers[0]).is_superset(&acknowledged));
    // A flag that stays does not throw out who has joined meanwhile.
    assert!(servers[1].stop().success());
    servers[1].start(&["--cluster-reset"]);
    settled(&servers[1], 3);

    // A server that does not come back is removed.
    servers[2].kill();
    let listed = servers[0].ironclad(&["member", "list"]).unwrap();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    wait::until("the member is removed", || servers[0].ironclad(&["member", "remove", "server-3"]));
    settled(&servers[0], 2);
    let said = servers[0].ironclad(&["member", "remove", "server-3"]).unwrap_err();
    assert!(said.contains("no member has the id or name"), "{said}");
    writes(&servers[1], "last");
    assert!(names(&servers[0]).contains("last"));
}
