//! A large base: torch with its CUDA libraries, and some three hundred packages with it.
//!
//! The wheels are those of the package index, 3.5 GB in all; nothing is made up. The lock is resolved once for each comparison.

use super::harness::Harness;
use super::native;
use super::subject::{Start, What};
use crate::sample::Sample;
use crate::scenarios;
use std::time::Instant;
use xtask_host::index::{self, Fetched, WheelRequest};
use xtask_host::tree::facts;
use xtask_host::tree::uv::Upgrade;
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::{LockedPackage, closure};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::Environment;

/// Packages to install in addition to the repository's own requirements.
const MORE: [&str; 46] = [
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "sentence-transformers",
    "jupyterlab",
    "scikit-learn",
    "matplotlib",
    "seaborn",
    "plotly",
    "dash",
    "fastapi[standard]",
    "django",
    "djangorestframework",
    "celery[redis]",
    "sqlalchemy",
    "alembic",
    "boto3",
    "google-cloud-storage",
    "google-cloud-bigquery",
    "dask[complete]",
    "lightgbm",
    "statsmodels",
    "sphinx",
    "pytest",
    "pytest-xdist",
    "black",
    "mypy",
    "ruff",
    "scrapy",
    "aiohttp",
    "httpx",
    "polars",
    "pyarrow",
    "networkx",
    "sympy",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp",
    "prometheus-client",
    "kubernetes",
    "cryptography",
    "openai",
    "anthropic",
    "tiktoken",
    "nltk",
    "gensim",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Large {
    /// The native engine builds and pushes the base.
    Base,
    /// The same wheels are downloaded, eight at a time, verified and kept, and nothing else.
    Download,
}

/// Adds the packages to the requirements, and locks them as the comparison did before.
pub(super) fn edit(harness: &mut Harness) -> Result<(), Fault> {
    super::growth::without_steps(harness)?;
    let base = harness.workspace.tree.policy.base.clone();
    let [requirements] = base.requirements.paths() else {
        return Err(Fault::usage("the policy names several requirement files, and this row edits one"));
    };
    harness.workspace.edit(requirements, |text| format!("{text}{}\n", MORE.join("\n")))?;
    let text = match &harness.large {
        Some(text) => text.clone(),
        None => {
            terminal::step("resolving", "a large base");
            scenarios::resolved(&harness.workspace, &Upgrade::Keep)?
        }
    };
    file::write(&harness.workspace.tree.root.join(&base.lock), &text)?;
    harness.large = Some(text);
    Ok(())
}

pub(super) fn build(harness: &mut Harness, large: Large) -> Result<Sample, Fault> {
    if large == Large::Base {
        return native::build(harness, native::Caller::Binary, What::Base, Start::Nothing);
    }
    let tree = &harness.workspace.tree;
    let lock = facts::unchecked_lock(tree)?;
    let root = &tree.policy.root;
    let python = root.fallback.as_ref().map_or(&root.python, |debian| &debian.python);
    let platform = Platform::host();
    let (pins, _) = closure::pins_of(&lock.packages, &Environment::new(python, &platform));
    let packages: Vec<LockedPackage> = pins.into_values().cloned().collect();
    let (indexes, glibc) = (facts::indexes(tree)?, facts::glibc(tree)?);
    let request = WheelRequest { packages: &packages, indexes: &indexes, python, platform: &platform, glibc: &glibc };
    let settings = index::Settings::from_env(&indexes)?;
    let folder = harness.workspace.empty_private_folder("wheels")?;
    let began = Instant::now();
    let fetched = index::fetch_with(&request, &settings, &index::Cache::at(&folder))?;
    let seconds = began.elapsed().as_secs_f64();
    harness.workspace.empty_private_folder("wheels")?;
    match fetched {
        Fetched::Wheels(_) => Ok(Sample { seconds, ..Sample::default() }),
        Fetched::Unsupported(why) => Err(Fault::usage("cannot download the wheels").cause(why)),
    }
}
