//! The command line of the chores; see the library's first page for what there is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask codegen schema --definitions FILE
       cargo xtask codegen protobuf --kubectl FILE
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
        ["codegen", "schema", "--definitions", file] => {
            let text = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            let definitions = serde_json::from_slice(&text).with_context(|| format!("{file} is no JSON"))?;
            let table = xtask::codegen::schema_table(&definitions)?;
            let target = root.join(xtask::codegen::SCHEMA_TABLE);
            std::fs::write(&target, table).with_context(|| format!("cannot write {}", target.display()))
        }
        ["codegen", "protobuf", "--kubectl", file] => {
            let program = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            let target = root.join(xtask::protobuf::NUMBERS);
            let numbers = xtask::protobuf::numbers(&program).with_context(|| format!("cannot use {file}"))?;
            std::fs::write(&target, numbers).with_context(|| format!("cannot write {}", target.display()))
        }
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

/// The workspace: two folders above this crate.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
