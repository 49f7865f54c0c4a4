//! The same commit gives the same image, bit for bit, whoever builds it, where, when and under which settings.

use crate::fixture::{Call, Repo};
use crate::world::{World, listing};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A repository whose layers are more than one block of the compressor, with what file systems order and mark in their own ways.
fn world(name: &str) -> Option<World> {
    let world = World::new(name)?;
    let repo = &world.repo;
    let lines: String = (0_u64..120_000).map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    repo.write("code/many.txt", &lines).write("dockerfiles/check.txt", &lines);
    for name in ["Z", "a", "ä", "B b", "_", "10", "9", "ı", "I"] {
        repo.write(&format!("code/names/{name}"), name);
    }
    std::fs::set_permissions(repo.path.join("code/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    repo.commit("much and many");
    Some(world)
}

/// The digests of the manifests of base and app, made from nothing by a build in this working copy.
#[track_caller]
fn made(world: &World, repo: &Repo, call: impl FnOnce(Call) -> Call) -> [serde_json::Value; 2] {
    world.wipe();
    let report = call(repo.xtask(&["build", "--push", "--format", "json"])).without_engine().run().ok().report();
    ["base", "app"].map(|kind| {
        assert_eq!(report.image(kind)["steps"][1], 0, "everything is made again");
        report.image(kind)["platforms"].clone()
    })
}

/// A fresh working copy, changed in a way that must not matter, gives what the first one gave.
#[track_caller]
fn same(name: &str, change: impl FnOnce(&Path), call: impl FnOnce(Call) -> Call) {
    let Some(world) = world(name) else { return };
    let expected = made(&world, &world.repo, |call| call);
    let other = world.repo.clone("another folder of another length");
    change(&other.path);
    assert_eq!(other.git(&["status", "--porcelain"]), "", "the change is none for git");
    assert_eq!(made(&world, &other, call), expected);
}

/// The files that git knows of, and their folders.
fn tracked(folder: &Path) -> Vec<PathBuf> {
    let not_ours = |path: &PathBuf| path.strip_prefix(folder).unwrap().starts_with(".git");
    let files = listing(folder).into_iter().map(|(path, _)| path);
    files.filter(|path| !not_ours(path) && !path.starts_with(folder.join("target"))).collect()
}

#[test]
fn another_folder() {
    same("folder", |_| {}, |call| call);
}

#[test]
fn another_umask() {
    let private = |folder: &Path| {
        for file in tracked(folder).into_iter().filter(|file| !file.is_symlink()) {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode & 0o700)).unwrap();
            for above in file.ancestors().skip(1).take_while(|above| above.starts_with(folder)) {
                std::fs::set_permissions(above, PermissionsExt::from_mode(0o700)).unwrap();
            }
        }
    };
    same("umask", private, |call| call.through(&["sh", "-c", "umask 077; exec \"$@\"", "sh"]));
}

#[test]
fn another_language_and_time_zone() {
    for language in ["tr_TR.UTF-8", "C", "de_DE.ISO-8859-1"] {
        let settings = |call: Call| call.env("LC_ALL", language).env("LANG", language).env("TZ", "Asia/Kathmandu");
        same("language", |_| {}, settings);
    }
}

#[test]
fn another_order_of_checkout_and_other_times() {
    let upside_down = |folder: &Path| {
        let mut files = tracked(folder);
        files.reverse();
        for (number, file) in files.into_iter().enumerate() {
            if file.is_symlink() {
                let target = std::fs::read_link(&file).unwrap();
                std::fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink(target, &file).unwrap();
                continue;
            }
            let (bytes, mode) = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().permissions());
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(&file, mode).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64 * 100_000_000);
            std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
        }
    };
    same("order", upside_down, |call| call);
}

#[test]
fn another_number_of_processors() {
    same("jobs", |_| {}, |call| call.through(&["taskset", "-c", "0"]));
}

#[test]
fn local_images_equal_published_ones() {
    let Some(world) = world("here") else { return };
    let expected = made(&world, &world.repo, |call| call);
    world.wipe();
    let other = world.repo.clone("other");
    let report = other.xtask(&["build", "--format", "json"]).without_engine().run().ok().report();
    assert_eq!(["base", "app"].map(|kind| report.image(kind)["platforms"].clone()), expected);
}
