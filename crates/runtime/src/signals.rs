//! Which signal asks a container to end. Pure.
//!
//! Upstream: containerd internal/cri/server/container_stop.go; moby/sys/signal (names).

use cri::v1;
use nix::libc;

/// The pod's choice, else the image's, else SIGTERM.
pub(crate) fn of_container(config: &v1::ContainerConfig, image: &str) -> i32 {
    match config.stop_signal() {
        v1::Signal::RuntimeDefault => number(image).unwrap_or(libc::SIGTERM),
        chosen => number(chosen.as_str_name()).unwrap_or(libc::SIGTERM),
    }
}

/// In CRI's words.
pub(crate) fn to_cri(signal: i32) -> v1::Signal {
    (1..=65)
        .filter_map(|n| v1::Signal::try_from(n).ok())
        .find(|s| {
            number(s.as_str_name()) == Some(signal)
                && !matches!(s, v1::Signal::Sigcld | v1::Signal::Sigio | v1::Signal::Sigiot)
        })
        .unwrap_or(v1::Signal::Sigterm)
}

/// The number of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or CRI's `SIGRTMINPLUS3`.
fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_uppercase().replace("PLUS", "+").replace("MINUS", "-");
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest).map(|n| libc::SIGRTMIN() + n);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest).map(|n| libc::SIGRTMAX() + n);
    }
    Some(match name {
        "ABRT" | "IOT" => libc::SIGABRT,
        "ALRM" => libc::SIGALRM,
        "BUS" => libc::SIGBUS,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "FPE" => libc::SIGFPE,
        "HUP" => libc::SIGHUP,
        "ILL" => libc::SIGILL,
        "INT" => libc::SIGINT,
        "IO" | "POLL" => libc::SIGIO,
        "KILL" => libc::SIGKILL,
        "PIPE" => libc::SIGPIPE,
        "PROF" => libc::SIGPROF,
        "PWR" => libc::SIGPWR,
        "QUIT" => libc::SIGQUIT,
        "SEGV" => libc::SIGSEGV,
        "STKFLT" => libc::SIGSTKFLT,
        "STOP" => libc::SIGSTOP,
        "SYS" => libc::SIGSYS,
        "TERM" => libc::SIGTERM,
        "TRAP" => libc::SIGTRAP,
        "TSTP" => libc::SIGTSTP,
        "TTIN" => libc::SIGTTIN,
        "TTOU" => libc::SIGTTOU,
        "URG" => libc::SIGURG,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "VTALRM" => libc::SIGVTALRM,
        "WINCH" => libc::SIGWINCH,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        _ => return None,
    })
}

fn offset(text: &str) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.parse().ok().filter(|n: &i32| n.abs() <= 15) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_chosen_by_pod_then_image() {
        for (pod, image, expected) in [
            (v1::Signal::RuntimeDefault, "", libc::SIGTERM),
            (v1::Signal::RuntimeDefault, "SIGQUIT", libc::SIGQUIT),
            (v1::Signal::RuntimeDefault, "3", libc::SIGQUIT),
            (v1::Signal::RuntimeDefault, "rtmin+3", libc::SIGRTMIN() + 3),
            (v1::Signal::RuntimeDefault, "nonsense", libc::SIGTERM),
            (v1::Signal::Sigusr1, "SIGQUIT", libc::SIGUSR1),
            (v1::Signal::Sigrtmaxminus2, "", libc::SIGRTMAX() - 2),
        ] {
            let mut config = v1::ContainerConfig::default();
            config.set_stop_signal(pod);
            assert_eq!(of_container(&config, image), expected, "{pod:?} {image:?}");
        }
    }

    #[test]
    fn numbers_become_names() {
        for (number, name) in [
            (15, v1::Signal::Sigterm),
            (9, v1::Signal::Sigkill),
            (libc::SIGRTMIN() + 3, v1::Signal::Sigrtminplus3),
        ] {
            assert_eq!(to_cri(number), name);
        }
    }
}
