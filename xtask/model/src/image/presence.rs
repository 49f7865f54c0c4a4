//! Presence of an image in the registry or on this machine, and the facts that it carries.

use crate::image::key::{FINGERPRINT_LABEL, Fingerprint, KEY_LABEL};
use crate::spec::oci::{Descriptor, Index};
use crate::spec::reference::{Digest, Platform};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The annotation with the commit that an image was built from.
pub const REVISION: &str = "org.opencontainers.image.revision";

/// The annotation with the commit's time.
pub const CREATED: &str = "org.opencontainers.image.created";

/// Annotations of an index that say when a platform's image was built, as RFC 3339. Images themselves hold the commit's time, so
/// that the same commit gives the same bytes; an index is put together once for each build anyway.
pub const BUILT: &str = "dev.xtask.built.";

/// Annotations of an index that name the layer with the record of each platform's import check, as [`CheckRecord`] prints it. An index that
/// was published without this check has none.
pub const CHECKED: &str = "dev.xtask.checked.";

/// Location of an image's record of a check that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRecord {
    /// The platform's manifest.
    pub image: Digest,
    pub layer: Digest,
    /// Version of the check.
    pub version: u32,
    /// Bytes of the record in the layer.
    pub size: u64,
}

impl fmt::Display for CheckRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, layer, version, size } = self;
        write!(f, "{version} {image} {layer} {size}")
    }
}

impl FromStr for CheckRecord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut words = text.split(' ');
            let version = words.next()?.parse().ok()?;
            let (image, layer) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let size = words.next()?.parse().ok()?;
            words.next().is_none().then_some(Self { image, layer, version, size })
        };
        read().ok_or_else(|| format!("`{text}` is not `VERSION IMAGE LAYER SIZE`"))
    }
}

/// The lost part of an image that exists without the signature that the policy wants.
pub const UNSIGNED: &str = "the signature";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Digest of the index, or of the manifest where there is no index.
    pub digest: Digest,
    /// The manifest of each platform.
    pub platforms: BTreeMap<Platform, Descriptor>,
    /// Annotations of the index; for names that it lacks, the image's labels.
    pub notes: BTreeMap<String, String>,
    /// Platforms that it lists and of which the registry lost a part, with that part: of an image that was looked at whole.
    pub lost: BTreeMap<Platform, String>,
    /// The listed manifests that lack something.
    pub broken: Vec<Digest>,
    /// The layers of each manifest with their bytes: of an image that was looked at whole.
    pub layers: BTreeMap<Digest, Vec<(Digest, u64)>>,
    /// The index, where there is one.
    pub index: Option<Index>,
}

impl Published {
    /// The full fingerprint that the image carries.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.notes.get(FINGERPRINT_LABEL)?.parse().ok()
    }

    /// The key that the image carries, as JSON.
    pub fn key(&self) -> Option<&str> {
        self.notes.get(KEY_LABEL).map(String::as_str)
    }

    /// Location of the import check's record in the image of a platform.
    pub fn checked(&self, platform: &Platform) -> Option<CheckRecord> {
        let record: CheckRecord = self.notes.get(&format!("{CHECKED}{}", platform.dashed()))?.parse().ok()?;
        // An index may have replaced the image, and kept what was said of the one before.
        (self.platforms.get(platform)?.digest == record.image).then_some(record)
    }

    /// The commit that it was built from.
    pub fn revision(&self) -> Option<&str> {
        self.notes.get(REVISION).map(String::as_str)
    }

    /// Reason for a build: platforms that are wanted are missing although the index lists them.
    pub fn lost_reason(&self, wanted: &[Platform]) -> Option<String> {
        let lost = wanted.iter().filter_map(|platform| Some((platform, self.lost.get(platform)?)));
        let lost: Vec<(&Platform, &String)> = lost.collect();
        if let [(platform, _), ..] = lost[..]
            && lost.iter().all(|(_, what)| *what == UNSIGNED)
        {
            return Some(format!("the image for {platform} is not signed, and this build signs"));
        }
        let lost: Vec<String> = lost.into_iter().map(|(platform, what)| format!("{what} of {platform}")).collect();
        (!lost.is_empty()).then(|| format!("the registry lost {}", lost.join(", ")))
    }

    /// True if a platform counts as missing only because it is not signed: it is replaced then.
    pub fn is_unsigned(&self) -> bool {
        self.lost.values().any(|what| what == UNSIGNED)
    }

    /// Every manifest that its index lists, attestations with them.
    pub fn listed(&self) -> Vec<Digest> {
        self.index.iter().flat_map(|index| &index.manifests).map(|listed| listed.digest).collect()
    }

    pub fn new(
        digest: Digest,
        platforms: BTreeMap<Platform, Descriptor>,
        notes: BTreeMap<String, String>,
        index: Option<Index>,
    ) -> Self {
        Self { digest, platforms, notes, lost: BTreeMap::new(), broken: Vec::new(), layers: BTreeMap::new(), index }
    }

    /// An image with these manifests and nothing else.
    #[cfg(test)]
    pub(crate) fn for_tests(platforms: BTreeMap<Platform, Descriptor>) -> Self {
        Self::new(Digest::of(b"index"), platforms, BTreeMap::new(), None)
    }

    /// The layers of a platform with their bytes, lowest first, of an image that was looked at whole.
    pub fn layers(&self, platform: &Platform) -> Vec<(Digest, u64)> {
        let layers = self.platforms.get(platform).and_then(|manifest| self.layers.get(&manifest.digest));
        layers.cloned().unwrap_or_default()
    }

    /// Those of `wanted` that it lacks.
    pub fn missing(&self, wanted: &[Platform]) -> Vec<Platform> {
        wanted.iter().filter(|platform| !self.platforms.contains_key(*platform)).cloned().collect()
    }
}

/// Presence of an image in the places that count for a build.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// No place was asked.
    NotAsked,
    /// The registry did not answer: the cause.
    Unknown(String),
    /// In none of the places that were asked.
    Absent,
    /// In the registry; [`Published::lost`] has the platforms of which it lost a part.
    Registry(Box<Published>),
    /// On this machine, for one platform.
    Local(Local),
}

impl Serialize for Presence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case", tag = "answer")]
        enum Answer<'a> {
            NotAsked,
            Unknown { because: &'a str },
            Absent,
            Registry { digest: Digest, platforms: Vec<&'a Platform>, lost: &'a BTreeMap<Platform, String> },
            Local { digest: Digest },
        }
        let answer = match self {
            Self::NotAsked => Answer::NotAsked,
            Self::Unknown(because) => Answer::Unknown { because },
            Self::Absent => Answer::Absent,
            Self::Registry(found) => {
                let platforms = found.platforms.keys().collect();
                Answer::Registry { digest: found.digest, platforms, lost: &found.lost }
            }
            Self::Local(local) => Answer::Local { digest: local.digest },
        };
        answer.serialize(serializer)
    }
}

/// An image on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Its manifest's digest.
    pub digest: Digest,
    /// The layout in which it is, where there is one.
    pub layout: Option<PathBuf>,
    /// Compressed bytes, where they are known.
    pub size: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::oci::media_type;

    #[test]
    fn a_record_counts_for_the_image_that_it_names() {
        let (platform, other): (Platform, Platform) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        let image = Descriptor::new(media_type::MANIFEST, Digest::of(b"image"), 5);
        let record = CheckRecord { image: image.digest, layer: Digest::of(b"layer"), version: 1, size: 7 };
        let mut published = Published::for_tests(BTreeMap::from([(platform.clone(), image)]));
        assert_eq!(published.checked(&platform), None);
        published.notes.insert("dev.xtask.checked.linux-amd64".to_owned(), record.to_string());
        assert_eq!((published.checked(&platform), published.checked(&other)), (Some(record), None));
        for text in [format!("{record} 1"), record.to_string().replace(" 7", ""), "1".to_owned()] {
            published.notes.insert("dev.xtask.checked.linux-amd64".to_owned(), text);
            assert_eq!(published.checked(&platform), None);
        }
        let replaced = CheckRecord { image: Digest::of(b"another image"), ..record };
        published.notes.insert("dev.xtask.checked.linux-amd64".to_owned(), replaced.to_string());
        assert_eq!(published.checked(&platform), None);
    }
}
