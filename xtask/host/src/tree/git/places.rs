//! Files of git that are read without it: the format of ids, the index, files of attributes.

use super::Git;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::image::context::ObjectFormat;

/// Format of the ids of the repository that a folder is in. Outside of every repository it is SHA-256.
pub fn format(root: &Path) -> ObjectFormat {
    let named = std::env::var_os("GIT_DIR").map(PathBuf::from).map(|folder| root.join(folder));
    let found = named.or_else(|| root.ancestors().find_map(|folder| repository(&folder.join(".git"))));
    let Some(folder) = found else { return ObjectFormat::Sha256 };
    // A work tree of its own shares the configuration of the repository.
    let common = std::fs::read_to_string(folder.join("commondir"));
    let folder = common.map_or_else(|_| folder.clone(), |common| folder.join(common.trim_end()));
    let config = std::fs::read_to_string(folder.join("config")).unwrap_or_default().to_ascii_lowercase();
    let is_set = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        key.trim() == "objectformat" && value.trim().trim_matches('"') == "sha256"
    };
    if config.lines().any(is_set) { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 }
}

/// The repository's folder that a `.git` is or names.
fn repository(path: &Path) -> Option<PathBuf> {
    if path.join("HEAD").symlink_metadata().is_ok() {
        return Some(path.to_owned());
    }
    let text = std::fs::read(path).ok()?;
    let named = text.trim_ascii_end().strip_prefix(b"gitdir: ")?;
    Some(path.parent()?.join(OsStr::from_bytes(named)))
}

/// Result of [`Git::index`].
pub struct IndexPlaces {
    pub index: PathBuf,
    /// The path from the repository's top to the folder that git was asked in.
    pub prefix: PathBuf,
    /// Files of attributes that are not part of the tree; some may be missing.
    pub attributes: Vec<PathBuf>,
}

impl Git {
    /// Location of the index. `None` outside of every repository.
    pub fn index(&self) -> Option<IndexPlaces> {
        let places = ["rev-parse", "--show-prefix", "--git-path", "index", "--git-path", "info/attributes"];
        let output = self.command().args(places).output().ok().filter(|output| output.status.success())?;
        let mut lines = output.stdout.split(|byte| *byte == b'\n').map(|line| PathBuf::from(OsStr::from_bytes(line)));
        let (prefix, index, own) = (lines.next()?, lines.next()?, lines.next()?);
        let configured =
            self.command().args(["config", "--type=path", "--get", "core.attributesFile"]).output().ok()?;
        let configured = String::from_utf8_lossy(&configured.stdout).trim_end().to_owned();
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let personal = match configured.as_str() {
            "" => variable("XDG_CONFIG_HOME")
                .or_else(|| Some(variable("HOME")?.join(".config")))
                .map(|folder| folder.join("git/attributes")),
            path => Some(PathBuf::from(path)),
        };
        // Older versions do not say where the system's are.
        let system = self.command().args(["var", "GIT_ATTR_SYSTEM"]).output().ok()?;
        let system = match system.stdout.trim_ascii_end() {
            b"" => PathBuf::from("/etc/gitattributes"),
            path => PathBuf::from(OsStr::from_bytes(path)),
        };
        let attributes = [self.root.join(own), system].into_iter().chain(personal).collect();
        Some(IndexPlaces { index: self.root.join(index), prefix, attributes })
    }

    /// Lengths of blobs, one a line, for ids in hexadecimal, one a line. Nothing where git could not answer.
    pub(crate) fn lengths(&self, ids: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let call = self.command().args(["cat-file", "--batch-check=%(objectsize)", "--buffer"]);
        let output = call.stdin(ids).output()?;
        Ok(if output.status.success() { output.stdout } else { Vec::new() })
    }
}
