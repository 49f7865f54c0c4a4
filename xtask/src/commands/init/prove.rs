//! `init --prove`: builds the repository's own Dockerfiles and the adopted images on the same root, and compares them.
//!
//! Works on copies of the repository's files, in a folder below `target` that goes with the command. Which differences are explained is
//! decided by `xtask_model::adopt::proof`.

mod stated;

use super::sources::Source;
use crate::flags::{Format, Global, InitFlags};
use crate::pipeline::{self, Contained};
use crate::{commands, documents};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use xtask_host::docker::buildah::Buildah;
use xtask_host::docker::{Build, Docker, NamedContext, Output};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::scratch::{self, Scratch};
use xtask_host::tree::adoption::Survey;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::secrets::Secrets;
use xtask_host::{file, process, terminal};
use xtask_model::adopt::proof::{self, Known, Proof};
use xtask_model::adopt::{self, Adoption, is_input};
use xtask_model::fault::Fault;
use xtask_model::image::order::FromPlace;
use xtask_model::image::policy::Compression;
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_native::image::{Image, Place};
use xtask_native::listing;

/// Unexplained differences that an error lists.
const SHOWN: usize = 50;

/// The Dockerfiles to prove, with their translation.
pub(super) struct ProofSubject<'a> {
    pub global: &'a Global,
    pub flags: &'a InitFlags,
    /// The repository before anything was written.
    pub survey: &'a Survey,
    pub paths: &'a [String],
    pub sources: &'a [Source],
    /// Names of the apps, where there are several.
    pub names: &'a [String],
    pub adoptions: &'a [Adoption],
}

/// The comparison of one Dockerfile.
#[derive(Serialize)]
struct Compared {
    dockerfile: String,
    /// The app, where there are several.
    app: Option<String>,
    /// Engine that built the old image. `None` if it was not built, and only what is stated of it was compared.
    engine: Option<&'static str>,
    /// The root of both images.
    root: String,
    /// Images in `FROM` that the root takes the place of.
    replaced: Vec<String>,
    #[serde(flatten)]
    proof: Proof,
}

/// Builds and compares; ends with exit code 6 if a difference is unexplained.
pub(super) fn run(subject: &ProofSubject<'_>) -> anyhow::Result<()> {
    let folder = Workplace::new(&subject.survey.root)?;
    let engine = Engine::find(&subject.survey.root, folder.path())?;
    let new = folder.path().join("new");
    let written: BTreeSet<&str> =
        subject.adoptions.iter().flat_map(|one| &one.files).map(|file| file.path.as_str()).collect();
    let now = Survey::read(&subject.survey.root)?;
    copy(&now.root, now.files.iter().map(String::as_str).chain(written.iter().copied()), &new)?;
    borrow(&subject.survey.root, &new)?;
    let trees = locked_trees(subject.global, &new)?;
    let old = folder.path().join("old");
    let theirs = subject.survey.files.iter().filter(|path| !subject.is_written(path));
    copy(&subject.survey.root, theirs.map(String::as_str), &old)?;
    terminal::step("proving", "the new images are built first: they have the root");
    let built = pipeline::build_contained(subject.global, &trees, None)?;
    let mut done = Vec::new();
    for at in 0..subject.paths.len() {
        let found = subject.app(at, &trees)?;
        done.push(match &engine {
            Some(engine) => subject.compare(at, &built[found], engine, &old)?,
            None => subject.compare_stated(at, &trees[found], &built[found])?,
        });
    }
    conclude(subject.global, &done)
}

impl ProofSubject<'_> {
    /// True for a file that an earlier `init` or `lock` wrote, which the repository's own images do not have.
    fn is_written(&self, path: &str) -> bool {
        let Some(text) = self.survey.text(path) else { return false };
        let same =
            || self.adoptions.iter().flat_map(|one| &one.files).any(|file| file.path == path && file.text == text);
        adopt::is_written(&text) || same()
    }

    /// The position of the app of a Dockerfile.
    fn app(&self, at: usize, trees: &[Tree]) -> Result<usize, Fault> {
        let name = self.names.get(at);
        let found = trees.iter().position(|tree| name.is_none() || tree.policy.app.name.as_ref() == name);
        found.ok_or_else(|| {
            Fault::usage(format!("`images.toml` has no app `{}`", name.map(String::as_str).unwrap_or_default()))
                .needed_by(format!("the proof of `{}`", self.paths[at]))
                .hint("name the Dockerfiles that the policy is about: `--dockerfile`")
        })
    }

    fn compare(&self, at: usize, new: &Contained, engine: &Engine, context: &Path) -> Result<Compared, Fault> {
        let (path, source) = (&self.paths[at], &self.sources[at]);
        let platform = Platform::host();
        let target = match &new.root.place {
            FromPlace::Layout(folder) => NamedContext::Layout { folder: folder.clone(), digest: new.root.digest },
            FromPlace::Registry | FromPlace::NotBuilt => NamedContext::Image(new.root.name()),
        };
        let replaced = source.roots(&platform)?;
        let same = |name: &String| {
            name.parse::<Reference>().is_ok_and(|name| new.root_name.parse().is_ok_and(|root: Reference| name == root))
        };
        for name in replaced.iter().filter(|name| !same(name)) {
            terminal::step(
                "replaced",
                &format!("{path}: `FROM {name}` is the root of the new images, `{}`", new.root_name),
            );
        }
        let layout = context.with_file_name(format!("image-{at}"));
        let build = Build {
            context: context.join(&source.context),
            root: context.to_owned(),
            dockerfile: path.parse().map_err(|error: String| Fault::usage(error))?,
            target: self.flags.target.clone(),
            platform: platform.clone(),
            args: BTreeMap::new(),
            inherited_args: Secrets::proxies(),
            contexts: replaced.iter().map(|name| (name.clone(), target.clone())).collect(),
            labels: BTreeMap::new(),
            secrets: BTreeMap::new(),
            names: Vec::new(),
            outputs: vec![Output::Layout(layout.clone())],
            compression: Compression::Gzip,
            source_date_epoch: None,
            builder: None,
            host_network: engine.lacks_bridge()?,
            no_cache: false,
            cache: None,
            by_hand: false,
        };
        let digest = engine
            .build(&build, &format!("the image of `{path}`"))
            .map_err(|fault| fault.cause(format!("it is built on the root of the new images, `{}`", new.root_name)))?;
        terminal::step("comparing", &format!("the image of `{path}` with the new one"));
        let client = Client::new(ClientOptions::default());
        let place = Place::Layout(Layout::open_or_create(&layout)?);
        let mut old = Image::open(&client, place, digest, &platform)?;
        if let Engine::Buildah(_) = engine {
            // Buildah leaves it out of an image of OCI's format.
            const CHECK: &str = "Healthcheck";
            let stated = stated::configuration(source, new, &platform)?.other.remove(CHECK);
            old.config.config.other.extend(stated.map(|check| (CHECK.to_owned(), check)));
        }
        let [old_files, new_files] = listing::pair(&client, &old, &new.image)?;
        let one = proof::ComparedImage { files: &old_files, config: &old.config.config };
        let other = proof::ComparedImage { files: &new_files, config: &new.image.config.config };
        let replaced = replaced.into_iter().filter(|name| !same(name)).collect();
        let proof = proof::compare(one, other, &self.known(at)?);
        Ok(self.compared(at, (Some(engine.name()), new), replaced, proof))
    }

    /// Compares what is stated of the old image: there is nothing to build it with.
    fn compare_stated(&self, at: usize, tree: &Tree, new: &Contained) -> Result<Compared, Fault> {
        let path = &self.paths[at];
        let proof = stated::compare((&self.sources[at], &self.adoptions[at]), tree, new, &self.known(at)?)?;
        terminal::warn(&format!(
            "`{path}` was not built, because neither docker nor buildah is available: versions that its files pin and its configuration were \
             compared; packages that they do not pin, Debian packages and paths were not"
        ));
        Ok(self.compared(at, (None, new), Vec::new(), proof))
    }

    fn compared(
        &self,
        at: usize,
        (engine, new): (Option<&'static str>, &Contained),
        replaced: Vec<String>,
        proof: Proof,
    ) -> Compared {
        let root = format!("{} ({})", new.root_name, new.root.digest);
        let app = self.names.get(at).cloned();
        Compared { dockerfile: self.paths[at].clone(), app, engine, root, replaced, proof }
    }

    /// Differences that the translation of a Dockerfile leaves out, with the digests of these files.
    fn known(&self, at: usize) -> Result<Known, Fault> {
        let adoption = &self.adoptions[at];
        let mut left_out: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for path in &self.survey.files {
            let is_left_out =
                |top: &String| path == top || path.strip_prefix(top.as_str()).is_some_and(|rest| rest.starts_with('/'));
            if !is_input(path) && !adoption.left_out.iter().any(is_left_out) {
                continue;
            }
            let from = self.survey.root.join(path);
            let hashed = fs::File::open(&from).and_then(|mut open| file::hash(&mut open));
            let (digest, _) =
                hashed.map_err(|error| Fault::usage(format!("cannot read `{}`", from.display())).cause(error))?;
            let name = path.rsplit('/').next().unwrap_or(path);
            left_out.entry(digest).or_default().insert(name.to_owned());
        }
        Ok(Known { dropped: adoption.dropped.iter().cloned().collect(), left_out })
    }
}

impl Source {
    /// Names of the image that the target is built on, which the root takes the place of.
    fn roots(&self, platform: &Platform) -> Result<Vec<String>, Fault> {
        let bases = self.parsed.stage_bases(&BTreeMap::new(), platform)?;
        let base = |stage: usize| bases.iter().find(|base| base.stage == stage);
        let mut last = base(self.parsed.target().index);
        while let Some(on) = last.and_then(|last| last.on) {
            last = base(on);
        }
        Ok(last.map(|last| last.base.clone()).filter(|name| name != "scratch").into_iter().collect())
    }
}

/// The trees of the new images, with their locks, which are made where they are missing.
fn locked_trees(global: &Global, root: &Path) -> Result<Vec<Tree>, Fault> {
    let global = Global { root: Some(root.to_owned()), ..global.clone() };
    let trees = global.trees()?;
    let is_locked = |tree: &Tree| {
        [&tree.policy.base.lock, &tree.policy.base.installer].iter().all(|lock| root.join(lock).is_file())
    };
    if !trees.iter().all(is_locked) {
        terminal::step("locking", "a copy of the repository: its own locks are written by `cargo xtask lock`");
        let locked = commands::lock::run(&global, &commands::lock::Wanted::default(), false);
        locked.map_err(|error| {
            error.downcast::<Fault>().unwrap_or_else(|error| Fault::build("cannot lock").cause(error))
        })?;
    }
    // The copy is not what a commit has.
    Ok(global.trees()?.into_iter().map(|tree| Tree { commit: None, ..tree }).collect())
}

/// The builder of the repository's own Dockerfiles.
enum Engine {
    Docker(Box<Docker>),
    Buildah(Buildah),
}

impl Engine {
    /// Docker, else buildah with a store in this folder.
    fn find(root: &Path, folder: &Path) -> Result<Option<Self>, Fault> {
        if Docker::can_build(root) {
            return Ok(Some(Self::Docker(Box::new(Docker::find(root)?))));
        }
        Ok(Buildah::find(&folder.join("buildah")).map(Self::Buildah))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker",
            Self::Buildah(_) => "buildah",
        }
    }

    fn lacks_bridge(&self) -> Result<bool, Fault> {
        match self {
            Self::Docker(docker) => docker.lacks_bridge(),
            Self::Buildah(_) => Ok(false),
        }
    }

    fn build(&self, build: &Build, what: &str) -> Result<Digest, Fault> {
        match self {
            Self::Docker(docker) => docker.build(build, what).map(|built| built.digest),
            Self::Buildah(buildah) => buildah.build(build, what),
        }
    }
}

/// A folder below `target`, which is removed with the value; so is `target` if it was made for it.
struct Workplace {
    scratch: Option<Scratch>,
    made: Option<PathBuf>,
}

impl Workplace {
    fn new(root: &Path) -> Result<Self, Fault> {
        let target = root.join("target");
        let cannot = |error| Fault::usage(format!("cannot write `{}`", target.display())).cause(error);
        let made = (!target.exists()).then(|| target.clone());
        fs::create_dir_all(&target).map_err(cannot)?;
        scratch::sweep(&target, &[scratch::SHARED], scratch::remove);
        let scratch = Scratch::new_in(&target, scratch::SHARED).map_err(cannot)?;
        Ok(Self { scratch: Some(scratch), made })
    }

    fn path(&self) -> &Path {
        self.scratch.as_ref().expect("it lives as long as the value").path()
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        self.scratch = None;
        if let Some(made) = &self.made {
            // Fails if something else has its name by now, which stays.
            let _ = fs::remove_dir(made);
        }
    }
}

/// Copies files with their modes, and links as links.
fn copy<'p>(from: &Path, paths: impl Iterator<Item = &'p str>, to: &Path) -> Result<(), Fault> {
    for path in paths {
        process::interrupted()?;
        let (source, place) = (from.join(path), to.join(path));
        let copied = || -> std::io::Result<()> {
            fs::create_dir_all(place.parent().unwrap_or(to))?;
            let meta = fs::symlink_metadata(&source)?;
            match meta.file_type() {
                kind if kind.is_symlink() => match std::os::unix::fs::symlink(fs::read_link(&source)?, &place) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                    done => done,
                },
                kind if kind.is_file() => fs::copy(&source, &place).map(drop),
                // A folder is another repository; anything else is in no image.
                _ => Ok(()),
            }
        };
        copied().map_err(|error| Fault::usage(format!("cannot copy `{}`", source.display())).cause(error))?;
    }
    fs::create_dir_all(to).map_err(|error| Fault::usage(format!("cannot write `{}`", to.display())).cause(error))
}

/// Lets the copy use this repository's private engine, tools and root from Debian packages.
fn borrow(from: &Path, to: &Path) -> Result<(), Fault> {
    for name in ["engine", "tools", "images/root"] {
        let (own, place) = (from.join("target").join(name), to.join("target").join(name));
        let linked = || -> std::io::Result<()> {
            fs::create_dir_all(place.parent().unwrap_or(to))?;
            std::os::unix::fs::symlink(own.canonicalize()?, &place)
        };
        if own.is_dir() {
            linked().map_err(|error| Fault::usage(format!("cannot write `{}`", place.display())).cause(error))?;
        }
    }
    Ok(())
}

fn conclude(global: &Global, done: &[Compared]) -> anyhow::Result<()> {
    match global.format {
        Format::Json => documents::PROOF.print_list("proofs", done)?,
        Format::Text | Format::Github | Format::Gitlab => {
            commands::print(&done.iter().map(shown).collect::<String>())?;
        }
    }
    let found: Vec<String> = done
        .iter()
        .flat_map(|one| one.proof.unexplained().map(move |difference| format!("{}: {difference}", one.dockerfile)))
        .collect();
    if found.is_empty() {
        let whole = done.iter().all(|one| one.engine.is_some());
        terminal::step("proved", if whole { "every difference is explained" } else { "as far as it was compared" });
        return Ok(());
    }
    let mut fault = Fault::drift("the new images differ from those of the repository's own Dockerfiles");
    fault = found.iter().take(SHOWN).fold(fault, Fault::cause);
    if found.len() > SHOWN {
        fault = fault.cause(format!("{} more differences (`--format json` lists all)", found.len() - SHOWN));
    }
    Err(fault.hint("edit the new Dockerfiles, and prove again; or accept the differences").into())
}

fn shown(one: &Compared) -> String {
    let app = one.app.as_ref().map(|app| format!(" and the app `{app}`")).unwrap_or_default();
    format!("{}{app}, on `{}`:\n{}", one.dockerfile, one.root, one.proof)
}
