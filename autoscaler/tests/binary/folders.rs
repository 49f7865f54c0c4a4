//! The folders of the source import each other in one direction only.

use std::fs;
use std::path::{Path, PathBuf};

/// Each folder with those that it may import besides itself. `failure` may be imported by all.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("forecast", &[]),
    ("floor", &["forecast"]),
    ("show", &["floor", "forecast"]),
    ("cluster", &["floor", "forecast", "show"]),
    ("cli", &["cluster", "floor", "forecast", "show"]),
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn wrong_imports(folder: &str, allowed: &[&str], text: &str) -> Vec<String> {
    let imported = text
        .split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect::<String>());
    let folders = imported.filter(|name| ALLOWED.iter().any(|(known, _)| known == name));
    folders.filter(|name| name != folder && !allowed.contains(&name.as_str())).collect()
}

#[test]
fn no_import_points_the_wrong_way_between_folders() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (folder, allowed) in ALLOWED {
        let mut found = vec![source.join(format!("{folder}.rs"))];
        files(&source.join(folder), &mut found);
        for file in found {
            let wrong = wrong_imports(folder, allowed, &fs::read_to_string(&file).unwrap());
            assert!(wrong.is_empty(), "{} imports {wrong:?}", file.display());
        }
    }
}

#[test]
fn a_wrong_import_is_found() {
    let text = "use crate::floor::units;\nuse crate::show::print;";
    assert_eq!(wrong_imports("floor", &["forecast"], text), ["show"]);
    assert!(wrong_imports("show", &["floor"], text).is_empty());
}
