//! Every path of an image with its attributes and the digest of its contents, all layers laid over each other.
//!
//! Reads each layer once as a stream: contents are hashed as they come, and only the few files that say what is installed are kept.

use crate::files::read_layer;
use crate::image::Image;
use crate::layer::{Entry, EntryKind, Reader, Whiteout};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Read as _;
use xtask_host::process;
use xtask_host::registry::Client;
use xtask_model::adopt::proof::{Files, Node, NodeKind, is_read};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::reference::Digest;

/// Bytes of the longest text that is kept.
const LONGEST: u64 = 16 << 20;

/// The files of two images. Layers that both begin with are read once.
///
/// # Errors
/// A layer that is missing or damaged.
pub fn pair(client: &Client, one: &Image, other: &Image) -> Result<[Files; 2], Fault> {
    let shared = one.layers().zip(other.layers()).take_while(|(one, other)| one.1 == other.1).count();
    let mut first = Files::default();
    lay(&mut first, client, one, 0..shared)?;
    let mut second = first.clone();
    lay(&mut first, client, one, shared..one.manifest.layers.len())?;
    lay(&mut second, client, other, shared..other.manifest.layers.len())?;
    Ok([first, second])
}

/// The files of one image.
///
/// # Errors
/// A layer that is missing or damaged.
pub fn one(client: &Client, image: &Image) -> Result<Files, Fault> {
    let mut files = Files::default();
    lay(&mut files, client, image, 0..image.manifest.layers.len())?;
    Ok(files)
}

fn lay(files: &mut Files, client: &Client, image: &Image, layers: std::ops::Range<usize>) -> Result<(), Fault> {
    for (descriptor, diff_id) in image.layers().skip(layers.start).take(layers.len()) {
        process::interrupted()?;
        read_layer(client, &image.place, (descriptor, Some(&diff_id)), |reader| apply(files, reader))?;
    }
    Ok(())
}

/// Lays a layer over the files. Its removals are of lower layers, wherever they are in it.
fn apply(files: &mut Files, reader: &mut Reader<'_>) -> Result<(), Fault> {
    let mut own = Files::default();
    while let Some(entry) = reader.next()? {
        match entry.whiteout() {
            Some(Whiteout::Path(path)) => remove(files, &path.to_string(), true),
            Some(Whiteout::Below(folder)) => remove(files, &folder.to_string(), false),
            Some(Whiteout::Nothing) => {}
            None if entry.path.as_bytes().is_empty() => {}
            None => put(files, &mut own, &entry, reader)?,
        }
    }
    for (path, node) in own.nodes {
        if node.kind != NodeKind::Folder {
            remove(files, &path, true);
        }
        files.texts.remove(&path);
        files.nodes.insert(path, node);
    }
    files.texts.extend(own.texts);
    Ok(())
}

fn put(below: &Files, own: &mut Files, entry: &Entry, reader: &mut Reader<'_>) -> Result<(), Fault> {
    let path = entry.path.to_string();
    let kind = match &entry.kind {
        EntryKind::Dir => NodeKind::Folder,
        EntryKind::Symlink(target) => NodeKind::Link(ContextPath::new(target.clone()).to_string()),
        EntryKind::Special => NodeKind::Device,
        EntryKind::File(_) => {
            let (kind, text) = file(reader, is_read(&path))?;
            match text {
                Some(text) => drop(own.texts.insert(path.clone(), text)),
                None => drop(own.texts.remove(&path)),
            }
            kind
        }
        EntryKind::HardLink(target) => {
            let target = target.to_string();
            let found = own.nodes.get(&target).or_else(|| below.nodes.get(&target)).cloned();
            let found = found.ok_or_else(|| {
                Fault::network(format!("cannot read `/{path}` of the image"))
                    .cause(format!("it is a hard link to `/{target}`, which no layer before it has"))
            })?;
            let text = own.texts.get(&target).or_else(|| below.texts.get(&target)).cloned();
            if let Some(text) = text.filter(|_| is_read(&path)) {
                own.texts.insert(path.clone(), text);
            }
            own.nodes.insert(path, found);
            return Ok(());
        }
    };
    let mode = if matches!(kind, NodeKind::Link(_)) { 0 } else { entry.mode };
    own.nodes.insert(path, Node { kind, mode, uid: entry.uid, gid: entry.gid });
    Ok(())
}

/// Hashes the contents of an entry, of a script also what follows its first line, and keeps the text that is wanted.
fn file(reader: &mut Reader<'_>, wanted: bool) -> Result<(NodeKind, Option<String>), Fault> {
    let keeps = wanted && reader.unread() <= LONGEST;
    let (mut whole, mut script, mut text) = (Sha256::new(), ScriptHash::default(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = reader.contents().read(&mut buffer);
        let read = read.map_err(|error| reader.failed(error))?;
        if read == 0 {
            break;
        }
        let bytes = &buffer[..read];
        whole.update(bytes);
        script.update(bytes);
        if keeps {
            text.extend_from_slice(bytes);
        }
    }
    let kind = NodeKind::File { digest: Digest::from_bytes(whole.finalize().into()), script: script.end() };
    Ok((kind, keeps.then(|| String::from_utf8_lossy(&text).into_owned())))
}

/// Hash of what follows the first line of a script, whose bytes come in parts of any length.
enum ScriptHash {
    /// The begin of a first line that names an interpreter, or may name one.
    FirstLine(Vec<u8>),
    Rest(Sha256),
    NoScript,
}

impl Default for ScriptHash {
    fn default() -> Self {
        Self::FirstLine(Vec::new())
    }
}

impl ScriptHash {
    /// Bytes of a first line beyond which it names no interpreter.
    const LONGEST: usize = 4096;

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::NoScript => {}
            Self::Rest(rest) => rest.update(bytes),
            Self::FirstLine(line) => {
                let (line_end, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (&bytes[..at], Some(&bytes[at..])),
                    None => (bytes, None),
                };
                line.extend_from_slice(line_end);
                let may_be_script = line.starts_with(&b"#!"[..line.len().min(2)]) && line.len() < Self::LONGEST;
                match rest {
                    Some(rest) if may_be_script && line.len() >= 2 => *self = Self::Rest(Sha256::new_with_prefix(rest)),
                    None if may_be_script => {}
                    _ => *self = Self::NoScript,
                }
            }
        }
    }

    fn end(self) -> Option<Digest> {
        match self {
            Self::Rest(rest) => Some(Digest::from_bytes(rest.finalize().into())),
            Self::FirstLine(_) | Self::NoScript => None,
        }
    }
}

/// Removes what is below a path, and the path itself too if wanted.
fn remove(files: &mut Files, path: &str, itself: bool) {
    let begin = if path.is_empty() { String::new() } else { format!("{path}/") };
    fn below<V>(map: &mut BTreeMap<String, V>, begin: &str) {
        let found: Vec<String> = map
            .range(begin.to_owned()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(begin))
            .cloned()
            .collect();
        for path in found {
            map.remove(&path);
        }
    }
    below(&mut files.nodes, &begin);
    below(&mut files.texts, &begin);
    if itself {
        files.nodes.remove(path);
        files.texts.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Limits;
    use crate::layer::test_data::tar;

    fn laid(layers: &[&[&str]]) -> Files {
        let mut files = Files::default();
        for lines in layers {
            let bytes = tar(lines);
            apply(&mut files, &mut Reader::open(&bytes[..], None, Limits::default()).unwrap()).unwrap();
        }
        files
    }

    fn paths(files: &Files) -> Vec<&str> {
        files.nodes.keys().map(String::as_str).collect()
    }

    #[test]
    fn layers_replace_and_remove_what_is_below_them() {
        let files =
            laid(&[&["d a", "f a/x 1", "f a/y 2", "d b", "f b/z 3"], &["d a", "f a/.wh.x ", "f a/new 4", "f b 5"]]);
        assert_eq!(paths(&files), ["a", "a/new", "a/y", "b"]);
        // A removal does not concern its own layer, in whatever order it comes.
        let files = laid(&[&["d a", "f a/x 1"], &["f a/x 2", "f a/.wh..wh..opq "]]);
        assert_eq!(paths(&files), ["a", "a/x"]);
        assert_eq!(files.nodes["a/x"], laid(&[&["f a/x 2"]]).nodes["a/x"]);
    }

    #[test]
    fn texts_of_databases_are_kept_and_replaced() {
        let files = laid(&[&["d etc", "f etc/passwd one", "f etc/other one"], &["f etc/passwd two"]]);
        assert_eq!(files.texts, [("etc/passwd".to_owned(), "two".to_owned())].into());
        assert_eq!(laid(&[&["f etc/passwd one"], &["f etc/.wh.passwd "]]).texts, BTreeMap::new());
    }

    #[test]
    fn a_script_is_hashed_the_same_in_parts_of_any_length() {
        let hash = |parts: &[&[u8]]| {
            let mut script = ScriptHash::default();
            parts.iter().for_each(|part| script.update(part));
            script.end()
        };
        let long = |length: usize| format!("#!{}\nx", "y".repeat(length - 2));
        let texts = [
            ("", false),
            ("\n", false),
            ("#", false),
            ("#\n!", false),
            ("#!", false),
            ("#!\n", true),
            ("#!/a", false),
            ("#!/a\n", true),
            ("#!/a\nimport b\n\n", true),
            ("#include <a>\n\n#!\n", false),
            ("import a\n#!/b\n", false),
            (&long(ScriptHash::LONGEST - 1), true),
            (&long(ScriptHash::LONGEST), false),
        ];
        for (text, is_script) in texts {
            let bytes = text.as_bytes();
            let whole = hash(&[bytes]);
            assert_eq!(whole.is_some(), is_script, "{text:?}");
            for one in 0..=bytes.len() {
                assert_eq!(hash(&[&bytes[..one], &bytes[one..]]), whole, "{text:?} {one}");
            }
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(hash(&each), whole, "{text:?}");
        }
    }

    #[test]
    fn scripts_are_the_same_but_for_their_first_line() {
        let rest = |text: &str| {
            let lines = [format!("f a {text}")];
            let files = laid(&[&[lines[0].as_str()]]);
            match files.nodes["a"].kind {
                NodeKind::File { script, .. } => script,
                _ => None,
            }
        };
        assert!(rest("#!/a/python\nimport").is_some());
        assert_eq!(rest("#!/a/python\nimport"), rest("#!/b\nimport"));
        assert_ne!(rest("#!/a/python\nimport"), rest("#!/a/python\nother"));
        assert_eq!(rest("import\n#!/a"), None);
    }
}
