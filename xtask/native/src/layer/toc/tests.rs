//! Layers upon layers: what is seen, where links lead, and that questions and a merge agree.

use super::*;
use crate::layer::test_data::tar;
use crate::layer::{Limits, Reader};
use proptest::prelude::*;

fn layer(lines: &[&str]) -> Arc<LayerToc> {
    Arc::new(of(&mut Reader::open(&*tar(lines), None, Limits::default()).unwrap()).unwrap())
}

fn image(layers: &[&[&str]]) -> ImageToc {
    ImageToc::new(layers.iter().map(|lines| layer(lines)))
}

/// `d a`, `f a/b 3`, `l a/c target`, with the layer's number; `-` where it is only implied.
fn shown(path: &str, found: Option<TocEntry>) -> String {
    let Some(TocEntry { node, layer }) = found else { return format!("no {path}") };
    let layer = layer.map_or("-".to_owned(), |layer| layer.to_string());
    let link = String::from_utf8_lossy(&node.link).into_owned();
    match node.kind {
        FileKind::Dir | FileKind::Tree => format!("{layer} d {path}"),
        FileKind::File => format!("{layer} f {path} {}", node.size),
        FileKind::Symlink => format!("{layer} l {path} {link}"),
        FileKind::Special => format!("{layer} c {path}"),
    }
}

#[track_caller]
fn sees(image: &ImageToc, expected: &[&str]) {
    for line in expected {
        let path = line.split(' ').nth(if line.starts_with("no ") { 1 } else { 2 }).unwrap();
        assert_eq!(shown(path, image.get(&ContextPath::new(path))), *line);
        let merged = image.merged().contains_key(&ContextPath::new(path));
        assert_eq!(merged, !line.starts_with("no "), "{line}");
    }
}

#[test]
fn the_uppermost_layer_counts() {
    let image = image(&[&["d a", "f a/x 1", "f a/y 1", "f f 1"], &["f a/x 22", "f b/c/d 1"], &["d f", "f f/g 1"]]);
    sees(&image, &["0 d a", "1 f a/x 2", "0 f a/y 1", "- d b", "- d b/c", "1 f b/c/d 1", "2 d f", "2 f f/g 1", "no g"]);
}

#[test]
fn whiteouts_hide_lower_layers() {
    let below: &[&str] = &["d a", "d a/b", "f a/b/c 1", "f a/d 1", "f e 1"];
    sees(&image(&[below, &["f a/.wh.b"]]), &["0 d a", "no a/b", "no a/b/c", "0 f a/d 1"]);
    sees(&image(&[below, &["f .wh.a", "f .wh.e"]]), &["no a", "no a/b", "no a/b/c", "no a/d", "no e"]);
    sees(&image(&[below, &["f a/.wh..wh..opq"]]), &["0 d a", "no a/b", "no a/b/c", "no a/d", "0 f e 1"]);
    sees(&image(&[below, &["f .wh..wh..opq", "f x 1"]]), &["no a", "no a/b/c", "no e", "1 f x 1"]);
    // Entries of the same layer stay, whatever their order.
    sees(&image(&[below, &["f a/n 1", "f a/.wh..wh..opq"]]), &["0 d a", "no a/b", "1 f a/n 1"]);
    sees(&image(&[below, &["f a/b/n 1", "f a/.wh.b"]]), &["- d a/b", "no a/b/c", "1 f a/b/n 1"]);
    sees(&image(&[below, &["f .wh.a"], &["f a/z 1"]]), &["- d a", "no a/b", "2 f a/z 1"]);
    sees(&image(&[below, &["f a/.wh..wh.plnk"]]), &["0 f a/b/c 1", "no a/.wh..wh.plnk"]);
}

#[test]
fn a_file_hides_a_lower_folder() {
    let below: &[&str] = &["d a", "f a/b 1"];
    sees(&image(&[below, &["l a x"]]), &["1 l a x", "no a/b"]);
    sees(&image(&[below, &["l a x"], &["d a"]]), &["2 d a", "no a/b"]);
    sees(&image(&[&["l a x"], &["f a/b 1"]]), &["- d a", "1 f a/b 1"]);
    sees(&image(&[&["c a"], &["f b 1"]]), &["0 c a", "1 f b 1"]);
}

#[test]
fn a_hard_link_is_as_large_as_its_file() {
    let image = image(&[&["f a 12345", "h b a", "h c b"]]);
    sees(&image, &["0 f a 5", "0 f b 5", "0 f c 5"]);
}

#[test]
fn a_contradictory_layer_is_rejected() {
    let fault = |lines: &[&str]| of(&mut Reader::open(&*tar(lines), None, Limits::default()).unwrap()).unwrap_err();
    let text = fault(&["l a /etc", "f a/passwd x"]).to_string();
    assert!(text.contains("`a/passwd` is below `a`, which is not a folder"), "{text}");
    fault(&["f a/b/c x", "f a 1"]);
    fault(&["f a 1", "f a-b 1", "f a/b/c x"]);
    fault(&["f a 1", "d a"]);
    fault(&["d a", "c a"]);
}

#[track_caller]
fn leads(image: &ImageToc, path: &str, expected: &str) {
    let resolved = image.resolve(&ContextPath::new(path)).unwrap();
    assert_eq!(shown(&resolved.path.to_string(), resolved.found), expected, "{path}");
}

#[test]
fn links_are_followed_within_the_image() {
    let image = image(&[
        &["d usr", "d usr/lib", "f usr/lib/x 1", "l lib usr/lib", "l abs /usr", "l up ../../../usr", "l loop loop"],
        &["l usr/lib/y ../lib/x", "l dangling nowhere/at/all", "d a", "l a/dot .", "l ping pong", "l pong ping"],
    ]);
    leads(&image, "lib/x", "0 f usr/lib/x 1");
    leads(&image, "abs/lib/y", "0 f usr/lib/x 1");
    leads(&image, "up/lib", "0 d usr/lib");
    leads(&image, "a/dot/dot/dot", "1 d a");
    leads(&image, "dangling", "no nowhere/at/all");
    leads(&image, "dangling/more", "no nowhere/at/all/more");
    leads(&image, "lib/../../..", "- d ");
    leads(&image, "usr/lib/x/below", "no usr/lib/x/below");
    leads(&image, "new/file", "no new/file");
    for circle in ["loop", "ping/x", "pong"] {
        let fault = image.resolve(&ContextPath::new(circle)).unwrap_err().to_string();
        assert!(fault.contains("form a loop"), "{fault}");
    }
}

#[test]
fn files_are_read_through_links_and_layers() {
    let layers: [&[&str]; 3] = [
        &["d etc", "f etc/passwd root", "f etc/a lower", "h etc/h etc/a", "l link etc/a", "d folder"],
        &["f etc/a upper", "f etc/a last", "h etc/i etc/h"],
        &["f gone 1", "f etc/.wh.passwd"],
    ];
    let image = image(&layers);
    let mut opened = Vec::new();
    let tars: Vec<Vec<u8>> = layers.iter().map(|lines| tar(lines)).collect();
    let mut read = |image: &ImageToc, path: &str| {
        let open = |layer: usize, contents: &ReadLayer<'_>| {
            opened.push(layer);
            contents(&mut Reader::open(&*tars[layer], None, Limits::default())?)
        };
        let bytes = image.read(&ContextPath::new(path), open).unwrap();
        (bytes.map(|bytes| String::from_utf8(bytes).unwrap()), std::mem::take(&mut opened))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(read(&image, "etc/a"), (text("last"), vec![1]));
    assert_eq!(read(&image, "link"), (text("last"), vec![1]));
    assert_eq!(read(&image, "etc/h"), (text("lower"), vec![0]));
    assert_eq!(read(&image, "etc/i"), (text("lower"), vec![0]));
    assert_eq!(read(&image, "etc/passwd"), (None, vec![]));
    assert_eq!(read(&image, "folder"), (None, vec![]));
    let two = ImageToc { layers: image.layers[..2].to_vec() };
    assert_eq!(read(&two, "etc/passwd"), (text("root"), vec![]), "what is kept is not read again");
}

#[test]
fn a_damaged_stored_table_is_rejected() {
    let toc = layer(&["d a", "f a/b 1", "l c a", "f .wh.x"]);
    let bytes = toc.as_bytes().to_vec();
    assert_eq!(LayerToc::from_bytes(bytes.clone()).as_ref(), Some(&*toc));
    assert_eq!(toc.len(), 4);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(LayerToc::from_bytes(damaged), None, "{at}");
        assert_eq!(LayerToc::from_bytes(bytes[..at].to_vec()), None, "{at}");
    }
}

/// The same table with other bytes after its beginning, and a digest that matches them.
fn resealed(toc: &LayerToc, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    use sha2::Digest as _;
    let head = 8 + 32;
    let mut rest = toc.as_bytes()[head..].to_vec();
    change(&mut rest);
    let digest = sha2::Sha256::digest(&rest);
    [&toc.as_bytes()[..8], &digest[..], &rest[..]].concat()
}

#[test]
fn a_table_of_others_that_matches_its_digest_is_parsed_before_it_is_used() {
    let toc = layer(&["d a", "f a/b 1", "l c a", "f .wh.x"]);
    let bytes = toc.as_bytes().to_vec();
    let place = bytes.as_ptr();
    let same = LayerToc::checked(bytes).unwrap();
    assert!(same == *toc && same.as_bytes().as_ptr() == place, "up to 64 MB are not copied");
    let length = toc.as_bytes().len() - 8 - 32;
    for at in 0..length {
        assert_eq!(LayerToc::checked(resealed(&toc, |rest| rest.truncate(at))), None, "the first {at} bytes");
        for byte in [0, 1, 0x7f, 0xff] {
            // A changed mode is a table as good as any; whatever is accepted can be asked for everything.
            let Some(other) = LayerToc::checked(resealed(&toc, |rest| rest[at] = byte)) else { continue };
            let image = ImageToc::new([Arc::new(other)]);
            assert!(image.merged().keys().all(|path| image.get(path).is_some()), "{byte} at {at}");
        }
    }
    assert_eq!(LayerToc::checked(resealed(&toc, |rest| rest.push(0))), None);
    assert_eq!(LayerToc::checked(resealed(&toc, |rest| rest[..4].fill(0xff))), None, "more records than bytes");
}

#[test]
fn a_hundred_thousand_paths_are_cheap() {
    let mut builder = table::Builder::default();
    for number in 0..100_000 {
        let path = format!("usr/lib/python3/site-packages/package{}/module{number}.py", number / 100);
        builder.put(ContextPath::new(path), Node { kind: FileKind::File, ..Node::implied() });
    }
    let toc = builder.finish().unwrap();
    let began = std::time::Instant::now();
    let again = LayerToc::from_bytes(toc.as_bytes().to_vec()).unwrap();
    let loaded = began.elapsed();
    let image = ImageToc::new([Arc::new(again)]);
    let asked = std::time::Instant::now();
    for number in 0..1000 {
        let path = format!("usr/lib/python3/site-packages/package{number}/module{}.py", number * 100);
        assert!(image.get(&ContextPath::new(path)).is_some());
    }
    let (bytes, asked) = (toc.as_bytes().len(), asked.elapsed());
    eprintln!("{bytes} bytes, loaded in {loaded:?}, 1000 paths asked for in {asked:?}");
    assert!(loaded.as_millis() < 500 && asked.as_millis() < 500, "{loaded:?} {asked:?}");
}

/// A layer of random entries, such that it does not contradict itself.
pub(crate) fn random_layer() -> impl Strategy<Value = Vec<String>> {
    let path = "[abc](/[abc]){0,2}";
    let line = prop_oneof![
        3 => path.prop_map(|path| format!("d {path}")),
        4 => (path, "[xyz]{1,4}").prop_map(|(path, text)| format!("f {path} {text}")),
        1 => (path, "[abc]{1}").prop_map(|(path, target)| format!("l {path} {target}")),
        1 => path.prop_map(|path| match path.rsplit_once('/') {
            Some((folder, name)) => format!("f {folder}/.wh.{name}"),
            None => format!("f .wh.{path}"),
        }),
        1 => path.prop_map(|path| format!("f {path}/.wh..wh..opq")),
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| {
        let mut kept: Vec<String> = Vec::new();
        for line in lines {
            kept.push(line);
            let refs: Vec<&str> = kept.iter().map(String::as_str).collect();
            if of(&mut Reader::open(&*tar(&refs), None, Limits::default()).unwrap()).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

proptest! {
    #[test]
    fn lookups_and_the_merged_view_agree(layers in prop::collection::vec(random_layer(), 1..5)) {
        let layers: Vec<Vec<&str>> = layers.iter().map(|lines| lines.iter().map(String::as_str).collect()).collect();
        let image = ImageToc::new(layers.iter().map(|lines| layer(lines)));
        let merged = image.merged();
        let names = ["a", "b", "c"];
        let mut paths: Vec<String> = names.map(str::to_owned).to_vec();
        for _ in 0..2 {
            let deeper: Vec<String> = paths.iter().flat_map(|path| names.map(|name| format!("{path}/{name}"))).collect();
            paths.extend(deeper);
        }
        for path in paths {
            let path = ContextPath::new(path);
            prop_assert_eq!(image.get(&path).map(|found| found.node), merged.get(&path).cloned(), "{} of {:?}", path, layers);
        }
    }
}
