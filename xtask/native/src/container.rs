//! Runs images: by docker where an engine answers, else bare, in namespaces.
//!
//! A [`Runner`] says which way an image goes, an [`Image`] runs it, and a [`Running`] is what has been started. Whatever way,
//! a container ends with its value; nothing here builds, publishes or names anything.

mod docked;
/// Containers made by this program. Elsewhere, and with `--cfg xtask_portable`, `elsewhere.rs` has the same names.
#[cfg(all(target_os = "linux", not(xtask_portable)))]
mod linux;
#[cfg(not(all(target_os = "linux", not(xtask_portable))))]
#[path = "container/elsewhere.rs"]
mod linux;
pub mod program;
pub mod unpacked;

pub use linux::{bare, guard, inside};

use bare::{Bare, Contained};
use serde::{Deserialize, Serialize};
use std::process::Output;
use std::time::Duration;
use unpacked::{Images, Unpacked};
use xtask_host::docker::Docker;
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;

/// What a container may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// As little as a container can: a filesystem that is read-only, `/tmp` too, no network but a loopback of its own, no
    /// capabilities, and none to be gained.
    Confined,
    /// What Docker allows by itself, and a network.
    Open,
}

/// What is run of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Instead of the image's own program and its arguments.
    pub entrypoint: Option<String>,
    /// Arguments; without any, the image's own.
    pub args: Vec<String>,
    /// What it may do.
    pub manner: Manner,
}

impl Launch {
    /// The image's own program with these arguments, confined.
    pub fn confined(args: &[String]) -> Self {
        Self { entrypoint: None, args: args.to_vec(), manner: Manner::Confined }
    }
}

/// How images are run on this machine.
pub struct Runner {
    docker: Option<Docker>,
    bare: Option<Bare>,
    images: Option<Images>,
}

/// An image that can be run.
pub struct Image<'r> {
    name: String,
    way: Way<'r>,
}

enum Way<'r> {
    Docker(&'r Docker),
    Bare(Bare, Box<Unpacked>),
}

/// A container in the background. It ends with the value.
pub struct Running<'r>(Started<'r>);

enum Started<'r> {
    Docker(docked::Running<'r>),
    Bare(Box<Contained>),
}

impl Runner {
    /// By this docker alone.
    pub fn docker(docker: Docker) -> Self {
        Self { docker: Some(docker), bare: None, images: None }
    }

    /// Without an engine, whether there is one or not.
    pub fn bare(tree: &Tree) -> Result<Self, Fault> {
        Ok(Self { docker: None, bare: Some(Bare::find()?), images: Some(Images::of(tree)) })
    }

    /// By docker where an engine answers, else bare.
    pub fn at_hand(tree: &Tree) -> Result<Self, Fault> {
        let found = Docker::find(&tree.root).and_then(|docker| docker.version().map(|_| docker));
        let images = Some(Images::of(tree));
        match found {
            Ok(docker) => Ok(Self { docker: Some(docker), bare: None, images }),
            Err(no_docker) => match Bare::find() {
                Ok(bare) => Ok(Self { docker: None, bare: Some(bare), images }),
                Err(no_bare) => Err(neither(&no_docker, &no_bare)),
            },
        }
    }

    /// An image by its reference, or by the folder of an OCI layout. What only such a folder has goes bare: docker could not
    /// find it.
    pub fn image(&self, name: &str) -> Result<Image<'_>, Fault> {
        if let Some(docker) = &self.docker {
            let here = self.images.as_ref().map(|images| images.find(name)).transpose()?.flatten();
            if here.is_none() || docker.stored(name).is_ok_and(|stored| stored.is_some()) {
                return Ok(Image { name: name.to_owned(), way: Way::Docker(docker) });
            }
        }
        let bare = self.bare.clone().map_or_else(Bare::find, Ok)?;
        let images = self.images.as_ref().expect("a runner has an engine or images");
        let image = images.unpack(name, bare.has_every_user())?;
        let user = match image.config.config.user.as_str() {
            "" => "root",
            user => user,
        };
        let whose = if bare.has_every_user() { "" } else { ", which is another name for yours" };
        terminal::step("runs", &format!("without an engine, in namespaces, as user `{user}`{whose}"));
        Ok(Image { name: name.to_owned(), way: Way::Bare(bare, Box::new(image)) })
    }
}

impl<'r> Image<'r> {
    /// Its name, as it was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs by docker.
    pub fn is_docked(&self) -> bool {
        matches!(self.way, Way::Docker(_))
    }

    /// Runs it to the end and keeps what it says. An exit other than 0 is the caller's to judge; a container that cannot be is
    /// a fault, or docker's exit 125.
    pub fn run(&self, launch: &Launch) -> Result<Output, Fault> {
        match &self.way {
            Way::Docker(docker) => docked::run(docker, &self.name, launch),
            Way::Bare(bare, image) => bare.run(&image.folder, &image.config.config, launch),
        }
    }

    /// Starts it in the background.
    pub fn start(&self, launch: &Launch) -> Result<Running<'r>, Fault> {
        Ok(Running(match &self.way {
            Way::Docker(docker) => Started::Docker(docked::start(docker, &self.name, launch)?),
            Way::Bare(bare, image) => {
                Started::Bare(Box::new(bare.start(&image.folder, &image.config.config, launch)?))
            }
        }))
    }

    /// Starts it in the background with our own streams, and with its ports reachable from this machine.
    pub fn serve(&self, launch: &Launch) -> Result<Running<'r>, Fault> {
        Ok(Running(match &self.way {
            Way::Docker(docker) => Started::Docker(docked::serve(docker, &self.name, launch)?),
            Way::Bare(bare, image) => {
                Started::Bare(Box::new(bare.serve(&image.folder, &image.config.config, launch)?))
            }
        }))
    }

    /// Runs it with our own streams, Ctrl-C included, and says its exit; by docker this process becomes the docker client.
    pub fn attach(&self, launch: &Launch) -> Result<u8, Fault> {
        match &self.way {
            Way::Docker(docker) => Err(docked::attach(docker, &self.name, launch)),
            Way::Bare(bare, image) => {
                let status = bare.attach(&image.folder, &image.config.config, launch)?;
                // What ended by a signal has been told as 128 and its number already.
                Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
            }
        }
    }
}

impl Running<'_> {
    /// Runs another program in it, as the image's user, and keeps what it says.
    pub fn exec(&mut self, argv: &[&str]) -> Result<Output, Fault> {
        match &mut self.0 {
            Started::Docker(container) => container.exec(argv),
            Started::Bare(container) => container.exec(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()),
        }
    }

    /// Asks its program to end, and ends it when this time has passed.
    pub fn end(self, patience: Duration) {
        match self.0 {
            Started::Docker(container) => container.end(patience),
            Started::Bare(container) => container.end_within(patience),
        }
    }

    /// Whether its program still runs.
    pub fn runs(&mut self) -> Result<bool, Fault> {
        match &mut self.0 {
            Started::Docker(container) => container.runs(),
            Started::Bare(container) => container.runs(),
        }
    }

    /// The end of what it has said, in so many lines.
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

/// Neither way is open: what each would need.
fn neither(no_docker: &Fault, no_bare: &Fault) -> Fault {
    let told = |fault: &Fault| {
        let what = std::iter::once(&fault.what).chain(&fault.causes);
        what.map(String::as_str).collect::<Vec<_>>().join(": ")
    };
    let mut fault = Fault::missing("cannot run an image on this machine").cause(told(no_docker)).cause(told(no_bare));
    fault.hints = no_docker.hints.iter().chain(&no_bare.hints).cloned().collect();
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_out_are_named() {
        let docker = Fault::missing("no Docker engine answers").cause("no socket").hint("start Docker");
        let bare = Fault::missing("cannot run an image in namespaces").cause("cannot make namespaces").hint("as root");
        let fault = neither(&docker, &bare);
        assert_eq!(
            fault.causes,
            ["no Docker engine answers: no socket", "cannot run an image in namespaces: cannot make namespaces"]
        );
        assert_eq!(fault.hints, ["start Docker", "as root"]);
    }
}
