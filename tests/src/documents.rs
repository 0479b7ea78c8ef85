//! What the documents say of the tests is held against the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The functions of all sources below a directory.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            functions(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let names = text.lines().filter_map(|line| line.trim().trim_start_matches("async ").strip_prefix("fn ")?.split('(').next());
            found.extend(names.map(str::to_owned));
        }
    }
}

/// What stands between backquotes in the last column of the tables behind a heading: tests and fuzz targets, unless it is a
/// file or a command.
fn named(document: &str, heading: &str) -> Vec<String> {
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).unwrap_or_else(|| panic!("no {heading:?}"));
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|word| !word.contains([' ', '.', '/'])).map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_document_on_security_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut all = BTreeSet::new();
    for directory in ["crates", "tests"] {
        functions(&root.join(directory), &mut all);
    }
    let targets = fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap();
    all.extend(targets.map(|target| target.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()));
    for (heading, at_least) in [("Who is the enemy", 15), ("What went wrong elsewhere", 40)] {
        let names = named(&document, heading);
        assert!(names.len() >= at_least, "{heading}: only {} names are found", names.len());
        for name in names {
            // Long names are cut.
            let is_there = match name.strip_suffix('…') {
                Some(start) => all.range(start.to_owned()..).next().is_some_and(|found| found.starts_with(start)),
                None => all.contains(&name),
            };
            assert!(is_there, "{heading}: there is no test {name}");
        }
    }
}
