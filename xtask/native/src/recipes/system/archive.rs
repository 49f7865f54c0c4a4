//! Reads Debian packages with `dpkg-deb`, entry by entry; the contents of all go into one file.

use crate::layer::item::{Bytes, Packed};
use crate::layer::{Entry, EntryKind, Limits, Reader};
use flate2::Crc;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use xtask_host::process::Command;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::debian::md5::Md5;

/// Longest control file, in bytes.
const LONGEST: u64 = 64 << 20;

/// A file with the contents of all packages, one after the other.
pub(super) struct PackageContents {
    path: Arc<Path>,
    file: BufWriter<File>,
    at: u64,
}

impl PackageContents {
    pub(super) fn create(folder: &Path) -> Result<Self, Fault> {
        let path: Arc<Path> = folder.join("contents").into();
        let file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
        Ok(Self { path, file: BufWriter::with_capacity(256 << 10, file), at: 0 })
    }

    /// Adds what a reader has, with its MD5.
    fn add(&mut self, reader: &mut Reader<'_>) -> Result<(Bytes, String), Fault> {
        let (mut crc, mut sum, mut size) = (Crc::new(), Md5::default(), 0);
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = reader.contents().read(&mut piece);
            let count = match read {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(reader.failed(error)),
            };
            crc.update(&piece[..count]);
            sum.update(&piece[..count]);
            size += count as u64;
            self.file.write_all(&piece[..count]).map_err(|error| cannot_write(&self.path, &error))?;
        }
        let archive = self.path.clone();
        let packed = Packed { archive, at: self.at, packed: size, deflated: false, size, crc: crc.sum() };
        self.at += size;
        Ok((Bytes::Packed(packed), sum.finish()))
    }

    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.file.flush().map_err(|error| cannot_write(&self.path, &error))
    }
}

/// The control files of a package by name.
pub(super) fn control(package: &Path) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let mut files = BTreeMap::new();
    read(package, "--ctrl-tarfile", |reader| {
        while let Some(entry) = reader.next()? {
            if matches!(entry.kind, EntryKind::File(_))
                && let Some(bytes) = reader.bytes(LONGEST)?
            {
                files.insert(entry.path.to_string(), bytes);
            }
        }
        Ok(())
    })?;
    Ok(files)
}

/// The entries of a package, a file with its contents and MD5.
pub(super) fn entries(
    package: &Path,
    contents: &mut PackageContents,
    mut each: impl FnMut(Entry, Option<(Bytes, String)>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    read(package, "--fsys-tarfile", |reader| {
        while let Some(entry) = reader.next()? {
            let file = match entry.kind {
                EntryKind::File(_) => Some(contents.add(reader)?),
                _ => None,
            };
            each(entry, file)?;
        }
        Ok(())
    })
}

fn read(package: &Path, what: &str, work: impl FnOnce(&mut Reader<'_>) -> Result<(), Fault>) -> Result<(), Fault> {
    let call = Command::new("dpkg-deb").arg(what).arg(package);
    let started = call.start([Stdio::null(), Stdio::piped(), Stdio::null()]);
    let mut child =
        started.map_err(|error| Fault::missing("cannot run `dpkg-deb`").cause(error).hint("it is part of `dpkg`"))?;
    let Some(stdout) = child.stdout.take() else { return Err(Fault::build("cannot read from `dpkg-deb`")) };
    let done = Reader::open(BufReader::with_capacity(256 << 10, stdout), None, Limits::default())
        .and_then(|mut reader| work(&mut reader));
    if done.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| Fault::build("cannot run `dpkg-deb`").cause(error))?;
    done?;
    if status.success() { Ok(()) } else { Err(call.failed(Exit::Build, status)) }
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}
