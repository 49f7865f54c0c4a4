//! Made-up histories of a repository like this one, and the parts of each tree that reach an image, found the naive way: from the
//! files of a checkout, byte by byte, without keys.

#![allow(clippy::disallowed_methods, reason = "git, as an oracle that shares no code with the program")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::tree::context;
use xtask_model::fault::Exit;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::spec::dockerfile::Dockerfile;

/// A file of a tree: git's mode and contents.
pub type Blob = (u32, Vec<u8>);
/// A tree by path.
pub type State = BTreeMap<String, Blob>;

/// Numbers that look random, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A file of this repository.
pub fn seeded(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// A tree like this repository's, as far as images are made of it, and small enough for a thousand commits.
pub fn seed() -> State {
    let mut state = State::new();
    let files = [
        "images.toml",
        "requirements-enhanced.txt",
        "requirements-enhanced.lock",
        "rust-toolchain.toml",
        ".cargo/config.toml",
        ".gitignore",
        "autoscaler/Cargo.toml",
        "dockerfiles/Dockerfile.base",
        "dockerfiles/Dockerfile.base.dockerignore",
        "dockerfiles/Dockerfile.fast",
        "dockerfiles/Dockerfile.fast.dockerignore",
        "dockerfiles/Dockerfile.enhanced",
        "dockerfiles/Dockerfile.enhanced.dockerignore",
        "dockerfiles/check-imports.py",
        "dockerfiles/compile.py",
        "dockerfiles/install.py",
        "dockerfiles/installer.lock",
    ];
    let mut insert = |path: String, bytes: Vec<u8>| drop(state.insert(path, (0o100_644, bytes)));
    for file in files {
        insert(file.to_owned(), seeded(file).into_bytes());
    }
    for package in ["forecast", "floor", "show", "cluster", "cli"].map(|name| format!("autoscaler/{name}")) {
        let manifest = format!("{package}/Cargo.toml");
        insert(manifest.clone(), seeded(&manifest).into_bytes());
        insert(format!("{package}/src/lib.rs"), b"\n".to_vec());
    }
    for (path, text) in [
        ("Cargo.toml", "[workspace]\nmembers = [\"autoscaler\", \"xtask\"]\n"),
        ("Cargo.lock", "version = 4\n[[package]]\nname = \"autoscaler\"\nversion = \"0.1.0\"\n"),
        ("xtask/Cargo.toml", "[package]\nname = \"xtask\"\nversion = \"0.1.0\"\n"),
        ("xtask/model/Cargo.toml", "[package]\nname = \"xtask-model\"\nversion = \"0.1.0\"\n"),
        ("xtask/scan/Cargo.toml", "[package]\nname = \"xtask-scan\"\nversion = \"0.1.0\"\n"),
        ("xtask/host/Cargo.toml", "[package]\nname = \"xtask-host\"\nversion = \"0.1.0\"\n"),
        ("xtask/native/Cargo.toml", "[package]\nname = \"xtask-native\"\nversion = \"0.1.0\"\n"),
        ("xtask/bench/Cargo.toml", "[package]\nname = \"xtask-bench\"\nversion = \"0.1.0\"\n"),
        ("xtask/fuzz/Cargo.toml", "[package]\nname = \"xtask-fuzz\"\nversion = \"0.1.0\"\n"),
        ("autoscaler/src/main.rs", "fn main() {}\n"),
        ("autoscaler/src/page.rs", "\n"),
        ("autoscaler/templates/page.html", "<p>\n"),
        ("autoscaler/forecaster/__main__.py", "print()\n"),
        ("autoscaler/forecaster/tests/test_main.py", "pass\n"),
        ("autoscaler/samples/requests.csv", "1\n"),
    ] {
        state.insert(path.to_owned(), (0o100_644, text.as_bytes().to_vec()));
    }
    state
}

/// Number of kinds of edits.
pub const EDITS: usize = 23;

/// Edits a tree; `value` makes an edit one of several.
pub fn edit(state: &mut State, kind: usize, value: usize) {
    let put = |state: &mut State, path: &str, mode: u32, text: String| {
        state.insert(path.to_owned(), (mode, text.into_bytes()));
    };
    let tail = |state: &mut State, path: &str, line: String| {
        let (_, bytes) = state.get_mut(path).unwrap();
        bytes.extend(line.into_bytes());
    };
    let dockerfile = |name: &str| format!("dockerfiles/Dockerfile.{name}");
    match kind {
        0 => put(state, "README.md", 0o100_644, format!("{value}\n")),
        1 => put(state, "requirements-dev.txt", 0o100_644, format!("pytest=={value}\n")),
        2 => put(state, &dockerfile("other"), 0o100_644, format!("FROM a:{value}\n")),
        3 => tail(state, &dockerfile("enhanced"), format!("LABEL a={value}\n")),
        4 => tail(state, "requirements-enhanced.lock", format!("# {value}\n")),
        5 => flip_hash(state, value),
        6 => tail(state, &dockerfile("base"), format!("\n# {value}\n")),
        7 => tail(state, &dockerfile("base"), format!("LABEL a={value}\n")),
        8 => tail(state, &dockerfile("fast"), format!("LABEL a={value}\n")),
        9 | 10 => put(state, &format!("autoscaler/templates/new-{value}.html"), 0o100_644, format!("{kind}\n")),
        11 => drop(state.remove(&format!("autoscaler/templates/new-{value}.html"))),
        12 => put(state, "autoscaler/forecaster/tests/test_new.py", 0o100_644, format!("{value}\n")),
        13 => tail(state, "autoscaler/src/main.rs", format!("// {value}\n")),
        14 => tail(state, "dockerfiles/check-imports.py", format!("# {value}\n")),
        15 | 16 => {
            let mode = if kind == 15 { 0o100_755 } else { 0o100_644 };
            let blob = state.get_mut(&format!("autoscaler/templates/new-{value}.html"));
            if let Some(blob) = blob.filter(|blob| blob.0 != 0o120_000) {
                blob.0 = mode;
            }
        }
        17 => put(state, "autoscaler/templates/new-7.html", 0o120_000, format!("new-{value}.html")),
        18 => epoch(state, value),
        19 => tail(state, "images.toml", format!("# {value}\n")),
        20 => put(state, "xtask/src/new.rs", 0o100_644, format!("// {value}\n")),
        21 => tail(state, "dockerfiles/Dockerfile.fast.dockerignore", format!("autoscaler/templates/new-{value}.*\n")),
        _ => put(state, &format!("autoscaler/samples/a b/é-{value}.csv"), 0o100_644, format!("{value}\n")),
    }
}

fn flip_hash(state: &mut State, value: usize) {
    let (_, bytes) = state.get_mut("requirements-enhanced.lock").unwrap();
    let at = bytes.windows(7).position(|window| window == b"sha256:").unwrap() + 7;
    // The first is of the header's; every one after it is of a package.
    let next = bytes.windows(14).position(|window| window == b"--hash=sha256:").map_or(at, |at| at + 14);
    bytes[next] = b"01234567"[value];
}

fn epoch(state: &mut State, value: usize) {
    let (_, bytes) = state.get_mut("images.toml").unwrap();
    let text = String::from_utf8(std::mem::take(bytes)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("epoch")).flat_map(|line| match line {
        "[base]" => vec![line.to_owned(), format!("epoch = {value}")],
        line => vec![line.to_owned()],
    });
    *bytes = (lines.collect::<Vec<_>>().join("\n") + "\n").into_bytes();
}

/// Parts of a tree that reach the images.
#[derive(PartialEq)]
pub struct Extracted {
    pub base: Vec<u8>,
    pub app: Vec<u8>,
}

/// Reads a checkout; `None` where it has no policy or no Dockerfile that reads.
pub fn extracted(root: &Path) -> Option<Extracted> {
    let mut policy: toml::Table = fs::read_to_string(root.join("images.toml")).ok()?.parse().ok()?;
    if let Some(base) = policy.get_mut("base").and_then(toml::Value::as_table_mut) {
        // Who makes a stage changes nothing of what it holds, and no epoch is the epoch 0.
        base.remove("stages");
        base.entry("epoch").or_insert(toml::Value::Integer(0));
    }
    // Which names an image may have changes nothing in it.
    if let Some(root) = policy.get_mut("root").and_then(toml::Value::as_table_mut) {
        root.remove("fallback-publishes");
    }
    let wanted = ["project", "root", "base", "app"].map(|name| policy.get(name).map(ToString::to_string));
    // The fast Dockerfile takes the program from here when it is built by hand; its recipe counts, not its bytes.
    fs::create_dir_all(root.join("target/debug")).unwrap();
    fs::write(root.join("target/debug/autoscaler"), "").unwrap();
    let mut base = format!("{wanted:?}\n").into_bytes();
    let mut app = base.clone();
    base.extend(without_comments(&root.join("requirements-enhanced.lock"))?);
    base.extend(fs::read(root.join("images.lock")).unwrap_or_default());
    let lock = Path::new("requirements-enhanced.lock");
    sent(root, policy["base"].get("dockerfile")?.as_str()?, &[lock], &mut base)?;
    let copied =
        sent(root, policy["app"].get("dockerfile")?.as_str()?, &[Path::new("target/debug/autoscaler")], &mut app)?;
    for file in ["Cargo.toml", "rust-toolchain.toml", ".cargo/config.toml"] {
        app.extend(fs::read(root.join(file)).unwrap_or_default());
    }
    app.extend(crates(&fs::read_to_string(root.join("Cargo.lock")).ok()?)?);
    compiled(root, Path::new("autoscaler"), &copied, &mut app);
    Some(Extracted { base, app })
}

fn without_comments(path: &Path) -> Option<Vec<u8>> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    Some(lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes())
}

/// A Dockerfile and the build context that it reads.
fn sent(root: &Path, path: &str, but: &[&Path], bytes: &mut Vec<u8>) -> Option<Vec<PathBuf>> {
    bytes.extend(without_comments(&root.join(path))?);
    let dockerfile = Dockerfile::parse(path, &fs::read_to_string(root.join(path)).ok()?).ok()?;
    let (_, ignore) = context::ignore_file(root, path, &ContextPath::default()).ok()?;
    let args = ["ROOT_IMAGE", "BASE_IMAGE"].map(|name| (name.to_owned(), "image.invalid/any".to_owned()));
    let entries = {
        let sources = dockerfile.sources(&args.into(), &"linux/amd64".parse().unwrap()).ok()?;
        context::read_sources(root, &sources, &ignore, context::every_folder()).ok()?
    };
    let mut copied = Vec::new();
    for entry in entries {
        let path = entry.path.to_path();
        if but.contains(&path) || path.starts_with("target") {
            continue;
        }
        let executable = entry.kind == FileKind::File && entry.mode & 0o100 != 0;
        bytes.extend(format!("\n{} {:?} {executable}\n", path.display(), entry.kind).into_bytes());
        match entry.kind {
            FileKind::File => bytes.extend(fs::read(root.join(path)).unwrap()),
            FileKind::Symlink => bytes.extend(fs::read_link(root.join(path)).unwrap().to_str().unwrap().as_bytes()),
            FileKind::Dir | FileKind::Tree | FileKind::Special => {}
        }
        copied.push(path.to_owned());
    }
    Some(copied)
}

/// Packages of `Cargo.lock` that the program can reach: the closure over its entries.
fn crates(lock: &str) -> Option<Vec<u8>> {
    let lock: toml::Table = lock.parse().ok()?;
    let packages = lock.get("package")?.as_array()?;
    let text = |index: usize, key: &str| packages[index].get(key)?.as_str();
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for index in 0..packages.len() {
        named.entry(text(index, "name").unwrap_or_default()).or_default().push(index);
    }
    let mut reached = BTreeSet::new();
    let mut open = named.get("autoscaler").cloned().unwrap_or_default();
    while let Some(index) = open.pop() {
        if !reached.insert(index) {
            continue;
        }
        for dependency in packages[index].get("dependencies").and_then(toml::Value::as_array).into_iter().flatten() {
            let mut words = dependency.as_str()?.split(' ');
            let (name, version) = (words.next()?, words.next());
            let fits = |index: &usize| version.is_none() || text(*index, "version") == version;
            open.extend(named.get(name).into_iter().flatten().copied().filter(fits));
        }
    }
    // Their own dependency lists hang on features of others and say nothing that a version does not.
    let shown = |index: &usize| ["name", "version", "source", "checksum"].map(|key| text(*index, key));
    Some(format!("{:?}", reached.iter().map(shown).collect::<Vec<_>>()).into_bytes())
}

/// The files from which cargo could make the program.
fn compiled(root: &Path, folder: &Path, copied: &[PathBuf], bytes: &mut Vec<u8>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| folder.join(entry.unwrap().file_name())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let metadata = fs::symlink_metadata(root.join(&path)).unwrap();
        if metadata.is_dir() {
            if !["tests", "benches", "examples", "target", "__pycache__"].contains(&name.as_str()) {
                compiled(root, &path, copied, bytes);
            }
        } else if !name.ends_with(".md") && !copied.contains(&path) && root.join(&path).is_file() {
            bytes.extend(format!("\n{}\n", path.display()).into_bytes());
            bytes.extend(fs::read(root.join(&path)).unwrap());
        }
    }
}

/// A git repository.
pub struct Repo {
    root: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Repo {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("target")).unwrap();
        let repo = Self { root, _folder: Some(folder) };
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _folder: None }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn command(&self, args: &[&str]) -> Command {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        Command::new("git").arg("-C").arg(&self.root).args(identity).args(args)
    }

    #[track_caller]
    pub fn git(&self, args: &[&str]) {
        self.command(args).read(Exit::Build).unwrap();
    }

    pub fn lines(&self, args: &[&str]) -> Vec<String> {
        self.command(args).read(Exit::Build).unwrap().lines().map(str::to_owned).collect()
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", message]);
    }

    pub fn checkout(&self, id: &str) {
        self.git(&["checkout", "-q", "--detach", id]);
    }

    pub fn checkout_branch(&self, name: &str) {
        self.git(&["checkout", "-q", name]);
    }

    /// A commit's tree in a folder.
    pub fn archive(&self, id: &str, folder: &Path) {
        let tar = self.command(&["archive", "--format=tar", id]).output().unwrap();
        Command::new("tar").arg("-x").current_dir(folder).stdin(tar.stdout).read(Exit::Build).unwrap();
    }

    /// Commits of these trees, one on the other, on `main`.
    pub fn import(&self, states: &[State]) {
        let mut stream = Vec::new();
        let mut before = State::new();
        for (index, state) in states.iter().enumerate() {
            let mut head = String::new();
            let _ = write!(head, "commit refs/heads/main\nmark :{}\n", index + 1);
            let _ = write!(head, "committer a <a@example.com> {} +0000\ndata 1\nx\n", 1_700_000_000 + index);
            stream.extend(head.into_bytes());
            for (path, (mode, bytes)) in state.iter().filter(|(path, blob)| before.get(*path) != Some(blob)) {
                stream.extend(format!("M {mode:o} inline \"{path}\"\ndata {}\n", bytes.len()).into_bytes());
                stream.extend(bytes);
                stream.push(b'\n');
            }
            for path in before.keys().filter(|path| !state.contains_key(*path)) {
                stream.extend(format!("D \"{path}\"\n").into_bytes());
            }
            before = state.clone();
        }
        self.command(&["fast-import", "--quiet"]).stdin(stream).read(Exit::Build).unwrap();
    }

    /// Makes the folder that holds one tree hold another.
    pub fn write(&self, from: &State, to: &State) {
        for path in from.keys().filter(|path| !to.contains_key(*path)) {
            fs::remove_file(self.root.join(path)).unwrap();
            // git keeps no empty folders, and a checkout leaves none.
            let mut folder = Path::new(path).parent();
            while let Some(path) = folder.filter(|path| fs::remove_dir(self.root.join(path)).is_ok()) {
                folder = path.parent();
            }
        }
        for (path, (mode, bytes)) in to.iter().filter(|(path, blob)| from.get(*path) != Some(blob)) {
            let place = self.root.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&place);
            if *mode == 0o120_000 {
                std::os::unix::fs::symlink(std::str::from_utf8(bytes).unwrap(), &place).unwrap();
            } else {
                fs::write(&place, bytes).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(mode & 0o777)).unwrap();
            }
        }
    }
}
