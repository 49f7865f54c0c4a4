//! Trees in folders that vanish; which files count; BuildKit as the oracle where an engine can be reached.

use super::*;
use crate::process::Command;
use crate::tree::files::Named;
use proptest::prelude::*;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use xtask_model::image::context::{ObjectFormat, as_in_git};
use xtask_model::spec::dockerfile::{Dockerfile, Instruction, Reads};
use xtask_model::spec::reference::Platform;

/// A tree from lines: `path`, `path=contents`, `path/`, `path->target`, `path*` (executable).
fn tree(lines: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in lines {
        plant(root.path(), line);
    }
    root
}

fn plant(root: &Path, line: &str) {
    let (path, target) = line.split_once("->").map_or((line, None), |(path, target)| (path, Some(target)));
    let (path, contents) = path.split_once('=').unwrap_or((path, line));
    let place = root.join(path.trim_end_matches(['*', '/']));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    if let Some(target) = target {
        symlink(target, &place).unwrap();
    } else if path.ends_with('/') {
        fs::create_dir_all(&place).unwrap();
    } else {
        fs::write(&place, contents).unwrap();
        let mode = if path.ends_with('*') { 0o755 } else { 0o644 };
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn read_with(root: &Path, instructions: &str, ignore: &str) -> Result<Vec<ContextEntry>, Fault> {
    let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{instructions}\n"))?;
    let ignore = Ignore::parse(".dockerignore", ignore.as_bytes())?;
    read_sources(root, &file.sources(&BTreeMap::new(), &Platform::host())?, &ignore, no_folder())
}

fn paths(entries: &[ContextEntry]) -> Vec<String> {
    entries.iter().map(|entry| entry.path.to_string()).collect()
}

const TREE: &[&str] = &[
    "a.txt",
    "b.md",
    "run.sh*",
    "src/m.py",
    "src/n.py",
    "src/deep/o.py",
    "src/deep/p.md",
    "empty/",
    "link->src/deep",
    "to_file->a.txt",
    "src/up->../a.txt",
    "dangling->nowhere",
    "circle->circle",
    "abs->/src",
    "hop->link",
];

#[track_caller]
fn picks(instructions: &str, ignore: &str, expected: &[&str]) {
    let root = tree(TREE);
    let entries = read_with(root.path(), instructions, ignore).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(paths(&entries), expected, "{instructions}");
}

#[track_caller]
fn refused(instructions: &str, ignore: &str, why: &[&str]) {
    let root = tree(TREE);
    let fault = read_with(root.path(), instructions, ignore).unwrap_err().to_string();
    assert!(why.iter().all(|why| fault.contains(why)), "{fault}");
}

#[test]
fn sources_pick_files() {
    picks("COPY a.txt /", "", &["a.txt"]);
    picks("COPY src/deep /", "", &["src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("COPY src/deep/ empty /", "", &["empty", "src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("COPY ../../a.txt /", "", &["a.txt"]);
    picks("COPY *.txt *.none src/*.x /", "", &["a.txt"]);
    picks("COPY s*/*.py /", "", &["src/m.py", "src/n.py"]);
    picks("COPY [ab].* /", "", &["a.txt", "b.md"]);
    picks("COPY src/d??p /", "", &["src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("COPY s[^x]c/m* /", "", &["src/m.py"]);
    picks("COPY --exclude=*.py src/deep /", "", &["src/deep", "src/deep/p.md"]);
    picks("COPY --exclude=**/*.py --exclude=up src /", "", &["src", "src/deep", "src/deep/p.md"]);
    picks("RUN --mount=type=bind,source=src/deep,target=/x y", "", &["src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("COPY --parents src/*/o.py /", "", &["src", "src/deep", "src/deep/o.py"]);
    picks("COPY --parents src/./**/*.md /", "", &["src/deep", "src/deep/p.md"]);
    picks("COPY --parents s*/./deep/*.md /", "", &["src/deep", "src/deep/p.md"]);
    // A file in place of the pivot's folder is copied as it is: so does BuildKit.
    picks("COPY --parents src/*/./*.md /", "", &["a.txt", "src/deep/p.md", "src/m.py", "src/n.py", "src/up"]);
    picks("COPY --parents none*/./x /", "", &[]);
    picks("COPY --parents none* /", "", &[]);
    picks("COPY --parents src/deep /", "", &["src", "src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("USER x", "", &[]);
}

#[test]
fn ignored_files_are_left_out() {
    picks("COPY src /", "**/*.py\nsrc/up", &["src", "src/deep", "src/deep/p.md"]);
    picks("COPY . /", "*\n!src/deep/*.md", &["src", "src/deep", "src/deep/p.md"]);
    picks("COPY *.txt /", "*.txt", &[]);
    refused(
        "COPY a.txt /",
        "*.txt",
        &["Dockerfile:2: `a.txt` is not in the build context", "the ignore file leaves it out", "!a.txt"],
    );
    refused("COPY no/*.x /", "", &["Dockerfile:2: `no/*.x` is not in"]);
    refused("COPY x /", "", &["Dockerfile:2: `x` is not in", "relative to the context's root"]);
    refused("RUN --mount=source=x,target=/x y", "", &["Dockerfile:2: `x`"]);
    refused("COPY --parents x/y /", "", &["Dockerfile:2: `x/y`"]);
    refused("COPY [a /", "", &["Dockerfile:2: a character class has no end"]);
}

#[test]
fn links_are_followed_where_a_source_names_them() {
    picks("COPY to_file /", "", &["a.txt", "to_file"]);
    picks("COPY link /", "", &["link", "src/deep", "src/deep/o.py", "src/deep/p.md"]);
    picks("COPY hop/o.py /", "", &["hop", "link", "src/deep/o.py"]);
    picks("COPY abs/m.py /", "", &["abs", "src/m.py"]);
    picks("COPY link/*.md /", "", &["link", "src/deep/p.md"]);
    picks("COPY to_* /", "", &["a.txt", "to_file"]);
    picks("COPY --exclude=deep src /", "", &["src", "src/m.py", "src/n.py", "src/up"]);
    refused("COPY dangling /", "", &["`dangling` is not in", "a link leads to `nowhere`"]);
    refused("COPY circle /", "", &["`circle` is not in"]);
    refused("COPY to_file /", "a.txt", &["a link leads to `a.txt`", "the ignore file leaves it out"]);
}

#[test]
fn nothing_outside_the_context_is_read() {
    let outside = tree(&["secret"]);
    let root = tree(&[&format!("out->{}", outside.path().join("secret").display()), "up->../../../../../etc/hostname"]);
    for source in ["out", "up"] {
        let fault = read_with(root.path(), &format!("COPY {source} /"), "").unwrap_err().to_string();
        assert!(fault.contains("is not in the build context"), "{fault}");
    }
}

#[test]
fn the_dockerfiles_own_ignore_file_comes_first() {
    let root = tree(&[".dockerignore=a", "d/Dockerfile.base.dockerignore=b", "d/Dockerfile.base=FROM scratch"]);
    let (path, ignore) = ignore_file(root.path(), "d/Dockerfile.base", &ContextPath::default()).unwrap();
    assert_eq!(
        (path.as_deref(), ignore.ignores(b"b"), ignore.ignores(b"a")),
        (Some("d/Dockerfile.base.dockerignore"), true, false)
    );
    let (path, ignore) = ignore_file(root.path(), "d/Dockerfile.fast", &ContextPath::default()).unwrap();
    assert_eq!((path.as_deref(), ignore.ignores(b"a")), (Some(".dockerignore"), true));
    assert_eq!(ignore_file(tree(&[]).path(), "Dockerfile", &ContextPath::default()).unwrap().0, None);
}

#[test]
fn a_folder_is_a_context_of_its_own() {
    let root =
        tree(&["a/b/.dockerignore=x", "a/b/x=1", "a/b/y=2", "a/y=3", ".dockerignore=y", "Dockerfile=FROM scratch"]);
    let files: std::sync::Arc<dyn Files> = std::sync::Arc::new(root.path().to_owned());
    let below = Below::new(files.clone(), &"a/b".parse().unwrap()).unwrap();
    let folder = ContextPath::new("a/b");
    let (path, ignore) = ignore_file(&*files, "Dockerfile", &folder).unwrap();
    assert_eq!(path.as_deref(), Some("a/b/.dockerignore"));
    let dockerfile = Dockerfile::parse("Dockerfile", "FROM scratch\nCOPY . /\n").unwrap();
    let sources = dockerfile.sources(&BTreeMap::new(), &Platform::host()).unwrap();
    let entries = entries_from_top(&folder, read_sources(&below, &sources, &ignore, no_folder()).unwrap());
    let paths: Vec<String> = entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["a/b/.dockerignore", "a/b/y"]);
    assert_eq!(entries[1].id, Some(files.ids(&[&ContextPath::new("a/b/y")]).unwrap()[0]));
    let fault = Below::new(files, &"a/y".parse().unwrap()).err().unwrap();
    assert_eq!(fault.what, "`a/y` is not a folder of the repository");
}

#[test]
fn the_walk_stays_where_a_source_could_lead() {
    let root = tree(&["node/x/1", "node/y/2", "src/a.py", "src/lib/b.py", "src/lib/c/d.py", "data/big", "f.txt"]);
    let seen = |instructions: &str, ignore: &str| {
        let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{instructions}")).unwrap();
        let sources = file.sources(&BTreeMap::new(), &Platform::host()).unwrap();
        let ignore = Ignore::parse("x", ignore.as_bytes()).unwrap();
        let tree = walk(root.path(), &sources, &BTreeSet::new(), &ignore, every_folder()).unwrap().tree;
        tree.keys().map(ContextPath::to_string).collect::<Vec<_>>()
    };
    assert_eq!(seen("COPY f.txt /", ""), ["f.txt"]);
    assert_eq!(seen("COPY src/*.py /", ""), ["src", "src/a.py"]);
    assert_eq!(seen("COPY src/l* /", ""), ["src", "src/lib", "src/lib/b.py", "src/lib/c", "src/lib/c/d.py"]);
    assert_eq!(seen("COPY --parents src/lib/*.py /", ""), ["src", "src/lib", "src/lib/b.py"]);
    assert_eq!(seen("COPY . /", "*\n!src/a.py"), ["src", "src/a.py"]);
    assert_eq!(seen("COPY . /", "node\ndata\nsrc"), ["f.txt"]);
    assert_eq!(seen("USER x", ""), [""; 0]);
}

#[test]
fn special_files_are_refused_where_they_count() {
    let root = tree(&["a"]);
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("sock")).unwrap();
    let fault = read_with(root.path(), "COPY . /", "").unwrap_err().to_string();
    assert!(fault.contains("`sock` in the build context is not a file"), "{fault}");
    assert_eq!(paths(&read_with(root.path(), "COPY . /", "sock").unwrap()), ["a"]);
    assert_eq!(paths(&read_with(root.path(), "COPY a /", "").unwrap()), ["a"]);
}

#[test]
fn entries_keep_every_name_in_json() {
    let root = tree(&["ä %.txt=1", "run*=2", "l->ä"]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n");
    fs::write(root.path().join(odd), "3").unwrap();
    let entries = read_with(root.path(), "COPY . /", "").unwrap();
    assert_eq!(paths(&entries), ["l", "run", "ä %25.txt", "%FF%0A"]);
    let json = serde_json::to_string(&entries).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ContextEntry>>(&json).unwrap(), entries);
    expect_test::expect![[r#"[{"path":"l","kind":"symlink","mode":511,"id":"sha256:a0cc4ab8176469f3591acd8919759b7a619e43b4c41388f94f4443b2b0c1646e"}]"#]]
        .assert_eq(&serde_json::to_string(&entries[..1]).unwrap());
}

#[test]
fn umask_does_not_matter_in_git() {
    let root = tree(&["a", "b*", "d/c"]);
    let before = read_with(root.path(), "COPY . /", "").unwrap();
    for (path, mode) in [("a", 0o664), ("b", 0o775), ("d", 0o700)] {
        fs::set_permissions(root.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let after = read_with(root.path(), "COPY . /", "").unwrap();
    assert_ne!(before, after);
    assert_eq!(as_in_git(&before), as_in_git(&after));
}

const PLACES: [&str; 12] =
    ["a", "b", "c.py", "d/a", "d/b.py", "d/e/a", "d/e/c.py", "s/a", "s/d/b", "s/d/c.py", "t.py", "z/z/z"];

const COPIES: [&str; 10] = [
    "COPY . /",
    "COPY d /",
    "COPY *.py /",
    "COPY d/*/*.py /",
    "COPY --exclude=**/*.py . /",
    "COPY a d/e /",
    "COPY */ /x",
    "COPY --parents **/c.py /",
    "COPY link /",
    "RUN --mount=source=s,target=/s x",
];

fn ignore_lines() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "*", "d", "d/*", "**/*.py", "!d", "!d/e", "!**/c.py", "!s/d", "a", "s/d", "!a", "*.py", "**/a", "z", "!z/z",
        "link",
    ]);
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

/// Changes the entry at a path. Returns the changed paths.
fn change(root: &Path, path: &str, how: usize) -> Vec<String> {
    let place = root.join(path);
    let there = fs::symlink_metadata(&place).is_ok();
    match how {
        0 => fs::write(&place, "changed").unwrap(),
        1 if there => {
            let mode = fs::metadata(&place).unwrap().permissions().mode() ^ 0o111;
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        }
        2 if there => fs::remove_file(&place).unwrap(),
        3 if there => {
            fs::rename(&place, root.join(format!("{path}2"))).unwrap();
            return vec![path.to_owned(), format!("{path}2")];
        }
        4 if there => {
            fs::remove_file(&place).unwrap();
            symlink("elsewhere", &place).unwrap();
        }
        5 => {
            fs::write(root.join(format!("{path}.new")), "").unwrap();
            return vec![format!("{path}.new")];
        }
        6 => {
            fs::remove_file(root.join("link")).unwrap();
            symlink("s", root.join("link")).unwrap();
            return vec!["link".to_owned()];
        }
        _ => return Vec::new(),
    }
    vec![path.to_owned()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Exactly the files in the result change the entries.
    #[test]
    fn entries_follow_the_files_that_are_read(
        copy in 0..COPIES.len(), ignore in ignore_lines(), place in 0..PLACES.len(), how in 0_usize..7,
    ) {
        let root = tree(&PLACES);
        symlink("d", root.path().join("link")).unwrap();
        let Ok(before) = read_with(root.path(), COPIES[copy], &ignore) else { return Ok(()) };
        let changed = change(root.path(), PLACES[place], how);
        let Ok(after) = read_with(root.path(), COPIES[copy], &ignore) else { return Ok(()) };
        let read = |path: &String| before.iter().chain(&after).any(|entry| entry.path.to_string() == *path);
        // A folder that the ignore file takes back only for a file in it is copied with that file, even where the copy itself
        // excludes the file: BuildKit sends the folder, and so its going is a change.
        let folders = |entries: &[ContextEntry]| -> Vec<_> {
            entries.iter().filter(|entry| entry.kind == FileKind::Dir).map(|entry| entry.path.clone()).collect()
        };
        let counts = changed.iter().any(read) || folders(&before) != folders(&after);
        prop_assert_eq!(before != after, counts, "{:?}", changed);
    }

    /// Walking little finds what walking everything finds.
    #[test]
    fn pruning_loses_nothing(copy in 0..COPIES.len(), ignore in ignore_lines()) {
        let root = tree(&PLACES);
        symlink("d", root.path().join("link")).unwrap();
        let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{}", COPIES[copy])).unwrap();
        let sources = file.sources(&BTreeMap::new(), &Platform::host()).unwrap();
        let rules = Ignore::parse("x", ignore.as_bytes()).unwrap();
        let all = BTreeSet::from([ContextPath::default()]);
        let everything = walk(root.path(), &[], &all, &Ignore::none(), every_folder()).unwrap().tree;
        let whole = select(&everything, &sources, &rules).unwrap().complete(&sources, &rules);
        let pruned = read_sources(root.path(), &sources, &rules, no_folder());
        match (whole, pruned) {
            (Ok(whole), Ok(pruned)) => prop_assert_eq!(whole.into_iter().collect::<Vec<_>>(), pruned.into_iter().map(|e| e.path).collect::<Vec<_>>()),
            (Err(whole), Err(pruned)) => prop_assert_eq!(whole, pruned),
            (whole, pruned) => prop_assert!(false, "{:?} {:?}", whole.is_ok(), pruned.is_ok()),
        }
    }

    #[test]
    fn any_path_survives_its_text(bytes in any::<Vec<u8>>()) {
        let path = ContextPath::new(bytes);
        prop_assert_eq!(path.to_string().parse::<ContextPath>().unwrap(), path);
    }
}

/// A folder whose entries come in another order.
struct Backwards<'a>(&'a Path);

impl Files for Backwards<'_> {
    fn place(&self) -> &Path {
        self.0
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        self.0.read(path)
    }

    fn has_file(&self, path: &Path) -> bool {
        self.0.has_file(path)
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        let mut listed = self.0.list(folder)?;
        listed.sort_by(|one, other| other.name.cmp(&one.name));
        Ok(listed)
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        self.0.found(path)
    }

    fn format(&self) -> ObjectFormat {
        self.0.format()
    }

    fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        self.0.ids(files)
    }
}

#[test]
fn the_order_of_the_walk_does_not_matter() {
    let root = tree(&PLACES);
    symlink("d", root.path().join("link")).unwrap();
    for copy in COPIES {
        let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{copy}")).unwrap();
        let sources = file.sources(&BTreeMap::new(), &Platform::host()).unwrap();
        let pick = |files: &dyn Files| pick(files, &sources, &Ignore::none(), &BTreeSet::new(), no_folder());
        assert_eq!(pick(&root.path().to_path_buf()), pick(&Backwards(root.path())), "{copy}");
    }
}

#[test]
fn what_is_yet_to_be_made_is_picked() {
    let root = tree(&["a", "target/other"]);
    let absent = BTreeSet::from([ContextPath::new("target/new/program")]);
    let picked = |copy: &str, ignore: &str| {
        let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{copy}")).unwrap();
        let sources = file.sources(&BTreeMap::new(), &Platform::host()).unwrap();
        let rules = Ignore::parse("x", ignore.as_bytes()).unwrap();
        let picked = pick(root.path(), &sources, &rules, &absent, no_folder())?;
        assert!(!picked.ids.contains_key(&ContextPath::new("target/new/program")));
        let below = |found: &Match| found.below.iter().map(ToString::to_string).collect::<Vec<_>>();
        Ok::<_, Fault>(picked.matches.iter().map(|found| (found.at.to_string(), below(found))).collect::<Vec<_>>())
    };
    let program = ("target/new/program".to_owned(), Vec::new());
    assert_eq!(picked("COPY target/new/program /", ""), Ok(vec![program.clone()]));
    assert_eq!(picked("COPY target/n*/p* /", "target\n!target/new"), Ok(vec![program]));
    assert_eq!(
        picked("COPY target/new /", ""),
        Ok(vec![("target/new".to_owned(), vec!["target/new/program".to_owned()])])
    );
    assert!(picked("COPY target/new/program /", "target").is_err());
}

/// The docker command line, if a test may use one.
fn docker() -> Option<String> {
    let found = std::env::var("XTASK_TEST_DOCKER").ok().filter(|docker| !docker.is_empty());
    if found.is_none() {
        assert_ne!(std::env::var("XTASK_REQUIRE_REAL").as_deref(), Ok("1"), "XTASK_TEST_DOCKER names no docker");
        println!("skipped: XTASK_TEST_DOCKER names no docker");
    }
    found
}

/// A build: its instructions and its ignore file.
type Build<'a> = (&'a str, &'a str);

/// Paths of a build's Dockerfile and of its output. Writes the Dockerfile and its ignore file.
fn places(work: &Path, number: usize, (instructions, ignore): Build<'_>) -> (PathBuf, PathBuf) {
    let file = work.join(format!("{number}.Dockerfile"));
    fs::write(&file, format!("FROM scratch\n{instructions}\n")).unwrap();
    fs::write(work.join(format!("{number}.Dockerfile.dockerignore")), ignore).unwrap();
    (file, work.join(format!("{number}.out")))
}

/// Files of a folder that a build made.
fn made(out: &Path) -> Vec<ContextEntry> {
    let all = Source { place: "x".into(), line: 1, reads: Reads::Path(String::new()), excludes: vec![] };
    read_sources(out, &[all], &Ignore::none(), no_folder()).unwrap()
}

/// Files that a build puts into a folder; `None` if it fails.
fn built(docker: &str, root: &Path, build: Build<'_>) -> Option<Vec<ContextEntry>> {
    let work = tempfile::tempdir().unwrap();
    let (file, out) = places(work.path(), 0, build);
    let call = Command::new(docker).args(["buildx", "build", "--quiet", "--provenance=false", "--file"]).arg(&file);
    let call = call.arg("--output").arg(format!("type=local,dest={}", out.display())).arg(root);
    let output = call.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            || ["not found", "no such file", "too many symlinks"].iter().any(|why| said.contains(why)),
        "{build:?}: {said}"
    );
    output.status.success().then(|| made(&out))
}

/// The same for builds that should succeed, by one process of docker: starting it is most of its work. If one fails, each is built alone.
fn all_built(docker: &str, root: &Path, builds: &[Build<'_>]) -> Vec<Option<Vec<ContextEntry>>> {
    let work = tempfile::tempdir().unwrap();
    let places: Vec<_> = builds.iter().enumerate().map(|(number, build)| places(work.path(), number, *build)).collect();
    let targets = places.iter().enumerate().map(|(number, (file, out))| {
        let output = format!("type=local,dest={}", out.display());
        (number.to_string(), serde_json::json!({"context": root, "dockerfile": file, "output": [output]}))
    });
    let targets: serde_json::Map<String, serde_json::Value> = targets.collect();
    let plan = work.path().join("bake.json");
    let names: Vec<&String> = targets.keys().collect();
    fs::write(&plan, serde_json::json!({"group": {"default": {"targets": names}}, "target": targets}).to_string())
        .unwrap();
    let call = Command::new(docker).args(["buildx", "bake", "--progress=quiet", "--provenance=false", "--file"]);
    // Newer ones ask before they read a file outside of the current folder.
    let output = call.arg(plan).env("BUILDX_BAKE_ENTITLEMENTS_FS", "0").output().unwrap();
    if output.status.success() {
        return places.iter().map(|(_, out)| Some(made(out))).collect();
    }
    builds.iter().map(|build| built(docker, root, *build)).collect()
}

#[test]
fn builds_that_fail_together_are_built_alone() {
    let Some(docker) = docker() else { return };
    let root = tree(&["a", "b"]);
    let found = all_built(&docker, root.path(), &[("COPY a /", ""), ("COPY none /", ""), ("COPY . /", "a")]);
    let found: Vec<_> = found.iter().map(|found| found.as_deref().map(paths)).collect();
    assert_eq!(found, [Some(vec!["a".to_owned()]), None, Some(vec!["b".to_owned()])]);
}

#[test]
fn buildkit_sees_the_context_that_we_see() {
    let Some(docker) = docker() else { return };
    let mut lines = PLACES.to_vec();
    lines.extend([
        "run.sh*",
        "empty/",
        "link->d",
        ".hidden",
        "#x",
        "{a,b}",
        "docs/README.md",
        "docs/other.md",
        "d/.hidden/x",
    ]);
    let root = tree(&lines);
    ignored_alike(&docker, root.path(), ORACLE_IGNORES);
}

/// With each of these ignore files, BuildKit copies what we read.
#[track_caller]
fn ignored_alike(docker: &str, root: &Path, ignores: &[impl AsRef<str>]) {
    let builds: Vec<Build<'_>> = ignores.iter().map(|ignore| ("COPY . /", ignore.as_ref())).collect();
    for ((copy, ignore), theirs) in builds.iter().zip(all_built(docker, root, &builds)) {
        assert_eq!(Some(read_with(root, copy, ignore).unwrap()), theirs, "{ignore}");
    }
}

const ORACLE_IGNORES: &[&str] = &[
    "",
    "*",
    "*\n!d",
    "*\n!d/e",
    "*\n!d/e/a",
    "d\n!d/e",
    "d/*\n!d/e",
    "d/**\n!d/e/c.py",
    "**/*.py",
    "**/*.py\n!**/c.py",
    "*.py",
    "/a",
    "a/",
    "./a",
    "**/a",
    "**a",
    "*\n!*.py",
    "*\n!**/*.py",
    "**\n!s/d",
    "d/e\n!d",
    "!d\nd/e",
    "a\n!a",
    "docs\n!docs/README.md",
    "docs/*.md\n!docs/R*",
    "{a,b}",
    "\\#x",
    "#x",
    " #x",
    ".*",
    "**/.*",
    "[a-c]",
    "[^a-c]",
    "[^a-c]*",
    "?",
    "d/?",
    "*/e",
    "*/*/c.py",
    "e*",
    "empty",
    "z/z",
    "*\n!z/z/z",
    "link",
    "**/d\n!s/d/b",
    "s/../a",
    "*\n!s\ns/d\n!s/d/c.py",
    "d**",
    "d/**/c.py",
    "\u{feff}a\r\nb\r\n",
    "*\n!d/**/c.py",
    "**/**",
    "**/d/**",
    "s\n!**/c.py",
];

#[test]
fn buildkit_copies_what_we_pick() {
    let Some(docker) = docker() else { return };
    let root = tree(TREE);
    let files = |entries: Vec<ContextEntry>| {
        let files = entries.into_iter().filter(|entry| entry.kind == FileKind::File);
        files.map(|entry| (entry.id, entry.mode)).collect::<BTreeSet<_>>()
    };
    let copies = [
        ("a.txt", ""),
        ("src", ""),
        ("src/deep/", ""),
        ("*.txt", ""),
        ("*.none", ""),
        ("no/*.x", ""),
        ("s*/*.py", ""),
        ("[ab].*", ""),
        ("src/d??p", ""),
        ("link", ""),
        ("hop/o.py", ""),
        ("abs/m.py", ""),
        ("abs", ""),
        ("link/*.md", ""),
        ("to_*", ""),
        ("dangling", ""),
        ("circle", ""),
        ("nope", ""),
        ("a.txt", "*.txt"),
        ("to_file", "a.txt"),
        ("link", "*\n!link"),
        ("../a.txt", ""),
        ("run.sh", ""),
        ("s[^x]c/m*", ""),
        ("src/../b.md", ""),
        ("*", ""),
        ("src/**", ""),
        ("**/o.py", ""),
        ("empty", ""),
        (".", "src/deep"),
    ];
    let copies = copies.map(|(source, ignore)| (format!("COPY {source} /out/"), ignore));
    // What we refuse is to fail there too, which ends all builds of a process.
    let (read, refused): (Vec<_>, Vec<_>) = copies
        .iter()
        .map(|(copy, ignore)| ((copy.as_str(), *ignore), read_with(root.path(), copy, ignore).ok().map(files)))
        .partition(|(_, ours)| ours.is_some());
    let builds: Vec<Build<'_>> = read.iter().map(|(build, _)| *build).collect();
    for ((build, ours), theirs) in read.iter().zip(all_built(&docker, root.path(), &builds)) {
        assert_eq!(*ours, theirs.map(files), "{build:?}");
    }
    for (build, _) in refused {
        assert_eq!(built(&docker, root.path(), build), None, "{build:?}");
    }
}

/// Lines that meet the tree's names often, in orders nobody would think of.
#[test]
fn buildkit_agrees_about_made_up_ignore_files() {
    use proptest::strategy::ValueTree as _;
    let Some(docker) = docker() else { return };
    let root = tree(&PLACES);
    let line = "!?(\\*\\*|\\*|d|s|a|z|\\?|[a-d])(/(\\*\\*|\\*|d|e|a|b\\.py|c\\*|\\*\\.py|z)){0,2}/?";
    let lines = prop::collection::vec(line, 1..6).prop_map(|lines| lines.join("\n"));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ignores: Vec<String> = (0..60).map(|_| lines.new_tree(&mut runner).unwrap().current()).collect();
    ignored_alike(&docker, root.path(), &ignores);
}

/// Words become names of files: what BuildKit makes of a word is what it copies to.
#[test]
fn buildkit_replaces_variables_as_we_do() {
    let Some(docker) = docker() else { return };
    // An empty pattern (`${p#}`) is left out: BuildKit 0.13 panics on it and takes the engine with it.
    let words = [
        "$a-${a}",
        "'$a'",
        "\"$a\"",
        "\\$a",
        "a\\b",
        "'a\\b'",
        "\"a\\b\"",
        "${u-d}",
        "${e-d}",
        "${u:-d}",
        "${e:-d}",
        "${a:-d}",
        "${u+d}",
        "${e+d}",
        "${e:+d}",
        "${a:+d}",
        "${u:-${a}}",
        "${u:-x${u:-y}}",
        "${a:?no}",
        "${e?no}",
        "${p#*.}",
        "${p##*.}",
        "${p%.*}",
        "${p%%.*}",
        "${p#f?o}",
        "${p#x}",
        "${s/x/Q}",
        "${s//\\//_}",
        "${m#a\\*}",
        "${m/\\*/-}",
        "${p/t*r/-}",
        "${p///}",
        "x$",
        "${g}",
        "${h}",
        "$i",
        "$TARGETARCH",
        "$1x",
        "${p//[/x}",
        "'a'\"b\"c",
        "${p/o/$a}",
        "${p//o}x/}",
        "${p/?/}",
        "${p//?/y}",
        "${p//*/y}",
    ];
    let copies: Vec<String> = words.iter().enumerate().map(|(index, word)| format!("COPY f /{index}-{word}")).collect();
    let text = format!(
        "FROM scratch\nARG a=1 e= p=foo.tar.gz s=x/y/z m=a*b g=arg\nENV g=env\nARG g=late\nARG h=$a$g TARGETARCH i=arg\nENV i=env\nARG i\n{}\n",
        copies.join("\n")
    );
    let file = Dockerfile::parse("Dockerfile", &text).unwrap();
    let expanded = file.expand(&BTreeMap::new(), &Platform::host()).unwrap();
    let ours: BTreeSet<String> = expanded.stages.last().unwrap().instructions.iter().filter_map(destination).collect();
    let root = tree(&["f"]);
    let built = built(&docker, root.path(), (text.strip_prefix("FROM scratch\n").unwrap(), "")).unwrap();
    let theirs = built.into_iter().filter(|entry| entry.kind == FileKind::File).map(|entry| entry.path.to_string());
    assert_eq!(ours, theirs.collect());
}

fn destination(instruction: &Instruction) -> Option<String> {
    match &instruction.kind {
        xtask_model::spec::dockerfile::Kind::Copy(copy) => Some(copy.destination.trim_start_matches('/').to_owned()),
        _ => None,
    }
}
