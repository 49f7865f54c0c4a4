//! An image to build for one platform, independent of the engine.
//!
//! Docker's arguments are one translation of an order, the native engine's inputs another.

use crate::image::context::{ContextEntry, ContextPath};
use crate::image::policy::{Compressions, ImageKind, RelPath};
use crate::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct ImageOrder {
    pub kind: ImageKind,
    pub platform: Platform,
    pub dockerfile: RelPath,
    /// The image that `FROM` names.
    pub from: FromImage,
    pub files: Vec<ContextEntry>,
    /// The folder that its Dockerfile reads from, from the top of the repository, as the paths of `files` are.
    pub context: ContextPath,
    /// The compiled program, which is in the build context and not in the repository.
    pub binary: Option<RelPath>,
    /// Compiler of the program in an image from scratch.
    pub compiler: Option<Compiler>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub secrets: BTreeSet<String>,
    pub repository: Repository,
    pub tags: Vec<Tag>,
    pub outputs: Vec<Output>,
    pub compression: Compressions,
    /// Commit time in seconds since 1970, which is the time of everything in the image.
    pub created: Option<i64>,
    pub rebuild: bool,
    /// Its Dockerfile runs programs, which may need a network and a proxy.
    pub runs: bool,
}

/// Digest in the place of one that a dry run does not know.
pub fn unknown_digest() -> Digest {
    Digest::from_bytes([0; 32])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromImage {
    pub repository: Repository,
    pub digest: Digest,
    pub place: FromPlace,
}

/// Location of the image that another one is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromPlace {
    Registry,
    Layout(PathBuf),
    /// A dry run does not build it, so its digest is unknown.
    NotBuilt,
}

impl FromImage {
    /// An image that a dry run does not build; a digest of zeros takes the place of its own.
    pub fn not_built(repository: Repository) -> Self {
        Self { repository, digest: unknown_digest(), place: FromPlace::NotBuilt }
    }

    /// The name in `FROM`.
    pub fn name(&self) -> Reference {
        self.repository.digest(self.digest)
    }
}

/// Compiler of the program in an image from scratch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    Image(Reference),
    /// The image that `FROM` names, with cargo from its own packages.
    Root,
    /// The image that `FROM` names, with the toolchain in this folder.
    Toolchain(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Into docker's image store.
    Store,
    /// Into the registry, under the names of the order.
    Push,
    Layout(PathBuf),
}

impl ImageOrder {
    pub fn layout(&self) -> Option<&PathBuf> {
        self.outputs.iter().find_map(|output| match output {
            Output::Layout(folder) => Some(folder),
            Output::Store | Output::Push => None,
        })
    }

    pub fn names(&self) -> impl Iterator<Item = Reference> {
        self.tags.iter().map(|tag| self.repository.tag(tag))
    }

    /// The build arguments of its Dockerfile: the policy's, and those that name images and the program.
    pub fn build_args(&self) -> BTreeMap<String, String> {
        let mut args = self.args.clone();
        let from = self.from.name().to_string();
        if let Some(compiler) = &self.compiler {
            let image = match compiler {
                Compiler::Image(image) => image.to_string(),
                Compiler::Root | Compiler::Toolchain(_) => from.clone(),
            };
            args.insert("RUST_IMAGE".to_owned(), image);
        }
        args.extend(self.binary.as_ref().map(|binary| ("BINARY".to_owned(), binary.to_string())));
        let name = if self.kind == ImageKind::App { "BASE_IMAGE" } else { "ROOT_IMAGE" };
        args.insert(name.to_owned(), from);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::policy::Compression;

    fn order(kind: ImageKind) -> ImageOrder {
        let repository: Repository = "127.0.0.1:5000/acme/base".parse().unwrap();
        ImageOrder {
            kind,
            platform: "linux/amd64".parse().unwrap(),
            dockerfile: "Dockerfile".parse().unwrap(),
            from: FromImage::not_built(repository.clone()),
            files: Vec::new(),
            context: ContextPath::default(),
            binary: None,
            compiler: None,
            args: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            labels: BTreeMap::new(),
            secrets: BTreeSet::new(),
            repository,
            tags: Vec::new(),
            outputs: vec![Output::Store, Output::Layout("x".into())],
            compression: Compressions { docker: Compression::Gzip, native: Compression::Gzip },
            created: None,
            rebuild: false,
            runs: false,
        }
    }

    #[test]
    fn arguments_name_the_image_in_from_the_program_and_its_compiler() {
        let names = |order: &ImageOrder| order.build_args().into_keys().collect::<Vec<_>>();
        let app = ImageOrder { binary: Some("bin".parse().unwrap()), ..order(ImageKind::App) };
        assert_eq!(names(&app), ["A", "BASE_IMAGE", "BINARY"]);
        assert_eq!(names(&order(ImageKind::Base)), ["A", "ROOT_IMAGE"]);
        let rust: Reference = "docker.io/library/rust:1".parse().unwrap();
        let scratch = ImageOrder { compiler: Some(Compiler::Image(rust.clone())), ..order(ImageKind::Enhanced) };
        assert_eq!(names(&scratch), ["A", "ROOT_IMAGE", "RUST_IMAGE"]);
        assert_eq!(scratch.build_args()["RUST_IMAGE"], rust.to_string());
        let root = ImageOrder { compiler: Some(Compiler::Root), ..scratch };
        assert_eq!(root.build_args()["RUST_IMAGE"], root.from.name().to_string());
        assert_eq!(root.layout(), Some(&PathBuf::from("x")));
    }
}
