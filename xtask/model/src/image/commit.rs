//! The commit that is checked out, and how two commits are related.

use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub id: String,
    /// Committer time in seconds since 1970.
    pub time: i64,
    /// The commits before it, as far as this clone has them.
    pub parents: Vec<String>,
    /// The branch, if one is checked out, or if CI names it.
    pub branch: Option<String>,
    /// Versions of `vX.Y.Z` tags on this commit, without the `v`.
    pub versions: Vec<String>,
}

impl Commit {
    /// Twelve hex digits: enough to stay unique, and stable however large the repository grows.
    pub fn short(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }

    /// The commit's time as RFC 3339 in UTC.
    pub fn created(&self) -> String {
        Timestamp::from_second(self.time).map(|time| time.to_string()).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// The first is an ancestor of the second, or the same.
    Ancestor,
    NotAncestor,
    Unknown,
}
