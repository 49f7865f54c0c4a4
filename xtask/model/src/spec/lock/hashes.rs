//! Hashes that a person wrote in the requirements: a lock pins these files and no others.
//!
//! Pure. uv writes the hashes that the index has, whatever the requirements list.

use super::{Lock, LockedPackage};
use crate::fault::Fault;
use crate::spec::requirements::{Requirement, RequirementSource, Requirements, Version};
use std::collections::{BTreeMap, BTreeSet};

/// The hashes that the requirements and constraints allow a pin, where they list any.
fn allowed(requirements: &Requirements, package: &LockedPackage) -> Option<BTreeSet<String>> {
    let all = requirements.requirements().iter().chain(requirements.constraints());
    let lists = all.filter(|one| !one.hashes.is_empty() && is_about(one, package)).map(|one| &one.hashes);
    lists.fold(None, |found: Option<BTreeSet<String>>, list| {
        Some(found.map_or_else(|| list.clone(), |found| found.intersection(list).cloned().collect()))
    })
}

fn is_about(one: &Requirement, package: &LockedPackage) -> bool {
    let fits = || match (&one.source, package.version.parse::<Version>()) {
        (RequirementSource::Index(specifiers), Ok(version)) => {
            specifiers.iter().all(|specifier| specifier.contains(&version))
        }
        _ => true,
    };
    one.name == package.name && fits()
}

/// The lock's text without the hashes that the requirements do not list.
///
/// # Errors
/// A pin none of whose files has a hash that the requirements list.
pub fn constrained(requirements: &Requirements, text: &str, lock: &Lock) -> Result<String, Fault> {
    let mut kept = BTreeMap::new();
    for package in &lock.packages {
        let Some(allowed) = allowed(requirements, package) else { continue };
        if package.hashes.is_disjoint(&allowed) {
            return Err(conflict(package, &allowed));
        }
        if !package.hashes.is_subset(&allowed) {
            kept.extend(package.hashes.iter().map(|hash| (hash.clone(), allowed.contains(hash))));
        }
    }
    if kept.is_empty() {
        return Ok(text.to_owned());
    }
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let hash = line.trim().trim_end_matches('\\').trim_end().strip_prefix("--hash=");
        if hash.is_none_or(|hash| kept.get(hash).copied().unwrap_or(true)) {
            lines.push(line.to_owned());
        } else if !line.ends_with('\\')
            && let Some(last) = lines.last_mut()
        {
            // The last hash of a pin goes: the one before it ends the pin.
            last.truncate(last.trim_end_matches('\\').trim_end().len());
        }
    }
    Ok(lines.join("\n") + "\n")
}

fn conflict(package: &LockedPackage, allowed: &BTreeSet<String>) -> Fault {
    let (name, version) = (&package.name, &package.version);
    let fault = Fault::usage(format!("no file of {name} {version} has a hash that the requirements list"))
        .cause(format!("listed: {}", some(allowed)))
        .cause(format!("on the index: {}", some(&package.hashes)));
    if allowed.iter().any(|hash| hash.starts_with("sha256:")) {
        return fault.hint(format!("check why the files differ, then correct or remove `--hash` of `{name}`"));
    }
    fault.hint(format!("a lock pins sha256: list one for `{name}`, as `pip hash --algorithm sha256 FILE` prints it"))
}

fn some(hashes: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = hashes.iter().take(3).map(String::as_str).collect();
    let more = hashes.len() - shown.len();
    let list = if shown.is_empty() { "none in common".to_owned() } else { shown.join(", ") };
    if more == 0 { list } else { format!("{list} and {more} more") }
}

pub(super) fn unlisted(requirements: &Requirements, lock: &Lock) -> Vec<String> {
    let any = requirements.requirements().iter().chain(requirements.constraints());
    let names: BTreeSet<&str> = any.filter(|one| !one.hashes.is_empty()).map(|one| one.name.as_str()).collect();
    let about = lock.packages.iter().filter(|package| names.contains(package.name.as_str()));
    let unlisted = about
        .filter(|package| allowed(requirements, package).is_some_and(|allowed| !package.hashes.is_subset(&allowed)));
    unlisted
        .map(|package| {
            format!("{} {} is locked with a hash that the requirements do not list", package.name, package.version)
        })
        .collect()
}
