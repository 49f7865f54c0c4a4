//! What the ledger is told of a build: gathered while it goes on, so that a build that fails leaves what is known of it.

use super::Session;
use super::engine::Engine;
use super::planning::Planned;
use std::collections::BTreeSet;
use std::path::Path;
use xtask_host::docker::Docker;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::foremost;
use xtask_model::image::plan::Decision;
use xtask_model::image::policy::ImageKind;
use xtask_model::record::ledger::{self, Bytes, Change, Kind, Record};
use xtask_model::record::report::ImageReport;
use xtask_model::spec::oci;
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};

/// What is known of the build so far.
#[derive(Default)]
pub(super) struct Trace {
    decision: Option<Kind>,
    change: Option<Change>,
    reasons: Vec<String>,
    finished: Vec<ImageReport>,
}

/// What can be seen beside the build, without making it wait.
#[derive(Default)]
pub(super) struct Seen {
    /// What builds.
    engine: Option<String>,
    /// The layers that the registry had before.
    known: BTreeSet<Digest>,
}

/// The layers of an image, lowest first, with their compressed bytes.
pub(crate) type Layers = Vec<(Digest, u64)>;

impl Trace {
    /// Takes down what is going to be done.
    pub(super) fn plan(&mut self, planned: &Planned) {
        let builds = |image: &super::planning::Image| matches!(image.plan.decision, Decision::Build { .. });
        let base = planned.base.as_ref().is_some_and(builds);
        let app = planned.app.as_ref().filter(|app| builds(app)).map(|app| app.plan.kind);
        self.decision = Some(match (base, app) {
            (_, Some(ImageKind::Enhanced)) => Kind::Enhanced,
            (true, Some(_)) => Kind::BaseFast,
            (false, Some(_)) => Kind::Fast,
            (true, None) => Kind::Base,
            (false, None) => Kind::Reused,
        });
        self.change = planned.app.as_ref().filter(|app| builds(app)).and_then(|app| app.change);
        for image in planned.base.iter().chain(&planned.app) {
            if let Decision::Build { reasons, .. } = &image.plan.decision {
                self.reasons.extend(foremost(reasons).iter().map(|reason| format!("{}: {reason}", image.plan.kind)));
            }
        }
    }

    /// Takes down an image that is done.
    pub(super) fn finish(&mut self, report: &ImageReport) {
        self.finished.push(report.clone());
    }
}

/// Looks at the engine and at what the registry has, while something is built.
pub(super) fn look(
    root: &Path,
    engine: Engine,
    builder: Option<&str>,
    client: &Client,
    latest: &[(Repository, Platform)],
) -> Seen {
    let engine = match (engine, builder) {
        (Engine::Native, _) => Some(ledger::NATIVE.to_owned()),
        (Engine::Docker, Some(name)) => Some(format!("{}{name}", ledger::BUILDER)),
        (Engine::Docker, None) => Docker::find(root).and_then(|docker| docker.version()).ok(),
    };
    let mut known = BTreeSet::new();
    for (repository, platform) in latest {
        // What cannot be read only makes the record say less.
        let Ok(Answer::Present(found)) = publish::read(client, repository, Tag::latest()) else { continue };
        let Some(descriptor) = found.platforms.get(platform) else { continue };
        known.extend(
            layers(client, repository, descriptor.digest).unwrap_or_default().into_iter().map(|(digest, _)| digest),
        );
    }
    Seen { engine, known }
}

/// The layers of a manifest in a registry.
pub(super) fn layers(client: &Client, repository: &Repository, digest: Digest) -> Result<Layers, Fault> {
    Ok(layers_of(&publish::read_manifest(client, repository, digest)?))
}

/// The layers of a manifest.
pub(super) fn layers_of(manifest: &oci::Manifest) -> Layers {
    manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect()
}

impl Session<'_> {
    /// Appends this build to the ledger. That it cannot be written ends nothing.
    pub(super) fn append_record(&self, failed: Option<&Fault>) {
        let mut record = self.record(&[]);
        record.failed = failed.map(|fault| match fault.exit {
            Exit::Interrupted => "interrupted".to_owned(),
            _ => fault.what.lines().next().unwrap_or_default().to_owned(),
        });
        if let Err(fault) = xtask_host::tree::ledger::append(&self.tree.root, &record) {
            terminal::warn(&format!("{}: {}", fault.what, fault.causes.join(": ")));
        }
    }

    /// The annotation with which the record travels where the disk does not last; `unfinished` is the image about to be
    /// published. Only the last image that a command builds carries it, so that it is counted once.
    pub(super) fn record_note(&self, unfinished: &ImageReport) -> Option<String> {
        let in_ci = in_ci();
        let last = match self.trace.borrow().decision? {
            Kind::BaseFast => ImageKind::App,
            _ => unfinished.kind,
        };
        (in_ci && unfinished.kind == last).then(|| self.record(std::slice::from_ref(unfinished)).compact())
    }

    /// Whether an image of this build is not made of the commit alone.
    fn differs(&self) -> bool {
        self.differences.borrow().values().any(|differences| !differences.is_empty())
    }

    /// What is known now.
    fn record(&self, unfinished: &[ImageReport]) -> Record {
        let trace = self.trace.borrow();
        let seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let reports: Vec<&ImageReport> = trace.finished.iter().chain(unfinished).collect();
        let commit = self.tree.commit.as_ref();
        let phases = |report: &&ImageReport| {
            let kind = report.kind;
            let name = move |phase: &str| if phase == "plan" { phase.to_owned() } else { format!("{kind} {phase}") };
            report.seconds.iter().map(move |(phase, seconds)| (name(phase), round(*seconds))).collect::<Vec<_>>()
        };
        let steps = reports.iter().filter_map(|report| report.steps);
        let steps = steps.reduce(|[all, cached], [more, warm]| [all + more, cached + warm]);
        Record {
            schema: ledger::SCHEMA,
            when: self.when,
            commit: commit.map(|commit| format!("{}{}", commit.id, if self.differs() { "-dirty" } else { "" })),
            branch: commit.and_then(|commit| commit.branch.clone()),
            decision: trace.decision.unwrap_or(Kind::Undecided),
            reasons: trace.reasons.clone(),
            change: trace.change,
            seconds: round(self.began.elapsed().as_secs_f64()),
            phases: reports.iter().flat_map(phases).collect(),
            bytes: bytes(&reports, &seen.known, self.wish.push),
            steps,
            engine: seen.engine.clone(),
            platform: Some(Platform::host()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            ci: in_ci(),
            failed: None,
        }
    }
}

pub(super) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Milliseconds are what these clocks are good for.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The bytes of a build, from the layers of its images, base first.
fn bytes(reports: &[&ImageReport], known: &BTreeSet<Digest>, push: bool) -> Bytes {
    let mut sums = Bytes::default();
    let mut beneath: BTreeSet<Digest> = BTreeSet::new();
    let add = |sum: &mut Option<u64>, bytes: u64| *sum = Some(sum.unwrap_or(0) + bytes);
    for (index, report) in reports.iter().enumerate() {
        if let Some(pulled) = report.pulled {
            add(&mut sums.pulled, pulled);
        }
        match (report.action, report.layers.is_empty()) {
            ("reused", _) => {
                // What the next image shows to stand on is counted there.
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
                add(&mut sums.built, sum(&|digest| !beneath.contains(digest)));
                add(&mut sums.reused, sum(&|digest| beneath.contains(digest)));
                if push {
                    add(&mut sums.pushed, sum(&|digest| !beneath.contains(digest) && !known.contains(digest)));
                }
            }
            (_, true) => {
                if let Some(size) = report.size {
                    add(&mut sums.built, size);
                }
            }
        }
        beneath.extend(report.layers.iter().map(|(digest, _)| *digest));
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
            pulled: None,
            seconds: Vec::new(),
            layers: layers.iter().map(|(name, size)| (Digest::of(name.as_bytes()), *size)).collect(),
        }
    }

    #[test]
    fn layers_beneath_are_reused_and_those_that_were_there_are_not_pushed() {
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
