//! Reports: references, tags, sizes, seconds and reasons, for people and as JSON. Decides nothing.

use crate::image::plan::{InputDifference, Latest};
use crate::image::policy::ImageKind;
use crate::image::presence::CheckRecord;
use crate::quantity;
use crate::spec::oci::Manifest;
use crate::spec::reference::{Digest, Platform, Reference, Tag};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub images: Vec<ImageReport>,
    /// Wall-clock seconds of the whole command.
    pub seconds: f64,
    /// The most memory that this process has held at once, in bytes, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// Bytes that this process has sent towards a disk, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_written: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    pub kind: ImageKind,
    /// Its name, where the policy names several of its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub reference: Reference,
    pub digest: Digest,
    pub platforms: BTreeMap<Platform, Digest>,
    /// Its key's hash, hex.
    pub fingerprint: String,
    pub tags: Vec<Tag>,
    /// Reason why `latest` stayed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_stays: Option<String>,
    /// Tags that stayed at another image, and names without a tag, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Inputs that are not the commit's: the reason for tags that it does not carry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<InputDifference>,
    /// `built`, `reused`, or `adopted` where another job was first.
    pub action: &'static str,
    pub reasons: Vec<String>,
    /// Compressed bytes of one platform, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Steps of the Dockerfile, and how many came from the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<[usize; 2]>,
    /// Modules that were imported before publishing, if the engine reports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imports: Option<Imports>,
    pub seconds: Vec<(String, f64)>,
    /// Compiled dependencies of the program, if they were pulled or pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<DependencyTransfer>,
    /// Layers of one platform, lowest first, with their compressed bytes, where they are known: for the ledger.
    #[serde(skip)]
    pub layers: Vec<(Digest, u64)>,
    /// Locations of the images' records of their import checks, for the index.
    #[serde(skip)]
    pub checked: BTreeMap<Platform, CheckRecord>,
    /// Bytes of blobs that came over the network to build on, where they are known: for the ledger.
    #[serde(skip)]
    pub pulled: Option<u64>,
}

/// The import check of one platform's packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imports {
    /// Packages that were imported.
    pub packages: Vec<String>,
    /// Packages that were imported for an earlier image, and that no change can affect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
    /// This earlier image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Compiled dependencies that came from the registry or went there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DependencyTransfer {
    /// `pulled` or `pushed`.
    pub action: &'static str,
    /// Number of crates.
    pub crates: usize,
    /// Compressed bytes.
    #[serde(rename = "size")]
    pub bytes: u64,
}

impl DependencyTransfer {
    /// Their size, for people.
    pub fn size(&self) -> String {
        format!("{} crates, {}", self.crates, quantity::bytes(self.bytes))
    }
}

impl Report {
    /// The images that the command was for: the apps, and not their bases, unless bases were built.
    pub fn wanted(&self) -> impl Iterator<Item = &ImageReport> {
        let kind = self.images.last().map(|image| image.kind);
        self.images.iter().filter(move |image| Some(image.kind) == kind)
    }
}

impl ImageReport {
    /// The image for people: `app`, or `app web` where there are several.
    pub fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.kind.to_string(), |name| format!("{} {name}", self.kind))
    }

    pub fn took(&mut self, phase: impl Into<String>, duration: Duration) {
        self.seconds.push((phase.into(), duration.as_secs_f64()));
    }

    pub fn weigh(&mut self, manifest: &Manifest) {
        self.layers = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        self.size = Some(manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>());
    }
}

/// Reason why `latest` stayed, for a report.
pub fn stays(latest: &Latest) -> Option<String> {
    match latest {
        Latest::Moves => None,
        Latest::Stays(why) => Some(why.clone()),
    }
}
