//! Turns an image of the plan into the docker call that builds it: arguments, labels, secrets, names, outputs.

use super::Session;
use super::engine::Engine;
use super::foundation::root_client;
use super::planning::Image;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_host::docker::{Build, Output};
use xtask_host::registry::{Answer, publish};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, RootImage, RootPlace};
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::toolchain::{self, Portable};
use xtask_model::fault::Fault;
use xtask_model::image::key::{FINGERPRINT_LABEL, KEY_LABEL};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{CREATED, REVISION};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};

/// A key as JSON longer than this goes into the index's annotation only: one argument of a program has a limit.
const LABEL_LIMIT: usize = 64 << 10;

/// A base as `FROM` names it.
pub(super) struct BaseImage {
    pub repository: Repository,
    pub digests: BTreeMap<Platform, Digest>,
    pub layouts: BTreeMap<Platform, PathBuf>,
}

impl Session<'_> {
    /// The call that builds an image for a platform.
    pub(super) fn call(
        &self,
        image: &Image,
        platform: &Platform,
        root: &RootImage,
        base: Option<&BaseImage>,
        secrets: &Secrets,
    ) -> Result<Build, Fault> {
        let plan = &image.plan;
        let policy = &self.tree.policy;
        let mut labels = self.labels(plan.kind);
        labels.insert(FINGERPRINT_LABEL.to_owned(), plan.fingerprint.to_string());
        if image.key.len() <= LABEL_LIMIT {
            labels.insert(KEY_LABEL.to_owned(), image.key.clone());
        }
        let mut args = match plan.kind {
            ImageKind::Base => policy.base.args.clone(),
            ImageKind::App | ImageKind::Enhanced => policy.app.args.clone(),
        };
        let mut contexts = BTreeMap::new();
        match (plan.kind, base) {
            (ImageKind::App, Some(base)) => {
                let digest = *base.digests.get(platform).ok_or_else(|| {
                    Fault::usage(format!("the base is not built for {platform}"))
                        .hint(format!("build it: `cargo xtask build-base --push --platform {platform}`"))
                })?;
                let from = base.repository.digest(digest);
                if let Some(layout) = base.layouts.get(platform) {
                    contexts.insert(from.to_string(), in_layout(layout, digest));
                }
                publish::base_labels(&mut labels, &base.repository.to_string(), &digest);
                args.insert("BASE_IMAGE".to_owned(), from.to_string());
                if let Some(binary) = &policy.app.binary {
                    args.insert("BINARY".to_owned(), binary::staged(platform, binary).to_string());
                }
            }
            _ => {
                let from = self.root_reference(root, platform, &mut contexts)?;
                publish::base_labels(&mut labels, &root.name, &root.digests[platform]);
                args.insert("ROOT_IMAGE".to_owned(), from.to_string());
                if plan.kind == ImageKind::Enhanced {
                    let rust = match &image.rust_image {
                        Some(image) => image.clone(),
                        None => {
                            if let Some(own) = Portable::find(&self.tree.root, platform) {
                                let place = match self.flags.dry_run {
                                    true => Portable::place(&self.tree.root),
                                    false => own.stage(&self.tree.root)?,
                                };
                                contexts.insert(toolchain::CONTEXT.to_owned(), place.display().to_string());
                            }
                            from.to_string()
                        }
                    };
                    args.insert("RUST_IMAGE".to_owned(), rust);
                }
            }
        }
        let name = |tag: &Tag| plan.repository.tag(tag).to_string();
        let (names, outputs) = if self.wish.push {
            (vec![name(&publish::platform_tag(&plan.tag, platform))], vec![Output::Push])
        } else {
            let names = std::iter::once(name(&plan.tag)).chain(self.local_tags(plan).iter().map(name)).collect();
            let mut outputs = Vec::new();
            if self.local_docker()?.is_some() {
                outputs.push(Output::Store);
            }
            if plan.kind == ImageKind::Base || self.engine == Engine::Native {
                let folder = facts::local_layout(&self.tree, plan.kind, &plan.tag, platform);
                outputs.push(Output::Layout(folder.with_extension("partial")));
            }
            (names, outputs)
        };
        let is_base = plan.kind != ImageKind::App;
        Ok(Build {
            context: self.tree.root.clone(),
            root: self.tree.root.clone(),
            dockerfile: image.parsed.path.clone(),
            platform: platform.clone(),
            args,
            inherited_args: if is_base { Secrets::proxies() } else { Vec::new() },
            contexts,
            labels,
            secrets: secrets.files().clone(),
            names,
            outputs,
            compression: policy.base.compression.docker,
            source_date_epoch: self.tree.commit.as_ref().map(|commit| commit.time),
            builder: self.flags.builder.clone(),
            // Another builder has its own network.
            host_network: is_base
                && self.engine == Engine::Docker
                && self.flags.builder.is_none()
                && self.docker()?.lacks_bridge()?,
            no_cache: self.wish.force,
        })
    }

    fn root_reference(
        &self,
        root: &RootImage,
        platform: &Platform,
        contexts: &mut BTreeMap<String, String>,
    ) -> Result<Reference, Fault> {
        let digest = *root.digests.get(platform).ok_or_else(|| {
            Fault::usage(format!("the root `{}` is not pinned for {platform}", root.name))
                .hint("pin it: `cargo xtask lock`")
        })?;
        match &root.place {
            RootPlace::Registry(repository) => Ok(repository.digest(digest)),
            RootPlace::Layout(folder) => {
                let from =
                    self.tree.registry.repository(&format!("{}-root", self.tree.policy.project.name)).digest(digest);
                contexts.insert(from.to_string(), in_layout(folder, digest));
                Ok(from)
            }
        }
    }

    /// Name of what compiles the binary in a stage of the Dockerfile, for the key: the image by digest, or else a toolchain, whose
    /// version is in the binary's own key.
    pub(super) fn compiler(&self, rust_image: Option<&str>) -> Option<String> {
        self.tree.policy.app.binary.as_ref()?;
        let portable = |platform| Portable::find(&self.tree.root, platform).is_some();
        Some(match rust_image {
            Some(image) => image.to_owned(),
            None if self.wish.platforms.iter().all(portable) => "toolchain of the host".to_owned(),
            None => "cargo of the root's packages".to_owned(),
        })
    }

    /// The policy's image with cargo, by digest. None where it cannot be had: the root then compiles, with the host's toolchain or
    /// with Debian's, which the Dockerfile installs on it.
    pub(super) fn rust_image(&self, root: &RootImage) -> Result<Option<String>, Fault> {
        let wanted = self.tree.policy.app.binary.as_ref().and_then(|binary| binary.rust_image.as_ref());
        // Whence the root could not come, no other image will.
        let Some(image) = wanted.filter(|_| !root.is_fallback() && !self.global.offline) else {
            return Ok(None);
        };
        let tag = image.tag.clone().unwrap_or_else(Tag::latest);
        match root_client(&self.tree).head(&image.repository, tag) {
            Ok(Answer::Present(found)) => Ok(Some(image.repository.digest(found.digest).to_string())),
            Ok(Answer::Absent) => {
                Err(Fault::usage(format!("`{image}` does not exist")).hint("correct `rust-image` in `images.toml`"))
            }
            Err(fault) if fault.unreachable => {
                terminal::warn(&format!("{}; the host's own toolchain compiles", fault.what));
                Ok(None)
            }
            Err(fault) => Err(fault.needed_by("`[app.binary] rust-image` of `images.toml`")),
        }
    }

    /// The labels that the image specification names.
    pub(super) fn labels(&self, kind: ImageKind) -> BTreeMap<String, String> {
        let mut labels = facts::labels(&self.tree, kind);
        let mut add = |name: &str, value: String| drop(labels.insert(name.to_owned(), value));
        if let Some(commit) = &self.tree.commit {
            let dirty = if self.differences(kind).is_empty() { "" } else { "-dirty" };
            add(REVISION, format!("{}{dirty}", commit.id));
            add(CREATED, commit.created());
        }
        if kind != ImageKind::Base {
            let tagged = self
                .tree
                .commit
                .as_ref()
                .filter(|_| self.differences(kind).is_empty())
                .and_then(|commit| commit.versions.last().cloned());
            if let Some(version) = tagged.or_else(|| self.tree.version()) {
                add("org.opencontainers.image.version", version);
            }
        }
        labels
    }
}

/// Stands for the digest of an image that a dry run does not build.
pub(super) fn unknown_digest() -> Digest {
    Digest::from_bytes([0; 32])
}

fn in_layout(folder: &Path, digest: Digest) -> String {
    format!("oci-layout://{}@{digest}", folder.display())
}
