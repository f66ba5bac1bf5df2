//! From arguments and environment to exec: the lookup in PATH, HOME, and the errors in runc's words.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Process;
use super::child::error_text;

/// The environment, with HOME from the container's /etc/passwd if it is not set (as runc).
pub(super) fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        env.push(format!("HOME={}", home(&passwd, process.user.uid)));
    }
    env
}

fn home(passwd: &str, uid: u32) -> &str {
    let uid = uid.to_string();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .and_then(|fields| fields.get(5).copied())
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
}

/// The program's path, by the rules (and with the messages) of Go's exec.LookPath.
pub(super) fn find(args: &[String], env: &[String]) -> Result<PathBuf, String> {
    let Some(name) = args.first().filter(|n| !n.is_empty()) else {
        return Err("no command specified".to_owned());
    };
    let wrong = |reason: String| format!("exec: {name:?}: {reason}");
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match usable(&path) {
            Ok(()) => Ok(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(wrong(format!("stat {name}: {}", error_text(&e))))
            }
            Err(e) => Err(wrong(error_text(&e))),
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|candidate| usable(candidate).is_ok())
        .ok_or_else(|| wrong("executable file not found in $PATH".to_owned()))
}

fn usable(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

/// Replaces the process by the program; comes back only with the reason why not.
pub(super) fn become_it(path: &Path, args: &[String], env: &[String]) -> String {
    fn strings(all: &[String]) -> Result<Vec<CString>, std::ffi::NulError> {
        all.iter().map(|s| CString::new(s.as_str())).collect()
    }
    let converted = CString::new(path.to_string_lossy().as_bytes())
        .and_then(|path| Ok((path, strings(args)?, strings(env)?)));
    match converted {
        Err(_) => format!("exec {}: a NUL byte in the arguments or the environment", path.display()),
        Ok((c_path, args, env)) => {
            let result: Result<Infallible, _> = nix::unistd::execve(&c_path, &args, &env);
            match result {
                Ok(never) => match never {},
                Err(e) => format!("exec {}: {}", path.display(), error_text(&e.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_worded_like_runcs() {
        let env = vec!["PATH=/bin:/usr/bin".to_owned()];
        for (arg, expected) in [
            ("foo-that-is-not", "exec: \"foo-that-is-not\": executable file not found in $PATH"),
            ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
            ("/etc", "exec: \"/etc\": is a directory"),
            ("", "no command specified"),
        ] {
            assert_eq!(find(&[arg.to_owned()], &env).unwrap_err(), expected);
        }
        assert_eq!(find(&["sh".to_owned()], &env).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n";
        for (uid, expected) in [(0, "/root"), (65534, "/nonexistent"), (1000, "/")] {
            assert_eq!(home(passwd, uid), expected);
        }
    }
}
