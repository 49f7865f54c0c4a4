//! The files of a working folder, with what is known of them without opening them.
//!
//! The id of an untouched file comes from the memory of an earlier command or, where there is none, from git's index. The index is
//! believed only as far as `xtask_scan::index` says, and not at all where git's attributes name filters, come from a tree, or objects are
//! replaced: these may change contents without their length. Everything else is hashed as it is on disk.

use crate::tree::files::{self, Files, Named, Whole};
use crate::tree::git::Git;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, ObjectFormat, ObjectId};
use xtask_model::spec::ignore::NameRule;
use xtask_scan::{Index, Listing, Memory};

/// Path of the file that remembers ids of files.
const PLACE: &str = "target/native/stamps";

/// Files beyond which remembering them is worth its file.
const REMEMBER_FROM: usize = if cfg!(test) { 2 } else { 50 };

/// A working folder. What was learned of its files is written down when the value ends. A large folder is read once, and a later change
/// of it is not seen; who reads its files compares them with its id.
#[derive(Debug)]
pub struct WorkTree {
    root: PathBuf,
    format: OnceLock<ObjectFormat>,
    session: Mutex<Session>,
}

#[cfg(test)]
mod tests;

#[derive(Debug, Default)]
struct Session {
    memory: Option<Memory>,
    /// The index, once it was asked for; `None` in it where there is none to believe.
    index: Option<Option<GitIndex>>,
    /// Folders that were asked for, with what they hold: what plans an image and what makes it ask for the same ones.
    whole: BTreeMap<Question, Known>,
}

/// A folder, and the names that must not be below it.
type Question = (ContextPath, Vec<NameRule>);

/// The id of a folder and the number of its files.
type Known = (ObjectId, u64);

/// Git's index with where it is valid.
#[derive(Debug)]
struct GitIndex {
    index: Index,
    /// From the repository's top to the root: empty, or with a slash at its end.
    prefix: Vec<u8>,
    /// Folders whose blobs' lengths were asked for.
    measured: BTreeSet<Vec<u8>>,
}

impl WorkTree {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), format: OnceLock::new(), session: Mutex::default() }
    }

    /// The ids of the files in a listing that no memory has: from the index where they are many, else by hashing.
    fn complete(&self, session: &mut Session, listing: &mut Listing, path: &ContextPath) -> Result<(), Fault> {
        let began = SystemTime::now();
        let remembers = session.memory.is_some() || listing.len() >= REMEMBER_FROM;
        if remembers {
            let place = self.root.join(PLACE);
            let memory = session.memory.get_or_insert_with(|| Memory::load(place, files::scan_format(self.format())));
            if listing.recall(memory) == 0 {
                return Ok(());
            }
            self.indexed(session, listing, path, began)?;
        }
        let hashed = listing.hash().map_err(files::failed)?;
        if let Some(memory) = &mut session.memory {
            memory.learn(hashed.iter().map(|(stamp, id)| (stamp, id)), began);
        }
        Ok(())
    }

    /// Takes the ids that git's index has, as far as it is believed. Returns their number.
    fn indexed(
        &self,
        session: &mut Session,
        listing: &mut Listing,
        path: &ContextPath,
        began: SystemTime,
    ) -> Result<usize, Fault> {
        let git = Git::at(&self.root);
        let format = self.format();
        let Session { index, memory, .. } = session;
        let Some(index) = index.get_or_insert_with(|| GitIndex::open(&git, &self.root, format)) else { return Ok(0) };
        // Attributes that the index does not know yet.
        let own = path.folders().chain([path.clone(), ContextPath::default()]);
        let above = own.map(|folder| self.root.join(folder.to_path()).join(ATTRIBUTES));
        if !above.chain(listing.attributes.iter().cloned()).all(|file| keeps_contents(&file).unwrap_or(true)) {
            return Ok(0);
        }
        index.measure(&git, path)?;
        let found = listing.find(&index.index, &index.prefix, |stamp, id| {
            memory.iter_mut().for_each(|memory| memory.learn([(stamp, id)], began));
        });
        Ok(found)
    }
}

impl Drop for WorkTree {
    fn drop(&mut self) {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
        session.index = None;
        session.memory.iter_mut().for_each(Memory::save);
    }
}

const ATTRIBUTES: &str = ".gitattributes";

/// True if a file of attributes names nothing that may change a file's contents but not its length. `None` if it cannot be read.
fn keeps_contents(file: &Path) -> Option<bool> {
    let text = std::fs::read(file).ok()?;
    let words = text.split(|byte| byte.is_ascii_whitespace());
    let names = words.map(|word| {
        let word = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"!")).unwrap_or(word);
        word.split(|byte| *byte == b'=').next().unwrap_or_default()
    });
    Some(names.into_iter().all(|name| !matches!(name, b"filter" | b"ident" | b"working-tree-encoding")))
}

impl GitIndex {
    /// `None` where there is no index to believe.
    fn open(git: &Git, root: &Path, format: ObjectFormat) -> Option<Self> {
        let places = git.index()?;
        let index = Index::read(&places.index, files::scan_format(format))?;
        let mut prefix = places.prefix.as_os_str().as_bytes().to_vec();
        if !prefix.is_empty() && !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        let mut top = root.to_owned();
        let mut attributes = places.attributes;
        for _ in places.prefix.components() {
            top.pop();
            // Git applies it, tracked or not.
            attributes.push(top.join(ATTRIBUTES));
        }
        // Git falls back to its own copy of attributes that are not on disk.
        let tracked = index.named(ATTRIBUTES.as_bytes()).map(|path| keeps_contents(&top.join(OsStr::from_bytes(path))));
        let elsewhere = attributes.iter().map(|file| Some(keeps_contents(file).unwrap_or(true)));
        let harmless = tracked.chain(elsewhere).all(|keeps| keeps == Some(true));
        harmless.then_some(Self { index, prefix, measured: BTreeSet::new() })
    }

    /// Asks git for the lengths of the blobs in the folder of the root that a path is in.
    fn measure(&mut self, git: &Git, path: &ContextPath) -> Result<(), Fault> {
        let first = path.parts().next().unwrap_or_default();
        if !self.measured.insert(first.to_vec()) {
            return Ok(());
        }
        let folder = [self.prefix.as_slice(), first, b"/"].concat();
        let lengths = git.lengths(self.index.question(&folder))?;
        self.index.answer(&folder, &lengths);
        Ok(())
    }
}

impl Files for WorkTree {
    fn place(&self) -> &Path {
        &self.root
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        self.root.read(path)
    }

    fn has_file(&self, path: &Path) -> bool {
        self.root.has_file(path)
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        self.root.list(folder)
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        self.root.found(path)
    }

    fn format(&self) -> ObjectFormat {
        *self.format.get_or_init(|| self.root.format())
    }

    fn ids(&self, paths: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        if paths.len() < REMEMBER_FROM {
            return self.root.ids(paths);
        }
        let began = SystemTime::now();
        let format = files::scan_format(self.format());
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = session.memory.get_or_insert_with(|| Memory::load(self.root.join(PLACE), format));
        let at = |index: usize| self.root.join(paths[index].to_path());
        let found = xtask_scan::memory::recall_or_hash(paths.len(), format, memory, &at).map_err(files::failed)?;
        memory.learn(found.iter().map(|(stamp, id)| (stamp, id)), began);
        Ok(found.iter().map(|(_, id)| ObjectId::new(self.format(), id)).collect())
    }

    fn whole(&self, folder: &ContextPath, rules: &[NameRule], most: u64) -> Result<Whole, Fault> {
        let question = (folder.clone(), rules.to_vec());
        let known = |session: &Session| session.whole.get(&question).copied();
        if let Some((id, count)) = known(&self.session.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(if count <= most { Whole::Small } else { Whole::Is(id, count) });
        }
        let rules = files::scan_rules(rules);
        let format = files::scan_format(self.format());
        let Some(mut listing) = Listing::read(&self.root, folder.as_bytes(), &rules, format).map_err(files::failed)?
        else {
            return Ok(Whole::Unknown);
        };
        let count = listing.len() as u64;
        if count <= most {
            return Ok(Whole::Small);
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        self.complete(&mut session, &mut listing, folder)?;
        let id = listing.id().map_err(|error| Fault::usage(format!("cannot hash folder `{folder}`")).cause(error))?;
        let id = ObjectId::new(self.format(), &id);
        session.whole.insert(question, (id, count));
        Ok(Whole::Is(id, count))
    }

    fn regular(&self, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
        self.root.regular(path, most)
    }
}
