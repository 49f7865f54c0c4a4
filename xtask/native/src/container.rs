//! Runs images: with docker or podman if an engine is available, else in namespaces.
//!
//! A [`Runner`] chooses how an image runs, a [`RunnableImage`] runs it, a [`Running`] is a started container. A container ends
//! when its value is dropped. Nothing here builds, publishes or tags.

mod docker;
/// Containers made by this program. On another system, and with `--cfg xtask_portable`, `elsewhere.rs` has the same names.
#[cfg(all(target_os = "linux", not(xtask_portable)))]
mod linux;
#[cfg(not(all(target_os = "linux", not(xtask_portable))))]
#[path = "container/elsewhere.rs"]
mod linux;
pub mod program;
pub mod unpacked;

pub use linux::{bare, dispatch, subprocess};

use bare::{Bare, Contained};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use unpacked::{ImageStore, UnpackedImage};
use xtask_host::docker::Docker;
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// As little as possible: a read-only file system (`/tmp` too), no network except an own loopback, no capabilities,
    /// no new privileges.
    Confined,
    /// Docker's defaults, with a network.
    Open,
    /// Docker's defaults without a network, except an own loopback.
    Offline,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Replaces the image's entrypoint and arguments.
    pub entrypoint: Option<String>,
    /// If empty, the image's own.
    pub args: Vec<String>,
    pub manner: Manner,
}

impl Launch {
    pub(crate) fn offline(args: &[String]) -> Self {
        Self { entrypoint: None, args: args.to_vec(), manner: Manner::Offline }
    }

    pub fn confined(args: &[String]) -> Self {
        Self { entrypoint: None, args: args.to_vec(), manner: Manner::Confined }
    }
}

/// Folders that a container's files come from, laid over each other; the first is the uppermost.
#[derive(Clone, Debug)]
pub struct Files(Vec<PathBuf>);

impl From<&Path> for Files {
    fn from(folder: &Path) -> Self {
        Self(vec![folder.to_owned()])
    }
}

impl<'a> FromIterator<&'a Path> for Files {
    fn from_iter<I: IntoIterator<Item = &'a Path>>(folders: I) -> Self {
        Self(folders.into_iter().map(Path::to_owned).collect())
    }
}

impl Files {
    /// The folders, the uppermost first.
    pub fn folders(&self) -> &[PathBuf] {
        &self.0
    }
}

pub struct Runner {
    docker: Option<Docker>,
    bare: Option<Bare>,
    images: Option<ImageStore>,
}

pub struct RunnableImage<'r> {
    name: String,
    way: Way<'r>,
}

enum Way<'r> {
    Docker(&'r Docker),
    Bare(Bare, Box<UnpackedImage>),
}

/// A container in the background. Dropping it ends the container.
pub struct Running<'r>(Started<'r>);

enum Started<'r> {
    Docker(docker::Container<'r>),
    Bare(Box<Contained>),
}

impl Runner {
    pub fn docker(docker: Docker) -> Self {
        Self { docker: Some(docker), bare: None, images: None }
    }

    /// In namespaces, even if an engine is available.
    pub fn bare(tree: &Tree) -> Result<Self, Fault> {
        Ok(Self { docker: None, bare: Some(Bare::find()?), images: Some(ImageStore::of(tree)) })
    }

    /// With docker if an engine is available, else in namespaces.
    pub fn available(tree: &Tree) -> Result<Self, Fault> {
        let found = Docker::find(&tree.root).and_then(|docker| docker.version().map(|_| docker));
        let images = Some(ImageStore::of(tree));
        match found {
            Ok(docker) => Ok(Self { docker: Some(docker), bare: None, images }),
            Err(no_docker) => match Bare::find() {
                Ok(bare) => Ok(Self { docker: None, bare: Some(bare), images }),
                Err(no_bare) => Err(neither(&no_docker, &no_bare)),
            },
        }
    }

    /// An image by its reference, or by the folder of an OCI layout. An image that only a layout has runs in
    /// namespaces, because docker cannot find it.
    pub fn image(&self, name: &str) -> Result<RunnableImage<'_>, Fault> {
        if let Some(docker) = &self.docker {
            let here = self.images.as_ref().map(|images| images.find(name)).transpose()?.flatten();
            if here.is_none() || docker.stored(name).is_ok_and(|stored| stored.is_some()) {
                return Ok(RunnableImage { name: name.to_owned(), way: Way::Docker(docker) });
            }
        }
        let bare = self.bare.clone().map_or_else(Bare::find, Ok)?;
        let images = self.images.as_ref().expect("a runner has an engine or images");
        let image = images.unpack(name, bare.has_every_user())?;
        let user = match image.config.config.user.as_str() {
            "" => "root",
            user => user,
        };
        let whose = if bare.has_every_user() { "" } else { ", mapped to the current user" };
        terminal::step("runs", &format!("without an engine, in namespaces, as user `{user}`{whose}"));
        Ok(RunnableImage { name: name.to_owned(), way: Way::Bare(bare, Box::new(image)) })
    }
}

impl<'r> RunnableImage<'r> {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it to the end and captures its output. The caller judges a non-zero exit code; a container that cannot
    /// start is a fault, or docker's exit code 125.
    pub fn run(&self, launch: &Launch) -> Result<Output, Fault> {
        match &self.way {
            Way::Docker(docker) => docker::run(docker, &self.name, launch),
            Way::Bare(bare, image) => bare.run(&image.files, &image.config.config, launch),
        }
    }

    pub fn start(&self, launch: &Launch) -> Result<Running<'r>, Fault> {
        Ok(Running(match &self.way {
            Way::Docker(docker) => Started::Docker(docker::start(docker, &self.name, launch)?),
            Way::Bare(bare, image) => {
                Started::Bare(Box::new(bare.start(&image.files, &image.config.config, launch)?))
            }
        }))
    }

    /// Starts it in the background with this process's streams, and with its ports reachable from this machine.
    pub fn serve(&self, launch: &Launch) -> Result<Running<'r>, Fault> {
        Ok(Running(match &self.way {
            Way::Docker(docker) => Started::Docker(docker::serve(docker, &self.name, launch)?),
            Way::Bare(bare, image) => {
                Started::Bare(Box::new(bare.serve(&image.files, &image.config.config, launch)?))
            }
        }))
    }

    /// Runs it on this terminal, with Ctrl-C, and returns its exit code. With docker, this process becomes the docker
    /// client.
    pub fn attach(&self, launch: &Launch) -> Result<u8, Fault> {
        match &self.way {
            Way::Docker(docker) => Err(docker::attach(docker, &self.name, launch)),
            Way::Bare(bare, image) => {
                announce(&self.name);
                let status = bare.attach(&image.files, &image.config.config, launch)?;
                // An end by signal N was already converted to 128 + N.
                Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
            }
        }
    }
}

impl Running<'_> {
    /// Runs another program in it as the image's user, and captures its output.
    pub fn exec(&mut self, argv: &[&str]) -> Result<Output, Fault> {
        match &mut self.0 {
            Started::Docker(container) => container.exec(argv),
            Started::Bare(container) => container.exec(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()),
        }
    }

    /// Asks its program to end, and kills it after this time.
    pub fn end(self, grace: Duration) {
        match self.0 {
            Started::Docker(container) => container.end(grace),
            Started::Bare(container) => container.end_within(grace),
        }
    }

    pub fn runs(&mut self) -> Result<bool, Fault> {
        match &mut self.0 {
            Started::Docker(container) => container.runs(),
            Started::Bare(container) => container.runs(),
        }
    }

    pub fn log(&self, lines: usize) -> Result<String, Fault> {
        match &self.0 {
            Started::Docker(container) => container.log(lines),
            Started::Bare(container) => {
                let text = container.log()?;
                let all: Vec<&str> = text.lines().collect();
                Ok(all[all.len().saturating_sub(lines)..].join("\n"))
            }
        }
    }
}

fn announce(image: &str) {
    terminal::step("running", &format!("`{image}`; Ctrl-C ends it"));
}

/// Error that says what docker and namespaces each need.
fn neither(no_docker: &Fault, no_bare: &Fault) -> Fault {
    let summary = |fault: &Fault| {
        let what = std::iter::once(&fault.what).chain(&fault.causes);
        what.map(String::as_str).collect::<Vec<_>>().join(": ")
    };
    let mut fault =
        Fault::missing("cannot run an image on this machine").cause(summary(no_docker)).cause(summary(no_bare));
    fault.hints = no_docker.hints.iter().chain(&no_bare.hints).cloned().collect();
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_explains_docker_and_namespaces() {
        let docker = Fault::missing("no Docker engine responds").cause("no socket").hint("start Docker");
        let bare = Fault::missing("cannot run an image in namespaces").cause("cannot make namespaces").hint("as root");
        let fault = neither(&docker, &bare);
        assert_eq!(
            fault.causes,
            ["no Docker engine responds: no socket", "cannot run an image in namespaces: cannot make namespaces"]
        );
        assert_eq!(fault.hints, ["start Docker", "as root"]);
    }
}
