//! The buildah command line, which builds a Dockerfile into a layout where there is no docker.
//!
//! Its store is a folder of the caller, so that nothing is left when that folder is removed.

use super::{Build, NamedContext, Output};
use crate::process::{self, Command};
use crate::terminal;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::oci::{Descriptor, Index, annotation, media_type};
use xtask_model::spec::reference::Digest;

/// Name of the image in the store.
const NAME: &str = "built";

/// Lines of the output that an error shows.
const SHOWN: usize = 20;

#[derive(Clone, Debug)]
pub struct Buildah {
    program: PathBuf,
    folder: PathBuf,
    driver: StorageDriver,
}

/// Storage driver of buildah: how it keeps the layers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StorageDriver {
    /// Mounts them over each other, in a mount namespace of the call, so that no mount is left when it is killed.
    Overlay,
    /// Copies all files for each stage and layer, which is possible everywhere.
    Vfs,
}

impl Buildah {
    /// The program of this machine, if there is one, with its store in a folder.
    pub fn find(folder: &Path) -> Option<Self> {
        let program = process::found("buildah")?;
        // The kernel, the file system of the folder and the rights of the user decide: buildah says whether it works.
        let trial = Self { program, folder: folder.join("trial"), driver: StorageDriver::Overlay };
        let works = trial.call().arg("info").output().is_ok_and(|output| output.status.success());
        let driver = if works { StorageDriver::Overlay } else { StorageDriver::Vfs };
        Some(Self { folder: folder.to_owned(), driver, ..trial })
    }

    fn call(&self) -> Command {
        let driver = match self.driver {
            StorageDriver::Overlay => "overlay",
            StorageDriver::Vfs => "vfs",
        };
        let call = Command::new(&self.program).arg("--root").arg(self.folder.join("store"));
        let call = call.arg("--runroot").arg(self.folder.join("run")).args(["--storage-driver", driver]);
        // An ordinary user's buildah makes namespaces by itself.
        let call = match self.driver {
            StorageDriver::Overlay if rustix::process::geteuid().is_root() => {
                call.wrapped_by("unshare", ["--mount", "--"])
            }
            _ => call,
        };
        // Docker takes a folder without credentials for one with none, and buildah refuses to write an image into a folder.
        match std::env::var_os("DOCKER_CONFIG").map(|folder| Path::new(&folder).join("config.json").is_file()) {
            Some(false) => call.env_remove("DOCKER_CONFIG"),
            _ => call,
        }
    }

    /// Builds into the layout that the build names, and returns the digest of the manifest.
    ///
    /// # Errors
    /// A build that fails, with the end of its output.
    pub fn build(&self, build: &Build, what: &str) -> Result<Digest, Fault> {
        let [Output::Layout(layout)] = build.outputs.as_slice() else {
            return Err(Fault::usage("buildah builds into a folder alone"));
        };
        let command = self.build_command(build)?;
        let mut progress = terminal::Progress::begin("building", what);
        let mut tail = VecDeque::new();
        let status = command.stream(|line| {
            progress.line(line);
            tail.push_back(line.to_owned());
            if tail.len() > SHOWN {
                tail.pop_front();
            }
        });
        progress.end();
        let status = status?;
        if !status.success() {
            let fault = Fault::build(format!("cannot build {what} with buildah ({status})"));
            return Err(fault.needed_by(format!("`{}`", build.dockerfile)).cause(tail.make_contiguous().join("\n")));
        }
        let digest = self.folder.join("digest");
        let target = format!("oci:{}:{NAME}", layout.display());
        // The layers are read here and go no further.
        let push = self.call().args(["push", "--quiet", "--disable-compression", "--digestfile"]).arg(&digest);
        push.args([NAME, &target]).read(Exit::Build)?;
        let read = fs::read_to_string(&digest).map_err(|error| error.to_string());
        let read = read.and_then(|text| text.trim().parse::<Digest>().map_err(|error| error.to_string()));
        read.map_err(|error| Fault::build(format!("cannot read the digest of {what} from buildah")).cause(error))
    }

    fn build_command(&self, build: &Build) -> Result<Command, Fault> {
        let mut call = self.call().args([
            "build",
            "--isolation=chroot",
            "--format=oci",
            "--layers=false",
            "--identity-label=false",
        ]);
        if build.contexts.values().any(is_on_loopback) {
            call = call.arg("--tls-verify=false");
        }
        let file = build.root.join(&build.dockerfile);
        let ignore = PathBuf::from(format!("{}.dockerignore", file.display()));
        if ignore.is_file() {
            call = call.arg(super::joined("--ignorefile=", &ignore));
        }
        for (name, value) in &build.args {
            call = call.arg("--build-arg").arg(format!("{name}={value}"));
        }
        for name in &build.inherited_args {
            call = call.arg("--build-arg").arg(name);
        }
        for (name, target) in &build.contexts {
            let target = match target {
                NamedContext::Layout { folder, digest } => format!("docker-image://{}", self.pull(folder, *digest)?),
                NamedContext::Image(image) => format!("docker-image://{image}"),
                NamedContext::Folder(folder) => folder.display().to_string(),
            };
            call = call.arg("--build-context").arg(format!("{name}={target}"));
        }
        call = call.args(build.target.iter().map(|target| format!("--target={target}")));
        Ok(call.arg(super::joined("--file=", &file)).arg(format!("--tag={NAME}")).arg("--").arg(&build.context))
    }

    /// Brings an image of a layout into the store, and returns its id.
    fn pull(&self, layout: &Path, digest: Digest) -> Result<String, Fault> {
        let cannot = |error: &dyn std::fmt::Display| {
            Fault::build(format!("cannot read the image `{}@{digest}`", layout.display())).cause(error)
        };
        // A layout with this image alone, by a name: buildah finds none by digest.
        let alone = self.folder.join("from");
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&alone)?;
            let blobs = layout.canonicalize()?.join("blobs");
            let size = fs::metadata(blobs.join("sha256").join(digest.hex()))?.len();
            let found = Descriptor::new(media_type::MANIFEST, digest, size).with_annotation(annotation::REF_NAME, NAME);
            fs::write(alone.join("index.json"), serde_json::to_vec(&Index::new(vec![found]))?)?;
            fs::write(alone.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
            match std::os::unix::fs::symlink(blobs, alone.join("blobs")) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        };
        write().map_err(|error| cannot(&error))?;
        let call = self.call().args(["pull", "--quiet"]).arg(format!("oci:{}:{NAME}", alone.display()));
        Ok(call.read(Exit::Build)?.trim().to_owned())
    }
}

/// A registry on this machine has no TLS.
fn is_on_loopback(context: &NamedContext) -> bool {
    matches!(context, NamedContext::Image(image) if image.repository.is_loopback())
}
