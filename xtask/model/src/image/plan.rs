//! The work and its reasons: [`plan`], a pure and total function of policy, request and facts.
//!
//! What a plan says is what execution does; `--dry-run` prints it and stops.

use crate::fault::Fault;
use crate::image::commit::Commit;
use crate::image::key::{BinaryKey, EditKind, FALLBACK, Fingerprint, foremost};
use crate::image::policy::{ImageKind, Policy};
use crate::image::presence::{Local, Presence, Published};
use crate::image::rebase;
use crate::image::tags::{self, BranchTag, CommitTags};
use crate::spec::lock;
use crate::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use serde::Serialize;
use std::collections::BTreeMap;

/// Images to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Base,
    /// The base where it has to be built, then the app.
    App,
    /// The app on a base that has to exist.
    Fast,
    /// The app from scratch.
    Enhanced,
}

/// The part of a request that decides.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub target: Target,
    /// Publish to the registry.
    pub push: bool,
    pub platforms: Vec<Platform>,
    /// Build what exists.
    pub force: bool,
    /// Leave `latest`.
    pub no_latest: bool,
    /// Leave the branch's tag.
    pub no_branch_tag: bool,
    /// Put no tag but the fingerprint's: the commit's tests have not passed yet.
    pub untested: bool,
    /// A build outside CI, of a repository whose policy leaves `latest` and the tags of commits to CI.
    pub left_to_ci: bool,
}

/// Everything that was seen before anything is decided.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The commit that is checked out, or why there is none.
    pub commit: Result<Commit, &'static str>,
    /// Name of the root that the keys are computed on.
    pub root: String,
    /// The root has to be built, and without it the fingerprints are unknown.
    pub unbuilt_root: bool,
    /// `images.lock` pins the base.
    pub pinned: bool,
    pub base: Option<ImageFacts>,
    /// The app on the base, or the app from scratch.
    pub app: Option<ImageFacts>,
}

/// Everything that was seen of one image.
#[derive(Clone, Debug)]
pub struct ImageFacts {
    pub kind: ImageKind,
    pub repository: Repository,
    pub fingerprint: Fingerprint,
    /// The tag made of the fingerprint.
    pub tag: Tag,
    /// The key as JSON.
    pub key: String,
    pub presence: Presence,
    /// The base that a present app was built on, by platform.
    pub built_on: BTreeMap<Platform, Digest>,
    /// Image that `latest` names, for images that are published.
    pub latest: Option<Published>,
    /// Differences from the key of an earlier image.
    pub changes: Vec<String>,
    /// Name of that earlier image, as the end of a sentence: "since …".
    pub since: &'static str,
    /// Part of the app that was edited since then.
    pub edited: Option<EditKind>,
    /// Inputs that are not as the commit has them, those of the base included.
    pub differences: Vec<InputDifference>,
    /// Recipe of the program in it.
    pub binary: Option<BinaryKey>,
    /// Image that compiles the program of an image from scratch.
    pub rust_image: Option<Reference>,
}

impl ImageFacts {
    /// An image of this key, of which nothing else was asked.
    pub fn new(kind: ImageKind, repository: Repository, fingerprint: Fingerprint, tag: Tag, key: String) -> Self {
        Self {
            kind,
            repository,
            fingerprint,
            tag,
            key,
            presence: Presence::NotAsked,
            built_on: BTreeMap::new(),
            latest: None,
            changes: Vec::new(),
            since: "",
            edited: None,
            differences: Vec::new(),
            binary: None,
            rust_image: None,
        }
    }

    /// The name by fingerprint.
    pub fn reference(&self) -> Reference {
        self.repository.tag(&self.tag)
    }

    /// The commit that the published image was built from.
    pub fn revision(&self) -> Option<&str> {
        match &self.presence {
            Presence::Registry(published) => published.revision(),
            Presence::NotAsked | Presence::Unknown(_) | Presence::Absent | Presence::Local(_) => None,
        }
    }

    /// The image on this machine.
    pub fn local(&self) -> Option<&Local> {
        match &self.presence {
            Presence::Local(local) => Some(local),
            Presence::NotAsked | Presence::Unknown(_) | Presence::Absent | Presence::Registry(_) => None,
        }
    }
}

/// The whole plan.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub base: Option<ImagePlan>,
    pub app: Option<ImagePlan>,
}

impl Plan {
    /// The images in the order in which they are built.
    pub fn images(&self) -> impl Iterator<Item = &ImagePlan> {
        self.base.iter().chain(&self.app)
    }

    /// Returns true if an image is built on the root.
    pub fn builds_on_root(&self) -> bool {
        self.images().any(|image| image.kind != ImageKind::App && image.builds())
    }

    /// Refuses a plan that builds the base for `build-fast`.
    pub fn check_base(&self, policy: &Policy, wanted: &Wanted, facts: &Facts) -> Result<(), Fault> {
        match (wanted.target, self.base.as_ref().map(|base| &base.decision), &facts.base) {
            (Target::Fast, Some(Decision::Build { reasons, .. }), Some(base)) => {
                let dockerfile = policy.app.dockerfile.as_str();
                if facts.unbuilt_root {
                    return Err(Fault::usage("the base image of this tree has not been built")
                        .needed_by(format!("`{dockerfile}`"))
                        .cause(format!("its root `{}` is not on this machine", facts.root))
                        .hint("build both: `cargo xtask build`"));
                }
                Err(missing_base(base, wanted.push, dockerfile, reasons))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a plan that builds something: `--reuse-only` names what was tested.
    pub fn check_reuse(&self) -> Result<(), Fault> {
        for image in self.images() {
            if let Decision::Build { reasons, .. } = &image.decision {
                let what = format!("{} `{}` would have to be built", image.kind, image.shown());
                return Err(Fault::drift(what)
                    .needed_by("`--reuse-only`")
                    .cause(reasons.join("; "))
                    .hint("build and test it first: `cargo xtask build --push` without `--reuse-only`"));
            }
        }
        Ok(())
    }
}

/// One image's part of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct ImagePlan {
    pub kind: ImageKind,
    pub repository: Repository,
    /// Its key's hash.
    pub fingerprint: Fingerprint,
    /// The tag made of it.
    pub tag: Tag,
    pub decision: Decision,
    /// The result takes the place of an image of the same fingerprint.
    pub replaces: bool,
    /// Tags in addition to the fingerprint's, in the order in which they are shown.
    pub tags: Vec<Tag>,
    /// The one of these that is the branch's, and moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Tag>,
    /// CommitTags of the commit that get no tag or another one, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// `latest`, or why it stays.
    pub latest: Latest,
}

/// Use of an image that exists, or its build.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Decision {
    /// It exists.
    Reuse {
        /// The whole image's digest.
        digest: Digest,
        /// The manifest of each platform.
        platforms: BTreeMap<Platform, Digest>,
        place: Place,
    },
    /// It is built.
    Build {
        platforms: Vec<Platform>,
        /// Reasons to build it, one sentence each.
        reasons: Vec<String>,
    },
}

/// Tag of an image whose root is built first: its fingerprint depends on that root.
pub fn unknown_tag() -> Tag {
    Tag::from_name("unknown").expect("a word is a tag")
}

impl ImagePlan {
    pub fn builds(&self) -> bool {
        matches!(self.decision, Decision::Build { .. })
    }

    /// Name of the image for people: with its tag, where that is known.
    pub fn shown(&self) -> String {
        if self.tag == unknown_tag() {
            return self.repository.to_string();
        }
        self.repository.tag(&self.tag).to_string()
    }
}

/// Location of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    Registry,
    /// On this machine.
    Local,
}

/// Decision over `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "move", content = "because")]
pub enum Latest {
    Moves,
    /// It stays, for this reason.
    Stays(String),
}

/// An input of an image that is not as the commit has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InputDifference {
    /// Its path below the root.
    pub path: String,
    /// The difference, in a few words.
    pub why: String,
    /// It is a file or folder that git ignores.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
    /// True if it is an input of the program that cargo compiles.
    #[serde(skip)]
    pub program: bool,
}

impl InputDifference {
    /// A difference of something that git does not ignore.
    pub fn new(path: impl ToString, why: impl Into<String>) -> Self {
        Self { path: path.to_string(), why: why.into(), ignored: false, program: false }
    }
}

/// Sorts differences by path and merges those that say the same.
pub fn sort(differences: &mut Vec<InputDifference>) {
    differences.sort();
    differences.dedup_by(|later, first| {
        let same = (&later.path, &later.why, later.ignored) == (&first.path, &first.why, first.ignored);
        first.program |= same && later.program;
        same
    });
}

/// Differences in one line, the first of many. A reason that several in a row have is written once.
pub fn listed(differences: &[InputDifference]) -> String {
    const SHOWN: usize = 5;
    let first = &differences[..SHOWN.min(differences.len())];
    let alike = first.chunk_by(|one, next| one.why == next.why).map(|alike| {
        let paths: Vec<String> = alike.iter().map(|found| format!("`{}`", found.path)).collect();
        format!("{} ({})", paths.join(", "), alike[0].why)
    });
    let mut parts: Vec<String> = alike.collect();
    if differences.len() > SHOWN {
        parts.push(format!("{} more", differences.len() - SHOWN));
    }
    parts.join(", ")
}

/// Reason for a tag that a person's call leaves to CI.
pub const LEFT_TO_CI: &str = "only CI moves it, after the tests (`[project] shared-tags = \"ci\"`)";

/// True if a tag is one that people rely on and that moves: `latest`, or the default branch's.
pub fn is_shared(tag: &Tag, default_branch: &str) -> bool {
    let of_branch = match tags::branch_tag(default_branch, default_branch) {
        BranchTag::Same(tag) | BranchTag::Other(tag, _) => Some(tag),
        BranchTag::None(_) => None,
    };
    *tag == Tag::latest() || of_branch.as_ref() == Some(tag)
}

/// Facts that decide over `latest`.
pub struct LatestFacts<'a> {
    /// The commit that is checked out, or why there is none.
    pub commit: Result<&'a Commit, &'a str>,
    /// The image's inputs that are not the commit's.
    pub differences: &'a [InputDifference],
    /// Platforms of the fingerprint's tag after the build.
    pub platforms: &'a [Platform],
}

/// Decides over `latest`, but for what it names now: [`tags::stays`]. It moves only for an image made of a commit of the default
/// branch, when the image is complete. In the local store, which nobody shares, it always moves.
pub fn latest(policy: &Policy, wanted: &Wanted, facts: &LatestFacts<'_>) -> Latest {
    let stays = |why: String| Latest::Stays(why);
    if wanted.no_latest {
        return stays("`--no-latest`".to_owned());
    }
    if !wanted.push {
        return Latest::Moves;
    }
    if wanted.untested {
        return stays("`--untested`: the tests of this commit have not passed yet".to_owned());
    }
    if wanted.left_to_ci {
        return stays(LEFT_TO_CI.to_owned());
    }
    if !policy.project.moving_tags.latest {
        return stays("the policy's `moving-tags` leaves it out".to_owned());
    }
    let commit = match facts.commit {
        Ok(commit) => commit,
        Err(why) => return stays(why.to_owned()),
    };
    let default = &policy.project.default_branch;
    match &commit.branch {
        Some(branch) if branch == default => {}
        Some(branch) => return stays(format!("`{branch}` is not the default branch `{default}`")),
        None => return stays("no branch is checked out".to_owned()),
    }
    if !facts.differences.is_empty() {
        let short = commit.short();
        return stays(format!("the image is not made of commit {short}: {}", listed(facts.differences)));
    }
    let missing: Vec<String> =
        policy.project.platforms.iter().filter(|p| !facts.platforms.contains(p)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return stays(format!("the image lacks {}", missing.join(", ")));
    }
    Latest::Moves
}

/// The tags of an app in addition to its fingerprint's: short commit, branch, versions. An image with an input that is not the
/// commit's must not carry the commit's names.
pub fn app_tags(
    commit: Option<&Commit>,
    differences: &[InputDifference],
    policy: &Policy,
    wanted: &Wanted,
) -> CommitTags {
    let Some(commit) = commit.filter(|_| differences.is_empty() && !(wanted.push && wanted.untested)) else {
        return CommitTags::default();
    };
    let mut names = tags::of_commit(commit, &policy.project.default_branch);
    if wanted.push && wanted.left_to_ci {
        let default = commit.branch.as_ref() == Some(&policy.project.default_branch);
        names.branch = names.branch.filter(|_| !default);
        names.all.retain(|tag| names.branch.as_ref() == Some(tag));
    }
    if wanted.no_branch_tag || (wanted.push && !policy.project.moving_tags.branch) {
        names.all.retain(|tag| names.branch.as_ref() != Some(tag));
        names.branch = None;
    }
    names
}

/// Decides what happens to every image. `plan`, `explain`, `build` and its `--dry-run` call this function and no other.
pub fn plan(policy: &Policy, wanted: &Wanted, facts: &Facts) -> Plan {
    // `build-fast` uses the base as it is, and no flag builds a pinned one.
    let force_base = wanted.force && wanted.target != Target::Fast && !facts.pinned;
    let image = |image: &ImageFacts, decision| image_plan(policy, wanted, facts, image, decision);
    let base = facts.base.as_ref().map(|base| image(base, decide(wanted, facts, force_base, base)));
    let app = facts.app.as_ref().map(|app| {
        let decision = decide(wanted, facts, wanted.force, app);
        match base.as_ref().and_then(|base| outdated(app, &decision, &base.decision)) {
            None => image(app, decision),
            Some(reason) => {
                let decision = Decision::Build { platforms: wanted.platforms.clone(), reasons: vec![reason] };
                ImagePlan { replaces: true, ..image(app, decision) }
            }
        }
    });
    Plan { base, app }
}

/// Decides whether an image is built, by its own facts.
fn decide(wanted: &Wanted, facts: &Facts, force: bool, image: &ImageFacts) -> Decision {
    if facts.unbuilt_root {
        let below = if image.kind == ImageKind::App { "base" } else { "root" };
        let reason = format!("its {below} is built first, and its fingerprint is known after that");
        return Decision::Build { platforms: wanted.platforms.clone(), reasons: vec![reason] };
    }
    let build = |platforms: &[Platform], reason: String| {
        let changes = image.changes.iter().map(|change| format!("{change} {}", image.since));
        Decision::Build { platforms: platforms.to_vec(), reasons: std::iter::once(reason).chain(changes).collect() }
    };
    let reference = image.reference();
    let absent = || format!("`{reference}` is not {}", if wanted.push { "in the registry" } else { "on this machine" });
    match &image.presence {
        _ if force => build(&wanted.platforms, "`--force`".to_owned()),
        Presence::Absent => build(&wanted.platforms, absent()),
        Presence::NotAsked => build(&wanted.platforms, format!("no registry was asked for `{reference}`")),
        Presence::Unknown(cause) => {
            let unknown = format!("the registry did not answer for `{reference}` ({cause})");
            build(&wanted.platforms, unknown)
        }
        Presence::Registry(published) => {
            let missing = published.missing(&wanted.platforms);
            if missing.is_empty() {
                return reuse(published);
            }
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let unlisted = || format!("{} is not in the registry's index", names.join(", "));
            build(&missing, published.lost_reason(&missing).unwrap_or_else(unlisted))
        }
        Presence::Local(Local { digest, .. }) => Decision::Reuse {
            digest: *digest,
            platforms: wanted.platforms.iter().map(|platform| (platform.clone(), *digest)).collect(),
            place: Place::Local,
        },
    }
}

fn reuse(published: &Published) -> Decision {
    Decision::Reuse {
        digest: published.digest,
        platforms: published.platforms.iter().map(|(platform, found)| (platform.clone(), found.digest)).collect(),
        place: Place::Registry,
    }
}

/// Reason why an existing app is built again. Equal keys name equal bases by fingerprint, and the base may have been built since.
fn outdated(app: &ImageFacts, decision: &Decision, base: &Decision) -> Option<String> {
    let Decision::Reuse { platforms, .. } = decision else { return None };
    let Decision::Reuse { platforms: bases, .. } = base else { return Some("its base is built".to_owned()) };
    let mut expected = platforms.keys().filter_map(|platform| Some((platform, bases.get(platform)?)));
    let (_, base) = expected.find(|(platform, base)| app.built_on.get(*platform) != Some(*base))?;
    Some(format!("it was built on a different base (expected {base})"))
}

/// The decision with the names that the image gets.
fn image_plan(policy: &Policy, wanted: &Wanted, facts: &Facts, image: &ImageFacts, decision: Decision) -> ImagePlan {
    let commit = facts.commit.as_ref();
    let mut names = match image.kind {
        ImageKind::App => app_tags(commit.ok(), &image.differences, policy, wanted),
        ImageKind::Base | ImageKind::Enhanced => CommitTags::default(),
    };
    let mut platforms = match &image.presence {
        Presence::Registry(published) => published.platforms.keys().cloned().collect(),
        Presence::NotAsked | Presence::Unknown(_) | Presence::Absent | Presence::Local(_) => Vec::new(),
    };
    if let Decision::Build { platforms: built, .. } = &decision {
        platforms.extend(built.iter().cloned());
    }
    let mut latest = match image.kind {
        ImageKind::Enhanced => Latest::Stays("an image from scratch is the fallback".to_owned()),
        ImageKind::Base if facts.pinned => Latest::Stays("the base is pinned in `images.lock`".to_owned()),
        ImageKind::Base | ImageKind::App => {
            let commit = commit.map_err(|why| *why);
            let facts = LatestFacts { commit, differences: &image.differences, platforms: &platforms };
            self::latest(policy, wanted, &facts)
        }
    };
    let publishes = policy.root.fallback_publishes;
    if wanted.push && facts.root.starts_with(FALLBACK) && !publishes.allows(&image.repository) {
        if latest == Latest::Moves || !names.all.is_empty() {
            names.notes.push(format!(
                "`{}` is on the fallback root `{}`: it gets no tag but its fingerprint's, and `latest` stays \
                 (`[root] fallback-publishes` is `{}`)",
                image.reference(),
                facts.root,
                publishes.as_str()
            ));
        }
        (names.all, names.branch) = (Vec::new(), None);
        if latest == Latest::Moves {
            latest = Latest::Stays(format!("it is on the fallback root `{}`", facts.root));
        }
    }
    if image.latest.as_ref().is_some_and(|latest| rebase::is_of(latest, &image.fingerprint)) {
        names.notes.push(format!(
            "`{}` is this {}, rebased on a newer root; this build is on the one that `{}` pins (newer: `cargo xtask lock`)",
            image.repository.tag(&Tag::latest()),
            image.kind,
            lock::images::PATH
        ));
        if latest == Latest::Moves {
            latest = Latest::Stays("it names this image, rebased on a newer root".to_owned());
        }
    }
    ImagePlan {
        kind: image.kind,
        repository: image.repository.clone(),
        fingerprint: image.fingerprint,
        tag: image.tag.clone(),
        decision,
        replaces: wanted.force,
        tags: names.all,
        branch: names.branch,
        notes: names.notes,
        latest,
    }
}

/// The error of `build-fast` where the base would have to be built.
fn missing_base(base: &ImageFacts, push: bool, dockerfile: &str, reasons: &[String]) -> Fault {
    let reference = base.reference();
    let flag = if push { " --push" } else { "" };
    let hint = format!("build it: `cargo xtask build-base{flag}`, or let `cargo xtask build{flag}` do both");
    let fault = |what: String| Fault::usage(what).needed_by(format!("`{dockerfile}`"));
    if matches!(&base.presence, Presence::Registry(found) if !found.lost.is_empty()) {
        let what = format!("base image `{reference}` is not whole in the registry");
        return fault(what).cause(&reasons[0]).hint(hint.replace("build it:", "build it again:"));
    }
    let place = if push { "is not in the registry" } else { "is neither on this machine nor in the registry" };
    let fault = fault(format!("base image `{reference}` {place}"));
    let fault = match (&base.presence, base.changes.as_slice()) {
        (Presence::Unknown(cause), _) => fault.cause(format!("the registry did not answer: {cause}")),
        (_, []) => fault.cause("it was never built, or it was removed: no input is known to have changed"),
        (_, changes) => fault.cause(format!("changed {}: {}", base.since, foremost(changes).join("; "))),
    };
    fault.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::policy::FallbackPublishes;
    use expect_test::expect;
    use proptest::prelude::*;

    fn policy() -> Policy {
        crate::image::policy::parse(include_str!("../../../../images.toml"), &|_| true).unwrap()
    }

    fn wanted() -> Wanted {
        Wanted {
            target: Target::App,
            push: true,
            platforms: vec!["linux/amd64".parse().unwrap()],
            force: false,
            no_latest: false,
            no_branch_tag: false,
            untested: false,
            left_to_ci: false,
        }
    }

    fn commit() -> Commit {
        Commit {
            id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            time: 0,
            parents: Vec::new(),
            branch: Some("main".to_owned()),
            versions: vec!["1.2.3".to_owned()],
        }
    }

    fn difference() -> InputDifference {
        InputDifference {
            path: "templates/prod.env".to_owned(),
            why: "not in the commit".to_owned(),
            ignored: false,
            program: false,
        }
    }

    #[track_caller]
    fn stays(edit: impl FnOnce(&mut Commit, &mut Wanted), why: &str) {
        let (mut commit, mut wanted) = (commit(), wanted());
        edit(&mut commit, &mut wanted);
        let platforms = wanted.platforms.clone();
        let differences = if why.contains("is not made of") { vec![difference()] } else { Vec::new() };
        let facts = LatestFacts { commit: Ok(&commit), differences: &differences, platforms: &platforms };
        let expected = if why.is_empty() { Latest::Moves } else { Latest::Stays(why.to_owned()) };
        assert_eq!(latest(&policy(), &wanted, &facts), expected);
    }

    #[test]
    fn latest_moves_only_from_the_default_branch() {
        stays(|_, _| {}, "");
        stays(|_, wanted| wanted.no_latest = true, "`--no-latest`");
        stays(|_, _| {}, "the image is not made of commit 0123456789ab: `templates/prod.env` (not in the commit)");
        stays(|commit, _| commit.branch = None, "no branch is checked out");
        stays(|commit, _| commit.branch = Some("x".to_owned()), "`x` is not the default branch `main`");
    }

    #[test]
    fn a_reason_of_several_files_is_written_once() {
        let of = |why: &[&str]| {
            let found: Vec<InputDifference> =
                why.iter().enumerate().map(|(number, why)| InputDifference::new(number, *why)).collect();
            listed(&found)
        };
        assert_eq!(of(&["new"]), "`0` (new)");
        assert_eq!(of(&["new", "new", "edited"]), "`0`, `1` (new), `2` (edited)");
        assert_eq!(of(&["new", "edited", "new"]), "`0` (new), `1` (edited), `2` (new)");
        assert_eq!(of(&["new"; 7]), "`0`, `1`, `2`, `3`, `4` (new), 2 more");
    }

    #[test]
    fn for_immutable_tags_the_policy_and_a_flag_leave_out_what_moves() {
        let text = include_str!("../../../../images.toml");
        let fixed = |list: &str| {
            let text = text.replace("[project]\n", &format!("[project]\nmoving-tags = {list}\n"));
            crate::image::policy::parse(&text, &|_| true)
        };
        let texts = |policy: &Policy, wanted: &Wanted| {
            app_tags(Some(&commit()), &[], policy, wanted).all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let latest_of = |policy: &Policy| {
            let wanted = wanted();
            latest(
                policy,
                &wanted,
                &LatestFacts { commit: Ok(&commit()), differences: &[], platforms: &wanted.platforms },
            )
        };
        let none = fixed("[]").unwrap();
        assert_eq!(texts(&none, &wanted()), ["0123456789ab", "1.2.3"]);
        assert_eq!(latest_of(&none), Latest::Stays("the policy's `moving-tags` leaves it out".to_owned()));
        // Nobody shares the local store.
        assert_eq!(texts(&none, &Wanted { push: false, ..wanted() }), ["0123456789ab", "main", "1.2.3"]);
        let only_latest = fixed("[\"latest\"]").unwrap();
        assert_eq!(texts(&only_latest, &wanted()), ["0123456789ab", "1.2.3"]);
        assert_eq!(latest_of(&only_latest), Latest::Moves);
        assert_eq!(texts(&policy(), &Wanted { no_branch_tag: true, ..wanted() }), ["0123456789ab", "1.2.3"]);
        assert!(fixed("[\"branches\"]").unwrap_err().to_string().contains("not `branch` or `latest`"));
    }

    #[test]
    fn tags_that_claim_tests_wait_for_them() {
        let texts = |commit: &Commit, wanted: &Wanted| {
            app_tags(Some(commit), &[], &policy(), wanted).all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let untested = Wanted { untested: true, ..wanted() };
        assert_eq!(texts(&commit(), &untested), [""; 0]);
        stays(|_, wanted| wanted.untested = true, "`--untested`: the tests of this commit have not passed yet");
        // The tag of a commit says that CI has tested it; a person's own branch is theirs.
        let desk = Wanted { left_to_ci: true, ..wanted() };
        assert_eq!(texts(&commit(), &desk), [""; 0]);
        assert_eq!(texts(&Commit { branch: Some("mine".to_owned()), ..commit() }, &desk), ["mine"]);
        let why = "only CI moves it, after the tests (`[project] shared-tags = \"ci\"`)";
        stays(|_, wanted| wanted.left_to_ci = true, why);
        // Nobody shares the local store.
        assert_eq!(texts(&commit(), &Wanted { push: false, ..desk }), ["0123456789ab", "main", "1.2.3"]);
    }

    #[test]
    fn fault_2_a_single_platform_image_is_not_taken_for_the_complete_one() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        let amd: Platform = "linux/amd64".parse().unwrap();
        let descriptor = crate::spec::oci::Descriptor::new("m", Digest::of(b"m"), 1);
        let published: Published = Published::for_tests(BTreeMap::from([(amd.clone(), descriptor)]));
        let presence = Presence::Registry(Box::new(published));
        let both = Wanted { platforms: vec![amd.clone(), arm.clone()], ..wanted() };
        let base = ImageFacts { presence, ..image(ImageKind::Base) };
        match decide(&both, &facts(base.clone(), None), false, &base) {
            Decision::Build { platforms, reasons } => {
                assert_eq!(platforms, std::slice::from_ref(&arm));
                assert_eq!(reasons, ["linux/arm64 is not in the registry's index"]);
            }
            reuse @ Decision::Reuse { .. } => panic!("{reuse:?}"),
        }
        // Nor does `latest` move to it.
        let mut policy = policy();
        policy.project.platforms = vec![amd.clone(), arm];
        let commit = commit();
        let facts = LatestFacts { commit: Ok(&commit), differences: &[], platforms: &[amd] };
        assert_eq!(latest(&policy, &wanted(), &facts), Latest::Stays("the image lacks linux/arm64".to_owned()));
    }

    #[test]
    fn tags_follow_the_commit_only_when_the_inputs_are_the_commits() {
        let names = |commit: Option<&Commit>, differences: &[InputDifference]| {
            app_tags(commit, differences, &policy(), &wanted())
        };
        let texts = |commit: &Commit| names(Some(commit), &[]).all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&commit()), ["0123456789ab", "main", "1.2.3"]);
        let queue = Some("gh-readonly-queue/main/pr-7-0123456789abcdef0123456789abcdef01234567".to_owned());
        assert_eq!(texts(&Commit { branch: queue, versions: Vec::new(), ..commit() }), ["0123456789ab"]);
        assert!(names(Some(&commit()), &[difference()]).all.is_empty());
        assert!(names(None, &[]).all.is_empty());
    }

    fn image(kind: ImageKind) -> ImageFacts {
        let fingerprint: Fingerprint = "3f9c02d1a7b4".repeat(6)[..64].parse().unwrap();
        let repository = format!("ghcr.io/acme/autoscaler-{kind}").parse().unwrap();
        let facts = ImageFacts::new(kind, repository, fingerprint, fingerprint.tag(12), String::new());
        ImageFacts { presence: Presence::Absent, since: "since `latest`", ..facts }
    }

    fn facts(base: ImageFacts, app: Option<ImageFacts>) -> Facts {
        let root = "python:3.12".to_owned();
        Facts { commit: Ok(commit()), root, unbuilt_root: false, pinned: false, base: Some(base), app }
    }

    #[test]
    fn a_missing_base_names_the_cause_and_the_next_command() {
        let changes = vec!["scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)".to_owned()];
        let facts = facts(ImageFacts { changes, ..image(ImageKind::Base) }, None);
        let wanted = Wanted { target: Target::Fast, ..wanted() };
        let fault = plan(&policy(), &wanted, &facts).check_base(&policy(), &wanted, &facts).unwrap_err();
        expect![[r#"
            base image `ghcr.io/acme/autoscaler-base:3f9c02d1a7b4` is not in the registry
              needed by: `dockerfiles/Dockerfile.fast`
              cause: changed since `latest`: scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)

            hint: build it: `cargo xtask build-base --push`, or let `cargo xtask build --push` do both"#]]
        .assert_eq(&fault.to_string());
    }

    #[test]
    fn an_image_on_the_fallback_root_is_known_by_its_fingerprint_alone() {
        let mut policy = policy();
        policy.root.fallback_publishes = FallbackPublishes::Never;
        let facts =
            Facts { root: format!("{FALLBACK}trixie"), ..facts(image(ImageKind::Base), Some(image(ImageKind::App))) };
        for image in plan(&policy, &wanted(), &facts).images() {
            assert_eq!((image.tags.len(), &image.branch, image.notes.len()), (0, &None, 1), "{image:?}");
            assert!(matches!(&image.latest, Latest::Stays(why) if why.contains("fallback root")), "{image:?}");
        }
    }

    #[test]
    fn a_build_on_the_old_root_says_that_latest_is_rebased() {
        let rebased_from = |fingerprint: &Fingerprint| {
            let mut latest = Published::for_tests(BTreeMap::new());
            latest.notes.insert(rebase::FROM_FINGERPRINT.to_owned(), fingerprint.to_string());
            Some(latest)
        };
        let base = image(ImageKind::Base);
        let planned = |latest: Option<Published>| {
            let base = ImageFacts { latest, ..base.clone() };
            plan(&policy(), &wanted(), &facts(base, None)).base.unwrap()
        };
        let old = planned(rebased_from(&base.fingerprint));
        assert!(matches!(&old.latest, Latest::Stays(why) if why.contains("rebased on a newer root")), "{old:?}");
        assert!(old.notes[0].contains("`cargo xtask lock`"), "{old:?}");
        let other = planned(rebased_from(&"0".repeat(64).parse().unwrap()));
        assert_eq!((other.latest, other.notes.len()), (Latest::Moves, 0));
    }

    fn platforms() -> [Platform; 2] {
        ["linux/amd64", "linux/arm64"].map(|name| name.parse().unwrap())
    }

    /// Presences of an image, as bits: platforms in the index, platforms of which a part is lost.
    fn presence(kind: usize, listed: u8, lost: u8) -> Presence {
        let has = |bits: u8, index: usize| bits & (1 << index) != 0;
        let descriptor = || crate::spec::oci::Descriptor::new("m", Digest::of(b"m"), 1);
        match kind {
            0 => Presence::NotAsked,
            1 => Presence::Unknown("timed out".to_owned()),
            2 => Presence::Absent,
            3 => {
                let local = Local { digest: Digest::of(b"l"), layout: None, size: None, labels: BTreeMap::new() };
                Presence::Local(local)
            }
            _ => {
                let all = || platforms().into_iter().enumerate().filter(|(index, _)| has(listed, *index));
                let whole = all().filter(|(index, _)| !has(lost, *index)).map(|(_, platform)| (platform, descriptor()));
                let mut found = Published::for_tests(whole.collect());
                let lost = all().filter(|(index, _)| has(lost, *index));
                found.lost = lost.map(|(_, platform)| (platform, "the layer `x`".to_owned())).collect();
                Presence::Registry(Box::new(found))
            }
        }
    }

    proptest! {
        /// The laws of the decision, for every state of both images and every request.
        #[test]
        fn a_plan_is_total_and_keeps_its_laws(
            (base_kind, base_listed, base_lost) in (0_usize..7, 0_u8..4, 0_u8..4),
            (app_kind, app_listed, app_lost) in (0_usize..7, 0_u8..4, 0_u8..4),
            (built_on, force, pinned, push) in (0_u8..3, any::<bool>(), any::<bool>(), any::<bool>()),
            (target, count) in (0_usize..2, 1_usize..3),
        ) {
            let target = [Target::App, Target::Fast][target];
            let wanted = Wanted { target, push, force, platforms: platforms()[..count].to_vec(), ..wanted() };
            let on = Digest::of(if built_on == 0 { b"m" } else { b"another" });
            let built_on = if built_on == 2 { BTreeMap::new() } else { platforms().map(|name| (name, on)).into() };
            let base = ImageFacts { presence: presence(base_kind, base_listed, base_lost), ..image(ImageKind::Base) };
            let app = presence(app_kind, app_listed, app_lost);
            let app = ImageFacts { presence: app, built_on, ..image(ImageKind::App) };
            let facts = Facts { pinned, ..facts(base, Some(app)) };
            let plan = plan(&policy(), &wanted, &facts);
            let whole = |presence: &Presence| match presence {
                Presence::Registry(found) => found.missing(&wanted.platforms).is_empty(),
                Presence::Local(_) => true,
                Presence::NotAsked | Presence::Unknown(_) | Presence::Absent => false,
            };
            for (image, facts) in plan.images().zip(facts.base.iter().chain(&facts.app)) {
                match &image.decision {
                    Decision::Reuse { platforms, .. } => {
                        prop_assert!(whole(&facts.presence), "only what is present and whole is reused");
                        prop_assert!(wanted.platforms.iter().all(|platform| platforms.contains_key(platform)));
                    }
                    Decision::Build { platforms, reasons } => {
                        prop_assert!(!platforms.is_empty() && !reasons.is_empty());
                        prop_assert!(platforms.iter().all(|platform| wanted.platforms.contains(platform)));
                    }
                }
            }
            let (base, app) = (plan.base.as_ref().unwrap(), plan.app.as_ref().unwrap());
            let forces_base = force && !pinned && target != Target::Fast;
            prop_assert_eq!(base.builds(), forces_base || !whole(&facts.base.as_ref().unwrap().presence));
            prop_assert!(!base.builds() || app.builds(), "an app on a base that is built is built too");
            prop_assert!(!force || app.builds());
            prop_assert_eq!(plan.check_reuse().is_err(), base.builds() || app.builds());
            prop_assert_eq!(plan.check_base(&policy(), &wanted, &facts).is_err(), target == Target::Fast && base.builds());
            if let (Decision::Reuse { platforms: bases, .. }, Decision::Reuse { platforms, .. }) = (&base.decision, &app.decision) {
                let built_on = &facts.app.as_ref().unwrap().built_on;
                let same = |platform: &Platform| bases.get(platform).is_none_or(|base| built_on.get(platform) == Some(base));
                prop_assert!(platforms.keys().all(same), "an app is reused on the very base that is used now");
            }
        }
    }
}
