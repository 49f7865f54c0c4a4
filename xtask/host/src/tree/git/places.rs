//! Files of git that are read without it: the format of ids, the index, files of attributes.

use super::Git;
use std::ffi::OsStr;
use std::io;
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

#[derive(Default)]
struct IndexSettings {
    /// `core.attributesFile`.
    attributes: Option<PathBuf>,
    /// True if `attr.tree` is set.
    has_attribute_tree: bool,
    /// True if references may not be files: `extensions.refStorage` is set.
    has_other_refs: bool,
}

/// True if the folder of replacing references has an entry, or the file of packed ones names one; also if these cannot be read.
fn is_replacing(folder: &Path, packed: &Path) -> bool {
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let is_empty = std::fs::read_dir(folder).map_or_else(is_missing, |mut entries| entries.next().is_none());
    let has_none = |refs: Vec<u8>| memchr::memmem::find(&refs, b" refs/replace/").is_none();
    !is_empty || !std::fs::read(packed).map_or_else(is_missing, has_none)
}

impl Git {
    /// Location of the index. `None` outside of every repository, and where git may have written other contents than those of the
    /// ids in the index: where objects are replaced, or attributes come from a tree.
    pub fn index(&self) -> Option<IndexPlaces> {
        const FILES: [&str; 4] = ["index", "info/attributes", "refs/replace", "packed-refs"];
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if ["GIT_ATTR_SOURCE", "GIT_REPLACE_REF_BASE"].into_iter().any(|name| variable(name).is_some()) {
            return None;
        }
        let files = FILES.into_iter().flat_map(|file| ["--git-path", file]);
        let call = self.command().args(["rev-parse", "--show-prefix"]).args(files);
        let output = call.output().ok().filter(|output| output.status.success())?;
        let mut lines = output.stdout.split(|byte| *byte == b'\n').map(|line| PathBuf::from(OsStr::from_bytes(line)));
        let prefix = lines.next()?;
        let mut files = lines.map(|file| self.root.join(file));
        let (index, own, replaced, packed) = (files.next()?, files.next()?, files.next()?, files.next()?);
        let settings = self.index_settings()?;
        let has_ref_files = !settings.has_other_refs && variable("GIT_REFERENCE_BACKEND").is_none();
        let replaces = if has_ref_files { is_replacing(&replaced, &packed) } else { self.replaces() };
        if settings.has_attribute_tree || replaces {
            return None;
        }
        let personal = settings.attributes.or_else(|| {
            let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
            folder.map(|folder| folder.join("git/attributes"))
        });
        // Older versions do not say where the system's are.
        let system = self.command().args(["var", "GIT_ATTR_SYSTEM"]).output().ok()?;
        let system = match system.stdout.trim_ascii_end() {
            b"" => PathBuf::from("/etc/gitattributes"),
            path => PathBuf::from(OsStr::from_bytes(path)),
        };
        let attributes = [own, system].into_iter().chain(personal).collect();
        Some(IndexPlaces { index, prefix, attributes })
    }

    /// The settings that [`Self::index`] needs, by one process; `None` if git cannot read its configuration.
    fn index_settings(&self) -> Option<IndexSettings> {
        const NAMES: &str = r"^(core\.attributesfile|attr\.tree|extensions\.refstorage)$";
        let output = self.command().args(["config", "--type=path", "-z", "--get-regexp", NAMES]).output().ok()?;
        // 1: none is set.
        if !matches!(output.status.code(), Some(0 | 1)) {
            return None;
        }
        let mut settings = IndexSettings::default();
        for setting in output.stdout.split(|byte| *byte == 0).filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_at(memchr::memchr(b'\n', setting).unwrap_or(setting.len()));
            match key {
                b"attr.tree" => settings.has_attribute_tree = true,
                b"extensions.refstorage" => settings.has_other_refs = true,
                _ => {
                    let path = PathBuf::from(OsStr::from_bytes(value.get(1..).unwrap_or_default()));
                    settings.attributes = Some(path).filter(|path| !path.as_os_str().is_empty());
                }
            }
        }
        Some(settings)
    }

    /// True if objects are replaced, or git cannot say: for references that are not files.
    fn replaces(&self) -> bool {
        let output = self.command().args(["for-each-ref", "--count=1", "refs/replace/"]).output();
        !output.is_ok_and(|output| output.status.success() && output.stdout.is_empty())
    }

    /// Lengths of blobs, one a line, for ids in hexadecimal, one a line. Nothing where git could not answer.
    pub(crate) fn lengths(&self, ids: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let call = self.command().args(["cat-file", "--batch-check=%(objectsize)", "--buffer"]);
        let output = call.stdin(ids).output()?;
        Ok(if output.status.success() { output.stdout } else { Vec::new() })
    }
}
