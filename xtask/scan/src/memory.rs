//! Ids of files that have not been touched since they were hashed, by this command or by one before: a file is known by its stamp, as
//! git's index knows it.
//!
//! A stamp that could still be that of other contents is never remembered, and a memory that cannot be read or written costs time only.

use crate::Failure;
use crate::id::{self, Format, Id, ObjectHash};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Identifies an unchanged file: every write changes part of it. Times in seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
}

/// Younger than this, a file may change once more without its times telling.
const RACY_SECONDS: i64 = 1;

/// Length of a stamp in the memory, and of a stamp with its id.
const STAMP: usize = 8 * 3 + 12 * 2;
const RECORD: usize = STAMP + 32;

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |nanos: i64| u32::try_from(nanos).unwrap_or_default();
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), nanoseconds(metadata.mtime_nsec())),
            changed: (metadata.ctime(), nanoseconds(metadata.ctime_nsec())),
        }
    }

    /// True if the file was at rest at a time: its next change will have another stamp.
    fn is_settled(&self, at: SystemTime) -> bool {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = self.modified.max(self.changed);
        (seconds.saturating_add(RACY_SECONDS), nanos) < (at.as_secs().cast_signed(), at.subsec_nanos())
    }

    fn bytes(&self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        let fields: [&[u8]; 7] = [
            &self.inode.to_be_bytes(),
            &self.device.to_be_bytes(),
            &self.size.to_be_bytes(),
            &self.modified.0.to_be_bytes(),
            &self.modified.1.to_be_bytes(),
            &self.changed.0.to_be_bytes(),
            &self.changed.1.to_be_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        bytes
    }
}

/// Remembered records, sorted by stamp.
#[derive(Debug, Default)]
pub struct Memory {
    place: PathBuf,
    magic: [u8; 9],
    records: Vec<u8>,
    learned: Vec<[u8; RECORD]>,
}

/// Records above which the oldest are dropped, all at once: those of files that are not here any more.
const LIMIT: usize = 1_000_000;

impl Memory {
    /// Reads the memory at `place`; empty where it is missing, damaged, or has ids of another format.
    pub fn load(place: PathBuf, format: Format) -> Self {
        let magic = *match format {
            Format::Sha1 => b"stamps 3\x01",
            Format::Sha256 => b"stamps 3\x02",
        };
        let records = fs::read(&place).ok().and_then(|bytes| Self::parse(bytes, &magic)).unwrap_or_default();
        Self { place, magic, records, learned: Vec::new() }
    }

    fn parse(mut bytes: Vec<u8>, magic: &[u8; 9]) -> Option<Vec<u8>> {
        let (records, sum) = bytes.strip_prefix(magic)?.split_last_chunk::<32>()?;
        if records.len() % RECORD != 0 || Sha256::digest(records).as_slice() != sum {
            return None;
        }
        let end = magic.len() + records.len();
        bytes.truncate(end);
        bytes.drain(..magic.len());
        Some(bytes)
    }

    /// The id of a file's contents.
    pub fn get(&self, stamp: &Stamp) -> Option<Id> {
        let wanted = stamp.bytes();
        let (mut low, mut high) = (0, self.records.len() / RECORD);
        while low < high {
            let middle = usize::midpoint(low, high);
            let record = &self.records[middle * RECORD..(middle + 1) * RECORD];
            match record[..STAMP].cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return record[STAMP..].try_into().ok(),
            }
        }
        None
    }

    /// Takes what was found out since `began`, as far as it cannot have changed meanwhile.
    pub fn learn<'f>(&mut self, found: impl IntoIterator<Item = (&'f Stamp, &'f Id)>, began: SystemTime) {
        for (stamp, id) in found.into_iter().filter(|(stamp, _)| stamp.is_settled(began)) {
            let mut record = [0; RECORD];
            record[..STAMP].copy_from_slice(&stamp.bytes());
            record[STAMP..].copy_from_slice(id);
            self.learned.push(record);
        }
    }

    /// Writes down what was learned, if anything.
    pub fn save(&mut self) {
        if self.learned.is_empty() {
            return;
        }
        self.learned.sort_unstable();
        self.learned.dedup();
        if self.records.len() / RECORD + self.learned.len() > LIMIT {
            self.records = Vec::new();
        }
        // Not written is not remembered, no more.
        let _ = self.write();
        self.learned = Vec::new();
    }

    /// Writes both sorted lists as one.
    fn write(&self) -> io::Result<()> {
        let folder = self.place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = io::BufWriter::new(tempfile::NamedTempFile::new_in(folder)?);
        file.write_all(&self.magic)?;
        let mut sum = Sha256::new();
        let mut known = self.records.chunks_exact(RECORD).peekable();
        let mut learned = self.learned.iter().map(<[u8; RECORD]>::as_slice).peekable();
        while let Some(next) = match (known.peek(), learned.peek()) {
            (Some(one), Some(other)) if one == other => known.next().and(learned.next()),
            (Some(one), Some(other)) if one > other => learned.next(),
            (Some(_), _) => known.next(),
            (None, _) => learned.next(),
        } {
            file.write_all(next)?;
            sum.update(next);
        }
        file.write_all(&sum.finalize())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.persist(&self.place).map(drop).map_err(|error| error.error)
    }
}

/// Files beyond which a second thread is worth its start.
pub(crate) const PARALLEL_FROM: usize = 128;

/// The ids of files, links followed: from the memory where they were not touched, else by hashing. Each with its stamp, in order.
///
/// # Errors
/// The first file that cannot be read.
pub fn recall_or_hash(
    count: usize,
    format: Format,
    memory: &Memory,
    path: &(dyn Fn(usize) -> PathBuf + Sync),
) -> Result<Vec<(Stamp, Id)>, Failure> {
    let mut found: Vec<Option<(Stamp, Id)>> = Vec::with_capacity(count);
    for index in 0..count {
        let stamp = fs::metadata(path(index)).map(|metadata| Stamp::of(&metadata));
        found.push(stamp.ok().and_then(|stamp| Some((stamp, memory.get(&stamp)?))));
    }
    let unknown: Vec<usize> = (0..count).filter(|index| found[*index].is_none()).collect();
    let hashed = hash_all(unknown.len(), format, &|index| path(unknown[index]))?;
    for (index, hashed) in unknown.into_iter().zip(hashed) {
        found[index] = Some(hashed);
    }
    Ok(found.into_iter().flatten().collect())
}

/// Hashes files as git's blobs, on two threads where they are many; each with its stamp, in order.
///
/// # Errors
/// The first file that cannot be read.
pub fn hash_all(
    count: usize,
    format: Format,
    path: &(dyn Fn(usize) -> PathBuf + Sync),
) -> Result<Vec<(Stamp, Id)>, Failure> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut buffer = vec![0; 64 << 10];
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            let path = path(index);
            done.push((index, hash(&path, format, &mut buffer).map_err(|error| Failure::new(&path, error))));
        }
    };
    let mut done = run_on(if count < PARALLEL_FROM { 1 } else { 2 }, &run);
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn run_on<T: Send>(threads: usize, run: &(dyn Fn() -> Vec<T> + Sync)) -> Vec<T> {
    if threads == 1 {
        return run();
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let mut done = run();
        done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done
    })
}

/// The id of a file's contents, links followed, with the stamp that it had before it was read.
fn hash(path: &Path, format: Format, buffer: &mut [u8]) -> io::Result<(Stamp, Id)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut hash = ObjectHash::new(format, "blob", metadata.len());
    let mut read = 0;
    loop {
        let count = file.read(buffer)?;
        if count == 0 {
            break;
        }
        read += count as u64;
        hash.update(&buffer[..count]);
    }
    let id = if read == metadata.len() {
        hash.finish()?
    } else {
        // It grew or shrank meanwhile.
        id::object(format, "blob", &fs::read(path)?)?
    };
    Ok((Stamp::of(&metadata), id))
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

    fn pairs(found: &[(Stamp, Id)]) -> impl Iterator<Item = (&Stamp, &Id)> {
        found.iter().map(|(stamp, id)| (stamp, id))
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn load(root: &tempfile::TempDir) -> Memory {
        Memory::load(root.path().join("cache"), Format::Sha1)
    }

    #[test]
    fn two_threads_hash_as_one_does() {
        let (_root, files) = folder(PARALLEL_FROM + 300);
        for format in [Format::Sha1, Format::Sha256] {
            let one = files.iter().map(|file| id::object(format, "blob", file.to_str().unwrap().as_bytes()).unwrap());
            let found = hash_all(files.len(), format, &|index| files[index].clone()).unwrap();
            assert!(one.eq(found.into_iter().map(|(_, id)| id)));
        }
    }

    #[test]
    fn a_missing_file_is_reported() {
        let (_root, files) = folder(1);
        fs::remove_file(&files[0]).unwrap();
        let failure = hash_all(1, Format::Sha1, &|index| files[index].clone()).unwrap_err();
        assert_eq!(failure.path, files[0]);
    }

    #[test]
    fn the_next_memory_has_what_is_learned() {
        let (root, files) = folder(3);
        let found: Vec<(Stamp, Id)> = files.iter().zip(0..).map(|(file, number)| (stamp(file), [number; 32])).collect();
        let mut memory = load(&root);
        memory.learn(pairs(&found), later());
        memory.save();
        let again = load(&root);
        assert!(found.iter().all(|(stamp, id)| again.get(stamp) == Some(*id)));
        let other = Memory::load(root.path().join("cache"), Format::Sha256);
        assert_eq!(other.get(&found[0].0), None);
    }

    #[test]
    fn what_is_learned_is_added_to_what_was_known() {
        let (root, files) = folder(40);
        let found: Vec<(Stamp, Id)> = files.iter().zip(0..).map(|(file, number)| (stamp(file), [number; 32])).collect();
        for part in [&found[..20], &found[15..30], &found[..40], &found[5..6]] {
            let mut memory = load(&root);
            memory.learn(pairs(part).chain(pairs(part)), later());
            memory.save();
            let again = load(&root);
            assert!(part.iter().all(|(stamp, id)| again.get(stamp) == Some(*id)));
        }
        assert_eq!(load(&root).records.len(), 40 * RECORD, "each once");
    }

    #[test]
    fn what_was_just_written_is_not_remembered() {
        let (root, files) = folder(1);
        let mut memory = load(&root);
        memory.learn(pairs(&[(stamp(&files[0]), [1; 32])]), SystemTime::now());
        memory.save();
        assert_eq!(load(&root).get(&stamp(&files[0])), None);
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
        let mut memory = load(&root);
        memory.learn(pairs(&[(stamp(&files[0]), [1; 32]), (stamp(&files[1]), [2; 32])]), later());
        memory.save();
        let whole = fs::read(root.path().join("cache")).unwrap();
        let parse = |bytes: &[u8]| Memory::parse(bytes.to_vec(), &memory.magic);
        assert_eq!(parse(&whole).unwrap().len(), 2 * RECORD);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes), None, "byte {at}");
            assert_eq!(parse(&whole[..at]), None, "cut at {at}");
        }
    }
}
