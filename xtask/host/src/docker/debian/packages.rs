//! Packages for a root that is not of this host: resolved by apt against the root's own database, and downloaded by their pins.
//!
//! Apt decides, so that the answer is the one of `apt-get install --no-install-recommends` in the root. Installs nothing.

use super::{AptRoot, Archive, OfferedPackage, OwnSources, apt_fault, cannot_write, quoted};
use crate::process::{self, Command};
use crate::terminal;
use std::fs;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;
use xtask_model::spec::lock::images::DebianPin;
use xtask_model::spec::reference::Digest;

/// Downloads by address, with apt's own settings.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// The packages that an installation of `names` adds to the root, sorted by name.
///
/// # Errors
/// A package that the release does not have, one that conflicts with a package of the root, an unreachable mirror.
pub fn resolve(cache: &Path, root: &AptRoot<'_>, names: &[String]) -> Result<Vec<DebianPin>, Fault> {
    let archive = Archive::for_root(cache, root)?;
    // Without it apt prints the weakest hash of the lists.
    let options = ["-o", "Acquire::ForceHash=SHA256", "install", "--print-uris", "--yes"];
    let call = archive.apt("apt-get").args(options).args(["--no-install-recommends", "--no-remove", "--"]).args(names);
    let output = call.output()?;
    if !output.status.success() {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("cannot resolve {} for a root with Debian `{}`", quoted(&names), root.suite);
        let wrong = [
            "Unable to locate",
            "no installation candidate",
            "unmet dependencies",
            "remove is disabled",
            "was not found",
        ];
        return Err(match wrong.iter().any(|text| said.contains(text)) {
            true => Fault::usage(what)
                .cause(said.lines().filter(|line| line.starts_with("E:")).collect::<Vec<_>>().join("\n"))
                .hint("correct the names in `[base.args]` of `images.toml`"),
            false => apt_fault(what, &said),
        });
    }
    let offers = String::from_utf8_lossy(&output.stdout).lines().filter_map(OfferedPackage::parse).collect::<Vec<_>>();
    let mut pins = Vec::new();
    for offer in offers {
        let (name, version) = offer.name_and_version();
        let path = offer.uri.find("/pool/").map(|at| offer.uri[at + 1..].to_owned());
        let (Some(path), Some(digest)) = (path, offer.digest) else {
            return Err(Fault::network(format!(
                "the mirror of Debian `{}` does not state the sha256 of `{name}`",
                root.suite
            ))
            .hint("use another mirror in the host's `/etc/apt`"));
        };
        pins.push(DebianPin { name, version, digest, size: offer.size, path });
    }
    pins.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(pins)
}

/// The files of pinned packages, in their order: those that are in the cache, and the others from the host's mirror.
///
/// # Errors
/// A version that the mirror no longer has, other bytes than those pinned, an unreachable mirror.
pub fn fetch(cache: &Path, (suite, own): (&str, &OwnSources), pins: &[DebianPin]) -> Result<Vec<PathBuf>, Fault> {
    let folder = cache.join("archives");
    let place = |pin: &DebianPin| folder.join(pin.file());
    let is_whole = |pin: &DebianPin| {
        let path = place(pin);
        fs::metadata(&path).is_ok_and(|meta| meta.len() == pin.size)
            && fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == pin.digest)
    };
    if !pins.iter().all(is_whole) {
        let archive = Archive::new(cache, suite, &format!("{suite}-pins"), own)?;
        archive.configure("", "", "")?;
        // Another process may have fetched some meanwhile.
        let absent: Vec<&DebianPin> = pins.iter().filter(|pin| !is_whole(pin)).collect();
        download(&archive, &absent, &place)?;
        if let Some(pin) = absent.iter().find(|pin| !is_whole(pin)) {
            return Err(other_bytes(pin));
        }
    }
    Ok(pins.iter().map(place).collect())
}

fn other_bytes(pin: &DebianPin) -> Fault {
    Fault::network(format!("cannot download the Debian package `{}` {}", pin.name, pin.version))
        .cause(format!("its size or sha256 differs from `images.lock`: {}", pin.digest))
        .hint("the mirror is damaged, or `images.lock` was edited: `cargo xtask lock` pins what the archive has signed")
}

fn download(archive: &Archive, pins: &[&DebianPin], place: &dyn Fn(&DebianPin) -> PathBuf) -> Result<(), Fault> {
    if pins.is_empty() {
        return Ok(());
    }
    process::found(HELPER).ok_or_else(|| {
        Fault::missing(format!("`{HELPER}` is missing")).hint("it is part of `apt`; or build with `--engine docker`")
    })?;
    let source = &archive.source;
    let partial = archive.folder.join("partial");
    let files: Vec<PathBuf> = pins.iter().map(|pin| partial.join(pin.file())).collect();
    let bytes = pins.iter().map(|pin| pin.size).sum();
    let what = format!("{} packages of Debian {} ({})", pins.len(), archive.suite, quantity::bytes(bytes));
    let mut progress = terminal::Progress::begin("downloading", &what);
    let mut call: Command = archive.apt(HELPER).arg("download-file");
    for (pin, file) in pins.iter().zip(&files) {
        let mirror = source.security.as_ref().filter(|_| pin.is_security()).unwrap_or(&source.mirror);
        call = call.arg(format!("{mirror}/{}", pin.path)).arg(file).arg(format!("SHA256:{}", pin.digest.hex()));
    }
    let mut said = Vec::new();
    let status = call.stream(|line| {
        progress.line(line);
        if line.starts_with("E:") || line.starts_with("Err:") || line.contains("404") {
            said.push(line.to_owned());
        }
    })?;
    progress.end();
    for (pin, file) in pins.iter().zip(&files).filter(|(_, file)| file.is_file()) {
        let to = place(pin);
        fs::rename(file, &to).map_err(|error| cannot_write(&to, &error))?;
    }
    if status.success() {
        return Ok(());
    }
    let said = said.join("\n");
    if let Some(pin) = pins.iter().find(|pin| said.contains("Hash Sum mismatch") && !place(pin).is_file()) {
        return Err(other_bytes(pin));
    }
    let gone = pins.iter().find(|pin| said.contains("404") && !place(pin).is_file());
    Err(match gone {
        Some(pin) => Fault::new(Exit::Network, format!("the mirror no longer has `{}` {}", pin.name, pin.version))
            .cause("Debian replaced it, and mirrors keep the newest version of a release only")
            .hint("pin the current versions: `cargo xtask lock`"),
        None => apt_fault(format!("cannot download packages of Debian `{}`", archive.suite), &said),
    })
}
