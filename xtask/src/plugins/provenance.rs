//! The plugin `provenance`: a SLSA v1 statement about a build.

use super::{Artifact, Call, Description, Outcome, Plugin, RebaseOrigin};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::clock;
use xtask_model::fault::Fault;
use xtask_model::image::change::event;
use xtask_model::image::policy;
use xtask_model::image::policy::plugin::PROVENANCE;
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::Digest;
use xtask_model::supply::provenance::{self, Build, Resource};
use xtask_native::image::Image;

pub(super) struct Provenance;

impl Plugin for Provenance {
    fn description(&self) -> &'static Description {
        &PROVENANCE
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let subject = call.subject;
        let image =
            subject.place.clone().map(|place| Image::open(call.client, place, subject.digest, subject.platform));
        let image = image.transpose()?;
        let digest = image.as_ref().map_or(subject.digest, |image| image.digest);
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (builder, invocation) = builder(&variable);
        let build = Build {
            subject: (subject.reference.repository.to_string(), digest.hex()),
            external: external(call),
            internal: [
                ("fingerprint".to_owned(), json!(call.build.fingerprint)),
                ("key".to_owned(), serde_json::from_str(&call.build.key).unwrap_or(Value::Null)),
                ("engine".to_owned(), json!(call.build.engine)),
            ]
            .into(),
            materials: materials(call, image.as_ref()),
            builder,
            builder_versions: [("xtask".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
            invocation,
            started: call.build.started.clone(),
            finished: clock::now().to_string(),
            byproducts: byproducts(call),
        };
        let bytes = provenance::statement(&build);
        let name = format!("{}-{}.intoto.json", subject.kind, subject.platform.dashed());
        let file = call.write(&name, &bytes)?;
        let mut artifact = Artifact::of(provenance::MEDIA_TYPE, bytes);
        artifact.annotations.insert("in-toto.io/predicate-type".to_owned(), provenance::PREDICATE.to_owned());
        Ok(Outcome { files: vec![file], attach: vec![artifact], ..Outcome::default() })
    }
}

/// Parameters that were asked for.
fn external(call: &Call<'_>) -> BTreeMap<String, Value> {
    let (tree, subject) = (call.tree, call.subject);
    let mut external = BTreeMap::from([
        ("image".to_owned(), json!(subject.kind)),
        ("platform".to_owned(), json!(subject.platform.to_string())),
        ("modified".to_owned(), json!(call.build.differs)),
    ]);
    match &call.build.rebased {
        None => {
            let text = tree.files.read(Path::new(policy::FILE)).ok().flatten().unwrap_or_default();
            let policy = json!({"path": policy::FILE, "digest": {"sha256": Digest::of(&text).hex()}});
            external.insert("policy".to_owned(), policy);
        }
        // Nothing of the tree is in it.
        Some(rebased) => {
            let origin = &rebased.origin;
            let root = json!({"from": origin.root.to_string(), "to": origin.now.to_string()});
            external.insert("rebase".to_owned(), json!({"from": origin.image.to_string(), "root": root}));
        }
    }
    if let Some(source) = &tree.policy.project.source {
        external.insert("source".to_owned(), json!(source));
    }
    external.extend(commit(call).map(|commit| ("commit".to_owned(), json!(commit))));
    external
}

/// The commit that the image was built from: that of an image before, if it was rebased.
fn commit(call: &Call<'_>) -> Option<String> {
    match &call.build.rebased {
        Some(rebased) => rebased.commit.clone(),
        None => call.tree.commit.as_ref().map(|commit| commit.id.clone()),
    }
}

/// Resources that the image was made of.
fn materials(call: &Call<'_>, image: Option<&Image>) -> Vec<Resource> {
    let tree = call.tree;
    let mut found = Vec::new();
    if let Some(commit) = commit(call) {
        let source = tree.policy.project.source.as_deref().unwrap_or("urn:xtask:source");
        found.push(Resource {
            name: Some("source".to_owned()),
            uri: Some(format!("git+{source}")),
            digest: [("gitCommit".to_owned(), commit)].into(),
        });
    }
    if let (name, Some(digest)) = &call.build.root {
        found.push(Resource::sha256(format!("docker://{name}"), *digest).named("root"));
    }
    let labels = image.map(|image| &image.config.config.labels);
    if let Some(labels) = labels
        && let (Some(name), Some(Ok(digest))) =
            (labels.get(annotation::BASE_NAME), labels.get(annotation::BASE_DIGEST).map(|text| text.parse::<Digest>()))
    {
        found.push(Resource::sha256(format!("docker://{name}"), digest).named("base"));
    }
    if let Some(RebaseOrigin { origin, .. }) = &call.build.rebased {
        let digest = origin.image.digest.map(|digest| ("sha256".to_owned(), digest.hex()));
        found.push(Resource {
            name: Some("image".to_owned()),
            uri: Some(format!("docker://{}", origin.image.repository)),
            digest: digest.into_iter().collect(),
        });
        return found;
    }
    for path in [tree.policy.base.lock.as_str(), tree.policy.base.installer.as_str(), "Cargo.lock"] {
        if let Ok(Some(bytes)) = tree.files.read(Path::new(path)) {
            found.push(Resource::sha256(format!("file:{path}"), Digest::of(&bytes)));
        }
    }
    found
}

/// The documents of the steps before, by digest: who trusts the statement can check them.
fn byproducts(call: &Call<'_>) -> Vec<Resource> {
    let artifacts = call.done.values().flat_map(|outcome| &outcome.attach);
    let documents = artifacts.flat_map(|artifact| &artifact.documents);
    documents
        .map(|document| {
            Resource::sha256(format!("urn:media-type:{}", document.media_type), Digest::of(&document.bytes))
        })
        .collect()
}

/// Identity of the builder, and its run.
fn builder(variable: &dyn Fn(&str) -> Option<String>) -> (String, Option<String>) {
    let github = || {
        let server = variable("GITHUB_SERVER_URL")?;
        let workflow = variable("GITHUB_WORKFLOW_REF")?;
        let (repository, run) = (variable("GITHUB_REPOSITORY")?, variable("GITHUB_RUN_ID")?);
        let attempt = variable("GITHUB_RUN_ATTEMPT").unwrap_or_else(|| "1".to_owned());
        let invocation = format!("{server}/{repository}/actions/runs/{run}/attempts/{attempt}");
        Some((format!("{server}/{workflow}"), Some(invocation)))
    };
    let gitlab = || {
        let reference = event::reference(variable)?;
        let builder = format!("{}//{}@{reference}", variable("CI_PROJECT_URL")?, variable("CI_CONFIG_PATH")?);
        Some((builder, variable("CI_JOB_URL")))
    };
    github().or_else(gitlab).unwrap_or_else(|| (provenance::LOCAL_BUILDER.to_owned(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_is_the_workflow_on_github() {
        let set = [
            ("GITHUB_SERVER_URL", "https://git.example.com"),
            ("GITHUB_WORKFLOW_REF", "acme/app/.github/workflows/images.yml@refs/heads/main"),
            ("GITHUB_REPOSITORY", "acme/app"),
            ("GITHUB_RUN_ID", "7"),
        ];
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let (builder, invocation) = super::builder(&variable);
        assert_eq!(builder, "https://git.example.com/acme/app/.github/workflows/images.yml@refs/heads/main");
        assert_eq!(invocation.as_deref(), Some("https://git.example.com/acme/app/actions/runs/7/attempts/1"));
        let set = [
            ("GITLAB_CI", "true"),
            ("CI_PROJECT_URL", "https://git.example.com/acme/app"),
            ("CI_CONFIG_PATH", ".gitlab-ci.yml"),
            ("CI_COMMIT_BRANCH", "main"),
            ("CI_JOB_URL", "https://git.example.com/acme/app/-/jobs/7"),
        ];
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let (builder, invocation) = super::builder(&variable);
        assert_eq!(builder, "https://git.example.com/acme/app//.gitlab-ci.yml@refs/heads/main");
        assert_eq!(invocation.as_deref(), Some("https://git.example.com/acme/app/-/jobs/7"));
        assert_eq!(super::builder(&|_| None), (provenance::LOCAL_BUILDER.to_owned(), None));
    }
}
