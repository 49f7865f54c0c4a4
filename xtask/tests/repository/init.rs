//! `init` on the repositories in `examples`: the real program on a copy of each `before`, which has to write its `after`; what it never
//! does to files that exist; and one example that is built and tested. `UPDATE_EXPECT=1` writes the `after` folders.

use crate::{debian_root, example, real_engine};
use example::{Example, REVISION, ROOT, files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

impl Example {
    /// Repository that `init` reads.
    fn before(name: &'static str) -> Self {
        Self::new(name, &["before"])
    }

    fn files(&self) -> BTreeMap<String, String> {
        files(&self.path())
    }

    /// `init` with what does not depend on this machine.
    fn init(&self, more: &[&str]) -> Output {
        self.ended(&[&["init", "--registry", "ghcr.io/acme", "--offline", "--xtask-rev", REVISION][..], more].concat())
    }

    fn ended(&self, args: &[&str]) -> Output {
        self.xtask(args).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// Compares what `init` wrote with an example's folder. Scripts and workflows are those of this repository, and are left out there.
#[track_caller]
fn writes(name: &'static str, after: &str, flags: &[&str]) {
    let example = Example::before(name);
    let before = example.files();
    ends(&example.init(&[&["--name", name], flags].concat()), 0);
    let mut wrote = example.files();
    for (path, text) in &before {
        assert_eq!(wrote.remove(path).as_ref(), Some(text), "`{path}` has changed");
    }
    for script in ["install.py", "compile.py", "check-imports.py"] {
        let path = format!("dockerfiles/{script}");
        assert_eq!(wrote.remove(&path).unwrap(), std::fs::read_to_string(Path::new(ROOT).join(&path)).unwrap());
    }
    let workflows =
        [".github/workflows/ci.yml", ".github/workflows/release.yml"].map(|path| wrote.remove(path).unwrap());
    assert!(workflows.iter().all(|text| text.contains("cargo xtask plan --format github")));
    let folder = Path::new(ROOT).join("examples").join(name).join(after);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        for (path, text) in &wrote {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    assert_eq!(wrote, files(&folder), "update: UPDATE_EXPECT=1 cargo test -p xtask --test repository init");
    // Once more: nothing to do.
    let again = ends(&example.init(&[&["--name", name], flags].concat()), 0);
    assert!(again.contains("unchanged") && !again.contains("wrote"), "{again}");
}

#[test]
fn flask_with_requirements() {
    writes("flask", "after", &[]);
}

#[test]
fn fastapi_in_a_workspace_of_uv() {
    writes("fastapi", "after", &[]);
}

#[test]
fn django_with_collectstatic() {
    writes("django", "after", &[]);
}

#[test]
fn torch_from_an_index_of_its_own() {
    writes("torch", "after", &[]);
}

#[test]
fn several_dockerfiles_are_apps_of_one_policy() {
    writes("services", "after", &[]);
    // Those for development are left out, and one can be chosen.
    let example = Example::before("services");
    example.write("Dockerfile.dev", "FROM scratch\n");
    let said = ends(&example.init(&["--context", "."]), 2);
    assert!(said.contains("`--context` is for one Dockerfile") && said.contains("`web/Dockerfile`"), "{said}");
    let said = ends(&example.init(&["--dockerfile", "web/Dockerfile", "--dry-run"]), 0);
    assert!(!said.contains("worker"), "{said}");
    let said = ends(&example.init(&[]), 0);
    assert!(said.contains("`Dockerfile.dev`: for development or tests"), "{said}");
    let policy = example.read("images.toml");
    assert_eq!((policy.matches("[[app]]").count(), policy.matches("[base]").count()), (2, 1), "{policy}");
    // Again, it finds what it wrote, and changes nothing.
    let before = example.files();
    ends(&example.init(&[]), 0);
    assert_eq!(example.files(), before);
}

#[test]
fn apps_with_different_packages_get_a_base_each_and_different_roots_are_refused() {
    let example = Example::before("services");
    example.write("worker/requirements.txt", "requests==2.32.5\n");
    let text = example.read("worker/Dockerfile").replace("requirements.txt .", "worker/requirements.txt .");
    example.write("worker/Dockerfile", &text.replace("-r requirements.txt", "-r requirements.txt\nWORKDIR /srv"));
    ends(&example.init(&[]), 0);
    let policy = example.read("images.toml");
    for line in ["[bases.web]", "[bases.worker]", "base = \"worker\"", "requirements = \"worker/requirements.txt\""] {
        assert!(policy.lines().any(|found| found == line), "{line}:\n{policy}");
    }
    assert!(example.read("dockerfiles/Dockerfile.base-worker.dockerignore").contains("!worker/requirements.lock\n"));
    let example = Example::before("services");
    example.write("worker/Dockerfile", &text.replace("3.12", "3.13"));
    let before = example.files();
    let said = ends(&example.init(&[]), 6);
    assert!(said.contains("`worker/Dockerfile` cannot be translated whole"), "{said}");
    assert!(said.contains("a policy has one root") && said.contains("leave out a Dockerfile"), "{said}");
    assert_eq!(example.files(), before);
}

#[test]
fn a_dry_run_prints_every_file_and_writes_none() {
    let example = Example::before("flask");
    let before = example.files();
    let output = example.init(&["--dry-run"]);
    ends(&output, 0);
    assert_eq!(example.files(), before);
    let printed = String::from_utf8(output.stdout).unwrap();
    for path in
        ["images.toml", "dockerfiles/Dockerfile.base", "dockerfiles/Dockerfile.fast", "xtask/src/main.rs", "Cargo.toml"]
    {
        assert!(printed.contains(&format!("==> {path} <==\n")), "{path}");
    }
}

#[test]
fn files_that_exist_are_replaced_only_by_force_and_with_their_difference() {
    let example = Example::before("flask");
    example.write("images.toml", "# mine\n");
    example.write("Cargo.toml", "[workspace]\nmembers = [\"tool\"]\n");
    let before = example.files();
    let said = ends(&example.init(&[]), 2);
    assert!(
        said.contains("`Cargo.toml`") && said.contains("`images.toml`") && said.contains("nothing was written"),
        "{said}"
    );
    assert_eq!(example.files(), before);
    let said = ends(&example.init(&["--force"]), 0);
    assert!(said.contains("-# mine\n") && said.contains("+members = [\"xtask\", \"tool\"]"), "{said}");
    assert!(example.read("images.toml").contains("[project]"));
}

#[test]
fn gitlabs_file_is_written_and_somebody_elses_is_kept() {
    let fresh = Example::before("flask");
    ends(&fresh.init(&["--ci", "gitlab"]), 0);
    assert!(fresh.read("images.toml").contains("[ci]\nprovider = \"gitlab\"\n"));
    assert!(fresh.read(".gitlab-ci.yml").contains("cargo xtask plan --format gitlab"));
    assert!(!fresh.path().join(".github").exists());
    ends(&fresh.ended(&["workflows", "--check"]), 0);

    let used = Example::before("flask");
    let theirs = "test:\n  script: make test\n";
    used.write(".gitlab-ci.yml", theirs);
    let report = ends(&used.init(&[]), 0);
    assert!(report.contains("add to it: `include: [{local: .gitlab/images.yml}]`"), "{report}");
    assert_eq!(used.read(".gitlab-ci.yml"), theirs);
    assert!(used.read(".gitlab/images.yml").contains("xtask-images:"));
    let again = ends(&used.init(&[]), 0);
    assert!(!again.contains("wrote"), "{again}");
    used.write(".gitlab-ci.yml", &format!("include: [{{local: .gitlab/images.yml}}]\n{theirs}"));
    ends(&used.ended(&["workflows", "--check"]), 0);
}

#[test]
fn other_peoples_dockerfiles_and_workflows_stay() {
    let example = Example::before("flask");
    example.write("dockerfiles/Dockerfile.base", "FROM scratch\n");
    example.write(".github/workflows/ci.yml", "name: mine\n");
    let said = ends(&example.init(&["--dockerfile", "Dockerfile"]), 0);
    assert_eq!(example.read("dockerfiles/Dockerfile.base"), "FROM scratch\n");
    assert_eq!(example.read(".github/workflows/ci.yml"), "name: mine\n");
    assert!(example.read("images.toml").contains("dockerfile = \"images/Dockerfile.base\""));
    assert!(said.contains("a workflow of another origin has this name"), "{said}");
}

#[test]
fn a_place_that_cannot_be_written_leaves_everything_as_it_was() {
    let example = Example::before("flask");
    example.write("xtask", "a file\n");
    let before = example.files();
    let said = ends(&example.init(&[]), 2);
    assert!(said.contains("cannot write `xtask/Cargo.toml`"), "{said}");
    assert_eq!(example.files(), before);
}

#[test]
fn git_gives_the_registry_and_ignored_files_stay_out_of_the_app() {
    let example = Example::before("flask");
    let git = |args: &[&str]| {
        let status = Command::new("git").arg("-C").arg(example.path()).args(args).status().unwrap();
        assert!(status.success(), "{args:?}");
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "origin", "git@github.com:Acme/shop.git"]);
    example.write(".gitignore", "secrets/\n");
    example.write("secrets/key.pem", "secret\n");
    // Nothing is committed: the tree is dirty.
    let output = example.ended(&["init", "--offline", "--xtask-rev", REVISION]);
    ends(&output, 0);
    let policy = example.read("images.toml");
    assert!(policy.contains("registry = \"ghcr.io/acme\"\nsource = \"https://github.com/Acme/shop\""), "{policy}");
    assert!(!example.read("dockerfiles/Dockerfile.fast.dockerignore").contains("secrets"));
    assert_eq!(example.read(".gitignore"), "secrets/\n");
}

#[test]
fn what_cannot_be_translated_is_listed_and_nothing_is_written() {
    let example = Example::before("flask");
    example.write("Dockerfile", "FROM jupyterhub/jupyterhub:5\nRUN conda install numpy\nCOPY shop /shop\n");
    let before = example.files();
    let said = ends(&example.init(&[]), 6);
    for part in [
        "Dockerfile:1: `FROM jupyterhub/jupyterhub:5`",
        "Dockerfile:2: `conda install numpy`",
        "--root-image",
        "nothing was written",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(example.files(), before);
    // The registry is a question too.
    let said = ends(&example.ended(&["init", "--offline"]), 2);
    assert!(said.contains("--registry"), "{said}");
}

/// The native engine, on the image of the policy or, where its registry is unreachable, a root from Debian packages.
#[test]
fn the_flask_example_builds_and_answers() {
    let Some(_engine) = real_engine::engine() else { return };
    let example = Example::before("flask");
    ends(&example.init(&["--name", "flask"]), 0);
    // A root from Debian packages is made once for all.
    let (_, shared, _) = debian_root::shared();
    std::fs::create_dir_all(example.path().join("target/images")).unwrap();
    std::os::unix::fs::symlink(shared, example.path().join("target/images/root")).unwrap();
    ends(&example.ended(&["lock"]), 0);
    ends(&example.ended(&["build", "--engine", "native"]), 0);
    let said = ends(&example.ended(&["smoke"]), 0);
    assert!(said.contains("runs as user 1000") && said.contains("serves http://127.0.0.1:8000/health"), "{said}");
}

/// Everything below a folder with kind, mode and contents; not git's own files.
fn state(folder: &Path) -> BTreeMap<String, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let is_own = name == ".git" || name.starts_with(".git/");
            let what = if meta.is_symlink() {
                format!("link {}", std::fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                open.push(path);
                String::from("folder")
            } else {
                std::fs::read_to_string(&path).unwrap_or_default()
            };
            if !is_own {
                found.insert(name, format!("{:o} {what}", meta.permissions().mode()));
            }
        }
    }
    found
}

/// Calls `init` through a shell that first makes the folder one that cannot be written.
fn init_within(example: &Example, program: &[&str], more: &[&str]) -> Output {
    let init = ["init", "--registry", "ghcr.io/acme", "--offline", "--xtask-rev", REVISION, "--root"];
    let mut call = Command::new(program[0]);
    call.args(&program[1..]).arg(env!("CARGO_BIN_EXE_xtask")).args(init).arg(example.path()).args(more);
    call.env_remove("XTASK_REGISTRY").env_remove("CI").stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn links_are_never_written_through() {
    let example = Example::before("flask");
    let outside = example.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("policy"), "theirs\n").unwrap();
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, example.path().join(name)).unwrap();
    for (name, target) in [
        ("images.toml", outside.join("policy")),
        ("dockerfiles", outside.clone()),
        ("xtask", PathBuf::from("nowhere")),
        (".cargo", PathBuf::from("shop")),
    ] {
        link(&target, name);
        let before = (state(&example.path()), state(&outside));
        for flags in [&[][..], &["--force"]] {
            let said = ends(&example.init(flags), 2);
            assert!(said.contains(&format!("cannot write `{name}")), "{name}: {said}");
            assert_eq!((state(&example.path()), state(&outside)), before, "{name}");
        }
        std::fs::remove_file(example.path().join(name)).unwrap();
    }
    ends(&example.init(&[]), 0);
}

#[test]
fn a_read_only_file_system_is_a_fault_and_stays_as_it_is() {
    let mount = "mount --bind \"$8\" \"$8\" && mount -o remount,ro,bind \"$8\" && exec \"$0\" \"$@\"";
    let program = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount];
    let works = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("XTASK_REQUIRE_REAL").is_none(), "user namespaces are needed");
        println!("skipped: no user namespaces");
        return;
    }
    let example = Example::before("flask");
    let before = state(&example.path());
    let said = ends(&init_within(&example, &program, &[]), 2);
    assert!(said.contains("cannot write") && said.contains("Read-only file system"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(state(&example.path()), before);
    // A dry run needs no rights.
    ends(&init_within(&example, &program, &["--dry-run"]), 0);
}

#[test]
fn a_folder_without_rights_is_a_fault_and_stays_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let example = Example::before("flask");
    let set = |path: PathBuf, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let plain = ["env"];
    let program = if is_root { &nobody[..] } else { &plain };
    let usable =
        Command::new(program[0]).args(&program[1..]).args(["test", "-x", env!("CARGO_BIN_EXE_xtask")]).status();
    if !usable.is_ok_and(|status| status.success()) {
        println!("skipped: another user cannot run the program");
        return;
    }
    set(example.folder.path().to_owned(), 0o755);
    for folder in ["", "dockerfiles", ".cargo"] {
        std::fs::create_dir_all(example.path().join(folder)).unwrap();
        set(example.path(), if folder.is_empty() { 0o555 } else { 0o777 });
        set(example.path().join(folder), 0o555);
        let before = state(&example.path());
        let said = ends(&init_within(&example, program, &[]), 2);
        assert!(said.contains("cannot write") && said.contains("Permission denied"), "{folder}: {said}");
        assert!(said.contains("nothing was changed"), "{folder}: {said}");
        assert_eq!(state(&example.path()), before, "{folder}");
        set(example.path().join(folder), 0o777);
    }
    // A file that cannot be read is not taken for one that is missing.
    std::fs::write(example.path().join("images.toml"), "# mine\n").unwrap();
    set(example.path().join("images.toml"), 0o000);
    if is_root {
        let before = state(&example.path());
        let said = ends(&init_within(&example, program, &["--force"]), 2);
        assert!(said.contains("cannot write `images.toml`"), "{said}");
        assert_eq!(state(&example.path()), before);
    }
}

/// A signal at any time: what existed is as it was, and a file is new and whole, or missing. The next call finishes the work.
#[test]
fn an_interrupted_call_loses_nothing_and_the_next_one_finishes() {
    let whole = Example::before("services");
    whole.write("Cargo.toml", "[workspace]\nmembers = [\"tool\"]\n");
    let before = whole.files();
    let began = std::time::Instant::now();
    ends(&whole.init(&["--force", "--name", "shop"]), 0);
    let (needed, after) = (began.elapsed(), whole.files());
    let (mut cut, mut partly) = (0, 0);
    for step in 0..30_u32 {
        let example = Example::before("services");
        example.write("Cargo.toml", "[workspace]\nmembers = [\"tool\"]\n");
        let signal = ["KILL", "INT", "TERM"][step as usize % 3];
        let mut call = Command::new(env!("CARGO_BIN_EXE_xtask"));
        call.args(["init", "--force", "--name", "shop", "--registry", "ghcr.io/acme", "--offline"]);
        call.args(["--xtask-rev", REVISION, "--root"]).arg(example.path()).stdin(std::process::Stdio::null());
        let mut call = call.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(needed * step / 28);
        let _ = Command::new("kill").args([&format!("-{signal}"), &call.id().to_string()]).output().unwrap();
        let status = call.wait().unwrap();
        let mut found = example.files();
        found.retain(|path, _| !path.starts_with(".xtask-init-"));
        for (path, text) in &found {
            let is_old = before.get(path) == Some(text);
            assert!(is_old || after.get(path) == Some(text), "{signal} after {step}/28: `{path}` is\n{text}");
        }
        assert!(before.keys().all(|path| found.contains_key(path)), "{signal} after {step}/28: a file is lost");
        if !status.success() {
            cut += 1;
            partly += u32::from(found != before);
            // Only a killed process leaves part of its files.
            assert!(signal == "KILL" || found == before, "{signal} after {step}/28: files were left");
        }
        ends(&example.init(&["--force", "--name", "shop"]), 0);
        assert_eq!(example.files(), after, "{signal} after {step}/28");
    }
    println!("{cut} of 30 calls ended early, {partly} with a part of the files");
    assert!(cut > 3, "the signals came too late to show anything");
}

#[test]
fn a_tree_with_changes_that_are_not_committed_keeps_them() {
    let example = Example::before("flask");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").arg("-C").arg(example.path()).args(identity).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "first"]);
    example.write("shop/__init__.py", "# edited\n");
    example.write("shop/new.py", "# not added\n");
    example.write("staged.py", "# staged\n");
    git(&["add", "staged.py"]);
    std::fs::remove_file(example.path().join("README.md")).unwrap();
    let (before, status) = (state(&example.path()), git(&["status", "--porcelain"]));
    ends(&example.init(&[]), 0);
    let after = state(&example.path());
    assert!(before.iter().all(|(path, what)| after.get(path) == Some(what)));
    let now = git(&["status", "--porcelain"]);
    assert!(status.lines().all(|line| now.lines().any(|other| other == line)), "{now}");
}
