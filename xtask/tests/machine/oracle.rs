//! BuildKit as the oracle of the native engine's interpreter: the same Dockerfile and context give the same files and the same
//! configuration through both, and what BuildKit refuses is refused.
//!
//! The cases are in `cases.rs`, those that differ on purpose with their reasons.

mod cases;
mod tree;

use crate::real_engine;
use cases::{Case, Expect};
use real_engine::{Engine, engine};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tree::Tree;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::context::WorkTree;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::oci::{self, Config, Descriptor, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::assembly::{BaseFiles, FromImage, FromImages, Inputs, Stat, assemble};

/// An image that `FROM` names, as its registry has it and as the interpreter sees it.
struct Base {
    config: Config,
    tree: Tree,
}

impl BaseFiles for Base {
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        Ok(self.tree.stat(path))
    }

    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.tree.contents(path))
    }

    fn any_below(&self, folder: &ContextPath) -> Result<bool, Fault> {
        Ok(self.tree.any_below(folder))
    }
}

/// All images by the names that the registry has them under.
struct Bases(BTreeMap<String, Base>);

impl FromImages for Bases {
    fn image(&self, name: &str, _: &Platform) -> Result<FromImage<'_>, Fault> {
        let base = self.0.get(name).ok_or_else(|| Fault::network(format!("there is no image `{name}`")))?;
        Ok(FromImage { config: base.config.clone(), files: base })
    }
}

/// The files of the images: what copying meets in a grown system.
fn system() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, (mode, uid, gid): (u32, u64, u64), data: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(0);
        match kind {
            tar::EntryType::Symlink => tar.append_link(&mut header, path, data).unwrap(),
            _ => {
                header.set_size(data.len() as u64);
                tar.append_data(&mut header, path, data.as_bytes()).unwrap();
            }
        }
    };
    let (dir, file, link) = (tar::EntryType::Directory, tar::EntryType::Regular, tar::EntryType::Symlink);
    let root = (0o755, 0, 0);
    for folder in ["etc/", "usr/", "usr/lib/", "var/", "run/", "data/", "data/sub/", "data/deep/", "tmp/"] {
        let attributes = match folder {
            "tmp/" => (0o1777, 0, 0),
            "data/" => (0o700, 5, 6),
            "data/sub/" => (0o2711, 7, 8),
            _ => root,
        };
        add(folder, dir, attributes, "");
    }
    add("etc/passwd", file, (0o644, 0, 0), "root:x:0:0:root:/:/bin/sh\napp:x:10:20::/:\nweb:x:11:21::/:\n");
    add("etc/group", file, (0o644, 0, 0), "root:x:0:\nstaff:x:30:app\n");
    add("data/file", file, (0o600, 5, 6), "old");
    add("data/deep/file", file, (0o640, 5, 6), "older");
    for (path, to) in [
        ("lib", "usr/lib"),
        ("to_file", "data/file"),
        ("abs", "/data"),
        ("loop", "loop"),
        ("dangling", "nowhere/x"),
        ("var/run", "../run"),
        ("data/up", "../../../tmp"),
    ] {
        add(path, link, (0o777, 0, 0), to);
    }
    tar.into_inner().unwrap()
}

/// The images: their names in the cases and their configurations.
fn configurations() -> [(&'static str, Value); 4] {
    [
        (
            "base",
            json!({"Env": ["PATH=/p:/q", "HOME=/root", "GREETING=hello world"], "WorkingDir": "/srv", "Cmd": ["old"]}),
        ),
        ("bare", json!({})),
        (
            "full",
            json!({
                "User": "app", "ExposedPorts": {"1/tcp": {}}, "Env": ["A=1", "PATH=/p"], "Entrypoint": ["/e"], "Cmd": ["c"],
                "Volumes": {"/v": {}}, "WorkingDir": "/data", "Labels": {"l": "m"}, "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1_000_000_000}, "Shell": ["/s", "-c"],
            }),
        ),
        (
            "trigger",
            json!({"Env": ["PATH=/p"], "OnBuild": ["COPY a.txt /triggered/", "ENV SEEN=$PATH", "LABEL by=trigger"]}),
        ),
    ]
}

impl Bases {
    fn push(engine: &Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let client = Client::new(ClientOptions::default());
        let tar = system();
        let tree = Tree::of_layers([tar.as_slice()]);
        let (diff, size) = layout.put_bytes(&tar).unwrap();
        let mut bases = BTreeMap::new();
        for (name, execution) in configurations() {
            let platform = Platform::host();
            let config = json!({
                "architecture": platform.architecture, "os": "linux", "author": "somebody", "config": execution,
                "rootfs": {"type": "layers", "diff_ids": [diff]}, "history": [{"created_by": "made up"}],
            });
            let descriptor = layout.put_json(media_type::CONFIG, &config).unwrap();
            let manifest = oci::Manifest::new(descriptor, vec![Descriptor::new(media_type::LAYER, diff, size)]);
            let image = layout.put_json(media_type::MANIFEST, &manifest).unwrap();
            let repository: Repository = format!("{}/oracle/{name}", engine.registry()).parse().unwrap();
            let tag = Tag::from_name("1").unwrap();
            publish::send(&client, &layout, &image, &repository, &tag).unwrap_or_else(|fault| panic!("{fault}"));
            let config: Config = serde_json::from_value(config).unwrap();
            bases.insert(format!("{repository}:1"), Base { config, tree: tree.clone() });
        }
        Self(bases)
    }

    /// A Dockerfile with the images' real names.
    fn named(&self, engine: &Engine, text: &str) -> String {
        configurations().iter().fold(text.to_owned(), |text, (name, _)| {
            text.replace(&format!("{{{name}}}"), &format!("{}/oracle/{name}:1", engine.registry()))
        })
    }
}

/// An image as it comes out: files, the configuration's parts that matter, what the history says.
#[derive(PartialEq)]
struct Outcome {
    tree: Tree,
    config: BTreeMap<String, Value>,
    history: Vec<String>,
}

impl Outcome {
    fn new(tree: Tree, config: &Value) -> Self {
        let mut parts: BTreeMap<String, Value> = BTreeMap::new();
        for key in ["architecture", "os", "variant", "author"] {
            parts.insert(key.to_owned(), config[key].clone());
        }
        parts.extend(
            config["config"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())),
        );
        parts
            .retain(|_, value| !(value.is_null() || *value == json!([]) || *value == json!({}) || *value == json!("")));
        let entries = config["history"].as_array().into_iter().flatten();
        let said = |entry: &Value| {
            let text = entry["created_by"].as_str().unwrap_or_default();
            // BuildKit shows a health check as Go shows its own values, and of arguments the values that were given.
            match text.split(' ').next() {
                Some(keyword @ ("HEALTHCHECK" | "ARG")) => keyword.to_owned(),
                _ => text.split(" # ").next().unwrap_or_default().to_owned(),
            }
        };
        Self { tree, config: parts, history: entries.map(said).collect() }
    }

    /// Every difference, ours after theirs.
    fn differences(&self, ours: &Self) -> Vec<String> {
        let mut found = self.tree.differences(&ours.tree);
        let keys: std::collections::BTreeSet<&String> = self.config.keys().chain(ours.config.keys()).collect();
        for key in keys {
            if self.config.get(key) != ours.config.get(key) {
                let show = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
                found.push(format!("{key}: {} -> {}", show(self.config.get(key)), show(ours.config.get(key))));
            }
        }
        if self.history != ours.history {
            found.push(format!("history: {:#?} -> {:#?}", self.history, ours.history));
        }
        found
    }
}

/// Location of a case's files.
struct Place<'p> {
    context: &'p Path,
    dockerfile: PathBuf,
    out: PathBuf,
}

impl Place<'_> {
    /// Name of the output that docker is to write there.
    fn output(&self) -> String {
        format!("type=oci,tar=false,compression=gzip,force-compression=true,dest={}", self.out.display())
    }
}

/// Has one process of docker build these; starting it is most of its work. Says whether all succeeded.
fn built_together(engine: &Engine, builds: &[(Place<'_>, &Case)], plan: &Path) -> bool {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.replace("${", "$${").replace("%{", "%%{")))
            .collect()
    };
    let targets = builds.iter().enumerate().map(|(number, (place, case))| {
        let mut target = json!({"context": place.context, "dockerfile": place.dockerfile, "output": [place.output()]});
        target["args"] = json!(pairs(case.args));
        target["labels"] = json!(pairs(case.labels));
        if !case.target.is_empty() {
            target["target"] = json!(case.target);
        }
        (number.to_string(), target)
    });
    let targets: serde_json::Map<String, Value> = targets.collect();
    let names: Vec<&String> = targets.keys().collect();
    fs::write(plan, json!({"group": {"default": {"targets": names}}, "target": targets}).to_string()).unwrap();
    let command = engine.command(&["buildx", "bake", "--progress=quiet", "--provenance=false", "--file"]).arg(plan);
    // Newer ones ask before they read a file outside of the current folder.
    command.env("BUILDX_BAKE_ENTITLEMENTS_FS", "0").output().is_ok_and(|output| output.status.success())
}

/// Has docker build a case alone; the error is its own words.
fn built_alone(engine: &Engine, place: &Place<'_>, case: &Case) -> Result<(), String> {
    let mut command = engine.command(&["buildx", "build", "--quiet", "--provenance=false", "--file"]);
    command = command.arg(&place.dockerfile);
    for (name, value) in case.args {
        command = command.arg("--build-arg").arg(format!("{name}={value}"));
    }
    for (name, value) in case.labels {
        command = command.arg("--label").arg(format!("{name}={value}"));
    }
    if !case.target.is_empty() {
        command = command.arg("--target").arg(case.target);
    }
    let _ = fs::remove_dir_all(&place.out);
    let output =
        command.arg("--output").arg(place.output()).arg(place.context).output().map_err(|fault| fault.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().rev().find(|line| line.contains("ERROR")).unwrap_or(&said).to_owned())
}

/// Outcome of a case by docker.
fn theirs(place: &Place<'_>) -> Outcome {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        fs::read(place.out.join("blobs").join(digest)).unwrap()
    };
    let document = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
    let mut manifest = document(blob(&document(fs::read(place.out.join("index.json")).unwrap())["manifests"][0]));
    if manifest["manifests"].is_array() {
        manifest = document(blob(&manifest["manifests"][0]));
    }
    let layers: Vec<Vec<u8>> = manifest["layers"].as_array().into_iter().flatten().map(blob).collect();
    let tree = Tree::of_layers(layers.iter().map(Vec::as_slice));
    Outcome::new(tree, &document(blob(&manifest["config"])))
}

/// Outcome of a case by the interpreter.
fn ours(bases: &Bases, place: &Place<'_>, text: &str, case: &Case) -> Result<Outcome, Fault> {
    let mut dockerfile = Dockerfile::parse("Dockerfile", text)?;
    if !case.target.is_empty() {
        dockerfile = dockerfile.with_target(case.target)?;
    }
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let known = case.deferred.iter().map(|path| (ContextPath::new(*path), Digest::of(path.as_bytes()))).collect();
    let inputs = Inputs {
        dockerfile: &dockerfile,
        args: &map(case.args),
        platform: &Platform::host(),
        files: &WorkTree::new(place.context),
        ignore: &Ignore::parse(".dockerignore", case.ignore.as_bytes())?,
        labels: &map(case.labels),
        images: bases,
        realised: &BTreeMap::new(),
        deferred: &known,
        codec: "none",
    };
    let assembly = assemble(&inputs)?;
    let base = bases.0.values().find(|base| base.config.rootfs.diff_ids == assembly.base);
    let mut tree = base.map(|base| base.tree.clone()).unwrap_or_default();
    let all: Vec<usize> = (0..assembly.layers.len()).collect();
    for items in assembly.produce(&all)? {
        assert!(items.is_sorted_by(|one, other| one.path < other.path), "{}: a layer is not sorted", case.name);
        tree.lay(&items);
    }
    let with_layer = assembly.config.history.iter().filter(|entry| !entry.empty_layer).count();
    assert_eq!(with_layer, assembly.layers.len() + assembly.base.len(), "{}: the history's layers", case.name);
    Ok(Outcome::new(tree, &serde_json::to_value(&assembly.config).unwrap()))
}

/// Problem of a case, if there is one.
fn judge(built: Result<(), String>, bases: &Bases, place: &Place<'_>, case: &Case) -> Option<String> {
    let text = fs::read_to_string(&place.dockerfile).unwrap();
    let (theirs, ours) = (built.map(|()| theirs(place)), ours(bases, place, &text, case));
    let wrong = match (&case.expect, theirs, ours) {
        (Expect::Same, Ok(theirs), Ok(ours)) => {
            Some(theirs.differences(&ours)).filter(|all| !all.is_empty()).map(|all| all.join("\n  "))
        }
        (Expect::Same, Err(theirs), _) => Some(format!("docker refuses: {theirs}")),
        (Expect::Same, Ok(_), Err(fault)) => Some(format!("refused: {fault}")),
        (Expect::Refused, Err(_), Err(_)) => None,
        (Expect::Refused, Ok(_), _) => Some("docker does not refuse".to_owned()),
        (Expect::Refused, Err(theirs), Ok(_)) => Some(format!("not refused; docker says: {theirs}")),
        (Expect::OnlyWeRefuse(_), Ok(_), Err(_)) => None,
        (Expect::OnlyWeRefuse(_), theirs, ours) => {
            Some(format!("docker refuses: {}, we refuse: {}", theirs.is_err(), ours.is_err()))
        }
        (Expect::OnlyDockerRefuses(_), Err(_), Ok(_)) => None,
        (Expect::OnlyDockerRefuses(_), theirs, ours) => {
            Some(format!("docker refuses: {}, we refuse: {}", theirs.is_err(), ours.is_err()))
        }
        (Expect::Differs(_, expected), Ok(theirs), Ok(ours)) => {
            let found = theirs.differences(&ours);
            (found != *expected).then(|| format!("the differences are {found:#?}"))
        }
        (Expect::Differs(..), theirs, ours) => {
            Some(format!("{:?} {:?}", theirs.err(), ours.err().map(|fault| fault.to_string())))
        }
    };
    wrong.map(|wrong| format!("{}:\n  {wrong}", case.name))
}

/// The context of the cases, with the modes that git gives.
fn fill(root: &Path) {
    for folder in ["src/deep/er", "docs", "empty", "sp ace", "one/two", "one/three"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (path, contents) in [
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("c.md", "c"),
        ("run.sh", "#!/bin/sh\n"),
        ("src/m.py", "m"),
        ("src/n.py", "n"),
        ("src/deep/d.py", "d"),
        ("src/deep/er/e.py", "e"),
        ("docs/x.md", "x"),
        ("docs/y.txt", "y"),
        ("sp ace/f.txt", "f"),
        ("one/two/t.txt", "t"),
        ("one/three/t.txt", "u"),
        ("[odd].txt", "odd"),
        ("program", "\x7fELF"),
        ("zero", ""),
    ] {
        fs::write(root.join(path), contents).unwrap();
        let mode = if ["run.sh", "program"].contains(&path) { 0o755 } else { 0o644 };
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(root.join("a.txt"), root.join("hard.txt")).unwrap();
    for (path, to) in [
        ("link.txt", "a.txt"),
        ("linkdir", "src"),
        ("src/up", "../docs"),
        ("dangling", "nowhere"),
        ("abs", "/docs"),
        ("circle", "circle"),
    ] {
        symlink(to, root.join(path)).unwrap();
    }
    // As git has them: folders of a strict umask make no difference for the native engine, but would for docker.
    for folder in ["src", "src/deep", "src/deep/er", "docs", "empty", "sp ace", "one", "one/two", "one/three", "."] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Cases that one process of docker builds.
const TOGETHER: usize = 16;

/// Every case, several at once; those that are wrong.
fn run(engine: &'static Engine, cases: &[Case], context: &Path) -> Vec<String> {
    let bases = Bases::push(engine);
    let work = tempfile::tempdir().unwrap();
    let only = std::env::var("XTASK_ORACLE_CASE").ok();
    let wanted = cases.iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str())));
    let placed = wanted.enumerate().map(|(number, case)| {
        let at = |kind: &str| work.path().join(format!("{number}.{kind}"));
        let place = Place { context, dockerfile: at("Dockerfile"), out: at("out") };
        fs::write(&place.dockerfile, bases.named(engine, case.dockerfile)).unwrap();
        fs::write(at("Dockerfile.dockerignore"), case.ignore).unwrap();
        (place, case)
    });
    // One that docker refuses ends the others of its process.
    let (refused, built): (Vec<_>, Vec<_>) =
        placed.partition(|(_, case)| matches!(case.expect, Expect::Refused | Expect::OnlyDockerRefuses(_)));
    let mut next: Vec<(&[(Place<'_>, &Case)], bool)> = built.chunks(TOGETHER).map(|chunk| (chunk, true)).collect();
    next.extend(refused.chunks(1).map(|chunk| (chunk, false)));
    let place = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let one = || {
            let mut wrong = Vec::new();
            while let Some((chunk, together)) = next.get(place.fetch_add(1, Ordering::Relaxed)) {
                let plan = chunk[0].0.dockerfile.with_extension("json");
                let all = *together && built_together(engine, chunk, &plan);
                for (place, case) in *chunk {
                    let built = if all { Ok(()) } else { built_alone(engine, place, case) };
                    wrong.extend(judge(built, &bases, place, case));
                    let _ = fs::remove_dir_all(&place.out);
                }
            }
            wrong
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn buildkit_gives_the_same_result() {
    let Some(engine) = engine() else { return };
    let context = tempfile::tempdir().unwrap();
    fill(context.path());
    let began = std::time::Instant::now();
    let cases = [cases::COPYING, cases::DESCRIBING].concat();
    let wrong = run(engine, &cases, context.path());
    eprintln!("{} cases in {:.1} s", cases.len(), began.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Differences on purpose, with files that no checkout of git has.
#[test]
fn buildkit_keeps_modes_that_git_does_not_record() {
    let Some(engine) = engine() else { return };
    let context = tempfile::tempdir().unwrap();
    let root = context.path();
    fs::create_dir(root.join("d")).unwrap();
    for (path, mode) in [("f", 0o600), ("x", 0o4711), ("d", 0o2700)] {
        if path != "d" {
            fs::write(root.join(path), path).unwrap();
        }
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("packed.gz"), b"\x1f\x8b\x08").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    let wrong = run(engine, cases::ON_PURPOSE, root);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// This repository's own app image, on a base that is made up and with a program that is.
#[test]
fn buildkit_gives_the_same_app() {
    let Some(engine) = engine() else { return };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let context = tempfile::tempdir().unwrap();
    for folder in ["autoscaler/samples", "autoscaler/forecaster", "autoscaler/templates"] {
        copy(&repository.join(folder), &context.path().join(folder));
    }
    let program = context.path().join("target/debug/autoscaler");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, vec![7; 100_000]).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = |path: &str| -> &'static str { fs::read_to_string(repository.join(path)).unwrap().leak() };
    let base: &'static str = format!("{}/oracle/base:1", engine.registry()).leak();
    let args: &'static [(&str, &str)] = vec![("BASE_IMAGE", base)].leak();
    let case = Case {
        name: "Dockerfile.fast",
        dockerfile: text("dockerfiles/Dockerfile.fast"),
        ignore: text("dockerfiles/Dockerfile.fast.dockerignore"),
        args,
        deferred: &["target/debug/autoscaler"],
        ..Case::SAME
    };
    let wrong = run(engine, &[case], context.path());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder's files as git records them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}
