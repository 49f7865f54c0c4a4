//! An OCI image layout (image-spec 1.1, `image-layout.md`): images in a folder, read by every OCI tool.
//!
//! Safe for several processes: blobs appear whole under their digest or not at all, and `index.json` changes under a lock. It
//! never removes a blob: that another process is about to name it cannot be seen.

use crate::scratch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Descriptor, Index, annotation, media_type};
use xtask_model::spec::reference::{Digest, Platform};

/// The largest document that is read into memory, in bytes: the limit that registries set for manifests.
const DOCUMENT_LIMIT: u64 = 4 << 20;

const PARTIAL: &str = ".partial-";

#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    /// Folder of other layouts whose blobs it may link.
    others: Option<PathBuf>,
}

impl Layout {
    /// Opens the layout in `folder`, or creates one if the folder is missing or empty.
    pub fn open_or_create(folder: &Path) -> Result<Self, Fault> {
        let layout = Self { folder: folder.to_owned(), others: None };
        let cannot = |error: io::Error| cannot_write(folder, &error);
        let marker = folder.join("oci-layout");
        if !marker.is_file() {
            if fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| !ours(&entry))) {
                return Err(Fault::usage(format!("`{}` is not an OCI image layout", folder.display()))
                    .cause("it is not empty and has no `oci-layout` file")
                    .hint("name an empty folder, or one that does not exist yet"));
            }
            fs::create_dir_all(folder.join("blobs/sha256")).map_err(cannot)?;
            let _lock = layout.lock()?;
            if !layout.index_path().is_file() {
                layout.write_index(&Index::new(Vec::new()))?;
            }
            layout.write_whole(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
            return Ok(layout);
        }
        let version: serde_json::Value = read_json(&marker)?;
        match version["imageLayoutVersion"].as_str() {
            Some("1.0.0") => Ok(layout),
            other => Err(Fault::usage(format!("cannot read the image layout `{}`", folder.display()))
                .cause(format!("its version is `{}`, not `1.0.0`", other.unwrap_or("missing")))),
        }
    }

    /// Lets the layout share blobs with the layouts in a folder.
    #[must_use]
    pub fn sharing(self, others: &Path) -> Self {
        Self { others: Some(others.to_owned()), ..self }
    }

    /// Links a blob that another layout has. Returns false where none has it, or where a link is impossible.
    pub fn link_shared(&self, digest: &Digest, size: u64) -> bool {
        let others = self.others.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let mut blobs = others.map(|entry| entry.path().join("blobs/sha256").join(digest.hex()));
        let is_whole = |blob: &Path| fs::symlink_metadata(blob).is_ok_and(|meta| meta.is_file() && meta.len() == size);
        blobs.any(|blob| is_whole(&blob) && fs::hard_link(&blob, self.blob_path(digest)).is_ok())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Size of a blob in bytes; `None` if it is missing.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().filter(fs::Metadata::is_file).map(|meta| meta.len())
    }

    pub fn open_blob(&self, digest: &Digest) -> Result<File, Fault> {
        let path = self.blob_path(digest);
        // To open a pipe would be to wait for whoever writes to it.
        let is_file = fs::metadata(&path)
            .and_then(|meta| if meta.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) });
        is_file.and_then(|()| File::open(&path)).map_err(|error| {
            Fault::build(format!("blob `{digest}` is not in the image layout `{}`", self.folder.display())).cause(error)
        })
    }

    /// Stores what `content` gives, and says its digest and size. With `expected`, other content is an error and leaves nothing.
    pub fn put_blob(&self, mut content: impl Read, expected: Option<&Digest>) -> Result<(Digest, u64), Fault> {
        let mut writer = self.writer()?;
        io::copy(&mut content, &mut writer).map_err(|error| cannot_write(&self.folder, &error))?;
        writer.finish(expected)
    }

    /// Stores bytes.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<(Digest, u64), Fault> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok((digest, bytes.len() as u64));
        }
        self.put_blob(bytes, Some(&digest))
    }

    pub fn put_json(&self, media_type: &str, document: &impl Serialize) -> Result<Descriptor, Fault> {
        let bytes = serde_json::to_vec(document)
            .map_err(|error| Fault::build(format!("cannot write a document of type `{media_type}`")).cause(error))?;
        let (digest, size) = self.put_bytes(&bytes)?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// A blob that is still being written; dropped unfinished, it leaves nothing.
    pub fn writer(&self) -> Result<BlobWriter<'_>, Fault> {
        Ok(BlobWriter { partial: self.partial()?, state: Sha256::new(), size: 0 })
    }

    /// The same for a blob that is hashed elsewhere.
    pub fn partial(&self) -> Result<PartialBlob<'_>, Fault> {
        let folder = self.folder.join("blobs/sha256");
        let file = scratch::file_in(&folder, PARTIAL).map_err(|error| cannot_write(&folder, &error))?;
        Ok(PartialBlob { layout: self, file })
    }

    pub fn sweep(folder: &Path) {
        for folder in [folder.to_owned(), folder.join("blobs/sha256")] {
            scratch::sweep(&folder, &[PARTIAL], scratch::remove);
        }
    }

    /// The bytes of a document, checked against its descriptor.
    pub fn read_bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let path = self.blob_path(&descriptor.digest);
        let read = self.open_blob(&descriptor.digest)?.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes);
        read.map_err(|error| cannot_read(&path, &error))?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(cannot_read(&path, &"it is larger than 4 MiB, the limit of a manifest or configuration"));
        }
        if Digest::of(&bytes) != descriptor.digest {
            return Err(cannot_read(&path, &"its content does not match the digest in its name")
                .hint("remove the file and build again"));
        }
        Ok(bytes)
    }

    pub fn read_json<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, Fault> {
        serde_json::from_slice(&self.read_bytes(descriptor)?)
            .map_err(|error| cannot_read(&self.blob_path(&descriptor.digest), &error))
    }

    /// The manifest for a platform behind a descriptor, through an index where it is one.
    pub fn manifest_for(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Option<Descriptor>, Fault> {
        if !media_type::is_index(&descriptor.media_type) {
            return Ok(Some(descriptor.clone()));
        }
        Ok(self.read_json::<Index>(descriptor)?.for_platform(platform).cloned())
    }

    pub fn get(&self, name: &str) -> Result<Option<Descriptor>, Fault> {
        Ok(self.read_index()?.manifests.into_iter().find(|descriptor| named(descriptor, name)))
    }

    /// All names with their descriptors, sorted.
    pub fn list(&self) -> Result<Vec<(String, Descriptor)>, Fault> {
        let mut list: Vec<_> = self
            .read_index()?
            .manifests
            .into_iter()
            .filter_map(|descriptor| Some((descriptor.annotations.get(annotation::REF_NAME)?.clone(), descriptor)))
            .collect();
        list.sort_by(|(one, _), (two, _)| one.cmp(two));
        Ok(list)
    }

    /// Gives `descriptor`, whose content must exist, the name; the previous holder loses it.
    pub fn set(&self, name: &str, descriptor: &Descriptor) -> Result<(), Fault> {
        if self.blob_size(&descriptor.digest) != Some(descriptor.size) {
            return Err(Fault::build(format!("cannot name `{name}` in the image layout `{}`", self.folder.display()))
                .cause(format!("blob `{}` of {} bytes is missing", descriptor.digest, descriptor.size)));
        }
        let descriptor = descriptor.clone().with_annotation(annotation::REF_NAME, name);
        self.change(|manifests| {
            manifests.retain(|old| !named(old, name));
            manifests.push(descriptor);
        })
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), Fault> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let before = index.clone();
        edit(&mut index.manifests);
        if index == before { Ok(()) } else { self.write_index(&index) }
    }

    fn index_path(&self) -> PathBuf {
        self.folder.join("index.json")
    }

    fn read_index(&self) -> Result<Index, Fault> {
        read_json(&self.index_path())
    }

    fn write_index(&self, index: &Index) -> Result<(), Fault> {
        let bytes = serde_json::to_vec_pretty(index).map_err(|error| cannot_read(&self.index_path(), &error))?;
        self.write_whole(&self.index_path(), &bytes)
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let write = || {
            let mut file = scratch::file_in(&self.folder, PARTIAL)?;
            file.write_all(bytes)?;
            readable(file.as_file())?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|error| cannot_write(path, &error))
    }

    fn lock(&self) -> Result<File, Fault> {
        let path = self.folder.join(".lock");
        File::create(&path).and_then(|file| file.lock().map(|()| file)).map_err(|error| cannot_write(&path, &error))
    }
}

/// A blob on its way, named when it is whole.
pub struct PartialBlob<'a> {
    layout: &'a Layout,
    file: tempfile::NamedTempFile,
}

impl PartialBlob<'_> {
    /// Gives the blob its name, the digest of all bytes that were written.
    pub fn finish(self, digest: &Digest) -> Result<(), Fault> {
        let path = self.layout.blob_path(digest);
        readable(self.file.as_file()).map_err(|error| cannot_write(&path, &error))?;
        // Over a blob that exists already: the same bytes, so whoever reads it sees no difference.
        self.file.persist(&path).map(drop).map_err(|error| cannot_write(&path, &error.error))
    }
}

impl Write for PartialBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A blob on its way: hashed while it is written.
pub struct BlobWriter<'a> {
    partial: PartialBlob<'a>,
    state: Sha256,
    size: u64,
}

impl BlobWriter<'_> {
    /// Gives the blob its name, and says its digest and size in bytes. With `expected`, another digest is an error.
    pub fn finish(self, expected: Option<&Digest>) -> Result<(Digest, u64), Fault> {
        let digest = Digest::from_bytes(self.state.finalize().into());
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(Fault::network(format!("cannot store blob `{expected}`"))
                .cause(format!("the {} received bytes have the digest `{digest}`", self.size)));
        }
        self.partial.finish(&digest)?;
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.partial.write(bytes)?;
        self.state.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.partial.flush()
    }
}

/// Temporary files are for their owner alone; what is in a layout is for every tool.
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// True for files of an interrupted or concurrent creation; the marker may have appeared meanwhile.
fn ours(entry: &io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        matches!(&*name, "blobs" | ".lock" | "index.json" | "oci-layout") || name.starts_with(PARTIAL)
    })
}

fn named(descriptor: &Descriptor, name: &str) -> bool {
    descriptor.annotations.get(annotation::REF_NAME).is_some_and(|known| known == name)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let open = || match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    };
    let mut text = Vec::new();
    let read = open().and_then(|file| file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut text));
    read.map_err(|error| cannot_read(path, &error))?;
    if text.len() as u64 > DOCUMENT_LIMIT {
        return Err(cannot_read(path, &"it is larger than 4 MiB, the limit of a layout's index"));
    }
    serde_json::from_slice(&text).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &impl std::fmt::Display) -> Fault {
    Fault::build(format!("cannot read `{}`", path.display())).cause(error)
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::fault::Exit;
    use xtask_model::spec::oci::Manifest;

    fn layout() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("a b/é")).unwrap();
        (folder, layout)
    }

    fn files(layout: &Layout) -> Vec<String> {
        let entries = fs::read_dir(layout.folder.join("blobs/sha256")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_blob_of_another_layout_is_linked_and_not_a_damaged_one() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Layout::open_or_create(&folder.path().join(name)).unwrap();
        let (one, two) = (open("one"), open("two"));
        let (digest, size) = one.put_bytes(b"hello").unwrap();
        assert!(!two.link_shared(&digest, size), "it shares with no folder");
        let two = two.sharing(folder.path());
        assert!(!two.link_shared(&digest, size + 1));
        assert!(two.link_shared(&digest, size));
        assert_eq!(fs::metadata(two.blob_path(&digest)).unwrap().nlink(), 2);
    }

    #[test]
    fn blobs_are_named_by_their_content() {
        let (_folder, layout) = layout();
        let (digest, size) = layout.put_blob(&b"hello"[..], None).unwrap();
        assert_eq!((digest, size), (Digest::of(b"hello"), 5));
        assert_eq!(layout.put_bytes(b"hello").unwrap(), (digest, 5));
        assert_eq!(fs::read(layout.blob_path(&digest)).unwrap(), b"hello");
        assert_eq!(layout.blob_size(&digest), Some(5));
        assert_eq!(files(&layout), [digest.hex()]);
    }

    #[test]
    fn other_content_than_expected_leaves_nothing() {
        let (_folder, layout) = layout();
        let fault = layout.put_blob(&b"hello"[..], Some(&Digest::of(b"other"))).unwrap_err();
        assert_eq!(fault.exit, Exit::Network);
        let mut unfinished = layout.writer().unwrap();
        unfinished.write_all(b"half").unwrap();
        drop(unfinished);
        assert_eq!(files(&layout), [""; 0]);
    }

    #[test]
    fn names_are_set_moved_and_removed() {
        let (_folder, layout) = layout();
        let one = layout.put_json(media_type::MANIFEST, &1).unwrap();
        let two = layout.put_json(media_type::MANIFEST, &2).unwrap();
        assert_eq!(layout.get("x").unwrap(), None);
        layout.set("x", &one).unwrap();
        layout.set("a", &one).unwrap();
        layout.set("x", &two).unwrap();
        let again = Layout::open_or_create(layout.folder()).unwrap();
        assert_eq!(again.get("x").unwrap().unwrap().digest, two.digest);
        let names: Vec<_> = again.list().unwrap().into_iter().map(|(name, d)| (name, d.digest)).collect();
        assert_eq!(names, [("a".to_owned(), one.digest), ("x".to_owned(), two.digest)]);
    }

    #[test]
    fn a_name_needs_its_content() {
        let (_folder, layout) = layout();
        let absent = Descriptor::new(media_type::MANIFEST, Digest::of(b"absent"), 6);
        assert!(layout.set("x", &absent).is_err());
        assert_eq!(layout.list().unwrap(), []);
    }

    #[test]
    fn documents_are_checked_when_read() {
        let (_folder, layout) = layout();
        let config = layout.put_json(media_type::CONFIG, &"c").unwrap();
        let manifest = layout.put_json(media_type::MANIFEST, &Manifest::new(config, Vec::new())).unwrap();
        assert_eq!(layout.read_json::<Manifest>(&manifest).unwrap().schema_version, 2);
        fs::write(layout.blob_path(&manifest.digest), "{}").unwrap();
        assert!(layout.read_json::<Manifest>(&manifest).unwrap_err().causes[0].contains("digest"));
    }

    /// A folder that somebody else has made reads nothing but its own files, and never waits.
    #[test]
    fn no_layout_leads_out_of_its_folder() {
        let (folder, layout) = layout();
        std::fs::write(folder.path().join("secret"), "untouched").unwrap();
        let index = |digest: &str, name: &str| {
            let text = format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":9,"annotations":{{"{}":"{name}"}}}}]}}"#,
                media_type::MANIFEST,
                annotation::REF_NAME
            );
            std::fs::write(layout.folder().join("index.json"), text).unwrap();
        };
        for digest in ["sha256:../../../secret", "../secret", "sha256:", "sha512:00", "sha256:..", "/etc/passwd"] {
            index(digest, "x");
            assert!(layout.list().is_err(), "{digest}");
        }
        let digest = Digest::of(b"wanted");
        for name in ["../../../secret", "/etc/passwd", "..", "", "a/b"] {
            index(&digest.to_string(), name);
            assert_eq!(layout.list().unwrap().len(), 1);
            assert!(layout.read_bytes(&layout.get(name).unwrap().unwrap()).is_err(), "{name}");
        }
        let named = Descriptor::new(media_type::MANIFEST, digest, 9);
        let blob = layout.blob_path(&digest);
        std::os::unix::fs::symlink(folder.path().join("secret"), &blob).unwrap();
        assert!(layout.read_bytes(&named).unwrap_err().causes[0].contains("digest"));
        std::fs::remove_file(&blob).unwrap();
        std::fs::create_dir(&blob).unwrap();
        assert!(layout.read_bytes(&named).unwrap_err().causes[0].contains("regular file"));
        std::fs::remove_dir(&blob).unwrap();
        crate::process::Command::new("mkfifo").arg(&blob).read(Exit::Build).unwrap();
        assert!(layout.read_bytes(&named).unwrap_err().causes[0].contains("regular file"));
    }

    #[test]
    fn a_platform_is_reached_through_an_index() {
        let (_folder, layout) = layout();
        let amd: Platform = "linux/amd64".parse().unwrap();
        let manifest = layout.put_json(media_type::MANIFEST, &1).unwrap().with_platform(&amd);
        let index = layout.put_json(media_type::INDEX, &Index::new(vec![manifest.clone()])).unwrap();
        assert_eq!(layout.manifest_for(&index, &amd).unwrap(), Some(manifest.clone()));
        assert_eq!(layout.manifest_for(&manifest, &amd).unwrap(), Some(manifest));
        assert_eq!(layout.manifest_for(&index, &"linux/arm64".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "precious").unwrap();
        assert_eq!(Layout::open_or_create(folder.path()).unwrap_err().exit, Exit::Usage);
        fs::remove_file(folder.path().join("thesis.txt")).unwrap();
        Layout::open_or_create(folder.path()).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap();
        assert!(Layout::open_or_create(folder.path()).unwrap_err().causes[0].contains('9'));
    }

    #[test]
    fn many_writers_lose_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("images");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let folder = &folder;
                scope.spawn(move || {
                    // A lock belongs to an open file, so threads with their own exclude each other as processes do.
                    let layout = Layout::open_or_create(folder).unwrap();
                    for number in 0..10 {
                        let blob = layout.put_json(media_type::MANIFEST, &(writer, number)).unwrap();
                        layout.set(&format!("{writer}-{number}"), &blob).unwrap();
                    }
                });
            }
        });
        assert_eq!(Layout::open_or_create(&folder).unwrap().list().unwrap().len(), 80);
    }
}
