//! The ledger on disk: appended to and read, never rewritten.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::record::ledger::{PATH, Read, Record, parse};

/// Appends a record to the ledger of a repository.
///
/// # Errors
/// A folder or file that cannot be written. A caller warns of it: a build does not fail for its record.
pub fn append(root: &Path, record: &Record) -> Result<(), Fault> {
    let path = root.join(PATH);
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write the ledger `{PATH}`")).cause(error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(cannot)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(cannot)?;
    let mut line = String::new();
    if breaks_off(&mut file).map_err(cannot)? {
        line.push('\n');
    }
    line += &record.compact();
    line.push('\n');
    // One write at the end of the file: two builds at once give two lines, not a braid of both.
    file.write_all(line.as_bytes()).map_err(cannot)
}

/// True if the last line has no end: its writer was killed.
fn breaks_off(file: &mut fs::File) -> std::io::Result<bool> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last != [b'\n'])
}

/// Reads the ledger of a repository; where there is none, it is empty.
///
/// # Errors
/// A file that exists and cannot be read.
pub fn read(root: &Path) -> Result<Read, Fault> {
    match fs::read(root.join(PATH)) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Read::default()),
        Err(error) => Err(Fault::usage(format!("cannot read the ledger `{PATH}`")).cause(error)),
    }
}

#[cfg(test)]
mod tests {
    use xtask_model::record::ledger::BuildKind;
    use xtask_model::record::ledger::test_data::record;

    use super::*;

    #[test]
    fn records_are_appended_whole_by_many_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Read::default());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let root = folder.path();
                scope.spawn(move || {
                    for second in 0..50 {
                        append(root, &record(BuildKind::Fast, thread * 100 + second, 1.0)).unwrap();
                    }
                });
            }
        });
        let read = read(folder.path()).unwrap();
        assert_eq!((read.records.len(), read.skipped.len()), (400, 0));
    }

    #[test]
    fn a_record_after_a_broken_line_is_read() {
        let folder = tempfile::tempdir().unwrap();
        append(folder.path(), &record(BuildKind::Fast, 1, 1.0)).unwrap();
        let path = folder.path().join(PATH);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        append(folder.path(), &record(BuildKind::Base, 2, 1.0)).unwrap();
        let read = read(folder.path()).unwrap();
        assert_eq!(read.records, [record(BuildKind::Base, 2, 1.0)]);
        assert_eq!(read.skipped.len(), 1);
    }
}
