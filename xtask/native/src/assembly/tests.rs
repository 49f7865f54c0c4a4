//! The interpreter as a whole, on folders of its own and images that are made up.

use super::*;
use crate::layer::item::{Bytes, Content};
use crate::stage::{Earlier, Part};
use proptest::prelude::*;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use xtask_host::tree::context::WorkTree;
use xtask_model::image::context::FileKind;
use xtask_model::spec::oci::{Execution, RootFs};

/// An image in a few words (`path`, `path/`, `path->target`), which remembers what it was asked.
struct MadeUp {
    config: Config,
    files: BTreeMap<ContextPath, (Stat, Vec<u8>)>,
    asked: RefCell<Vec<String>>,
}

const PASSWD: &str = "root:x:0:0::/:\napp:x:10:20::/:\n";
const GROUP: &str = "root:x:0:\nstaff:x:30:\n";

fn image(lines: &[&str], execution: Execution) -> MadeUp {
    let mut files = BTreeMap::new();
    for line in lines {
        let (path, kind, link) = match (line.split_once("->"), line.strip_suffix('/')) {
            (Some((path, to)), _) => (path, FileKind::Symlink, Some(to.as_bytes().to_vec())),
            (None, Some(path)) => (path, FileKind::Dir, None),
            (None, None) => (*line, FileKind::File, None),
        };
        let contents = match path {
            "etc/passwd" => PASSWD,
            "etc/group" => GROUP,
            _ => "",
        };
        let stat = Stat { kind, mode: 0o711, uid: 3, gid: 4, link };
        files.insert(ContextPath::new(path), (stat, contents.as_bytes().to_vec()));
    }
    let config = Config {
        created: None,
        architecture: "amd64".to_owned(),
        variant: None,
        os: "linux".to_owned(),
        config: execution,
        rootfs: RootFs::new(vec![Digest::of(lines.join("\n").as_bytes())]),
        history: Vec::new(),
        other: BTreeMap::new(),
    };
    MadeUp { config, files, asked: RefCell::default() }
}

impl BaseFiles for MadeUp {
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        self.asked.borrow_mut().push(path.to_string());
        Ok(self.files.get(path).map(|(stat, _)| stat.clone()))
    }

    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        self.asked.borrow_mut().push(format!("contents of {path}"));
        Ok(self.files.get(path).map(|(_, contents)| contents.clone()))
    }

    fn any_below(&self, folder: &ContextPath) -> Result<bool, Fault> {
        self.asked.borrow_mut().push(format!("below {folder}"));
        Ok(self.files.keys().any(|path| path.below(folder).is_some()))
    }
}

impl FromImages for MadeUp {
    fn image(&self, name: &str, _: &Platform) -> Result<FromImage<'_>, Fault> {
        match name {
            "base" => Ok(FromImage { config: self.config.clone(), files: self }),
            _ => Err(Fault::network(format!("there is no `{name}`"))),
        }
    }
}

/// A recipe that makes a file below each part's folder, and remembers how often it was asked.
struct Parts {
    parts: Vec<Part>,
    produced: RefCell<Vec<Vec<usize>>>,
    is_base: bool,
}

fn parts(folders: &[&str]) -> Parts {
    let part = |folder: &&str| Part {
        name: format!("part {folder}"),
        recipe: Digest::of(folder.as_bytes()),
        under: ContextPath::new(*folder),
    };
    Parts { parts: folders.iter().map(part).collect(), produced: RefCell::default(), is_base: false }
}

impl Realise for Parts {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn is_base(&self) -> bool {
        self.is_base
    }

    fn may_have(&self, path: &ContextPath) -> bool {
        path.as_bytes() != b"new"
    }

    fn prepare(&self, wanted: &[usize], _: Option<&dyn Earlier>) -> Result<(), Fault> {
        self.produced.borrow_mut().push(wanted.to_vec());
        Ok(())
    }

    fn items(&self, part: usize) -> Result<Vec<Item>, Fault> {
        let under = &self.parts[part].under;
        let dir = Item { path: under.clone(), mode: 0o700, uid: 8, gid: 9, content: Content::Dir };
        let bytes = Bytes::Here(b"x".as_slice().into());
        let file = Item { path: under.join(b"f"), mode: 0o600, uid: 8, gid: 9, content: Content::File(bytes) };
        Ok(vec![dir, file])
    }
}

/// A build: a context, an image called `base`, a stage `made` that a recipe makes.
struct World {
    context: tempfile::TempDir,
    ignore: Ignore,
    image: MadeUp,
    made: Parts,
    deferred: BTreeMap<ContextPath, Digest>,
    args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    codec: &'static str,
}

const BASE: [&str; 7] = ["etc/", "etc/passwd", "etc/group", "usr/", "usr/lib->../lib", "lib/", "app/"];

fn world() -> World {
    let context = tempfile::tempdir().unwrap();
    let root = context.path();
    fs::create_dir_all(root.join("d/e")).unwrap();
    for file in ["a", "b", "run.sh", "d/c", "d/e/f"] {
        fs::write(root.join(file), file).unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("a", root.join("l")).unwrap();
    let env = vec!["PATH=/p".to_owned(), "HOME=/h".to_owned()];
    World {
        context,
        ignore: Ignore::none(),
        image: image(&BASE, Execution { env, ..Execution::default() }),
        made: parts(&["opt/venv/one", "opt/venv/two", "etc", "srv/app"]),
        deferred: BTreeMap::new(),
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
        codec: "none",
    }
}

impl World {
    /// Calls `look` with the assembly of a Dockerfile.
    fn with<T>(&self, text: &str, look: impl FnOnce(&Assembly<'_>) -> T) -> Result<T, Fault> {
        let dockerfile = Dockerfile::parse("Dockerfile", text).unwrap();
        let realised: BTreeMap<String, &dyn Realise> =
            BTreeMap::from([("made".to_owned(), &self.made as &dyn Realise)]);
        let inputs = Inputs {
            dockerfile: &dockerfile,
            args: &self.args,
            platform: &Platform::host(),
            files: &WorkTree::new(self.context.path()),
            ignore: &self.ignore,
            labels: &self.labels,
            images: &self.image,
            realised: &realised,
            deferred: &self.deferred,
            codec: self.codec,
        };
        assemble(&inputs).map(|assembly| look(&assembly))
    }

    /// The items of each layer, on one line each.
    fn layers(&self, text: &str) -> Result<Vec<Vec<String>>, Fault> {
        let all = |assembly: &Assembly<'_>| assembly.produce(&(0..assembly.layers.len()).collect::<Vec<_>>());
        let layers = self.with(text, all)??;
        Ok(layers.iter().map(|items| items.iter().map(shown).collect()).collect())
    }

    fn recipes(&self, text: &str) -> Vec<Digest> {
        self.with(text, |assembly| assembly.layers.iter().map(|layer| layer.recipe).collect()).unwrap()
    }
}

fn shown(item: &Item) -> String {
    let what = match &item.content {
        Content::Dir => "/".to_owned(),
        Content::File(_) => String::new(),
        Content::Symlink(target) => format!("->{}", String::from_utf8_lossy(target)),
    };
    format!("{}{what} {:o} {}:{}", item.path, item.mode, item.uid, item.gid)
}

#[track_caller]
fn gives(text: &str, expected: &[&[&str]]) {
    let layers = world().layers(text).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(layers, expected, "{text}");
}

#[track_caller]
fn refuses(text: &str, expected: &str) {
    let fault = world().layers(text).unwrap_err();
    assert_eq!(fault.what, expected, "{text}");
    assert!(!fault.hints.is_empty() || fault.needed_by.is_some(), "{fault}");
}

#[test]
fn linked_layers_do_not_read_the_base() {
    let world = world();
    let text = "FROM base AS made\nRUN x\nFROM base\nCOPY --link d /usr/lib/x\n\
                COPY --link --from=made /opt/venv /app/v\nWORKDIR /app\nUSER 5:5\nWORKDIR /app/v\n\
                COPY --link --chown=1:2 a ./\n";
    let layers = world.layers(text).unwrap();
    assert_eq!(world.image.asked.borrow().clone(), Vec::<String>::new());
    assert_eq!(layers.len(), 4, "{layers:?}");
    assert_eq!(
        layers[0],
        [
            "usr/ 755 0:0",
            "usr/lib/ 755 0:0",
            "usr/lib/x/ 755 0:0",
            "usr/lib/x/c 644 0:0",
            "usr/lib/x/e/ 755 0:0",
            "usr/lib/x/e/f 644 0:0"
        ]
    );
    assert_eq!(layers[3].last().unwrap(), "app/v/a 644 1:2");
    assert_eq!(world.made.produced.borrow().clone(), [[0, 1]], "a recipe is asked once");
}

/// BuildKit's own cases: `dockerfile_parents_test.go` of its frontend.
#[test]
fn parents_with_wildcards_before_the_pivot() {
    let stage = "FROM scratch AS s\nCOPY d /test/a/b/c\nCOPY d /test/a/b2/c\nCOPY a /test/a/b/c2/x/baz\n";
    let from = |line: &str| format!("{stage}FROM scratch\nCOPY --parents --from=s {line} /out/");
    let out = "out/ 755 0:0";
    let e = ["out/c/ 755 0:0", "out/c/e/ 755 0:0", "out/c/e/f 644 0:0"];
    gives(&from("/test/a/b*/./c/**/f"), &[&[out, e[0], e[1], e[2]]]);
    gives(&from("/test/a/b2/./c/e"), &[&[out, e[0], e[1], e[2]]]);
    gives(&from("/test/a/b/c*/./x/**/baz"), &[&[out, "out/x/ 755 0:0", "out/x/baz 644 0:0"]]);
    for nothing in ["/test/a/x*/c", "/test/a/b/./c3*"] {
        gives(&from(nothing), &[&[out]]);
    }
    for missing in ["/nope", "/test/nonexistent-file", "/test/a/b/./nope"] {
        let path = missing.trim_start_matches('/');
        refuses(&from(missing), &format!("Dockerfile:6: `/{path}` is not in the stage"));
    }
    gives("FROM scratch\nCOPY --parents none* /out/", &[&[out]]);
    gives("FROM scratch\nCOPY --parents d*/./e /out", &[&[out, "out/e/ 755 0:0", "out/e/f 644 0:0"]]);
    refuses("FROM scratch\nCOPY --parents none /out/", "Dockerfile:2: `none` is not in the build context");
}

/// As BuildKit does, which links nothing where a mode is said: the root's link stays, and its folders keep their modes.
#[test]
fn a_linked_copy_with_a_mode_follows_the_root_s_links() {
    let expected = ["lib/ 711 3:4", "lib/a 755 0:0"];
    gives("FROM base\nCOPY --link --chmod=0755 a /usr/lib/a", &[&expected]);
    gives("FROM base\nCOPY --chmod=0755 a /usr/lib/a", &[&expected]);
    let mut world = world();
    let text = "FROM base\nCOPY --link --chmod=0755 a /usr/lib/a";
    let before = world.recipes(text);
    world.image = image(&["usr/", "usr/lib/"], Execution::default());
    assert_ne!(world.recipes(text), before, "what is below counts");
}

#[test]
fn layers_without_link_depend_on_lower_layers() {
    gives("FROM base\nCOPY a /usr/lib/", &[&["lib/ 711 3:4", "lib/a 644 0:0"]]);
    gives("FROM base\nCOPY --chown=app:staff a /etc/x/", &[&["etc/ 711 3:4", "etc/x/ 755 10:30", "etc/x/a 644 10:30"]]);
    gives("FROM base\nCOPY a /x\nCOPY b /x", &[&["x 644 0:0"], &["x 644 0:0"]]);
    gives("FROM base\nCOPY run.sh l /app", &[&["app/ 711 3:4", "app/l 644 0:0", "app/run.sh 755 0:0"]]);
}

#[test]
fn a_missing_working_folder_is_created() {
    gives("FROM base\nWORKDIR /app", &[]);
    gives("FROM base\nWORKDIR /", &[]);
    gives("FROM base\nUSER app\nWORKDIR /app/x/y", &[&["app/ 711 3:4", "app/x/ 755 10:20", "app/x/y/ 755 10:20"]]);
    gives("FROM base\nWORKDIR /usr/lib/x", &[&["lib/ 711 3:4", "lib/x/ 755 0:0"]]);
    gives(
        "FROM scratch\nCOPY d /x/\nWORKDIR x\nWORKDIR e",
        &[&["x/ 755 0:0", "x/c 644 0:0", "x/e/ 755 0:0", "x/e/f 644 0:0"]],
    );
}

#[test]
fn stages_can_build_on_stages() {
    gives("FROM scratch AS one\nCOPY a /x\nFROM one\nCOPY b /y", &[&["x 644 0:0"], &["y 644 0:0"]]);
    gives(
        "FROM scratch AS one\nCOPY --chown=7 d /x\nCOPY a /x/e/\nFROM scratch\nCOPY --from=one /x/e /y",
        &[&["y/ 755 0:0", "y/a 644 0:0", "y/f 644 7:7"]],
    );
    gives("FROM base AS one\nCOPY a /app/a\nFROM scratch\nCOPY --from=0 /app/a /", &[&["a 644 0:0"]]);
    gives("FROM scratch AS one\nCOPY d /x\nFROM scratch\nCOPY --from=one /x/c* /x/e /", &[&["c 644 0:0", "f 644 0:0"]]);
}

#[test]
fn parts_of_a_recipe_are_layers() {
    let made = "FROM base AS made\nRUN x\n";
    let venv = |path: &str| format!("{made}FROM scratch\nCOPY --from=made {path}");
    let top = "opt/ 755 0:0";
    gives(
        &venv("/opt/venv /opt/venv"),
        &[
            &[top, "opt/venv/ 755 0:0", "opt/venv/one/ 700 8:9", "opt/venv/one/f 600 8:9"],
            &[top, "opt/venv/ 755 0:0", "opt/venv/two/ 700 8:9", "opt/venv/two/f 600 8:9"],
        ],
    );
    gives(&venv("/opt/venv/two /"), &[&["f 600 8:9"]]);
    gives(&venv("/etc/f /srv/app/f /x/"), &[&["x/ 755 0:0", "x/f 600 8:9"], &["x/ 755 0:0", "x/f 600 8:9"]]);
    gives(&venv("/srv/a*/f /x"), &[&["x 600 8:9"]]);
    refuses(&venv("/none /x"), "Dockerfile:4: the recipe of the stage makes no file that matches the source");
    refuses(&venv("/etc/none /x"), "Dockerfile:4: the recipe of the stage made no file that matches the source");
    refuses(
        &format!("{made}FROM made\nCOPY a /"),
        "Dockerfile:3: a stage cannot be built on `made`, which a recipe makes",
    );
    refuses(made, "Dockerfile:1: the target is a stage that a recipe makes");
}

#[test]
fn a_stage_can_be_built_on_a_recipe_that_allows_it() {
    let mut world = world();
    world.made = Parts { is_base: true, ..parts(&["etc", "lib"]) };
    let text = "FROM base AS made\nRUN x\nFROM made AS root\nFROM root\nCOPY a /lib/\nWORKDIR /new\n";
    let layers = world.layers(text).unwrap_or_else(|fault| panic!("{fault}"));
    let made = [["etc/ 700 8:9", "etc/f 600 8:9"], ["lib/ 700 8:9", "lib/f 600 8:9"]];
    // What a copy adds to has the mode that the recipe gave it.
    assert_eq!(layers, [&made[0][..], &made[1], &["lib/ 700 8:9", "lib/a 644 0:0"], &["new/ 755 0:0"]]);
    let linked = "FROM base AS made\nRUN x\nFROM made\nCOPY --link a /x/\nWORKDIR /new\n";
    world.made.produced.borrow_mut().clear();
    let planned = world.with(linked, |assembly| assembly.layers.len()).unwrap();
    assert_eq!((planned, world.made.produced.borrow().len()), (4, 0), "nothing is made for a plan");
    let history = world.with(linked, |assembly| assembly.config.history.len()).unwrap();
    assert_eq!(history, 4);
    let recipes = world.recipes(linked);
    world.made.parts[0].recipe = Digest::of(b"another version");
    let others = world.recipes(linked);
    let same: Vec<bool> = recipes.iter().zip(&others).map(|(one, other)| one == other).collect();
    assert_eq!(same, [false, true, true, true]);
}

#[test]
fn unsupported_instructions_are_reported() {
    let runs = "the native engine does not support `RUN`";
    refuses("FROM base\nRUN x", &format!("Dockerfile:2: {runs}"));
    refuses("FROM base AS one\nRUN x\nFROM scratch\nCOPY --from=one /x /", &format!("Dockerfile:2: {runs}"));
    refuses(
        "FROM base\nCOPY --from=other /x /",
        "Dockerfile:2: `other` is not a stage, and the native engine cannot copy from an image",
    );
    refuses(
        "FROM base\nADD https://example.com/x /",
        "Dockerfile:2: the native engine does not support `ADD https://example.com/x`: it cannot download",
    );
    refuses(
        "FROM base\nCOPY --link --chown=app a /",
        "Dockerfile:2: `--chown=app` needs an image to look the name up in",
    );
    refuses("FROM scratch\nCOPY --chown=app a /", "Dockerfile:2: `--chown=app` needs an image to look the name up in");
    refuses("FROM base\nCOPY --chown=nobody a /", "user `nobody` is not in the image's `/etc/passwd`");
    refuses("FROM base\nCOPY --chmod=u+q a /", "Dockerfile:2: `--chmod=u+q` is not a mode");
    refuses(
        "FROM base AS one\nCOPY a /etc/\nFROM scratch\nCOPY --from=one /etc /",
        "Dockerfile:4: `/etc` of the stage comes, at least in part, from its base image",
    );
    refuses("FROM base AS one\nFROM scratch\nCOPY --from=one /none /", "Dockerfile:3: `/none` is not in the stage");
    refuses("FROM none\nCOPY a /", "there is no `none`");
}

#[test]
fn variables_of_the_base_image_are_expanded() {
    let described = |text: &str| world().with(text, |assembly| assembly.config.clone()).unwrap();
    let config = described("FROM base\nENV PATH=/x:$PATH HOME=${HOME:-none}\nWORKDIR $HOME/y");
    assert_eq!(config.config.env, ["PATH=/x:/p", "HOME=/h"]);
    assert_eq!(config.config.working_dir, "/h/y");
}

#[test]
fn triggers_of_the_image_run_first_and_once() {
    let mut world = world();
    world
        .image
        .config
        .config
        .other
        .insert("OnBuild".to_owned(), serde_json::json!(["ARG S=2", "COPY a /app/", "ENV T=$HOME"]));
    let text = "FROM base AS one\nENV U=$T\nFROM one\nENV V=1";
    let (config, layers) = world.with(text, |assembly| (assembly.config.clone(), assembly.layers.len())).unwrap();
    assert_eq!(config.config.env, ["PATH=/p", "HOME=/h", "T=/h", "U=/h", "V=1"]);
    assert_eq!((layers, config.config.other.get("OnBuild")), (1, None));
    let said: Vec<_> = config.history.iter().filter_map(|entry| entry.created_by.as_deref()).collect();
    assert_eq!(said, ["ARG S", "COPY a /app/", "ENV T=/h", "ENV U=/h", "ENV V=1"]);
}

#[test]
fn a_file_that_is_made_later_is_identified_by_its_recipe() {
    let mut world = world();
    let path = ContextPath::new("target/program");
    world.deferred.insert(path.clone(), Digest::of(b"one"));
    let text = "FROM base\nCOPY --link target/program /bin/\nCOPY --link a /x\n";
    let needs = world.with(text, |assembly| assembly.layers[0].needs.clone()).unwrap();
    assert_eq!(needs, BTreeSet::from([path.clone()]));
    assert!(world.layers(text).unwrap_err().what.starts_with("cannot read"));
    let before = world.recipes(text);
    fs::create_dir(world.context.path().join("target")).unwrap();
    fs::write(world.context.path().join("target/program"), "12345").unwrap();
    assert_eq!(world.recipes(text), before, "contents do not count");
    let size = world.with(text, |assembly| match &assembly.produce(&[0]).unwrap()[0][1].content {
        Content::File(bytes) => bytes.size(),
        other => panic!("{other:?}"),
    });
    assert_eq!(size, Ok(5));
    world.deferred.insert(path, Digest::of(b"two"));
    let after = world.recipes(text);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
}

#[test]
fn labels_of_the_command_line_override_others() {
    let mut world = world();
    world.labels.insert("a".to_owned(), "3".to_owned());
    let labels = world.with("FROM scratch\nLABEL a=1 b=2", |assembly| assembly.config.config.labels.clone()).unwrap();
    assert_eq!(labels, [("a", "3"), ("b", "2")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}

#[test]
fn every_layer_has_its_entry_in_the_history() {
    let text = "FROM base\nCOPY a /x\nENV A=1\nWORKDIR /app\nWORKDIR /new\nCOPY none* d /y/\nCOPY none* /z/\n";
    let (config, layers) = world().with(text, |assembly| (assembly.config.clone(), assembly.layers.len())).unwrap();
    assert_eq!(config.history.iter().filter(|entry| !entry.empty_layer).count(), layers);
    assert_eq!((config.history.len(), layers), (6, 3));
    assert_eq!(config.created.as_deref(), Some(CREATED));
}

#[test]
fn archives_are_not_added() {
    let world = world();
    fs::write(world.context.path().join("x.tgz"), b"\x1f\x8b\x08").unwrap();
    let fault = world.layers("FROM scratch\nADD a x.tgz /x/").unwrap_err();
    assert!(fault.what.contains("would unpack"), "{fault}");
    assert!(world.layers("FROM scratch\nADD a d /x/\nADD --unpack=false x.tgz /x/").is_ok());
}

#[test]
fn lost_file_capabilities_are_an_error() {
    if !xtask_host::linux::PRESENT {
        return;
    }
    let world = world();
    let program = world.context.path().join("run.sh");
    // CAP_NET_BIND_SERVICE, permitted, in the second version of the attribute.
    let capability = [0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = rustix::fs::setxattr(&program, "security.capability", &capability, rustix::fs::XattrFlags::empty());
    if set.is_err() {
        assert_ne!(std::env::var("XTASK_REQUIRE_REAL").as_deref(), Ok("1"), "no capabilities can be given");
        println!("skipped: this user or file system gives no capabilities");
        return;
    }
    let fault = world.layers("FROM scratch\nCOPY run.sh /x").unwrap_err();
    assert!(fault.what.contains("`run.sh` in the build context has file capabilities"), "{fault}");
    assert!(world.layers("FROM scratch\nCOPY a /x").is_ok());
}

/// A change of the inputs, and whether it is one for the layer.
type Change = (&'static str, fn(&mut World), &'static str, bool);

/// Changes that matter and changes that do not, for `COPY --link --exclude=none d /x/`.
const CHANGES: [Change; 15] = [
    ("nothing", |_| {}, "COPY --link --exclude=none d /x/", false),
    ("contents", |world| fs::write(world.context.path().join("d/c"), "new").unwrap(), "COPY --link d /x/", true),
    ("another file", |world| fs::write(world.context.path().join("d/new"), "").unwrap(), "COPY --link d /x/", true),
    ("no file", |world| fs::remove_file(world.context.path().join("d/c")).unwrap(), "COPY --link d /x/", true),
    ("a file elsewhere", |world| fs::write(world.context.path().join("a"), "new").unwrap(), "COPY --link d /x/", false),
    ("umask", |world| mode(world, "d/c", 0o600), "COPY --link d /x/", false),
    ("executable", |world| mode(world, "d/c", 0o755), "COPY --link d /x/", true),
    ("another spelling", |_| {}, "COPY --link ./d/ /y/../x", false),
    ("another place", |_| {}, "COPY --link d /y", true),
    ("an owner", |_| {}, "COPY --link --chown=1 d /x/", true),
    ("the same owner", |_| {}, "COPY --link --chown=0:0 d /x/", false),
    ("a mode", |_| {}, "COPY --link --chmod=700 d /x/", true),
    ("an exclude that counts", |_| {}, "COPY --link --exclude=e d /x/", true),
    ("an ignored file", |world| world.ignore = Ignore::from_patterns(["d/c"]).unwrap(), "COPY --link d /x/", true),
    ("another codec", |world| world.codec = "other", "COPY --link d /x/", true),
];

fn mode(world: &World, path: &str, mode: u32) {
    fs::set_permissions(world.context.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_recipe_changes_with_its_result() {
    for (what, change, line, counts) in CHANGES {
        let mut world = world();
        let before = world.recipes("FROM base\nCOPY --link d /x/");
        change(&mut world);
        let after = world.recipes(&format!("FROM base\nCOPY --link a /first\n{line}"));
        assert_eq!(before[0] != after[1], counts, "{what}");
    }
}

#[test]
fn a_recipe_without_link_depends_on_lower_layers() {
    let mut world = world();
    let before = world.recipes("FROM base\nCOPY d /x/");
    assert_eq!(world.recipes("FROM base\nENV A=1\nCOPY d /x/"), before);
    assert_ne!(world.recipes("FROM base\nCOPY a /first\nCOPY d /x/")[1], before[0]);
    world.image = image(&["new/"], Execution::default());
    assert_ne!(world.recipes("FROM base\nCOPY d /x/"), before);
    let part = "FROM base AS made\nRUN x\nFROM base\nCOPY --link --from=made /etc /x/";
    let linked = world.recipes(part);
    world.image = image(&["newer/"], Execution::default());
    assert_eq!(world.recipes(part), linked);
    assert!(world.made.produced.borrow().is_empty(), "nothing is made for a recipe");
}

const COPIES: [&str; 12] = [
    "COPY a /x",
    "COPY --link d /x",
    "COPY d /usr/lib/",
    "COPY a b l /app/",
    "COPY --chown=5 d/e /etc/e",
    "WORKDIR /w",
    "WORKDIR e",
    "USER 7:8",
    "COPY --link --chmod=700 run.sh .",
    "COPY . ./all",
    "COPY --from=made /opt/venv v",
    "COPY --link --from=made /srv/app/f /etc/f /usr/lib/",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Layers come out the same in whatever order they are asked for, and nothing is made twice.
    #[test]
    fn layers_do_not_depend_on_the_order_of_requests(
        lines in prop::collection::vec(0..COPIES.len(), 1..8), order in any::<prop::sample::Index>(),
    ) {
        let world = world();
        let lines: Vec<&str> = lines.into_iter().map(|line| COPIES[line]).collect();
        let text = format!("FROM base AS made\nRUN x\nFROM base\n{}\n", lines.join("\n"));
        let all = world.layers(&text);
        let one_by_one = world.with(&text, |assembly| {
            let count = assembly.layers.len();
            let mut made = vec![Vec::new(); count];
            for step in 0..count {
                let layer = (order.index(count) + step) % count;
                made[layer] = assembly.produce(&[layer])?.remove(0).iter().map(shown).collect();
            }
            Ok::<_, Fault>(made)
        }).and_then(|made| made);
        prop_assert_eq!(&all, &one_by_one);
        for layer in all.iter().flatten() {
            prop_assert!(!layer.is_empty());
        }
    }
}

/// Not a speed test: more than a few seconds for this number of files means a cost that grows faster than their number.
#[test]
fn many_files_are_fast() {
    let world = world();
    for folder in 0..40 {
        let folder = world.context.path().join(format!("many/{folder}"));
        fs::create_dir_all(&folder).unwrap();
        (0..500).for_each(|file| fs::write(folder.join(format!("f{file}")), "").unwrap());
    }
    let began = std::time::Instant::now();
    let layers = world.layers("FROM base\nCOPY --link many /x\nCOPY many /app/y\nWORKDIR /app/y/1\n").unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(layers.iter().map(Vec::len).collect::<Vec<_>>(), [20_041, 20_042]);
    assert!(seconds < 20.0, "{seconds:.1} s");
    eprintln!("{seconds:.2} s");
}
