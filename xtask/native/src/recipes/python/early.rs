//! Unpacks and compiles packages while others are downloaded.
//!
//! It saves time and decides nothing: what it has not done, or what turns out to depend on other packages, is done when all packages are
//! known. Byte code is compiled in the same groups of sources, so its bytes are the same.

use super::bytecode::{self, Worker};
use super::compile::{self, Chunk, ChunkName};
use super::describe;
use super::distribution::EnvironmentPlace;
use super::installed::{Arrived, Installed};
use super::interpreter::Interpreter;
use super::unpack::Folder;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::lock::checked::{CheckedPackage, Packages};

pub(super) struct Early<'a> {
    folder: Folder,
    /// Bytes that the folder has room for.
    room: u64,
    place: EnvironmentPlace<'a>,
    packages: BTreeMap<&'a str, &'a LockedPackage>,
    /// Packages whose byte code this build needs.
    wanted: &'a BTreeSet<&'a str>,
    script: &'a Path,
    state: Mutex<State>,
    changed: Condvar,
}

/// A wheel, and what it was read as.
type Outcome = (Arrived, Result<(Installed, CheckedPackage), Fault>);

#[derive(Default)]
struct State {
    arrived: VecDeque<(String, Arrived)>,
    /// The largest last.
    chunks: Vec<Chunk>,
    /// Wheels that are being unpacked.
    unpacking: usize,
    /// True when no more wheels come.
    closed: bool,
    /// The Python that compiles; `Some(None)` where there is none.
    python: Option<Option<Interpreter>>,
    installed: BTreeMap<String, Outcome>,
    bytes: u64,
    compiled: BTreeSet<ChunkName>,
    /// True if the folder is of no use.
    given_up: bool,
}

enum Job {
    Unpack(String, Arrived),
    Compile(Interpreter, Chunk),
}

impl<'a> Early<'a> {
    /// `used` are bytes of the folder's room that others need.
    pub(super) fn new(
        (folder, room): (Folder, u64),
        used: u64,
        (packages, wanted): (&'a [LockedPackage], &'a BTreeSet<&'a str>),
        (place, script): (EnvironmentPlace<'a>, &'a Path),
    ) -> Self {
        let packages = packages.iter().map(|package| (&*package.name, package)).collect();
        let state = Mutex::new(State { bytes: used, ..State::default() });
        Self { folder, room, place, packages, wanted, script, state, changed: Condvar::new() }
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    /// Takes a wheel of a package that was downloaded.
    pub(super) fn add(&self, package: &str, wheel: Arrived) {
        self.change(|state| state.arrived.push_back((package.to_owned(), wheel)));
    }

    /// Says which Python compiles; without one, packages are only unpacked.
    pub(super) fn compile_with(&self, python: Option<Interpreter>) {
        self.change(|state| state.python = state.python.take().or(Some(python)));
    }

    /// Says that no more wheels come.
    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub(super) fn give_up(&self) {
        self.change(|state| state.given_up = true);
    }

    /// True if the folder is of no use.
    pub(super) fn is_given_up(&self) -> bool {
        self.state().given_up
    }

    /// Unpacks and compiles until all is done. Several threads may do so.
    pub(super) fn work(&self) {
        let _guard = Unwinding(self);
        let (mut worker, site) = (Worker::default(), format!("{}/{}", self.place.home, self.place.site()));
        let files = compile::BytecodeFiles { home: self.folder.home(), place: &self.place };
        while let Some(job) = self.next() {
            match job {
                Job::Unpack(package, wheel) => self.unpack(package, wheel),
                Job::Compile(interpreter, Chunk { name, sources, .. }) => {
                    let compiler =
                        bytecode::CompileScript { interpreter: &interpreter, script: self.script, site: &site };
                    let done = |source: &compile::SourceFile, code| files.write(source, code);
                    match compiler.compile_one(&mut worker, &sources, &|source| files.read(source), &done) {
                        Ok(()) => {
                            self.change(|state| state.compiled.insert(name));
                        }
                        // It is compiled again, and fails again or not.
                        Err(fault) => {
                            terminal::detail(&fault.what);
                            self.change(|state| state.python = Some(None));
                        }
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            state.given_up |= process::interrupted().is_err();
            if state.given_up {
                self.changed.notify_all();
                return None;
            }
            if let Some((package, wheel)) = state.arrived.pop_front() {
                state.unpacking += 1;
                return Some(Job::Unpack(package, wheel));
            }
            match state.python.clone() {
                Some(Some(python)) => {
                    if let Some(chunk) = state.chunks.pop() {
                        return Some(Job::Compile(python, chunk));
                    }
                }
                Some(None) => state.chunks.clear(),
                None => {}
            }
            if state.closed && state.unpacking == 0 && state.chunks.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn unpack(&self, package: String, wheel: Arrived) {
        let unpacked = self.installed(&package, &wheel, true);
        self.change(|state| {
            state.unpacking -= 1;
            let unpacked = unpacked.map(|(one, chunks)| {
                state.chunks.extend(chunks);
                state.chunks.sort_by_key(|chunk| chunk.size);
                one
            });
            state.installed.insert(package, (wheel, unpacked));
        });
    }

    /// Reads a wheel; unpacks it to the folder too, if there is room.
    fn installed(
        &self,
        package: &str,
        wheel: &Arrived,
        unpack: bool,
    ) -> Result<((Installed, CheckedPackage), Vec<Chunk>), Fault> {
        let locked = self.packages.get(package);
        let locked =
            locked.ok_or_else(|| Fault::build(format!("the wheel `{}` is of no package of the lock", wheel.1)))?;
        let one = Installed::read(wheel, locked, &self.place)?;
        let is_room = unpack
            && self.change(|state| {
                state.bytes = state.bytes.saturating_add(one.size());
                state.given_up |= state.bytes > self.room;
                !state.given_up
            });
        let unpacked = if is_room { self.folder.unpack_one(&one, false)? } else { None };
        if is_room && unpacked.is_none() {
            // Which packages these are is found when all are known.
            self.give_up();
        }
        let is_room = unpacked.is_some();
        let (taken, home) = (unpacked.unwrap_or_default(), is_room.then(|| self.folder.home()));
        let imports = describe::imports(&one, (home.as_deref(), &taken), &self.place)?;
        let chunks = match is_room && self.wanted.contains(package) {
            true => compile::untouched(&one, &taken, &self.place),
            false => Vec::new(),
        };
        Ok((Installed::new(&one, (wheel.clone(), locked), &self.place, imports), chunks))
    }

    /// Waits until these packages are unpacked, and returns them in the order of their names.
    pub(super) fn unpacked(&self, wanted: &BTreeMap<String, Arrived>) -> Result<(Vec<Installed>, Packages), Fault> {
        let mut state = self.state();
        while !(state.given_up || state.arrived.is_empty() && state.unpacking == 0) {
            process::interrupted()?;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut all, mut packages) = (Vec::new(), Packages::new());
        for (name, wheel) in wanted {
            let (installed, package) = match state.installed.remove(name) {
                Some((arrived, installed)) if arrived == *wheel => installed?,
                _ => {
                    // The folder has another wheel of it, or none: it is of no use.
                    state.given_up = true;
                    self.changed.notify_all();
                    self.installed(name, wheel, false)?.0
                }
            };
            all.push(installed);
            packages.insert(name.clone(), package);
        }
        Ok((all, packages))
    }

    /// The folder and the chunks that were compiled; `None` if the folder is of no use.
    pub(super) fn end(self) -> Option<(Folder, BTreeSet<ChunkName>)> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (!state.given_up).then_some((self.folder, state.compiled))
    }
}

/// Ends the work of all threads where one panics.
pub(super) struct Unwinding<'e, 'a>(pub(super) &'e Early<'a>);

impl Drop for Unwinding<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}
