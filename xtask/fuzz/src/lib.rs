//! Parsers of untrusted bytes, each as one function over any bytes: for the fuzz targets in `xtask/fuzz/targets`, and
//! for the tests here.
//!
//! A function must return for any input, and asserts invariants. It returns whether the input was valid.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock::Lock;
use xtask_model::spec::oci::{Config, Index, Manifest};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements;
use xtask_model::spec::wheel::WheelName;
use xtask_model::spec::wheel::page::Page;
use xtask_native::layer::{Limits, Reader, note, toc};
use xtask_native::recipes::python::recorded_paths;
use xtask_native::wheel;

pub fn dockerfile(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(dockerfile) = Dockerfile::parse("Dockerfile", text) else { return false };
    let args = BTreeMap::from([("A".to_owned(), "b/*".to_owned())]);
    let platform = Platform::host();
    let _ = dockerfile.lint();
    let _ = dockerfile.expand(&args, &platform);
    let _ = dockerfile.sources(&args, &platform);
    assert!(dockerfile.meaning_lines().len() == dockerfile.meaning().len());
    for stage in dockerfile.stages() {
        if let Some(name) = &stage.name {
            let _ = dockerfile.clone().with_target(name);
        }
    }
    true
}

/// Parses an ignore file, up to the first zero byte, and matches the path after it.
pub fn ignore(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (text, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"a/b/c.py"));
    let Ok(ignore) = Ignore::parse(".dockerignore", text) else { return false };
    let verdict = ignore.ignores(path);
    let parent = path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]);
    if let Some(folder) = parent.filter(|folder| ignore.ignores(folder) && !verdict && !folder.is_empty()) {
        assert!(ignore.may_reinclude_below(folder), "a walk that stops at this folder misses it");
    }
    true
}

/// Parses a requirement file, up to the first zero byte; the rest is the contents of every file that it names.
pub fn requirement_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (text, other) = text.split_once('\0').unwrap_or((text, ""));
    let mut loads = 0;
    let mut load = |_: &Path| {
        loads += 1;
        match loads {
            1 => Ok(text.to_owned()),
            2..20 => Ok(other.to_owned()),
            _ => Err(Fault::usage("endless includes")),
        }
    };
    let Ok(requirements) = requirements::read(Path::new("requirements.txt"), &mut load) else { return false };
    let names = requirements.names();
    assert!(requirements.requirements().iter().all(|one| names.contains(one.name.as_str())));
    let _ = requirements.fingerprint();
    true
}

pub fn lock(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(lock) = Lock::parse(Path::new("a.lock"), text) else { return false };
    assert!(lock.packages.iter().all(|package| !package.hashes.is_empty()));
    let _ = lock.meaning();
    true
}

/// Pages of a package index, as JSON and as HTML, and the names of the files on them.
pub fn index_page(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let (html, json) = (Page::html(&text), Page::json(bytes));
    let valid = json.is_ok() || !html.files.is_empty();
    for file in html.files.iter().chain(json.iter().flat_map(|page| &page.files)) {
        assert!(!file.url.contains('#') && file.sha256.as_ref().is_none_or(|hash| hash.len() == 64));
        if let Ok(wheel) = file.name.parse::<WheelName>() {
            assert!(!wheel.python.is_empty() && !wheel.abi.is_empty() && !wheel.platform.is_empty());
        }
    }
    valid
}

/// Manifests, indexes and configurations: reading and writing them again changes nothing.
pub fn documents(bytes: &[u8]) -> bool {
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let _ = index.for_platform(&Platform::host());
    }
    survives::<Manifest>(bytes) | survives::<Config>(bytes) | survives::<Index>(bytes)
}

fn survives<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<T>(bytes) else { return false };
    let written = serde_json::to_vec(&document).expect("a parsed document can be serialised");
    let again: T = serde_json::from_slice(&written).expect("a serialised document can be parsed");
    assert!(again == document, "a document changes when it is read and written");
    true
}

/// Reads a layer of any compression, and its table of contents.
pub fn layer(bytes: &[u8]) -> bool {
    let _ = note::read(bytes, bytes.len() as u64);
    let limits = Limits { bytes: 1 << 20, entries: 1000, path: 1000, header: 10_000, window: 1 << 20 };
    if let Ok(mut reader) = Reader::open(bytes, None, limits) {
        while let Ok(Some(entry)) = reader.next() {
            assert!(entry.path.parts().all(|part| part != b".." && part != b"." && !part.contains(&0)));
            assert!(!entry.path.as_bytes().starts_with(b"/") && entry.path.as_bytes().len() <= limits.path);
            if let Ok(Some(contents)) = reader.bytes(4096) {
                assert!(contents.len() <= 4096);
            }
        }
    }
    let toc = Reader::open(bytes, None, limits).and_then(|mut reader| toc::of(&mut reader));
    let Ok(toc) = toc else { return false };
    let again = toc::LayerToc::checked(toc.as_bytes().to_vec());
    assert!(again.as_ref() == Some(&toc), "the stored form is read differently");
    let image = toc::ImageToc::new([toc.into()]);
    for path in image.merged().keys() {
        assert!(image.get(path).is_some());
        let _ = image.resolve(path);
    }
    true
}

/// Reads the records of a wheel's archive: no name leads out, and the bytes of each file are its own.
pub fn wheel_records(bytes: &[u8]) -> bool {
    let Ok(entries) = wheel::entries(bytes) else { return false };
    let mut places: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.at, entry.packed)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    assert!(places.iter().all(|(at, packed)| at + packed <= bytes.len() as u64));
    assert!(entries.is_sorted_by(|one, two| one.name < two.name));
    assert!(entries.iter().flat_map(|entry| entry.name.split('/')).all(|part| !matches!(part, "" | "." | "..")));
    true
}

/// Reads a wheel's `RECORD`.
pub fn wheel_rows(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(paths) = recorded_paths(text) else { return false };
    assert!(paths.len() <= bytes.len() && paths.iter().all(|path| !path.is_empty() && !path.starts_with('/')));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index as At;
    use std::io::Write as _;
    use xtask_native::layer::test_data;

    /// One change of some bytes.
    #[derive(Clone, Debug)]
    enum Change {
        Put(At, Vec<u8>),
        Replace(At, Vec<u8>),
        Remove(At, usize),
        Repeat(At, usize, u8),
        Swap(At, At, usize),
    }

    fn change(words: &'static [&'static str]) -> impl Strategy<Value = Change> {
        let bytes = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..4),
            prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
            prop::sample::select(&b"\0\n\r\t \"'\\/#$*?[]{}=:;,@~!&|<>-\x80\xff"[..]).prop_map(|byte| vec![byte]),
        ];
        let bytes = bytes.boxed();
        prop_oneof![
            (any::<At>(), bytes.clone()).prop_map(|(at, bytes)| Change::Put(at, bytes)),
            (any::<At>(), bytes).prop_map(|(at, bytes)| Change::Replace(at, bytes)),
            (any::<At>(), 1_usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
            (any::<At>(), 1_usize..60, 1_u8..4).prop_map(|(at, count, times)| Change::Repeat(at, count, times)),
            (any::<At>(), any::<At>(), 1_usize..60).prop_map(|(one, two, count)| Change::Swap(one, two, count)),
        ]
    }

    fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
        for change in changes {
            let place = |at: &At| at.index(bytes.len() + 1);
            let end = |start: usize, count: usize| (start + count).min(bytes.len());
            match change {
                Change::Put(at, new) => drop(bytes.splice(place(at)..place(at), new.iter().copied())),
                Change::Replace(at, new) => {
                    let start = place(at);
                    drop(bytes.splice(start..end(start, new.len()), new.iter().copied()));
                }
                Change::Remove(at, count) => {
                    let start = place(at);
                    drop(bytes.drain(start..end(start, *count)));
                }
                Change::Repeat(at, count, times) => {
                    let start = place(at);
                    let piece = bytes[start..end(start, *count)].repeat((*times).into());
                    drop(bytes.splice(start..start, piece));
                }
                Change::Swap(from, to, count) => {
                    let start = place(from);
                    let piece = bytes[start..end(start, *count)].to_vec();
                    let to = place(to);
                    drop(bytes.splice(to..to, piece));
                }
            }
        }
        bytes
    }

    /// Runs a target over what comes of its seeds.
    fn drive(target: fn(&[u8]) -> bool, cases: u32, seeds: &[Vec<u8>], words: &'static [&'static str]) {
        for seed in seeds {
            assert!(target(seed), "a seed is not read: {}", String::from_utf8_lossy(seed));
        }
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases,
            failure_persistence: None,
            max_shrink_iters: 2000,
            ..ProptestConfig::default()
        });
        let inputs = (prop::sample::select(seeds.to_vec()), prop::collection::vec(change(words), 1..12));
        let result = runner.run(&inputs, |(seed, changes)| {
            target(&changed(seed, &changes));
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }

    fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn dockerfiles() {
        let seeds = texts(&[
            include_str!("../../../dockerfiles/Dockerfile.base"),
            include_str!("../../../dockerfiles/Dockerfile.fast"),
            include_str!("../../../dockerfiles/Dockerfile.enhanced"),
            "# escape=`\nFROM a AS b\nARG A=\"${B:-c}\"\nCOPY --from=b --chmod=0755 [\"a b\", \"c\"]\nRUN <<E cat\nx\nE\n",
        ]);
        let words = &[
            "FROM ",
            "COPY --from=",
            "<<EOF",
            "\\\n",
            "${A:-",
            "${A:+",
            "${A#",
            "RUN --mount=",
            "# escape=`\n",
            "ONBUILD ",
        ];
        drive(dockerfile, 400, &seeds, words);
    }

    #[test]
    fn ignore_files() {
        let seeds = texts(&["*\n!src\n**/*.py[co]\n", "# c\n/a/b\n!a/**/b?\n[a-z]*\n\0a/b/c", "\\#\n..\n!a\n\0x/y"]);
        drive(ignore, 2000, &seeds, &["**", "/**/", "[^a-z]", "\\", "!", "../", "\n!"]);
    }

    #[test]
    fn requirement_files() {
        let seeds = texts(&[
            include_str!("../../../requirements-enhanced.txt"),
            "a[b,c]==1.0 ; python_version < '3.13'\n-r x.txt\n-c y.txt\n--no-binary e\n\0d>=1,<2 # why\n",
        ]);
        let words = &[
            "-r ",
            "-e .",
            "--hash=sha256:",
            " ; ",
            "===",
            "~=",
            " @ ",
            " or (",
            "python_version",
            "\\\n",
            "${",
            "1!2.0.post1",
        ];
        drive(requirement_file, 1000, &seeds, words);
    }

    #[test]
    fn locks() {
        let whole = include_str!("../../../requirements-enhanced.lock");
        // As many lines as say everything once.
        let some: String = whole.lines().take(60).map(|line| format!("{line}\n")).collect();
        let words = &["--hash=sha256:", " ; ", "==", "# via ", "\\\n", "# requirements: ", "--only-binary"];
        drive(lock, 400, &texts(&[&some]), words);
    }

    #[test]
    fn index_pages() {
        let json = r#"{"meta": {"api-version": "1.1"}, "files": [{"filename": "a-1-py3-none-any.whl", "url": "../a-1-py3-none-any.whl",
            "hashes": {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}, "yanked": "why"}]}"#;
        let html =
            "<!-- x --><base href='/f/'><a href=\"a-1-py3-none-any.whl#sha256=00\" data-requires-python='&gt;=3'>a</a>";
        let words =
            &["<a ", "href=", "<!--", "-->", "&#x", "&amp;", "\"files\"", "data-yanked", "1.0", "-py3-none-any.whl"];
        drive(index_page, 400, &texts(&[json, html]), words);
    }

    #[test]
    fn manifests_indexes_and_configurations() {
        let digest = xtask_model::spec::reference::Digest::of(b"");
        let descriptor = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":3,"annotations":{{"a":"b"}}}}"#);
        let seeds = [
            format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}],"subject":{descriptor}}}"#),
            format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}],"annotations":{{}}}}"#),
            format!(
                r#"{{"architecture":"amd64","os":"linux","config":{{"Env":null,"Cmd":["a"],"User":"1"}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"empty_layer":true}}]}}"#
            ),
        ];
        let words =
            &["null", "{}", "[]", "-1", "1e400", "18446744073709551616", "0.1", r#""size":"#, "\\ud800", "true"];
        drive(documents, 2000, &seeds.map(String::into_bytes), words);
    }

    /// An archive of stored files, with a comment.
    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        let bytes = |fields: &[&[u8]]| fields.concat();
        for (name, text) in files {
            let start = (out.len() as u32).to_le_bytes();
            let size = (text.len() as u32).to_le_bytes();
            let length = (name.len() as u16).to_le_bytes();
            // From the flags to the length of the extra field, the same in both records.
            let common = bytes(&[&[0; 8], &[7; 4], &size, &size, &length, &[0; 2]]);
            out.extend(bytes(&[b"PK\x03\x04\x14\0", &common, name.as_bytes(), text.as_bytes()]));
            let rest = bytes(&[&[0; 10], &start, name.as_bytes()]);
            directory.extend(bytes(&[b"PK\x01\x02\x14\x03\x14\0", &common, &rest]));
        }
        let (at, size) = ((out.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
        let count = (files.len() as u16).to_le_bytes();
        let end = bytes(&[b"PK\x05\x06\0\0\0\0", &count, &count, &size, &at, &[2, 0], b"hi"]);
        [out, directory, end].concat()
    }

    #[test]
    fn wheels() {
        let seeds = [
            archive(&[("a/__init__.py", "x = 1\n"), ("a-1.dist-info/RECORD", "a/__init__.py,,\n"), ("a/b/", "")]),
            archive(&[]),
        ];
        let words =
            &["PK\u{1}\u{2}", "PK\u{3}\u{4}", "PK\u{5}\u{6}", "PK\u{6}\u{6}", "PK\u{6}\u{7}", "\0\0\0\0", "../", "/"];
        drive(wheel_records, 1500, &seeds, words);
    }

    #[test]
    fn rows_of_wheels() {
        let seeds = texts(&["a.py,sha256=x,1\r\n\"b,\"\"c\"\"\",,\r\na-1.dist-info/RECORD,,\n", "a,,\rb,,\n"]);
        let words = &["\r", "\n", "\r\n", "\"", "\"\"", ",", ",,", "./", "../", "\u{feff}"];
        drive(wheel_rows, 1500, &seeds, words);
    }

    #[test]
    fn layers() {
        let plain = test_data::tar(&["d etc", "f etc/passwd root", "l a etc", "h b etc/passwd", "f etc/.wh.x", "c d"]);
        let long = "n".repeat(200);
        let names = [
            test_data::entry(long.as_bytes(), b'0', b"", b"1"),
            test_data::entry(b"././@LongLink", b'L', b"", long.as_bytes()),
            test_data::entry(b"x", b'2', long.as_bytes(), b""),
            test_data::END.to_vec(),
        ]
        .concat();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&*plain, ruzstd::encoding::CompressionLevel::Fastest);
        let seeds = [plain, names, gzip.finish().unwrap(), zstd];
        drive(layer, 1500, &seeds, &["\0\0\0\0", "77777777777", "ustar\x0000", "ustar  \0", "../", "12 path=a\n"]);
    }
}
