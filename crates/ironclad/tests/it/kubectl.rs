//! What kubectl can do beyond the life of one workload (`workload.rs`): every kind explained and listed, every way to
//! apply, patch, edit and delete, and the commands that ask about rights, events and conditions.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
};

use testkit::{Cluster, Kubectl, Options, Output};

use crate::IRONCLAD;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: none, env: [{name: A, value: one}]}]}
";

/// One cluster, driven by one version of kubectl.
struct Terminal<'a> {
    cluster: &'a Cluster,
    version: Kubectl,
}

impl Terminal<'_> {
    fn run(&self, line: &str) -> String {
        self.input(line, "")
    }

    /// The words of the line, with quotes as a shell has them, and the standard input.
    fn input(&self, line: &str, input: &str) -> String {
        let output = self.attempt(line, input);
        assert!(output.success, "kubectl {line}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// The command must fail; returns what it complained about.
    fn fails(&self, line: &str, input: &str) -> String {
        let output = self.attempt(line, input);
        assert!(!output.success, "kubectl {line} succeeded: {}", output.stdout);
        output.stderr
    }

    fn attempt(&self, line: &str, input: &str) -> Output {
        let program = self.version.path();
        let line = format!("\"$KUBECTL\" {line}");
        let mut command = self.cluster.client_command("sh".as_ref(), &["-c", &line]);
        // The first command of an edit is run in a shell by kubectl itself.
        command.env("KUBECTL", program).env("KUBE_EDITOR", "sed -i s/one/two/");
        testkit::run(command, input)
    }
}

fn both(check: impl Fn(&Terminal<'_>)) {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    for version in [Kubectl::V1_37, Kubectl::V1_32] {
        check(&Terminal { cluster: &cluster, version });
    }
}

#[test]
fn kubectl_explains_and_lists_every_kind() {
    both(|kubectl| {
        let kinds = kubectl.run("api-resources --no-headers -o wide");
        assert!(kinds.lines().count() > 60, "{kinds}");
        for line in kinds.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let plural = words[0];
            let at = words.iter().position(|word| ["true", "false"].contains(word)).unwrap();
            let (version, kind) = (words[at - 1], words[at + 1]);
            let told = kubectl.run(&format!("explain {plural} --recursive --api-version={version}"));
            assert!(told.contains(&format!("KIND:       {kind}\n")), "{plural}: {told}");
            assert!(
                told.contains("\nFIELDS:\n") && told.contains("metadata\t<ObjectMeta>"),
                "{plural}: {told}"
            );
        }
        let lists: Vec<String> =
            kubectl.run("api-resources --verbs=list -o name").lines().map(str::to_owned).collect();
        // One request for each kind; a kind without objects, or one whose table is broken, would be an error.
        let tables = kubectl.run(&format!("get --all-namespaces --ignore-not-found {}", lists.join(",")));
        for row in
            ["namespace/kube-system", "service/kubernetes", "clusterrole.rbac.authorization.k8s.io/admin"]
        {
            assert!(tables.contains(row), "{row} is missing in {tables}");
        }
        let port = kubectl.run("explain pod.spec.containers.ports");
        assert!(port.contains("containerPort\t<integer> -required-"), "{port}");
        let policy = kubectl.run("explain pod.spec.containers.imagePullPolicy");
        for words in ["ENUM:", "IfNotPresent", "Image pull policy."] {
            assert!(policy.contains(words), "{words} is missing in {policy}");
        }
        assert!(kubectl.run("explain deployment.spec").contains("DESCRIPTION:"));
        assert!(kubectl.fails("explain pod.nothing", "").contains("field \"nothing\" does not exist"));
        assert!(kubectl.run("api-versions").lines().any(|line| line == "apps/v1"));
        assert!(kubectl.run("cluster-info").contains("is running at"));
        kubectl.run(
            "describe nodes,namespaces,services,clusterroles,apiservices,priorityclasses,flowschemas -A",
        );
    });
}

#[test]
fn kubectl_applies_diffs_edits_and_patches() {
    both(|kubectl| {
        let replicas = || kubectl.run("get deployment web -o jsonpath='{.spec.replicas}'");
        let dry = kubectl.input("create --dry-run=server -o jsonpath='{.metadata.uid}' -f -", WEB);
        assert_eq!(dry.len(), 36, "a dry run shows what would be made: {dry}");
        assert!(kubectl.fails("get deployment web", "").contains("(NotFound)"));

        let differs = kubectl.attempt("diff -f -", WEB);
        assert!(!differs.success && differs.stdout.contains("+  name: web"), "{differs:?}");
        assert!(kubectl.input("apply -f -", WEB).contains("created"));
        assert!(kubectl.input("apply -f -", WEB).contains("unchanged"));
        assert_eq!(kubectl.input("diff -f -", WEB), "");
        let more = WEB.replace("replicas: 2", "replicas: 3");
        let differs = kubectl.attempt("diff -f -", &more);
        assert!(differs.stdout.contains("-  replicas: 2\n+  replicas: 3"), "{differs:?}");
        assert!(kubectl.input("apply -f -", &more).contains("configured"));
        assert_eq!(replicas(), "3");
        let pruned = more.replace(", env: [{name: A, value: one}]", "");
        kubectl.input("apply -f -", &pruned);
        assert_eq!(
            kubectl.run("get deployment web -o jsonpath='{..env}'"),
            "",
            "apply takes away what it gave"
        );

        // The fields of a client-side apply become those of the server-side one: no conflict with itself.
        assert!(kubectl.input("apply --server-side -f -", &more).contains("serverside-applied"));
        kubectl.run("scale deployment web --replicas=4");
        let conflict = kubectl.fails("apply --server-side -f -", &more);
        assert!(
            conflict.contains("Apply failed with 1 conflict: conflict with \"kubectl-1.3")
                && conflict.contains("with subresource \"scale\" using apps/v1: .spec.replicas"),
            "{conflict}"
        );
        let diff = kubectl.attempt("diff --server-side --force-conflicts -f -", &more);
        assert!(diff.stdout.contains("-  replicas: 4\n+  replicas: 3"), "{diff:?}");
        kubectl.input("apply --server-side --force-conflicts -f -", &more);
        assert_eq!(replicas(), "3");
        let managers =
            "get deployment web --show-managed-fields -o jsonpath='{.metadata.managedFields[*].manager}'";
        assert!(kubectl.run(managers).split(' ').any(|manager| manager == "kubectl"));

        assert!(kubectl.run("edit deployment web").contains("deployment.apps/web edited"));
        let value = "get deployment web -o jsonpath='{.spec.template.spec.containers[0].env[0].value}'";
        assert_eq!(kubectl.run(value), "two");
        kubectl.run(
            r#"patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"3"}]}]}}}}'"#,
        );
        assert_eq!(kubectl.run(value), "3");
        kubectl.run(r#"patch deployment web --type=merge -p '{"spec":{"replicas":1}}'"#);
        assert_eq!(replicas(), "1");
        kubectl.run(
            r#"patch deployment web --type=json -p '[{"op":"replace","path":"/spec/replicas","value":2}]'"#,
        );
        kubectl.run(r#"patch deployment web --subresource=scale --type=merge -p '{"spec":{"replicas":1}}'"#);
        assert_eq!(replicas(), "1");
        let refused = kubectl.fails(r#"patch deployment web --type=merge -p '{"spec":{"replicas":-1}}'"#, "");
        assert!(
            refused.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
            "{refused}"
        );
        let typo = kubectl.fails("apply -f -", &WEB.replace("replicas", "replica"));
        assert!(typo.contains("unknown field \"spec.replica\""), "{typo}");
        let yaml = kubectl.run("get deployment web -o yaml");
        assert!(kubectl.input("replace -f -", &yaml).contains("replaced"));
        kubectl.run("delete deployment web --timeout=60s");
    });
}

#[test]
fn kubectl_deletes_waits_and_tells() {
    both(|kubectl| {
        kubectl.input("create -f -", WEB);
        kubectl.run("wait --for=condition=Available deployment/web --timeout=60s");
        kubectl.run("wait --for=jsonpath='{.status.readyReplicas}'=2 deployment/web --timeout=60s");
        kubectl.run("label deployment web tier=front");
        assert!(kubectl.fails("label deployment web tier=back", "").contains("--overwrite is false"));
        kubectl.run("label deployment web tier=back --overwrite");
        kubectl.run("annotate deployment web note=x");
        assert!(kubectl.run("get deployments -l 'tier in (back),!none' --show-labels").contains("tier=back"));
        kubectl.run("label deployment web tier-");
        assert!(kubectl.run("events --for=deployment/web").contains("ScalingReplicaSet"));
        kubectl.run("rollout pause deployment/web");
        kubectl.run("set env deployment/web A=b");
        assert_eq!(kubectl.run("get replicasets -l app=web -o name").lines().count(), 1, "it is paused");
        kubectl.run("rollout resume deployment/web");
        kubectl.run("rollout status deployment/web --timeout=60s");
        kubectl.run("rollout restart deployment/web");
        kubectl.run("rollout status deployment/web --timeout=60s");
        assert!(kubectl.run("rollout history deployment/web --revision=2").contains("A:\tb"));
        kubectl.run("rollout undo deployment/web --to-revision=1");
        kubectl.run("rollout status deployment/web --timeout=60s");
        let value = "get deployment web -o jsonpath='{.spec.template.spec.containers[0].env[0].value}'";
        assert_eq!(kubectl.run(value), "one");
        let sorted =
            kubectl.run("get pods -l app=web --sort-by=.metadata.name -o custom-columns=N:.metadata.name");
        assert!(sorted.starts_with("N\nweb-"), "{sorted}");

        kubectl.run("delete deployment web --cascade=orphan");
        let sets = kubectl.run("get replicasets -l app=web -o name");
        let owners = "get replicasets -l app=web -o jsonpath='{.items[*].metadata.ownerReferences}'";
        assert!(!sets.is_empty(), "orphans stay");
        assert_eq!(kubectl.run(owners).trim(), "", "and have no owner");
        kubectl.run("delete replicasets -l app=web --cascade=foreground --timeout=60s");
        assert_eq!(
            kubectl.run("get pods -l app=web -o name"),
            "",
            "a foreground deletion waits for dependents"
        );

        for line in [
            "create namespace made",
            "create serviceaccount robot -n made",
            "create configmap c --from-literal=a=b -n made",
            "create secret generic s --from-literal=a=b -n made",
            "create role r --verb=get,list --resource=pods,deployments.apps -n made",
            "create rolebinding r --role=r --serviceaccount=made:robot -n made",
            "create quota q --hard=pods=10 -n made",
            "create poddisruptionbudget b --selector=app=x --min-available=1 -n made",
            "create priorityclass made --value=5",
            "create deployment d --image=none --replicas=1 -n made",
            "expose deployment d --port=80 -n made",
            "autoscale deployment d --max=3 -n made",
            "create ingress i --rule='h/*=d:80' -n made",
            "create cronjob c --image=none --schedule='* * * * *' -n made",
            "create job j --from=cronjob/c -n made",
            "run p --image=none --restart=Never -n made",
            "set resources deployment d --requests=cpu=1m -n made",
            "taint nodes hollow-0 a=b:PreferNoSchedule",
            "taint nodes hollow-0 a-",
            "cordon hollow-0",
            "uncordon hollow-0",
            "wait --for=jsonpath='{.status.phase}'=Succeeded pod/p -n made --timeout=60s",
        ] {
            kubectl.run(line);
        }
        kubectl.run("debug pod/p -n made --image=none --container=extra -- true");
        let policy = "get pod p -n made -o jsonpath='{.spec.ephemeralContainers[0].imagePullPolicy}'";
        assert_eq!(kubectl.run(policy), "Always", "a subresource defaults as the object does");
        let mine = kubectl.run("auth can-i --list -n made --as=system:serviceaccount:made:robot");
        for row in ["deployments.apps", "selfsubjectreviews.authentication.k8s.io", "[/healthz]"] {
            assert!(mine.contains(row), "{row} is missing in {mine}");
        }
        assert!(kubectl.run("auth can-i --list").contains("*.*"));
        let no = kubectl.attempt("auth can-i delete pods -n made --as=system:serviceaccount:made:robot", "");
        assert_eq!((no.success, no.stdout.as_str()), (false, "no\n"));
        assert!(kubectl.run("auth whoami").contains("system:masters"));
        let token = kubectl.run("create token robot -n made --duration=20m --audience=other");
        assert_eq!(token.trim().split('.').count(), 3, "{token}");
        kubectl.run("delete priorityclass made");
        kubectl.run("delete namespace made --timeout=60s");
        proxies(kubectl);
    });
}

/// `kubectl proxy` serves the API on a local port without credentials.
fn proxies(kubectl: &Terminal<'_>) {
    let mut proxy = kubectl
        .cluster
        .kubectl_command(kubectl.version, &["proxy", "--port=0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap();
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /api/v1/namespaces/default HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert!(answer.contains("200 OK") && answer.contains("\"kind\":\"Namespace\""), "{answer}");
}
