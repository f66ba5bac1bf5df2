//! The supervisor's loop: what there is to wait for, and what is done about each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};
use sys::cgroup::{Cgroup, Layout};
use sys::container::{self as launcher, PidNamespace, Status, Stdio};
use sys::process;

use super::container::Container;
use super::log::{Log, Stream};
use crate::wire::{
    ContainerSpec, Event, Message, Pids, Reply, Request, RunStatus, SandboxSpec, Verb, read_json, write_json,
};

/// How clients' sockets are: a full one answers at once.
const CLIENT: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
/// How long to wait after a poll that failed.
const POLL_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// What a process being set up will be.
enum Starting {
    Container(String),
    Exec,
}

/// A process being set up: its launch is answered when its status socket speaks.
struct Launch {
    starting: Starting,
    pid: i32,
    status: OwnedFd,
    terminal: Option<OwnedFd>,
    /// Whom to answer.
    client: u64,
    request: u64,
}

/// What became readable or writable.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Client(u64),
    Launch(usize),
    Output(String, usize),
    Viewer(String),
}

/// A pod and its containers.
pub(super) struct Pod {
    layout: Layout,
    socket: PathBuf,
    signals: SignalFd,
    listener: OwnedFd,
    host_pids: File,
    /// First process of the shared PID namespace.
    pause: Option<i32>,
    clients: BTreeMap<u64, OwnedFd>,
    next_client: u64,
    containers: BTreeMap<String, Container>,
    launches: Vec<Launch>,
    /// PID → name of the process.
    execs: BTreeMap<i32, String>,
    buffer: Vec<u8>,
    done: bool,
}

impl Pod {
    pub(super) fn new(spec: &SandboxSpec, layout: Layout) -> io::Result<Self> {
        let mut children = nix::sys::signal::SigSet::empty();
        children.add(nix::sys::signal::Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let listener = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        let _ = std::fs::remove_file(&spec.socket);
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&spec.socket)?)?;
        listen(&listener, Backlog::new(4)?)?;
        let pause = if spec.shared_pids { Some(launcher::pause()?) } else { None };
        Ok(Self {
            layout,
            socket: spec.socket.clone(),
            signals,
            listener,
            host_pids: File::open("/proc/self/ns/pid")?,
            pause,
            clients: BTreeMap::new(),
            next_client: 0,
            containers: BTreeMap::new(),
            launches: Vec::new(),
            execs: BTreeMap::new(),
            buffer: vec![0; process::MAX_MESSAGE],
            done: false,
        })
    }

    /// Works until told to end; the exit code.
    pub(super) fn run(mut self) -> i32 {
        while !self.done {
            for source in self.wait() {
                self.handle(source);
            }
        }
        let _ = std::fs::remove_file(&self.socket);
        0
    }

    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (id, client) in &self.clients {
            sources.push(Source::Client(*id));
            fds.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
        }
        for (at, launch) in self.launches.iter().enumerate() {
            sources.push(Source::Launch(at));
            fds.push(PollFd::new(launch.status.as_fd(), PollFlags::POLLIN));
        }
        for (id, container) in &self.containers {
            // Descending, so that removing one output leaves the indices of the others right.
            for (at, output) in container.outputs.iter().enumerate().rev() {
                sources.push(Source::Output(id.clone(), at));
                fds.push(PollFd::new(output.file.as_fd(), PollFlags::POLLIN));
            }
            for viewer in container.viewers.iter().filter(|v| !v.backlog.is_empty()) {
                sources.push(Source::Viewer(id.clone()));
                fds.push(PollFd::new(viewer.file.as_fd(), PollFlags::POLLOUT));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Vec::new(),
            Err(_) => {
                // Out of memory, say: asked again at once it would fail again.
                std::thread::sleep(POLL_AGAIN);
                return Vec::new();
            }
        }
        let ready = fds.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty()));
        let mut ready: Vec<Source> =
            sources.into_iter().zip(ready).filter(|(_, r)| *r).map(|(s, _)| s).collect();
        // Outputs before ends; launches from the last, as they are removed by index.
        ready.reverse();
        ready
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                while let Some(exit) = process::reap() {
                    self.ended(exit.pid, exit.code);
                }
            }
            Source::Listener => {
                use std::os::fd::AsRawFd;
                if let Ok(fd) = accept4(self.listener.as_raw_fd(), CLIENT) {
                    self.clients.insert(self.next_client, process::inherited(fd));
                    self.next_client += 1;
                }
            }
            Source::Client(id) => self.client(id),
            Source::Launch(at) => self.launch_news(at),
            Source::Output(id, at) => {
                if let Some(container) = self.containers.get_mut(&id)
                    && at < container.outputs.len()
                {
                    container.readable(at);
                }
            }
            Source::Viewer(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.viewers.retain_mut(super::container::Viewer::flush);
                }
            }
        }
    }

    fn client(&mut self, id: u64) {
        let Some(socket) = self.clients.get(&id) else { return };
        let (length, descriptors) = match process::receive(socket.as_fd(), &mut self.buffer) {
            Ok((length, descriptors)) if length > 0 => (length, descriptors),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            _ => {
                self.clients.remove(&id);
                return;
            }
        };
        let Ok(request) = serde_json::from_slice::<Request>(&self.buffer[..length]) else {
            // Of a newer runtime: it cannot be answered without its number.
            return;
        };
        match self.perform(id, &request, descriptors) {
            Ok(None) => {} // answered later
            Ok(Some((reply, descriptor))) => self.reply(id, request.id, reply, descriptor.as_ref()),
            Err(reason) => self.reply(id, request.id, Reply::Failed(reason), None),
        }
    }

    fn reply(&mut self, client: u64, id: u64, reply: Reply, descriptor: Option<&OwnedFd>) {
        let message = Message::Reply { id, reply };
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.iter().map(|d| d.as_fd()).collect();
        if let Some(socket) = self.clients.get(&client) {
            let bytes = serde_json::to_vec(&message).unwrap_or_default();
            if process::send(socket.as_fd(), &bytes, &descriptors).is_err() {
                self.clients.remove(&client);
            }
        }
    }

    /// A client that does not read is let go, so that it holds up neither us nor our containers: it connects again and
    /// asks how things are.
    fn tell(&mut self, event: Event) {
        let bytes = serde_json::to_vec(&Message::Event(event)).unwrap_or_default();
        self.clients.retain(|_, socket| process::send(socket.as_fd(), &bytes, &[]).is_ok());
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers.get_mut(id).ok_or_else(|| format!("container {id} is not started"))
    }

    fn perform(
        &mut self,
        client: u64,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<(Reply, Option<OwnedFd>)>, String> {
        let done = Ok(Some((Reply::Done, None)));
        match &request.verb {
            Verb::Start { container, directory } => {
                self.start(client, request.id, container, directory).map(|()| None)
            }
            Verb::Exec { container, exec, streams, size } => {
                self.exec(client, request.id, (container, exec), *streams, *size, descriptors).map(|()| None)
            }
            Verb::Attach { container } => {
                let container = self.container(container)?;
                for (file, stream) in descriptors.into_iter().zip([Stream::Output, Stream::Error]) {
                    container.show_to(file, stream).map_err(|e| e.to_string())?;
                }
                let input = container.input.as_ref().and_then(|i| i.try_clone().ok());
                Ok(Some((Reply::Done, input)))
            }
            Verb::CloseStdin { container } => {
                let container = self.container(container)?;
                if !container.spec.spec.process.terminal {
                    container.input = None;
                }
                done
            }
            Verb::Signal { container, signal } => {
                let container = self.container(container)?;
                if container.status.running() {
                    process::kill(container.status.pid, *signal).map_err(|e| e.to_string())?;
                }
                done
            }
            Verb::SignalExec { exec, signal } => {
                if let Some((pid, _)) = self.execs.iter().find(|(_, name)| *name == exec) {
                    process::kill(*pid, *signal).map_err(|e| e.to_string())?;
                }
                done
            }
            Verb::ReopenLog { container } => {
                self.container(container)?.log.reopen().map_err(|e| e.to_string())?;
                done
            }
            Verb::Forget { container } => {
                if self.containers.get(container).is_some_and(|c| c.status.running()) {
                    return Err(format!("container {container} is running"));
                }
                self.containers.remove(container);
                done
            }
            Verb::List => {
                let all = self.containers.iter().map(|(id, c)| (id.clone(), c.status.clone())).collect();
                Ok(Some((Reply::Containers(all), None)))
            }
            Verb::Shutdown => {
                self.shut_down();
                done
            }
        }
    }

    fn start(&mut self, client: u64, request: u64, id: &str, directory: &Path) -> Result<(), String> {
        if self.containers.contains_key(id) {
            return Err(format!("container {id} was started already"));
        }
        let mut spec: ContainerSpec =
            read_json(&directory.join("spec.json")).map_err(|e| format!("read the container's spec: {e}"))?;
        spec.spec.pids = match &spec.pids {
            Pids::Own => PidNamespace::Own,
            Pids::Host => PidNamespace::Host,
            Pids::Sandbox => {
                let pause = self.pause.ok_or("the pod has no shared PID namespace")?;
                PidNamespace::Join(format!("/proc/{pause}/ns/pid").into())
            }
            Pids::Container(target) => {
                let pid = self.container(target)?.status.pid;
                PidNamespace::Join(format!("/proc/{pid}/ns/pid").into())
            }
        };
        let text = |e: io::Error| e.to_string();
        let log = Log::open(spec.log.as_deref()).map_err(|e| format!("open the log file: {e}"))?;
        let mut container = Container {
            directory: directory.to_owned(),
            status: RunStatus::default(),
            log,
            outputs: Vec::new(),
            viewers: Vec::new(),
            input: None,
            oom_kills: Cgroup::new(self.layout.clone(), &spec.spec.cgroup).oom_kills(),
            spec,
        };
        let stdio = if container.spec.spec.process.terminal {
            Stdio::Terminal { size: None }
        } else {
            let (read_output, output) = io::pipe().map_err(text)?;
            let (read_error, error) = io::pipe().map_err(text)?;
            container.read_from(read_output.into(), Stream::Output).map_err(text)?;
            container.read_from(read_error.into(), Stream::Error).map_err(text)?;
            let stdin = if container.spec.stdin {
                let (input, write_input) = io::pipe().map_err(text)?;
                container.input = Some(write_input.into());
                Some(input.into())
            } else {
                None
            };
            Stdio::Files { stdin, stdout: Some(output.into()), stderr: Some(error.into()) }
        };
        let launched = launcher::launch(&container.spec.spec, &self.layout, stdio, self.host_pids.as_fd())
            .map_err(|e| e.to_string())?;
        container.status.pid = launched.pid;
        self.containers.insert(id.to_owned(), container);
        self.launches.push(Launch {
            starting: Starting::Container(id.to_owned()),
            pid: launched.pid,
            status: launched.status,
            terminal: None,
            client,
            request,
        });
        Ok(())
    }

    fn exec(
        &mut self,
        client: u64,
        request: u64,
        (container, exec): (&str, &str),
        streams: [bool; 3],
        size: Option<(u16, u16)>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let mut descriptors = descriptors.into_iter();
        let file = File::from(descriptors.next().ok_or("no process given")?);
        let spec: launcher::Process = serde_json::from_reader(io::BufReader::new(file))
            .map_err(|e| format!("read the process's spec: {e}"))?;
        let container = self.containers.get(container).filter(|c| c.status.running());
        let container = container.ok_or("container is not running")?;
        let stdio = if spec.terminal {
            Stdio::Terminal { size }
        } else {
            let mut next = |given: bool| if given { descriptors.next() } else { None };
            Stdio::Files { stdin: next(streams[0]), stdout: next(streams[1]), stderr: next(streams[2]) }
        };
        let (pid, group) = (container.status.pid, container.spec.spec.cgroup.clone());
        let launched = launcher::exec(&spec, pid, &group, &self.layout, stdio, self.host_pids.as_fd())
            .map_err(|e| e.to_string())?;
        self.execs.insert(launched.pid, exec.to_owned());
        self.launches.push(Launch {
            starting: Starting::Exec,
            pid: launched.pid,
            status: launched.status,
            terminal: None,
            client,
            request,
        });
        Ok(())
    }

    fn launch_news(&mut self, at: usize) {
        let Some(launch) = self.launches.get_mut(at) else { return };
        match launcher::status(launch.status.as_fd()) {
            Ok(Status::Terminal(master)) => launch.terminal = Some(master),
            Ok(Status::Warning(text)) => self.tell(Event::Warning(text)),
            Ok(Status::Running) => self.launched(at, None),
            Ok(Status::Failed(reason)) => self.launched(at, Some(reason)),
            Err(e) => self.launched(at, Some(e.to_string())),
        }
    }

    fn launched(&mut self, at: usize, failure: Option<String>) {
        let launch = self.launches.remove(at);
        let mut terminal = launch.terminal;
        if let (Starting::Container(id), None) = (&launch.starting, &failure)
            && let Some(container) = self.containers.get_mut(id)
        {
            container.status.started_at = now();
            let _ = write_json(&container.directory.join("status.json"), &container.status);
            if let Some(master) = terminal.take() {
                container.input = master.try_clone().ok();
                let _ = container.read_from(master, Stream::Output);
            }
        }
        let reply = match failure {
            None => Reply::Started { pid: launch.pid },
            Some(reason) => {
                match &launch.starting {
                    // As if it never was: the runtime records the failure.
                    Starting::Container(id) => drop(self.containers.remove(id)),
                    Starting::Exec => drop(self.execs.remove(&launch.pid)),
                }
                Reply::Failed(reason)
            }
        };
        self.reply(launch.client, launch.request, reply, terminal.as_ref());
    }

    fn ended(&mut self, pid: i32, code: i32) {
        // Its launch is not answered yet: the last word on the status socket comes first.
        while let Some(at) = self.launches.iter().position(|l| l.pid == pid) {
            self.launch_news(at);
        }
        if let Some(exec) = self.execs.remove(&pid) {
            self.tell(Event::ExecExited { exec, code });
            return;
        }
        let found = self.containers.iter_mut().find(|(_, c)| c.status.pid == pid && !c.status.exited());
        let Some((id, container)) = found else { return };
        let group = Cgroup::new(self.layout.clone(), &container.spec.spec.cgroup);
        if container.spec.pids != Pids::Own {
            // What it left behind; in a namespace of its own the kernel has seen to that.
            group.kill();
        }
        container.drain();
        container.status.finished_at = now();
        container.status.exit_code = code;
        container.status.reason = match code {
            _ if group.oom_kills() > container.oom_kills => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        }
        .to_owned();
        let _ = write_json(&container.directory.join("status.json"), &container.status);
        let event = Event::Exited { container: id.clone(), status: container.status.clone() };
        self.tell(event);
    }

    fn shut_down(&mut self) {
        for container in self.containers.values().filter(|c| c.status.running()) {
            let _ = process::kill(container.status.pid, nix::libc::SIGKILL);
            Cgroup::new(self.layout.clone(), &container.spec.spec.cgroup).kill();
        }
        if let Some(pause) = self.pause {
            let _ = process::kill(pause, nix::libc::SIGKILL);
        }
        self.done = true;
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}
