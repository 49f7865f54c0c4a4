//! Compares an image's inputs with the checked-out commit: only an equal image gets the commit's names.

use super::Context;
use std::path::Path;
use xtask_host::tree::committed::{self, Committed, Compared, Memory};
use xtask_host::tree::facts::{self, Parsed, Tree};
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::key::Fingerprint;
use xtask_model::image::plan::{self, InputDifference};
use xtask_model::image::policy::{self, ImageKind};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock;
use xtask_model::spec::reference::Digest;

/// Differences that are shown line by line.
const SHOWN: usize = 20;

/// Compares an image's inputs with the commit's.
///
/// # Errors
/// The image would have files that git ignores and the policy does not allow.
pub(super) fn compare(
    context: &Context<'_>,
    kind: ImageKind,
    parsed: &Parsed,
    fingerprint: &Fingerprint,
) -> Result<Vec<InputDifference>, Fault> {
    let (tree, request) = (context.tree, &context.request);
    let differences = match &tree.commit {
        None => committed::ignored_without_commit(tree, kind, parsed)?,
        Some(commit) => {
            let proof = proof(tree, &commit.id, fingerprint)?;
            let known = tree.about(kind, "commit");
            if std::fs::read_to_string(&known).is_ok_and(|text| text == proof) {
                return Ok(Vec::new());
            }
            let path = tree.about(kind, "commit.json");
            let memory = Memory { path: &path, writes: !request.dry_run };
            let Compared { differences, pointers } =
                committed::compare(tree, kind, parsed, &commit.id, &memory, &|| context.committed(&commit.id))?;
            for path in &pointers {
                terminal::warn(&format!(
                    "`{path}` is a pointer file of Git LFS, and the {kind} gets the pointer instead of its contents; fetch \
                     them: `git lfs pull`"
                ));
            }
            if differences.is_empty() && pointers.is_empty() && !request.dry_run {
                // Equal once is equal for ever: a commit does not change, and the fingerprint covers the rest.
                file::write(&known, &proof)?;
            }
            differences
        }
    };
    refuse_ignored(tree, kind, parsed, &differences)?;
    announce(context, kind, &differences);
    Ok(differences)
}

/// Record of an equal comparison: everything that was compared.
fn proof(tree: &Tree, commit: &str, fingerprint: &Fingerprint) -> Result<String, Fault> {
    let digest = |path: &str| Ok::<_, Fault>(Digest::of(&tree.files.read(Path::new(path))?.unwrap_or_default()));
    let (policy, pins, lock) =
        (digest(policy::FILE)?, digest(lock::images::PATH)?, digest(tree.policy.base.lock.as_str())?);
    Ok(format!("{commit} {fingerprint} {policy} {pins} {lock} {}\n", env!("CARGO_PKG_VERSION")))
}

fn announce(context: &Context<'_>, kind: ImageKind, differences: &[InputDifference]) {
    let Some(commit) = context.tree.commit.as_ref().filter(|_| !differences.is_empty()) else { return };
    let short = commit.short();
    if !context.request.wanted.push {
        return terminal::detail(&format!("the {kind} is not made of commit {short}: {}", plan::listed(differences)));
    }
    terminal::warn(&format!(
        "the {kind} is not made of commit {short}: it gets no tag of a commit, branch or version, and `latest` stays"
    ));
    for difference in differences.iter().take(SHOWN) {
        terminal::step("differs", &format!("`{}`: {}", difference.path, difference.why));
    }
    if differences.len() > SHOWN {
        terminal::step("differs", &format!("{} more", differences.len() - SHOWN));
    }
}

/// Refuses files that git ignores, unless the policy allows them.
fn refuse_ignored(tree: &Tree, kind: ImageKind, parsed: &Parsed, differences: &[InputDifference]) -> Result<(), Fault> {
    let patterns = tree.policy.project.allow_ignored.iter().map(String::as_str);
    let allowed = Ignore::from_patterns(patterns).unwrap_or_default();
    let refused: Vec<&InputDifference> =
        differences.iter().filter(|found| found.ignored && !allowed.ignores(found.path.as_bytes())).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let what = match refused.len() {
        1 => format!("`{}` would be copied into the {kind} image, and git ignores it", first.path),
        count => format!("{count} files or folders that git ignores would be copied into the {kind} image"),
    };
    let mut fault = Fault::usage(what).needed_by(format!("`{}`", parsed.path));
    for found in refused.iter().take(SHOWN) {
        fault = fault.cause(format!("`{}`: {}", found.path, found.why));
    }
    if refused.len() > SHOWN {
        fault = fault.cause(format!("{} more", refused.len() - SHOWN));
    }
    let path = ContextPath::new(first.path.as_bytes());
    let line =
        path.below(&parsed.context).map_or_else(|| first.path.clone(), |below| ContextPath::new(below).to_string());
    Err(fault.hint(format!("exclude it: add a line `{line}` to `{}`", parsed.ignore_file)).hint(format!(
        "or allow it: `allow-ignored = [\"{}\"]` in `[project]` of `{}`; the image then carries no tag of the commit",
        first.path,
        policy::FILE
    )))
}

/// Differences of each image of a tree from the commit that is checked out, for a report. What a build would refuse is a fault.
pub fn survey(tree: &Tree, offline: bool) -> Result<Vec<(ImageKind, Vec<InputDifference>)>, Fault> {
    let mut found = Vec::new();
    for (kind, args) in [(ImageKind::Base, &tree.policy.base.args), (ImageKind::App, &tree.policy.app.args)] {
        let parsed = facts::parse(tree, kind, args)?;
        let differences = match &tree.commit {
            None => committed::ignored_without_commit(tree, kind, &parsed)?,
            Some(commit) => Committed::open(tree, &commit.id, offline)?.compare(tree, kind, &parsed)?.differences,
        };
        refuse_ignored(tree, kind, &parsed, &differences)?;
        found.push((kind, differences));
    }
    Ok(found)
}
