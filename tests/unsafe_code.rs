//! The table of unsafe code is that of the sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Blocks, functions and implementations.
fn unsafe_parts(text: &str) -> usize {
    text.match_indices("unsafe ")
        .filter(|(at, word)| {
            let before = text[..*at].chars().next_back();
            let after = &text[at + word.len()..];
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && ["{", "fn", "impl", "extern"].iter().any(|kind| after.starts_with(kind))
        })
        .count()
}

#[test]
fn the_table_has_every_file_with_its_count() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = root.join("kernels/src");
    let table = std::fs::read_to_string(root.join("docs/unsafe.md")).unwrap();
    let listed: BTreeMap<String, usize> = table
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((cells.get(1)?.to_string(), cells.get(2)?.parse().ok()?))
        })
        .collect();
    let mut files = Vec::new();
    sources(&kernels, &mut files);
    let counted = files.iter().map(|path| {
        let name = path.strip_prefix(&kernels).unwrap().to_str().unwrap().replace('\\', "/");
        (name, unsafe_parts(&std::fs::read_to_string(path).unwrap()))
    });
    let counted: BTreeMap<String, usize> = counted.filter(|(_, count)| *count > 0).collect();
    assert_eq!(listed, counted);
}
