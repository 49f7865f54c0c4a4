//! Whether an image may carry the names of the commit that is checked out: its inputs are compared with the commit's, once for
//! each image.

use super::Session;
use super::planning::Image;
use std::path::Path;
use xtask_host::docker::Build;
use xtask_host::tree::committed::{self, Committed, Compared, Memory};
use xtask_host::tree::facts::{self, Parsed, Tree};
use xtask_host::tree::git::Git;
use xtask_host::tree::{binary, context};
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, Entry};
use xtask_model::image::key::Fingerprint;
use xtask_model::image::plan::{self, Difference};
use xtask_model::image::policy::{self, ImageKind};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock;
use xtask_model::spec::reference::Digest;

/// Differences that are shown line by line.
const SHOWN: usize = 20;

impl Session<'_> {
    /// Compares an image's inputs with the commit's, and remembers the differences for its tags and labels.
    ///
    /// # Errors
    /// The image would have files that git ignores and the policy does not allow.
    pub(super) fn compare(&self, kind: ImageKind, parsed: &Parsed, fingerprint: &Fingerprint) -> Result<(), Fault> {
        let differences = match &self.tree.commit {
            None => committed::ignored_without_commit(&Git::at(&self.tree.root), parsed)?,
            Some(commit) => {
                let proof = self.proof(&commit.id, fingerprint)?;
                let known = self.tree.images().join(format!("{kind}.commit"));
                if std::fs::read_to_string(&known).is_ok_and(|text| text == proof) {
                    return Ok(());
                }
                let path = self.tree.images().join(format!("{kind}.commit.json"));
                let memory = Memory { path: &path, writes: !self.flags.dry_run };
                let Compared { differences, pointers } =
                    committed::compare(&self.tree, kind, parsed, &commit.id, &memory, self.global.offline)?;
                for path in &pointers {
                    terminal::warn(&format!(
                        "`{path}` is a pointer file of Git LFS, and the {kind} gets the pointer instead of its contents; fetch \
                         them: `git lfs pull`"
                    ));
                }
                if differences.is_empty() && pointers.is_empty() && !self.flags.dry_run {
                    // Equal once is equal for ever: a commit does not change, and the fingerprint covers the rest.
                    file::write(&known, &proof)?;
                }
                differences
            }
        };
        refuse_ignored(&self.tree, kind, parsed, &differences)?;
        // Where the first root cannot be built on, an image is planned again on another.
        let before = self.differences.borrow_mut().insert(kind, differences.clone());
        if before.as_ref() != Some(&differences) {
            self.announce(kind, &differences);
        }
        Ok(())
    }

    /// What an equal comparison is remembered by: everything that it looked at.
    fn proof(&self, commit: &str, fingerprint: &Fingerprint) -> Result<String, Fault> {
        let digest =
            |path: &str| Ok::<_, Fault>(Digest::of(&self.tree.files.read(Path::new(path))?.unwrap_or_default()));
        let (policy, pins, lock) =
            (digest(policy::FILE)?, digest(lock::images::PATH)?, digest(self.tree.policy.base.lock.as_str())?);
        Ok(format!("{commit} {fingerprint} {policy} {pins} {lock} {}\n", env!("CARGO_PKG_VERSION")))
    }

    fn announce(&self, kind: ImageKind, differences: &[Difference]) {
        let Some(commit) = self.tree.commit.as_ref().filter(|_| !differences.is_empty()) else { return };
        let short = commit.short();
        if !self.wish.push {
            return terminal::detail(&format!(
                "the {kind} is not made of commit {short}: {}",
                plan::listed(differences)
            ));
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

    /// Differences of an image from the commit: those of its own inputs, and of the base that it is built on.
    pub(super) fn differences(&self, kind: ImageKind) -> Vec<Difference> {
        let known = self.differences.borrow();
        let own = |kind: ImageKind| known.get(&kind).into_iter().flatten().cloned();
        let mut found: Vec<Difference> = match kind {
            ImageKind::App => own(ImageKind::Base).chain(own(kind)).collect(),
            ImageKind::Base | ImageKind::Enhanced => own(kind).collect(),
        };
        found.sort();
        found.dedup();
        found
    }

    /// Brings the files that an image reads into a folder of their own, where docker finds nothing that the image's key does not
    /// cover. The folder stays locked while the value lasts.
    pub(super) fn stage(&self, image: &Image, call: &Build) -> Result<context::Staged, Fault> {
        let name = format!("{}-{}", image.plan.kind, call.platform.dashed());
        let folder = self.tree.root.join("target/docker").join(name);
        let staged = self.tree.policy.app.binary.as_ref().filter(|_| image.plan.kind == ImageKind::App);
        let made = staged.map(|binary| binary::staged(&call.platform, binary).as_str().into());
        let made: Vec<ContextPath> = made.map(|path: String| ContextPath::new(path)).into_iter().collect();
        let entries: Vec<Entry> = image.parsed.files.iter().chain(&image.parsed.meant).cloned().collect();
        context::stage(&self.tree.root, &entries, &made, &folder)
    }
}

/// Refuses files that git ignores, unless the policy allows them.
fn refuse_ignored(tree: &Tree, kind: ImageKind, parsed: &Parsed, differences: &[Difference]) -> Result<(), Fault> {
    let patterns = tree.policy.project.allow_ignored.iter().map(String::as_str);
    let allowed = Ignore::from_patterns(patterns).unwrap_or_default();
    let refused: Vec<&Difference> =
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
    Err(fault.hint(format!("leave it out: add a line `{}` to `{}`", first.path, parsed.ignore_file)).hint(format!(
        "or allow it: `allow-ignored = [\"{}\"]` in `[project]` of `{}`; the image then carries no tag of the commit",
        first.path,
        policy::FILE
    )))
}

/// Differences of each image of a tree from the commit that is checked out, for a report. What a build would refuse is a fault.
pub fn survey(tree: &Tree, offline: bool) -> Result<Vec<(ImageKind, Vec<Difference>)>, Fault> {
    let mut found = Vec::new();
    for (kind, args) in [(ImageKind::Base, &tree.policy.base.args), (ImageKind::App, &tree.policy.app.args)] {
        let parsed = facts::parse(tree, kind, args)?;
        let differences = match &tree.commit {
            None => committed::ignored_without_commit(&Git::at(&tree.root), &parsed)?,
            Some(commit) => Committed::open(&tree.root, &commit.id, offline)?.differences(tree, kind, &parsed)?,
        };
        refuse_ignored(tree, kind, &parsed, &differences)?;
        found.push((kind, differences));
    }
    Ok(found)
}
