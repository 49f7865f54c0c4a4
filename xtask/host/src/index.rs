//! A client of package indexes: the wheels of locked packages, chosen as uv would choose them, and source archives, downloaded and
//! verified.
//!
//! Settings are the host's own: those of uv and pip for indexes, credentials, certificates and proxies. Every file is checked against
//! the lock's sha256 before it has its name in the cache, and again before it is used. Where an index needs what this lacks, such as
//! a keyring program, the answer is [`Fetched::Unsupported`], and the caller asks another installer.

mod cache;
mod client;
mod netrc;
mod progress;
mod settings;
mod source;

pub use cache::{Cache, user_folder};
pub use settings::Settings;

use crate::process;
use cache::Choice;
use client::IndexClient;
use progress::DownloadProgress;
use source::{ChosenFile, Wanted, WheelSources};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::choice::{self, NoWheel, Python};
use xtask_model::spec::lock::{Indexes, LockedPackage};
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::spec::requirements::{Environment, Version};
use xtask_model::spec::wheel::{Tags, WheelName};

/// Packages that are asked for at the same time.
const PARALLEL: usize = 8;

#[derive(Clone, Copy)]
pub struct WheelRequest<'a> {
    /// Each name once; markers are already evaluated.
    pub packages: &'a [LockedPackage],
    pub indexes: &'a Indexes,
    /// The Python of the image: `3.13.5`.
    pub python: &'a str,
    pub platform: &'a Platform,
    /// Newest glibc that a wheel may need: `2_36`.
    pub glibc: &'a str,
}

/// A wheel on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedWheel {
    /// Normalised name, as in the lock.
    pub name: String,
    pub version: String,
    /// `numpy-2.3.5-cp313-cp313-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl`.
    pub filename: String,
    /// A file in the cache or in a folder of the user's; its name may differ from `filename`.
    pub path: PathBuf,
    pub sha256: Digest,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// In the order of the packages.
    Wheels(Vec<FetchedWheel>),
    /// The reason why only another installer can fetch these packages on this machine.
    Unsupported(String),
}

/// Fetches the wheels of packages, from the cache or the indexes.
///
/// # Errors
/// Packages without a wheel for this Python and platform (usage); an index that refuses, fails or cannot be reached, and a file that is
/// not what the lock says (network).
pub fn fetch(request: &WheelRequest<'_>) -> Result<Fetched, Fault> {
    fetch_each(request, &|_| ())
}

/// The same; `ready` gets each wheel as soon as it is on this machine, in any order and from several threads, also where the answer turns
/// out to be another one.
pub fn fetch_each(request: &WheelRequest<'_>, ready: &Ready<'_>) -> Result<Fetched, Fault> {
    fetch_from(request, (&Settings::from_env(request.indexes)?, &Cache::of_user()), ready)
}

/// The same with these settings and this cache.
pub fn fetch_with(request: &WheelRequest<'_>, settings: &Settings, cache: &Cache) -> Result<Fetched, Fault> {
    fetch_from(request, (settings, cache), &|_| ())
}

fn fetch_from(
    request: &WheelRequest<'_>,
    (settings, cache): (&Settings, &Cache),
    ready: &Ready<'_>,
) -> Result<Fetched, Fault> {
    let machine = Environment::new(request.python, request.platform).machine().to_owned();
    let wrong = |why: String| Fault::usage("cannot choose wheels").cause(why);
    let tags = Tags::cpython(request.python, &machine, request.glibc).map_err(wrong)?;
    let version: Version = request.python.parse().map_err(wrong)?;
    if let Some(why) = &settings.unsupported {
        return Ok(Fetched::Unsupported(why.clone()));
    }
    let client = IndexClient::new(settings, request.indexes);
    let work = Work {
        request,
        wanted: Wanted::Wheel(Python { version, tags }),
        sources: WheelSources::new(&client, request.indexes),
        cache,
        ready,
        progress: DownloadProgress::new(request.packages.len()),
    };
    let outcomes = work.all()?;
    cache.sweep();
    verdict(request, outcomes)
}

/// Fetches the source archives of packages, in their order: each is the one with a hash of the lock.
///
/// # Errors
/// A package without an archive (usage); an index that refuses, fails, cannot be reached or needs another installer (network).
pub fn fetch_archives(packages: &[LockedPackage], indexes: &Indexes) -> Result<Vec<FetchedWheel>, Fault> {
    let (settings, cache) = (Settings::from_env(indexes)?, Cache::of_user());
    let unsupported = |why: &str| {
        Fault::network("cannot fetch source archives")
            .cause(why)
            .hint("name an index with its user and password in the environment")
    };
    if let Some(why) = &settings.unsupported {
        return Err(unsupported(why));
    }
    let client = IndexClient::new(&settings, indexes);
    let request = &WheelRequest { packages, indexes, python: "", platform: &Platform::host(), glibc: "" };
    let sources = WheelSources::new(&client, indexes);
    let progress = DownloadProgress::new(packages.len());
    let work = Work { request, wanted: Wanted::Archive, sources, cache: &cache, ready: &|_| (), progress };
    let outcomes = work.all()?;
    cache.sweep();
    let mut archives = Vec::new();
    for (package, outcome) in packages.iter().zip(outcomes) {
        match outcome {
            Some(Ok(archive)) => archives.push(archive),
            Some(Err(Failure::Fault(fault))) => return Err(fault),
            Some(Err(Failure::Unsupported(why))) => return Err(unsupported(&why)),
            Some(Err(Failure::NoWheel(causes))) => {
                let what = format!("{} {} has neither a wheel nor a source archive", package.name, package.version);
                return Err(causes
                    .into_iter()
                    .fold(Fault::usage(what), Fault::cause)
                    .hint("pin a version that has one"));
            }
            None => {}
        }
    }
    Ok(archives)
}

/// Reason why one package has no wheel.
#[derive(Clone, Debug)]
enum Failure {
    /// Only another installer can do it.
    Unsupported(String),
    NoWheel(Vec<String>),
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

type Outcome = Result<FetchedWheel, Failure>;

/// Takes a wheel that is on this machine.
pub type Ready<'r> = dyn Fn(&FetchedWheel) + Sync + 'r;

struct Work<'a> {
    request: &'a WheelRequest<'a>,
    wanted: Wanted,
    sources: WheelSources<'a>,
    cache: &'a Cache,
    ready: &'a Ready<'a>,
    progress: DownloadProgress,
}

impl Work<'_> {
    /// The outcome of each package, `None` where it was not asked for because another one failed.
    fn all(&self) -> Result<Vec<Option<Outcome>>, Fault> {
        let packages = self.request.packages;
        let outcomes: Vec<Mutex<Option<Outcome>>> = packages.iter().map(|_| Mutex::new(None)).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let worker = || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(package) = packages.get(index) else { break };
                    let outcome = self.one(package);
                    outcome.iter().for_each(self.ready);
                    // Packages without wheels are reported together; anything else ends the work.
                    if matches!(outcome, Err(Failure::Fault(_) | Failure::Unsupported(_))) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    *outcomes[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                    self.progress.finished();
                }
            };
            let workers: Vec<_> = (0..PARALLEL.min(packages.len())).map(|_| scope.spawn(worker)).collect();
            self.progress.show_until(|| workers.iter().all(std::thread::ScopedJoinHandle::is_finished));
        });
        process::interrupted()?;
        Ok(outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    fn one(&self, package: &LockedPackage) -> Outcome {
        let allowed = choice::allowed(package);
        if allowed.len() < package.hashes.len() {
            return Err(Failure::Unsupported(format!("the lock has another hash than sha256 for {}", package.name)));
        }
        let key = self.key(package);
        if let Some(known) = self.cache.choice(&key)
            && allowed.contains(&known.sha256.hex())
            && let Some(path) = self.cache.verified(&known.sha256)
        {
            self.progress.cached();
            return Ok(self.fetched(package, known, path));
        }
        let found = match &package.url {
            Some(url) => self.direct(package, url)?,
            None => self.listed(package)?,
        };
        let (path, sha256) = self.bytes(package, &found)?;
        if !allowed.contains(&sha256.hex()) {
            return Err(differs(package, &found, &sha256).into());
        }
        let choice = Choice { filename: found.name, sha256, yanked: found.yanked };
        if !found.url.starts_with('/') {
            self.cache.remember(&key, &choice);
        }
        Ok(self.fetched(package, choice, path))
    }

    fn fetched(&self, package: &LockedPackage, choice: Choice, path: PathBuf) -> FetchedWheel {
        if let Some(reason) = &choice.yanked {
            let because = if reason.trim().is_empty() { String::new() } else { format!(": {}", printable(reason)) };
            self.progress.warn(format!("{} {} is yanked{because}", package.name, package.version));
        }
        let Choice { filename, sha256, .. } = choice;
        FetchedWheel { name: package.name.clone(), version: package.version.clone(), filename, path, sha256 }
    }

    /// Name of a choice: all that it depends on.
    fn key(&self, package: &LockedPackage) -> Digest {
        let WheelRequest { python, platform, glibc, .. } = self.request;
        let hashes: Vec<&String> = package.hashes.iter().collect();
        let inputs = serde_json::json!([
            1,
            package.name,
            package.version,
            package.url,
            hashes,
            python,
            platform.to_string(),
            glibc,
            self.sources.shown(),
        ]);
        Digest::of(inputs.to_string().as_bytes())
    }

    /// The wheel of a direct reference.
    fn direct(&self, package: &LockedPackage, locked: &str) -> Result<ChosenFile, Failure> {
        let url = self.request.indexes.url(locked);
        let file = url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let name = xtask_model::spec::wheel::page::decoded(file);
        let local = |url: &str| {
            url.strip_prefix("file://").map_or_else(|| url.to_owned(), xtask_model::spec::wheel::page::decoded)
        };
        let Wanted::Wheel(python) = &self.wanted else {
            return Ok(ChosenFile { name, url: local(url), ..ChosenFile::default() });
        };
        let wheel = name
            .parse::<WheelName>()
            .map_err(|_| Failure::NoWheel(vec![format!("{}: `{}` is not a wheel", package.name, printable(&name))]))?;
        if python.tags.rank(&wheel).is_none() {
            return Err(Failure::NoWheel(vec![format!("{}: `{name}` is for another platform", package.name)]));
        }
        Ok(ChosenFile { name, url: local(url), ..ChosenFile::default() })
    }

    /// The wheel that the indexes and pages of links have.
    fn listed(&self, package: &LockedPackage) -> Result<ChosenFile, Failure> {
        self.sources.find(package, &self.wanted)?.map_err(|why| self.without(package, why))
    }

    fn without(&self, package: &LockedPackage, why: NoWheel) -> Failure {
        let label = format!("{} {}", package.name, package.version);
        match why {
            NoWheel::NotForThis(files) => {
                let musl = !files.is_empty() && files.iter().all(|file| file.contains("musllinux"));
                let more = if musl { "; the image has glibc, not musl" } else { "" };
                let cause = match files.as_slice() {
                    [] => format!("{label}: the index has source archives only"),
                    files => format!("{label}: the index has {}{more}", some(files)),
                };
                Failure::NoWheel(vec![cause])
            }
            NoWheel::OtherHashes(files) => Fault::network(format!("the hash of {label} differs from the lock"))
                .cause(format!("the index has {}, with other hashes", some(&files)))
                .cause(format!("asked: {}", self.sources.shown().join(", ")))
                .hint("check what the index serves before you update the lock: `cargo xtask lock`")
                .into(),
            NoWheel::NoVersion => Fault::build(format!("{label} is not on the package index"))
                .cause(format!("asked: {}", self.sources.shown().join(", ")))
                .hint("name its index where `cargo xtask lock` finds it: `--extra-index-url` in the requirements")
                .into(),
        }
    }

    /// The file on this machine, with its digest.
    fn bytes(&self, package: &LockedPackage, found: &ChosenFile) -> Result<(PathBuf, Digest), Failure> {
        if found.url.starts_with('/') {
            let path = PathBuf::from(&found.url);
            let digest = cache::digest(&path)
                .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))?;
            self.progress.cached();
            return Ok((path, digest));
        }
        let known = found.sha256.as_deref().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        if let Some(known) = known
            && let Some(path) = self.cache.verified(&known)
        {
            self.progress.cached();
            return Ok((path, known));
        }
        let download = cache::WheelDownload {
            client: self.sources.client(),
            progress: &self.progress,
            name: &found.name,
            url: &found.url,
            size: found.size,
            known,
            allowed: choice::allowed(package),
        };
        self.cache.downloaded(&download)
    }
}

/// All wheels, or the first fault in the order of the packages; packages without wheels are reported together.
fn verdict(request: &WheelRequest<'_>, outcomes: Vec<Option<Outcome>>) -> Result<Fetched, Fault> {
    let (mut wheels, mut without, mut causes) = (Vec::new(), Vec::new(), Vec::new());
    let mut unsupported = None;
    for (package, outcome) in request.packages.iter().zip(outcomes) {
        match outcome {
            Some(Ok(wheel)) => wheels.push(wheel),
            Some(Err(Failure::Fault(fault))) => return Err(fault),
            Some(Err(Failure::Unsupported(why))) => drop(unsupported.get_or_insert(why)),
            Some(Err(Failure::NoWheel(why))) => {
                without.push(format!("{} {}", package.name, package.version));
                causes.extend(why);
            }
            None => {}
        }
    }
    if let Some(why) = unsupported {
        return Ok(Fetched::Unsupported(why));
    }
    if without.is_empty() {
        return Ok(Fetched::Wheels(wheels));
    }
    let verb = if without.len() == 1 { "has" } else { "have" };
    let what = format!("{} {verb} no wheel for {} and Python {}", without.join(", "), request.platform, request.python);
    let glibc = request.glibc.replace('_', ".");
    let fault = Fault::usage(what).needed_by(format!("the native engine (glibc {glibc})"));
    let fault = causes.iter().fold(fault, |fault, cause| fault.cause(cause));
    Err(fault.hint("record how they are built from source: `cargo xtask lock`"))
}

fn differs(package: &LockedPackage, found: &ChosenFile, came: &Digest) -> Fault {
    Fault::network(format!("the hash of {} {} differs from the lock", package.name, package.version))
        .cause(format!("`{}` has the digest `{came}`", found.name))
        .hint("check what the index serves before you update the lock: `cargo xtask lock`")
}

/// The first names of a list.
fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(3).map(|name| format!("`{}`", printable(name))).collect();
    let more = names.len() - shown.len();
    let list = shown.join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
}

/// One line of a foreign text, short enough for a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests;
