//! Locks of other tools as inputs of a base: `plan` over real git repositories, and the real uv as the judge of what its lock
//! means. No engine and no registry; a line says what was skipped where there is no uv.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use xtask_host::tree::files::Files as _;
use xtask_host::tree::{inputs, uv};
use xtask_model::image::policy::{self, Policy};
use xtask_model::spec::lock::closure::{environments, pins_of};
use xtask_model::spec::requirements::Marker;

const UV_LOCK: &str = include_str!("../../model/src/spec/lock/formats/fixtures/uv.lock");
const UV_PROJECT: &str = include_str!("../../model/src/spec/lock/formats/fixtures/uv.pyproject.toml");

/// Installs from what a build translates.
const BASE: &str =
    "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE} AS packages\nCOPY target/lock/packages.lock /build/\nRUN true\nFROM packages\n";

struct Repo(tempfile::TempDir);

impl Repo {
    /// A committed repository whose base installs from this lock.
    fn new(base: &str, files: &[(&str, &str)]) -> Self {
        let repo = Self(tempfile::tempdir().unwrap());
        let policy = format!(
            "[project]\nname = \"shop\"\nregistry = \"registry.example/acme\"\nplatforms = [\"linux/amd64\", \"linux/arm64\"]\n\
             [root]\nimage = \"registry.example/python:3.12\"\npython = \"3.12\"\n[base]\n{base}\n"
        );
        repo.write("images.toml", &policy);
        repo.write("dockerfiles/Dockerfile.base", BASE);
        repo.write("dockerfiles/Dockerfile.fast", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY shop /app\n");
        repo.write("dockerfiles/installer.lock", "");
        repo.write("shop/__init__.py", "");
        repo.write(".gitignore", "target\n");
        files.iter().for_each(|(path, text)| repo.write(path, text));
        repo.git(&["init", "-q", "-b", "main"]);
        repo.commit();
        repo
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path().join(path)).unwrap();
        assert!(text.contains(from), "`{path}` has no `{from}`");
        self.write(path, &text.replacen(from, to, 1));
    }

    #[track_caller]
    fn git(&self, args: &[&str]) {
        let settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        let done = Command::new("git").args(settings).args(args).current_dir(self.path()).status().unwrap();
        assert!(done.success(), "git {args:?}");
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "-qm", "change"]);
    }

    fn xtask(&self, args: &[&str]) -> Output {
        let mut call = Command::new(env!("CARGO_BIN_EXE_xtask"));
        call.arg("--root").arg(self.path()).args(args).env_remove("XTASK_REGISTRY").output().unwrap()
    }

    /// The plan of the last commit.
    #[track_caller]
    fn plan(&self) -> String {
        let output = self.xtask(&["--offline", "plan", "--base", "HEAD~1", "--head", "HEAD"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn policy(&self) -> Policy {
        policy::parse(&self.path().text(Path::new("images.toml")).unwrap(), &|path| self.path().join(path).is_file())
            .unwrap_or_else(|fault| panic!("{fault}"))
    }
}

fn with_members(base: &str) -> Repo {
    Repo::new(base, &[("uv.lock", UV_LOCK), ("pyproject.toml", UV_PROJECT)])
}

#[test]
fn a_change_of_the_lock_that_people_edit_plans_a_new_base() {
    let repo = with_members("lock = \"uv.lock\"\nextras = [\"postgres\"]");
    repo.edit("uv.lock", "name = \"pg8000\"\nversion = \"1.31.6\"", "name = \"pg8000\"\nversion = \"1.32.0\"");
    repo.commit();
    let plan = repo.plan();
    assert!(plan.starts_with("base+fast\n"), "{plan}");
    assert!(plan.contains("base: pg8000 1.31.6 -> 1.32.0 (uv.lock)"), "{plan}");
    repo.edit("uv.lock", "name = \"pytest\"\nversion = \"", "name = \"pytest\"\nversion = \"1");
    repo.commit();
    assert!(repo.plan().starts_with("skip\n"), "{}", repo.plan());
    // Where the project asks for something else, there is nothing to build before the lock follows.
    repo.edit("pyproject.toml", "\"redis>=5\"", "\"redis>=6\"");
    let output = repo.xtask(&["--offline", "plan", "--base", "HEAD"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`uv.lock` is out of date with `pyproject.toml`"), "{said}");
    assert!(said.contains("`redis>=6` of `pyproject.toml` is not in it") && said.contains("`uv lock`"), "{said}");
    let check = repo.xtask(&["lock", "--check"]);
    assert_eq!(check.status.code(), Some(6), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn metadata_of_installed_projects_follows_the_project() {
    let project = "[project]\nname = \"shop\"\nversion = \"1\"\n[project.scripts]\nshop = \"shop:main\"\n";
    let repo = with_members("lock = \"uv.lock\"");
    let text = fs::read_to_string(repo.path().join("images.toml")).unwrap();
    let text = text.replace("[root]", "installed = [\"shop/pyproject.toml\"]\n[root]");
    repo.write("images.toml", &text);
    repo.write("shop/pyproject.toml", project);
    let policy = repo.policy();
    let refused = |why: &str| {
        let fault = inputs::projects::check(repo.path(), &policy).unwrap_err();
        assert!(fault.causes.iter().any(|cause| cause.contains(why)), "{why}: {fault}");
    };
    refused("`dockerfiles/projects/bin/shop` is missing");
    let plan = repo.xtask(&["--offline", "plan", "--base", "HEAD"]);
    let said = String::from_utf8(plan.stderr).unwrap();
    assert_eq!(plan.status.code(), Some(2), "{said}");
    assert!(said.contains("the metadata of installed projects is out of date"), "{said}");
    assert_eq!(inputs::projects::write(repo.path(), &policy).unwrap().len(), 4);
    inputs::projects::check(repo.path(), &policy).unwrap();
    repo.edit("shop/pyproject.toml", "version = \"1\"", "version = \"2\"");
    refused("no project has `dockerfiles/projects/metadata/shop-1.dist-info`");
    inputs::projects::write(repo.path(), &policy).unwrap();
    inputs::projects::check(repo.path(), &policy).unwrap();
    // Python itself reads what is written.
    let read = "import importlib.metadata as m; print(m.version('shop'), m.entry_points(group='console_scripts')['shop'].value)";
    let mut python = Command::new("python3");
    python.args(["-S", "-c", read]).env("PYTHONPATH", repo.path().join("dockerfiles/projects/metadata"));
    let python = python.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&python.stdout), "2 shop:main\n");
}

#[test]
fn an_edit_of_several_requirement_files_is_drift_until_the_lock_is_written() {
    let project = "[project]\nname = \"shop\"\nversion = \"1\"\ndependencies = [\"flask\"]\n\
                   [dependency-groups]\nweb = [\"gunicorn\"]\n";
    let base = "requirements = [\"a.txt\", \"pyproject.toml\"]\ngroups = [\"web\"]\nlock = \"all.lock\"";
    let repo = Repo::new(base, &[("a.txt", "redis\n"), ("pyproject.toml", project), ("all.lock", "")]);
    let asked = inputs::asked(repo.path(), &repo.policy()).unwrap();
    assert_eq!(asked.names(), BTreeSet::from(["flask", "gunicorn", "redis"]));
    let hash = format!("--hash=sha256:{}", "0".repeat(64));
    let head = |digest| format!("# requirements: {digest}\n# python: >=3.12\n# resolver: uv 1\n");
    let lock = |digest| format!("{}flask==3 {hash}\ngunicorn==2 {hash}\nredis==5 {hash}\n", head(digest));
    repo.write("all.lock", &lock(asked.fingerprint()));
    let check = || {
        let output = repo.xtask(&["--offline", "lock", "--check"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check().0, Some(0), "{}", check().1);
    repo.edit("pyproject.toml", "\"gunicorn\"", "\"uvicorn\"");
    let (code, said) = check();
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("`uvicorn` is missing from it"), "{said}");
}

/// Made-up wheels: name, version, and what each requires.
const WHEELS: &[(&str, &str, &[&str])] = &[
    ("one", "1.0", &["two>=1", "three ; sys_platform == 'win32'", "four ; platform_machine == 'x86_64'"]),
    ("two", "1.0", &["five ; python_full_version < '3.12.4'", "six ; extra == 'fast'", "one"]),
    ("three", "1.0", &[]),
    ("four", "1.0", &["seven ; python_version < '3.13'"]),
    ("five", "1.0", &[]),
    ("six", "1.0", &["seven ; extra == 'x'", "eight ; platform_machine != 'x86_64'"]),
    ("seven", "1.0", &[]),
    ("eight", "1.0", &[]),
    ("nine", "1.0", &["two[fast] ; platform_machine == 'aarch64'"]),
    ("ten", "1.0", &[]),
    ("ten", "2.0", &[]),
];

fn make_wheels(folder: &Path) {
    const MAKE: &str = r#"
import sys, zipfile
folder, name, version, *requires = sys.argv[1:]
stem = f"{name}-{version}"
meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: fast\nProvides-Extra: x\n"
meta += "".join(f"Requires-Dist: {one}\n" for one in requires)
with zipfile.ZipFile(f"{folder}/{stem}-py3-none-any.whl", "w") as wheel:
    wheel.writestr(f"{stem}.dist-info/METADATA", meta)
    wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{stem}.dist-info/RECORD", "")
"#;
    fs::create_dir_all(folder).unwrap();
    for (name, version, requires) in WHEELS {
        let mut call = Command::new("python3");
        call.args(["-c", MAKE]).arg(folder).args([name, version]).args(*requires);
        assert!(call.status().unwrap().success());
    }
}

const PROJECT: &str = r#"
[project]
name = "shop"
version = "1"
requires-python = ">=3.9"
dependencies = ["one", "ten<2 ; platform_machine == 'x86_64'", "ten>=2 ; platform_machine != 'x86_64'"]
[project.optional-dependencies]
web = ["two[fast]"]
[dependency-groups]
dev = ["nine"]
[tool.uv]
package = false
no-index = true
find-links = ["wheels"]
"#;

#[test]
fn a_lock_means_what_uv_exports_from_it() {
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let Ok(uv) = uv::find(Path::new(env!("CARGO_TARGET_TMPDIR")), &extra) else {
        assert!(std::env::var_os("XTASK_REQUIRE_REAL").is_none(), "uv is missing");
        return println!("skipped: uv is missing");
    };
    let folder = tempfile::tempdir().unwrap();
    make_wheels(&folder.path().join("wheels"));
    fs::write(folder.path().join("pyproject.toml"), PROJECT).unwrap();
    let call = |args: &[&str]| {
        let output = Command::new(uv.program()).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "uv {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    call(&["lock", "--quiet", "--offline"]);
    // A folder of wheels tells no hashes.
    let hash = format!(".whl\", hash = \"sha256:{}\" }}", "0".repeat(64));
    let lock = fs::read_to_string(folder.path().join("uv.lock")).unwrap().replace(".whl\" }", &hash);
    for (base, flags) in [
        ("", &[][..]),
        ("extras = [\"web\"]", &["--extra", "web"]),
        ("groups = [\"dev\"]", &["--group", "dev"]),
        ("groups = [\"dev\"]\nextras = [\"web\"]", &["--extra", "web", "--group", "dev"]),
    ] {
        let repo =
            Repo::new(&format!("lock = \"uv.lock\"\n{base}"), &[("uv.lock", &lock), ("pyproject.toml", PROJECT)]);
        let policy = repo.policy();
        let found = inputs::read(repo.path(), &policy).unwrap_or_else(|fault| panic!("{fault}"));
        inputs::check(repo.path(), &policy, &found).unwrap_or_else(|fault| panic!("{fault}"));
        let mut args =
            vec!["export", "--quiet", "--frozen", "--offline", "--no-hashes", "--no-default-groups", "--no-header"];
        args.extend(flags);
        let exported = call(&args);
        for environment in environments(&policy.project.platforms, &policy.root.pythons()) {
            let lines = exported.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.is_empty());
            let theirs: BTreeSet<String> = lines
                .filter_map(|line| {
                    let (pin, marker) = line.split_once(" ; ").map_or((line, None), |(pin, rest)| (pin, Some(rest)));
                    let holds = marker.is_none_or(|text| environment.holds(&text.parse::<Marker>().unwrap(), ""));
                    holds.then(|| pin.trim().to_owned())
                })
                .collect();
            let (here, wrong) = pins_of(&found.lock.packages, &environment);
            assert!(wrong.is_empty(), "{wrong:?}");
            let ours: BTreeSet<String> =
                here.values().map(|package| format!("{}=={}", package.name, package.version)).collect();
            assert_eq!(ours, theirs, "{base} on {environment:?}\n{exported}");
        }
    }
}
