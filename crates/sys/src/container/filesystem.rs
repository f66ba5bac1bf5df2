//! What a container sees as its files: root, mounts, devices, masked and read-only paths.
//!
//! Bind sources are taken as detached mounts *before* the change of root and attached *after* it. So
//! every path of the container is resolved inside the container's own root, and a symbolic link in an
//! image cannot point a mount at the host.
//!
//! Upstream: runc libcontainer/rootfs_linux.go; the OCI runtime specification, config-linux (default
//! devices and links).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::child::error_text;
use super::{Device, Mount, Root, Spec};
use crate::cgroup::Layout;
use crate::mount::{self, Detached, Flags, Propagation};

type Step<T = ()> = Result<T, String>;

fn io_error(what: impl std::fmt::Display) -> impl Fn(io::Error) -> String {
    move |e| format!("{what}: {}", error_text(&e))
}

fn mount_error(e: mount::Error) -> String {
    format!("{e}: {}", error_text(&e.source))
}

const NO_SUID_DEV_EXEC: Flags = Flags::MS_NOSUID.union(Flags::MS_NODEV).union(Flags::MS_NOEXEC);

/// Builds the root and changes to it. The caller is in a mount namespace of its own.
pub(super) fn prepare(spec: &Spec, layout: &Layout) -> Step {
    let binds = spec.mounts.iter().filter_map(|m| take(m).transpose()).collect::<Step<Vec<_>>>()?;
    // From here on nothing we mount shows up on the host.
    mount::propagation(Path::new("/"), Propagation::Slave).map_err(mount_error)?;
    root(&spec.root)?;
    mount::pivot(&spec.root.staging).map_err(mount_error)?;
    let mut binds = binds.into_iter();
    for mount in &spec.mounts {
        if let Mount::Bind { target, propagation, .. } = mount {
            let detached = binds.next().expect("one was taken for each bind mount");
            attach(&detached, target, *propagation)?;
        } else {
            special(mount, layout)?;
        }
    }
    // What is done from here on believes /proc.
    let proc = fs::File::open("/proc").map_err(io_error("open /proc"))?;
    if !mount::is_proc(&proc).map_err(io_error("read /proc"))? {
        return Err("\"/proc\" cannot be mounted because it is not of type proc".to_owned());
    }
    for device in &spec.devices {
        node(device)?;
    }
    Ok(())
}

/// Files of /proc that may be covered: lxcfs gives containers their own.
const COVERED: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Refuses to mount `source` on or below /proc, whatever way `target` led to `place`: with false files there a
/// container would tell us what its rights are. As runc: the process filesystem itself may be mounted on /proc.
fn process_files(source: &Detached, place: &fs::File, target: &Path) -> Step {
    let failed = io_error(target.display());
    let plain: PathBuf = target.components().collect();
    let inside = mount::is_proc(place).map_err(&failed)?;
    let replaces = plain == Path::new("/proc") && mount::is_proc(source).map_err(&failed)?;
    if !inside || replaces || COVERED.iter().any(|file| plain == Path::new(file)) {
        return Ok(());
    }
    Err(format!("{target:?} cannot be mounted because it is inside /proc"))
}

/// The overlay of image layers and the writable layer.
fn root(root: &Root) -> Step {
    // Relative lower directories: the options must fit one page.
    nix::unistd::chdir(&root.layers_in).map_err(|e| format!("chdir {}: {e}", root.layers_in.display()))?;
    // volatile: the writable layer dies with the container, so nothing needs to be synced for it.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        root.layers.join(":"),
        root.upper.display(),
        root.work.display()
    );
    let flags = if root.nodev { Flags::MS_NODEV } else { Flags::empty() };
    mount::mount("overlay", "overlay", &root.staging, flags, &options).map_err(mount_error)
}

/// Opens a bind mount's source as a detached mount with its attributes; `None` for other mounts.
fn take(mount: &Mount) -> Step<Option<Detached>> {
    let Mount::Bind { source, readonly, recursive_readonly, .. } = mount else { return Ok(None) };
    let detached = Detached::copy(source, true).map_err(mount_error)?;
    if *readonly || *recursive_readonly {
        detached
            .set(libc::MOUNT_ATTR_RDONLY, 0, Propagation::Private, *recursive_readonly)
            .map_err(io_error(format!("make {} read-only", source.display())))?;
    }
    Ok(Some(detached))
}

fn attach(detached: &Detached, target: &Path, propagation: Propagation) -> Step {
    let directory = detached.is_dir().map_err(io_error(target.display()))?;
    point(target, directory)?;
    // Looked up once: what is checked is what is mounted on, whoever changes links meanwhile.
    let place = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(target)
        .map_err(io_error(target.display()))?;
    process_files(detached, &place, target)?;
    detached.attach_on(&place, target).map_err(mount_error)?;
    detached
        .set(0, 0, propagation, true)
        .map_err(io_error(format!("set the propagation of {}", target.display())))
}

/// Makes the directory or the file that something is mounted on.
fn point(target: &Path, directory: bool) -> Step {
    if target.exists() {
        return Ok(());
    }
    let made = if directory {
        fs::create_dir_all(target)
    } else {
        target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(target, ""))
    };
    made.map_err(io_error(format!("create mountpoint for {} mount", target.display())))
}

fn special(mount: &Mount, layout: &Layout) -> Step {
    let at = |kind: &str, target: &Path, flags: Flags, data: &str| {
        point(target, true)?;
        mount::mount(kind, kind, target, flags, data).map_err(mount_error)
    };
    let readonly = |yes: bool| if yes { Flags::MS_RDONLY } else { Flags::empty() };
    match mount {
        Mount::Bind { .. } => Ok(()),
        Mount::Proc => at("proc", Path::new("/proc"), NO_SUID_DEV_EXEC, ""),
        Mount::Sysfs { readonly: ro } => at("sysfs", Path::new("/sys"), NO_SUID_DEV_EXEC | readonly(*ro), ""),
        Mount::Mqueue { target } => at("mqueue", target, NO_SUID_DEV_EXEC, ""),
        Mount::Tmpfs { target, options } => at("tmpfs", target, NO_SUID_DEV_EXEC, options),
        Mount::Cgroup { readonly: ro } => cgroups(layout, readonly(*ro)),
        Mount::Dev => dev(),
    }
}

fn cgroups(layout: &Layout, readonly: Flags) -> Step {
    let top = Path::new("/sys/fs/cgroup");
    match layout {
        Layout::V2(_) => {
            mount::mount("cgroup2", "cgroup", top, NO_SUID_DEV_EXEC | readonly, "").map_err(mount_error)
        }
        Layout::V1(all) => {
            mount::mount("tmpfs", "tmpfs", top, NO_SUID_DEV_EXEC, "mode=755").map_err(mount_error)?;
            for (names, host) in all {
                let Some(name) = host.file_name() else { continue };
                let target = top.join(name);
                fs::create_dir(&target).map_err(io_error(target.display()))?;
                let options = names.join(",");
                mount::mount("cgroup", "cgroup", &target, NO_SUID_DEV_EXEC | readonly, &options)
                    .map_err(mount_error)?;
                if names.len() > 1 {
                    for alias in names.iter().filter(|n| !n.contains('=')) {
                        let _ = symlink(name, top.join(alias));
                    }
                }
            }
            mount::remount(top, NO_SUID_DEV_EXEC | readonly).map_err(mount_error)
        }
    }
}

fn dev() -> Step {
    let dev = Path::new("/dev");
    point(dev, true)?;
    mount::mount("tmpfs", "tmpfs", dev, Flags::MS_NOSUID | Flags::MS_STRICTATIME, "mode=755,size=65536k")
        .map_err(mount_error)?;
    let pts = dev.join("pts");
    fs::create_dir(&pts).map_err(io_error("create /dev/pts"))?;
    // Group 5 is tty, in Debian and elsewhere.
    mount::mount(
        "devpts",
        "devpts",
        &pts,
        Flags::MS_NOSUID | Flags::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )
    .map_err(mount_error)?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let device = Device { path: dev.join(name), block: false, major, minor, mode: 0o666, uid: 0, gid: 0 };
        node(&device)?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/kcore", "/dev/core"),
    ] {
        symlink(target, link).map_err(io_error(link))?;
    }
    Ok(())
}

fn node(device: &Device) -> Step {
    let path = &device.path;
    let fail = |e: io::Error| format!("create device {}: {}", path.display(), error_text(&e));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    let kind = if device.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    match mknod(path, kind, Mode::empty(), makedev(device.major.into(), device.minor.into())) {
        Ok(()) => {}
        // A privileged container asks for all of the host's devices, the standard ones among them.
        Err(nix::Error::EEXIST) => return Ok(()),
        Err(e) => return Err(fail(e.into())),
    }
    // Two steps, because the umask would take bits from mknod's.
    fs::set_permissions(path, fs::Permissions::from_mode(device.mode)).map_err(fail)?;
    std::os::unix::fs::chown(path, Some(device.uid), Some(device.gid)).map_err(fail)
}

/// Shows the container's terminal as /dev/console.
pub(super) fn console(terminal: &OwnedFd) -> Step {
    let target = Path::new("/dev/console");
    point(target, false)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", terminal.as_fd().as_raw_fd()));
    mount::bind(&source, target).map_err(mount_error)
}

/// Takes away what the container must not see or write: last, when every mount is in place.
pub(super) fn restrict(spec: &Spec) -> Step {
    for path in &spec.readonly {
        // Another bind mount of the same thing can be read-only while the rest of it is not.
        match Detached::copy(path, true) {
            Ok(copy) => {
                copy.set(libc::MOUNT_ATTR_RDONLY, 0, Propagation::Private, true)
                    .map_err(io_error(format!("make {} read-only", path.display())))?;
                copy.attach(path).map_err(mount_error)?;
            }
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(mount_error(e)),
        }
    }
    let mut null = None;
    for path in &spec.masked {
        let Ok(meta) = fs::metadata(path) else { continue };
        if meta.is_dir() {
            mount::mount("tmpfs", "tmpfs", path, Flags::MS_RDONLY, "").map_err(mount_error)?;
            continue;
        }
        let null = match &null {
            Some(null) => null,
            None => null.insert(null_device()?),
        };
        Detached::copy_of(null).and_then(|copy| copy.attach(path)).map_err(mount_error)?;
    }
    if spec.root.readonly {
        let nodev = if spec.root.nodev { Flags::MS_NODEV } else { Flags::empty() };
        mount::remount(Path::new("/"), Flags::MS_BIND | Flags::MS_RDONLY | nodev).map_err(mount_error)?;
    }
    Ok(())
}

/// The container's /dev/null, once it was seen to be that device: a volume at /dev is shared with others, who may put
/// a link in its place.
fn null_device() -> Step<fs::File> {
    let null = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open("/dev/null")
        .map_err(io_error("open /dev/null"))?;
    let meta = null.metadata().map_err(io_error("read /dev/null"))?;
    if !meta.file_type().is_char_device() || meta.rdev() != makedev(1, 3) {
        return Err("cannot mask paths: /dev/null is not the null device".to_owned());
    }
    Ok(null)
}
