//! The forked child: from a copy of the supervisor to the container's program, step by step.
//!
//! The order matters and follows runc: what needs the host's files (control group, mount sources)
//! before the change of root; what needs privilege before the change of user; seccomp last, or before
//! the capabilities go if loading it needs one.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::unistd::{Gid, Uid};

use super::{
    MESSAGE_FAILED, MESSAGE_TERMINAL, MESSAGE_WARNING, Process, Spec, Stdio, capabilities, filesystem,
    program, tell,
};
use crate::cgroup::{Cgroup, Layout};
use crate::namespace::{self, Flags};
use crate::{process, seccomp};

/// What went wrong, as a sentence for people.
type Step<T = ()> = Result<T, String>;

fn because<E: std::error::Error>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| {
        let mut text = format!("{what}: {}", strip(&error.to_string()));
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {}", strip(&cause.to_string()));
            source = cause.source();
        }
        text
    }
}

/// "No such file or directory (os error 2)" → "no such file or directory", as Go prints it.
fn strip(text: &str) -> String {
    let text = text.split(" (os error ").next().unwrap_or(text);
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(a), Some(b)) if a.is_uppercase() && !b.is_uppercase() => {
            a.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

pub(super) fn error_text(error: &io::Error) -> String {
    strip(&error.to_string())
}

fn fail(status: &OwnedFd, reason: &str) -> Infallible {
    tell(status, MESSAGE_FAILED, reason, &[]);
    process::exit_now(127)
}

/// Becomes the first process of a container.
pub(super) fn container(spec: &Spec, layout: &Layout, stdio: Stdio, status: OwnedFd) -> Infallible {
    let result = (|| -> Step<Infallible> {
        process::reset_signals();
        process::forbid_inspection().map_err(because("forbid inspection"))?;
        nix::unistd::setsid().map_err(because("setsid"))?;
        // Read here, where /proc is the host's: what a container has in its place may lie.
        let available = capabilities::available().map_err(because("read capabilities"))?;
        Cgroup::new(layout.clone(), &spec.cgroup).enter().map_err(because("join the control group"))?;
        oom_score(&spec.process, &status)?;
        if spec.own_cgroup_namespace {
            namespace::unshare(Flags::CLONE_NEWCGROUP).map_err(because("control group namespace"))?;
        }
        filesystem::prepare(spec, layout)?;
        let terminal = stdio_of(stdio, &spec.process, &status)?;
        if let Some(terminal) = &terminal {
            filesystem::console(terminal)?;
        }
        filesystem::restrict(spec)?;
        run(&spec.process, available, &status)
    })();
    match result {
        Ok(never) => never,
        Err(reason) => fail(&status, &reason),
    }
}

/// Becomes one more process of a running container.
pub(super) fn exec(
    process: &Process,
    pid: i32,
    cgroup: &str,
    layout: &Layout,
    stdio: Stdio,
    status: OwnedFd,
) -> Infallible {
    let result = (|| -> Step<Infallible> {
        process::reset_signals();
        // Before the first namespace is joined: from then on processes of the container can see this one.
        process::forbid_inspection().map_err(because("forbid inspection"))?;
        nix::unistd::setsid().map_err(because("setsid"))?;
        let available = capabilities::available().map_err(because("read capabilities"))?;
        let open = |kind: &str| fs::File::open(format!("/proc/{pid}/ns/{kind}"));
        let mounts = open("mnt").map_err(because("container is not running"))?;
        let groups = open("cgroup").map_err(because("container is not running"))?;
        Cgroup::new(layout.clone(), cgroup).enter().map_err(because("join the control group"))?;
        oom_score(process, &status)?;
        namespace::enter(groups).map_err(because("join the control group namespace"))?;
        // Joining a mount namespace also moves root and working directory to the container's root.
        namespace::enter(mounts).map_err(because("join the mount namespace"))?;
        stdio_of(stdio, process, &status)?;
        run(process, available, &status)
    })();
    match result {
        Ok(never) => never,
        Err(reason) => fail(&status, &reason),
    }
}

/// Reaps for ever; ends with the supervisor.
pub(super) fn pause() -> ! {
    let _ = process::die_with_parent();
    let _ = nix::unistd::setsid();
    for fd in 0..3 {
        // The supervisor's standard streams are /dev/null or a pipe its starter reads to the end.
        let _ = nix::unistd::close(fd);
    }
    loop {
        while process::reap().is_some() {}
        // Every signal is blocked (inherited from the supervisor); the wait takes SIGCHLD off the queue.
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGCHLD);
        let _ = set.wait();
    }
}

fn oom_score(process: &Process, status: &OwnedFd) -> Step {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering needs CAP_SYS_RESOURCE, which hardened hosts withhold. The container is better
        // than its score.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tell(status, MESSAGE_WARNING, &format!("the host forbids oom_score_adj {score}"), &[]);
            Ok(())
        }
        other => other.map_err(because("write oom_score_adj")),
    }
}

/// Puts the standard streams in place; the slave side if there is a terminal.
fn stdio_of(stdio: Stdio, process: &Process, status: &OwnedFd) -> Step<Option<OwnedFd>> {
    match stdio {
        Stdio::Files { stdin, stdout, stderr } => {
            let null = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
                .map_err(because("open /dev/null"))?;
            for (source, number) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
                if let Some(file) = &source
                    && process.user.uid != 0
                {
                    // So that the program may open /dev/stdout: a pipe has an owner and mode 0600.
                    let _ = nix::unistd::fchown(file, Some(Uid::from_raw(process.user.uid)), None);
                }
                duplicate(source.as_ref().unwrap_or(&null), number)?;
            }
            Ok(None)
        }
        Stdio::Terminal { size } => {
            let master = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/pts/ptmx")
                .map(OwnedFd::from)
                .map_err(because("open a terminal"))?;
            let slave = process::terminal_peer(master.as_fd()).map_err(because("open a terminal"))?;
            if let Some((columns, rows)) = size {
                let _ = process::resize_terminal(master.as_fd(), columns, rows);
            }
            let _ = nix::unistd::fchown(&slave, Some(Uid::from_raw(process.user.uid)), None);
            process::take_terminal(slave.as_fd()).map_err(because("take the terminal"))?;
            for number in 0..3 {
                duplicate(&slave, number)?;
            }
            tell(status, MESSAGE_TERMINAL, "", &[master.as_fd()]);
            Ok(Some(slave))
        }
    }
}

fn duplicate(file: &OwnedFd, number: i32) -> Step {
    let result = match number {
        0 => nix::unistd::dup2_stdin(file),
        1 => nix::unistd::dup2_stdout(file),
        _ => nix::unistd::dup2_stderr(file),
    };
    result.map_err(because("duplicate a standard stream"))
}

/// Takes identity and rights (of those that are `available` on this host), then becomes the program.
fn run(spec: &Process, available: capabilities::Set, status: &OwnedFd) -> Step<Infallible> {
    let env = program::environment(spec);
    let cwd = if spec.cwd.is_empty() { Path::new("/") } else { Path::new(&spec.cwd) };
    if !cwd.exists() {
        fs::create_dir_all(cwd).map_err(because(format!("mkdir {}", cwd.display())))?;
    }
    if let Some(profile) = &spec.apparmor {
        apparmor(profile)?;
    }
    if spec.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(because("no_new_privs"))?;
    } else if let Some(filter) = &spec.seccomp {
        seccomp::load(filter).map_err(because("load seccomp filter"))?;
    }

    let sets = spec.capabilities.within(available);
    capabilities::bound(sets.bounding, available).map_err(because("drop bounding capabilities"))?;
    capabilities::keep_over_setuid(true).map_err(because("keep capabilities"))?;
    let groups: Vec<Gid> = spec.user.groups.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).map_err(because("setgroups"))?;
    let (uid, gid) = (Uid::from_raw(spec.user.uid), Gid::from_raw(spec.user.gid));
    nix::unistd::setresgid(gid, gid, gid).map_err(because("setgid"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(because("setuid"))?;
    capabilities::keep_over_setuid(false).map_err(because("keep capabilities"))?;
    // As the user: a directory only the user may enter works, one the user may not is an error.
    nix::unistd::chdir(cwd).map_err(|e| {
        format!("chdir to cwd ({:?}) set in config.json failed: {}", spec.cwd, error_text(&e.into()))
    })?;
    capabilities::take(&sets).map_err(because("take capabilities"))?;

    // After the change of user, which would clear it.
    process::die_with_parent().map_err(because("parent death signal"))?;
    let path = program::find(&spec.args, &env)?;
    if let (true, Some(filter)) = (spec.no_new_privileges, &spec.seccomp) {
        seccomp::load(filter).map_err(because("load seccomp filter"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    debug_assert!(status.as_raw_fd() > 2, "the standard streams are always open");
    process::close_on_exec_from(3).map_err(because("close descriptors"))?;
    Err(program::become_it(&path, &spec.args, &env))
}

fn apparmor(profile: &str) -> Step {
    if !Path::new("/sys/kernel/security/apparmor").exists() && !Path::new("/sys/module/apparmor").exists() {
        return Err(format!("apparmor profile {profile:?}: AppArmor is not enabled on this host"));
    }
    let value = format!("exec {profile}");
    fs::write("/proc/self/attr/apparmor/exec", &value)
        .or_else(|_| fs::write("/proc/self/attr/exec", &value))
        .map_err(because(format!("apply apparmor profile {profile:?}")))
}
