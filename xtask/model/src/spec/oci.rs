//! The OCI image specification's documents, version 1.1, as types: descriptor, manifest, index, config.
//!
//! Pure. What these types do not name is kept as it came, so that a document read and written again loses nothing; a digest
//! is always of the bytes as they are stored, never of a value that was serialised again.

use crate::spec::reference::{Digest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub mod media_type {
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    /// True if this names an index, in OCI's word or in Docker's.
    pub fn is_index(name: &str) -> bool {
        matches!(name, INDEX | DOCKER_LIST)
    }
}

pub mod annotation {
    /// The name of a manifest within an image layout's `index.json`.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The digest of the image that this one is built on.
    pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    /// The reference of the image that this one is built on.
    pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
}

/// Points at content: media type, digest and size in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    /// The digest of the content's bytes.
    pub digest: Digest,
    /// The number of bytes.
    pub size: u64,
    /// In an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with_platform(mut self, platform: &Platform) -> Self {
        self.platform = Some(platform.into());
        self
    }

    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

/// The platform of a descriptor. Attestations say `unknown/unknown`, which no [`Platform`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    pub architecture: String,
    pub os: String,
    /// The variant of the architecture, `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `os.version`, `os.features` and what is to come.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl DescriptorPlatform {
    /// The platform, where it is one that images are built for.
    pub fn platform(&self) -> Option<Platform> {
        let variant = self.variant.iter().flat_map(|variant| ["/", variant]);
        [self.os.as_str(), "/", &self.architecture].into_iter().chain(variant).collect::<String>().parse().ok()
    }
}

impl From<&Platform> for DescriptorPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            other: BTreeMap::new(),
        }
    }
}

/// An image manifest: one config and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`media_type::MANIFEST`] or Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Manifest {
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }
}

/// An image index: manifests, one for each platform, and their attestations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// [`media_type::INDEX`] or Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Index {
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// The manifest for a platform: the first, as clients take it.
    pub fn for_platform(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| {
            descriptor.platform.as_ref().and_then(DescriptorPlatform::platform).as_ref() == Some(platform)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Creation time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    pub os: String,
    #[serde(default)]
    pub config: Execution,
    /// The layers by their uncompressed digests, lowest first.
    pub rootfs: RootFs,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The `config` of an image configuration: how a container of it is run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    /// User and group, `65532:65532`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports as `8080/tcp`, each with an empty object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The program, as a list; `None` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments; `None` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths of volumes, each with an empty object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `Healthcheck` and whatever else Docker puts here.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Others write `null` where they mean nothing.
pub(crate) fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Uncompressed digests, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl RootFs {
    /// Layers by their uncompressed digests, lowest first.
    pub fn new(diff_ids: Vec<Digest>) -> Self {
        Self { kind: "layers".to_owned(), diff_ids }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Creation time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    #[track_caller]
    fn survives<T: Serialize + DeserializeOwned>(document: &Value) {
        let value: T = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(&serde_json::to_value(value).unwrap(), document);
    }

    fn descriptor(media_type: &str) -> Value {
        serde_json::json!({
            "mediaType": media_type, "digest": Digest::of(b"x"), "size": 1,
            "annotations": {"a": "b"}, "urls": ["https://example.com/x"], "artifactType": "x/y",
        })
    }

    #[test]
    fn documents_survive_a_round_trip() {
        let mut with_platform = descriptor(media_type::MANIFEST);
        with_platform["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown", "os.version": "1"});
        survives::<Index>(&serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [with_platform],
            "subject": descriptor(media_type::MANIFEST), "annotations": {"k": "v"},
        }));
        survives::<Manifest>(&serde_json::json!({
            "schemaVersion": 2, "config": descriptor(media_type::CONFIG), "layers": [descriptor(media_type::LAYER)],
            "artifactType": "x/y", "subject": descriptor(media_type::MANIFEST),
        }));
        survives::<Config>(&serde_json::json!({
            "created": "2026-01-01T00:00:00Z", "architecture": "arm", "variant": "v7", "os": "linux", "author": "me",
            "config": {
                "User": "1:1", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=b"], "Entrypoint": ["/x"], "Cmd": [],
                "Volumes": {"/v": {}}, "WorkingDir": "/w", "Labels": {"l": "m"}, "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD", "x"]}, "OnBuild": null,
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"y")]},
            "history": [{"created_by": "COPY", "empty_layer": true, "author": "me"}],
        }));
    }

    #[test]
    fn null_is_nothing() {
        let text = r#"{"Env": null, "Labels": null, "Cmd": null, "Volumes": null, "ExposedPorts": null}"#;
        assert_eq!(serde_json::from_str::<Execution>(text).unwrap(), Execution::default());
    }

    #[test]
    fn a_platform_is_found_by_value() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        let mut spelled = Descriptor::new(media_type::MANIFEST, Digest::of(b"1"), 1).with_platform(&arm);
        if let Some(platform) = &mut spelled.platform {
            platform.variant = Some("v8".to_owned());
        }
        let mut attestation = spelled.clone();
        attestation.platform = serde_json::from_str(r#"{"os": "unknown", "architecture": "unknown"}"#).ok();
        let index = Index::new(vec![attestation, spelled.clone()]);
        assert_eq!(index.for_platform(&arm), Some(&spelled));
        assert_eq!(index.for_platform(&"linux/amd64".parse().unwrap()), None);
    }
}
