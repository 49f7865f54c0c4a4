//! Both engines with one registry: each builds on images of the other, recognises them, and reports them in the same way.

use crate::fixture::{Report, actions, client};
use crate::world::World;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use xtask_host::registry::publish;
use xtask_model::spec::reference::Digest;
use xtask_native::layer::{EntryKind, Limits, Reader};

fn build(world: &World, what: &str, engine: &str) -> Report {
    world.repo.xtask(&[what, "--push", "--engine", engine, "--format", "json"]).run().ok().report()
}

/// Runs the app, and checks the users that it knows, and its page.
#[track_caller]
fn runs(world: &World, report: &Report, page: &str) {
    let reference = report.text("app", "reference");
    assert_eq!(world.repo.run(&reference, &[]), page);
    let engine = world.repo.engine;
    let tool = ["run", "--rm", "--network=host", "--entrypoint=/usr/local/bin/tool", &reference];
    let users = engine.docker(&tool);
    assert!(users.ends_with("app:x:10001:10001:app:/home/app:/usr/sbin/nologin"), "{users}");
}

#[track_caller]
fn on_a_base_of_another(base: &str, app: &str) {
    let Some(world) = World::new(&format!("{app}on{base}")) else { return };
    let below = build(&world, "build-base", base);
    let report = build(&world, "build", app);
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(report.digest("base"), below.digest("base"));
    world.is_whole();
    runs(&world, &report, "<p>one</p>");
    // Whoever comes later takes both, whichever engine made them.
    for engine in ["docker", "native"] {
        let (again, traffic) = world.traffic(|| build(&world, "build", engine));
        assert_eq!(again.actions(), actions("reused", "reused"), "{engine}");
        assert_eq!(again.digest("app"), report.digest("app"), "{engine}");
        assert_eq!(traffic.writes(), Vec::<String>::new());
    }
    // And builds on it: the layers of one engine are below the other's.
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let edited = build(&world, "build", base);
    assert_eq!(edited.actions(), actions("reused", "built"));
    world.is_whole();
    runs(&world, &edited, "<p>two</p>");
}

#[test]
fn an_app_by_docker_on_a_base_by_native() {
    on_a_base_of_another("native", "docker");
}

#[test]
fn an_app_by_native_on_a_base_by_docker() {
    on_a_base_of_another("docker", "native");
}

/// Docker's layers are of its own making, but the files in them are the same, so that the image runs the same.
#[test]
fn a_base_of_either_engine_can_be_read() {
    let Some(world) = World::new("lookinto") else { return };
    world.repo.edit(
        "dockerfiles/Dockerfile.fast",
        "COPY --link --chown=0:0 templates",
        "COPY --chown=app:app templates",
    );
    world.repo.commit("asks who `app` is");
    build(&world, "build-base", "docker");
    let report = build(&world, "build", "native");
    assert_eq!(report.actions(), actions("reused", "built"));
    runs(&world, &report, "<p>one</p>");
    let owner =
        ["run", "--rm", "--network=host", "--entrypoint=ls", &report.text("app", "reference"), "-ln", "/app/templates"];
    let listed = world.repo.engine.docker(&owner);
    assert!(listed.contains("10001"), "{listed}");
}

#[test]
fn plan_explain_and_base_list_support_images_of_both_engines() {
    let Some(world) = World::new("reports") else { return };
    let repo = &world.repo;
    let plan = |since: &str| -> Value {
        serde_json::from_str(&repo.xtask(&["plan", "--base", since, "--format", "json"]).run().ok().stdout).unwrap()
    };
    assert_eq!(plan("HEAD")["decision"], "base+fast");
    let built = repo.push();
    let planned = plan("HEAD");
    assert_eq!(planned["decision"], "skip", "{planned:#}");
    for kind in ["base", "app"] {
        assert_eq!(planned[kind]["decision"]["action"], "reuse", "{planned:#}");
    }
    let said = repo.xtask(&["explain"]).run().ok().stdout;
    assert_eq!(said.matches("nothing differs").count(), 2, "{said}");
    let listed = |what: &str| {
        let rows = repo.xtask(&["base", "list", "--format", "json"]).run().ok().stdout;
        let rows: Value = serde_json::from_str(&rows).unwrap();
        let row = rows["bases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["latest"] == true)
            .unwrap_or_else(|| panic!("{rows:#}"))
            .clone();
        assert_eq!((&row["this_tree"], &row["complete"]), (&Value::Bool(true), &Value::Bool(true)), "{what}: {row:#}");
        row
    };
    let of_native = listed("native");
    assert!(of_native["used_by"].as_array().unwrap().iter().any(|tag| tag == "latest"), "{of_native:#}");

    repo.write("templates/page.html", "<p>two</p>\n").commit("template");
    assert_eq!(plan("HEAD~1")["decision"], "fast");
    let said = repo.xtask(&["explain"]).run().ok().stdout;
    assert!(said.contains("templates/page.html"), "{said}");
    repo.lock("scipy>=1.16\n", &[("scipy", "1.17.0")]).commit("lock");
    assert_eq!(plan("HEAD~1")["decision"], "base+fast");
    let said = repo.xtask(&["explain"]).run().ok().stdout;
    assert!(said.contains("scipy 1.16.3 -> 1.17.0"), "{said}");
    let after = repo.push();
    assert_eq!(after.actions(), actions("built", "built"));
    assert_ne!(after.digest("base"), built.digest("base"));
    listed("edited");

    // A base that docker builds again with the same key needs a new app, as always.
    build(&world, "build-base", "docker");
    let forced = repo.xtask(&["build-base", "--push", "--engine", "docker", "--force"]).run().ok();
    forced.reference();
    assert_eq!(plan("HEAD")["decision"], "fast");
    assert_eq!(repo.push().actions(), actions("reused", "built"));
    assert_eq!(plan("HEAD")["decision"], "skip");
    listed("docker");
}

fn contents(world: &World) -> BTreeMap<String, String> {
    contents_of(world, "latest")
}

/// Path, kind, mode, owner, time and bytes of what an app has in its own three layers. Folders that docker makes itself, for the
/// destination of a `COPY`, have the time of the build, which is left out.
fn contents_of(world: &World, tag: &str) -> BTreeMap<String, String> {
    let (repository, client) = (world.repo.repository("app"), client());
    let manifest = world.manifest("app", tag);
    let config = publish::read_config(&client, &repository, &manifest).unwrap();
    let mut found = BTreeMap::new();
    let layers: Vec<_> = manifest.layers.iter().zip(&config.rootfs.diff_ids).rev().take(3).collect();
    for (layer, diff_id) in layers.into_iter().rev() {
        let mut bytes = Vec::new();
        client.blob(&repository, &layer.digest, layer.size, &mut bytes).unwrap();
        let mut reader = Reader::open(BufReader::new(&bytes[..]), Some(diff_id), Limits::default()).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            let (path, kind) = (entry.path.to_string(), format!("{:?}", entry.kind));
            let copied = entry.kind != EntryKind::Dir || path.starts_with("app/code/");
            let time = if copied { entry.time } else { 0 };
            let mut text = Vec::new();
            if matches!(entry.kind, EntryKind::File(_)) {
                reader.contents().read_to_end(&mut text).unwrap();
            }
            let said = format!("{kind} {:o} {}:{} {time} {:?}", entry.mode, entry.uid, entry.gid, Digest::of(&text));
            found.insert(path, said);
        }
    }
    found
}

/// Makes changes that a checkout may have in addition to what its key covers: modes of a umask, set-id bits, times, owners, hard links,
/// extended attributes.
fn unusual(world: &World) {
    use std::os::unix::fs::PermissionsExt as _;
    let at = |path: &str| world.repo.path.join(path);
    let mode = |path: &str, mode: u32| {
        std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::remove_file(at("code/copy.py")).unwrap();
    std::fs::hard_link(at("code/deep/a.py"), at("code/copy.py")).unwrap();
    for (path, bits) in [("code", 0o700), ("code/deep", 0o2770), ("code/deep/a.py", 0o600), ("code/deep/b.py", 0o1666)]
    {
        mode(path, bits);
    }
    mode("templates", 0o777);
    mode("templates/page.html", 0o640);
    std::os::unix::fs::chown(at("templates/page.html"), Some(1234), Some(4321)).unwrap();
    let day = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
    std::fs::File::options().write(true).open(at("code/deep/b.py")).unwrap().set_modified(day).unwrap();
    // Not every file system has them.
    let _ = rustix::fs::lsetxattr(at("code/deep/b.py"), "user.note", b"x", rustix::fs::XattrFlags::empty());
}

#[test]
fn one_key_is_one_image_for_any_engine_and_checkout() {
    let mut seen = Vec::new();
    for (engine, odd) in [("docker", false), ("docker", true), ("native", false), ("native", true)] {
        let Some(world) = World::new(&format!("onekey{engine}{odd}")) else { return };
        let text = std::fs::read_to_string(world.repo.path.join("code/deep/a.py")).unwrap();
        world.repo.write("code/copy.py", &text);
        // Contents that no engine has a layer of.
        let own = format!("# {}\n", std::process::id());
        world.repo.write("code/tool", &format!("#!/bin/sh\n{own}"));
        world.repo.write("code/deep/b.py", &own).write("templates/page.html", &own).commit("one tree");
        if odd {
            unusual(&world);
        }
        let report = build(&world, "build", engine);
        let key: Value = serde_json::from_str(world.repo.published("app", "latest").unwrap().key().unwrap()).unwrap();
        seen.push((format!("{engine} {odd}"), key["files"].clone(), contents(&world)));
        assert!(report.tags("app").contains(&"latest".to_owned()), "{engine} {odd}: {report:?}");
    }
    let (_, key, files) = &seen[0];
    assert!(files.len() > 6, "{files:#?}");
    for (who, other_key, other) in &seen[1..] {
        assert_eq!(other_key, key, "{who}");
        assert_eq!(other, files, "{who}");
    }
}

/// A path of a random tree below `code/cases`.
#[derive(Clone, Debug)]
enum Thing {
    File { text: String, executable: bool },
    Link(&'static str),
    Folder,
}

/// Properties that a checkout adds to a path, and that the key does not cover.
#[derive(Clone, Debug)]
struct Habit {
    umask: u32,
    special: u32,
    owner: u32,
    seconds: u64,
    attribute: bool,
}

/// Random trees, each with the habits of two checkouts for each of its paths.
fn cases(count: usize) -> Vec<Vec<(String, Thing, [Habit; 2])>> {
    let thing = prop_oneof![
        6 => ("[ab]{0,3}", any::<bool>()).prop_map(|(text, executable)| Thing::File { text, executable }),
        2 => prop::sample::select(vec!["a", "b/c", "/etc/passwd", "../../x", "nowhere", "."]).prop_map(Thing::Link),
        1 => Just(Thing::Folder),
    ];
    let umask = prop::sample::select(vec![0o000, 0o002, 0o022, 0o027, 0o077]);
    let special = prop::sample::select(vec![0, 0o4000, 0o2000, 0o1000]);
    let habit = || {
        (umask.clone(), special.clone(), 0..3_u32, 0..2_000_000_000_u64, any::<bool>())
            .prop_map(|(umask, special, owner, seconds, attribute)| Habit { umask, special, owner, seconds, attribute })
    };
    let path = "(d|e/f|g h)/[a-c]|[a-c]|d/[é!]";
    let tree = prop::collection::btree_map(path, (thing, habit(), habit()), 1..8);
    let trees = prop::collection::vec(tree, count);
    let drawn = trees.new_tree(&mut TestRunner::deterministic()).unwrap().current();
    let flat = |(path, (thing, one, other))| (path, thing, [one, other]);
    drawn.into_iter().map(|tree| tree.into_iter().map(flat).collect()).collect()
}

/// Lays out the trees as one of the two checkouts has them.
fn lay_out(world: &World, cases: &[Vec<(String, Thing, [Habit; 2])>], checkout: usize) {
    use std::fs::{self, FileTimes, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
    for (number, case) in cases.iter().enumerate() {
        for (path, thing, habits) in case {
            let at = world.repo.path.join(format!("code/cases/{number}")).join(path);
            let Habit { umask, special, owner, seconds, attribute } = habits[checkout];
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            let bits = match thing {
                Thing::File { text, executable } => {
                    fs::write(&at, text).unwrap();
                    if *executable { 0o777 } else { 0o666 }
                }
                Thing::Link(to) => {
                    symlink(to, &at).unwrap();
                    continue;
                }
                Thing::Folder => {
                    fs::create_dir_all(&at).unwrap();
                    0o777
                }
            };
            let _ = lchown(&at, Some(owner), Some(owner));
            // Git records whether the owner may execute a file: no checkout takes that away.
            fs::set_permissions(&at, Permissions::from_mode((bits & !umask) | special)).unwrap();
            if attribute {
                let _ = rustix::fs::lsetxattr(&at, "user.note", b"x", rustix::fs::XattrFlags::empty());
            }
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::open(&at).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        }
    }
}

/// Every label is part of the key, or on the list of those that describe the build and change with no rebuild.
#[track_caller]
fn labels_are_of_the_key_or_of_the_build(world: &World, tag: &str, key: &Value) {
    const OF_THE_BUILD: [&str; 7] = [
        "dev.xtask.image.fingerprint",
        "dev.xtask.image.key",
        "org.opencontainers.image.base.digest",
        "org.opencontainers.image.base.name",
        "org.opencontainers.image.created",
        "org.opencontainers.image.revision",
        "org.opencontainers.image.version",
    ];
    let config = publish::read_config(&client(), &world.repo.repository("app"), &world.manifest("app", tag)).unwrap();
    assert_eq!(config.config.labels["org.opencontainers.image.source"], "https://example.com/app");
    for (name, value) in &config.config.labels {
        let known = key["labels"][name] == **value || OF_THE_BUILD.contains(&&**name);
        assert!(known, "the label `{name}` is in no key");
    }
}

/// One build by each engine of many random trees, checked out in different ways: the layers hold the same, times of copied folders
/// included.
#[test]
fn random_trees_are_the_same_layers_by_both_engines() {
    let cases = cases(80);
    let mut seen = Vec::new();
    for (checkout, engine) in ["docker", "native"].into_iter().enumerate() {
        let Some(world) = World::new(&format!("random{engine}")) else { return };
        lay_out(&world, &cases, checkout);
        world.repo.commit("random trees");
        let report = build(&world, "build", engine);
        let tag = &report.fingerprint("app")[..12];
        let key: Value = serde_json::from_str(world.repo.published("app", tag).unwrap().key().unwrap()).unwrap();
        labels_are_of_the_key_or_of_the_build(&world, tag, &key);
        seen.push((key["files"].clone(), contents_of(&world, tag)));
    }
    let [(docker_key, docker), (native_key, native)] = &seen[..] else { unreachable!("two builds") };
    assert_eq!(docker_key, native_key);
    assert!(docker.len() > 300, "{}", docker.len());
    for (path, what) in docker {
        assert_eq!(native.get(path), Some(what), "{path}");
    }
    assert_eq!(docker.len(), native.len());
}

/// BuildKit writes an edited file into the context that it kept: the folder around it must not get the time of that build.
#[test]
fn an_edit_gives_the_folders_around_it_no_time_of_the_build() {
    let Some(world) = World::new("foldertime") else { return };
    let folder = world.repo.path.join("code/around/it");
    std::fs::create_dir_all(&folder).unwrap();
    for (text, mode, other) in [
        ("first", 0o644, "a"),
        ("second", 0o644, "a"),
        ("second", 0o755, "a"),
        ("second", 0o755, "b"),
        ("first", 0o644, "a"),
    ] {
        std::fs::write(folder.join("edited"), text).unwrap();
        std::fs::set_permissions(folder.join("edited"), std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(folder.join(other), other).unwrap();
        world.repo.commit("edit");
        let report = build(&world, "build", "docker");
        let contents = contents_of(&world, &report.fingerprint("app")[..12]);
        for path in ["app/code/around", "app/code/around/it"] {
            assert!(contents[path].starts_with("Dir 755 0:0 1767225600 "), "{path}: {}", contents[path]);
        }
    }
}

/// BuildKit keeps the folders that did not change, so that an edit costs the same whatever is next to it.
#[test]
fn an_edit_sends_docker_the_folder_that_changed() {
    let Some(world) = World::new("transfer") else { return };
    let mut random = TestRunner::deterministic();
    let large: Vec<u8> = proptest::collection::vec(any::<u8>(), 2_000_000).new_tree(&mut random).unwrap().current();
    std::fs::write(world.repo.path.join("code/large"), &large).unwrap();
    let sent = |page: &str| {
        world.repo.write("templates/page.html", page).commit("edit");
        let done = world.repo.xtask(&["build", "--push", "--engine", "docker", "-v"]).run().ok();
        let about = |line: &&str| line.contains("transferring context: ") && line.ends_with(" done");
        let last = done.stderr.lines().rfind(about).unwrap_or_else(|| panic!("{}", done.stderr)).to_owned();
        last.split("transferring context: ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    assert!(sent("<p>first</p>").ends_with("MB"));
    for page in ["<p>second</p>", "<p>third</p>"] {
        let sent = sent(page);
        assert!(sent.ends_with("kB") || sent.ends_with('B') && !sent.ends_with("MB"), "{sent}");
    }
}
