//! Images whose layers are unpacked to folders of their own: an edit costs one layer, and no container changes what others read.

use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

/// A layer of folders, which have no contents, and files.
fn layer(entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    layer_with(0o755, entries)
}

/// The same with this mode of folders.
fn layer_with(mode: u32, entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, contents) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if contents.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
        header.set_size(contents.unwrap_or_default().len() as u64);
        header.set_mode(if contents.is_some() { 0o644 } else { mode });
        tar.append_data(&mut header, path, contents.unwrap_or_default()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Builds an image of programs, which are the same each time, and of these layers.
fn build(repo: &Repo, layers: &[Vec<u8>]) {
    let place = repo.root.join("target/images/app");
    let _ = fs::remove_dir_all(&place);
    let layout = Layout::open_or_create(&place).unwrap();
    let tree = tempfile::tempdir().unwrap();
    fill(tree.path());
    let mut programs = tar::Builder::new(Vec::new());
    programs.follow_symlinks(false);
    programs.mode(tar::HeaderMode::Deterministic);
    programs.append_dir_all("", tree.path()).unwrap();
    let programs = programs.into_inner().unwrap();
    let blobs: Vec<_> = [&programs].into_iter().chain(layers).map(|layer| layout.put_bytes(layer).unwrap()).collect();
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "config": {"User": "root", "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": blobs.iter().map(|(digest, _)| digest).collect::<Vec<_>>()},
    });
    let config = layout.put_json(media_type::CONFIG, &config).unwrap();
    let layers = blobs.into_iter().map(|(digest, size)| Descriptor::new(media_type::LAYER, digest, size)).collect();
    let manifest = layout.put_json(media_type::MANIFEST, &oci::Manifest::new(config, layers)).unwrap();
    layout.set("app", &manifest.with_platform(&Platform::host())).unwrap();
    repo.give_away();
}

fn page(text: &str) -> Vec<u8> {
    layer(&[("app", None), ("app/page", Some(text.as_bytes()))])
}

/// Every path of the store with its identity, mode, time and contents.
fn state(repo: &Repo) -> BTreeMap<PathBuf, (u64, u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let store = repo.root.join("target/native/images");
    let mut folders: Vec<PathBuf> = repo.stored().iter().map(|name| store.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let metadata = path.symlink_metadata().unwrap();
            let contents = match metadata.is_file() {
                true => fs::read(&path).unwrap(),
                false => Vec::new(),
            };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (metadata.ino(), metadata.mode(), metadata.mtime(), contents));
        }
    }
    found
}

#[test]
fn an_edit_unpacks_its_layer_and_no_container_changes_a_kept_one() {
    for repo in repositories() {
        let other = layer(&[("app", None), ("app/data", Some(b"data"))]);
        build(&repo, &[other.clone(), page("one")]);
        let spoil = "cat /app/page /app/data; echo spoiled > /app/page; echo spoiled >> /app/data; rm /bin/ls; rm -r /etc; \
                     touch /app/new; mkdir /etc; chmod 700 /srv; cat /app/page; test -e /bin/ls || echo no ls";
        let spoiled = repo.output(&["run", "--", "sh", "-c", spoil]);
        assert_eq!(out(&spoiled), "onedataspoiled\nno ls", "{}", err(&spoiled));
        let (before, first) = (state(&repo), repo.stored());
        assert_eq!(first.len(), 3, "a folder for each layer");
        let again = repo.output(&["run", "--", "sh", "-c", spoil]);
        assert_eq!(out(&again), "onedataspoiled\nno ls", "{}", err(&again));
        assert!(!err(&again).contains("unpacking"), "{}", err(&again));
        assert_eq!(state(&repo), before);

        build(&repo, &[other, page("two")]);
        let edited = repo.output(&["run", "--", "sh", "-c", "cat /app/page /app/data; ls /app"]);
        assert_eq!(out(&edited), "twodatadata\npage", "{}", err(&edited));
        let second = repo.stored();
        assert_eq!(second.iter().filter(|name| !first.contains(name)).count(), 1, "{first:?} {second:?}");
        let after = state(&repo);
        assert!(before.iter().all(|(path, state)| after.get(path) == Some(state)), "a kept folder was changed");
    }
}

#[test]
fn a_layer_that_takes_away_is_unpacked_over_the_lower_ones() {
    for repo in repositories() {
        let lower = layer(&[("app", None), ("app/old", Some(b"old")), ("app/page", Some(b"none"))]);
        let gone = layer(&[("app", None), ("app/.wh.old", Some(b"")), ("srv", None), ("srv/.wh..wh..opq", Some(b""))]);
        for text in ["one", "two"] {
            build(&repo, &[lower.clone(), gone.clone(), page(text)]);
            let output = repo.output(&["run", "--", "sh", "-c", "cat /app/page; ls /app"]);
            assert_eq!(out(&output), format!("{text}page"), "{}", err(&output));
        }
        // One for the lowest three layers, and one for each page.
        assert_eq!(repo.stored().len(), 3, "{:?}", repo.stored());
    }
}

#[test]
fn a_layer_without_its_folders_leaves_theirs_as_they_are() {
    for repo in repositories() {
        build(&repo, &[layer_with(0o750, &[("app", None)]), layer(&[("app/deep/page", Some(b"one"))])]);
        let output = repo.output(&["run", "--", "sh", "-c", "ls -ld /app; cat /app/deep/page"]);
        assert!(out(&output).starts_with("drwxr-x---") && out(&output).ends_with("one"), "{}", out(&output));
    }
}

#[test]
fn a_killed_unpacking_leaves_nothing_that_is_used() {
    for repo in repositories() {
        // Long enough to be killed in.
        let noise: Vec<u8> =
            (0..24_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (head, tail) = noise.split_at(noise.len() / 2);
        let large =
            layer(&[("app", None), ("app/head", Some(head)), ("app/tail", Some(tail)), ("app/end", Some(b"end"))]);
        build(&repo, &[large, page("one")]);
        let store = repo.root.join("target/native/images");
        let partial = || {
            let entries = fs::read_dir(&store).into_iter().flatten().flatten().map(|entry| entry.path());
            entries
                .into_iter()
                .find(|path| path.extension().is_some_and(|end| end == "partial") && path.join("app/head").exists())
        };
        for _ in 0..3 {
            let mut child = begin(&repo, &["run", "--", "sh", "-c", "cat /app/end"]);
            wait_until("it does not unpack", || partial().is_some() || child.try_wait().unwrap().is_some());
            signal(&child, "KILL");
            child.wait().unwrap();
            for name in repo.stored().iter().filter(|name| !name.ends_with(".partial")) {
                let app = store.join(name).join("app");
                assert!(!app.join("head").exists() || app.join("end").exists(), "an incomplete folder looks complete");
            }
        }
        let output = repo.output(&["run", "--", "sh", "-c", "cat /app/end /app/page; cat /app/head /app/tail | wc -c"]);
        assert_eq!(out(&output), "endone24000000", "{}", err(&output));
        assert!(repo.stored().iter().all(|name| !name.ends_with(".partial")), "{:?}", repo.stored());
    }
}
