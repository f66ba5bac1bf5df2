//! Counts which of upstream's conformance tests have a test of ours of the same name.
//! A test says so in its documentation: `/// Conformance: <name>`; one that is not run does not count. Reads the sources and a list of names, one a line;
//! after a tab the list may tell more.
//! Not here: what the tests check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

/// What stands before a name in a test's documentation.
const MARK: &str = "/// Conformance: ";

/// What is covered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For each special interest group: how many names have a test, and how many there are.
    pub groups: BTreeMap<String, (usize, usize)>,
    /// Names without a test.
    pub missing: Vec<String>,
    /// Names in our tests that are not in the list.
    pub unknown: Vec<String>,
}

/// Compares the tests below `root` with the list `names`.
pub fn report(root: &Path, names: &str) -> Result<Report> {
    let mut ours = BTreeSet::new();
    for name in ["apiserver", "controllers", "ironclad", "kubelet", "scheduler"] {
        collect(&root.join("crates").join(name).join("tests"), &mut ours)?;
    }
    Ok(compare(&ours, names))
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.extend(marked(&text));
        }
    }
    Ok(())
}

/// The names that stand over tests which are run.
fn marked(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let tested = |after: usize| {
        let own = lines[after..].iter().take_while(|line| line.starts_with("///") || line.starts_with("#["));
        let attributes: Vec<_> = own.filter(|line| line.starts_with("#[")).collect();
        let is_test = |line: &&&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        attributes.iter().any(|line| is_test(&line))
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    };
    let names = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix(MARK)?)));
    names.filter(|(at, _)| tested(*at)).map(|(_, name)| name.to_owned()).collect()
}

fn compare(ours: &BTreeSet<String>, names: &str) -> Report {
    let mut report = Report::default();
    let mut known = BTreeSet::new();
    for line in names.lines() {
        let name = line.split('\t').next().unwrap_or_default().trim();
        let Some(group) =
            name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(group, _)| group)
        else {
            continue;
        };
        known.insert(name.to_owned());
        let counts = report.groups.entry(group.to_owned()).or_default();
        counts.1 += 1;
        if ours.contains(name) {
            counts.0 += 1;
        } else {
            report.missing.push(name.to_owned());
        }
    }
    report.unknown = ours.difference(&known).cloned().collect();
    report
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.missing {
            writeln!(f, "missing: {name}")?;
        }
        for name in &self.unknown {
            writeln!(f, "unknown: {name}")?;
        }
        for (group, (covered, all)) in &self.groups {
            writeln!(f, "{group}: {covered} of {all}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_where_it_stands_over_a_test_that_is_run() {
        let mark = |name: &str, rest: &str| format!("{MARK}{name}\n{rest}\n");
        let source = [
            mark("one", "/// More of it.\n#[test]\nfn one() {}"),
            mark("two", "#[tokio::test(flavor = \"multi_thread\")]\nasync fn two() {}"),
            mark("ignored", "#[test]\n#[ignore = \"slow\"]\nfn ignored() {}"),
            mark("no test", "fn helper() {}"),
            mark("alone", "\n#[test]\nfn another() {}"),
        ];
        assert_eq!(marked(&source.concat()), ["one", "two"]);
    }

    #[test]
    fn names_are_counted_by_group() {
        let ours = ["[sig-a] one", "[sig-a] mine"].map(str::to_owned).into();
        let report = compare(&ours, "# a list\n[sig-a] one\tfile.go\n[sig-a] two\n[sig-b] three\n");
        assert_eq!(report.groups, [("sig-a".to_owned(), (1, 2)), ("sig-b".to_owned(), (0, 1))].into());
        assert_eq!(report.missing, ["[sig-a] two", "[sig-b] three"]);
        assert_eq!(report.unknown, ["[sig-a] mine"]);
    }
}
