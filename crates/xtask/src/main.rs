//! The command line of the chores; see the library's first page for what there is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask codegen [--check] schema --definitions FILE
       cargo xtask codegen [--check] descriptions --definitions FILE
       cargo xtask codegen [--check] protobuf --kubectl FILE
       cargo xtask conformance --names FILE
       cargo xtask score --testdata FOLDER
       cargo xtask verify";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let root = root();
    match arguments {
        ["codegen", "--check", what, from, file] => codegen(&root, what, from, file, true),
        ["codegen", what, from, file] => codegen(&root, what, from, file, false),
        ["conformance", "--names", file] => {
            let names = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            let report = xtask::conformance::report(&root, &names)?;
            eprint!("{report}");
            if !report.unknown.is_empty() {
                bail!("{} tests have names that upstream does not have", report.unknown.len());
            }
            Ok(())
        }
        ["score", "--testdata", folder] => {
            let report = xtask::score::report(&root, Path::new(folder))?;
            eprint!("{report}");
            if !report.is_clean() {
                bail!("what is read or answered differs from upstream");
            }
            Ok(())
        }
        ["verify"] => {
            let violations = xtask::verify::repository(&root)?;
            for violation in &violations {
                eprintln!("{violation}");
            }
            if !violations.is_empty() {
                bail!("{} rules broken", violations.len());
            }
            Ok(())
        }
        _ => bail!(USAGE),
    }
}

/// Writes a generated file, or compares it with what is there.
fn codegen(root: &Path, what: &str, from: &str, file: &str, check: bool) -> Result<()> {
    let source = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let definitions = || serde_json::from_slice(&source).with_context(|| format!("{file} is no JSON"));
    let (target, made) = match (what, from) {
        ("schema", "--definitions") => {
            (xtask::codegen::SCHEMA_TABLE, xtask::codegen::schema_table(&definitions()?)?.into_bytes())
        }
        ("descriptions", "--definitions") => {
            (xtask::codegen::DESCRIPTIONS, xtask::codegen::descriptions(&definitions()?)?)
        }
        ("protobuf", "--kubectl") => {
            let numbers = xtask::protobuf::numbers(&source).with_context(|| format!("cannot use {file}"))?;
            (xtask::protobuf::NUMBERS, numbers.into_bytes())
        }
        _ => bail!(USAGE),
    };
    let target = root.join(target);
    if !check {
        return std::fs::write(&target, made).with_context(|| format!("cannot write {}", target.display()));
    }
    let known = std::fs::read(&target).with_context(|| format!("cannot read {}", target.display()))?;
    if known != made {
        bail!("{} is not what is made from {file}", target.display());
    }
    Ok(())
}

/// The workspace: two folders above this crate.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
