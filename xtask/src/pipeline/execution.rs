//! Carries out the plan: compiles, builds, runs steps, publishes, reports. Every decision was made before.

mod compilation;

use super::engine::BuildEngine;
use super::facts::key_file;
use super::order::{self, BaseImage, Image, labels, local_tags};
use super::record::Trace;
use super::tagging::{Named, Tagger};
use super::{Context, Work, docker, export, layouts, native};
use crate::plugins::{BuildFacts, Subject};
use crate::{announce, steps};
use std::collections::BTreeMap;
use std::time::Instant;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish::{self, Publication};
use xtask_host::registry::{Answer, attach};
use xtask_host::tree::facts::{self, RootImage};
use xtask_host::{clock, file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::order::{ImageOrder, Output};
use xtask_model::image::plan::{Decision, ImagePlan, Place};
use xtask_model::image::policy::{After, ImageKind};
use xtask_model::image::presence::Presence;
use xtask_model::record::ledger;
use xtask_model::record::report::{self, ImageReport};
use xtask_model::spec::oci::{Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_native::image::Place as ImagePlace;

pub(super) use compilation::Compilation;

struct Done {
    base: BaseImage,
    report: ImageReport,
}

/// The bases that this command built, or found, for an earlier app: by their names, which their fingerprints are part of.
pub(super) type Bases = BTreeMap<Reference, BaseImage>;

/// Does what the plan says; a dry run prints it and returns no report. Takes over an earlier compilation of its program.
pub(super) fn execute(
    work: &Work<'_, '_>,
    bases: &mut Bases,
    earlier: &mut Option<Compilation<'_>>,
) -> Result<Vec<ImageReport>, Fault> {
    let Work { context, sources, planned, trace } = work;
    if planned.facts.unbuilt_root {
        let what = format!("root `{}` from Debian packages: it is not on this machine", planned.root.name);
        terminal::step("planned", &what);
    }
    let mut base = planned.facts.base.as_ref().and_then(|base| bases.get(&base.reference())).cloned();
    let is_left = |image: &Image<'_>| image.plan.kind != ImageKind::Base || base.is_none();
    let images: Vec<Image<'_>> = planned.images(sources).filter(is_left).collect();
    images.iter().for_each(|image| announce::announce(image.plan, &context.tree.policy));
    let before = trace.phases();
    trace.plan(planned, base.is_some());
    let execution = Execution { context, root: &planned.root, trace, tagger: Tagger::new(context) };
    let reports = std::thread::scope(|scope| {
        trace.background(context, planned).map(|work| scope.spawn(work));
        // The base waits for downloads and the compiler for the processor, so they run in parallel.
        let mut compilation = match earlier.take_if(|earlier| earlier.is_for(&images)) {
            Some(earlier) => Some(earlier),
            None => Compilation::start(scope, context, &images),
        };
        let mut reports = Vec::new();
        for image in &images {
            let mut done = execution.realise(image, base.as_ref(), &mut compilation)?;
            if reports.is_empty() {
                done.report.seconds.splice(0..0, before.iter().cloned());
            }
            if image.plan.kind == ImageKind::Base {
                bases.insert(image.facts.reference(), done.base.clone());
            }
            base = Some(done.base);
            trace.finish(&done.report);
            reports.push(done.report);
        }
        Ok(reports)
    })?;
    Ok(if context.request.dry_run { Vec::new() } else { reports })
}

/// Values that the execution of every image shares.
struct Execution<'a> {
    context: &'a Context<'a>,
    root: &'a RootImage,
    trace: &'a Trace,
    tagger: Tagger<'a>,
}

impl Execution<'_> {
    fn realise(
        &self,
        image: &Image<'_>,
        base: Option<&BaseImage>,
        compilation: &mut Option<Compilation<'_>>,
    ) -> Result<Done, Fault> {
        let Decision::Build { platforms, .. } = &image.plan.decision else { return self.reuse(image) };
        let compiled = match image.plan.kind {
            ImageKind::App => compilation.take().map(Compilation::finish).transpose()?,
            ImageKind::Base | ImageKind::Enhanced => None,
        };
        let mut done = self.build(image, platforms, base)?;
        done.report.dependencies = self.context.dependencies.take();
        if let Some(compiled) = compiled.filter(|compiled| !compiled.took.is_zero()) {
            done.report.seconds.insert(0, ("compile".to_owned(), compiled.took.as_secs_f64()));
            done.report.dependencies = compiled.dependencies.or(done.report.dependencies.take());
        }
        Ok(done)
    }

    fn reuse(&self, image: &Image<'_>) -> Result<Done, Fault> {
        let (plan, wanted) = (image.plan, &self.context.request.wanted);
        let Decision::Reuse { digest, platforms, place } = &plan.decision else { unreachable!("it is built") };
        let mut report = self.report(image, "reused", *digest);
        report.platforms = platforms.clone();
        report.size = image.facts.local().and_then(|local| local.size);
        if !self.context.request.dry_run {
            match place {
                Place::Registry if wanted.push => {
                    // Nothing was built since `latest` was read.
                    let latest = image.facts.latest.clone().filter(|latest| latest.digest == *digest);
                    let revision = image.facts.revision().map(str::to_owned);
                    let put = self.tagger.put_tags(plan, platforms, Named { digest: *digest, revision, latest })?;
                    report.tags.extend(put.tags);
                    (report.latest_stays, report.kept) = (put.latest_stays, put.kept);
                }
                Place::Registry => {}
                Place::Local => report.tags.extend(docker::tag_local(self.context, plan, image.facts.local())?),
            }
        }
        let layouts = match (image.facts.local().and_then(|local| local.layout.clone()), wanted.platforms.as_slice()) {
            (Some(layout), [platform]) => BTreeMap::from([(platform.clone(), layout)]),
            _ => BTreeMap::new(),
        };
        if plan.kind == ImageKind::Base && wanted.push {
            report.layers = self.context.checks.layers(&plan.repository, *digest, &wanted.platforms[0]);
        }
        let digests = platforms.iter().map(|(platform, digest)| (platform.clone(), Some(*digest))).collect();
        let checked = match &image.facts.presence {
            Presence::Registry(published) => {
                platforms.keys().filter_map(|platform| Some((platform.clone(), published.checked(platform)?))).collect()
            }
            _ => BTreeMap::new(),
        };
        Ok(Done { base: BaseImage { repository: plan.repository.clone(), digests, layouts, checked }, report })
    }

    fn build(&self, image: &Image<'_>, platforms: &[Platform], base: Option<&BaseImage>) -> Result<Done, Fault> {
        let (plan, context) = (image.plan, self.context);
        let mut report = self.report(image, "built", Digest::of(b""));
        // The platforms that are not built again are in the registry.
        let present = match &image.facts.presence {
            Presence::Registry(published) => published.platforms.clone(),
            Presence::NotAsked | Presence::Unknown(_) | Presence::Absent | Presence::Local(_) => BTreeMap::new(),
        };
        let digests = present.into_iter().map(|(platform, manifest)| (platform, Some(manifest.digest))).collect();
        let (repository, layouts, checked) = (plan.repository.clone(), BTreeMap::new(), BTreeMap::new());
        let mut result = BaseImage { repository, digests, layouts, checked };
        for platform in platforms {
            let order = order::order(context, image, platform, self.root, base)?;
            if context.request.dry_run {
                // On stdout: it is what was asked for.
                anstream::print!("{}", self.shown(image, &order)?);
                result.digests.insert(platform.clone(), None);
                continue;
            }
            if let Some(partial) = order.layout() {
                layouts::prepare(partial)?;
            }
            // What was asked early is of the time before: from here on tags move, by other programs too.
            context.client.forget_early();
            let digest = match context.request.engine {
                BuildEngine::Docker => self.build_by_docker(image, &order, &mut report)?,
                BuildEngine::Native => self.build_by_native(image, &order, &mut report)?,
            };
            report.platforms.insert(platform.clone(), digest);
            result.digests.insert(platform.clone(), Some(digest));
            if let Some(partial) = order.layout() {
                let folder = partial.with_extension("");
                layouts::keep(partial, &folder)?;
                layouts::prune(&context.tree.images(), plan.kind, &context.tree.layout_prefix(plan.kind))?;
                report.size = facts::in_layout(context.tree, plan.kind, &plan.fingerprint, &plan.tag, platform)?
                    .and_then(|l| l.size);
                let stores = context.request.engine == BuildEngine::Native && plan.kind == ImageKind::App;
                if stores && order.outputs.contains(&Output::Store) {
                    export::load(context, &folder, plan)?;
                }
                result.layouts.insert(platform.clone(), folder);
            }
            let place = match (context.request.wanted.push, result.layouts.get(platform)) {
                (true, _) => Some(ImagePlace::Registry(plan.repository.clone())),
                (false, Some(folder)) => Some(ImagePlace::Layout(Layout::open_or_create(folder)?)),
                (false, None) => None,
            };
            self.run_steps(After::Build, image, (platform, place), &mut report)?;
        }
        if !context.request.dry_run {
            self.finish(image, platforms, &mut report)?;
            result.checked = report.checked.clone();
            result.digests =
                report.platforms.iter().map(|(platform, digest)| (platform.clone(), Some(*digest))).collect();
        }
        Ok(Done { base: result, report })
    }

    /// The engine's own words for an order.
    fn shown(&self, image: &Image<'_>, order: &ImageOrder) -> Result<String, Fault> {
        match self.context.request.engine {
            BuildEngine::Docker => docker::shown(self.context, order, self.root),
            BuildEngine::Native => native::shown(self.context, image, order),
        }
    }

    fn build_by_docker(
        &self,
        image: &Image<'_>,
        order: &ImageOrder,
        report: &mut ImageReport,
    ) -> Result<Digest, Fault> {
        let built = docker::build(self.context, image, order, self.root)?;
        report.took("build", built.took);
        report.steps = Some([built.steps.all, built.steps.cached]);
        report.pulled = Some(built.pulled.values().sum());
        if !self.context.request.wanted.push {
            return Ok(built.digest);
        }
        let (digest, manifest) = self.pushed(image.plan, &order.platform, built.digest)?;
        report.weigh(&manifest);
        // BuildKit rounds what it says; the manifest does not.
        let exact: BTreeMap<Digest, u64> = report.layers.iter().copied().collect();
        report.pulled = Some(built.pulled.iter().map(|(layer, about)| exact.get(layer).unwrap_or(about)).sum());
        Ok(digest)
    }

    fn build_by_native(
        &self,
        image: &Image<'_>,
        order: &ImageOrder,
        report: &mut ImageReport,
    ) -> Result<Digest, Fault> {
        let client = self.context.client;
        let before = client.streamed();
        let built = native::build(self.context, image, order)?;
        report.pulled = Some(client.streamed() - before);
        for (phase, took) in &built.took {
            report.took(*phase, *took);
        }
        report.steps = Some(built.layers);
        report.imports = built.imports;
        report.checked.extend(built.checked.map(|record| (order.platform.clone(), record)));
        report.weigh(&built.manifest);
        Ok(built.digest)
    }

    /// Publishes what was built, or names it in the local store, and remembers its key.
    fn finish(&self, image: &Image<'_>, platforms: &[Platform], report: &mut ImageReport) -> Result<(), Fault> {
        let (plan, context) = (image.plan, self.context);
        process::interrupted()?;
        if context.request.wanted.push {
            let began = Instant::now();
            let mut notes = publish::notes(&plan.fingerprint, image.facts.key.clone(), &labels(context, image.facts));
            let now = clock::now().to_string();
            notes.extend(platforms.iter().map(|platform| (publish::built(platform), now.clone())));
            notes.extend(
                report.checked.iter().map(|(platform, record)| (publish::checked(platform), record.to_string())),
            );
            notes.extend(self.trace.note(context, report).map(|record| (ledger::annotation(&platforms[0]), record)));
            let publication = Publication {
                repository: &plan.repository,
                fingerprint: plan.fingerprint,
                tag: plan.tag.clone(),
                built: report.platforms.clone(),
                notes,
                // An image without a signature is replaced by one with it.
                replace: plan.replaces
                    || matches!(&image.facts.presence, Presence::Registry(found) if found.is_unsigned()),
            };
            // What belongs to the index is attached before a tag names it.
            let attach = |index: &Descriptor| {
                steps::attach_to_index(context.tree, context.client, plan.kind, (&plan.repository, index))
            };
            let mut outcome = publish::publish_with(context.client, &publication, &attach)?;
            if outcome.adopted.len() == platforms.len() {
                terminal::step(
                    "adopted",
                    &format!("another job published `{}` first: using its image", plan.repository.tag(&plan.tag)),
                );
                report.action = "adopted";
            }
            let mut rounds = if plan.replaces { 1 } else { 3 };
            let put = loop {
                rounds -= 1;
                let published = &outcome.published;
                report.digest = published.digest;
                report.platforms = published.platforms.iter().map(|(p, found)| (p.clone(), found.digest)).collect();
                let revision = published.revision().map(str::to_owned);
                let named = Named { digest: report.digest, revision, latest: None };
                let put = self.tagger.put_tags(plan, &report.platforms, named)?;
                // A job that published at the same moment may have written the index after this one read it back: its tag counts.
                match context.client.head(&plan.repository, &plan.tag)? {
                    Answer::Present(found) if rounds > 0 && found.digest != report.digest => {
                        outcome = publish::publish_with(context.client, &publication, &attach)?;
                    }
                    Answer::Present(_) | Answer::Absent => break put,
                }
            };
            report.tags.extend(put.tags);
            (report.latest_stays, report.kept) = (put.latest_stays, put.kept);
            report.took("publish", began.elapsed());
            for platform in platforms {
                let place = Some(ImagePlace::Registry(plan.repository.clone()));
                self.run_steps(After::Push, image, (platform, place), report)?;
            }
        } else {
            report.digest = report.platforms[&platforms[0]];
            report.tags.extend(local_tags(plan));
        }
        report.reference = plan.repository.digest(report.digest);
        file::write(&key_file(context.tree, plan.kind), &image.facts.key).map(drop)
    }

    /// Runs the steps that are due, and attaches what they have for the image.
    fn run_steps(
        &self,
        when: After,
        image: &Image<'_>,
        (platform, place): (&Platform, Option<ImagePlace>),
        report: &mut ImageReport,
    ) -> Result<(), Fault> {
        let (context, plan) = (self.context, image.plan);
        let tree = context.tree;
        if steps::due(&tree.policy, when, plan.kind).is_empty() {
            return Ok(());
        }
        let digest = report.platforms[platform];
        let reference = plan.repository.digest(digest);
        let version = tree.version();
        let subject = Subject {
            kind: plan.kind,
            reference: &reference,
            digest,
            place,
            platform,
            size: report.size,
            version: version.as_deref(),
        };
        let build = BuildFacts {
            fingerprint: plan.fingerprint.to_string(),
            key: image.facts.key.clone(),
            engine: match context.request.engine {
                BuildEngine::Native => ledger::NATIVE.to_owned(),
                BuildEngine::Docker => format!("docker {}", self.trace.docker_version(context)?),
            },
            differs: !image.facts.differences.is_empty(),
            root: (self.root.name.clone(), self.root.digests.get(platform).copied()),
            started: self.trace.when().to_string(),
            rebased: None,
        };
        let run = steps::Run { tree, client: context.client, subject: &subject, build: &build };
        let ran = run.run(when, &|| context.runner())?;
        ran.times.into_iter().for_each(|(name, took)| report.took(name, took));
        if context.request.wanted.push && !ran.attach.is_empty() {
            let began = Instant::now();
            let Answer::Present(found) = publish::read(context.client, &plan.repository, digest)? else {
                return Err(Fault::network(format!("`{reference}` was pushed and is not in the registry")));
            };
            let manifest = found.platforms.get(platform).or_else(|| found.platforms.values().next());
            let manifest =
                manifest.ok_or_else(|| Fault::network(format!("`{reference}` has no manifest for {platform}")))?;
            attach::attach(context.client, &plan.repository, manifest, &ran.attach)?;
            report.took("attach", began.elapsed());
        }
        Ok(())
    }

    /// The image that was just built, as the registry has it: its digest there, and the platform's manifest. BuildKit pushes nothing from
    /// the classic image store, which knows images by their configurations alone: docker pushes from there.
    fn pushed(&self, plan: &ImagePlan, platform: &Platform, built: Digest) -> Result<(Digest, Manifest), Fault> {
        let (client, docker) = (self.context.client, self.context.docker()?);
        let tag = publish::platform_tag(&plan.tag, platform);
        let name = plan.repository.tag(&tag);
        let mut found = client.manifest(&plan.repository, &tag)?.present();
        if found.as_ref().is_none_or(|found| found.digest != built)
            && docker.stores(self.context.request.builder.as_deref())
        {
            docker.push(&name.to_string())?;
            found = client.manifest(&plan.repository, &tag)?.present();
        }
        let found = found.ok_or_else(|| {
            Fault::network(format!("`{name}` was pushed and is not in the registry"))
                .hint("run this again; if it fails again, the registry loses images")
        })?;
        Ok((found.digest, publish::first_manifest(client, &plan.repository, &found)?))
    }

    fn report(&self, image: &Image<'_>, action: &'static str, digest: Digest) -> ImageReport {
        let plan = image.plan;
        let reasons = match &plan.decision {
            Decision::Build { reasons, .. } => reasons.clone(),
            Decision::Reuse { .. } => Vec::new(),
        };
        ImageReport {
            kind: plan.kind,
            name: self.context.tree.policy.name(plan.kind).map(str::to_owned),
            reference: plan.repository.digest(digest),
            digest,
            platforms: BTreeMap::new(),
            fingerprint: plan.fingerprint.to_string(),
            tags: vec![plan.tag.clone()],
            latest_stays: report::stays(&plan.latest),
            kept: plan.notes.clone(),
            differences: image.facts.differences.clone(),
            action,
            reasons,
            size: None,
            steps: None,
            imports: None,
            checked: BTreeMap::new(),
            pulled: None,
            seconds: Vec::new(),
            dependencies: None,
            layers: Vec::new(),
        }
    }
}
