//! The repository as it stands keeps the rules of the house, and its generated files are current.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_repository_keeps_its_rules() {
    let violations = xtask::verify::repository(&root()).unwrap();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// The definitions are 1.8 MB and no part of the repository: the test compares when
/// `IRONCLAD_SCHEMA_DEFINITIONS` names the file, and otherwise only that the table is whole.
#[test]
fn the_schema_table_has_not_drifted() {
    let committed = std::fs::read_to_string(root().join(xtask::codegen::SCHEMA_TABLE)).unwrap();
    match std::env::var_os("IRONCLAD_SCHEMA_DEFINITIONS") {
        Some(file) => {
            let definitions = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            assert!(
                xtask::codegen::schema_table(&definitions).unwrap() == committed,
                "run `cargo xtask codegen schema --definitions FILE`"
            );
        }
        None => {
            let definitions = committed.lines().filter(|line| line.starts_with("= ")).count();
            assert_eq!(definitions, 862, "definitions of v1.37 in the table");
        }
    }
}
