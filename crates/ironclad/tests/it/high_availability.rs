//! Three servers and two agents, each on a machine of its own: servers are lost and come back, the cluster with them.
//!
//! Throughout, a writer writes through whichever server answers, a watcher follows what it writes, and on the agents one
//! pod asks another through a Service. What was acknowledged may not be lost, no event may be missed or told twice, and
//! the pods may not notice anything.

mod clients;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use testkit::{Machines, image, wait};

use self::clients::{Clients, Watched, Written};
use crate::IRONCLAD;

const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
const AGENTS: [&str; 2] = ["agent-1", "agent-2"];

/// The machines with what is known of their cluster.
struct Cluster {
    machines: Machines,
    /// How often each server was started.
    starts: [usize; 3],
}

impl Cluster {
    /// Starts three servers and two agents, and waits until all are nodes of one cluster.
    fn start() -> Cluster {
        let mut machines = Machines::new(IRONCLAD);
        let first = machines.add(SERVERS[0], 1, &["server", "--cluster-init"]);
        first.start();
        first.ready(1);
        let (url, data_dir) = (format!("https://{}:6443", first.address()), first.data_dir());
        let flags = |token: &str| {
            [format!("--server={url}"), format!("--token-file={}", data_dir.join(token).display())]
        };
        let join_server = flags("server-token");
        // One after the other: two that join at once may well have to ask twice.
        for (number, name) in (2..).zip(&SERVERS[1..]) {
            let server = machines.add(name, number, &["server", &join_server[0], &join_server[1]]);
            server.start();
            server.ready(1);
        }
        // By a server that is not the first: any will do.
        let url = format!("--server=https://{}:6443", machines.get(SERVERS[1]).address());
        let join_agent = flags("agent-token");
        for (number, name) in (11..).zip(AGENTS) {
            let agent = machines.add(name, number, &["agent", &url, &join_agent[1]]);
            agent.import_images();
            agent.start();
        }
        let cluster = Cluster { machines, starts: [1; 3] };
        wait::until("five nodes are Ready", || {
            let nodes = cluster.get(&["nodes"])?;
            let items = nodes["items"].as_array().ok_or("no list")?;
            let ready = items.iter().filter(|node| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions.clone().any(|it| it["type"] == "Ready" && it["status"] == "True")
            });
            if ready.count() == SERVERS.len() + AGENTS.len() { Ok(()) } else { Err(summary(&nodes)) }
        });
        cluster
    }

    fn addresses(&self) -> [Ipv4Addr; 3] {
        SERVERS.map(|name| self.machines.get(name).address())
    }

    /// `kubectl get … -o json` at the first server that answers.
    fn get(&self, arguments: &[&str]) -> Result<Value, String> {
        let arguments = [&["get"], arguments, &["-o", "json"]].concat();
        let text = self.try_kubectl(&arguments, "")?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut seen = String::new();
        for name in SERVERS.iter().filter(|name| self.machines.get(name).is_started()) {
            let output = self.machines.kubectl(name, arguments, input);
            if output.success {
                return Ok(output.stdout);
            }
            seen = format!("{name}: {}", output.stderr);
        }
        Err(seen)
    }

    fn kill(&mut self, server: usize) {
        self.machines.get_mut(SERVERS[server]).kill();
    }

    /// Starts a server that was killed; it is not waited for.
    fn restart(&mut self, server: usize) {
        self.starts[server] += 1;
        self.machines.get_mut(SERVERS[server]).start();
    }

    fn ready(&self, server: usize) {
        self.machines.get(SERVERS[server]).ready(self.starts[server]);
    }

    /// Which of the running servers leads the store.
    fn leader(&self) -> usize {
        wait::until("a server leads", || {
            let mut leaders = Vec::new();
            for (server, name) in SERVERS.iter().enumerate() {
                if !self.machines.get(name).is_started() {
                    continue;
                }
                let output = self.machines.kubectl(name, &["get", "--raw", "/metrics"], "");
                if output.stdout.lines().any(|line| line == "store_raft_is_leader 1") {
                    leaders.push(server);
                }
            }
            // One that was deposed says so late.
            match leaders[..] {
                [leader] => Ok(leader),
                _ => Err(format!("{leaders:?}")),
            }
        })
    }

    /// Two pods on the two agents: one serves, the other asks it through a Service, several times a second.
    fn start_workload(&self) {
        let manifest = WORKLOAD.replace("IMAGE", image::BUSYBOX);
        wait::until("a namespace is made", || self.try_kubectl(&["create", "namespace", "later"], ""));
        wait::until("the workload is accepted", || self.try_kubectl(&["apply", "-f", "-"], &manifest));
        wait::until("the asking pod is answered", || {
            let said = self.asked();
            if said.iter().any(|line| line == "answered") { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }

    /// What the asking pod said of each of its questions.
    fn asked(&self) -> Vec<String> {
        self.machines.get(AGENTS[1]).container_log("default", "asker")
    }

    /// Waits for more questions to be answered: the pods go on, whatever the servers do.
    fn pods_go_on(&self) {
        let before = self.asked().len();
        wait::until("pods go on", || match self.asked().len() {
            now if now >= before + 10 => Ok(()),
            now => Err(format!("{before} questions, now {now}")),
        });
    }

    /// A new pod on each agent: it is bound, the agent is told of it, and says that it runs, whichever servers there are.
    fn new_pods_run(&self, when: &str) {
        for agent in AGENTS {
            let name = format!("{when}-on-{agent}");
            let manifest =
                LATER.replace("IMAGE", image::BUSYBOX).replace("NAME", &name).replace("NODE", agent);
            wait::until("a pod is accepted", || self.try_kubectl(&["apply", "-f", "-"], &manifest));
            wait::until("a new pod runs", || {
                let pod = self.get(&["pod", "-n", "later", &name])?;
                let phase = pod["status"]["phase"].clone();
                if phase == "Running" { Ok(()) } else { Err(format!("{name}: {}", pod["status"])) }
            });
        }
    }

    /// Waits until every agent, which was told of one server, knows all of them for its next start.
    fn agents_know_all_servers(&self) {
        let all = self.addresses().map(|address| format!("https://{address}:6443"));
        for agent in AGENTS {
            let file = self.machines.get(agent).data_dir().join("agent/servers.json");
            wait::until("an agent knows all servers", || {
                let text = std::fs::read(&file).map_err(|error| error.to_string())?;
                let known: Vec<String> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
                if known == all { Ok(()) } else { Err(format!("{agent}: {known:?}")) }
            });
        }
    }

    /// The servers that an agent talks to, of those that run: one that it has left for another may still have its watches.
    fn used_by(&self, agent: &str) -> Vec<usize> {
        let addresses = self.addresses();
        wait::until("the agent talks to a server", || {
            let connected = self.machines.get(agent).connected_to(6443);
            let runs = |server: &usize| self.machines.get(SERVERS[*server]).is_started();
            let used = |server: &usize| runs(server) && connected.contains(&addresses[*server]);
            let found: Vec<usize> = (0..SERVERS.len()).filter(used).collect();
            if found.is_empty() { Err(format!("{agent}: {connected:?}")) } else { Ok(found) }
        })
    }

    /// Since when each agent has been Ready, in the words of its node.
    fn ready_since(&self) -> Vec<String> {
        let since = |agent: &&str| {
            let node = wait::until("a node is told of", || self.get(&["node", agent]));
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.clone().find(|it| it["type"] == "Ready").expect("the kubelet says so");
            assert_eq!(ready["status"], "True", "{agent}: {ready}");
            ready["lastTransitionTime"].to_string()
        };
        AGENTS.iter().map(since).collect()
    }

    /// UID, containers and restarts of both pods.
    fn pods(&self) -> Vec<String> {
        let pods = wait::until("pods are listed", || self.get(&["pods"]));
        let items = pods["items"].as_array().into_iter().flatten();
        items
            .map(|pod| {
                let status = &pod["status"]["containerStatuses"][0];
                format!(
                    "{} {} {} {}",
                    pod["metadata"]["name"],
                    pod["metadata"]["uid"],
                    status["containerID"],
                    status["restartCount"]
                )
            })
            .collect()
    }
}

/// The first question may come before the rules of the Service: only what fails after the first answer counts. No time-out
/// of wget's own: the static busybox crashes with one. A question that is never answered is the last one.
const WORKLOAD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeSelector: {kubernetes.io/hostname: agent-1}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: IMAGE
    command: [sh, -c, "mkdir /tmp/www; hostname > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.43.0.80, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  nodeSelector: {kubernetes.io/hostname: agent-2}
  terminationGracePeriodSeconds: 1
  containers:
  - name: asker
    image: IMAGE
    command:
    - sh
    - -c
    - "while true; do if [ \"$(wget -q -O - http://10.43.0.80/)\" = web ]; then echo answered; else echo failed; fi; sleep 0.2; done"
"#;

/// A pod that does nothing, in a namespace of its own.
const LATER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: later}
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  terminationGracePeriodSeconds: 1
  containers: [{name: sleeps, image: IMAGE, command: [sleep, "100000"]}]
"#;

fn summary(nodes: &Value) -> String {
    let items = nodes["items"].as_array().into_iter().flatten();
    let lines = items.map(|node| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.clone().find(|it| it["type"] == "Ready");
        format!("{}: {}", node["metadata"]["name"], ready.map_or(json!(null), |it| it["message"].clone()))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Ends the clients, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_leader_a_minority_and_the_majority_are_lost_and_come_back_under_load() {
    let mut cluster = Cluster::start();
    cluster.start_workload();
    let pods = cluster.pods();
    assert_eq!(pods.len(), 2, "{pods:?}");
    cluster.agents_know_all_servers();

    let kubeconfig = cluster.machines.get(SERVERS[0]).data_dir().join("kubeconfig.yaml");
    let clients = Clients::new(cluster.machines.network(), &kubeconfig, &cluster.addresses());
    let (written, watched) = (Written::default(), Watched::default());
    let (writer_stops, watcher_stops) = (AtomicBool::new(false), AtomicBool::new(false));
    let revision = clients.revision();
    std::thread::scope(|scope| {
        let _stop = (Stop(&writer_stops), Stop(&watcher_stops));
        let writer = scope.spawn(|| clients.write(&writer_stops, &written));
        let watcher = scope.spawn(|| clients.watch(revision, &watcher_stops, &watched));
        written.more(50);

        let leader = cluster.leader();
        cluster.kill(leader);
        written.more(50);
        cluster.pods_go_on();
        cluster.new_pods_run("without-the-leader");
        let next = cluster.leader();
        assert_ne!(next, leader);
        cluster.restart(leader);
        cluster.ready(leader);
        written.more(20);

        // A minority, for a while: one after the other the servers that an agent talks to, so that each of the watches that it
        // has open now is broken, and opened again elsewhere.
        for used in cluster.used_by(AGENTS[0]) {
            let ready = cluster.ready_since();
            cluster.kill(used);
            written.more(100);
            cluster.pods_go_on();
            cluster.new_pods_run(&format!("without-{}", SERVERS[used]));
            // And with another one, or this would wait in vain.
            cluster.used_by(AGENTS[0]);
            assert_eq!(cluster.ready_since(), ready, "the agents have been Ready throughout");
            cluster.restart(used);
            cluster.ready(used);
            written.more(20);
        }

        // The majority, the leader among it: nothing can be acknowledged, and pods do not care.
        let leader = cluster.leader();
        let other = (leader + 1) % 3;
        cluster.kill(leader);
        cluster.kill(other);
        let alone = (leader + 2) % 3;
        clients.refuses_writes(alone);
        let frozen = written.count();
        cluster.pods_go_on();
        assert_eq!(written.count(), frozen, "one of three acknowledges nothing");
        cluster.restart(leader);
        cluster.restart(other);
        written.more(50);
        cluster.ready(leader);
        cluster.ready(other);
        written.more(20);
        cluster.new_pods_run("with-all");

        writer_stops.store(true, Ordering::SeqCst);
        writer.join().unwrap();
        let acknowledged = written.count();
        for server in 0..3 {
            let names = clients.list(server);
            let missing: Vec<String> =
                (0..acknowledged).map(clients::name).filter(|name| !names.contains(name)).collect();
            assert!(missing.is_empty(), "{} lacks {missing:?}", SERVERS[server]);
        }
        // The last write may have been carried out without its answer having arrived.
        watched.ends_with(&clients::name(acknowledged - 1));
        watcher_stops.store(true, Ordering::SeqCst);
        watcher.join().unwrap();
        let seen = watched.names();
        let expected: Vec<String> = (0..seen.len()).map(clients::name).collect();
        assert_eq!(seen, expected, "each is told of once, in order");
    });

    let said = cluster.asked();
    let first = said.iter().position(|line| line == "answered").unwrap();
    let failed = said[first..].iter().filter(|line| *line != "answered").count();
    assert_eq!(failed, 0, "of {} questions {failed} were not answered: pods went on throughout", said.len());
    assert_eq!(cluster.pods(), pods, "the same pods and containers, none restarted");
    println!("{} writes, {} questions of a pod", written.count(), said.len());
}
