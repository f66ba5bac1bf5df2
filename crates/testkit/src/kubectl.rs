//! The real `kubectl`, in two versions.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::tools;

/// A version of kubectl. `tests/tools.sh` installs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubectl {
    /// v1.32: an older client, which speaks the older protocols.
    V1_32,
    /// v1.37: the version of this server.
    V1_37,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it succeeded.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// Where the program is.
    pub fn path(self) -> PathBuf {
        let name = match self {
            Kubectl::V1_32 => "kubectl-1.32",
            Kubectl::V1_37 => "kubectl-1.37",
        };
        tools::path(name)
    }
}

/// Runs a command to its end, with `input` on its standard input.
pub fn run(mut command: Command, input: &str) -> Output {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut pipe = child.stdin.take().expect("it was piped");
    let input = input.as_bytes().to_vec();
    // A thread of its own: a large input must not wait for a reader of a large output.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().expect("the program can be waited for");
    writer.join().expect("writing does not panic");
    Output {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
