//! The repository's invariants: rules over the text of its files, each with the edit that repairs it.
//!
//! Everything is read first ([`Files::read`]); the rules are pure, so that each can be shown a made-up tree that breaks it.

mod cycles;
mod edges;
mod files;
mod generated;
mod images;
mod links;
mod manifests;
mod messages;
mod names;
mod portable;
mod prose;
mod tested;
mod text;

pub use files::Files;

use std::fmt;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, from the root.
    pub path: String,
    /// 1-based; 0 is the file as a whole.
    pub line: usize,
    /// One lowercase phrase.
    pub what: String,
    /// The edit or command that repairs it.
    pub repair: String,
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>, repair: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), repair: repair.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, repair } = self;
        match line {
            0 => write!(f, "{path}: {what}; {repair}"),
            line => write!(f, "{path}:{line}: {what}; {repair}"),
        }
    }
}

/// Every violation of every rule, by place.
pub fn check(files: &Files) -> Vec<Violation> {
    let rules: [fn(&Files) -> Vec<Violation>; 12] = [
        text::check,
        prose::check,
        edges::check,
        cycles::check,
        portable::check,
        manifests::check,
        names::check,
        images::check,
        links::check,
        messages::check,
        generated::check,
        tested::check,
    ];
    let mut found: Vec<Violation> = std::thread::scope(|scope| {
        let running: Vec<_> = rules.iter().map(|rule| scope.spawn(|| rule(files))).collect();
        let found = running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        found.flatten().collect()
    });
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn this_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap();
        let files = Files::read(root).unwrap();
        assert!(files.text("xtask/src/tidy.rs").is_some(), "the files were not found");
        let found: String = check(&files).iter().map(|violation| format!("{violation}\n")).collect();
        assert!(found.is_empty(), "{found}");
    }
}
