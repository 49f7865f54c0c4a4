//! Writes items as a layer.
//!
//! The output depends only on the items. A file that differs from its item is an error.

use super::Codec;
use super::compress::{self, Blocks, Written};
use super::header::{self, Header, flag};
use crate::layer::item::{Bytes, Content, Item};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;

/// Writes a layer. `items` are sorted by path and include parent folders where needed; `threads` does not affect the
/// bytes.
pub fn write(items: &[Item], codec: Codec, threads: usize, sink: impl Write) -> Result<Written, Fault> {
    write_with_note(items, None, codec, threads, sink)
}

/// The same, with a note after the files.
pub fn write_with_note(
    items: &[Item],
    note: Option<&[u8]>,
    codec: Codec,
    threads: usize,
    sink: impl Write,
) -> Result<Written, Fault> {
    check(items)?;
    compress::stream(codec, (threads, note), sink, |blocks| {
        let mut head = Vec::new();
        for item in items {
            entry(item, &mut head, blocks)?;
        }
        blocks.push(&[0; 2 * header::RECORD])
    })
}

fn entry<W: Write>(item: &Item, head: &mut Vec<u8>, blocks: &mut Blocks<'_, '_, W>) -> Result<(), Fault> {
    let folder;
    let (path, flag, mode, size, link) = match &item.content {
        Content::Dir => {
            folder = [item.path.as_bytes(), b"/"].concat();
            (&*folder, flag::DIR, item.mode, 0, &b""[..])
        }
        Content::File(bytes) => (item.path.as_bytes(), flag::FILE, item.mode, bytes.size(), &b""[..]),
        Content::Symlink(target) => (item.path.as_bytes(), flag::SYMLINK, 0o777, 0, &target[..]),
    };
    head.clear();
    header::encode(&Header { path, flag, mode, uid: item.uid, gid: item.gid, size, link }, head);
    blocks.push(head)?;
    match &item.content {
        Content::Dir | Content::Symlink(_) => return Ok(()),
        Content::File(Bytes::Here(bytes)) => blocks.push(bytes)?,
        Content::File(Bytes::Packed(file)) => blocks.packed(file)?,
        Content::File(Bytes::At { file, size }) => copy(file, *size, blocks)?,
    }
    blocks.push(&[0; header::RECORD][..header::padding(size)])
}

fn copy<W: Write>(path: &Path, size: u64, blocks: &mut Blocks<'_, '_, W>) -> Result<(), Fault> {
    let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", path.display())).cause(error);
    // Does not follow a link or wait for a pipe that has replaced the file.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(file.map_err(|error| match error {
        rustix::io::Errno::LOOP => changed(path, "it was replaced by a link"),
        other => cannot(other.into()),
    })?);
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(changed(path, "it was replaced by something that is not a file"));
    }
    let mut left = size;
    while left > 0 {
        let count = blocks.fill(left, |buffer, most| (&file).take(most).read_to_end(buffer).map_err(cannot))?;
        if count == 0 {
            return Err(changed(path, &format!("it had {size} bytes, but ended after {}", size - left)));
        }
        left -= count as u64;
    }
    if read(&mut file, &mut [0]).map_err(cannot)? > 0 {
        return Err(changed(path, &format!("it had {size} bytes, but is longer now")));
    }
    Ok(())
}

fn read(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn changed(path: &Path, how: &str) -> Fault {
    Fault::build(format!("`{}` changed while it was read", path.display()))
        .cause(how)
        .hint("run it again when no other program writes to it")
}

fn check(items: &[Item]) -> Result<(), Fault> {
    let mut parent: Option<&[u8]> = None;
    for (index, item) in items.iter().enumerate() {
        name(&item.path)?;
        if let Some(before) = index.checked_sub(1).map(|before| &items[before].path) {
            if *before == item.path {
                return Err(cannot(&item.path, "the path is listed twice"));
            }
            if *before > item.path {
                return Err(cannot(&item.path, &format!("it follows `{before}`, but paths must be sorted")));
            }
        }
        if let Content::Symlink(target) = &item.content {
            if target.is_empty() || target.contains(&0) {
                return Err(cannot(&item.path, "its target is empty or contains a zero byte"));
            }
        }
        let folder = item.path.as_bytes().iter().rposition(|byte| *byte == b'/').map(|at| &item.path.as_bytes()[..at]);
        if folder != parent {
            parent = folder;
            folders(&items[..index], &item.path)?;
        }
    }
    Ok(())
}

/// Rejects entries below anything but a folder.
fn folders(before: &[Item], path: &ContextPath) -> Result<(), Fault> {
    for folder in path.folders() {
        if let Ok(at) = before.binary_search_by(|item| item.path.cmp(&folder)) {
            if before[at].content != Content::Dir {
                return Err(cannot(path, &format!("`{folder}` is not a folder")));
            }
        }
    }
    Ok(())
}

fn name(path: &ContextPath) -> Result<(), Fault> {
    for part in path.as_bytes().split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
            return Err(cannot(path, "it is not a valid path below the image's root"));
        }
        if part.starts_with(super::read::WHITEOUT) {
            return Err(cannot(path, "a name that starts with `.wh.` is a whiteout in a layer")
                .hint("rename the file, or list it in the ignore file"));
        }
    }
    Ok(())
}

fn cannot(path: &ContextPath, why: &str) -> Fault {
    Fault::build(format!("cannot add `{path}` to a layer")).cause(why)
}

#[cfg(test)]
mod tests;
