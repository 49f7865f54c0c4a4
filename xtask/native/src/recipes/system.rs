//! `system-packages`: Debian packages on the root as one layer, without running the stage that installs them under docker.
//!
//! The packages are those that `images.lock` pins, for the root that they were resolved for. Their files, dpkg's database,
//! alternatives and the cache of the dynamic linker are those that `apt-get install` leaves; maintainer scripts are read, not
//! run, and a script with an effect that is not known is an error. Logs, caches of apt and debconf's database are not made.

mod archive;
mod install;

use crate::files::ImageFiles;
use crate::layer::item::Item;
use crate::layer::{self, Codec};
use crate::stage::{Part, Realise};
use install::Installation;
use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use xtask_host::docker::debian::packages;
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Compression;
use xtask_model::spec::lock::images::{self, SystemPackages as Pins};
use xtask_model::spec::reference::Digest;

/// Increase it when the same inputs give other items.
const SCHEMA: u32 = 1;

/// Name prefix of folders with the contents of packages.
pub const SCRATCH: &str = "system-";

/// Folders at the top of the root that packages have files in.
const TOP: [&[u8]; 10] = [b"bin", b"boot", b"etc", b"lib", b"lib32", b"lib64", b"run", b"sbin", b"usr", b"var"];

pub struct SystemPackages<'a> {
    root: &'a ImageFiles<'a>,
    /// Folder for downloads.
    cache: PathBuf,
    work: PathBuf,
    suite: String,
    pins: Pins,
    parts: Vec<Part>,
    made: OnceCell<MadeItems>,
    layer: OnceCell<PathBuf>,
}

/// Items, whose contents exist as long as this value.
struct MadeItems {
    items: Vec<Item>,
    folder: Scratch,
}

impl<'a> SystemPackages<'a> {
    /// The recipe with the pins for one platform. Reads nothing yet. `work` is for temporary files, `cache` keeps downloads.
    pub fn new(root: &'a ImageFiles<'a>, (suite, pins): (&str, &Pins), (cache, work): (&Path, &Path)) -> Self {
        use crate::stage::RootFiles as _;
        let packages: Vec<String> = pins.packages.iter().map(ToString::to_string).collect();
        let recipe = serde_json::json!({
            "recipe": "system-packages", "schema": SCHEMA, "root": root.config().rootfs.diff_ids, "packages": packages,
        });
        let names: Vec<&str> = pins.packages.iter().map(|pin| pin.name.as_str()).collect();
        let shown = match names.as_slice() {
            [one, two, three, _, ..] => format!("{one}, {two}, {three} and {} others", names.len() - 3),
            few => few.join(", "),
        };
        let part = Part {
            name: format!("Debian packages {shown}"),
            recipe: Digest::of(recipe.to_string().as_bytes()),
            under: ContextPath::default(),
        };
        Self {
            root,
            cache: cache.to_owned(),
            work: work.to_owned(),
            suite: suite.to_owned(),
            pins: pins.clone(),
            // Where the root has every package, nothing is added.
            parts: if names.is_empty() { Vec::new() } else { vec![part] },
            made: OnceCell::new(),
            layer: OnceCell::new(),
        }
    }

    /// Digest of everything that determines the layer.
    pub fn recipe(&self) -> Option<Digest> {
        self.parts.first().map(|part| part.recipe)
    }

    fn made(&self) -> Result<&MadeItems, Fault> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", self.work.display())).cause(error);
        std::fs::create_dir_all(&self.work).map_err(cannot)?;
        let folder = Scratch::new_in(&self.work, SCRATCH).map_err(cannot)?;
        let mut installation = Installation::new(self.root)?;
        self.is_for(&installation.status())?;
        let files = packages::fetch(&self.cache, (&self.suite, installation.sources()), &self.pins.packages)?;
        let mut contents = archive::PackageContents::create(folder.path())?;
        for (pin, file) in self.pins.packages.iter().zip(&files) {
            xtask_host::process::interrupted()?;
            installation.unpack(&mut contents, &pin.name, file)?;
        }
        contents.finish()?;
        let (items, passed_over) = installation.finish()?;
        for (package, command, why) in passed_over {
            terminal::step("passed over", &format!("`{command}` of the Debian package `{package}`: {why}"));
        }
        Ok(self.made.get_or_init(|| MadeItems { items, folder }))
    }

    /// Pins hold for the root that they were resolved for.
    fn is_for(&self, status: &str) -> Result<(), Fault> {
        if images::installed(status) == self.pins.installed {
            return Ok(());
        }
        Err(Fault::usage("the Debian packages in `images.lock` were pinned for another root")
            .cause("the root of this build has other packages, or other versions of them")
            .hint("pin them for this one: `cargo xtask lock`"))
    }

    /// The layer as a tar file, for those who read the root's files.
    ///
    /// # Errors
    /// As [`Realise::produce`].
    pub fn layer(&self) -> Result<PathBuf, Fault> {
        if let Some(path) = self.layer.get() {
            return Ok(path.clone());
        }
        let made = self.made()?;
        let path = made.folder.path().join("layer.tar.gz");
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", path.display())).cause(error);
        let mut file = BufWriter::new(File::create(&path).map_err(cannot)?);
        layer::write(&made.items, Codec::new(Compression::Gzip), 1, &mut file)?;
        file.flush().map_err(cannot)?;
        Ok(self.layer.get_or_init(|| path).clone())
    }
}

impl Realise for SystemPackages<'_> {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn items(&self, _part: usize) -> Result<Vec<Item>, Fault> {
        Ok(self.made()?.items.clone())
    }

    fn is_base(&self) -> bool {
        true
    }

    fn may_have(&self, path: &ContextPath) -> bool {
        may_have(path)
    }
}

/// Users and groups are made by scripts, which are refused.
fn may_have(path: &ContextPath) -> bool {
    let accounts = [&b"etc/passwd"[..], b"etc/group"].contains(&path.as_bytes());
    !accounts && path.parts().next().is_some_and(|top| TOP.contains(&top))
}
