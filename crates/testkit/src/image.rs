//! Images for tests, made of the static busybox: no registry, no network.

use std::{fs, path::Path};

use serde_json::json;
use sha2::{Digest, Sha256};

/// A shell with tools and a small web server.
pub const BUSYBOX: &str = "ironclad.test/busybox:1";
/// The same files under another name, to update to.
pub const BUSYBOX_2: &str = "ironclad.test/busybox:2";
/// What a foreign runtime keeps a pod's namespaces with.
pub const PAUSE: &str = "ironclad.test/pause:1";

/// Commands that tests call by name inside containers.
const APPLETS: [&str; 25] = [
    "sh", "cat", "echo", "env", "false", "head", "hostname", "httpd", "id", "ls", "mkdir", "nslookup", "ps",
    "rm", "cp", "mount", "sleep", "stat", "tail", "test", "touch", "true", "wget", "grep", "kill",
];

/// Writes an archive as `docker save` does, with all test images.
pub fn archive(path: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let busybox = busybox.expect("busybox-static is there; tests/tools.sh installs it");
    let layer = layer(&busybox);
    let diff = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let file = fs::File::create(path).expect("the test's folder can be written");
    let mut archive = tar::Builder::new(file);
    append(&mut archive, "layer.tar", 0o644, &layer);
    let mut manifest = Vec::new();
    for (index, (tags, command)) in [
        (vec![BUSYBOX], vec!["sh"]),
        (vec![BUSYBOX_2], vec!["/bin/sh"]),
        (vec![PAUSE], vec!["tail", "-f", "/dev/null"]),
    ]
    .into_iter()
    .enumerate()
    {
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        });
        let name = format!("config-{index}.json");
        append(&mut archive, &name, 0o644, config.to_string().as_bytes());
        manifest.push(json!({"Config": name, "RepoTags": tags, "Layers": ["layer.tar"]}));
    }
    append(&mut archive, "manifest.json", 0o644, json!(manifest).to_string().as_bytes());
    archive.finish().expect("the archive can be written");
}

fn layer(busybox: &[u8]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (folder, mode) in
        [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("proc/", 0o755), ("sys/", 0o755)]
    {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        layer.append_data(&mut header, folder, std::io::empty()).expect("memory can be written");
    }
    append(&mut layer, "bin/busybox", 0o755, busybox);
    append(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n");
    append(&mut layer, "etc/group", 0o644, b"root:x:0:\nweb:x:1000:\n");
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory can be written");
    }
    layer.into_inner().expect("memory can be written")
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    archive.append_data(&mut header, path, content).expect("the archive can be written");
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The name that image configurations use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
