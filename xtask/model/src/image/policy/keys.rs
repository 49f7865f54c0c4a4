//! Every table and key of `images.toml`: its type, default, engines and meaning.
//!
//! The parser, the reference and the JSON Schema all read this one table. A `toml_reader::Section` takes ranges from it, calls
//! every other key unknown, and asserts that it reads each key of its table.

use std::fmt;

/// A table of the policy.
#[derive(Debug)]
pub struct Table {
    /// Full name, `root.debian`; empty for the whole file.
    pub name: &'static str,
    pub meaning: &'static str,
    /// In the order of the reference.
    pub keys: &'static [PolicyKey],
}

/// A key of a table.
#[derive(Debug)]
pub struct PolicyKey {
    pub name: &'static str,
    pub kind: ValueKind,
    pub default: Default,
    pub engine: KeyEngine,
    /// A phrase in Markdown, without a full stop at its end.
    pub meaning: &'static str,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueKind {
    /// A string that is not empty.
    Text,
    /// A path of a file in the repository.
    Path,
    /// A path of a file in the repository, or a list of them.
    Paths,
    /// Numbers with dots between: `3.12`.
    Version,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number between these two, both included.
    Whole(i64, i64),
    /// A number that is not smaller.
    AtLeast(f64),
    /// A number from 0 to 1.
    Share,
    Boolean,
    /// A list of strings.
    Texts,
    /// A list of these words.
    Choices(&'static [&'static str]),
    /// A list of platforms, `linux/amd64`.
    Platforms,
    /// Strings by any name.
    Map,
    /// Some of these words by any name.
    MapOf(&'static [&'static str]),
    /// A table of its own, in [`TABLES`].
    Table,
    /// Tables of a list, `[[step]]`; in [`TABLES`].
    Tables,
    /// A table, or tables of a list: `[app]` or `[[app]]`; in [`TABLES`].
    TableOrTables,
    /// Tables by any name, each with the keys of another one in [`TABLES`].
    Named(&'static str),
    /// One of these words for both engines, or a table with one for each.
    ForEach(&'static [&'static str]),
}

/// The value of a key that is not written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// The key must be written.
    Required,
    /// Nothing.
    None,
    /// This string.
    Text(&'static str),
    /// This number.
    Number(i64),
    /// This value, as TOML spells it.
    Toml(&'static str),
    /// A value that follows from others, in Markdown.
    Derived(&'static str),
}

/// Engine that uses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEngine {
    Both,
    /// Each has a value of its own.
    Each,
    Docker,
    Native,
}

impl fmt::Display for KeyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Each => "each its own",
            Self::Docker => "docker",
            Self::Native => "native",
        })
    }
}

impl Table {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static PolicyKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The table's header in the file: `[base]`, or `[[step]]` for a list.
    pub fn header(&self) -> String {
        let (above, name) = self.name.rsplit_once('.').unwrap_or(("", self.name));
        let is_list = table(above).key(name).is_some_and(|key| key.kind == ValueKind::Tables);
        if is_list { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

/// The table of this full name. Tables that have the keys of another one share its description.
pub fn table(name: &str) -> &'static Table {
    let shared = name.strip_prefix("app.").filter(|rest| *rest == "smoke" || rest.starts_with("smoke."));
    let base = name.strip_prefix("bases.").map(|rest| match rest.split_once('.') {
        Some((_, below)) => format!("base.{below}"),
        None => "base".to_owned(),
    });
    let name = base.as_deref().or(shared).unwrap_or(name);
    TABLES.iter().find(|table| table.name == name).expect("every table that is read has a description")
}

impl PolicyKey {
    /// A setting of a plugin.
    pub const fn plugin(name: &'static str, kind: ValueKind, default: Default, meaning: &'static str) -> Self {
        key(name, kind, default, meaning)
    }
}

const fn key(name: &'static str, kind: ValueKind, default: Default, meaning: &'static str) -> PolicyKey {
    PolicyKey { name, kind, default, engine: KeyEngine::Both, meaning }
}

const fn of(engine: KeyEngine, key: PolicyKey) -> PolicyKey {
    PolicyKey { engine, ..key }
}

/// As [`DEFAULT_DOCUMENTS`](super::DEFAULT_DOCUMENTS), which a test compares.
const DOCUMENTS: &str = "[\"**/*.md\", \"**/*.rst\", \"docs\", \"LICENSE*\", \"CODEOWNERS\", \".github/CODEOWNERS\", \
                         \".github/ISSUE_TEMPLATE\", \".github/PULL_REQUEST_TEMPLATE\"]";
const COMPRESSIONS: &[&str] = &["gzip", "zstd"];

/// Every table, in the order of the reference.
pub const TABLES: &[Table] = &[
    Table {
        name: "",
        meaning: "The whole file.",
        keys: &[
            key("project", ValueKind::Table, Default::Required, "the project as a whole"),
            key("root", ValueKind::Table, Default::Required, "the operating system and Python"),
            key(
                "base",
                ValueKind::Table,
                Default::None,
                "the base image; with `[bases.NAME]`, what those have in common",
            ),
            key(
                "bases",
                ValueKind::Named("base"),
                Default::None,
                "several bases by name, `[bases.NAME]`, each with the keys of `[base]`; a key that one does not have is that of `[base]`. The repository of each is `PROJECT-NAME-base` by default",
            ),
            key(
                "app",
                ValueKind::TableOrTables,
                Default::None,
                "the app image: `[app]`, or `[[app]]` for each of several",
            ),
            key("smoke", ValueKind::Table, Default::None, "smoke tests"),
            key("step", ValueKind::Tables, Default::None, "programs and checks around a build"),
            key("lock", ValueKind::Table, Default::None, "upgrades of what is locked"),
            key("ci", ValueKind::Table, Default::None, "generated workflows"),
        ],
    },
    Table {
        name: "project",
        meaning: "The project as a whole.",
        keys: &[
            key("name", ValueKind::Text, Default::Required, "name of the project"),
            key(
                "registry",
                ValueKind::Text,
                Default::Required,
                "registry host and the path prefix of all repositories; `--registry` or `XTASK_REGISTRY` replaces it",
            ),
            key(
                "insecure-registries",
                ValueKind::Texts,
                Default::None,
                "registries (`host:port`) that use plain HTTP, besides those on loopback; Docker's engine has its own setting of that name",
            ),
            key(
                "source",
                ValueKind::Text,
                Default::None,
                "URL of the source, for the label `org.opencontainers.image.source`; CI of a fork of it publishes nothing",
            ),
            key("default-branch", ValueKind::Text, Default::Text("main"), "the branch that moves `latest`"),
            key(
                "engine",
                ValueKind::Choice(&["auto", "docker", "native"]),
                Default::Text("auto"),
                "what builds; `auto` is docker where it answers, native otherwise. `--engine` replaces it",
            ),
            key(
                "moving-tags",
                ValueKind::Choices(&["branch", "latest"]),
                Default::Toml("[\"branch\", \"latest\"]"),
                "moving tags to publish. Use `[]` for a registry with immutable tags (Amazon ECR, Google Artifact Registry)",
            ),
            key(
                "shared-tags",
                ValueKind::Choice(&["ci", "anywhere"]),
                Default::Text("ci"),
                "who sets `latest` and the tags of commits and versions: `ci`, after the tests, or every `--push`. A registry on this machine takes them from everybody",
            ),
            key(
                "installed",
                ValueKind::Paths,
                Default::None,
                "`pyproject.toml`, `setup.cfg` or `setup.py` files of projects that apps have as if they were installed: `cargo xtask lock` writes their metadata and programs next to the base's Dockerfile, in `projects/metadata` and `projects/bin`, and the app's Dockerfile copies them",
            ),
            key(
                "allow-ignored",
                ValueKind::Texts,
                Default::None,
                "files that an image may contain although git ignores them, as patterns of an ignore file. Without it such a file is an error. An image with such a file gets no tag of the commit, and `latest` stays",
            ),
            key("platforms", ValueKind::Platforms, Default::Derived("this machine's"), "platforms of a complete image"),
        ],
    },
    Table {
        name: "root",
        meaning: "The operating system and Python.",
        keys: &[
            key(
                "image",
                ValueKind::Text,
                Default::Required,
                "the root image by tag; `cargo xtask lock` writes its digests to `images.lock`",
            ),
            key(
                "python",
                ValueKind::Version,
                Default::Required,
                "the root's Python, for which requirements are resolved: `3.12`",
            ),
            key(
                "fallback",
                ValueKind::Choice(&["debian"]),
                Default::None,
                "build a root from Debian packages if the network does not reach the registry of `image` (no name, no route, no connection). A registry that answers with an error is an error. `--locked` refuses the fallback",
            ),
            key(
                "fallback-publishes",
                ValueKind::Choice(&["never", "loopback", "always"]),
                Default::Text("never"),
                "where images on the fallback root get tags of commits, branches and versions, and `latest`; `loopback` is a registry on this machine. Elsewhere they have only their fingerprint's tag",
            ),
            key("debian", ValueKind::Table, Default::None, "the fallback root"),
        ],
    },
    Table {
        name: "root.debian",
        meaning: "The fallback root; needs `fallback = \"debian\"`.",
        keys: &[
            key("suite", ValueKind::Text, Default::Text("trixie"), "release of Debian"),
            key(
                "python",
                ValueKind::Version,
                Default::Derived("the release's"),
                "Python of that release; may not be older than `root.python`",
            ),
            key("packages", ValueKind::Texts, Default::None, "Debian packages besides Python's own"),
        ],
    },
    Table {
        name: "base",
        meaning: "The base image: root, locked Python packages, system libraries, user. Several bases are written `[bases.NAME]`, each with these keys; a key that one does not have is that of `[base]`. Their repositories are `PROJECT-NAME-base` by default.",
        keys: &[
            key(
                "repository",
                ValueKind::Text,
                Default::Derived("`NAME-base`"),
                "name of its repository under the registry",
            ),
            key("dockerfile", ValueKind::Path, Default::Text("dockerfiles/Dockerfile.base"), "its Dockerfile"),
            key(
                "requirements",
                ValueKind::Paths,
                Default::Text("requirements-enhanced.txt"),
                "the required Python packages: requirement files, or a `pyproject.toml`, `setup.cfg` or `setup.py` with its requirements written out. Another tool's `lock` takes its place",
            ),
            key(
                "lock",
                ValueKind::Path,
                Default::Text("requirements-enhanced.lock"),
                "the locked packages. `cargo xtask lock` writes it from `requirements`; a `uv.lock`, `pylock.toml`, `poetry.lock` or `Pipfile.lock` is used as its own tool writes it, and the Dockerfile installs from `target/lock/packages.lock`, which each build makes from it",
            ),
            key(
                "groups",
                ValueKind::Texts,
                Default::None,
                "dependency groups of the project that belong into the image, besides its own dependencies; of a `Pipfile.lock` its categories",
            ),
            key("extras", ValueKind::Texts, Default::None, "extras of the project that belong into the image"),
            key(
                "members",
                ValueKind::Texts,
                Default::Derived("the project next to `uv.lock`, or all members"),
                "members of a uv workspace whose dependencies belong into the image",
            ),
            key(
                "installer",
                ValueKind::Path,
                Default::Text("dockerfiles/installer.lock"),
                "the installer with version and hashes; `cargo xtask lock` writes it",
            ),
            key("args", ValueKind::Map, Default::None, "build arguments, each declared by an `ARG`; part of the key"),
            key(
                "tag-length",
                ValueKind::Whole(8, 64),
                Default::Number(12),
                "hexadecimal digits of the fingerprint in the tag",
            ),
            key(
                "epoch",
                ValueKind::Whole(0, u32::MAX as i64 - 1),
                Default::Number(0),
                "raise it to rebuild everything once",
            ),
            of(
                KeyEngine::Each,
                key(
                    "compression",
                    ValueKind::ForEach(COMPRESSIONS),
                    Default::Text("gzip"),
                    "compression of layers. The native engine writes zstd at a seventh of the speed of gzip, and not smaller; docker does not recompress layers of its build cache",
                ),
            ),
            key(
                "stages",
                ValueKind::MapOf(&["python-packages", "system-packages", "user"]),
                Default::None,
                "the recipe that builds a stage of the Dockerfile without running it, by the stage's name, for the native engine. A stage with other instructions than the recipe's is refused with its line. With `system-packages`, `images.lock` pins the Debian packages of `SYSTEM_PACKAGES` in `[base.args]` for both engines",
            ),
            of(
                KeyEngine::Native,
                key(
                    "layers-from",
                    ValueKind::Texts,
                    Default::None,
                    "repositories of other bases in the same registry, `ghcr.io/acme/shop-base`: a layer that `latest` of one has, made of the same wheels for the same Python, is mounted and not built. Whoever may write there decides what is in these layers",
                ),
            ),
        ],
    },
    Table {
        name: "base.compression",
        meaning: "One compression for each engine.",
        keys: &[
            of(
                KeyEngine::Docker,
                key("docker", ValueKind::Choice(COMPRESSIONS), Default::Text("gzip"), "layers that docker builds"),
            ),
            of(
                KeyEngine::Native,
                key(
                    "native",
                    ValueKind::Choice(COMPRESSIONS),
                    Default::Text("gzip"),
                    "layers that the native engine builds",
                ),
            ),
        ],
    },
    Table {
        name: "app",
        meaning: "The app image: base, code, templates, binary. Several apps are written `[[app]]`, once for each.",
        keys: &[
            key(
                "name",
                ValueKind::Text,
                Default::Derived("required in `[[app]]`"),
                "name of one of several apps, for `--app`: lowercase letters, digits and `-`",
            ),
            key(
                "base",
                ValueKind::Text,
                Default::Derived("the only one"),
                "the base of one of several apps: `[bases.NAME]`",
            ),
            key(
                "smoke",
                ValueKind::Table,
                Default::Derived("`[smoke]`"),
                "smoke tests of one of several apps, with the keys of `[smoke]`",
            ),
            key(
                "repository",
                ValueKind::Text,
                Default::Derived("`NAME`, in `[[app]]` `PROJECT-NAME`"),
                "name of its repository under the registry",
            ),
            key(
                "dockerfile",
                ValueKind::Path,
                Default::Text("dockerfiles/Dockerfile.fast"),
                "the Dockerfile that copies onto the base",
            ),
            of(
                KeyEngine::Docker,
                key("enhanced", ValueKind::Path, Default::None, "the Dockerfile that builds everything from scratch"),
            ),
            key(
                "context",
                ValueKind::Text,
                Default::Derived("the repository"),
                "folder that `COPY` and `.dockerignore` of both Dockerfiles are relative to, as in `docker build FOLDER`; not with `binary`",
            ),
            key("args", ValueKind::Map, Default::None, "build arguments of both Dockerfiles; part of the key"),
            key("binary", ValueKind::Table, Default::None, "a program that cargo compiles on the host"),
        ],
    },
    Table {
        name: "app.binary",
        meaning: "A program that cargo compiles on the host. The Dockerfile gets its path as `BINARY`.",
        keys: &[
            key("package", ValueKind::Text, Default::Required, "the cargo package"),
            key("name", ValueKind::Text, Default::Derived("the package's"), "the binary in it"),
            key("profile", ValueKind::Text, Default::Text("release"), "the cargo profile"),
            key(
                "glibc",
                ValueKind::Version,
                Default::None,
                "newest glibc symbol version of the root: a binary that needs a newer one is refused. Not checked by default",
            ),
            of(
                KeyEngine::Docker,
                key(
                    "rust-image",
                    ValueKind::Text,
                    Default::None,
                    "image with cargo for `app.enhanced`. If it cannot be pulled, the host's toolchain of rustup compiles, or Debian's cargo",
                ),
            ),
            key(
                "embeds",
                ValueKind::Boolean,
                Default::Toml("false"),
                "`true` if the binary is compiled from files that the image copies too: they then count for both. Without it a build refuses such a binary",
            ),
            key(
                "dependencies",
                ValueKind::Choice(&["registry", "off"]),
                Default::Text("registry"),
                "`registry`: a machine that lacks the compiled dependencies pulls them from `REPOSITORY-target`, where CI of the default branch puts them; `off`: cargo compiles them on every machine",
            ),
        ],
    },
    Table {
        name: "smoke",
        meaning: "What `cargo xtask smoke` and the step `smoke` check in a built image.",
        keys: &[
            key("user", ValueKind::Whole(0, u32::MAX as i64 - 1), Default::None, "the user, as `id -u` prints it"),
            key("run", ValueKind::Tables, Default::None, "programs to run in the image"),
            key("serve", ValueKind::Table, Default::None, "a server to start and ask for a page"),
        ],
    },
    Table {
        name: "smoke.run",
        meaning: "A program to run in the image, with the image's own entry point.",
        keys: &[
            key("name", ValueKind::Text, Default::Required, "name in reports"),
            key(
                "contains",
                ValueKind::Text,
                Default::Required,
                "text that the output must contain; `{version}` is the package's version",
            ),
            key("args", ValueKind::Texts, Default::None, "arguments"),
        ],
    },
    Table {
        name: "smoke.serve",
        meaning: "A server to start and ask for a page.",
        keys: &[
            key("args", ValueKind::Texts, Default::None, "arguments"),
            key("url", ValueKind::Text, Default::Required, "the page's URL, within the container"),
            key(
                "contains",
                ValueKind::Text,
                Default::None,
                "text that the page must contain; without it, every answer below 500 is good",
            ),
            key("seconds", ValueKind::Whole(1, 600), Default::Number(20), "seconds in which the server must answer"),
        ],
    },
    Table {
        name: "step",
        meaning: "A plugin or program around a build.",
        keys: &[
            key("name", ValueKind::Text, Default::Required, "name in reports: letters, digits, `.`, `_` and `-`"),
            key(
                "after",
                ValueKind::Choice(&["build", "push"]),
                Default::Text("build"),
                "when it runs: before anything is published, or after",
            ),
            key(
                "only",
                ValueKind::Choice(&["ci"]),
                Default::None,
                "run it only in CI: where the variable `CI` is `true` or `1`",
            ),
            key(
                "images",
                ValueKind::Choices(&["base", "app", "enhanced"]),
                Default::Toml("[\"app\", \"enhanced\"]"),
                "the images it runs for",
            ),
            key(
                "needs",
                ValueKind::Texts,
                Default::Derived("what the plugin reads; for a program, every step before it"),
                "names of the steps to wait for; steps that do not wait for each other run in parallel",
            ),
            key(
                "uses",
                ValueKind::Text,
                Default::None,
                "a plugin: a built-in one, one that your xtask registers, or `package:NAME` for a program of the workspace. Its settings are further keys of the step",
            ),
            key("run", ValueKind::Texts, Default::None, "a program with its arguments; either this or `uses`"),
        ],
    },
    Table {
        name: "lock",
        meaning: "What `cargo xtask lock --upgrade` may take.",
        keys: &[key(
            "cooldown",
            ValueKind::Whole(0, 365),
            Default::Number(0),
            "days that a release of a package has to be old before `--upgrade` takes it; the index has to state when files were uploaded, as PyPI does. A pin that is newer stays. `--upgrade-package` takes what is newest at once",
        )],
    },
    Table {
        name: "ci",
        meaning: "What `cargo xtask workflows` writes beyond the rest of the policy.",
        keys: &[
            key(
                "provider",
                ValueKind::Choice(&["github", "gitlab"]),
                Default::Text("github"),
                "the service that runs the jobs: `.github/workflows`, or `.gitlab-ci.yml`; where that file is somebody else's, `.gitlab/images.yml`, which it includes",
            ),
            key(
                "image",
                ValueKind::Text,
                Default::Derived("`docker.io/library/rust:1`"),
                "GitLab: the image in which jobs run, with bash, git and cargo. Jobs that need docker start it themselves, in a privileged container",
            ),
            key(
                "runners",
                ValueKind::Map,
                Default::Derived("the service's own"),
                "label of the runner that builds a platform, by platform; on GitLab, its tag",
            ),
            key(
                "schedule",
                ValueKind::Text,
                Default::Text("17 4 * * 1"),
                "when images get security updates, by a rebase or a rebuild, as the five fields of cron, in UTC",
            ),
            key(
                "updates",
                ValueKind::Text,
                Default::None,
                "when a workflow upgrades the locks and opens one pull request, as the five fields of cron, in UTC; without it there is no such workflow",
            ),
            key("timeout-minutes", ValueKind::Whole(1, 360), Default::Number(60), "time limit of a job that builds"),
            key(
                "cluster",
                ValueKind::Choice(&["k3d"]),
                Default::None,
                "gives the tests a Kubernetes cluster, which `KUBECONFIG` names",
            ),
            key(
                "laptops",
                ValueKind::Choices(&["macos"]),
                Default::None,
                "a job for each processor of these systems compiles xtask and runs `cargo xtask test --quick`",
            ),
            key(
                "gate-factor",
                ValueKind::AtLeast(1.0),
                Default::None,
                "CI fails if the last five fast builds took this many times as long as the five before, on the same kind of machine, with the same engine, for the same kind of edit",
            ),
            key(
                "shadow",
                ValueKind::Share,
                Default::None,
                "share of the images that a run reuses, from 0 to 1, which a job builds again from nothing: `cargo xtask reproduce --shadow`. The sample is determined by commit and key. A difference fails that job. Images of `docker` are compared by files and configuration, those of `native` by digest",
            ),
            key(
                "engine",
                ValueKind::Choice(&["docker", "native"]),
                Default::Text("docker"),
                "the engine of CI's builds. With `native`, one job builds every platform of a change that compiles nothing",
            ),
            key(
                "documents",
                ValueKind::Texts,
                Default::Toml(DOCUMENTS),
                "patterns of files whose change needs only the checks of documents",
            ),
            key("tests", ValueKind::Tables, Default::None, "commands that are enough to test a change of some paths"),
        ],
    },
    Table {
        name: "ci.tests",
        meaning: "A command that is enough to test a change of some paths. The first entry that covers every changed file counts; without one, all tests run.",
        keys: &[
            key(
                "name",
                ValueKind::Text,
                Default::Required,
                "name: lowercase letters, digits and `-`; not `all`, `none` or `documents`",
            ),
            key("paths", ValueKind::Texts, Default::Required, "patterns of the paths, as in an ignore file"),
            key("run", ValueKind::Texts, Default::Required, "the program with its arguments"),
            key(
                "long",
                ValueKind::Boolean,
                Default::Toml("false"),
                "runs it in the job of all tests, which has their engine, their cluster and cargo-deny, and not in the job that builds",
            ),
        ],
    },
];
