//! Debian packages in a private folder: fetched through the host's own mirror, proxy and keyring, unpacked by `dpkg`.
//!
//! Never touches the host's apt state: lists, caches, preferences and hooks are ours, and nothing is installed.

pub mod packages;

use crate::process::{self, Command};
use crate::scratch::{self, Scratch};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;
use xtask_model::spec::debian::Paragraph;
use xtask_model::spec::reference::Digest;

/// Lists older than this are fetched again; packages that a newer point release has replaced vanish from mirrors.
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// Folder of the downloads for all who work under `target`: `XTASK_DEBIAN_CACHE`, else `target/debian`.
pub fn cache(target: &Path) -> PathBuf {
    std::env::var_os("XTASK_DEBIAN_CACHE")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| target.join("debian"), PathBuf::from)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `VERSION_CODENAME` of os-release, `bookworm`.
    pub suite: String,
    /// `VERSION_ID`, `None` on a release that has no number yet.
    pub version: Option<u32>,
    /// Major and minor of the GNU C library.
    pub glibc: (u32, u32),
}

impl Host {
    /// Reads os-release and asks the C library; a fault where this is not Debian.
    pub fn read() -> Result<Self, Fault> {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let glibc = Command::new("getconf").arg("GNU_LIBC_VERSION").read(Exit::Missing).unwrap_or_default();
        Self::parse(&text, &glibc)
    }

    /// The same from the texts of `/etc/os-release` and `getconf GNU_LIBC_VERSION`.
    pub fn parse(os_release: &str, glibc: &str) -> Result<Self, Fault> {
        let field = |name: &str| {
            os_release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let system = field("PRETTY_NAME").unwrap_or_else(|| "an unknown system".to_owned());
        let suite = field("VERSION_CODENAME").filter(|_| field("ID").as_deref() == Some("debian"));
        let numbers = glibc.strip_prefix("glibc ").and_then(|version| {
            let (major, minor) = version.trim().split_once('.')?;
            Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
        });
        match (suite, numbers) {
            (Some(suite), Some(glibc)) => {
                Ok(Self { suite, version: field("VERSION_ID").and_then(|id| id.parse().ok()), glibc })
            }
            _ => Err(Fault::missing("this host cannot use Debian packages")
                .cause(format!("it is {system}, not Debian with the GNU C library"))
                .hint("install Docker with buildx, or build with `--engine native`")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebPackage {
    pub name: String,
    pub version: String,
    /// The `.deb` file.
    pub file: PathBuf,
}

/// Archive from which the host takes Debian packages. No part of it may reach an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptSource {
    pub mirror: String,
    /// The address of the security archive, where the host has one.
    pub security: Option<String>,
    pub keyring: PathBuf,
    /// The host's `Acquire` settings for apt, in apt.conf(5)'s form: proxies, certificates, retries. May hold a password.
    pub acquire: String,
}

impl AptSource {
    pub fn of_host() -> Result<Self, Fault> {
        for program in ["apt-get", "dpkg"] {
            let hint = "this needs a Debian host; elsewhere install Docker, or build with `--engine native`";
            process::find(program, "fetching Debian packages", hint)?;
        }
        let format = "$(ORIGIN)\t$(LABEL)\t$(CREATED_BY)\t$(COMPONENT)\t$(RELEASE)\t$(REPO_URI)";
        let targets = Command::new("apt-get").args(["indextargets", "--format", format]).read(Exit::Missing)?;
        let (mirror, security) = choose_mirror(&targets).ok_or_else(|| {
            Fault::missing("no mirror of the Debian archive is configured")
                .cause("`apt-get indextargets` names no source of Debian's `main`")
                .hint("add one to `/etc/apt/sources.list.d/debian.sources`, then run this again")
        })?;
        Ok(Self { mirror, security, keyring: keyring()?, acquire: acquire()? })
    }

    /// The host's mirror; where the host has apt and is not Debian, the one that the root names, with the root's keys in `folder`.
    fn of_host_or(own: &OwnSources, folder: &Path) -> Result<Self, Fault> {
        let fault = match Self::of_host() {
            Err(fault) if process::found("apt-get").is_some() => fault,
            found => return found,
        };
        let (Some((mirror, security)), Some(keys)) = (own.mirrors(), &own.keyring) else { return Err(fault) };
        let keyring = folder.join("root-keyring.gpg");
        fs::write(&keyring, keys).map_err(|error| cannot_write(&keyring, &error))?;
        Ok(Self { mirror, security, keyring, acquire: acquire()? })
    }
}

/// The host's `Acquire` settings.
fn acquire() -> Result<String, Fault> {
    let dump = Command::new("apt-config").arg("dump").read(Exit::Missing)?;
    let of_transport = |line: &&str| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets");
    Ok(dump.lines().filter(of_transport).flat_map(|line| [line, "\n"]).collect())
}

impl AptSource {
    /// deb822 sources of a release from the host's mirror, for a build on a Debian root: mounted as a secret, in no layer.
    pub fn deb822(&self, suite: &str) -> String {
        // The keys are the image's own, from its `debian-archive-keyring`.
        self.release(suite, Path::new("/usr/share/keyrings/debian-archive-keyring.gpg"))
    }

    /// deb822 sources of a release, its updates and security fixes.
    fn release(&self, suite: &str, keyring: &Path) -> String {
        let source = |mirror: &str, suites: &str| {
            let keyring = keyring.display();
            format!("Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n")
        };
        if is_rolling(suite) {
            return source(&self.mirror, suite);
        }
        let security = self.security.iter().map(|mirror| format!("\n{}", source(mirror, &format!("{suite}-security"))));
        source(&self.mirror, &format!("{suite} {suite}-updates")) + &security.collect::<String>()
    }

    /// One-line sources of a release, its updates and security fixes.
    pub fn lines(&self, suite: &str) -> Vec<String> {
        let mut lines = vec![format!("deb {} {suite} main", self.mirror)];
        if !is_rolling(suite) {
            lines.push(format!("deb {} {suite}-updates main", self.mirror));
            lines.extend(self.security.iter().map(|mirror| format!("deb {mirror} {suite}-security main")));
        }
        lines
    }
}

/// Testing and unstable have no reliable suites of updates and security fixes.
fn is_rolling(suite: &str) -> bool {
    matches!(suite, "sid" | "unstable" | "testing" | "experimental")
}

/// The root that packages are resolved for, as apt has to know it.
#[derive(Clone, Copy, Debug)]
pub struct AptRoot<'a> {
    /// `VERSION_CODENAME` of its os-release.
    pub suite: &'a str,
    /// Debian's name of its processor, `amd64`.
    pub architecture: &'a str,
    /// Its `/var/lib/dpkg/status`.
    pub status: &'a str,
    pub own: &'a OwnSources,
}

/// Archive and keys that a root itself names, for a host that is not Debian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSources {
    /// The texts of its `/etc/apt/sources.list` and the files next to it.
    pub texts: Vec<String>,
    /// The keys that sign the archive.
    pub keyring: Option<Vec<u8>>,
}

impl OwnSources {
    /// True for a file of the root that this is read from.
    pub fn has(path: &str) -> bool {
        path == "etc/apt/sources.list" || path.starts_with("etc/apt/sources.list.d/") || Self::is_keyring(path)
    }

    fn is_keyring(path: &str) -> bool {
        path.strip_prefix("usr/share/keyrings/debian-archive-keyring.").is_some_and(|end| ["gpg", "pgp"].contains(&end))
    }

    /// Adds such a file.
    pub fn read(&mut self, path: &str, bytes: &[u8]) {
        match Self::is_keyring(path) {
            true => self.keyring = Some(bytes.to_vec()),
            false => self.texts.push(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// The archive and its security archive.
    fn mirrors(&self) -> Option<(String, Option<String>)> {
        let (mut main, mut security) = (None, None);
        for (address, suite) in self.texts.iter().flat_map(|text| named_sources(text)) {
            let place = if suite.ends_with("-security") { &mut security } else { &mut main };
            if suite.ends_with("-security") || !suite.contains(['-', '/']) {
                place.get_or_insert(address.trim_end_matches('/').to_owned());
            }
        }
        main.map(|main| (main, security))
    }
}

/// Addresses and suites in sources of either form, sources.list(5).
fn named_sources(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
        let options = line.trim_start().starts_with('[');
        let rest = if options { line.split_once(']').map_or("", |(_, rest)| rest) } else { line };
        let mut words = rest.split_whitespace();
        found.extend(words.next().zip(words.next()).map(|(address, suite)| (address.to_owned(), suite.to_owned())));
    }
    for paragraph in text.split("\n\n").map(Paragraph::parse).filter(|paragraph| paragraph.get("Types").is_some()) {
        let words = |name| paragraph.get(name).unwrap_or_default().split_whitespace().map(str::to_owned);
        found.extend(words("URIs").flat_map(|address| words("Suites").map(move |suite| (address.clone(), suite))));
    }
    found
}

/// One suite of the Debian archive, with lists of its own.
pub struct Archive {
    suite: String,
    source: AptSource,
    folder: PathBuf,
    debs: PathBuf,
    /// Held as long as this lives: apt itself fails, rather than waits, where two use one folder.
    _lock: File,
}

impl Archive {
    /// Opens `suite` with its state in `cache`, and fetches its lists where they are missing or a day old.
    pub fn open(cache: &Path, suite: &str) -> Result<Self, Fault> {
        let archive = Self::new(cache, suite, suite, &OwnSources::default())?;
        let keyring = archive.source.keyring.display();
        let mirror = &archive.source.mirror;
        let sources = format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n");
        archive.configure(&sources, "", "")?;
        archive.update()?;
        Ok(archive)
    }

    /// A release with its updates and security fixes, for a root.
    fn for_root(cache: &Path, root: &AptRoot<'_>) -> Result<Self, Fault> {
        let archive = Self::new(cache, root.suite, &format!("{}-{}", root.suite, root.architecture), root.own)?;
        let sources = archive.source.release(root.suite, &archive.source.keyring);
        let own = root.architecture;
        let settings = format!("APT::Architecture \"{own}\";\nAPT::Architectures {{ \"{own}\"; }};\n");
        archive.configure(&sources, &settings, root.status)?;
        archive.update()?;
        Ok(archive)
    }

    fn new(cache: &Path, suite: &str, name: &str, own: &OwnSources) -> Result<Self, Fault> {
        let folder = cache.join(name);
        let debs = cache.join("archives");
        for folder in [&debs, &folder.join("partial"), &folder.join("lists/partial"), &folder.join("empty")] {
            fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
        }
        let lock = folder.join("lock");
        let lock =
            File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(|e| cannot_write(&lock, &e))?;
        let source = AptSource::of_host_or(own, &folder)?;
        Ok(Self { suite: suite.to_owned(), source, folder, debs, _lock: lock })
    }

    /// Writes apt's configuration: deb822 sources, more settings, and the status of what is installed.
    fn configure(&self, sources: &str, settings: &str, installed: &str) -> Result<(), Fault> {
        let parts = self.folder.join("sources");
        fs::create_dir_all(&parts).map_err(|error| cannot_write(&parts, &error))?;
        write_private(&parts.join("debian.sources"), sources)?;
        write_private(&self.folder.join("status"), installed)?;
        let at = |name: &str| self.folder.join(name).display().to_string();
        let conf = format!(
            "{acquire}\
             Dir::State \"{state}\";\nDir::State::lists \"{lists}\";\nDir::State::status \"{status}\";\n\
             Dir::Cache \"{cache}\";\nDir::Cache::pkgcache \"{index}\";\nDir::Cache::srcpkgcache \"\";\n\
             Dir::Etc::parts \"{empty}\";\nDir::Etc::main \"/dev/null\";\nDir::Etc::sourcelist \"/dev/null\";\n\
             Dir::Etc::sourceparts \"{parts}\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"{empty}\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n{settings}",
            acquire = self.source.acquire,
            state = at(""),
            lists = at("lists"),
            status = at("status"),
            cache = at("cache"),
            // Without it every call of apt parses the lists again, for longer than it does all else.
            index = at("packages.bin"),
            empty = at("empty"),
            parts = parts.display(),
        );
        write_private(&self.folder.join("apt.conf"), &conf)
    }

    /// `apt-get` or `apt-cache` on our state. `APT_CONFIG` is read before the host's files, and sends apt past them: their
    /// hooks clean the host's caches.
    fn apt(&self, program: &str) -> Command {
        Command::new(program).env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C.UTF-8")
    }

    fn update(&self) -> Result<(), Fault> {
        let stamp = self.folder.join("updated");
        let wanted = format!("{} {}\n", self.source.mirror, self.suite);
        let young = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < LISTS_LAST));
        let known = fs::read_to_string(&stamp).is_ok_and(|text| text == wanted);
        if young && known {
            return Ok(());
        }
        let mut said = Vec::new();
        let call = self.apt("apt-get").args(["update", "--error-on=any"]);
        let status = call.stream(|line| {
            crate::terminal::detail(line);
            if line.starts_with("E:") || line.starts_with("W:") || line.starts_with("Err:") {
                said.push(line.to_owned());
            }
        })?;
        if !status.success() {
            let what = format!("cannot fetch the package lists of Debian `{}`", self.suite);
            if known {
                // Apt keeps the lists it has; with them all that is in the cache can still be used.
                crate::terminal::warn(&format!("{what}; using older lists"));
                return Ok(());
            }
            return Err(apt_fault(what, &said.join("\n")));
        }
        fs::write(&stamp, wanted).map_err(|error| cannot_write(&stamp, &error))
    }

    /// Puts the newest versions of these packages into the cache; downloads only the missing ones.
    pub fn fetch(&self, names: &[&str]) -> Result<Vec<DebPackage>, Fault> {
        // Run where nothing lies about: apt prints no address for a file that exists already.
        let empty = self.folder.join("empty");
        let call = self.apt("apt-get").args(["download", "--print-uris"]).args(names).current_dir(&empty);
        let output = call.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(apt_fault(format!("cannot find {} in Debian `{}`", quoted(names), self.suite), &said));
        }
        let offers =
            String::from_utf8_lossy(&output.stdout).lines().filter_map(OfferedPackage::parse).collect::<Vec<_>>();
        let absent: Vec<&OfferedPackage> = offers.iter().filter(|offer| !offer.is_in(&self.debs)).collect();
        if !absent.is_empty() {
            self.download(&absent)?;
        }
        offers
            .iter()
            .map(|offer| {
                let file = self.debs.join(&offer.file);
                let (name, version) = offer.name_and_version();
                if offer.is_in(&self.debs) {
                    Ok(DebPackage { name, version, file })
                } else {
                    Err(Fault::network(format!("cannot download `{}`", offer.file))
                        .cause("its size or sha256 differs from the package list"))
                }
            })
            .collect()
    }

    fn download(&self, offers: &[&OfferedPackage]) -> Result<(), Fault> {
        let partial = self.folder.join("partial");
        let bytes = offers.iter().map(|offer| offer.size).sum();
        let what = format!("{} packages of Debian {} ({})", offers.len(), self.suite, quantity::bytes(bytes));
        let mut progress = crate::terminal::Progress::begin("downloading", &what);
        let mut said = Vec::new();
        let wanted = offers.iter().map(|offer| {
            let (name, version) = offer.name_and_version();
            format!("{name}={version}")
        });
        let status = self.apt("apt-get").arg("download").args(wanted).current_dir(&partial).stream(|line| {
            progress.line(line);
            if line.starts_with("E:") || line.starts_with("Err:") {
                said.push(line.to_owned());
            }
        })?;
        progress.end();
        if !status.success() {
            return Err(apt_fault(format!("cannot download packages of Debian `{}`", self.suite), &said.join("\n")));
        }
        for offer in offers {
            let (from, to) = (partial.join(&offer.file), self.debs.join(&offer.file));
            fs::rename(&from, &to).map_err(|error| cannot_write(&to, &error))?;
        }
        Ok(())
    }
}

/// The program of a package, unpacked in a folder of `tools`: fetched once, and there whole or not at all. Debian releases before 13,
/// whose archives may lack it, take that of 13: for programs that need no newer C library.
pub fn program(cache: &Path, tools: &Path, package: &str) -> Result<PathBuf, Fault> {
    let folder = tools.join(format!("{package}-debian"));
    let program = folder.join("usr/bin").join(package);
    if program.is_file() {
        return Ok(program);
    }
    let host = Host::read()?;
    let suite = if host.version.is_some_and(|version| version < 13) { "trixie" } else { &host.suite };
    let packages = Archive::open(cache, suite)?.fetch(&[package])?;
    fs::create_dir_all(tools).map_err(|error| cannot_write(tools, &error))?;
    let made = Scratch::new_in(tools, scratch::SHARED).map_err(|error| cannot_write(tools, &error))?;
    let new = made.path().join("packages");
    unpack(&packages, &new)?;
    match fs::rename(&new, &folder) {
        // Another process may have been first.
        Err(error) if !program.is_file() => Err(cannot_write(&folder, &error)),
        _ => Ok(program),
    }
}

/// Unpacks packages into a folder, all at once, running none of their scripts.
pub fn unpack(packages: &[DebPackage], into: &Path) -> Result<(), Fault> {
    fs::create_dir_all(into).map_err(|error| cannot_write(into, &error))?;
    std::thread::scope(|scope| {
        let running: Vec<_> = packages.iter().map(|package| scope.spawn(move || unpack_one(package, into))).collect();
        running.into_iter().try_for_each(|one| {
            one.join().unwrap_or_else(|_| Err(Fault::new(Exit::Bug, "a thread that unpacks a package panicked")))
        })
    })
}

fn unpack_one(package: &DebPackage, into: &Path) -> Result<(), Fault> {
    let call = Command::new("dpkg").arg("-x").arg(&package.file).arg(into);
    call.read(Exit::Build).map(drop).map_err(|fault| {
        let full = fault.causes.iter().any(|cause| cause.contains("No space left"));
        let fault = Fault { what: format!("cannot unpack `{}`", package.name), ..fault };
        if full { fault.hint(format!("free some space where `{}` is", into.display())) } else { fault }
    })
}

/// One line of `apt-get download --print-uris`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfferedPackage {
    uri: String,
    file: String,
    size: u64,
    digest: Option<Digest>,
}

impl OfferedPackage {
    /// `'URI' FILE SIZE SHA256:HEX`.
    fn parse(line: &str) -> Option<Self> {
        let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
        let mut words = rest.split(' ');
        let (file, size) = (words.next()?, words.next()?.parse().ok()?);
        let hash = words.next().and_then(|hash| format!("sha256:{}", hash.strip_prefix("SHA256:")?).parse().ok());
        // The name becomes a path; nothing but a file name will do.
        let good = file.ends_with(".deb") && !file.contains('/');
        good.then(|| Self { uri: uri.to_owned(), file: file.to_owned(), size, digest: hash })
    }

    /// `NAME_VERSION_ARCH.deb`, where apt writes the colon of an epoch as `%3a`.
    fn name_and_version(&self) -> (String, String) {
        let mut parts = self.file.splitn(3, '_');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        (name.to_owned(), version.replace("%3a", ":"))
    }

    fn is_in(&self, folder: &Path) -> bool {
        let file = folder.join(&self.file);
        fs::metadata(&file).is_ok_and(|meta| meta.len() == self.size)
            && self.digest.is_none_or(|digest| fs::read(&file).is_ok_and(|bytes| Digest::of(&bytes) == digest))
    }
}

/// The archive and its security archive in apt's index targets. Prefers what calls itself Debian; before the first
/// `apt-get update` nothing does, and the address must tell.
fn choose_mirror(targets: &str) -> Option<(String, Option<String>)> {
    let rows = || {
        targets.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [origin, label, "Packages", "main", release, uri] = fields[..] else { return None };
            Some((origin, label, release, uri.trim_end_matches('/')))
        })
    };
    let main = || rows().filter(|(_, _, release, _)| !release.contains(['-', '/']));
    let (.., mirror) = main()
        .find(|(origin, ..)| *origin == "Debian")
        .or_else(|| main().find(|(.., uri)| uri.ends_with("/debian")))?;
    let security = rows().find(|(_, label, _, uri)| *label == "Debian-Security" || uri.ends_with("/debian-security"));
    Some((mirror.to_owned(), security.map(|(.., uri)| uri.to_owned())))
}

fn keyring() -> Result<PathBuf, Fault> {
    ["gpg", "pgp"]
        .map(|extension| PathBuf::from(format!("/usr/share/keyrings/debian-archive-keyring.{extension}")))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Fault::missing("Debian's archive keys are not installed")
                .hint("install them: `apt-get install debian-archive-keyring`")
        })
}

/// Apt's own words, cut to what matters, and the exit code they deserve.
fn apt_fault(what: String, said: &str) -> Fault {
    let mut lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.dedup();
    lines.truncate(6);
    let said = lines.join("\n");
    let (exit, hint) = if said.contains("No space left") || said.contains("enough free space") {
        (Exit::Missing, "free some disk space, then run this again")
    } else if said.contains("Unable to locate package") || said.contains("No packages found") {
        (Exit::Missing, "this suite has no such package for this architecture")
    } else {
        (Exit::Network, "check that `apt-get update` works on this host: the same mirror and proxy are used")
    };
    Fault::new(exit, what).cause(said).hint(hint)
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Fault {
    Fault::missing(format!("cannot write `{}`", path.display())).cause(error)
}

/// Apt's settings may hold a proxy's password: no one else reads them.
pub fn write_private(path: &Path, text: &str) -> Result<(), Fault> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| cannot_write(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_host_is_known_by_its_codename_and_c_library() {
        let bookworm =
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let host = Host::parse(bookworm, "glibc 2.36").unwrap();
        assert_eq!((host.suite.as_str(), host.version, host.glibc), ("bookworm", Some(12), (2, 36)));
        let testing = Host::parse("VERSION_CODENAME=forky\nID=debian\n", "glibc 2.42").unwrap();
        assert_eq!((testing.suite.as_str(), testing.version), ("forky", None));
    }

    #[test]
    fn other_hosts_are_named_in_the_error() {
        let ubuntu = "PRETTY_NAME=\"Ubuntu 24.04\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
        let fault = Host::parse(ubuntu, "glibc 2.39").unwrap_err();
        assert!(fault.causes[0].contains("Ubuntu 24.04"), "{fault}");
        assert_eq!(Host::parse("ID=debian\nVERSION_CODENAME=trixie\n", "").unwrap_err().exit, Exit::Missing);
        assert_eq!(Host::parse("", "glibc 2.39").unwrap_err().exit, Exit::Missing);
    }

    #[track_caller]
    fn mirror_of(targets: &str, expected: Option<(&str, Option<&str>)>) {
        let expected = expected.map(|(mirror, security)| (mirror.to_owned(), security.map(str::to_owned)));
        assert_eq!(choose_mirror(targets), expected);
    }

    #[test]
    fn the_mirror_is_the_hosts_own_debian() {
        let other = "NodeSource\t\tPackages\tmain\tnodistro\thttps://node.example/x/\n";
        let security = "Debian\tDebian-Security\tPackages\tmain\tbookworm-security\thttp://mirror.example/s/\n";
        let main = "Debian\tDebian\tPackages\tmain\tbookworm\thttp://mirror.example/debian/\n";
        let found = "http://mirror.example/debian";
        mirror_of(&format!("{other}{security}{main}"), Some((found, Some("http://mirror.example/s"))));
        mirror_of(&main.replace("Debian\t", "\t"), Some((found, None)));
        mirror_of(&main.replace("Packages", "DEP-11"), None);
        mirror_of(security, None);
        mirror_of(other, None);
        mirror_of("", None);
    }

    #[test]
    fn security_fixes_come_with_a_release() {
        let source = AptSource {
            mirror: "http://m/d".to_owned(),
            security: Some("http://m/s".to_owned()),
            keyring: PathBuf::new(),
            acquire: String::new(),
        };
        let all =
            ["deb http://m/d trixie main", "deb http://m/d trixie-updates main", "deb http://m/s trixie-security main"];
        assert_eq!(source.lines("trixie"), all);
        assert_eq!(source.lines("sid"), ["deb http://m/d sid main"]);
        let text = source.deb822("trixie");
        assert!(
            text.contains("Suites: trixie trixie-updates\n") && text.contains("Suites: trixie-security\n"),
            "{text}"
        );
        assert!(source.deb822("sid").contains("Suites: sid\n"));
    }

    #[test]
    fn a_root_names_its_own_mirror() {
        let mirrors = |text: &str| OwnSources { texts: vec![text.to_owned()], keyring: None }.mirrors();
        let expected = Some(("http://m.example/debian".to_owned(), Some("http://m.example/s".to_owned())));
        let new = "# made\nTypes: deb\nURIs: http://m.example/debian/\nSuites: trixie trixie-updates\nComponents: main\n\nTypes: deb\nURIs: http://m.example/s\nSuites: trixie-security\n";
        assert_eq!(mirrors(new), expected);
        let old = "deb [signed-by=/x] http://m.example/debian trixie main\ndeb http://m.example/s trixie-security main\ndeb-src http://o.example/ trixie main\n";
        assert_eq!(mirrors(old), expected);
        assert_eq!(mirrors("Types: deb\nURIs: http://m.example\nSuites: trixie-backports\n"), None);
        assert!(OwnSources::has("etc/apt/sources.list.d/debian.sources") && !OwnSources::has("etc/apt/apt.conf"));
    }

    #[test]
    fn offers_are_read_from_apts_lines() {
        let hex = "a".repeat(64);
        let line = format!("'http://mirror.example/p/a%2bb.deb' a_1%3a2+b4_amd64.deb 7 SHA256:{hex}");
        let offer = OfferedPackage::parse(&line).unwrap();
        assert_eq!(offer.name_and_version(), ("a".to_owned(), "1:2+b4".to_owned()));
        assert_eq!((offer.size, offer.digest.unwrap().hex()), (7, hex));
        for bad in ["", "Get:1 http://x", "'u' ../a.deb 7 SHA256:x", "'u' a.deb x"] {
            assert_eq!(OfferedPackage::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cached_file_counts_only_with_the_right_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [uri, file] = ["http://mirror.example/a.deb", "a_1_all.deb"].map(str::to_owned);
        let offer = OfferedPackage { uri, file, size: 3, digest: Some(Digest::of(b"abc")) };
        assert!(!offer.is_in(folder.path()));
        fs::write(folder.path().join(&offer.file), "abd").unwrap();
        assert!(!offer.is_in(folder.path()));
        fs::write(folder.path().join(&offer.file), "abc").unwrap();
        assert!(offer.is_in(folder.path()));
    }

    #[test]
    fn apts_words_choose_the_exit() {
        let exit = |said: &str| apt_fault("cannot".to_owned(), said).exit;
        assert_eq!(exit("E: Failed to fetch http://mirror.example Could not resolve"), Exit::Network);
        assert_eq!(exit("E: Unable to locate package x"), Exit::Missing);
        assert_eq!(exit("E: write (28: No space left on device)"), Exit::Missing);
    }
}
