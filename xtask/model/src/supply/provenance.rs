//! Provenance of a build: a SLSA v1 predicate in an in-toto statement.

use crate::spec::reference::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";

/// Type of the build, which says how to read [`Build::external`] and [`Build::internal`].
pub const BUILD_TYPE: &str = "urn:xtask:image-build:v1";

/// Builder of an image that was not built in CI.
pub const LOCAL_BUILDER: &str = "urn:xtask:builder:local";

/// Something with digests: a subject, or what an image was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Hex by algorithm: `sha256`, `gitCommit`.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Resource {
    pub fn sha256(uri: impl Into<String>, digest: Digest) -> Self {
        Self { name: None, uri: Some(uri.into()), digest: [("sha256".to_owned(), digest.hex())].into() }
    }

    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// The facts of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Repository and digest of the manifest.
    pub subject: (String, String),
    /// Parameters that were asked for: image, platform, policy.
    pub external: BTreeMap<String, Value>,
    /// Parameters of the build itself: key, engine.
    pub internal: BTreeMap<String, Value>,
    pub materials: Vec<Resource>,
    /// URI of the builder.
    pub builder: String,
    pub builder_versions: BTreeMap<String, String>,
    pub invocation: Option<String>,
    /// RFC 3339.
    pub started: String,
    pub finished: String,
    /// Documents that were made with the image, such as its SBOMs.
    pub byproducts: Vec<Resource>,
}

pub fn statement(build: &Build) -> Vec<u8> {
    let (name, digest) = &build.subject;
    let mut metadata = json!({"startedOn": build.started, "finishedOn": build.finished});
    if let (Some(invocation), Value::Object(metadata)) = (&build.invocation, &mut metadata) {
        metadata.insert("invocationId".to_owned(), json!(invocation));
    }
    let statement = json!({
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": build.external,
                "internalParameters": build.internal,
                "resolvedDependencies": build.materials,
            },
            "runDetails": {
                "builder": {"id": build.builder, "version": build.builder_versions},
                "metadata": metadata,
                "byproducts": build.byproducts,
            },
        },
    });
    serde_json::to_vec(&statement).expect("the statement is valid JSON")
}

/// A statement that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenanceStatement {
    pub subjects: Vec<Digest>,
    pub builder: String,
    /// Fingerprint of the key.
    pub fingerprint: Option<String>,
    /// Commit of the source.
    pub commit: Option<String>,
    pub byproducts: Vec<Resource>,
}

/// Reads a statement about a build by this program.
///
/// # Errors
/// It is another kind of statement.
pub fn read(bytes: &[u8]) -> Result<ProvenanceStatement, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document["_type"] != STATEMENT || document["predicateType"] != PREDICATE {
        return Err("it is not a statement of SLSA v1 provenance".to_owned());
    }
    let predicate = &document["predicate"];
    let definition = &predicate["buildDefinition"];
    if definition["buildType"] != BUILD_TYPE {
        return Err(format!("its build type is not `{BUILD_TYPE}`"));
    }
    let subjects = document["subject"].as_array().into_iter().flatten();
    let subjects = subjects.filter_map(|one| format!("sha256:{}", one["digest"]["sha256"].as_str()?).parse().ok());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(ProvenanceStatement {
        subjects: subjects.collect(),
        builder: text(&predicate["runDetails"]["builder"]["id"]).unwrap_or_default(),
        fingerprint: text(&definition["internalParameters"]["fingerprint"]),
        commit: text(&definition["externalParameters"]["commit"]),
        byproducts: serde_json::from_value(predicate["runDetails"]["byproducts"].clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_can_be_read_back() {
        let build = Build {
            subject: ("127.0.0.1:5000/app".to_owned(), Digest::of(b"x").hex()),
            external: [("commit".to_owned(), json!("ab"))].into(),
            internal: [("fingerprint".to_owned(), json!("cd"))].into(),
            builder: LOCAL_BUILDER.to_owned(),
            byproducts: vec![Resource::sha256("urn:x", Digest::of(b"sbom")).named("spdx")],
            ..Build::default()
        };
        let found = read(&statement(&build)).unwrap();
        assert_eq!(found.subjects, [Digest::of(b"x")]);
        assert_eq!((found.commit.as_deref(), found.fingerprint.as_deref()), (Some("ab"), Some("cd")));
        assert_eq!(found.byproducts, build.byproducts);
        assert!(read(b"{}").is_err() && read(b"").is_err());
    }
}
