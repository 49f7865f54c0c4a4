//! What will be done, and why: a pure function of policy and facts.
//!
//! What a plan says is what execution does; `--dry-run` prints it and stops.

use crate::fault::Fault;
use crate::image::commit::Commit;
use crate::image::key::{Fingerprint, foremost};
use crate::image::policy::{ImageKind, Policy};
use crate::image::presence::{Local, Published, Standing};
use crate::image::tags::{self, Names};
use crate::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Publish to the registry.
    pub push: bool,
    /// Exactly these platforms.
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

/// One image's part of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct ImagePlan {
    /// Which image.
    pub kind: ImageKind,
    /// Its repository.
    pub repository: Repository,
    /// Its key's hash.
    pub fingerprint: Fingerprint,
    /// The tag made of it.
    pub tag: Tag,
    /// What happens.
    pub decision: Decision,
    /// What is built takes the place of an image of the same fingerprint.
    pub replaces: bool,
    /// Tags in addition to the fingerprint's, in the order in which they are shown.
    pub tags: Vec<Tag>,
    /// The one of these that is the branch's, and moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Tag>,
    /// Names of the commit that get no tag or another one, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// `latest`, or why it stays.
    pub latest: Latest,
}

/// Whether an image is built.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Decision {
    /// It exists.
    Reuse {
        /// The whole image's digest.
        digest: Digest,
        /// The manifest of each platform.
        platforms: BTreeMap<Platform, Digest>,
        /// Where it is.
        place: Place,
    },
    /// It is built.
    Build {
        /// For these platforms.
        platforms: Vec<Platform>,
        /// Why.
        reasons: Vec<String>,
    },
}

/// Where an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the registry.
    Registry,
    /// On this machine.
    Local,
}

/// Whether `latest` moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "move", content = "because")]
pub enum Latest {
    /// It moves.
    Moves,
    /// It stays, for this reason.
    Stays(String),
}

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
    /// A difference of something that git does not ignore.
    pub fn new(path: impl ToString, why: impl Into<String>) -> Self {
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

/// What decides over `latest`.
pub struct LatestFacts<'a> {
    /// The commit that is checked out, or why there is none.
    pub commit: Result<&'a Commit, &'a str>,
    /// The image's inputs that are not the commit's.
    pub differences: &'a [Difference],
    /// The platforms that will stand under the fingerprint's tag.
    pub platforms: &'a [Platform],
}

/// Decides over `latest`, but for what it names now: [`tags::stays`]. It moves only for an image made of a commit of the default
/// branch, when the image is complete. In the local store, which nobody shares, it always moves.
pub fn latest(policy: &Policy, wish: &Wish, facts: &LatestFacts<'_>) -> Latest {
    let stays = |why: String| Latest::Stays(why);
    if wish.no_latest {
        return stays("`--no-latest`".to_owned());
    }
    if !wish.push {
        return Latest::Moves;
    }
    if wish.untested {
        return stays("`--untested`: the tests of this commit have not passed yet".to_owned());
    }
    if wish.left_to_ci {
        return stays("only CI moves it, after the tests (`[project] shared-tags = \"ci\"`)".to_owned());
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
pub fn app_tags(commit: Option<&Commit>, differences: &[Difference], policy: &Policy, wish: &Wish) -> Names {
    let Some(commit) = commit.filter(|_| differences.is_empty() && !(wish.push && wish.untested)) else {
        return Names::default();
    };
    let mut names = tags::of_commit(commit, &policy.project.default_branch);
    if wish.push && wish.left_to_ci {
        let default = commit.branch.as_ref() == Some(&policy.project.default_branch);
        names.branch = names.branch.filter(|_| !default);
        names.all.retain(|tag| names.branch.as_ref() == Some(tag));
    }
    if wish.no_branch_tag || (wish.push && !policy.project.moving_tags.branch) {
        names.all.retain(|tag| names.branch.as_ref() != Some(tag));
        names.branch = None;
    }
    names
}

/// Decides whether an image is built. `changes` are its differences to an earlier image, each with the name of that image.
pub fn decide(wish: &Wish, standing: &Standing, changes: &[String]) -> Decision {
    let build = |platforms: Vec<Platform>, reason: String| {
        let mut reasons = vec![reason];
        reasons.extend(changes.iter().cloned());
        Decision::Build { platforms, reasons }
    };
    if wish.force {
        return build(wish.platforms.clone(), "`--force`".to_owned());
    }
    match standing {
        Standing::Absent => {
            let place = if wish.push { "in the registry" } else { "on this machine" };
            build(wish.platforms.clone(), format!("nothing of this fingerprint is {place}"))
        }
        Standing::Registry(published) => {
            let missing = published.missing(&wish.platforms);
            if missing.is_empty() {
                return reuse(published);
            }
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let unlisted = || format!("{} is not in the registry's index", names.join(", "));
            let reason = published.lost_reason(&missing).unwrap_or_else(unlisted);
            build(missing, reason)
        }
        Standing::Local(Local { digest, .. }) => Decision::Reuse {
            digest: *digest,
            platforms: wish.platforms.iter().map(|platform| (platform.clone(), *digest)).collect(),
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

/// The error of `build-fast` where there is no base to build on.
pub fn missing_base(reference: &Reference, push: bool, dockerfile: &str, changes: &[String], since: &str) -> Fault {
    let place = if push { "is not in the registry" } else { "is neither on this machine nor in the registry" };
    let mut fault = Fault::usage(format!("base image `{reference}` {place}")).needed_by(format!("`{dockerfile}`"));
    fault = match changes {
        [] => fault.cause("it was never built, or it was removed; nothing says that anything of yours changed"),
        changes => fault.cause(format!("changed {since}: {}", foremost(changes).join("; "))),
    };
    let flag = if push { " --push" } else { "" };
    fault.hint(format!("build it: `cargo xtask build-base{flag}`, or let `cargo xtask build{flag}` do both"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn policy() -> Policy {
        crate::image::policy::parse(include_str!("../../../../images.toml"), &|_| true).unwrap()
    }

    fn wish() -> Wish {
        Wish {
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
            branch: Some("main".to_owned()),
            versions: vec!["1.2.3".to_owned()],
        }
    }

    fn difference() -> Difference {
        Difference { path: "templates/prod.env".to_owned(), why: "not in the commit".to_owned(), ignored: false }
    }

    #[track_caller]
    fn stays(edit: impl FnOnce(&mut Commit, &mut Wish), why: &str) {
        let (mut commit, mut wish) = (commit(), wish());
        edit(&mut commit, &mut wish);
        let platforms = wish.platforms.clone();
        let differences = if why.contains("is not made of") { vec![difference()] } else { Vec::new() };
        let facts = LatestFacts { commit: Ok(&commit), differences: &differences, platforms: &platforms };
        let expected = if why.is_empty() { Latest::Moves } else { Latest::Stays(why.to_owned()) };
        assert_eq!(latest(&policy(), &wish, &facts), expected);
    }

    #[test]
    fn latest_moves_only_from_the_default_branch() {
        stays(|_, _| {}, "");
        stays(|_, wish| wish.no_latest = true, "`--no-latest`");
        stays(|_, _| {}, "the image is not made of commit 0123456789ab: `templates/prod.env` (not in the commit)");
        stays(|commit, _| commit.branch = None, "no branch is checked out");
        stays(|commit, _| commit.branch = Some("x".to_owned()), "`x` is not the default branch `main`");
    }

    #[test]
    fn for_immutable_tags_the_policy_and_a_flag_leave_out_what_moves() {
        let text = include_str!("../../../../images.toml");
        let fixed = |list: &str| {
            let text = text.replace("[project]\n", &format!("[project]\nmoving-tags = {list}\n"));
            crate::image::policy::parse(&text, &|_| true)
        };
        let texts = |policy: &Policy, wish: &Wish| {
            app_tags(Some(&commit()), &[], policy, wish).all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let latest_of = |policy: &Policy| {
            let wish = wish();
            latest(policy, &wish, &LatestFacts { commit: Ok(&commit()), differences: &[], platforms: &wish.platforms })
        };
        let none = fixed("[]").unwrap();
        assert_eq!(texts(&none, &wish()), ["0123456789ab", "1.2.3"]);
        assert_eq!(latest_of(&none), Latest::Stays("the policy's `moving-tags` leaves it out".to_owned()));
        // Nobody shares the local store.
        assert_eq!(texts(&none, &Wish { push: false, ..wish() }), ["0123456789ab", "main", "1.2.3"]);
        let only_latest = fixed("[\"latest\"]").unwrap();
        assert_eq!(texts(&only_latest, &wish()), ["0123456789ab", "1.2.3"]);
        assert_eq!(latest_of(&only_latest), Latest::Moves);
        assert_eq!(texts(&policy(), &Wish { no_branch_tag: true, ..wish() }), ["0123456789ab", "1.2.3"]);
        assert!(fixed("[\"branches\"]").unwrap_err().to_string().contains("not `branch` or `latest`"));
    }

    #[test]
    fn tags_that_claim_tests_wait_for_them() {
        let texts = |commit: &Commit, wish: &Wish| {
            app_tags(Some(commit), &[], &policy(), wish).all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let untested = Wish { untested: true, ..wish() };
        assert_eq!(texts(&commit(), &untested), [""; 0]);
        stays(|_, wish| wish.untested = true, "`--untested`: the tests of this commit have not passed yet");
        // The tag of a commit says that CI has tested it; a person's own branch is theirs.
        let desk = Wish { left_to_ci: true, ..wish() };
        assert_eq!(texts(&commit(), &desk), [""; 0]);
        assert_eq!(texts(&Commit { branch: Some("mine".to_owned()), ..commit() }, &desk), ["mine"]);
        let why = "only CI moves it, after the tests (`[project] shared-tags = \"ci\"`)";
        stays(|_, wish| wish.left_to_ci = true, why);
        // Nobody shares the local store.
        assert_eq!(texts(&commit(), &Wish { push: false, ..desk }), ["0123456789ab", "main", "1.2.3"]);
    }

    #[test]
    fn fault_2_a_single_platform_image_is_not_taken_for_the_complete_one() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        let amd: Platform = "linux/amd64".parse().unwrap();
        let descriptor = crate::spec::oci::Descriptor::new("m", Digest::of(b"m"), 1);
        let published: Published = Published::for_tests(BTreeMap::from([(amd.clone(), descriptor)]));
        let standing = Standing::Registry(Box::new(published));
        let both = Wish { platforms: vec![amd.clone(), arm.clone()], ..wish() };
        match decide(&both, &standing, &[]) {
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
        assert_eq!(latest(&policy, &wish(), &facts), Latest::Stays("the image lacks linux/arm64".to_owned()));
    }

    #[test]
    fn tags_follow_the_commit_only_when_the_inputs_are_the_commits() {
        let names =
            |commit: Option<&Commit>, differences: &[Difference]| app_tags(commit, differences, &policy(), &wish());
        let texts = |commit: &Commit| names(Some(commit), &[]).all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&commit()), ["0123456789ab", "main", "1.2.3"]);
        let queue = Some("gh-readonly-queue/main/pr-7-0123456789abcdef0123456789abcdef01234567".to_owned());
        assert_eq!(texts(&Commit { branch: queue, versions: Vec::new(), ..commit() }), ["0123456789ab"]);
        assert!(names(Some(&commit()), &[difference()]).all.is_empty());
        assert!(names(None, &[]).all.is_empty());
    }

    #[test]
    fn a_missing_base_names_the_cause_and_the_next_command() {
        let reference = "ghcr.io/acme/autoscaler-base:3f9c02d1a7b4".parse().unwrap();
        let changes = ["scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)".to_owned()];
        expect![[r#"
            base image `ghcr.io/acme/autoscaler-base:3f9c02d1a7b4` is not in the registry
              needed by: `dockerfiles/Dockerfile.fast`
              cause: changed since `latest`: scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)

            hint: build it: `cargo xtask build-base --push`, or let `cargo xtask build --push` do both"#]]
        .assert_eq(
            &missing_base(&reference, true, "dockerfiles/Dockerfile.fast", &changes, "since `latest`").to_string(),
        );
    }
}
