//! Several machines on one network: each runs one process of the program, which can be killed and started again.
//!
//! A machine is a [`Space`] that is plugged into a switch, so all of them vanish with the test. Control groups, which are
//! the kernel's and not a namespace's, are below one of the test's own and are removed at the end. Needs root.
//!
//! Not here: a cluster of one process and everything a test does with it ([`Cluster`](crate::Cluster)).

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use sys::{
    cgroup::{Cgroup, Layout},
    netlink::route::{NewLink, Route, RouteSocket},
};
use tempfile::TempDir;

use crate::{Kubectl, Output, Space, image, kubectl, space, wait};

/// The switch's own address: the gateway of all machines, and where the test itself speaks from.
const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// The machines and what is between them.
#[derive(Debug)]
pub struct Machines {
    program: PathBuf,
    control_group: String,
    // Dropped in this order: what runs on the machines has files open in the folder.
    machines: Vec<Machine>,
    switch: Space,
    folder: TempDir,
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    process: Option<Child>,
    space: Space,
}

impl Machines {
    /// A switch without machines. `program` is `env!("CARGO_BIN_EXE_ironclad")`.
    pub fn new(program: &str) -> Machines {
        let folder = tempfile::Builder::new().prefix("ironclad-").tempdir().expect("/tmp can be written");
        let switch = Space::unplugged();
        let mut socket = socket_in(switch.network());
        let done =
            socket.create("lan", 0, &NewLink::Bridge).and_then(|()| socket.link("lan")).and_then(|link| {
                let lan = link.expect("it was just made").index;
                socket.set_up(lan)?;
                socket.add_address(lan, SWITCH.into(), 24)
            });
        done.expect("a bridge can be made");
        let name = folder.path().file_name().expect("a folder has a name").to_string_lossy().into_owned();
        Machines {
            program: program.into(),
            control_group: format!("/{name}"),
            machines: Vec::new(),
            switch,
            folder,
        }
    }

    /// One more machine, with the address 10.77.0.`number`. `arguments` are the program's, beginning with the command;
    /// name, directories and control group are added.
    pub fn add(&mut self, name: &str, number: u8, arguments: &[&str]) -> &mut Machine {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).expect("a machine has a name of its own");
        let address = Ipv4Addr::new(10, 77, 0, number);
        let space = Space::unplugged();
        self.plug_in(space.network(), address, number).expect("a machine can be plugged in");
        let mut arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        arguments.extend([
            format!("--node-name={name}"),
            format!("--data-dir={}", folder.join("data").display()),
            format!("--cgroup-root={}/{name}", self.control_group),
        ]);
        let program = self.program.clone();
        let machine =
            Machine { name: name.into(), address, program, arguments, folder, process: None, space };
        self.machines.push(machine);
        self.machines.last_mut().expect("it was just pushed")
    }

    fn plug_in(&self, network: &File, address: Ipv4Addr, number: u8) -> Result<(), sys::netlink::Error> {
        let mut switch = socket_in(self.switch.network());
        let port = format!("port{number}");
        let cable = NewLink::Veth { peer: "eth0", peer_namespace: Some(network), peer_mac: None };
        switch.create(&port, 0, &cable)?;
        let [lan, port] = ["lan", &port].map(|name| switch.link(name));
        let (lan, port) = (lan?.expect("the switch has a bridge"), port?.expect("it was just made"));
        switch.attach(port.index, lan.index, false)?;
        let mut inside = socket_in(network);
        let eth0 = inside.link("eth0")?.expect("it was just made").index;
        inside.set_up(eth0)?;
        inside.add_address(eth0, address.into(), 24)?;
        let any = Route::to(Ipv4Addr::UNSPECIFIED.into(), 0);
        inside.replace_route(&Route { gateway: Some(SWITCH.into()), ..any })
    }

    /// A machine by its name.
    pub fn get(&self, name: &str) -> &Machine {
        self.machines.iter().find(|machine| machine.name == name).expect("the machine was added")
    }

    /// A machine by its name, to be killed or started.
    pub fn get_mut(&mut self, name: &str) -> &mut Machine {
        self.machines.iter_mut().find(|machine| machine.name == name).expect("the machine was added")
    }

    /// The network as the switch sees it: a thread that enters it reaches all machines.
    pub fn network(&self) -> File {
        self.switch.network().try_clone().expect("a file can be shared")
    }

    /// Runs kubectl v1.37 beside the machines, as the administrator that a server's kubeconfig names.
    pub fn kubectl(&self, server: &str, arguments: &[&str], input: &str) -> Output {
        let server = self.get(server);
        // The file names the server by an address of its own machine.
        let mut command = server.space.network_command(&Kubectl::V1_37.path().to_string_lossy());
        command
            .env("KUBECONFIG", server.data_dir().join("kubeconfig.yaml"))
            .env("HOME", self.folder.path())
            .args(arguments)
            .arg("--request-timeout=20s");
        kubectl::run(command, input)
    }

    fn tell_what_happened(&self) {
        for machine in &self.machines {
            let log = machine.log();
            // The end tells; a test of several machines fills a screen soon enough.
            let from = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("--- {} said:\n{}", machine.name, &log[from..]);
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell_what_happened();
        }
        self.machines.clear();
        // Nobody runs any more, but a process may be in its last moments.
        if let Ok(layout) = Layout::detect() {
            let group = Cgroup::new(layout, self.control_group.clone());
            for _ in 0..100 {
                if group.remove().is_ok() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
            eprintln!("the control group {} is left", self.control_group);
        }
    }
}

impl Machine {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The state of its process.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// One more argument for the next start.
    pub fn argument(&mut self, argument: String) {
        self.arguments.push(argument);
    }

    /// Puts the test images where the embedded runtime finds them. Before the first start.
    pub fn import_images(&self) {
        let archive = self.folder.join("images.tar");
        image::archive(&archive);
        let mut command = self.space.command(&self.program.to_string_lossy());
        command.args(["images", "import"]).arg(&archive).arg("--data-dir").arg(self.data_dir());
        let imported = kubectl::run(command, "");
        assert!(imported.success, "the images cannot be imported: {}", imported.stderr);
    }

    /// Starts its process (again), without waiting for anything.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.expect("the test's folder can be written");
        let process = self
            .space
            .command(&self.program.to_string_lossy())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        self.process = Some(process);
    }

    /// Waits until the process has said once more that it is ready.
    pub fn ready(&self, times: usize) {
        wait::until(&format!("{} says that it is ready", self.name), || {
            let said = self.log();
            let ended = self.process.as_ref().is_none_or(|process| space::only_child(process.id()).is_none());
            if said.matches("Ready in ").count() >= times {
                return Ok(());
            }
            // A process has no child before it is started, and none after it has ended.
            Err(if ended { format!("it does not run; it said:\n{said}") } else { said })
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the process runs");
        // Inside a space our child is `nsenter`, and its only child the process.
        let pid = space::only_child(process.id()).expect("the process runs");
        sys::process::kill(pid.cast_signed(), 9).expect("we may signal our child");
        process.wait().expect("the process can be waited for");
    }

    /// Whether its process was started and not killed.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// To which addresses its process, or another one of the machine, has connections to a port.
    pub fn connected_to(&self, port: u16) -> Vec<Ipv4Addr> {
        let table = self.process.as_ref().and_then(|process| space::only_child(process.id()));
        let table = table.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok());
        let mut found: Vec<_> = table.iter().flat_map(|table| connections(table, port)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What its process said since the test began.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Everything that a container of this machine printed, over all its lives, without the runtime's time stamps.
    pub fn container_log(&self, namespace: &str, pod: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let prefix = format!("{namespace}_{pod}_");
        for folder in entries(&self.data_dir().join("logs/pods")) {
            if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                continue;
            }
            for file in entries(&folder).iter().flat_map(|container| entries(container)) {
                let text = fs::read_to_string(file).unwrap_or_default();
                // Time, stream, whether the line is whole, and then what was printed.
                lines.extend(text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned));
            }
        }
        lines
    }
}

/// The other ends, at a port, of the established connections in the kernel's table (`/proc/net/tcp`).
fn connections(table: &str, port: u16) -> Vec<Ipv4Addr> {
    const ESTABLISHED: &str = "01";
    let other_end = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, at) = fields.get(2)?.split_once(':')?;
        // The address as the machine keeps it in memory, the port as a number.
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        let fits = fields.get(3) == Some(&ESTABLISHED) && u16::from_str_radix(at, 16).ok()? == port;
        fits.then(|| Ipv4Addr::from(address))
    };
    table.lines().filter_map(other_end).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn socket_in(network: &File) -> RouteSocket {
    RouteSocket::open_in(network).expect("the network namespace can be entered")
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if let Some(pid) = space::only_child(process.id()) {
                let _ = sys::process::kill(pid.cast_signed(), 9);
            }
            let _ = process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
                     1: 0B004D0A:D2F0 02004D0A:192B 01 00000000:00000000 02:000000B5 00000000     0        0 2 2\n   \
                     2: 0B004D0A:D2F2 03004D0A:192B 06 00000000:00000000 03:000000B5 00000000     0        0 0 3\n   \
                     3: 0B004D0A:D2F4 03004D0A:094C 01 00000000:00000000 02:000000B5 00000000     0        0 4 2\n";
        assert_eq!(connections(table, 6443), [Ipv4Addr::new(10, 77, 0, 2)]);
    }
}
