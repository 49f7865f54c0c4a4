//! Build plugins: what runs on a built image, and what it may attach to it.
//!
//! Built-in plugins and an adopter's own implement [`Plugin`]; any other program speaks the protocol of [`program`]. A repository's xtask
//! registers its plugins when it is compiled: `xtask::main_with(&[&MyPlugin])`. Nothing is loaded at run time.

pub mod program;
mod provenance;
mod sbom;
pub mod scan;
pub mod sign;
mod simple;

pub use sbom::{LICENCES, crates, document, inventory_of};
pub use xtask_host::registry::attach::{Artifact, Blob};
pub use xtask_model::image::policy::plugin::{Description, SettingProblem, Settings, Waits};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xtask_host::registry::Client;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Action, ImageKind, Policy, Step};
use xtask_model::image::rebase::Origin;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository};
use xtask_native::container::Runner;
use xtask_native::image::Place;

/// A build plugin.
pub trait Plugin: Sync {
    /// Name and settings. `images.toml` is checked against it.
    fn description(&self) -> &'static Description;

    /// Checks what this machine needs for it, such as a key, before anything is built.
    ///
    /// # Errors
    /// The plugin could not run.
    fn prepare(&self, _root: &Path, _settings: &Settings) -> Result<(), Fault> {
        Ok(())
    }

    /// Runs on an image that exists by digest, for one platform.
    ///
    /// # Errors
    /// It could not run, or the image is not good enough: no tag moves then.
    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault>;

    /// Returns what to attach to the index of all platforms, before a tag names it.
    ///
    /// # Errors
    /// No tag moves then.
    fn index(&self, _root: &Path, _settings: &Settings, _index: (&Repository, Digest)) -> Result<Vec<Artifact>, Fault> {
        Ok(Vec::new())
    }
}

static REGISTERED: OnceLock<Vec<&'static dyn Plugin>> = OnceLock::new();

const BUILT_IN: [&dyn Plugin; 6] =
    [&simple::Smoke, &simple::SizeBudget, &sbom::Sbom, &scan::Scan, &provenance::Provenance, &sign::Sign];

/// Registers an adopter's plugins; once, before anything else.
pub fn register(plugins: &[&'static dyn Plugin]) {
    facts::register_plugins(plugins.iter().map(|plugin| plugin.description()).collect());
    let _ = REGISTERED.set(plugins.to_vec());
}

/// Every plugin that is compiled in, the built-in ones first.
pub fn all() -> impl Iterator<Item = &'static dyn Plugin> {
    BUILT_IN.into_iter().chain(REGISTERED.get().into_iter().flatten().copied())
}

/// The plugin of a description.
///
/// # Panics
/// The description is not one of a registered plugin: the policy was read with others.
pub fn of(description: &Description) -> &'static dyn Plugin {
    all()
        .find(|plugin| plugin.description().name == description.name)
        .expect("the policy names registered plugins only")
}

/// The image that steps are run for.
pub struct Subject<'a> {
    pub kind: ImageKind,
    /// Its name by digest.
    pub reference: &'a Reference,
    pub digest: Digest,
    /// Location of its layers; `None` if only a docker engine has them.
    pub place: Option<Place>,
    pub platform: &'a Platform,
    /// Compressed bytes, where they are known.
    pub size: Option<u64>,
    /// The package's version.
    pub version: Option<&'a str>,
}

/// Facts of the build, for provenance.
#[derive(Clone, Debug)]
pub struct BuildFacts {
    pub fingerprint: String,
    /// The key as JSON.
    pub key: String,
    /// `native`, or Docker's version.
    pub engine: String,
    /// True if the inputs are not the commit's.
    pub differs: bool,
    /// Name and digest of the image under the base.
    pub root: (String, Option<Digest>),
    /// RFC 3339.
    pub started: String,
    /// An image that was put on another root, and not built from the tree.
    pub rebased: Option<RebaseOrigin>,
}

/// Image that a rebased image was made from.
#[derive(Clone, Debug)]
pub struct RebaseOrigin {
    pub origin: Origin,
    /// The commit that the image before was built from.
    pub commit: Option<String>,
}

/// One run of a plugin.
pub struct Call<'a> {
    pub tree: &'a Tree,
    pub client: &'a Client,
    pub step: &'a Step,
    pub settings: &'a Settings,
    pub subject: &'a Subject<'a>,
    pub build: &'a BuildFacts,
    /// Folder for its files.
    pub output: PathBuf,
    /// Outcomes of the steps that it waited for, by name.
    pub done: &'a BTreeMap<String, Outcome>,
    /// Runs images; for plugins that do.
    pub runner: Option<&'a Runner>,
}

impl Call<'_> {
    /// Writes a file into the output folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Fault> {
        let path = self.output.join(name);
        let write = std::fs::create_dir_all(&self.output).and_then(|()| std::fs::write(&path, bytes));
        write.map_err(|error| Fault::build(format!("cannot write `{}`", path.display())).cause(error))?;
        Ok(path)
    }
}

/// Findings and artifacts of a plugin.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Files for people and other tools.
    pub files: Vec<PathBuf>,
    /// Artifacts to attach to the image, before any tag moves.
    pub attach: Vec<Artifact>,
    pub findings: Vec<Finding>,
    /// The image must not be published.
    pub failed: bool,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub severity: Severity,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Note,
    Warning,
    Error,
}

/// Settings of the first step that uses a plugin.
pub fn settings_of<'a>(policy: &'a Policy, plugin: &str) -> Option<&'a Settings> {
    policy.steps.iter().find_map(|step| match &step.action {
        Action::Uses(description, settings) if description.name == plugin => Some(settings),
        _ => None,
    })
}
