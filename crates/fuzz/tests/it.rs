//! Each target takes what it starts from: so the targets are known to build and to accept what is right, on every run of
//! the tests, for which nobody has time to search for what is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fuzz::{TARGETS, seeds};

#[test]
fn every_target_takes_its_seeds() {
    let seeds = seeds::all().expect("seeds can be made").0;
    for (name, target) in TARGETS {
        let own: Vec<_> = seeds.iter().filter(|(of, ..)| of == name).collect();
        assert!(!own.is_empty(), "{name} has no seed");
        for (_, _, input) in own {
            target(input);
        }
    }
}

#[test]
fn every_file_of_a_target_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/targets");
    let files = fs::read_dir(folder).expect("there are targets");
    let files: BTreeSet<_> = files
        .map(|entry| entry.expect("it can be listed").path())
        .map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, TARGETS.map(|(name, _)| name.to_owned()).into());
}
