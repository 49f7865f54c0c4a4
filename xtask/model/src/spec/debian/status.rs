//! dpkg's list of packages, `/var/lib/dpkg/status`: the packages that are installed.
//!
//! Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianPackage {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Source package, if its name differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Version of the source package, if it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub provides: BTreeSet<String>,
    /// Names that it depends on, the first of alternatives.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depends: BTreeSet<String>,
}

/// Reads dpkg's list: the packages that are installed.
pub fn installed(status: &str) -> Vec<DebianPackage> {
    status.split("\n\n").filter_map(stanza).collect()
}

fn stanza(text: &str) -> Option<DebianPackage> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::trim).filter(|value| !value.is_empty())
    };
    if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
        return None;
    }
    let names = |list: Option<&str>| -> BTreeSet<String> {
        let first = |one: &str| {
            let name = one.split('|').next()?.trim().split([' ', ':', '(']).next()?;
            (!name.is_empty()).then(|| name.to_owned())
        };
        list.into_iter().flat_map(|list| list.split(',')).filter_map(first).collect()
    };
    let mut depends = names(field("Depends"));
    depends.extend(names(field("Pre-Depends")));
    let source = field("Source").map(|source| source.split_once(" (").unwrap_or((source, "")));
    Some(DebianPackage {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
        source: source.map(|(name, _)| name.to_owned()),
        source_version: source.map(|(_, version)| version.trim_end_matches(')').to_owned()).filter(|v| !v.is_empty()),
        provides: names(field("Provides")),
        depends,
    })
}
