//! Network, process and mount namespaces of one test.
//!
//! A shell that reads from a pipe of ours is the first process in them. When the pipe closes, however the test ended, it
//! ends, and the kernel kills whatever else runs inside and drops mounts, links and rules. Needs root.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Mounts of other clusters on the host were copied with the rest: inside, they would only be in the way.
const SETUP: &str = "set -e
for point in $(cut -d' ' -f5 /proc/self/mountinfo | grep -E '^(/run|/tmp)/' | sort -r); do umount -l $point || true; done
mount -t tmpfs -o mode=755 run /run
ip link set lo up
";
/// An address on an interface with a default route, as a host on a network has. Nobody is at the other end.
const ALONE: &str = "ip link add eth0 type veth peer name uplink
ip address add 10.77.0.2/24 dev eth0
ip link set eth0 up
ip link set uplink up
ip route add default via 10.77.0.1
";
/// Says that all is there, and stays until the pipe closes.
const STAY: &str = "echo ready
read -r _ || true";

/// The namespaces.
#[derive(Debug)]
pub struct Space {
    unshare: Child,
    // Held open: see the module's page.
    _pipe: ChildStdin,
    first: u32,
    network: File,
}

impl Space {
    /// Makes them, with an address on a network where nobody else is.
    pub fn new() -> Space {
        Space::with(ALONE)
    }

    /// Makes them without any network but loopback: the caller plugs it in.
    pub(crate) fn unplugged() -> Space {
        Space::with("")
    }

    fn with(network: &str) -> Space {
        assert!(is_root(), "this test makes namespaces: run it as root");
        let mut unshare = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                &format!("{SETUP}{network}{STAY}"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) is there; tests/tools.sh installs it");
        let pipe = unshare.stdin.take().expect("it was piped");
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().expect("it was piped"))
            .read_line(&mut line)
            .expect("the shell's output is text");
        assert_eq!(
            line, "ready\n",
            "the namespaces could not be set up; is iproute2 there? See tests/tools.sh"
        );
        let first = only_child(unshare.id()).expect("the shell runs");
        let network = File::open(format!("/proc/{first}/ns/net")).expect("the shell runs");
        Space { unshare, _pipe: pipe, first, network }
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.first)).args(["--net", "--mount", "--pid", "--", program]);
        command
    }

    /// A command that will run with the network from inside, but with files and processes from outside.
    pub fn network_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.first)).args(["--", program]);
        command
    }

    /// Runs a function in a thread whose sockets are inside.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::netlink::within(&self.network, work).expect("the network namespace can be entered")
    }

    /// The network namespace.
    pub fn network(&self) -> &File {
        &self.network
    }

    /// The program's output, which must succeed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().expect("nsenter(1) is there");
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where the inside's file tree is seen from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.first))
    }

    /// Processes whose command line contains the text: their inner process IDs, each with the time it was started, so
    /// that a process in another's place is told apart.
    pub fn processes(&self, text: &str) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root().join("proc")).expect("the inner /proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // A process may end while it is looked at.
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // The name in parentheses may hold spaces: fields are counted behind it.
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            if line.contains(text)
                && let Some(started) = fields.split(' ').nth(19)
            {
                found.push((pid, started.to_owned()));
            }
        }
        found.sort();
        found
    }

    /// The parent of a process, both by their inner IDs.
    pub fn parent(&self, pid: u32) -> u32 {
        let status =
            fs::read_to_string(self.root().join(format!("proc/{pid}/status"))).expect("the process runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("every process has a parent");
        line.trim().parse().expect("the kernel writes a number")
    }

    /// Kills a process by its inner ID.
    pub fn kill(&self, pid: u32) {
        self.output("kill", &["-9", &pid.to_string()]);
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The first process takes all others with it.
        let _ = sys::process::kill(self.first.cast_signed(), 9);
        let _ = self.unshare.wait();
    }
}

/// Whether the test runs as root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The child of a process that has just one, once it is there.
pub(crate) fn only_child(parent: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
