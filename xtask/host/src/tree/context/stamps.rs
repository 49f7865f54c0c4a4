//! Digests of files. Where they are many, what has not been touched since it was read is not read again, by this build or by
//! the next: a file is known by its stamp, as git's index knows it.
//!
//! A stamp that could still be that of other contents is never remembered, and a cache that cannot be read or written costs
//! time only.

use crate::file::cannot_read;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::reference::Digest;

/// Bytes and files beyond which a second thread is worth its start.
const PARALLEL_FROM: (u64, usize) = (4 << 20, 128);

/// The same beyond which remembering is worth its file.
const REMEMBER_FROM: (u64, usize) = (64 << 20, 2000);

/// Files per batch: a result is larger than what is kept of it.
const AT_ONCE: usize = 4096;

/// Younger than this, a file may change once more without its times telling.
const RACY: i128 = 1_000_000_000;

/// Digests of files below `root`, in order; `bytes` is how much there is to read.
pub(super) fn digests(root: &Path, files: &[&ContextPath], bytes: u64) -> Result<Vec<Digest>, Fault> {
    if bytes < REMEMBER_FROM.0 && files.len() < REMEMBER_FROM.1 {
        return in_turn(root, files, bytes, digest);
    }
    let mut cache = DigestCache::load(root.join(PLACE));
    let now = SystemTime::now();
    let known = &cache.known;
    let found = in_turn(root, files, bytes, |file, buffer| {
        let stamp =
            fs::metadata(file).map(|metadata| Stamp::of(&metadata)).map_err(|error| cannot_read(file, error))?;
        match known.get(&stamp) {
            Some(digest) => Ok((stamp, *digest)),
            None => Ok((stamp, digest(file, buffer)?)),
        }
    })?;
    cache.learn(&found, now);
    Ok(found.into_iter().map(|(_, digest)| digest).collect())
}

/// The same with each file, by two threads where that is worth it; results in order, or the first fault.
fn in_turn<T: Send>(
    root: &Path,
    files: &[&ContextPath],
    bytes: u64,
    work: impl Fn(&Path, &mut [u8]) -> Result<T, Fault> + Sync,
) -> Result<Vec<T>, Fault> {
    let alone = bytes < PARALLEL_FROM.0 && files.len() < PARALLEL_FROM.1;
    let mut results = Vec::with_capacity(files.len());
    for chunk in files.chunks(AT_ONCE) {
        let next = AtomicUsize::new(0);
        let run = || {
            let mut buffer = vec![0; 64 << 10];
            let mut done = Vec::new();
            while let Some((index, file)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, chunk.get(i)?)))
            {
                done.push((index, work(&root.join(file.to_path()), &mut buffer)));
            }
            done
        };
        let mut done = match alone {
            true => run(),
            false => std::thread::scope(|scope| {
                let other = scope.spawn(run);
                let mut done = run();
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                done
            }),
        };
        done.sort_by_key(|(index, _)| *index);
        for (_, result) in done {
            results.push(result?);
        }
    }
    Ok(results)
}

fn digest(path: &Path, buffer: &mut [u8]) -> Result<Digest, Fault> {
    let mut file = File::open(path).map_err(|error| cannot_read(path, error))?;
    let mut hash = Sha256::new();
    loop {
        let count = file.read(buffer).map_err(|error| cannot_read(path, error))?;
        if count == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Identifies an unchanged file: every write changes part of it. Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: i128,
    changed: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file was at rest at a time: its next change will have another stamp.
    fn is_settled(&self, at: SystemTime) -> bool {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        self.modified.max(self.changed) + RACY < at
    }
}

const PLACE: &str = "target/native/stamps";

/// The first bytes of its file: what it is, and its version.
const MAGIC: &[u8; 8] = b"stamps 1";

/// Length of a stamp and a digest in the file.
const RECORD: usize = 8 + 8 + 8 + 16 + 16 + 32;

/// Stamps above which the cache is emptied, or four times the number of files: it also has stamps of earlier contents.
const LIMIT: usize = 100_000;

#[derive(Debug, Default)]
struct DigestCache {
    place: PathBuf,
    known: HashMap<Stamp, Digest>,
}

impl DigestCache {
    fn load(place: PathBuf) -> Self {
        let bytes = fs::read(&place).unwrap_or_default();
        Self { place, known: Self::parse(&bytes).unwrap_or_default() }
    }

    fn parse(bytes: &[u8]) -> Option<HashMap<Stamp, Digest>> {
        let (records, sum) = bytes.strip_prefix(MAGIC)?.split_last_chunk::<32>()?;
        if Digest::of(records) != Digest::from_bytes(*sum) || records.len() % RECORD != 0 {
            return None;
        }
        records.chunks_exact(RECORD).map(record).collect()
    }

    /// Takes what has been read, and writes it down where that is news.
    fn learn(&mut self, found: &[(Stamp, Digest)], began: SystemTime) {
        let settled = || found.iter().filter(|(stamp, _)| stamp.is_settled(began));
        if settled().all(|(stamp, _)| self.known.contains_key(stamp)) {
            return;
        }
        if self.known.len() > LIMIT.max(4 * found.len()) {
            self.known.clear();
        }
        self.known.extend(settled().copied());
        // Not written is not remembered, no more.
        let _ = self.write();
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        let mut out = BufWriter::new(&file);
        out.write_all(MAGIC)?;
        let mut sum = Sha256::new();
        for (stamp, digest) in &self.known {
            let mut record = Vec::with_capacity(RECORD);
            for number in [stamp.device, stamp.inode, stamp.size] {
                record.extend_from_slice(&number.to_le_bytes());
            }
            for time in [stamp.modified, stamp.changed] {
                record.extend_from_slice(&time.to_le_bytes());
            }
            record.extend_from_slice(digest.as_bytes());
            sum.update(&record);
            out.write_all(&record)?;
        }
        out.write_all(&sum.finalize())?;
        out.flush()?;
        drop(out);
        file.persist(&self.place).map(drop).map_err(|error| error.error)
    }
}

fn record(bytes: &[u8]) -> Option<(Stamp, Digest)> {
    let (numbers, digest) = bytes.split_last_chunk::<32>()?;
    let (numbers, times) = numbers.split_at_checked(24)?;
    let number = |at: usize| Some(u64::from_le_bytes(*numbers.get(at..)?.first_chunk()?));
    let time = |at: usize| Some(i128::from_le_bytes(*times.get(at..)?.first_chunk()?));
    let stamp =
        Stamp { device: number(0)?, inode: number(8)?, size: number(16)?, modified: time(0)?, changed: time(16)? };
    Some((stamp, Digest::from_bytes(*digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn folder(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let files = (0..count).map(|number| folder.path().join(number.to_string()));
        let files: Vec<PathBuf> = files.inspect(|file| fs::write(file, file.to_str().unwrap()).unwrap()).collect();
        (folder, files)
    }

    fn stamp(file: &Path) -> Stamp {
        Stamp::of(&fs::metadata(file).unwrap())
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn paths(files: &[PathBuf]) -> Vec<ContextPath> {
        files.iter().map(|file| ContextPath::new(file.as_os_str().as_encoded_bytes())).collect()
    }

    #[test]
    fn two_threads_hash_as_one_does() {
        let (root, files) = folder(AT_ONCE + 300);
        let one: Vec<Digest> = files.iter().map(|file| Digest::of(file.to_str().unwrap().as_bytes())).collect();
        let paths = paths(&files);
        let paths: Vec<&ContextPath> = paths.iter().collect();
        assert_eq!(digests(root.path(), &paths, 0).unwrap(), one);
        assert_eq!(digests(root.path(), &paths, REMEMBER_FROM.0).unwrap(), one);
    }

    #[test]
    fn a_missing_file_is_reported() {
        let (root, files) = folder(1);
        fs::remove_file(&files[0]).unwrap();
        let paths = paths(&files);
        for bytes in [0, REMEMBER_FROM.0] {
            let fault = digests(root.path(), &[&paths[0]], bytes).unwrap_err();
            assert!(fault.what.starts_with("cannot read"), "{fault}");
        }
    }

    #[test]
    fn what_is_learned_is_there_for_the_next() {
        let (root, files) = folder(3);
        let found: Vec<_> = files.iter().map(|file| (stamp(file), Digest::of(b"as read"))).collect();
        let mut cache = DigestCache::load(root.path().join("cache"));
        cache.learn(&found, later());
        let again = DigestCache::load(root.path().join("cache"));
        assert_eq!(again.known, found.iter().copied().collect());
    }

    #[test]
    fn what_was_just_written_is_not_remembered() {
        let (root, files) = folder(1);
        let mut cache = DigestCache::load(root.path().join("cache"));
        cache.learn(&[(stamp(&files[0]), Digest::of(b"x"))], SystemTime::now());
        assert!(cache.known.is_empty());
    }

    #[test]
    fn every_change_changes_the_stamp() {
        let (_root, files) = folder(1);
        let old = stamp(&files[0]);
        std::thread::sleep(Duration::from_millis(20));
        // The same length and the same time of writing: the time of the change tells.
        let modified = fs::metadata(&files[0]).unwrap().modified().unwrap();
        let text = fs::read_to_string(&files[0]).unwrap().to_uppercase();
        fs::write(&files[0], &text).unwrap();
        File::options().write(true).open(&files[0]).unwrap().set_modified(modified).unwrap();
        let new = stamp(&files[0]);
        assert_eq!((old.size, old.modified), (new.size, new.modified));
        assert_ne!(old, new);
    }

    #[test]
    fn a_damaged_memory_is_none() {
        let (root, files) = folder(2);
        let place = root.path().join("cache");
        let mut cache = DigestCache::load(place.clone());
        cache.learn(&[(stamp(&files[0]), Digest::of(b"x")), (stamp(&files[1]), Digest::of(b"y"))], later());
        let whole = fs::read(&place).unwrap();
        assert_eq!(DigestCache::parse(&whole).unwrap().len(), 2);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(DigestCache::parse(&bytes), None, "byte {at}");
            assert_eq!(DigestCache::parse(&whole[..at]), None, "cut at {at}");
        }
    }
}
