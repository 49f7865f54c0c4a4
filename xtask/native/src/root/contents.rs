//! Selects the files of a new Debian installation for the image: tar file in, tar file out.
//!
//! Pure except for the given streams. Decides by path alone, so the same packages give the same bytes on every host.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Increase it with every change of the rules below: it is part of the root's fingerprint.
pub(super) const VERSION: u32 = 1;

/// Folders with run-time contents, apt's caches and logs.
const EMPTIED: [&str; 9] =
    ["dev", "proc", "sys", "run", "tmp", "var/cache/apt", "var/cache/ldconfig", "var/lib/apt", "var/log"];

/// Folders whose files are removed. The folders stay: maintainer scripts of later packages expect them.
const DOCUMENTATION: [&str; 6] =
    ["usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/bug"];

/// Files that depend on the host, and backup copies.
const FILES: [&str; 13] = [
    "etc/.pwd.lock",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/lib/systemd/random-seed",
];

fn is_kept(path: &str, folder: bool) -> bool {
    let below = |parent: &str| path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'));
    if EMPTIED.iter().any(|parent| below(parent)) || FILES.contains(&path) {
        return false;
    }
    // Licences must be shipped with the software.
    let licence = below("usr/share/doc") && path.ends_with("/copyright");
    let language = folder && below("usr/share/locale");
    !language && (folder || licence || !DOCUMENTATION.iter().any(|parent| below(parent)))
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RootContents {
    pub(super) dpkg_status: String,
    /// Packages with versions, sorted.
    pub(super) packages: Vec<(String, String)>,
    /// Bytes of the kept files.
    pub(super) bytes: u64,
}

/// Copies the kept entries, with times limited to `epoch` (seconds), and adds links, `(path, target)`.
pub(super) fn copy(from: impl Read, to: impl Write, epoch: u64, links: &[(&str, &str)]) -> io::Result<RootContents> {
    let mut archive = tar::Archive::new(from);
    let mut builder = tar::Builder::new(to);
    let mut contents = RootContents::default();
    let mut dropped: BTreeSet<PathBuf> = BTreeSet::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?)?;
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() {
            continue;
        }
        if !is_kept(&path.to_string_lossy(), kind.is_dir()) {
            dropped.insert(path);
            continue;
        }
        let mut header = header(&entry, epoch)?;
        extensions(&mut entry, &mut builder)?;
        if let Some(target) = entry.link_name()?.filter(|_| kind.is_symlink() || kind.is_hard_link()) {
            let target = if kind.is_hard_link() { plain(&target)? } else { target.into_owned() };
            if kind.is_hard_link() && dropped.contains(&target) {
                let what = format!("`{}` is a hard link to `{}`, which is excluded", path.display(), target.display());
                return Err(io::Error::other(what));
            }
            builder.append_link(&mut header, &path, &target)?;
        } else if path == Path::new("var/lib/dpkg/status") {
            entry.read_to_string(&mut contents.dpkg_status)?;
            builder.append_data(&mut header, &path, contents.dpkg_status.as_bytes())?;
        } else {
            contents.bytes += entry.size();
            builder.append_data(&mut header, &path, entry)?;
        }
    }
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(epoch);
        builder.append_link(&mut header, path, target)?;
    }
    builder.into_inner()?.flush()?;
    contents.packages = packages(&contents.dpkg_status);
    Ok(contents)
}

/// Removes a leading `./`. Rejects paths that leave the root, and whiteout names.
fn plain(path: &Path) -> io::Result<PathBuf> {
    use std::path::Component;
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) if !name.as_encoded_bytes().starts_with(b".wh.") => plain.push(name),
            _ => return Err(io::Error::other(format!("`{}` is not allowed in a layer", path.display()))),
        }
    }
    Ok(plain)
}

/// Drops names of users and groups and device numbers, which depend on the host.
fn header(entry: &tar::Entry<'_, impl Read>, epoch: u64) -> io::Result<tar::Header> {
    let old = entry.header();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(old.entry_type());
    header.set_mode(old.mode()? & 0o7777);
    header.set_uid(old.uid()?);
    header.set_gid(old.gid()?);
    header.set_mtime(old.mtime()?.min(epoch));
    header.set_size(if old.entry_type().is_file() { entry.size() } else { 0 });
    Ok(header)
}

/// Keeps extended attributes, such as file capabilities, as pax records; names and times are in the header itself.
fn extensions(entry: &mut tar::Entry<'_, impl Read>, builder: &mut tar::Builder<impl Write>) -> io::Result<()> {
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let key = String::from_utf8_lossy(extension.key_bytes()).into_owned();
        if key.starts_with("SCHILY.xattr.") {
            kept.push((key, extension.value_bytes().to_vec()));
        }
    }
    kept.sort();
    if kept.is_empty() {
        return Ok(());
    }
    builder.append_pax_extensions(kept.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
}

fn packages(status: &str) -> Vec<(String, String)> {
    let mut packages: Vec<_> = status
        .split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let installed = field("Status")?.ends_with(" installed");
            installed.then_some((field("Package")?.to_owned(), field("Version")?.to_owned()))
        })
        .collect();
    packages.sort();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn kept(path: &str, folder: bool, expected: bool) {
        assert_eq!(is_kept(path, folder), expected, "{path}");
    }

    #[test]
    fn paths_decide() {
        kept("usr/bin/python3.13", false, true);
        kept("var/lib/dpkg/status", false, true);
        kept("usr/share/doc/bash/copyright", false, true);
        kept("usr/share/doc/bash/changelog.Debian.gz", false, false);
        kept("usr/share/man/man1", true, true);
        kept("usr/share/man/man1/ls.1.gz", false, false);
        kept("usr/share/locale/de", true, false);
        kept("usr/lib/locale/C.utf8/LC_CTYPE", false, true);
        kept("etc/machine-id", false, false);
        kept("etc/resolv.conf", false, false);
        kept("dev", true, true);
        kept("dev/null", false, false);
        kept("var/lib/apt/lists", true, false);
        kept("var/logistics", true, true);
    }

    fn tar(entries: &[(&str, tar::EntryType, &str, u64)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text, mtime) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(*mtime);
            header.set_uid(1);
            header.set_gid(2);
            header.set_username("someone").unwrap();
            header.set_size(0);
            if kind.is_symlink() || kind.is_hard_link() {
                builder.append_link(&mut header, path, text).unwrap();
            } else {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn excluded_files_leave_no_trace() {
        use tar::EntryType as Kind;
        let status = "Package: b\nStatus: install ok installed\nVersion: 1:2\n\nPackage: a\nStatus: install ok installed\nVersion: 3\n\nPackage: c\nStatus: deinstall ok config-files\nVersion: 4\n";
        let long = format!("usr/{}", "x/".repeat(150));
        let from = tar(&[
            ("./etc", Kind::Directory, "", 9),
            ("./etc/hostname", Kind::Regular, "secret-host", 9),
            ("./usr/share/locale/de", Kind::Directory, "", 9),
            ("./usr/bin/a", Kind::Regular, "A", 9),
            ("./usr/bin/b", Kind::Link, "./usr/bin/a", 9),
            ("./lib", Kind::Symlink, "usr/lib", 3),
            (&format!("{long}é"), Kind::Regular, "deep", 9),
            ("./var/lib/dpkg/status", Kind::Regular, status, 9),
        ]);
        let mut to = Vec::new();
        let contents = copy(&from[..], &mut to, 5, &[("usr/local/bin/python", "/usr/bin/python3")]).unwrap();
        let deep = format!("{long}é");
        let expected =
            ["etc", "usr/bin/a", "usr/bin/b", "lib", deep.as_str(), "var/lib/dpkg/status", "usr/local/bin/python"];
        assert_eq!(names(&to), expected);
        let pairs = [("a".to_owned(), "3".to_owned()), ("b".to_owned(), "1:2".to_owned())];
        assert_eq!((contents.bytes, contents.packages), (5, pairs.to_vec()));
        let mut archive = tar::Archive::new(&to[..]);
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            assert!(entry.header().mtime().unwrap() <= 5);
            assert_eq!(entry.header().username().unwrap(), Some(""));
        }
    }

    #[test]
    fn a_hard_link_to_an_excluded_file_is_rejected() {
        use tar::EntryType as Kind;
        let from =
            tar(&[("./usr/share/man/x", Kind::Regular, "A", 9), ("./usr/bin/x", Kind::Link, "./usr/share/man/x", 9)]);
        let error = copy(&from[..], io::sink(), 5, &[]).unwrap_err();
        assert!(error.to_string().contains("usr/bin/x"), "{error}");
    }
}
