//! Writes a bundle: blobs in the order of their digests, then the index.

use super::{REPOSITORY, SINCE, Selected};
use super::{gather::Have, is_attached};
use crate::registry::{Answer, Client};
use crate::{file, process, terminal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Descriptor, Index, annotation};
use xtask_model::spec::reference::{Digest, Repository};

/// Bytes of a block of a tar file.
const BLOCK: u64 = 512;

/// Result of writing a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    pub manifests: usize,
    pub blobs: usize,
    pub bytes: u64,
    /// Blobs that an interrupted call had written.
    pub resumed: usize,
    /// Blobs that the other side has.
    pub left_out: usize,
}

/// Source of a blob's bytes.
enum Source<'a> {
    Here(&'a [u8]),
    Registry(&'a Repository, u64),
}

impl Source<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Registry(_, size) => *size,
        }
    }
}

/// Writes a bundle to a file, which appears when it is whole. Until then `FILE.partial` has what came.
pub fn create(client: &Client, selected: &Selected, since: Option<&Have>, to: &Path) -> Result<Made, Fault> {
    let (sources, left_out) = sources(selected, since);
    let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", to.display())).cause(error);
    let partial = partial(to);
    let mut file =
        File::options().create(true).read(true).write(true).truncate(false).open(&partial).map_err(cannot)?;
    file.try_lock().map_err(|error| {
        Fault::usage(format!("`{}` is being written by another process", partial.display())).cause(error)
    })?;
    let (resumed, end) = resume(&mut file, &sources).map_err(cannot)?;
    file.set_len(end).map_err(cannot)?;
    file.seek(SeekFrom::Start(end)).map_err(cannot)?;
    let mut made = Made { manifests: 0, resumed, left_out, ..Made::default() };
    if resumed > 0 {
        terminal::step("continues", &format!("`{}` after {resumed} blobs", partial.display()));
    }
    for (at, (digest, source)) in sources.iter().enumerate() {
        made.manifests += usize::from(matches!(source, Source::Here(_)));
        made.blobs += 1;
        made.bytes += source.size();
        if at < resumed {
            continue;
        }
        process::interrupted()?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let name = format!("blobs/sha256/{}", digest.hex());
        out.write_all(header(&name, source.size()).as_bytes()).map_err(cannot)?;
        match source {
            Source::Here(bytes) => out.write_all(bytes).map_err(cannot)?,
            Source::Registry(repository, size) => {
                if client.blob(repository, digest, *size, &mut out)? == Answer::Absent {
                    return Err(Fault::network(format!(
                        "`{}` is listed by an image but missing from the registry",
                        repository.digest(*digest)
                    )));
                }
            }
        }
        out.write_all(padding(source.size())).and_then(|()| out.flush()).map_err(cannot)?;
    }
    let index = serde_json::to_vec_pretty(&index(selected, since.is_some())).expect("an index is valid JSON");
    let mut out = BufWriter::new(&file);
    for (name, bytes) in [("oci-layout", &b"{\"imageLayoutVersion\":\"1.0.0\"}"[..]), ("index.json", &index)] {
        out.write_all(header(name, bytes.len() as u64).as_bytes()).map_err(cannot)?;
        out.write_all(bytes).and_then(|()| out.write_all(padding(bytes.len() as u64))).map_err(cannot)?;
    }
    out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| out.flush()).map_err(cannot)?;
    drop(out);
    std::fs::rename(&partial, to).map_err(cannot)?;
    Ok(made)
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Every blob that goes into the archive, and the number of those that do not.
fn sources<'a>(selected: &'a Selected, since: Option<&Have>) -> (BTreeMap<Digest, Source<'a>>, usize) {
    let mut sources = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for (name, (repository, part)) in &selected.parts {
        let had = since.and_then(|have| have.blobs.get(name));
        for (digest, size) in part.blobs() {
            if had.is_some_and(|had| had.contains(&digest)) {
                left_out.insert(digest);
            } else {
                sources.entry(digest).or_insert(Source::Registry(repository, size));
            }
        }
    }
    for (_, part) in selected.parts.values() {
        sources.extend(part.documents.iter().map(|(digest, one)| (*digest, Source::Here(one.bytes.as_slice()))));
    }
    left_out.retain(|digest| !sources.contains_key(digest));
    (sources, left_out.len())
}

/// The archive's index: each image under its tag, then what is attached.
fn index(selected: &Selected, since: bool) -> Index {
    let mut listed = Vec::new();
    for (name, (_, part)) in &selected.parts {
        let of = |digest: &Digest| {
            let descriptor = part.documents.get(digest).map(|one| one.descriptor(*digest));
            descriptor.map(|descriptor: Descriptor| descriptor.with_annotation(REPOSITORY, name))
        };
        let named = part.names().chain(part.tags.iter().filter(|(tag, _)| is_attached(tag)));
        listed.extend(named.filter_map(|(tag, digest)| Some(of(digest)?.with_annotation(annotation::REF_NAME, tag))));
        let tagged: BTreeSet<&Digest> = part.tags.values().collect();
        let inner: BTreeSet<&Digest> = part.documents.values().flat_map(|one| &one.lists).collect();
        let others = part.documents.keys().filter(|digest| !tagged.contains(digest) && !inner.contains(digest));
        listed.extend(others.filter_map(of));
    }
    let mut index = Index::new(listed);
    if since {
        index.annotations.insert(SINCE.to_owned(), "true".to_owned());
    }
    index
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("names of blobs are short");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn padding(size: u64) -> &'static [u8] {
    &[0; BLOCK as usize][..usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0)]
}

/// Number of blobs from the first that an earlier call has written whole, and where they end.
fn resume(file: &mut File, sources: &BTreeMap<Digest, Source<'_>>) -> io::Result<(usize, u64)> {
    let length = file.metadata()?.len();
    let (mut whole, mut end) = (0, 0);
    for (digest, source) in sources {
        let size = source.size();
        let next = end + BLOCK + size.next_multiple_of(BLOCK);
        if next > length {
            break;
        }
        let mut found = [0; BLOCK as usize];
        file.seek(SeekFrom::Start(end))?;
        file.read_exact(&mut found)?;
        if found != *header(&format!("blobs/sha256/{}", digest.hex()), size).as_bytes() {
            break;
        }
        if file::hash(&mut file.take(size))? != (*digest, size) {
            break;
        }
        (whole, end) = (whole + 1, next);
    }
    Ok((whole, end))
}
