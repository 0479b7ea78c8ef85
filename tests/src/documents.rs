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

/// Every function of ours, and every fuzz target.
fn all() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for directory in ["crates", "tests"] {
        functions(&root().join(directory), &mut all);
    }
    let targets = fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap();
    all.extend(targets.map(|target| target.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()));
    all
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What stands between backquotes in the last column of each row of the tables behind a heading: tests and fuzz targets, unless
/// it is a file or a command.
fn named(document: &str, heading: &str) -> Vec<Vec<String>> {
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).unwrap_or_else(|| panic!("no {heading:?}"));
    let lines: Vec<&str> = section.lines().collect();
    // A table's first line is its head, and the second the line below that.
    let is_row = |i: &usize| {
        lines[*i].starts_with('|')
            && *i >= 2
            && lines[*i - 1].starts_with('|')
            && !lines[*i].starts_with("|-")
            && !lines[*i].starts_with("| -")
    };
    let cells = (0..lines.len()).filter(is_row).filter_map(|i| lines[i].trim_end_matches([' ', '|']).rsplit('|').next());
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).filter(|word| !word.contains([' ', '.', '/'])).map(str::to_owned).collect();
    cells.map(names).collect()
}

/// Holds the tables behind these headings to the tests; each has at least so many names.
fn check(document: &str, headings: &[(&str, usize)], every_row_has_one: bool) {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let all = all();
    for (heading, at_least) in headings {
        let rows = named(&text, heading);
        let nameless = rows.iter().position(Vec::is_empty).filter(|_| every_row_has_one);
        assert_eq!(nameless, None, "{document}: {heading}: a row without a test");
        let names: Vec<String> = rows.into_iter().flatten().collect();
        assert!(names.len() >= *at_least, "{document}: {heading}: only {} names are found", names.len());
        for name in names {
            // Long names are cut.
            let is_there = match name.strip_suffix('…') {
                Some(start) => all.range(start.to_owned()..).next().is_some_and(|found| found.starts_with(start)),
                None => all.contains(&name),
            };
            assert!(is_there, "{document}: {heading}: there is no test {name}");
        }
    }
}

#[test]
fn every_test_that_the_document_on_security_names_is_there() {
    check("docs/security.md", &[("Who is the enemy", 15), ("What went wrong elsewhere", 40)], false);
}

#[test]
fn every_row_of_the_document_on_conformance_names_tests_that_are_there() {
    let headings = [
        ("Pull", 8),
        ("Push", 20),
        ("Content discovery", 10),
        ("Content management", 5),
        ("Everywhere", 5),
        ("Docker V1", 25),
        ("Clients", 15),
    ];
    check("docs/conformance.md", &headings, true);
}
