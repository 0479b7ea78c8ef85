use std::path::Path;

use super::*;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn show(name: &str) -> Imported {
    let imported = import(&[fixture(name)]).unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("=== {name}: {} translated\n{}", imported.translated, imported.toml);
    for note in &imported.notes {
        println!("{note}");
    }
    imported
}

#[test]
fn look() {
    for name in ["apache/ports.conf", "apache/subdomains.conf", "apache/httpd.conf", "nginx/main.conf", "nginx/paths.conf"] {
        show(name);
    }
}
