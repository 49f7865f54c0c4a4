//! How an input of an image differs from the commit.

use serde::Serialize;

/// An input of an image that is not as the commit has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Its path below the root.
    pub path: String,
    /// The difference, in a few words.
    pub why: String,
    /// Whether it is a file or folder that git ignores.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

impl Difference {
    pub(super) fn new(path: impl ToString, why: impl Into<String>) -> Self {
        Self { path: path.to_string(), why: why.into(), ignored: false }
    }
}

/// Differences in one line, the first of many.
pub fn listed(differences: &[Difference]) -> String {
    const SHOWN: usize = 5;
    let mut parts: Vec<String> =
        differences.iter().take(SHOWN).map(|found| format!("`{}` ({})", found.path, found.why)).collect();
    if differences.len() > SHOWN {
        parts.push(format!("{} more", differences.len() - SHOWN));
    }
    parts.join(", ")
}
