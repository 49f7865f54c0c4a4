//! The work that a change needs: `skip`, `fast`, `base+fast`, `rebase` or `full`, with the reasons. A pure function of facts.
//!
//! - **skip**: both keys equal the base revision's, and the registry lacks neither image (or was not asked: `--offline`).
//! - **fast**: the base of exactly this key is in the registry for every platform (or equals the base revision's, with the
//!   registry not asked), and the app differs, is missing, was built on a different base, or is wanted whatever changed.
//!   So it is with a pinned base, of which none is ever built: what only another base would be made of does not count.
//! - **base+fast**: the base differs from the base revision's or cannot be compared, and is not known to exist.
//! - **rebase**: the regular run takes the root's security updates, and the root is pinned: a build would use the pinned one again.
//! - **full**: the base's own key cannot be computed at head (its Dockerfile does not parse, or reads a file that is missing), so that
//!   no base can be trusted, and the policy has a Dockerfile that builds from scratch.
//!
//! Unknown facts never lead to `skip`: they lead to a build, with the reason.
//!
//! [`work_needed`] is not a second planner. [`crate::image::plan`] decides for one tree whether an image is built or reused, and its answers
//! are part of the facts here ([`PlannedImage`]). A change is of two trees, and its work depends on CI's event too, which no build knows.

pub mod event;
mod plans;
pub mod verification;

pub use plans::Plans;

use crate::image::change::verification::Needed;
use crate::image::key::{AppKey, BaseKey, FileNames, Fingerprint, app_changes, base_changes, foremost};
use crate::image::plan::Decision;
use crate::image::policy::{Engine, ImageKind, Policy};
use crate::image::presence::Presence;
use crate::spec::lock;
use crate::spec::reference::{Digest, Reference};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Work that a change needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Work {
    /// Nothing.
    #[serde(rename = "skip")]
    Skip,
    /// The app, on an existing base.
    #[serde(rename = "fast")]
    Fast,
    /// The base, then the app on it.
    #[serde(rename = "base+fast")]
    BaseFast,
    /// Published images on a newer root; nothing is built.
    #[serde(rename = "rebase")]
    Rebase,
    /// The app from scratch, without any base.
    #[serde(rename = "full")]
    Full,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skip => "skip",
            Self::Fast => "fast",
            Self::BaseFast => "base+fast",
            Self::Rebase => "rebase",
            Self::Full => "full",
        })
    }
}

/// The setting that `images.lock` holds and not the policy.
pub const PINNED_BASE: &str = "pinned base";

/// The setting with the root that is built where the wanted one is unreachable.
pub const FALLBACK_ROOT: &str = "fallback root";

/// Inputs of the images of one tree, in the form in which two trees are compared: a root that is not pinned counts by
/// the policy's text, and the app's key leaves its base out, which is compared by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The base's.
    pub base: BaseKey,
    /// The app's own.
    pub app: AppKey,
    /// The root's digests are pinned.
    pub pinned: bool,
    /// Settings outside of the keys that images depend on: repositories and platforms.
    pub settings: BTreeMap<&'static str, String>,
}

/// Purpose of a build: it can decide what is built whatever changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A change is judged by what it changes.
    Change,
    /// A release is on the digest that was tested: the app is always checked, and built if it is missing.
    Release,
    /// The regular rebuild, for security updates of the root.
    Schedule,
    /// Somebody asked for it.
    Manual,
}

/// One image of the tree, as the build would treat it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedImage {
    /// The name by its fingerprint's tag, or by digest where the base is pinned; none where its root is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    pub presence: Presence,
    /// The build's own decision, where the registry was asked and answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

impl PlannedImage {
    /// Digest and fingerprint of a published image that the build takes as it is.
    pub fn reused(&self) -> Option<(Digest, Fingerprint)> {
        let (Some(Decision::Reuse { digest, .. }), Presence::Registry(found)) = (&self.decision, &self.presence) else {
            return None;
        };
        Some((*digest, found.fingerprint()?))
    }
}

/// Answer to the question whether an image can be used as it is. An image that is present may have to be built all the same, for
/// example because it is on another base: that is the plan's decision, and [`Presence`] does not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Yes,
    /// It has to be built, for these reasons.
    No(String),
    /// The registry did not answer: the cause.
    Unknown(String),
    NotAsked,
}

impl PlannedImage {
    pub fn ready(&self) -> Ready {
        match (&self.presence, &self.decision) {
            (Presence::NotAsked, _) => Ready::NotAsked,
            (Presence::Unknown(why), _) => Ready::Unknown(why.clone()),
            (_, Some(Decision::Build { reasons, .. })) => Ready::No(reasons.join("; ")),
            (_, Some(Decision::Reuse { .. }) | None) => Ready::Yes,
        }
    }

    /// `true`, `false` or `unknown`, as CI's outputs have it.
    pub fn as_output(&self) -> &'static str {
        match self.ready() {
            Ready::Yes => "true",
            Ready::No(_) => "false",
            Ready::Unknown(_) | Ready::NotAsked => "unknown",
        }
    }
}

/// Facts that decide what a change needs.
#[derive(Clone, Debug)]
pub struct ChangeFacts {
    pub purpose: Purpose,
    /// Differences of the inputs from the base revision's, or why they are unknown.
    pub changes: Result<Changes, String>,
    /// Reason why the base's own key cannot be computed at head, where the app can still be built from scratch.
    pub no_base: Option<String>,
    /// `images.lock` pins the base: there is none to build, whatever changed.
    pub pinned: bool,
    /// It pins the root, of a registry: only a rebase takes a newer one.
    pub pinned_root: bool,
    pub base: PlannedImage,
    pub app: PlannedImage,
}

/// The differences between two trees, ready to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    pub base: Vec<String>,
    /// Of the app alone.
    pub app: Vec<String>,
    /// Of a base that is not built, because another one is pinned: no image is made of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
}

/// Compares two trees. Equal inputs have no changes, and different ones at least one.
pub fn compare(old: &Inputs, new: &Inputs, base_names: &FileNames<'_>, app_names: &FileNames<'_>) -> Changes {
    let mut base = Vec::new();
    let mut before = old.base.clone();
    if old.pinned != new.pinned {
        let pinned = if new.pinned { "is pinned now" } else { "is no longer pinned" };
        base.push(format!("root {} {pinned} ({})", new.base.root.image, lock::images::PATH));
        before.root = new.base.root.clone();
    }
    base.extend(base_changes(&before, &new.base, base_names));
    if base.is_empty() && old.base != new.base {
        base.push("the base's key".to_owned());
    }
    // What a pinned base was made of is past: only which one it is, and for what, still counts.
    let mut waiting = Vec::new();
    let pinned = new.settings.contains_key(PINNED_BASE);
    if pinned {
        std::mem::swap(&mut base, &mut waiting);
    }
    let written = |name: &str| if name == PINNED_BASE { lock::images::PATH } else { base_names.policy };
    let mut settings = |name: &str, change: String| {
        let list = if pinned && name == FALLBACK_ROOT { &mut waiting } else { &mut base };
        list.push(format!("{name} {change} ({})", written(name)));
    };
    for (name, after) in &new.settings {
        match old.settings.get(name) {
            Some(before) if before != after => settings(name, format!("{before} -> {after}")),
            Some(_) => {}
            None => settings(name, format!("{after} is new")),
        }
    }
    for name in old.settings.keys().filter(|name| !new.settings.contains_key(*name)) {
        settings(name, "is gone".to_owned());
    }
    let mut app = app_changes(&old.app, &new.app, app_names);
    if app.is_empty() && old.app != new.app {
        app.push("the app's key".to_owned());
    }
    Changes { base, app, waiting }
}

/// The work that a change needs, with the reasons.
pub fn work_needed(facts: &ChangeFacts) -> (Work, Vec<String>) {
    if let Some(why) = &facts.no_base {
        return (Work::Full, vec![format!("no base can be named: {why}")]);
    }
    let mut reasons = Vec::new();
    match facts.purpose {
        Purpose::Schedule if facts.pinned => {
            reasons.push("the regular rebuild takes a pinned base as it is".to_owned())
        }
        Purpose::Schedule if facts.pinned_root && facts.base.ready() == Ready::Yes => {
            let why = format!("the root's security updates come by a rebase: `{}` pins the root", lock::images::PATH);
            return (Work::Rebase, vec![why]);
        }
        Purpose::Schedule => {
            reasons.push("the regular rebuild takes the root's security updates".to_owned());
            return (Work::BaseFast, reasons);
        }
        Purpose::Release => reasons.push("a release is never skipped".to_owned()),
        Purpose::Manual => reasons.push("it was asked for by hand".to_owned()),
        Purpose::Change => {}
    }
    let (mut base_same, mut app_same) = (false, false);
    let mut waiting = Vec::new();
    match &facts.changes {
        Ok(changes) => {
            (base_same, app_same) = (changes.base.is_empty(), changes.app.is_empty());
            reasons.extend(foremost(&changes.base).iter().map(|change| format!("base: {change}")));
            reasons.extend(foremost(&changes.app).iter().map(|change| format!("app: {change}")));
            let waits =
                |change: &String| format!("base: {change}; it waits, the base is pinned in `{}`", lock::images::PATH);
            waiting.extend(foremost(&changes.waiting).iter().map(waits));
        }
        Err(why) => reasons.push(format!("what changed cannot be known: {why}")),
    }
    let base_ready = match facts.base.ready() {
        Ready::Yes => {
            if !base_same && !facts.pinned {
                reasons.push("the base of this key is in the registry already".to_owned());
            }
            true
        }
        Ready::No(why) => {
            reasons.push(lost("base", &why, base_same));
            false
        }
        Ready::Unknown(why) => {
            reasons.push(format!("whether the registry has the base cannot be known: {why}"));
            false
        }
        Ready::NotAsked => base_same,
    };
    if facts.pinned && !base_same {
        reasons.push(format!("the base is pinned in `{}`: none is built", lock::images::PATH));
    }
    if !base_ready && !facts.pinned {
        return (Work::BaseFast, reasons);
    }
    let app_ready = match facts.app.ready() {
        Ready::Yes | Ready::NotAsked => true,
        Ready::No(why) => {
            reasons.push(lost("app", &why, base_same && app_same));
            false
        }
        Ready::Unknown(why) => {
            reasons.push(format!("whether the registry has the app cannot be known: {why}"));
            false
        }
    };
    if facts.purpose == Purpose::Change && base_same && app_same && base_ready && app_ready {
        reasons = vec!["nothing that an image is made of changed".to_owned()];
        reasons.extend(waiting);
        return (Work::Skip, reasons);
    }
    reasons.extend(waiting);
    (Work::Fast, reasons)
}

fn lost(image: &str, why: &str, same: bool) -> String {
    if same { format!("{image}: {why}, although no input changed") } else { format!("{image}: {why}") }
}

/// The work with the facts and reasons that led to it.
#[derive(Clone, Debug, Serialize)]
pub struct ChangePlan {
    /// The app, where the policy names several, and its base.
    #[serde(skip)]
    pub app_name: Option<String>,
    #[serde(skip)]
    pub base_name: Option<String>,
    pub decision: Work,
    pub reasons: Vec<String>,
    pub purpose: Purpose,
    /// The revision that was compared with, where there is one.
    pub base_revision: Option<String>,
    /// The revision that was planned; none for the working tree.
    pub head_revision: Option<String>,
    /// The differences, where they are known.
    pub changes: Option<Changes>,
    pub base: PlannedImage,
    pub app: PlannedImage,
    /// The tests that the commit must pass.
    pub verification: Needed,
    /// Reason for these tests.
    pub verification_reason: String,
    pub machines: Machines,
    /// The app's program is compiled, as far as the comparison shows.
    pub compiles: bool,
    /// Compiled dependencies that this machine would pull for it, or why it compiles all, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<String>,
    /// The images that are reused and in the sample of `[ci] shadow`: `base`, `app`.
    pub shadow: Vec<ImageKind>,
}

/// The machines that a build needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machines {
    /// Any one.
    One,
    /// One of each platform's kind: something is compiled, run or imported there.
    Several,
}

impl Machines {
    /// Returns the machines that CI's builds need. Copying files is the same on every machine; compilers, `RUN` and the import of packages
    /// are not.
    pub fn needed(policy: &Policy, work: Work, compiles: bool) -> Self {
        let copies = match work {
            Work::Skip | Work::Rebase => true,
            Work::Fast => policy.ci.engine == Engine::Native && !compiles,
            Work::BaseFast | Work::Full => false,
        };
        if copies || policy.project.platforms.len() == 1 { Self::One } else { Self::Several }
    }

    /// The value of CI's output.
    pub fn as_output(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Several => "several",
        }
    }
}

impl ChangePlan {
    /// Returns true if the base's inputs changed or cannot be compared.
    pub fn requirements_changed(&self) -> bool {
        self.changes.as_ref().is_none_or(|changes| !changes.base.is_empty() || !changes.waiting.is_empty())
    }

    /// The plan as a person reads it.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.decision);
        for reason in &self.reasons {
            text += &format!("  {reason}\n");
        }
        if let Some(dependencies) = &self.dependencies {
            text += &format!("  dependencies: {dependencies}\n");
        }
        text + &format!("tests: {}\n  {}\n", self.verification, self.verification_reason)
    }

    /// Outputs for CI's later jobs.
    pub fn outputs(&self) -> Vec<(&'static str, String)> {
        let [tests, long_tests] = self.verification.outputs();
        vec![
            ("decision", self.decision.to_string()),
            ("should-build", (!matches!(self.decision, Work::Skip | Work::Rebase)).to_string()),
            ("use-fast-build", (self.decision == Work::Fast).to_string()),
            ("requirements-changed", self.requirements_changed().to_string()),
            ("base-reference", self.base.reference.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("base-present", self.base.as_output().to_owned()),
            tests,
            long_tests,
            ("machines", self.machines.as_output().to_owned()),
            ("compiles", self.compiles.to_string()),
            ("shadow", self.shadow.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        ]
    }

    /// The job's summary, Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## Plan: `{}`\n\n", self.decision);
        for reason in &self.reasons {
            text += &format!("- {}\n", plain(reason));
        }
        text += "\n| | |\n|---|---|\n";
        let short = |id: &str| format!("`{}`", &id[..12.min(id.len())]);
        let revision = |id: &Option<String>, none: &str| id.as_deref().map_or(none.to_owned(), short);
        let rows = [
            ("compared with", revision(&self.base_revision, "nothing")),
            ("planned", revision(&self.head_revision, "the working tree")),
            ("base", image(&self.base)),
            ("app", image(&self.app)),
            ("tests", format!("`{}`: {}", self.verification, plain(&self.verification_reason))),
        ];
        for (name, value) in rows {
            text += &format!("| {name} | {value} |\n");
        }
        text
    }
}

fn image(image: &PlannedImage) -> String {
    let name =
        image.reference.as_ref().map_or_else(|| "its root is not known here".to_owned(), |name| format!("`{name}`"));
    let presence = match (image.ready(), &image.presence) {
        (Ready::Yes, _) => "is in the registry",
        (Ready::No(_), Presence::Absent) => "is not in the registry",
        (Ready::No(_), _) => "is in the registry and has to be built again",
        (Ready::Unknown(_), _) => "cannot be known",
        (Ready::NotAsked, _) => "was not asked for",
    };
    format!("{name}, {presence}")
}

/// A line in which a file's name cannot become markup.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => plain.push(' '),
            '<' => plain += "&lt;",
            '&' => plain += "&amp;",
            '\\' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => plain.extend(['\\', c]),
            c => plain.push(c),
        }
    }
    plain
}

/// The variable of an output for GitLab's jobs: `XTASK_BASE_PRESENT`.
pub fn gitlab_variable(output: &str) -> String {
    format!("XTASK_{}", output.replace('-', "_").to_ascii_uppercase())
}

/// One output as a line of GitLab's dotenv reports, whose values have one line and no quotes.
pub fn dotenv_line(name: &str, value: &str) -> String {
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{}={}\n", gitlab_variable(name), value.trim())
}

/// One output in the form of `$GITHUB_OUTPUT`, with a delimiter that is not in the value.
pub fn output_line(name: &str, value: &str) -> String {
    if !value.contains(['\n', '\r']) {
        return format!("{name}={value}\n");
    }
    let mut delimiter = "end".to_owned();
    while value.lines().any(|line| line == delimiter) {
        delimiter.push('-');
    }
    format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::presence::Published;
    use expect_test::expect;

    fn planned(presence: Presence, decision: Option<Decision>) -> PlannedImage {
        PlannedImage { reference: None, presence, decision }
    }

    fn builds(presence: Presence, reason: &str) -> PlannedImage {
        planned(presence, Some(Decision::Build { platforms: Vec::new(), reasons: vec![reason.to_owned()] }))
    }

    fn present() -> PlannedImage {
        planned(Presence::Registry(Box::new(Published::for_tests(BTreeMap::new()))), None)
    }

    fn not_asked() -> PlannedImage {
        planned(Presence::NotAsked, None)
    }

    fn facts() -> ChangeFacts {
        ChangeFacts {
            purpose: Purpose::Change,
            changes: Ok(Changes::default()),
            no_base: None,
            pinned: false,
            pinned_root: false,
            base: present(),
            app: present(),
        }
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut ChangeFacts), decision: Work, first: &str) {
        let mut facts = facts();
        edit(&mut facts);
        let (found, reasons) = work_needed(&facts);
        assert_eq!((found, reasons[0].as_str()), (decision, first));
    }

    fn changed(base: &[&str], app: &[&str]) -> Result<Changes, String> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Ok(Changes { base: texts(base), app: texts(app), waiting: Vec::new() })
    }

    #[test]
    fn a_change_is_classified_by_its_differences_and_by_presence() {
        let nothing = "nothing that an image is made of changed";
        let absent = || builds(Presence::Absent, "the registry lost it");
        let unknown = || planned(Presence::Unknown("it timed out".to_owned()), None);
        check(|_| {}, Work::Skip, nothing);
        check(|f| (f.base, f.app) = (not_asked(), not_asked()), Work::Skip, nothing);
        check(|f| f.changes = changed(&[], &["x was edited"]), Work::Fast, "app: x was edited");
        check(|f| f.changes = changed(&["scipy"], &[]), Work::Fast, "base: scipy");
        check(|f| (f.changes, f.base) = (changed(&["scipy"], &[]), not_asked()), Work::BaseFast, "base: scipy");
        check(|f| (f.changes, f.base) = (changed(&["scipy"], &[]), absent()), Work::BaseFast, "base: scipy");
        let lost = "base: the registry lost it, although no input changed";
        check(|f| f.base = absent(), Work::BaseFast, lost);
        check(|f| f.app = absent(), Work::Fast, "app: the registry lost it, although no input changed");
        check(
            |f| f.base = unknown(),
            Work::BaseFast,
            "whether the registry has the base cannot be known: it timed out",
        );
        check(|f| f.app = unknown(), Work::Fast, "whether the registry has the app cannot be known: it timed out");
    }

    #[test]
    fn what_cannot_be_known_fails_open() {
        let shallow = || Err("a shallow clone".to_owned());
        let reason = "what changed cannot be known: a shallow clone";
        check(|f| f.changes = shallow(), Work::Fast, reason);
        check(|f| (f.changes, f.base) = (shallow(), not_asked()), Work::BaseFast, reason);
        check(|f| f.no_base = Some("x".to_owned()), Work::Full, "no base can be named: x");
    }

    #[test]
    fn releases_and_requests_are_never_skipped() {
        check(|f| f.purpose = Purpose::Release, Work::Fast, "a release is never skipped");
        check(|f| f.purpose = Purpose::Manual, Work::Fast, "it was asked for by hand");
        let weekly = "the regular rebuild takes the root's security updates";
        check(|f| f.purpose = Purpose::Schedule, Work::BaseFast, weekly);
        let pinned = |f: &mut ChangeFacts| (f.purpose, f.pinned_root) = (Purpose::Schedule, true);
        check(pinned, Work::Rebase, "the root's security updates come by a rebase: `images.lock` pins the root");
        let absent = |f: &mut ChangeFacts| f.base = builds(Presence::Absent, "the registry lost it");
        check(|f| (pinned(f), absent(f)).1, Work::BaseFast, weekly);
        check(|f| f.pinned_root = true, Work::Skip, "nothing that an image is made of changed");
    }

    #[test]
    fn no_base_is_built_in_the_place_of_a_pinned_one() {
        let pinned = |f: &mut ChangeFacts| f.pinned = true;
        let nothing = "nothing that an image is made of changed";
        check(pinned, Work::Skip, nothing);
        let weekly = "the regular rebuild takes a pinned base as it is";
        check(|f| (f.pinned, f.purpose) = (true, Purpose::Schedule), Work::Fast, weekly);
        let unknown = || planned(Presence::Unknown("it timed out".to_owned()), None);
        let cannot = "whether the registry has the base cannot be known: it timed out";
        check(|f| (f.pinned, f.base) = (true, unknown()), Work::Fast, cannot);
        let changes = || changed(&["scipy"], &[]);
        check(|f| (f.pinned, f.base, f.changes) = (true, not_asked(), changes()), Work::Fast, "base: scipy");
        let (_, reasons) = work_needed(&ChangeFacts { pinned: true, changes: changes(), ..facts() });
        assert_eq!(reasons, ["base: scipy", "the base is pinned in `images.lock`: none is built"]);
        let waiting = || Ok(Changes { waiting: vec!["scipy".to_owned()], ..Changes::default() });
        let (decision, reasons) = work_needed(&ChangeFacts { pinned: true, changes: waiting(), ..facts() });
        let waits = "base: scipy; it waits, the base is pinned in `images.lock`";
        assert_eq!((decision, reasons), (Work::Skip, vec![nothing.to_owned(), waits.to_owned()]));
    }

    #[test]
    fn an_app_on_another_build_of_its_base_is_built() {
        let reason = "it was built on a different base (expected x)";
        let outdated = || builds(present().presence, reason);
        check(|f| f.app = outdated(), Work::Fast, &format!("app: {reason}, although no input changed"));
        assert_eq!(outdated().as_output(), "false");
    }

    fn plan() -> ChangePlan {
        ChangePlan {
            app_name: None,
            base_name: None,
            decision: Work::Fast,
            reasons: vec!["app: a_b<c>.html was edited".to_owned()],
            purpose: Purpose::Change,
            base_revision: Some("0123456789abcdef".to_owned()),
            head_revision: None,
            changes: Some(Changes {
                base: Vec::new(),
                app: vec!["a_b<c>.html was edited".to_owned()],
                waiting: Vec::new(),
            }),
            base: PlannedImage {
                reference: Some("ghcr.io/acme/autoscaler-base:3f9c02d1a7b4".parse().unwrap()),
                ..present()
            },
            app: not_asked(),
            verification: Needed::Selected("pages".to_owned()),
            verification_reason: "`[[ci.tests]]` `pages` covers every changed file (`a_b<c>.html`)".to_owned(),
            machines: Machines::One,
            compiles: false,
            dependencies: None,
            shadow: vec![ImageKind::Base, ImageKind::App],
        }
    }

    #[test]
    fn only_what_must_run_on_a_platforms_own_machine_needs_several() {
        let text = include_str!("../../../../images.toml");
        let policy = |engine: &str, platforms: &str| {
            let engine = format!("engine = \"{engine}\"\n# The operator");
            let text =
                text.replace("[\"linux/amd64\"]", platforms).replace("engine = \"native\"\n# The operator", &engine);
            crate::image::policy::parse(&text, &|_| true).unwrap()
        };
        let two = "[\"linux/amd64\", \"linux/arm64\"]";
        for (engine, platforms, decision, compiles, machines) in [
            ("docker", "[\"linux/amd64\"]", Work::Full, true, Machines::One),
            ("native", two, Work::Fast, false, Machines::One),
            ("native", two, Work::Fast, true, Machines::Several),
            ("docker", two, Work::Fast, false, Machines::Several),
            ("native", two, Work::BaseFast, false, Machines::Several),
            ("native", two, Work::Full, true, Machines::Several),
            ("docker", two, Work::Skip, false, Machines::One),
            ("docker", two, Work::Rebase, true, Machines::One),
        ] {
            assert_eq!(
                Machines::needed(&policy(engine, platforms), decision, compiles),
                machines,
                "{engine} {decision}"
            );
        }
    }

    #[test]
    fn outputs_and_summary() {
        let lines: String = plan().outputs().iter().map(|(name, value)| output_line(name, value)).collect();
        expect![[r#"
            decision=fast
            should-build=true
            use-fast-build=true
            requirements-changed=false
            base-reference=ghcr.io/acme/autoscaler-base:3f9c02d1a7b4
            base-present=true
            tests=pages
            long-tests=
            machines=one
            compiles=false
            shadow=base,app
        "#]]
        .assert_eq(&lines);
        expect![[r#"
            ## Plan: `fast`

            - app: a\_b&lt;c>.html was edited

            | | |
            |---|---|
            | compared with | `0123456789ab` |
            | planned | the working tree |
            | base | `ghcr.io/acme/autoscaler-base:3f9c02d1a7b4`, is in the registry |
            | app | its root is not known here, was not asked for |
            | tests | `pages`: `\[\[ci.tests\]\]` `pages` covers every changed file (`a\_b&lt;c>.html`) |
        "#]]
        .assert_eq(&plan().markdown());
    }

    #[test]
    fn an_output_cannot_break_out_of_its_line() {
        assert_eq!(output_line("a", "x\nend\ny=1"), "a<<end-\nx\nend\ny=1\nend-\n");
        assert_eq!(output_line("a", ""), "a=\n");
        assert_eq!(dotenv_line("a-b", "x\nPATH=y "), "XTASK_A_B=x PATH=y\n");
    }
}
