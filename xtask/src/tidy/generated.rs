//! Generated files and parts of files are up to date.
//!
//! Reads no file itself.

use super::{Files, Violation};
use crate::reference;

/// Every generated file that is out of date.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let stale = |file: &reference::Generated| files.text(file.path) != Some(&file.text);
    reference::files(&|path| files.text(path))
        .iter()
        .filter(|file| stale(file))
        .map(|file| Violation::new(file.path, 0, "the file is out of date", "run `cargo xtask reference`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_or_missing_generated_file_is_found() {
        let reference = "# Reference\n<!-- generated: exit codes -->\n\n| 1 | edited |\n\n<!-- end -->\n";
        let found = check(&Files::made_up(&[(reference::PATH, reference)]));
        let paths: Vec<&str> = found.iter().map(|violation| violation.path.as_str()).collect();
        assert_eq!(paths, [reference::PATH, reference::SCHEMA]);
        assert!(check(&Files::made_up(&[("README.md", "")])).is_empty());
    }
}
