//! Carries out the plan: compiles, builds, runs steps, publishes, reports. Every decision was made before.

use super::call::{BaseImage, unknown_digest};
use super::engine::Engine;
use super::foundation::impatient;
use super::planning::{Image, Planned};
use super::tagging::{Named, Put};
use super::{Session, layouts, record};
use crate::{announce, steps};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use xtask_host::docker::{Build, Output};
use xtask_host::registry::Answer;
use xtask_host::registry::publish::{self, Publication};
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, RootImage};
use xtask_host::tree::secrets::Secrets;
use xtask_host::{clock, file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::plan::{Decision, ImagePlan, Latest, Place};
use xtask_model::image::policy::{After, ImageKind};
use xtask_model::image::presence::Local;
use xtask_model::quantity;
use xtask_model::record::ledger;
use xtask_model::record::report::{self, ImageReport};
use xtask_model::spec::oci::Manifest;
use xtask_model::spec::reference::{Digest, Platform, Tag};

/// The binary's compilation, which goes on while the base is built.
type Compilation<'scope> = ScopedJoinHandle<'scope, Result<Duration, Fault>>;

struct Done {
    base: BaseImage,
    report: ImageReport,
}

impl Session<'_> {
    /// Does what the plan says; a dry run prints it and returns no report.
    pub(super) fn execute(&self, planned: &Planned) -> Result<Vec<ImageReport>, Fault> {
        for image in planned.base.iter().chain(&planned.app) {
            announce::announce(&image.plan);
        }
        let planning = self.began.elapsed();
        self.trace.borrow_mut().plan(planned);
        let reports = std::thread::scope(|scope| {
            self.looking(planned).map(|look| scope.spawn(look));
            // The base waits for downloads and the compiler for the processor: they go well together.
            let mut compilation = self.compilation(planned).map(|compile| scope.spawn(compile));
            let mut reports = Vec::new();
            let mut base = None;
            for image in planned.base.iter().chain(&planned.app) {
                let done = self.realise(image, &planned.root, base.as_ref(), &mut compilation);
                // What goes on beside a failure would only keep its message waiting.
                let mut done = done.inspect_err(|_| process::end_children())?;
                if reports.is_empty() {
                    done.report.seconds.insert(0, ("plan".to_owned(), planning.as_secs_f64()));
                }
                base = Some(done.base);
                self.trace.borrow_mut().finish(&done.report);
                reports.push(done.report);
            }
            Ok(reports)
        })?;
        Ok(if self.flags.dry_run { Vec::new() } else { reports })
    }

    /// The compiling that the plan needs. It touches nothing of the session, so that it can go on beside it.
    fn compilation(&self, planned: &Planned) -> Option<impl FnOnce() -> Result<Duration, Fault> + Send + use<>> {
        let app = planned.app.as_ref().filter(|app| app.plan.kind == ImageKind::App && !self.flags.dry_run)?;
        let Decision::Build { platforms, .. } = &app.plan.decision else { return None };
        let (binary, recipe) = (self.tree.policy.app.binary.clone()?, app.binary.clone()?);
        // The native engine asks for the binary when it finds no layer of it, unless there is time for it meanwhile.
        let waits = planned.base.as_ref().is_none_or(|base| matches!(base.plan.decision, Decision::Reuse { .. }));
        if self.engine == Engine::Native && (waits || self.has_binary(app, &recipe)) {
            return None;
        }
        let copied: BTreeSet<PathBuf> = app.parsed.files.iter().map(|file| file.path.to_path().to_owned()).collect();
        let (root, platforms) = (self.tree.root.clone(), platforms.clone());
        Some(move || {
            let compile = |platform| binary::compile(&root, &binary, platform, &recipe, &copied);
            platforms.iter().map(compile).sum()
        })
    }

    /// The looking that goes on beside a build, for the ledger: it shall not make the build longer.
    fn looking(&self, planned: &Planned) -> Option<impl FnOnce() + Send> {
        let builds = |image: &&Image| matches!(image.plan.decision, Decision::Build { .. });
        let built = || planned.base.iter().chain(&planned.app).filter(builds);
        if self.flags.dry_run || built().next().is_none() {
            return None;
        }
        let platform = self.wish.platforms[0].clone();
        let latest: Vec<_> = built().map(|image| (image.plan.repository.clone(), platform.clone())).collect();
        let latest = if self.wish.push { latest } else { Vec::new() };
        let (root, builder) = (&self.tree.root, self.flags.builder.as_deref());
        // Nobody waits for a registry only to be told what a build has cost.
        let client = impatient(&self.tree);
        let (seen, engine) = (&self.seen, self.engine);
        Some(move || {
            let found = record::look(root, engine, builder, &client, &latest);
            *seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = found;
        })
    }

    fn realise(
        &self,
        image: &Image,
        root: &RootImage,
        base: Option<&BaseImage>,
        compilation: &mut Option<Compilation<'_>>,
    ) -> Result<Done, Fault> {
        match image.plan.decision.clone() {
            Decision::Reuse { digest, platforms, place } => self.reuse(image, digest, platforms, place),
            Decision::Build { platforms, reasons } => {
                let compiled = match image.plan.kind {
                    ImageKind::App => compilation.take().map(compiled).transpose()?,
                    ImageKind::Base | ImageKind::Enhanced => None,
                };
                let mut done = self.build(image, &platforms, reasons, root, base)?;
                if let Some(took) = compiled.filter(|took| !took.is_zero()) {
                    done.report.seconds.insert(0, ("compile".to_owned(), took.as_secs_f64()));
                }
                Ok(done)
            }
        }
    }

    fn reuse(
        &self,
        image: &Image,
        digest: Digest,
        platforms: BTreeMap<Platform, Digest>,
        place: Place,
    ) -> Result<Done, Fault> {
        let plan = &image.plan;
        let mut tags = vec![plan.tag.clone()];
        let mut put = Put::nothing(plan);
        if !self.flags.dry_run {
            let began = Instant::now();
            match place {
                Place::Registry if self.wish.push => {
                    // Nothing was built since it was asked what `latest` names.
                    let latest = image.latest.clone().filter(|latest| latest.digest == digest);
                    put =
                        self.put_tags(plan, &platforms, Named { digest, revision: image.revision.clone(), latest })?;
                    tags.append(&mut put.tags);
                }
                Place::Registry => {}
                Place::Local => tags.extend(self.tag_local(plan, image.local.as_ref())?),
            }
            if began.elapsed() > Duration::from_millis(500) {
                terminal::step("tagged", &format!("in {}", quantity::seconds(began.elapsed())));
            }
        }
        let layouts = match (&image.local, self.wish.platforms.as_slice()) {
            (Some(Local { layout: Some(layout), .. }), [platform]) => {
                BTreeMap::from([(platform.clone(), layout.clone())])
            }
            _ => BTreeMap::new(),
        };
        let layers = match plan.kind {
            ImageKind::Base if self.wish.push => self.checks.layers(&plan.repository, digest, &self.wish.platforms[0]),
            ImageKind::Base | ImageKind::App | ImageKind::Enhanced => Vec::new(),
        };
        let base = BaseImage { repository: plan.repository.clone(), digests: platforms.clone(), layouts };
        let report = ImageReport {
            kind: plan.kind,
            reference: plan.repository.digest(digest),
            digest,
            platforms,
            fingerprint: plan.fingerprint.to_string(),
            tags,
            latest_stays: put.latest_stays,
            kept: put.kept,
            differences: self.differences(plan.kind),
            action: "reused",
            reasons: Vec::new(),
            size: image.size,
            steps: None,
            pulled: None,
            seconds: Vec::new(),
            layers,
        };
        Ok(Done { base, report })
    }

    fn build(
        &self,
        image: &Image,
        platforms: &[Platform],
        reasons: Vec<String>,
        root: &RootImage,
        base: Option<&BaseImage>,
    ) -> Result<Done, Fault> {
        let plan = &image.plan;
        let mut report = ImageReport {
            kind: plan.kind,
            reference: plan.repository.digest(Digest::of(b"")),
            digest: Digest::of(b""),
            platforms: BTreeMap::new(),
            fingerprint: plan.fingerprint.to_string(),
            tags: vec![plan.tag.clone()],
            latest_stays: report::stays(&plan.latest),
            kept: plan.notes.clone(),
            differences: self.differences(plan.kind),
            action: "built",
            reasons,
            size: None,
            steps: None,
            pulled: None,
            seconds: Vec::new(),
            layers: Vec::new(),
        };
        let mut layouts = BTreeMap::new();
        for platform in platforms {
            let secrets = match self.engine {
                Engine::Docker => Secrets::of(&image.parsed.secrets, root.name.strip_prefix("debian:"), &|| {
                    facts::indexes(&self.tree)
                })?,
                Engine::Native => Secrets::none(),
            };
            let call = self.call(image, platform, root, base, &secrets)?;
            if self.flags.dry_run {
                // On stdout: it is what was asked for.
                anstream::print!("{}", self.shown(image, &call)?);
                report.platforms.insert(platform.clone(), unknown_digest());
                continue;
            }
            let layout = self.prepare_layout(&call)?;
            let digest = match self.engine {
                Engine::Docker => self.build_by_docker(image, &call, &mut report)?,
                Engine::Native => self.build_natively(image, &call, &mut report)?,
            };
            report.platforms.insert(platform.clone(), digest);
            if let Some((partial, folder)) = layout {
                layouts::keep(&partial, &folder)?;
                report.size = facts::in_layout(&self.tree, plan.kind, &plan.fingerprint, &plan.tag, platform)?
                    .and_then(|l| l.size);
                let stores = self.engine == Engine::Native && plan.kind == ImageKind::App;
                if stores && call.outputs.contains(&Output::Store) {
                    self.load(&folder, image)?;
                }
                layouts.insert(platform.clone(), folder);
            }
            self.run_steps(After::Build, plan, platform, digest, &mut report)?;
        }
        if !self.flags.dry_run {
            self.finish(image, platforms, &mut report)?;
        }
        let base = BaseImage { repository: plan.repository.clone(), digests: report.platforms.clone(), layouts };
        Ok(Done { base, report })
    }

    /// What an engine is going to be told.
    fn shown(&self, image: &Image, call: &Build) -> Result<String, Fault> {
        match self.engine {
            Engine::Docker => {
                let docker = self.docker()?;
                let staged = self.stage(image, call)?;
                let call = &Build { context: staged.folder.clone(), ..call.clone() };
                Ok(format!("{}\n", docker.shown(&docker.build_command(call, Path::new("metadata.json")))))
            }
            Engine::Native => self.show_native(image, call),
        }
    }

    fn build_by_docker(&self, image: &Image, call: &Build, report: &mut ImageReport) -> Result<Digest, Fault> {
        let (plan, platform) = (&image.plan, &call.platform);
        let staged = self.stage(image, call)?;
        let call = &Build { context: staged.folder.clone(), ..call.clone() };
        let built = self.docker()?.build(call, &format!("{} for {platform}", plan.kind))?;
        drop(staged);
        report.took("build", built.took);
        report.steps = Some([built.steps.all, built.steps.cached]);
        report.pulled = Some(built.pulled.values().sum());
        if !self.wish.push {
            return Ok(built.digest);
        }
        let digest = self.pushed(plan, platform)?;
        report.weigh(&self.pushed_manifest(plan, digest)?);
        // BuildKit rounds what it says; the manifest does not.
        let exact: BTreeMap<Digest, u64> = report.layers.iter().copied().collect();
        report.pulled = Some(built.pulled.iter().map(|(layer, about)| exact.get(layer).unwrap_or(about)).sum());
        Ok(digest)
    }

    fn build_natively(&self, image: &Image, call: &Build, report: &mut ImageReport) -> Result<Digest, Fault> {
        let before = self.client.streamed();
        let built = self.build_native(image, call)?;
        report.pulled = Some(self.client.streamed() - before);
        for (phase, took) in &built.took {
            report.took(*phase, *took);
        }
        report.steps = Some(built.layers);
        report.weigh(&built.manifest);
        Ok(built.digest)
    }

    /// Publishes what was built, or names it in the local store, and writes its key down.
    fn finish(&self, image: &Image, platforms: &[Platform], report: &mut ImageReport) -> Result<(), Fault> {
        let plan = &image.plan;
        process::interrupted()?;
        if self.wish.push {
            let began = Instant::now();
            let mut notes = publish::notes(&plan.fingerprint, image.key.clone(), &self.labels(plan.kind));
            let now = clock::now().to_string();
            notes.extend(platforms.iter().map(|platform| (publish::built(platform), now.clone())));
            notes.extend(self.record_note(report).map(|record| (ledger::annotation(&platforms[0]), record)));
            let publication = Publication {
                repository: &plan.repository,
                fingerprint: plan.fingerprint,
                tag: plan.tag.clone(),
                built: report.platforms.clone(),
                notes,
                replace: plan.replaces,
            };
            let outcome = publish::publish(&self.client, &publication)?;
            if outcome.adopted.len() == platforms.len() {
                terminal::step(
                    "adopted",
                    &format!("another job published `{}` first: its image is taken", plan.repository.tag(&plan.tag)),
                );
                report.action = "adopted";
            }
            report.digest = outcome.published.digest;
            report.platforms = outcome.published.platforms.iter().map(|(p, found)| (p.clone(), found.digest)).collect();
            let revision = outcome.published.revision().map(str::to_owned);
            let named = Named { digest: report.digest, revision, latest: None };
            let put = self.put_tags(plan, &report.platforms, named)?;
            report.tags.extend(put.tags);
            (report.latest_stays, report.kept) = (put.latest_stays, put.kept);
            report.took("publish", began.elapsed());
            for platform in platforms {
                self.run_steps(After::Push, plan, platform, report.platforms[platform], report)?;
            }
        } else {
            report.digest = report.platforms[&platforms[0]];
            report.tags.extend(self.local_tags(plan));
        }
        report.reference = plan.repository.digest(report.digest);
        file::write(&self.key_file(plan.kind), &image.key).map(drop)
    }

    fn run_steps(
        &self,
        when: After,
        plan: &ImagePlan,
        platform: &Platform,
        digest: Digest,
        report: &mut ImageReport,
    ) -> Result<(), Fault> {
        let reference = plan.repository.digest(digest);
        let version = self.tree.version();
        let subject = steps::Subject {
            kind: plan.kind,
            reference: &reference,
            digest,
            platform,
            size: report.size,
            version: version.as_deref(),
        };
        let times = steps::run(&self.tree.policy, &self.tree.root, when, &|| self.runner(), &subject)?;
        times.into_iter().for_each(|(name, took)| report.took(name, took));
        Ok(())
    }

    /// The digest under which the registry knows what was just pushed. An engine with the classic image store knows its images by
    /// their configurations alone, so the registry is asked.
    fn pushed(&self, plan: &ImagePlan, platform: &Platform) -> Result<Digest, Fault> {
        let tag = publish::platform_tag(&plan.tag, platform);
        match self.client.head(&plan.repository, tag.clone())? {
            Answer::Present(found) => Ok(found.digest),
            Answer::Absent => {
                Err(Fault::network(format!("`{}` was pushed and is not there", plan.repository.tag(&tag)))
                    .hint("run this again; if it stays so, the registry loses what it is given"))
            }
        }
    }

    fn pushed_manifest(&self, plan: &ImagePlan, digest: Digest) -> Result<Manifest, Fault> {
        let lost = || Fault::network(format!("`{}` was pushed and is not there", plan.repository.digest(digest)));
        let Answer::Present(found) = publish::read(&self.client, &plan.repository, digest)? else { return Err(lost()) };
        let first = found.platforms.values().next().ok_or_else(lost)?;
        publish::read_manifest(&self.client, &plan.repository, first.digest)
    }

    /// The names beside the fingerprint's in the local store.
    pub(super) fn local_tags(&self, plan: &ImagePlan) -> Vec<Tag> {
        let latest = (plan.latest == Latest::Moves).then(Tag::latest);
        plan.tags.iter().cloned().chain(latest).collect()
    }

    /// Gives an app of the local store the names of this commit, as a new build would have.
    fn tag_local(&self, plan: &ImagePlan, local: Option<&Local>) -> Result<Vec<Tag>, Fault> {
        let tags = self.local_tags(plan);
        if local.is_some_and(|local| local.layout.is_some()) {
            return Ok(tags);
        }
        let docker = self.docker()?;
        let name = plan.repository.tag(&plan.tag).to_string();
        let stored = docker.stored(&name)?.map(|stored| stored.tags).unwrap_or_default();
        for tag in &tags {
            let wanted = plan.repository.tag(tag).to_string();
            if !stored.iter().any(|name| familiar(name) == familiar(&wanted)) {
                docker.tag(&name, &wanted)?;
            }
        }
        Ok(tags)
    }

    /// The folder into which a base's layout is written, and the one where it belongs once it is whole.
    fn prepare_layout(&self, call: &Build) -> Result<Option<(PathBuf, PathBuf)>, Fault> {
        for output in &call.outputs {
            if let Output::Layout(partial) = output {
                let final_folder = partial.with_extension("");
                layouts::prepare(partial)?;
                return Ok(Some((partial.clone(), final_folder)));
            }
        }
        Ok(None)
    }
}

/// The end of the compilation, waited for.
fn compiled(compilation: Compilation<'_>) -> Result<Duration, Fault> {
    compilation.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A name as docker prints it: without the registry that it takes for granted.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}
