//! The rules of the house that no compiler checks: floors, file headers, file sizes, forbidden words.
//! Reads `layers.toml`, `cargo metadata` and the sources. Writes nothing.
//! Not here: lints (clippy), formatting (rustfmt), drift of generated files (xtask's tests).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A file longer than this wants to be a folder.
const MAX_LINES: usize = 600;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
/// Words that mark unfinished work, spelt in parts so that this file does not hold them.
const FORBIDDEN: &[&str] = &[concat!("todo", "!("), concat!("unimpl", "emented!("), concat!("FIX", "ME")];
/// File and module names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helpers", "misc"];

/// What `layers.toml` says.
#[derive(Debug, Deserialize)]
pub struct Layers {
    /// The floors, lowest first.
    pub floor: Vec<Floor>,
    /// Crates that stand beside the house.
    pub tools: Tools,
}

/// One floor.
#[derive(Debug, Deserialize)]
pub struct Floor {
    /// What it is for.
    pub name: String,
    /// Its crates, which do not know each other.
    pub crates: Vec<String>,
}

/// Crates that may import everything and that nothing which ships imports.
#[derive(Debug, Deserialize)]
pub struct Tools {
    /// Their names.
    pub crates: Vec<String>,
}

/// A dependency between two crates of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who imports.
    pub from: String,
    /// Who is imported.
    pub to: String,
    /// Whether only tests do.
    pub development: bool,
}

/// Every broken rule in the repository at `root`, one sentence each.
pub fn repository(root: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join("layers.toml")).context("cannot read layers.toml")?;
    let layers: Layers = toml::from_str(&text).context("layers.toml is malformed")?;
    let (crates, edges) = workspace(root)?;
    let mut violations = floors(&layers, &crates, &edges);
    let mut sources = Vec::new();
    rust_files(&root.join("crates"), &mut sources)?;
    sources.sort();
    for path in sources {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        violations.extend(source(&name, &text));
    }
    Ok(violations)
}

/// The crates of the workspace and who imports whom, as cargo sees it.
pub fn workspace(root: &Path) -> Result<(Vec<String>, Vec<Edge>)> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        dependencies: Vec<Dependency>,
    }
    #[derive(Deserialize)]
    struct Dependency {
        name: String,
        kind: Option<String>,
        path: Option<String>,
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is malformed")?;
    let crates = metadata.packages.iter().map(|package| package.name.clone()).collect();
    let edges = metadata
        .packages
        .into_iter()
        .flat_map(|package| {
            let from = package.name;
            package.dependencies.into_iter().filter(|dependency| dependency.path.is_some()).map(
                move |dependency| Edge {
                    from: from.clone(),
                    to: dependency.name,
                    development: dependency.kind.as_deref() == Some("dev"),
                },
            )
        })
        .collect();
    Ok((crates, edges))
}

/// What breaks the floors.
pub fn floors(layers: &Layers, crates: &[String], edges: &[Edge]) -> Vec<String> {
    let ranks: HashMap<&str, usize> = layers
        .floor
        .iter()
        .enumerate()
        .flat_map(|(rank, floor)| floor.crates.iter().map(move |name| (name.as_str(), rank)))
        .collect();
    let tool = |name: &str| layers.tools.crates.iter().any(|tool| tool == name);
    let mut violations: Vec<String> = crates
        .iter()
        .filter(|name| !ranks.contains_key(name.as_str()) && !tool(name))
        .map(|name| format!("layers.toml: crate {name} stands on no floor"))
        .collect();
    violations.extend(
        ranks
            .keys()
            .copied()
            .chain(layers.tools.crates.iter().map(String::as_str))
            .filter(|name| !crates.iter().any(|known| known == name))
            .map(|name| format!("layers.toml: there is no crate {name}")),
    );
    for edge in edges.iter().filter(|edge| !edge.development && !tool(&edge.from)) {
        let (Some(from), Some(to)) = (ranks.get(edge.from.as_str()), ranks.get(edge.to.as_str())) else {
            if tool(&edge.to) {
                violations.push(format!("{} imports {}, a tool, outside its tests", edge.from, edge.to));
            }
            continue;
        };
        if to >= from {
            violations.push(format!(
                "{} ({}) imports {} ({}), which is no lower floor",
                edge.from, layers.floor[*from].name, edge.to, layers.floor[*to].name
            ));
        }
    }
    violations.sort();
    violations
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// What is wrong with one source file; `name` is its path from the root.
pub fn source(name: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    // Generated sources answer to their generator.
    if name.contains("/generated/") {
        return violations;
    }
    let stem =
        Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if stem == "mod" {
        violations.push(format!("{name}: write foo.rs beside foo/ instead of mod.rs"));
    }
    if EMPTY_NAMES.contains(&stem.as_str()) {
        violations.push(format!("{name}: a name that says nothing of what is inside"));
    }
    if !text.starts_with("//!") {
        violations.push(format!("{name}: does not open with `//!`"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONG_FILES.iter().any(|(exception, _)| *exception == name) {
        violations.push(format!("{name}: {lines} lines, more than {MAX_LINES}"));
    }
    for (number, line) in text.lines().enumerate() {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            violations.push(format!("{name}:{}: {word}", number + 1));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        toml::from_str(
            "[[floor]]\nname = 'low'\ncrates = ['a', 'b']\n[[floor]]\nname = 'high'\ncrates = ['c']\n\
             [tools]\ncrates = ['t']\n",
        )
        .unwrap()
    }

    #[test]
    fn imports_go_down_only() {
        let crates: Vec<String> = ["a", "b", "c", "t"].map(String::from).to_vec();
        let cases = [
            ("c", "a", false, 0),
            ("a", "c", false, 1),
            ("a", "b", false, 1),
            ("a", "c", true, 0),
            ("c", "t", false, 1),
            ("c", "t", true, 0),
            ("t", "c", false, 0),
        ];
        for (from, to, development, expected) in cases {
            let edge = Edge { from: from.into(), to: to.into(), development };
            let found = floors(&layers(), &crates, std::slice::from_ref(&edge));
            assert_eq!(found.len(), expected, "{edge:?}: {found:?}");
        }
    }

    #[test]
    fn every_crate_has_its_floor() {
        let crates: Vec<String> = ["a", "b", "t", "stray"].map(String::from).to_vec();
        assert_eq!(
            floors(&layers(), &crates, &[]),
            ["layers.toml: crate stray stands on no floor", "layers.toml: there is no crate c"]
        );
    }

    #[test]
    fn sources_are_held_to_the_rules() {
        let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
        let unfinished = format!("//! Page.\nfn f() {{ {}) }}\n", FORBIDDEN[0]);
        let cases: [(&str, &str, &[&str]); 6] = [
            ("crates/a/src/lib.rs", "//! Page.\n", &[]),
            ("crates/a/src/x/mod.rs", "//! Page.\n", &["crates/a/src/x/mod.rs: write foo.rs"]),
            ("crates/a/src/util.rs", "//! Page.\n", &["crates/a/src/util.rs: a name"]),
            ("crates/a/src/x.rs", "fn f() {}\n", &["crates/a/src/x.rs: does not open"]),
            ("crates/a/src/x.rs", &long, &["crates/a/src/x.rs: 601 lines"]),
            ("crates/a/src/x.rs", &unfinished, &["crates/a/src/x.rs:2: "]),
        ];
        for (name, text, expected) in cases {
            let found = source(name, text);
            assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
            for (found, start) in found.iter().zip(expected) {
                assert!(found.starts_with(start), "{found}");
            }
        }
    }
}
