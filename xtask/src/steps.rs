//! The policy's `[[step]]`s: which are due for an image, in which order, and what they attach.
//!
//! A step sees an image that exists by digest. One that runs after `build` runs before anything is published, so its failure
//! keeps every tag where it was. Steps that do not wait for each other run in parallel.

use crate::plugins::{self, Artifact, BuildFacts, Call, Outcome, Subject, program};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xtask_host::process;
use xtask_host::registry::{Client, attach};
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::policy::plugin::{SIGN, Settings};
use xtask_model::image::policy::{Action, After, ImageKind, Policy, Step};
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::Repository;
use xtask_native::container::Runner;

/// True in CI, whose tags others take for tested. Services set `CI` to `true`, some to `1`; `CI=false` is the opposite of it.
pub fn in_ci() -> bool {
    is_ci(std::env::var_os("CI").as_deref())
}

fn is_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| value == "true" || value == "1")
}

/// The steps that are due for an image, in file order.
pub fn due(policy: &Policy, when: After, kind: ImageKind) -> Vec<&Step> {
    let due = |step: &&Step| step.after == when && step.images.contains(&kind) && (in_ci() || !step.only_in_ci);
    policy.steps.iter().filter(due).collect()
}

/// Checks before a build that its steps can run: tools, keys, the settings of programs. Reports every problem.
pub fn prepare(tree: &Tree, kinds: &[ImageKind]) -> Result<(), Fault> {
    let mut faults = Vec::new();
    let mut problems = Vec::new();
    let is_due = |step: &&Step| {
        kinds.iter().any(|kind| due(&tree.policy, step.after, *kind).iter().any(|due| due.name == step.name))
    };
    for step in tree.policy.steps.iter().filter(is_due) {
        match &step.action {
            Action::Uses(description, settings) => {
                for tool in description.tools {
                    let who = format!("step `{}` of `images.toml`", step.name);
                    faults.extend(process::find(tool, &who, &format!("install `{tool}`")).err());
                }
                faults.extend(plugins::of(description).prepare(&tree.root, settings).err());
            }
            Action::Package(_, settings) => match program::check(&tree.root, step, settings) {
                Ok(found) => problems.extend(found),
                Err(fault) => faults.push(fault),
            },
            Action::Run(_) => {}
        }
    }
    if !problems.is_empty() {
        faults.insert(
            0,
            Fault::usage(format!("settings of steps are invalid\n{}", problems.join("\n"))).hint("edit `images.toml`"),
        );
    }
    together(faults)
}

/// One fault of several.
fn together(faults: Vec<Fault>) -> Result<(), Fault> {
    let mut faults = faults.into_iter();
    let Some(first) = faults.next() else { return Ok(()) };
    Err(faults.fold(first, |all, other| {
        let hints = other.hints.clone();
        let all = all.cause(format!("and {}", other.to_string().split("\n\nhint:").next().unwrap_or_default()));
        hints.into_iter().fold(all, |all, hint| if all.hints.contains(&hint) { all } else { all.hint(hint) })
    }))
}

/// Facts that every run of a step has in common.
pub struct Run<'a> {
    pub tree: &'a Tree,
    pub client: &'a Client,
    pub subject: &'a Subject<'a>,
    pub build: &'a BuildFacts,
}

/// Result of the steps.
#[derive(Default)]
pub struct Ran {
    /// Seconds of each.
    pub times: Vec<(String, Duration)>,
    /// Artifacts to attach, in file order.
    pub attach: Vec<Artifact>,
}

impl Run<'_> {
    /// Runs the steps that are due. `runner` is asked for when an image has to be run.
    pub fn run(&self, when: After, runner: &dyn Fn() -> Result<Runner, Fault>) -> Result<Ran, Fault> {
        let due = due(&self.tree.policy, when, self.subject.kind);
        let runner = due.iter().any(|step| step.uses("smoke")).then(runner).transpose()?;
        let mut done: BTreeMap<String, Outcome> = BTreeMap::new();
        let mut ran = Ran::default();
        while done.len() < due.len() {
            process::interrupted()?;
            let ready: Vec<&Step> = due
                .iter()
                .filter(|step| !done.contains_key(&step.name))
                .filter(|step| step.waits_for(&due).into_iter().all(|name| done.contains_key(name)))
                .copied()
                .collect();
            let results: Vec<(Duration, Result<Outcome, Fault>)> = match ready[..] {
                [step] => vec![self.one(step, &done, runner.as_ref())],
                _ => std::thread::scope(|scope| {
                    let (done, runner) = (&done, runner.as_ref());
                    let started: Vec<_> =
                        ready.iter().map(|step| scope.spawn(move || self.one(step, done, runner))).collect();
                    started
                        .into_iter()
                        .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                        .collect()
                }),
            };
            let mut faults = Vec::new();
            for (step, (took, result)) in ready.iter().zip(results) {
                ran.times.push((format!("step {}", step.name), took));
                match result {
                    Ok(outcome) => drop(done.insert(step.name.clone(), outcome)),
                    Err(fault) => faults.push(fault),
                }
            }
            together(faults)?;
        }
        ran.attach = due.iter().filter_map(|step| done.remove(&step.name)).flat_map(|outcome| outcome.attach).collect();
        Ok(ran)
    }

    /// Folder for the files of a step: `target/steps/STEP`, and in it one for each image where there are several apps: `app+web`.
    fn output_folder(&self, step: &Step) -> PathBuf {
        let folder = program::output_folder(&self.tree.root, &step.name);
        let (policy, kind) = (&self.tree.policy, self.subject.kind);
        match (&policy.app.name, policy.name(kind)) {
            (None, _) => folder,
            (Some(_), None) => folder.join(kind.to_string()),
            (Some(_), Some(name)) => folder.join(format!("{kind}+{name}")),
        }
    }

    fn one(
        &self,
        step: &Step,
        done: &BTreeMap<String, Outcome>,
        runner: Option<&Runner>,
    ) -> (Duration, Result<Outcome, Fault>) {
        let began = Instant::now();
        let none = Settings::default();
        let settings = match &step.action {
            Action::Uses(_, settings) | Action::Package(_, settings) => settings,
            Action::Run(_) => &none,
        };
        let call = Call {
            tree: self.tree,
            client: self.client,
            step,
            settings,
            subject: self.subject,
            build: self.build,
            output: self.output_folder(step),
            done,
            runner,
        };
        let result = match &step.action {
            Action::Uses(description, _) => {
                plugins::of(description).run(&call).map_err(|fault| match fault.needed_by {
                    None => fault.needed_by(format!("step `{}`", step.name)),
                    Some(_) => fault,
                })
            }
            Action::Package(..) | Action::Run(_) => program::run(&call),
        };
        (began.elapsed(), result.and_then(|outcome| judged(step, outcome)))
    }
}

fn judged(step: &Step, outcome: Outcome) -> Result<Outcome, Fault> {
    program::announce(&step.name, &outcome.findings);
    if step.after == After::Push && !outcome.attach.is_empty() {
        return Err(Fault::build(format!("step `{}` cannot attach to an image that is published", step.name))
            .hint("remove `after = \"push\"`: artifacts are attached before a tag moves"));
    }
    if !outcome.failed {
        return Ok(outcome);
    }
    let fault = Fault::build(format!("step `{}` did not pass", step.name));
    Err(outcome.findings.iter().fold(fault, |fault, finding| fault.cause(&finding.message)))
}

/// Attaches to the index of all platforms what steps have for it, before a tag names it.
pub fn attach_to_index(
    tree: &Tree,
    client: &Client,
    kind: ImageKind,
    (repository, index): (&Repository, &Descriptor),
) -> Result<(), Fault> {
    let mut artifacts = Vec::new();
    for step in due(&tree.policy, After::Build, kind) {
        if let Action::Uses(description, settings) = &step.action {
            artifacts.extend(plugins::of(description).index(&tree.root, settings, (repository, index.digest))?);
        }
    }
    attach::attach(client, repository, index, &artifacts).map(drop)
}

/// True if a build of this image signs it.
pub fn signs(policy: &Policy, kind: ImageKind) -> bool {
    due(policy, After::Build, kind).iter().any(|step| step.uses(SIGN.name))
}

/// The program that a step needs from the system, for `doctor`.
pub fn needed(step: &Step) -> Vec<&str> {
    match &step.action {
        Action::Run(command) => command.first().map(String::as_str).into_iter().collect(),
        Action::Uses(description, _) => description.tools.to_vec(),
        Action::Package(..) => vec!["cargo"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_not_ci_whatever_the_variable_says() {
        for (value, expected) in
            [("true", true), ("1", true), ("false", false), ("0", false), ("no", false), ("", false)]
        {
            assert_eq!(is_ci(Some(value.as_ref())), expected, "{value}");
        }
        assert!(!is_ci(None));
    }

    #[test]
    fn several_faults_become_one() {
        let faults = vec![
            Fault::missing("`cosign` not found").hint("install it"),
            Fault::usage("there is no key").cause("why").hint("make one"),
        ];
        let fault = together(faults).unwrap_err();
        assert_eq!(fault.what, "`cosign` not found");
        assert_eq!(fault.causes, ["and there is no key\n  cause: why"]);
        assert_eq!(fault.hints, ["install it", "make one"]);
        assert!(together(Vec::new()).is_ok());
    }
}
