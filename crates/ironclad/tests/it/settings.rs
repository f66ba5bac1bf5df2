//! Settings that cannot work: one clear sentence each, and a failure.

use std::process::Command;

use crate::IRONCLAD;

/// Runs a command that must fail, and returns the one sentence that it says.
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said.trim().to_owned()
}

fn server(flags: &[&str]) -> Command {
    let mut command = Command::new(IRONCLAD);
    command.arg("server").args(flags).env("IRONCLAD_HOLLOW_NODES", "1");
    command
}

#[test]
fn settings_that_cannot_work_are_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("--data-dir={}", folder.path().join("data").display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, "data-dir: [").unwrap();
    let broken = format!("--config={}", file.display());
    let listen = format!("--https-listen-port={port}");
    let cases: [(&[&str], &str); 10] = [
        (&["--no-such-flag"], "unexpected argument '--no-such-flag'"),
        (&["--cluster-cidr=10.42.0.1/16"], "not the network itself"),
        (&["--disable=everything"], "invalid value 'everything'"),
        (&["--data-dir=/dev/null/data"], "the data directory /dev/null/data cannot be written"),
        (&[&data_dir, "--bind-address=127.0.0.1", &listen], "is taken by another program"),
        (&["--tls-cert-file=/nonexistent.crt"], "--tls-private-key-file <FILE>"),
        (&["--tls-private-key-file=/nonexistent.key"], "--tls-cert-file <FILE>"),
        (&["--shutdown-delay-duration=soon"], "\"soon\" is no span of time"),
        (&["--config=/nonexistent.yaml"], "the settings file /nonexistent.yaml cannot be read"),
        (&[&broken], "is not valid YAML"),
    ];
    for (flags, sentence) in cases {
        let said = fails(&mut server(flags));
        assert!(said.contains(sentence), "{flags:?}: {said}");
    }
}

#[test]
fn admission_and_certificates_that_cannot_work_are_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("--data-dir={}", folder.path().join("data").display());
    // Nobody listens on it for long: what is wrong is found before.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--https-listen-port={}", free.local_addr().unwrap().port());
    drop(free);
    let file = folder.path().join("admission.yaml");
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n\
                - name: PodSecurity\n  path: gone.yaml\n";
    std::fs::write(&file, text).unwrap();
    let configured = format!("--admission-control-config-file={}", file.display());
    for (flag, sentence) in [
        ("--enable-admission-plugins=Nobody", "enable-admission-plugins plugin \"Nobody\" is unknown"),
        ("--disable-admission-plugins=Nobody", "disable-admission-plugins plugin \"Nobody\" is unknown"),
        (
            "--enable-admission-plugins=ImagePolicyWebhook",
            "the admission plugin \"ImagePolicyWebhook\" is not supported",
        ),
        (configured.as_str(), "gone.yaml cannot be read"),
        ("--client-ca-file=/nonexistent.crt", "/nonexistent.crt cannot be read"),
    ] {
        let said = fails(&mut server(&[&data_dir, "--bind-address=127.0.0.1", &listen, flag]));
        assert!(said.contains(sentence), "{flag}: {said}");
    }
}

#[test]
fn a_node_without_root_is_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    // In a user namespace without mappings everybody is nobody.
    let said = fails(
        Command::new("unshare")
            .args(["--user", "--", IRONCLAD, "server", "--data-dir"])
            .arg(folder.path().join("data")),
    );
    assert!(said.contains("a node needs root"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
