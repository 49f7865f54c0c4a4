//! Wheels on this machine, by digest, for all repositories of a user; and which wheel was chosen for which question.
//!
//! A file has its name only after its bytes were verified, and is verified again before it is used. What was not used for a month is
//! removed.

use super::Failure;
use super::client::{IndexClient, LONGEST_WHEEL, Location};
use super::progress::DownloadProgress;
use crate::http::download;
use crate::{file, process, scratch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Digest;

/// Files that were not used for longer are removed.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Folders are looked through for old files no more often.
const SWEPT: Duration = Duration::from_secs(86_400);

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Name prefix of files that are being written.
const NEW: &str = "new-";

#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// The file that was chosen for a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) filename: String,
    pub(super) sha256: Digest,
    pub(super) yanked: Option<String>,
}

/// A download that the cache lacks.
pub(super) struct WheelDownload<'a> {
    pub(super) client: &'a IndexClient,
    pub(super) progress: &'a DownloadProgress,
    pub(super) name: &'a str,
    /// It may hold a password.
    pub(super) url: &'a str,
    /// The size that the index states, which may be wrong.
    pub(super) size: Option<u64>,
    /// The digest that the index states.
    pub(super) known: Option<Digest>,
    /// Digests that the file may have.
    pub(super) allowed: BTreeSet<String>,
}

impl WheelDownload<'_> {
    fn what(&self) -> String {
        format!("cannot download `{}`", self.name)
    }
}

/// Folder for what all repositories of a user share: `XTASK_CACHE_DIR`, else `xtask` in `XDG_CACHE_HOME` or `~/.cache`; none
/// without a home.
pub fn user_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("xtask"));
    set("XTASK_CACHE_DIR").or_else(user)
}

impl Default for Cache {
    fn default() -> Self {
        Self::of_user()
    }
}

impl Cache {
    /// The user's: see [`user_folder`].
    pub fn of_user() -> Self {
        Self { folder: user_folder().unwrap_or_else(|| std::env::temp_dir().join("xtask-cache")) }
    }

    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn wheels(&self) -> PathBuf {
        self.folder.join("wheels")
    }

    fn choices(&self) -> PathBuf {
        self.folder.join("choices")
    }

    /// The wheel with this digest; one with other bytes is removed.
    pub(super) fn verified(&self, wanted: &Digest) -> Option<PathBuf> {
        let path = self.wheels().join(format!("{}.whl", wanted.hex()));
        if digest(&path).ok()? == *wanted {
            used(&path);
            return Some(path);
        }
        let _ = fs::remove_file(&path);
        None
    }

    pub(super) fn choice(&self, key: &Digest) -> Option<Choice> {
        let path = self.choices().join(key.hex());
        let found = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        used(&path);
        Some(found)
    }

    /// Keeps a choice; without a writable folder it is made again.
    pub(super) fn remember(&self, key: &Digest, choice: &Choice) {
        let write = || {
            let folder = self.choices();
            create(&folder)?;
            let mut file = scratch::file_in(&folder, NEW)?;
            file.write_all(&serde_json::to_vec(choice)?)?;
            file.persist(folder.join(key.hex())).map_err(|error| error.error)
        };
        let _ = write();
    }

    /// A wheel that was built on this machine or came from the base's repository, by what it is made of: name and digest.
    pub fn built(&self, id: &Digest) -> Option<(String, PathBuf)> {
        let Choice { filename, sha256, .. } = self.choice(id)?;
        Some((filename, self.verified(&sha256)?))
    }

    /// Keeps such a wheel.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn keep_built(&self, id: &Digest, filename: &str, bytes: &[u8]) -> Result<PathBuf, Fault> {
        let (folder, sha256) = (self.wheels(), Digest::of(bytes));
        let path = folder.join(format!("{}.whl", sha256.hex()));
        let write = || {
            create(&folder)?;
            let mut file = scratch::file_in(&folder, NEW)?;
            file.write_all(bytes)?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| {
            Fault::build(format!("cannot write to the cache of wheels, `{}`", folder.display()))
                .cause(error)
                .hint("name another folder: `XTASK_CACHE_DIR=…`")
        })?;
        self.remember(id, &Choice { filename: filename.to_owned(), sha256, yanked: None });
        Ok(path)
    }

    /// Downloads a wheel. What an interrupted download has left is used, and two processes do not download one file at once.
    pub(super) fn downloaded(&self, wanted: &WheelDownload<'_>) -> Result<(PathBuf, Digest), Failure> {
        let location = Location::parse(wanted.url)
            .ok_or_else(|| Failure::Unsupported("a file has an address of another kind".to_owned()))?;
        let folder = self.wheels();
        let cannot = |error: io::Error| {
            Fault::build(format!("cannot write to the cache of wheels, `{}`", folder.display()))
                .cause(error)
                .hint("name another folder: `XTASK_CACHE_DIR=…`")
        };
        create(&folder).map_err(cannot)?;
        // The address without credentials, so that a new password finds the old part.
        let part = folder.join(format!("{}.part", Digest::of(location.url.wire().as_bytes()).hex()));
        let file = locked(&part).map_err(|error| error.map_or_else(interruption, cannot))?;
        // Another process may have brought it meanwhile.
        if let Some((known, path)) = wanted.known.and_then(|known| Some((known, self.verified(&known)?))) {
            let _ = fs::remove_file(&part);
            return Ok((path, known));
        }
        wanted.progress.expect(wanted.size.unwrap_or(0));
        let had = file.metadata().map_err(cannot)?.len();
        if wanted.size.is_some_and(|size| had > size) {
            file.set_len(0).map_err(cannot)?;
        }
        let mut is_first = true;
        loop {
            let (digest, is_joined) = bring(&file, &location, wanted)?;
            if wanted.allowed.contains(&digest.hex()) {
                let path = folder.join(format!("{}.whl", digest.hex()));
                fs::rename(&part, &path).map_err(cannot)?;
                return Ok((path, digest));
            }
            // The parts may be of different files: those of an earlier process, and those of an index that serves another file meanwhile.
            if is_joined && std::mem::take(&mut is_first) {
                file.set_len(0).map_err(cannot)?;
                continue;
            }
            let _ = fs::remove_file(&part);
            let fault = Fault::network(format!("the hash of `{}` differs from the lock", wanted.name))
                .cause(format!("`{}` has the digest `{digest}`", location.url));
            let fault = match is_joined {
                true => fault.cause("the download was continued twice; the parts may be of different files"),
                false => fault,
            };
            return Err(fault
                .hint("check what the index serves before you update the lock: `cargo xtask lock`")
                .into());
        }
    }

    /// Removes what was not used for a month, once a day.
    pub(super) fn sweep(&self) {
        let stamp = self.folder.join("swept");
        let age = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok()?.elapsed().ok();
        if !self.folder.exists() || age(&stamp).is_some_and(|age| age < SWEPT) {
            return;
        }
        let _ = fs::write(&stamp, "");
        for folder in [self.wheels(), self.choices()] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if age(&entry.path()).is_some_and(|age| age > KEPT) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Brings the bytes that the part lacks; the digest of all, and true if they may be of different files.
fn bring(file: &File, location: &Location, wanted: &WheelDownload<'_>) -> Result<(Digest, bool), Failure> {
    let cannot =
        |error: io::Error| Fault::build(&*wanted.what()).cause(format!("cannot read the part on disk: {error}"));
    let mut to = Counted { file, progress: wanted.progress };
    let mut download = download::Download::new(&mut to, LONGEST_WHEEL);
    let mut reader = file;
    reader.rewind().map_err(cannot)?;
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece).map_err(cannot)? {
            0 => break,
            count => {
                download.had(&piece[..count]);
                wanted.progress.came(count as u64);
            }
        }
    }
    let is_joined = wanted.client.download(&wanted.what(), location, &mut download)?;
    Ok((download.digest().1, is_joined))
}

/// A file that counts what is written to it.
struct Counted<'a> {
    file: &'a File,
    progress: &'a DownloadProgress,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.progress.came(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file for this process alone; the error is `None` after an interruption.
fn locked(path: &Path) -> Result<File, Option<io::Error>> {
    loop {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        loop {
            match file.try_lock() {
                // Where the file system has no locks the digest decides in the end.
                Ok(()) | Err(TryLockError::Error(_)) => break,
                Err(TryLockError::WouldBlock) => {
                    process::interrupted().map_err(|_| None)?;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        // Whoever had the lock may have renamed the file, or removed it.
        let (here, there) = (file.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())) {
            return Ok(file);
        }
    }
}

fn interruption() -> Fault {
    process::interrupted().err().unwrap_or_else(|| Fault::build("interrupted"))
}

fn create(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn used(path: &Path) {
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// The sha256 of a file.
pub(super) fn digest(path: &Path) -> io::Result<Digest> {
    file::hash(&mut File::open(path)?).map(|(digest, _)| digest)
}
