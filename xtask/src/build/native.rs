//! A build by the native engine: what its order is made of, from the session's tree, policy and plan.

use super::Session;
use super::call::unknown_digest;
use super::planning::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use xtask_host::docker::{Build, Output};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish;
use xtask_host::terminal;
use xtask_host::tree::{binary, context};
use xtask_model::fault::Fault;
use xtask_model::image::commit::Commit;
use xtask_model::image::context::ContextPath;
use xtask_model::image::key::{AppKey, BinaryKey};
use xtask_model::image::policy::{Compression, ImageKind};
use xtask_model::image::presence::Published;
use xtask_model::spec::dockerfile::{Dockerfile, Kind};
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::oci::media_type::MANIFEST;
use xtask_model::spec::reference::{Digest, Platform, Reference, Tag};
use xtask_native::build::{self, Built, Destination, Order};
use xtask_native::files::ImageFiles;
use xtask_native::image::{self, Place};
use xtask_native::layer::Codec;
use xtask_native::push::known::Known;
use xtask_native::recipes::stage::Realise;
use xtask_native::store::Store;
use xtask_native::{assembly, recipes};

impl Session<'_> {
    /// Builds one platform's image and brings it to the registry or into its layout.
    pub(super) fn build_native(&self, image: &Image, call: &Build) -> Result<Built, Fault> {
        if image.plan.kind == ImageKind::Base && self.tree.policy.base.compression.native == Compression::Zstd {
            terminal::warn(
                "`[base] compression` asks for zstd, which the native engine writes several times as slowly as gzip, and no \
                 smaller; `compression = { docker = \"zstd\", native = \"gzip\" }` says one for each engine",
            );
        }
        self.with_order(image, call, |order| {
            order.inputs.realised.values().try_for_each(|stage| stage.check())?;
            let layout = call.outputs.iter().find_map(|output| match output {
                Output::Layout(folder) => Some(folder),
                Output::Store | Output::Push => None,
            });
            match layout {
                None => build::build(&self.client, order, Destination::Repository(&image.plan.repository)),
                Some(folder) => {
                    let layout = Layout::open_or_create(folder)?;
                    let built = build::build(&self.client, order, Destination::Layout(&layout))?;
                    let size = layout.blob_size(&built.digest).unwrap_or(0);
                    let manifest = Descriptor::new(MANIFEST, built.digest, size);
                    layout.set(image.plan.tag.as_str(), &manifest.with_platform(&call.platform))?;
                    Ok(built)
                }
            }
        })
    }

    /// What would be done, a line for each layer.
    ///
    /// An image whose foundation cannot be looked at, because it is built first or because no registry is asked, is shown by its
    /// Dockerfile: which of its layers are known already is not known itself.
    pub(super) fn show_native(&self, image: &Image, call: &Build) -> Result<String, Fault> {
        let name = beneath_name(call);
        let reference: Reference = name.parse().expect("written by us");
        let unseen = if reference.digest == Some(unknown_digest()) {
            Some("the image that it is built on is built first".to_owned())
        } else if self.global.offline && !call.contexts.contains_key(name) {
            Some(format!("`{name}` is in a registry, and `--offline` asks none"))
        } else {
            None
        };
        if let Some(why) = unseen {
            let what = format!("{} for {}: every layer is shown as made, for {why}", image.plan.kind, call.platform);
            terminal::step("unknown", &what);
            return self.show_by_text(call);
        }
        self.with_order(image, call, |order| {
            let line = |(plan, known): (assembly::LayerPlan, bool)| {
                format!("{} {} {}\n", &plan.recipe.hex()[..12], if known { "named" } else { "made " }, plan.name)
            };
            Ok(build::plan(order)?.into_iter().map(line).collect())
        })
    }

    /// The instructions of the target that make layers.
    fn show_by_text(&self, call: &Build) -> Result<String, Fault> {
        let text = self.tree.files.text(call.dockerfile.as_ref())?;
        let dockerfile = Dockerfile::parse(call.dockerfile.as_str(), &text)?;
        let makes = |kind: &Kind| matches!(kind, Kind::Copy(_) | Kind::Add(_) | Kind::Run(_) | Kind::Workdir(_));
        let made = dockerfile.target().instructions.iter().filter(|instruction| makes(&instruction.kind));
        let text = |line| dockerfile.instruction_text(line).unwrap_or_default();
        let unknown = "-".repeat(12);
        Ok(made.map(|instruction| format!("{unknown} made  {}\n", text(instruction.line))).collect())
    }

    fn with_order<T>(
        &self,
        image: &Image,
        call: &Build,
        work: impl FnOnce(&Order<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let tree = &self.tree;
        let text = tree.files.text(call.dockerfile.as_ref())?;
        let dockerfile = Dockerfile::parse(call.dockerfile.as_str(), &text)?;
        let (_, ignore) = context::ignore_file(&*tree.files, call.dockerfile.as_str())?;
        let store = store(&tree.root)?;
        let beneath = self.beneath(call)?;
        let files = ImageFiles::new(&self.client, &store, &beneath, beneath_name(call), &tree.root);
        let stages = match image.plan.kind {
            ImageKind::Base => recipes::stages(
                tree,
                &dockerfile,
                &call.args,
                &call.platform,
                &files,
                &tree.root.join("target/native/work"),
            )?,
            ImageKind::App | ImageKind::Enhanced => BTreeMap::new(),
        };
        let realised: BTreeMap<String, &dyn Realise> =
            stages.iter().map(|(name, stage)| (name.clone(), stage.as_ref())).collect();
        // gzip whatever the policy tells docker: every runtime reads it, and there is no zstd in Rust that is as fast.
        let codec = Codec::new(tree.policy.base.compression.native);
        let (known_files, make) = self.binary_of(image, &call.platform);
        let known = match self.wish.push {
            true => Known::read(&self.client, &image.plan.repository, &self.previous(image, &call.platform)),
            false => Known::default(),
        };
        let codec_id = codec.id();
        let order = Order {
            inputs: assembly::Inputs {
                dockerfile: &dockerfile,
                args: &call.args,
                platform: &call.platform,
                context: &tree.root,
                ignore: &ignore,
                labels: &call.labels,
                images: &files,
                realised: &realised,
                known: &known_files,
                codec: &codec_id,
            },
            beneath: Some(&beneath),
            codec,
            make: &*make,
            created: tree.commit.as_ref().map(Commit::created),
            store: &store,
            known: &known,
            force: call.no_cache,
        };
        let done = work(&order)?;
        drop(stages);
        store.prune()?;
        Ok(done)
    }

    /// The image that the Dockerfile's `FROM` names.
    fn beneath(&self, call: &Build) -> Result<image::Image, Fault> {
        let name = beneath_name(call);
        let reference: Reference = name.parse().expect("written by us");
        let digest = reference.digest.expect("images beneath are named by digest");
        let place = match call.contexts.get(name) {
            None => Place::Registry(reference.repository.clone()),
            Some(layout) => {
                let folder = layout.strip_prefix("oci-layout://").and_then(|rest| rest.rsplit_once('@'));
                let (folder, _) = folder.expect("written by us");
                Place::Layout(Layout::open_or_create(folder.as_ref())?)
            }
        };
        image::Image::open(&self.client, place, digest, &call.platform)
    }

    /// The compiled program as a file that counts by its recipe, and how it is made.
    #[allow(clippy::type_complexity, reason = "a map and a closure, each named where it goes")]
    fn binary_of<'s>(
        &'s self,
        image: &'s Image,
        platform: &'s Platform,
    ) -> (BTreeMap<ContextPath, Digest>, Box<dyn Fn(&BTreeSet<ContextPath>) -> Result<(), Fault> + 's>) {
        let Some((binary, recipe)) = self.tree.policy.app.binary.as_ref().zip(image.binary.as_ref()) else {
            return (BTreeMap::new(), Box::new(|_| Ok(())));
        };
        let path = ContextPath::new(binary::staged(platform, binary).as_str().as_bytes());
        let digest = Digest::of(&serde_json::to_vec(recipe).expect("a key is JSON"));
        let make = move |_: &BTreeSet<ContextPath>| {
            let copied: BTreeSet<PathBuf> =
                image.parsed.files.iter().map(|file| file.path.to_path().to_owned()).collect();
            binary::compile(&self.tree.root, binary, platform, recipe, &copied).map(drop)
        };
        (BTreeMap::from([(path, digest)]), Box::new(make))
    }

    /// Whether an app that is published has the binary of this recipe: its layer will be named, and nothing need be compiled. Where
    /// that layer turns out to be lost, the compiler is asked after all.
    pub(super) fn has_binary(&self, image: &Image, recipe: &BinaryKey) -> bool {
        let of = |published: &Published| serde_json::from_str::<AppKey>(published.key()?).ok()?.binary;
        self.wish.push && self.published(image).iter().any(|published| of(published).as_ref() == Some(recipe))
    }

    /// Manifests of the repository whose layers may be named again.
    fn previous(&self, image: &Image, platform: &Platform) -> Vec<Digest> {
        let mut found = Vec::new();
        for published in self.published(image) {
            let digest = published.platforms.get(platform).map(|manifest| manifest.digest);
            found.extend(digest.filter(|digest| !found.contains(digest)));
        }
        found
    }

    /// What `latest` and this branch's tag name.
    fn published(&self, image: &Image) -> Vec<Published> {
        let mut found = Vec::new();
        let branch = self.branch_tag().filter(|_| image.plan.kind == ImageKind::App);
        for tag in branch.into_iter().chain([Tag::latest()]) {
            // What cannot be read saves no work, and is no reason not to build.
            match publish::read(&self.client, &image.plan.repository, tag) {
                Ok(answer) => found.extend(answer.present()),
                Err(fault) => terminal::detail(&fault.what),
            }
        }
        found
    }
}

/// The name of the image that a build stands on, as its Dockerfile gets it.
fn beneath_name(call: &Build) -> &str {
    let name = call.args.get("BASE_IMAGE").or_else(|| call.args.get("ROOT_IMAGE"));
    name.expect("every build is given the image that it stands on")
}

/// Bytes that the store of layers may hold.
const STORE_LIMIT: u64 = 5_000_000_000;

/// The store of the layers that were made on this machine: the repository's, or the one that `XTASK_STORE` names.
fn store(root: &Path) -> Result<Store, Fault> {
    let named = std::env::var_os("XTASK_STORE").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if let Some(folder) = named.as_deref().and_then(|folder| std::path::absolute(folder).ok())
        && folder.starts_with(root)
        && !folder.starts_with(root.join("target"))
    {
        return Err(Fault::usage(format!("`XTASK_STORE` is `{}`, inside the repository", folder.display()))
            .cause("a `COPY` could take its layers into an image")
            .hint("name a folder outside, or one below `target`"));
    }
    Store::open(&named.unwrap_or_else(|| root.join("target/native/store")), STORE_LIMIT)
}
