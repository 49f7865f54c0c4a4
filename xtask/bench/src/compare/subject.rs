//! Subjects of a row: which builder builds which images, from which state.

use xtask_host::tree::secrets::Secrets;
use xtask_model::image::policy::Compression;
use xtask_model::spec::reference::Reference;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Docker,
    /// With its build cache in the registry, as runners that keep nothing use it.
    DockerCached,
    DockerByPip,
    /// With one Dockerfile for packages, program and app.
    OneFile,
    /// With one Dockerfile and a build cache in the registry.
    OneFileCached,
    Buildah,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    App,
    /// The app, with a program that has to be compiled.
    Program,
    BaseAndApp,
    Base,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Warm,
    /// Nothing local; the previous base and app in the registry.
    Cold,
    /// Nothing local, and only the root in the registry.
    Nothing,
}

pub(super) struct Before {
    pub(super) secrets: Secrets,
    pub(super) root: Reference,
    pub(super) base: Reference,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OneFile => "one-file",
            Self::OneFileCached => "one-file-cached",
            Self::Docker | Self::DockerByPip => "docker",
            Self::DockerCached => "docker-cached",
            Self::Buildah => "buildah",
        }
    }
}

/// An app of the unchanged tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    Native(Compression),
    Docker(Compression),
}
