//! A node that joins a cluster whose server is another process: by its token, with certificates that the cluster signs.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use pki::Credential;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Kubectl, Output, Space, image, run, wait};

use crate::IRONCLAD;

const SERVER: &str = "10.77.0.2";
const AGENT: &str = "10.77.0.3";

/// One process of the program with a data directory of its own.
struct Process {
    name: &'static str,
    child: Option<Child>,
}

/// A server without a node, and room for an agent, on two addresses of one machine.
struct World {
    space: Space,
    folder: TempDir,
    server: Process,
    agent: Process,
}

impl World {
    fn start(more: &[&str]) -> World {
        let folder = tempfile::Builder::new().prefix("ironclad-").tempdir().unwrap();
        let space = Space::new();
        space.output("ip", &["address", "add", &format!("{AGENT}/24"), "dev", "eth0"]);
        let idle = |name| Process { name, child: None };
        let mut world = World { space, folder, server: idle("server"), agent: idle("agent") };
        let flags =
            ["--node-ip", SERVER, "--tls-san=api.example.com", "--disable=kubelet,runtime,network,proxy,dns"];
        world.server.child = Some(world.spawn("server", &[&flags, more].concat()));
        world.ready("server");
        world
    }

    fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn spawn(&self, command: &str, flags: &[&str]) -> Child {
        let log = File::create(self.folder.path().join(format!("{command}.log"))).unwrap();
        let mut process = self.space.command(IRONCLAD);
        process.arg(command).arg("--data-dir").arg(self.data_dir(command)).args(flags);
        process.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn ready(&self, name: &str) {
        wait::until("the process says that it is ready", || {
            let said = self.log(name);
            if said.contains("Ready in ") { Ok(()) } else { Err(said) }
        });
    }

    fn token(&self) -> String {
        fs::read_to_string(self.data_dir("server").join("agent-token")).unwrap().trim().to_owned()
    }

    /// Runs an agent that is expected to give up.
    fn refused(&self, flags: &[&str]) -> String {
        let mut command = self.space.command("timeout");
        command.args(["--kill-after=5", "100", IRONCLAD, "agent", "--node-name=other", "--data-dir"]);
        let output = run_with(command.arg(self.data_dir("refused")).args(flags));
        assert!(!output.success, "it joined: {}", output.stdout);
        output.stderr
    }

    fn start_agent(&mut self, flags: &[&str]) {
        let own = ["--node-name=n1", "--node-ip", AGENT];
        self.agent.child = Some(self.spawn("agent", &[&own, flags].concat()));
        self.ready("agent");
    }

    fn stop_agent(&mut self) {
        let mut child = self.agent.child.take().unwrap();
        for (process, _) in
            self.space.processes(&format!("agent --data-dir {}", self.data_dir("agent").display()))
        {
            self.space.output("kill", &["-TERM", &process.to_string()]);
        }
        child.wait().unwrap();
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.space.network_command(&Kubectl::V1_37.path().to_string_lossy());
        command.env("KUBECONFIG", self.data_dir("server").join("kubeconfig.yaml"));
        command.env("HOME", self.folder.path()).args(arguments);
        run(command, input)
    }

    /// What kubectl prints, which must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments, "");
        assert!(
            output.success,
            "kubectl {arguments:?}: {}\n--- the agent:\n{}\n--- the server:\n{}",
            output.stderr,
            self.log("agent"),
            self.log("server")
        );
        output.stdout
    }

    fn requests(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.says(&["get", "csr", "-o", "json"])).unwrap();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The certificate that the cluster has issued for a signer, and who asked for it; waits for it.
    fn issued(&self, signer: &str) -> (String, Vec<u8>) {
        wait::until("the cluster has issued a certificate", || {
            let requests = self.requests();
            let request = requests.iter().find(|request| request["spec"]["signerName"] == signer);
            let request = request.ok_or_else(|| format!("{requests:?}\n{}", self.log("agent")))?;
            let certificate = request["status"]["certificate"].as_str().ok_or(request.to_string())?;
            let who = request["spec"]["username"].as_str().unwrap_or_default().to_owned();
            use base64::Engine as _;
            Ok((who, base64::engine::general_purpose::STANDARD.decode(certificate).unwrap()))
        })
    }
}

fn run_with(command: &mut std::process::Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A page, with its head.
fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["server", "agent"] {
                eprintln!("--- the {name} said:\n{}", self.log(name));
            }
        }
        // Control groups are the one thing that would outlive the namespaces.
        for process in [&mut self.agent, &mut self.server] {
            let mut command = self.space.command(IRONCLAD);
            command.arg("uninstall").arg("--data-dir").arg(self.folder.path().join(process.name));
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if let Some(mut child) = process.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A node named as the load balancer in front of the servers asks for a certificate, and so does one with a name of its own.
fn only_nodes_names_are_certified(world: &World) {
    for name in ["api.example.com", "plain.example.com"] {
        let subject = pki::csr::Subject {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".to_owned()],
            dns_names: vec![name.to_owned()],
            ..pki::csr::Subject::default()
        };
        use base64::Engine as _;
        let pem = pki::Requested::new(&subject).unwrap().pem();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        let node = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
        let made = world.kubectl(&["apply", "-f", "-"], &node);
        assert!(made.success, "{}", made.stderr);
        let asked = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  request: {request}\n  signerName: kubernetes.io/kubelet-serving\n  usages: [digital signature, server auth]\n"
        );
        let user = format!("--as=system:node:{name}");
        let made = world.kubectl(&["create", &user, "--as-group=system:nodes", "-f", "-"], &asked);
        assert!(made.success, "{}", made.stderr);
    }
    let status = |name: &str| world.says(&["get", "csr", name, "-o", "jsonpath={.status}"]);
    // Asked for last: by then the other one was looked at.
    wait::until("a node gets a certificate for its name", || {
        let said = status("plain.example.com");
        if said.contains("certificate") { Ok(()) } else { Err(said) }
    });
    let said = status("api.example.com");
    assert!(
        !said.contains("Approved") && !said.contains("certificate"),
        "a node was certified as the API server: {said}"
    );
    world.says(&["delete", "node", "api.example.com", "plain.example.com"]);
    world.says(&["delete", "csr", "api.example.com", "plain.example.com"]);
}

#[test]
fn a_node_joins_runs_pods_and_comes_back() {
    let mut world = World::start(&[]);
    let (url, token) = (format!("--server=https://{SERVER}:6443"), world.token());

    // Another cluster's token, one that the cluster does not know, a server's, and none.
    let (hash, secret) = token.strip_prefix("K10").unwrap().split_once("::").unwrap();
    let other = format!("K10{}::{secret}", hash.chars().rev().collect::<String>());
    let message = world.refused(&[&url, &format!("--token={other}")]);
    assert!(message.contains("the cluster's authority is not the one that the token names"), "{message}");
    let unknown = format!("K10{hash}::zzzzzz.0123456789abcdef");
    let message = world.refused(&[&url, &format!("--token={unknown}")]);
    assert!(message.contains("the cluster does not know the token"), "{message}");
    let servers = format!("--token-file={}", world.data_dir("server").join("server-token").display());
    let message = world.refused(&[&url, &servers]);
    assert!(message.contains("the token is a server's"), "{message}");
    let message = world.refused(&[&url]);
    assert!(message.contains("give it --token or --token-file"), "{message}");
    assert!(world.requests().is_empty(), "somebody has asked for a certificate");

    let archive = world.folder.path().join("images.tar");
    image::archive(&archive);
    world.space.output(
        IRONCLAD,
        &[
            "images",
            "import",
            archive.to_str().unwrap(),
            "--data-dir",
            world.data_dir("agent").to_str().unwrap(),
        ],
    );
    world.start_agent(&[&url, &format!("--token={token}")]);
    world.says(&["wait", "--for=condition=Ready", "node/n1", "--timeout=60s"]);

    // Its certificates are the cluster's: asked for by the token, then by itself, and what it has is what was issued.
    let agent = world.data_dir("agent").join("agent");
    for (signer, file, by) in [
        ("kubernetes.io/kube-apiserver-client-kubelet", "kubelet-client.pem", "system:bootstrap:"),
        ("kubernetes.io/kubelet-serving", "kubelet-serving.pem", "system:node:n1"),
    ] {
        let (who, issued) = world.issued(signer);
        assert!(who.starts_with(by), "{signer} was asked for by {who}");
        wait::until("the agent keeps its certificate", || {
            let held = Credential::read(&agent.join(file)).unwrap().ok_or("there is none")?;
            if held.certificate_pem().as_bytes() == issued { Ok(()) } else { Err("another one".to_owned()) }
        });
    }

    only_nodes_names_are_certified(&world);

    // A pod, its logs, a command in it, and a Service: through the server, and the node's runtime, network and proxy.
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: web\n    image: {}\n    command: [sh, -c, 'echo it runs; echo here > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']\n    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n",
        image::BUSYBOX
    );
    let applied = world.kubectl(&["apply", "-f", "-"], &manifest);
    assert!(applied.success, "{}", applied.stderr);
    world.says(&["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"]);
    let container =
        ["get", "pod", "web", "-o", "jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}"];
    let before = world.says(&container);
    assert!(before.starts_with("n1 "), "{before}");
    assert_eq!(world.says(&["logs", "web"]), "it runs\n");
    let service = world.says(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    // From the node: the proxy leads its own connections too.
    let through = || {
        let asked = world.space.within(|| ask(&format!("{service}:80")));
        if asked.as_deref().is_ok_and(|said| said.ends_with("here\n")) {
            Ok(())
        } else {
            Err(format!("{asked:?}"))
        }
    };
    wait::until("the Service answers", through);

    // Without a token, and told of a server that is not there: what it has learnt is enough.
    let learnt = fs::read_to_string(agent.join("servers.json")).unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(&learnt).unwrap(), [format!("https://{SERVER}:6443")]);
    world.stop_agent();
    world.start_agent(&["--server=https://10.77.0.9:6443", "--stop-pods"]);
    assert_eq!(world.says(&container), before, "the pod was disturbed");
    assert_eq!(world.says(&["exec", "web", "--", "echo", "again"]), "again\n");
    assert_eq!(world.requests().len(), 2, "it has asked for certificates again");

    // Another cluster's token is not taken silently by a machine that is a node of this one.
    world.stop_agent();
    assert!(world.space.processes("httpd -f -p 8080").is_empty(), "--stop-pods left a pod");
    let mut command = world.space.command(IRONCLAD);
    command.arg("agent").arg("--data-dir").arg(world.data_dir("agent"));
    let said = run_with(command.args(["--node-name=n1", &url, &format!("--token={other}")])).stderr;
    assert!(said.contains("this machine has joined another cluster"), "{said}");

    // And every trace of it goes.
    let mut command = world.space.command(IRONCLAD);
    let removed = run_with(command.arg("uninstall").arg("--data-dir").arg(world.data_dir("agent")));
    assert!(removed.success, "{}", removed.stderr);
    assert!(!world.data_dir("agent").exists());
}

/// The cluster signs for a minute. Five minutes before now count as its life too, so each certificate is renewed after some
/// ten seconds, and ends while the node runs.
#[test]
fn a_node_outlives_its_first_certificates_without_a_restart() {
    let mut world = World::start(&["--cluster-signing-duration=60s"]);
    let (url, token) = (format!("--server=https://{SERVER}:6443"), world.token());
    world.start_agent(&[&url, &format!("--token={token}")]);
    world.says(&["wait", "--for=condition=Ready", "node/n1", "--timeout=60s"]);
    let agent = world.data_dir("agent").join("agent");
    let held = |file: &str| -> Result<Credential, String> {
        let found = Credential::read(&agent.join(file)).map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("there is no {file}"))
    };
    let first = ["kubelet-client.pem", "kubelet-serving.pem"]
        .map(|file| wait::until("the node has its certificates", || held(file)));
    let ends = first.each_ref().map(Credential::not_after);
    let end = ends[0].max(ends[1]);
    let left = end.duration_since(jiff::Timestamp::now());
    assert!(left <= jiff::SignedDuration::from_secs(60), "{left}");

    // What it writes as a client, after the certificates that it joined with have ended.
    wait::until("the node says that it is there after the end of its first certificates", || {
        let lease = ["get", "lease", "n1", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"];
        let renewed: jiff::Timestamp = world.says(&lease).parse().map_err(|error| format!("{error}"))?;
        if renewed > end { Ok(()) } else { Err(format!("{renewed}, and {end} is the end")) }
    });
    // What its kubelet shows, to the API server, which verifies it.
    wait::until("the kubelet is reached", || {
        let page = world.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/healthz"], "");
        if page.success && page.stdout == "ok" { Ok(()) } else { Err(page.stderr) }
    });
    for (file, first) in ["kubelet-client.pem", "kubelet-serving.pem"].iter().zip(&first) {
        assert_ne!(held(file).unwrap().certificate_pem(), first.certificate_pem(), "{file}");
    }
    let requests = world.requests();
    let by_itself = requests.iter().filter(|request| {
        request["spec"]["username"] == "system:node:n1"
            && request["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
    });
    assert!(by_itself.count() > 0, "it has not asked with the certificate that it has: {requests:?}");
    // Not as fast as it can: a pause of ten seconds at least.
    assert!(requests.len() < 40, "{} requests", requests.len());
    world.stop_agent();
}
