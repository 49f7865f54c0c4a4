//! The ledger's record of a build. It is filled during the build, so that a build that fails leaves a record too.

use super::Context;
use super::engine::BuildEngine;
use super::facts::Planned;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use xtask_host::docker::Docker;
use xtask_host::registry::{Client, publish};
use xtask_host::{clock, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::{EditKind, foremost};
use xtask_model::image::plan::{Decision, ImagePlan, Target};
use xtask_model::image::policy::ImageKind;
use xtask_model::record::ledger::{self, BuildKind, Bytes, Record};
use xtask_model::record::report::ImageReport;
use xtask_model::spec::oci;
use xtask_model::spec::reference::{Digest, Platform, Repository};
use xtask_model::time::Timestamp;

/// A build's record so far.
pub(super) struct Trace {
    began: Cell<Instant>,
    /// The time that has passed at a pause.
    paused: Cell<Duration>,
    /// The part of it that the root took.
    root: Cell<Duration>,
    /// The same moment on the calendar.
    when: Timestamp,
    progress: RefCell<Progress>,
    docker: DockerVersion,
    /// Filled by another thread.
    background: Mutex<Background>,
}

/// The version of docker's engine. Whoever asks first calls docker, and others wait for the answer.
#[derive(Default)]
struct DockerVersion(Mutex<Option<String>>);

impl DockerVersion {
    fn get(&self, root: &Path) -> Result<String, Fault> {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*known {
            Some(version) => Ok(version.clone()),
            None => Ok(known.insert(Docker::find(root)?.version()?).clone()),
        }
    }
}

#[derive(Default)]
struct Progress {
    decision: Option<BuildKind>,
    change: Option<EditKind>,
    reasons: Vec<String>,
    /// An image has inputs that are not the commit's.
    differs: bool,
    finished: Vec<ImageReport>,
}

/// Facts that only the record needs, read in the background so that the build does not wait for them.
#[derive(Default)]
struct Background {
    engine: Option<String>,
    /// The layers that the registry had before.
    known: BTreeSet<Digest>,
}

/// The layers of an image, lowest first, with their compressed bytes.
pub(crate) type Layers = Vec<(Digest, u64)>;

impl Trace {
    pub(super) fn begin() -> Self {
        Self {
            began: Cell::new(Instant::now()),
            paused: Cell::default(),
            root: Cell::default(),
            when: clock::now(),
            progress: RefCell::default(),
            docker: DockerVersion::default(),
            background: Mutex::default(),
        }
    }

    /// Start time of the build.
    pub(super) fn when(&self) -> Timestamp {
        self.when
    }

    fn elapsed(&self) -> Duration {
        self.began.get().elapsed()
    }

    /// Does the work on the root that comes before the execution of the plan.
    pub(super) fn root<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.root.set(self.root.get() + began.elapsed());
        done
    }

    /// The phases until now, with their seconds.
    pub(super) fn phases(&self) -> Vec<(String, f64)> {
        let root = self.root.get();
        let mut phases = vec![("plan".to_owned(), self.elapsed().saturating_sub(root).as_secs_f64())];
        if !root.is_zero() {
            phases.push(("root".to_owned(), root.as_secs_f64()));
        }
        phases
    }

    /// The version of the engine that builds.
    pub(super) fn docker_version(&self, context: &Context<'_>) -> Result<String, Fault> {
        match &context.request.builder {
            Some(_) => context.docker()?.version(),
            None => self.docker.get(&context.tree.root),
        }
    }

    /// Ends the time that counts, until [`Self::resume`]: other apps are planned or built.
    pub(super) fn pause(&self) {
        self.paused.set(self.elapsed());
    }

    pub(super) fn resume(&self) {
        let now = Instant::now();
        self.began.set(now.checked_sub(self.paused.get()).unwrap_or(now));
    }

    /// Records the plan. A base that was built for an earlier app is in the record of that app.
    pub(super) fn plan(&self, planned: &Planned, base_is_done: bool) {
        let mut progress = self.progress.borrow_mut();
        let plan = &planned.plan;
        let base = plan.base.as_ref().is_some_and(|base| base.builds() && !base_is_done);
        let app = plan.app.as_ref().filter(|app| app.builds()).map(|app| app.kind);
        progress.decision = Some(match (base, app) {
            (_, Some(ImageKind::Enhanced)) => BuildKind::Enhanced,
            (true, Some(_)) => BuildKind::BaseFast,
            (false, Some(_)) => BuildKind::Fast,
            (true, None) => BuildKind::Base,
            (false, None) => BuildKind::Reused,
        });
        progress.change = app.and_then(|_| planned.facts.app.as_ref()?.edited);
        progress.differs =
            planned.facts.base.iter().chain(&planned.facts.app).any(|image| !image.differences.is_empty());
        for image in plan.images().filter(|image| !base_is_done || image.kind != ImageKind::Base) {
            if let Decision::Build { reasons, .. } = &image.decision {
                progress.reasons.extend(foremost(reasons).iter().map(|reason| format!("{}: {reason}", image.kind)));
            }
        }
    }

    /// Records an image that is done.
    pub(super) fn finish(&self, report: &ImageReport) {
        self.progress.borrow_mut().finished.push(report.clone());
    }

    /// The background work for a plan that builds something.
    pub(super) fn background<'a>(
        &'a self,
        context: &'a Context<'_>,
        planned: &Planned,
    ) -> Option<impl FnOnce() + Send + use<'a>> {
        let request = &context.request;
        if request.dry_run || !planned.plan.images().any(ImagePlan::builds) {
            return None;
        }
        let platform = &request.wanted.platforms[0];
        let images = planned.facts.base.iter().chain(&planned.facts.app);
        let latest: Vec<(Repository, Digest)> = images
            .zip(planned.plan.images())
            .filter(|(_, plan)| plan.builds())
            .filter_map(|(facts, _)| {
                let manifest = facts.latest.as_ref()?.platforms.get(platform)?;
                Some((facts.repository.clone(), manifest.digest))
            })
            .collect();
        let (root, engine, builder) = (context.tree.root.clone(), request.engine, request.builder.clone());
        let (client, background, docker) = (context.client, &self.background, &self.docker);
        Some(move || {
            let engine = match (engine, builder) {
                (BuildEngine::Native, _) => Some(ledger::NATIVE.to_owned()),
                (BuildEngine::Docker, Some(name)) => Some(format!("{}{name}", ledger::BUILDER)),
                (BuildEngine::Docker, None) => docker.get(&root).ok(),
            };
            let known = latest.iter().flat_map(|(repository, manifest)| {
                // A registry that cannot be read only makes the record less complete.
                layers(client, repository, *manifest).unwrap_or_default()
            });
            let known = known.map(|(digest, _)| digest).collect();
            *background.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Background { engine, known };
        })
    }
}

/// The layers of a manifest in a registry.
pub(super) fn layers(client: &Client, repository: &Repository, digest: Digest) -> Result<Layers, Fault> {
    Ok(layers_of(&publish::read_manifest(client, repository, digest)?))
}

pub(super) fn layers_of(manifest: &oci::Manifest) -> Layers {
    manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect()
}

impl Trace {
    /// Appends a build that ends before it is executed, unless it leaves no record.
    pub(super) fn recorded<T>(&self, context: &Context<'_>, done: Result<T, Fault>) -> Result<T, Fault> {
        if !context.request.dry_run && !context.request.contained {
            done.as_ref().err().inspect(|fault| self.append(context, Some(fault)));
        }
        done
    }

    /// Appends this build to the ledger. A failure to write it is a warning.
    pub(super) fn append(&self, context: &Context<'_>, failed: Option<&Fault>) {
        let mut record = self.record(context, &[]);
        record.failed = failed.map(|fault| match fault.exit {
            Exit::Interrupted => "interrupted".to_owned(),
            _ => fault.what.lines().next().unwrap_or_default().to_owned(),
        });
        if let Err(fault) = xtask_host::tree::ledger::append(&context.tree.root, &record) {
            terminal::warn(&format!("{}: {}", fault.what, fault.causes.join(": ")));
        }
    }

    /// The annotation with which the record travels where the disk does not last; `unfinished` is the image about to be
    /// published. Only the last image that a command builds carries it, so that it is counted once.
    pub(super) fn note(&self, context: &Context<'_>, unfinished: &ImageReport) -> Option<String> {
        let in_ci = crate::steps::in_ci();
        let last = match self.progress.borrow().decision? {
            BuildKind::BaseFast => ImageKind::App,
            _ => unfinished.kind,
        };
        (in_ci && unfinished.kind == last).then(|| self.record(context, std::slice::from_ref(unfinished)).compact())
    }

    /// The record now.
    fn record(&self, context: &Context<'_>, unfinished: &[ImageReport]) -> Record {
        let progress = self.progress.borrow();
        let background = self.background.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let reports: Vec<&ImageReport> = progress.finished.iter().chain(unfinished).collect();
        let commit = context.tree.commit.as_ref();
        let phases = |report: &&ImageReport| {
            let kind = report.kind;
            let name = move |phase: &str| {
                if ["plan", "root"].contains(&phase) { phase.to_owned() } else { format!("{kind} {phase}") }
            };
            report.seconds.iter().map(move |(phase, seconds)| (name(phase), round(*seconds))).collect::<Vec<_>>()
        };
        // A base that is built alone is that of every app on it.
        let app = context.request.wanted.target != Target::Base;
        let steps = reports.iter().filter_map(|report| report.steps);
        let steps = steps.reduce(|[all, cached], [more, warm]| [all + more, cached + warm]);
        Record {
            schema: ledger::SCHEMA,
            when: self.when,
            app: app.then(|| context.tree.policy.app.name.clone()).flatten(),
            commit: commit.map(|commit| format!("{}{}", commit.id, if progress.differs { "-dirty" } else { "" })),
            branch: commit.and_then(|commit| commit.branch.clone()),
            decision: progress.decision.unwrap_or(BuildKind::Undecided),
            reasons: progress.reasons.clone(),
            change: progress.change,
            seconds: round(self.elapsed().as_secs_f64()),
            phases: reports.iter().flat_map(phases).collect(),
            bytes: bytes(&reports, &background.known, context.request.wanted.push),
            steps,
            engine: background.engine.clone(),
            platform: Some(Platform::host()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            ci: crate::steps::in_ci(),
            failed: None,
        }
    }
}

/// Rounds to milliseconds.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The bytes of a build, from the layers of its images, base first.
fn bytes(reports: &[&ImageReport], known: &BTreeSet<Digest>, push: bool) -> Bytes {
    let mut sums = Bytes::default();
    let mut lower: BTreeSet<Digest> = BTreeSet::new();
    let add = |sum: &mut Option<u64>, bytes: u64| *sum = Some(sum.unwrap_or(0) + bytes);
    for (index, report) in reports.iter().enumerate() {
        if let Some(pulled) = report.pulled {
            add(&mut sums.pulled, pulled);
        }
        match (report.action, report.layers.is_empty()) {
            ("reused", _) => {
                // The layers of the next image include these, and count them.
                let counted_later = reports.get(index + 1).is_some_and(|next| !next.layers.is_empty());
                let layers = report.layers.iter().map(|(_, size)| *size).sum();
                if let Some(size) = report.size.or(Some(layers)).filter(|size| *size > 0 && !counted_later) {
                    add(&mut sums.reused, size);
                }
            }
            (_, false) => {
                let sum = |test: &dyn Fn(&Digest) -> bool| {
                    report.layers.iter().filter(|(digest, _)| test(digest)).map(|(_, size)| size).sum::<u64>()
                };
                add(&mut sums.built, sum(&|digest| !lower.contains(digest)));
                add(&mut sums.reused, sum(&|digest| lower.contains(digest)));
                if push {
                    add(&mut sums.pushed, sum(&|digest| !lower.contains(digest) && !known.contains(digest)));
                }
            }
            (_, true) => {
                if let Some(size) = report.size {
                    add(&mut sums.built, size);
                }
            }
        }
        lower.extend(report.layers.iter().map(|(digest, _)| *digest));
    }
    if !reports.is_empty() && reports.iter().all(|report| report.action == "reused") {
        sums = Bytes { built: Some(0), pulled: Some(0), pushed: Some(0), ..sums };
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn report(kind: ImageKind, action: &'static str, layers: &[(&str, u64)]) -> ImageReport {
        let digest = Digest::of(b"");
        ImageReport {
            kind,
            name: None,
            reference: format!("127.0.0.1:1/x@{digest}").parse().unwrap(),
            digest,
            platforms: BTreeMap::new(),
            fingerprint: String::new(),
            tags: Vec::new(),
            latest_stays: None,
            kept: Vec::new(),
            differences: Vec::new(),
            action,
            reasons: Vec::new(),
            size: None,
            steps: None,
            imports: None,
            checked: BTreeMap::new(),
            pulled: None,
            dependencies: None,
            seconds: Vec::new(),
            layers: layers.iter().map(|(name, size)| (Digest::of(name.as_bytes()), *size)).collect(),
        }
    }

    #[test]
    fn layers_of_the_base_are_reused_and_known_layers_are_not_pushed() {
        let base = report(ImageKind::Base, "reused", &[("root", 10), ("packages", 100)]);
        let app = report(ImageKind::App, "built", &[("root", 10), ("packages", 100), ("binary", 7), ("code", 1)]);
        let known = BTreeSet::from([Digest::of(b"binary")]);
        let expected = Bytes { built: Some(8), pulled: None, pushed: Some(1), reused: Some(110) };
        assert_eq!(bytes(&[&base, &app], &known, true), expected);
        assert_eq!(bytes(&[&base, &app], &known, false), Bytes { pushed: None, ..expected });
        let pulling = ImageReport { pulled: Some(110), ..app.clone() };
        assert_eq!(bytes(&[&base, &pulling], &known, true), Bytes { pulled: Some(110), ..expected });
        let nothing = Bytes { built: Some(0), pulled: Some(0), pushed: Some(0), reused: Some(110) };
        assert_eq!(bytes(&[&base], &known, true), nothing);
        assert_eq!(bytes(&[], &known, true), Bytes::default());
    }
}
