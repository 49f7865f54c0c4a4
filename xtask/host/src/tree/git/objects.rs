//! Git's objects, asked of one `git cat-file` that lasts as long as the value: any number of questions, one process.
//!
//! Folders are remembered by object name, which never changes its meaning.

use super::Git;
use crate::process::PipedProcess;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ObjectId;
use xtask_model::spec::reference::Digest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: String,
    /// `commit`, `tree`, `blob` or `tag`.
    pub kind: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    Folder,
    File { executable: bool },
    Link,
    Submodule,
}

pub(super) type Folder = BTreeMap<Vec<u8>, Node>;

#[derive(Debug)]
pub struct Objects {
    git: Git,
    talk: Mutex<PipedProcess>,
    /// True if what a partial clone lacks may still be asked for: nobody forbade it, and it was not done yet.
    may_fetch: AtomicBool,
    folders: Mutex<HashMap<String, Arc<Folder>>>,
    /// Blobs that were read, by id: the digest of the contents that a pointer file of Git LFS names.
    pointers: Mutex<HashMap<ObjectId, Option<Digest>>>,
}

impl Objects {
    /// Starts the one process. `offline` keeps a partial clone from fetching what it lacks.
    pub fn open(git: &Git, offline: bool) -> Result<Self, Fault> {
        Ok(Self {
            git: git.clone(),
            talk: Mutex::new(git.command().args(["cat-file", "--batch"]).start_piped()?),
            may_fetch: AtomicBool::new(!offline),
            folders: Mutex::default(),
            pointers: Mutex::default(),
        })
    }

    /// The object that a name means (`HEAD^{commit}`, `<id>:./`); `None` where there is none in this clone.
    pub fn get(&self, name: &str) -> Result<Option<Object>, Fault> {
        if name.contains(['\n', '\r', '\0']) {
            return Ok(None);
        }
        let cannot = |cause: &dyn std::fmt::Display| {
            Fault::usage(format!("cannot read `{name}` from git")).cause(cause).hint("`git fsck` finds what is broken")
        };
        let mut talk = locked(&self.talk);
        talk.say(format!("{name}\n").as_bytes()).map_err(|_| self.no_answer(name))?;
        let answers = talk.answers();
        let mut header = Vec::new();
        answers.read_until(b'\n', &mut header).map_err(|error| cannot(&error))?;
        if header.is_empty() {
            return Err(self.no_answer(name));
        }
        let header = String::from_utf8_lossy(&header);
        // `<id> <kind> <size>`, or the question with what is wrong with it.
        let words: Vec<&str> = header.trim_end().rsplitn(3, ' ').collect();
        let (Some(size), [_, kind, id]) = (words[0].parse::<usize>().ok(), words.as_slice()) else {
            return if header.trim_end().ends_with(" ambiguous") {
                Err(Fault::usage(format!("`{name}` is ambiguous")).hint("use a longer prefix"))
            } else {
                Ok(None)
            };
        };
        let mut bytes = vec![0; size];
        answers.read_exact(&mut bytes).map_err(|error| cannot(&error))?;
        answers.read_exact(&mut [0]).map_err(|error| cannot(&error))?;
        Ok(Some(Object { id: (*id).to_owned(), kind: (*kind).to_owned(), bytes }))
    }

    /// Reads an object that another one names. A partial clone may fetch it, once git's configuration is known to be harmless.
    pub fn named(&self, id: &str) -> Result<Object, Fault> {
        match self.get_or_fetch(id)? {
            Some(object) => Ok(object),
            None => {
                let said = self.git.command().args(["cat-file", "-e", id]).output()?.stderr;
                let fault = self.git.fault(&said, format!("object `{id}` is not in this clone"));
                Err(if self.git.is_partial() && !self.git.fetches_safely()? {
                    fault.cause("the repository's own configuration may name programs, so nothing is fetched for it")
                } else {
                    fault
                })
            }
        }
    }

    /// The same as [`Self::get`]; what is missing in a partial clone is fetched.
    pub fn get_or_fetch(&self, name: &str) -> Result<Option<Object>, Fault> {
        if let Some(object) = self.get(name)? {
            return Ok(Some(object));
        }
        if !self.may_fetch.swap(false, Ordering::Relaxed) || !self.git.is_partial() || !self.git.fetches_safely()? {
            return Ok(None);
        }
        *locked(&self.talk) = self.git.fetching_command().args(["cat-file", "--batch"]).start_piped()?;
        self.get(name)
    }

    pub fn folder(&self, id: &str) -> Result<Arc<Folder>, Fault> {
        if let Some(known) = locked(&self.folders).get(id) {
            return Ok(known.clone());
        }
        let object = self.named(id)?;
        let names = folder(&object.bytes, object.id.len() / 2)
            .ok_or_else(|| Fault::new(Exit::Bug, format!("cannot read git's tree object `{id}`")))?;
        let names = Arc::new(names);
        locked(&self.folders).insert(id.to_owned(), names.clone());
        Ok(names)
    }

    /// The digest of the contents that a blob names, if it is a pointer file of Git LFS.
    pub fn pointer(&self, id: &ObjectId) -> Result<Option<Digest>, Fault> {
        if let Some(known) = locked(&self.pointers).get(id) {
            return Ok(*known);
        }
        let contents = super::pointer(&self.named(&id.hex())?.bytes);
        locked(&self.pointers).insert(*id, contents);
        Ok(contents)
    }

    /// True if [`Self::pointer`] has read a blob.
    pub fn is_read(&self, id: &Option<ObjectId>) -> bool {
        id.is_some_and(|id| locked(&self.pointers).contains_key(&id))
    }

    /// The fault of a process that ended instead of answering, with the words of one that is asked for the same.
    fn no_answer(&self, name: &str) -> Fault {
        let what = format!("cannot read `{name}` from git");
        let asked = || self.git.command().args(["cat-file", "-t", name]).output();
        match asked() {
            Ok(output) => self.git.fault(&output.stderr, what),
            Err(fault) => fault,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a tree object: `<mode> <name>\0<id>`, over and over.
fn folder(mut bytes: &[u8], id_length: usize) -> Option<Folder> {
    let mut folder = Folder::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let end = bytes.iter().position(|b| *b == 0)?;
        let kind = match bytes.get(..space)? {
            b"40000" | b"040000" => NodeKind::Folder,
            b"120000" => NodeKind::Link,
            b"160000" => NodeKind::Submodule,
            mode => NodeKind::File { executable: mode == b"100755" },
        };
        let name = bytes.get(space + 1..end)?.to_vec();
        let id = bytes.get(end + 1..end + 1 + id_length)?.iter().map(|byte| format!("{byte:02x}")).collect();
        folder.insert(name, Node { kind, id });
        bytes = &bytes[end + 1 + id_length..];
    }
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_objects_are_read_to_their_end() {
        let mut bytes = b"100755 run\0".to_vec();
        bytes.extend([0xab; 20]);
        bytes.extend(b"40000 a b\0");
        bytes.extend([1; 20]);
        let read = folder(&bytes, 20).unwrap();
        assert_eq!(read[b"run".as_slice()].kind, NodeKind::File { executable: true });
        assert_eq!(read[b"a b".as_slice()], Node { kind: NodeKind::Folder, id: "01".repeat(20) });
        assert_eq!(folder(&bytes[..bytes.len() - 1], 20), None);
        assert_eq!(folder(b"", 20), Some(Folder::new()));
    }
}
