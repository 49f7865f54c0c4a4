//! `plan` after edits of the repositories in `examples`: each example as `init` leaves it, with its lock, and a table of edits with what
//! each has to build. No registry is asked and no engine is needed.

use crate::{example, history};
use example::copy;
use history::Repo;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use xtask::flags::{Format, Global, PlanFlags};
use xtask_host::tree::facts::Tree;
use xtask_host::tree::inputs;
use xtask_model::image::change::Work;
use xtask_model::spec::lock::Header;
use xtask_model::spec::lock::formats::Format as LockFormat;
use xtask_model::spec::reference::Digest;

/// An example, with the paths in it that are edited.
struct Example {
    name: &'static str,
    /// A folder that the app copies, and a file in it.
    folder: &'static str,
    file: &'static str,
    lock: &'static str,
    requirements: &'static str,
    /// The Dockerfile of the app with that folder.
    app: &'static str,
    /// That app, where there are several.
    app_name: Option<&'static str>,
}

const EXAMPLES: [Example; 5] = [
    Example {
        name: "flask",
        folder: "shop",
        file: "__init__.py",
        lock: "requirements.lock",
        requirements: "requirements.txt",
        app: "dockerfiles/Dockerfile.fast",
        app_name: None,
    },
    Example {
        name: "fastapi",
        folder: "src/api",
        file: "main.py",
        lock: "uv.lock",
        requirements: "pyproject.toml",
        app: "dockerfiles/Dockerfile.fast",
        app_name: None,
    },
    Example {
        name: "django",
        folder: "site_settings",
        file: "settings.py",
        lock: "poetry.lock",
        requirements: "pyproject.toml",
        app: "dockerfiles/Dockerfile.fast",
        app_name: None,
    },
    Example {
        name: "torch",
        folder: "score",
        file: "__main__.py",
        lock: "requirements-image.lock",
        requirements: "requirements.txt",
        app: "dockerfiles/Dockerfile.fast",
        app_name: None,
    },
    Example {
        name: "services",
        folder: "worker",
        file: "__main__.py",
        lock: "requirements.lock",
        requirements: "requirements.txt",
        app: "dockerfiles/Dockerfile.worker",
        app_name: Some("worker"),
    },
];

/// Images that an edit builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builds {
    Nothing,
    /// The app that has the edited folder, and no other.
    App,
    /// Other apps, and not that one.
    Others,
    /// The base and every app.
    All,
    /// Nothing is planned: what is committed contradicts itself.
    Refused,
}

enum How {
    Write(&'static str),
    Append(&'static str),
    Replace(&'static str, &'static str),
    Executable,
    Link(&'static str),
    Rename(&'static str),
    Remove,
    EmptyFolder,
    /// A repository of its own, with a file.
    Repository,
    /// Another value for the first hash of a package.
    OtherHash,
    /// Another time, the same bytes.
    Touch,
}

use Builds::{All, App, Nothing, Others, Refused};
use How::{Append, EmptyFolder, Executable, Link, OtherHash, Remove, Rename, Replace, Repository, Touch, Write};

/// A name of the edit, the path, the edit, and what it builds. `{folder}` and the others are fields of [`Example`].
const EDITS: &[(&str, &str, How, Builds)] = &[
    ("code", "{folder}/{file}", Append("\nVALUE = 1\n"), App),
    ("whitespace in code", "{folder}/{file}", Append("\n"), App),
    ("a comment in code", "{folder}/{file}", Append("# why\n"), App),
    ("code without contents", "{folder}/{file}", Write(""), App),
    ("code that is touched", "{folder}/{file}", Touch, Nothing),
    ("a deleted file", "{folder}/{file}", Remove, App),
    ("a renamed file", "{folder}/{file}", Rename("{folder}/other.py"), App),
    ("an executable file", "{folder}/{file}", Executable, App),
    ("a file that becomes a link", "{folder}/{file}", Link("other.py"), App),
    ("a link", "{folder}/link.py", Link("{file}"), App),
    ("a new file", "{folder}/new.py", Write("VALUE = 1\n"), App),
    ("a template", "{folder}/templates/new.html", Write("<p>new</p>\n"), App),
    ("a file with blanks in its name", "{folder}/a b.txt", Write("x\n"), App),
    ("a hidden file", "{folder}/.hidden", Write("x\n"), App),
    ("a cache of Python", "{folder}/__pycache__/new.cpython-312.pyc", Write("x"), Nothing),
    ("compiled code", "{folder}/new.pyc", Write("x"), Nothing),
    ("a repository in a copied folder", "{folder}/vendored", Repository, App),
    ("a repository outside", "vendored", Repository, Nothing),
    ("a file outside", "notes.txt", Write("x\n"), Nothing),
    ("a folder outside", "scripts/run.sh", Write("#!/bin/sh\n"), Nothing),
    ("an empty folder outside", "empty", EmptyFolder, Nothing),
    ("a readme", "README.md", Write("# Read me\n"), Nothing),
    ("documents", "docs/guide.md", Write("# Guide\n"), Nothing),
    ("a test", "tests/test_new.py", Write("def test(): pass\n"), Nothing),
    ("a smoke script", "tests/smoke.sh", Write("#!/bin/sh\n"), Nothing),
    ("a workflow", ".github/workflows/other.yml", Write("on: push\n"), Nothing),
    ("the former ignore file", ".dockerignore", Append("*.csv\n"), Nothing),
    ("a comment in the app's Dockerfile", "{app}", Append("# why\n"), Nothing),
    ("the app's Dockerfile", "{app}", Append("LABEL a=b\n"), App),
    ("a comment in the app's ignore file", "{app}.dockerignore", Append("# why\n"), Nothing),
    ("a file that the app leaves out", "{app}.dockerignore", Append("{folder}/{file}\n"), App),
    ("a comment in the base's Dockerfile", "dockerfiles/Dockerfile.base", Append("# why\n"), Nothing),
    ("the base's Dockerfile", "dockerfiles/Dockerfile.base", Append("LABEL a=b\n"), All),
    ("a comment in the base's ignore file", "dockerfiles/Dockerfile.base.dockerignore", Append("# why\n"), Nothing),
    ("another Dockerfile", "dockerfiles/Dockerfile.other", Write("FROM scratch\n"), Nothing),
    ("the base's check", "dockerfiles/check-imports.py", Append("\nprint()\n"), All),
    ("a comment in the lock", "{lock}", Append("# why\n"), Nothing),
    ("whitespace in the lock", "{lock}", Append("\n\n"), Nothing),
    ("a hash in the lock", "{lock}", OtherHash, All),
    ("a comment in the requirements", "{requirements}", Append("# why\n"), Nothing),
    ("whitespace in the requirements", "{requirements}", Append("\n"), Nothing),
    ("other requirements", "requirements-dev.txt", Write("pytest\n"), Nothing),
    ("a comment in the policy", "images.toml", Append("# why\n"), Nothing),
    ("the root", "images.toml", Replace("docker.io/library/python:3.12", "docker.io/library/python:3.13"), All),
    ("a step", "images.toml", Replace("name = \"smoke\"\nuses", "name = \"started\"\nuses"), Nothing),
    ("a number that builds the base again", "images.toml", Replace("[base]\n", "[base]\nepoch = 1\n"), All),
    ("the program of the repository", "xtask/src/main.rs", Append("// why\n"), Nothing),
    ("the workspace of the program", "Cargo.toml", Append("# why\n"), Nothing),
];

/// Edits of single examples.
const OWN: &[(&str, &str, &str, How, Builds)] = &[
    ("flask", "a requirement that is not locked", "requirements.txt", Append("requests==2.32.5\n"), Refused),
    ("flask", "another version of a requirement", "requirements.txt", Replace("==3.1.2", "==3.1.1"), Refused),
    ("flask", "the same requirement in other words", "requirements.txt", Replace("flask==", "Flask == "), Nothing),
    ("flask", "a mode of an image that is left out", "README.md", Executable, Nothing),
    ("flask", "the former Dockerfile", "Dockerfile", Append("LABEL a=b\n"), Nothing),
    ("fastapi", "the former Dockerfile", "Dockerfile", Append("LABEL a=b\n"), Nothing),
    ("django", "the former Dockerfile", "Dockerfile", Append("LABEL a=b\n"), Nothing),
    ("torch", "the former Dockerfile", "Dockerfile", Append("LABEL a=b\n"), Nothing),
    ("services", "the other app", "web/__init__.py", Append("# why\n"), Others),
    ("services", "the former Dockerfile, in a copied folder", "worker/Dockerfile", Append("LABEL a=b\n"), App),
    ("services", "the compose file", "compose.yaml", Append("# why\n"), Nothing),
    ("fastapi", "a member of the workspace", "packages/greeting/src/greeting/__init__.py", Append("# why\n"), App),
    ("fastapi", "metadata", "dockerfiles/projects/metadata/api-0.1.0.dist-info/INSTALLER", Append("x\n"), Refused),
    ("django", "a file at the top", "manage.py", Append("# why\n"), App),
    ("django", "a static file", "notes/static/notes/style.css", Append("p {}\n"), App),
    ("torch", "options of the requirements", "requirements-image.txt", Append("# why\n"), Nothing),
];

fn global(root: &Path) -> Global {
    Global {
        root: Some(root.to_owned()),
        registry: None,
        app: Vec::new(),
        format: Format::Text,
        locked: false,
        offline: true,
        verbose: false,
        quiet: true,
    }
}

impl Example {
    fn of(&self, text: &str) -> String {
        let fields = [
            ("{folder}", self.folder),
            ("{file}", self.file),
            ("{lock}", self.lock),
            ("{requirements}", self.requirements),
            ("{app}", self.app),
        ];
        fields.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// The repository after `init` and `lock`, committed.
    fn repository(&self) -> Repo {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let repo = Repo::new();
        for part in ["before", "after"] {
            copy(&top.join("examples").join(self.name).join(part), repo.root());
        }
        for file in ["install.py", "compile.py", "check-imports.py", "installer.lock"] {
            let path = Path::new("dockerfiles").join(file);
            std::fs::copy(top.join(&path), repo.root().join(&path)).unwrap();
        }
        self.lock(&repo);
        if self.name == "flask" {
            repo.file("README.md", "# Shop\n");
        }
        repo.commit("adopt");
        repo
    }

    /// A lock of `cargo xtask lock` with the pins of the requirements: what they require in turn changes no answer.
    fn lock(&self, repo: &Repo) {
        let policy = Tree::all(None, Box::new(repo.root().to_owned()), &[]).unwrap().swap_remove(0).policy;
        if policy.base.format() != LockFormat::Pip {
            return;
        }
        let found = inputs::read_requirements(repo.root(), &policy.base.requirements, &policy.base.selection).unwrap();
        let (python, resolver) = (format!(">={}", policy.root.python), "uv 0.13.9".to_owned());
        let mut text = Header { requirements: found.fingerprint(), python, resolver }.print("the requirements");
        for one in found.requirements() {
            let line = one.meaning().to_string();
            let _ = writeln!(text, "{line} \\\n    --hash={}", Digest::of(line.as_bytes()));
        }
        repo.file(self.lock, &text);
    }

    fn plan(&self, repo: &Repo) -> Builds {
        let flags = PlanFlags { base: Some("HEAD".to_owned()), head: None, event: None };
        let Ok(plans) = xtask::commands::plan::plan(&global(repo.root()), &flags, &|_| None) else { return Refused };
        let work = |is_meant: bool| {
            let of_app = plans.all().iter().filter(|plan| (plan.app_name.as_deref() == self.app_name) == is_meant);
            of_app.map(|plan| plan.decision).collect::<Vec<_>>()
        };
        let all = |found: &[Work], wanted: Work| found.iter().all(|work| *work == wanted);
        let (meant, others) = (work(true), work(false));
        assert_eq!(meant.len(), 1);
        match meant[0] {
            Work::Skip if all(&others, Work::Skip) => Nothing,
            Work::Fast if all(&others, Work::Skip) => App,
            Work::Skip if all(&others, Work::Fast) => Others,
            Work::BaseFast if all(&others, Work::BaseFast) => All,
            other => panic!("{other:?} and {others:?}"),
        }
    }

    fn edit(&self, root: &Path, path: &str, how: &How) {
        let path: PathBuf = root.join(self.of(path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        let write = |text: String| std::fs::write(&path, text).unwrap();
        match how {
            Write(text) => write(self.of(text)),
            Append(text) => write(read() + &self.of(text)),
            Replace(from, to) => {
                let text = read();
                assert!(text.contains(from), "`{}` has no `{from}`", path.display());
                write(text.replacen(from, to, 1));
            }
            Executable => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap(),
            Link(target) => {
                let _ = std::fs::remove_file(&path);
                symlink(self.of(target), &path).unwrap();
            }
            Rename(to) => std::fs::rename(&path, root.join(self.of(to))).unwrap(),
            Remove => std::fs::remove_file(&path).unwrap(),
            EmptyFolder => std::fs::create_dir(&path).unwrap(),
            Repository => {
                std::fs::create_dir_all(&path).unwrap();
                let inner = Repo::at(&path);
                inner.git(&["init", "-q"]);
                inner.file("module.py", "VALUE = 1\n");
                inner.commit("inner");
            }
            OtherHash => {
                let text = read();
                // The first hash of a package that is installed: not that of a source.
                let at = text.find(".whl").unwrap_or(0);
                let marker = if text.contains("--hash=sha256:") { "--hash=sha256:" } else { "hash = \"sha256:" };
                let at = at + text[at..].find(marker).unwrap() + marker.len();
                let other = if text[at..].starts_with('0') { "1" } else { "0" };
                write(format!("{}{other}{}", &text[..at], &text[at + 1..]));
            }
            Touch => {
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
                std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
            }
        }
    }

    /// Makes each edit alone, and compares what is built with the table.
    fn check(&self) {
        let repo = self.repository();
        assert_eq!(self.plan(&repo), Nothing, "{}: without an edit", self.name);
        let own = OWN.iter().filter(|(name, ..)| *name == self.name);
        let edits = EDITS.iter().map(|(what, path, how, builds)| (*what, *path, how, *builds));
        let edits: Vec<_> = edits.chain(own.map(|(_, what, path, how, builds)| (*what, *path, how, *builds))).collect();
        assert!(edits.len() >= 30);
        let mut wrong = String::new();
        for (what, path, how, builds) in edits {
            self.edit(repo.root(), path, how);
            let found = self.plan(&repo);
            if found != builds {
                let _ = writeln!(wrong, "{}: {what} (`{}`): {found:?}, not {builds:?}", self.name, self.of(path));
            }
            repo.git(&["reset", "-q", "--hard"]);
            repo.git(&["clean", "-ffdxq", "-e", "/target"]);
        }
        assert!(wrong.is_empty(), "\n{wrong}");
        assert_eq!(self.plan(&repo), Nothing, "{}: all edits are taken back", self.name);
    }
}

#[test]
fn flask_is_planned_right() {
    EXAMPLES[0].check();
}

#[test]
fn fastapi_is_planned_right() {
    EXAMPLES[1].check();
}

#[test]
fn django_is_planned_right() {
    EXAMPLES[2].check();
}

#[test]
fn torch_is_planned_right() {
    EXAMPLES[3].check();
}

#[test]
fn services_are_planned_right() {
    EXAMPLES[4].check();
}
