//! The command line: every command and flag with its help. Decides nothing.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::files::Files;
use xtask_host::tree::git::Git;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::plugin::FAIL_ON;
use xtask_model::image::policy::{Engine, ImageKind, Provider, Registry};
use xtask_model::spec::reference::{Platform, Reference};

/// Text after the help: the first commands to use, and the exit codes.
fn after_help() -> String {
    let codes: String =
        Exit::MEANINGS.iter().map(|(exit, meaning)| format!("  {:<3}  {meaning}\n", *exit as u8)).collect();
    format!(
        "\
Start here:
  cargo xtask quickstart     on a fresh machine: installs, builds, pushes, smoke-tests
  cargo xtask build          builds the base if it changed, then the app on it
  cargo xtask doctor         checks what a build needs, and prints a fix for each problem

Exit codes:
  0    done
{}",
        codes.trim_end()
    )
}

/// Builds this repository's container images: a base with every dependency, and the app on it
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = after_help()
)]
pub struct Flags {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Repository to work on; by default the nearest folder above that has an `images.toml`
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Registry and path prefix instead of the policy's: `127.0.0.1:5000`, `ghcr.io/acme`
    #[arg(long, global = true, value_name = "HOST[/PREFIX]", env = "XTASK_REGISTRY")]
    pub registry: Option<Registry>,
    /// App to work on, where the policy has several; can be repeated. By default all of them, for commands that take several
    #[arg(long, global = true, value_name = "NAME")]
    pub app: Vec<String>,
    /// Format of stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Refuse what is not pinned: a root without digest, a fallback root, a stale lock
    #[arg(long, global = true)]
    pub locked: bool,
    /// Do not contact registries: only images on this machine count
    #[arg(long, global = true)]
    pub offline: bool,
    /// Print every line of every tool
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Global {
    /// Finds the repository and reads its policy and the commit that is checked out, for a command that works on one app.
    pub fn tree(&self) -> Result<Tree, Fault> {
        let root = facts::find_root(self.root.as_deref())?;
        let commit = Git::at(&root).commit(&|name| std::env::var(name).ok())?;
        Ok(Tree { commit, ..self.tree_of(Box::new(WorkTree::new(&root)))? })
    }

    /// The same for each app that is meant.
    pub fn trees(&self) -> Result<Vec<Tree>, Fault> {
        let root = facts::find_root(self.root.as_deref())?;
        let commit = Git::at(&root).commit(&|name| std::env::var(name).ok())?;
        let trees = self.trees_of(Box::new(WorkTree::new(&root)))?;
        Ok(trees.into_iter().map(|tree| Tree { commit: commit.clone(), ..tree }).collect())
    }

    /// The same for one app of each base that is meant.
    pub fn trees_of_bases(&self) -> Result<Vec<Tree>, Fault> {
        let mut trees: Vec<Tree> = Vec::new();
        for tree in self.trees()? {
            if !trees.iter().any(|other| other.policy.base.name == tree.policy.base.name) {
                trees.push(tree);
            }
        }
        Ok(trees)
    }

    /// The same for a command that needs only what all apps share: the project, the root, the steps, CI.
    pub fn any_tree(&self) -> Result<Tree, Fault> {
        Ok(self.trees()?.swap_remove(0))
    }

    /// The same for the app of an image of this repository, if one is named: its own, or one on it if it is a base.
    pub fn tree_for(&self, image: Option<&str>) -> Result<Tree, Fault> {
        let reference = image.and_then(|image| image.parse::<Reference>().ok());
        let Some(Reference { repository, .. }) = reference else { return self.tree() };
        let is_of =
            |tree: &Tree| [ImageKind::App, ImageKind::Base].into_iter().any(|kind| repository == tree.repository(kind));
        let found = self.trees()?.into_iter().find(is_of);
        found.map_or_else(|| self.tree(), Ok)
    }

    /// Reads the policy of the repository in these files, for one app; knows no commit.
    pub fn tree_of(&self, files: Box<dyn Files>) -> Result<Tree, Fault> {
        Ok(self.applied(Tree::with_registry(self.registry.clone(), files, &self.app)?))
    }

    /// The same for each app that is meant.
    pub fn trees_of(&self, files: Box<dyn Files>) -> Result<Vec<Tree>, Fault> {
        let trees = Tree::all(self.registry.as_ref(), files, &self.app)?;
        Ok(trees.into_iter().map(|tree| self.applied(tree)).collect())
    }

    /// A tree with what these flags change in it.
    fn applied(&self, mut tree: Tree) -> Tree {
        tree.offline = self.offline;
        tree
    }

    /// Refuses `--offline` for a command or a flag that works on a registry.
    pub fn check_online(&self, what: &str) -> Result<(), Fault> {
        if self.offline {
            return Err(Fault::usage(format!("`{what}` cannot be used with `--offline`"))
                .cause("it works on images in a registry")
                .hint("run this again without `--offline`"));
        }
        Ok(())
    }

    /// These flags for the app of a tree alone.
    pub fn of(&self, tree: &Tree) -> Self {
        Self { app: tree.policy.app.name.iter().cloned().collect(), ..self.clone() }
    }
}

/// Reads the name of an engine, and offers all names in help and completions.
fn engine_parser() -> impl clap::builder::TypedValueParser<Value = Engine> {
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
    let values = Engine::NAMES.map(|(name, engine)| {
        PossibleValue::new(name).help(match engine {
            Engine::Auto => "Docker if it is available, native otherwise",
            Engine::Docker => "The docker and buildx command lines",
            Engine::Native => "No daemon: xtask makes the layers, and uploads only what changed",
        })
    });
    PossibleValuesParser::new(values).map(|chosen| {
        Engine::NAMES.iter().find(|(name, _)| *name == chosen).map(|(_, engine)| *engine).unwrap_or_default()
    })
}

fn provider_parser() -> impl clap::builder::TypedValueParser<Value = Provider> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    PossibleValuesParser::new(Provider::NAMES.map(|(name, _)| name))
        .map(|chosen| Provider::NAMES.iter().find(|(name, _)| *name == chosen).expect("it is one of them").1)
}

/// Format of stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people and shells
    Text,
    /// One JSON document
    Json,
    /// GitHub's step outputs and job summary; only for `plan`
    Github,
    /// Variables for GitLab's dotenv report; only for `plan`
    Gitlab,
}

/// Flags of every build.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Building")]
pub struct BuildFlags {
    /// Publish to the registry; without it the image stays on this machine
    #[arg(long)]
    pub push: bool,
    /// Platforms to build; by default this machine's, and with `--push` all of the policy's
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<Platform>,
    /// Buildx builder or docker context to build with, for example on a second machine or in Kubernetes
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// Build images that exist already too, without the build cache
    #[arg(long)]
    pub force: bool,
    /// Build nothing, and fail (exit code 6) if an image is missing: to tag an image that was tested
    #[arg(long, conflicts_with = "force")]
    pub reuse_only: bool,
    /// Print the plan and the exact commands, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not move the tag `latest`
    #[arg(long)]
    pub no_latest: bool,
    /// Do not set the branch's tag, for example in a registry with immutable tags
    #[arg(long)]
    pub no_branch_tag: bool,
    /// Set no tag but the fingerprint's: the tests of this commit have not passed yet
    #[arg(long, conflicts_with = "reuse_only")]
    pub untested: bool,
    /// Destination: `registry` (same as `--push`), `docker`, `oci:DIR` or `oci-archive:FILE`
    ///
    /// A folder or an archive is written in addition to the usual destination: the local Docker or `target/images`, or the registry with
    /// `--push`.
    #[arg(long, value_name = "WHERE")]
    pub output: Option<Output>,
    /// Engine; by default `[project] engine` of the policy, `auto` if that is not set
    #[arg(long, value_parser = engine_parser())]
    pub engine: Option<Engine>,
}

impl BuildFlags {
    /// Returns true if images go to a registry.
    pub fn publishes(&self) -> bool {
        self.push || self.output == Some(Output::Registry)
    }
}

/// Destination of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the registry.
    Registry,
    /// Into the local Docker.
    Docker,
    /// Into an OCI layout folder.
    Layout(PathBuf),
    /// Into an OCI layout as one tar file.
    Archive(PathBuf),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = |path: &str| if path.is_empty() { Err("the path is empty".to_owned()) } else { Ok(path.into()) };
        match (text, text.split_once(':')) {
            ("registry", _) => Ok(Self::Registry),
            ("docker", _) => Ok(Self::Docker),
            (_, Some(("oci", folder))) => place(folder).map(Self::Layout),
            (_, Some(("oci-archive", file))) => place(file).map(Self::Archive),
            _ => Err("expected `registry`, `docker`, `oci:DIR` or `oci-archive:FILE`".to_owned()),
        }
    }
}

/// Flags of a comparison.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Comparing")]
pub struct PlanFlags {
    /// Compare with this revision; by default CI's event names it, and on a laptop it is the merge base with the default branch
    #[arg(long, value_name = "REV", conflicts_with = "event")]
    pub base: Option<String>,
    /// Plan for this revision; by default the working tree with uncommitted changes
    #[arg(long, value_name = "REV")]
    pub head: Option<String>,
    /// JSON file of an event of GitHub; by default `$GITHUB_EVENT_PATH`, on GitLab the pipeline's variables
    #[arg(long, value_name = "FILE")]
    pub event: Option<PathBuf>,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the base if it changed, then the app on it; prints the app's reference by digest
    ///
    /// The base is built if no base with its key exists. The key covers the root, the lock, the Dockerfile and every file
    /// that it copies. The app is built if one of its own files changed.
    #[command(after_help = "\
Examples:
  cargo xtask build                                   into the local Docker
  cargo xtask build --push                            into the policy's registry; moves `latest` too
  cargo xtask build --push --registry 127.0.0.1:5000  into a registry on this machine
  cargo xtask build --dry-run                         prints what would run, and why")]
    Build(BuildFlags),
    /// Build the base image: Python and every locked dependency
    BuildBase {
        #[command(flatten)]
        build: BuildFlags,
        /// Print the size of each layer and each package
        #[arg(long)]
        analyze: bool,
    },
    /// Build the app on the base of this tree, which must exist
    BuildFast(BuildFlags),
    /// Build the app from scratch, without a base: as a fallback, and to measure what the base saves
    BuildEnhanced(BuildFlags),
    /// Print what a change needs, `skip`, `fast`, `base+fast` or `full`, and why
    ///
    /// Compares the inputs of the images at two revisions, and asks the registry which images exist. If something cannot be
    /// determined, the answer is to build, never `skip`.
    #[command(after_help = "\
Examples:
  cargo xtask plan                                    this working tree
  cargo xtask plan --base origin/main --head HEAD     two commits
  cargo xtask plan --format github                    in CI: the event's change, as outputs and job summary")]
    Plan(PlanFlags),
    /// Print how the images of this tree differ from the published ones: package by package, file by file
    Explain {
        /// Compare this commit with the working tree; given twice, compare the two commits
        #[arg(long, value_name = "REV")]
        commit: Vec<String>,
    },
    /// Resolve the requirements into the lock, and pin the root's digests
    ///
    /// Writes the lock with all packages and their hashes for all platforms, the installer's lock, and `images.lock` with the
    /// root's digest for each platform. Lists the packages without a wheel with what each needs, and pins their build requirements there.
    Lock {
        /// Change nothing; fail if the lock is out of date, incomplete or inconsistent
        #[arg(long)]
        check: bool,
        /// Upgrade every package to the newest version that the requirements allow
        #[arg(long, conflicts_with = "check")]
        upgrade: bool,
        /// Upgrade only this package; can be repeated
        #[arg(short = 'P', long, value_name = "NAME", conflicts_with = "check")]
        upgrade_package: Vec<String>,
        /// Take no release that is younger than this, with `--upgrade`; by default `[lock] cooldown` of the policy
        #[arg(long, value_name = "DAYS", requires = "upgrade", value_parser = clap::value_parser!(u32).range(0..=365))]
        cooldown: Option<u32>,
        /// Commit what changed to the branch `xtask/lock` on GitHub and open a pull request, or renew the open one; needs `gh`
        #[arg(long, conflicts_with = "check")]
        pull_request: bool,
    },
    /// Run the policy's smoke tests on a built image
    Smoke {
        /// Image to test; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
    },
    /// Print the SBOM of an image, or what changed between two images
    ///
    /// Reads what is attached to the image. An image without an SBOM is read layer by layer, once.
    #[command(after_help = "\
Examples:
  cargo xtask sbom                                    the app of this tree, as CycloneDX
  cargo xtask sbom --type spdx ghcr.io/acme/app:main  another image, as SPDX
  cargo xtask sbom --diff app:1.2.0 app:1.3.0         packages that are new, gone, or of another version
  cargo xtask sbom --write-licences                   after `Cargo.lock` has changed")]
    Sbom(SbomFlags),
    /// Look up known vulnerabilities of an image, from its SBOM
    ///
    /// The database, the severity that fails and the statements that dismiss something are those of the policy's `scan` step; flags replace
    /// them. Ends with exit code 6 if a vulnerability is as severe as `--fail-on`.
    #[command(after_help = "\
Examples:
  cargo xtask scan                                    the app of this tree
  cargo xtask scan ghcr.io/acme/app:1.2.0             a published image
  cargo xtask scan --database osv/ --fail-on critical with records on this machine
  cargo xtask scan --type sarif > scan.sarif          for code scanning")]
    Scan(ScanFlags),
    /// Check the signatures and the provenance of an image, and that its key is the one of its commit
    #[command(after_help = "\
Examples:
  cargo xtask verify                                  the app of this tree
  cargo xtask verify ghcr.io/acme/app:1.2.0           another image of this repository
  cargo xtask verify --key other.pub IMAGE            with another public key than the policy's")]
    Verify {
        /// Image to check; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
        /// File of the public key; by default the one of the policy's `sign` step
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Build a published image again from its commit, from nothing, and compare the digests
    ///
    /// Checks the commit out in a temporary folder, builds with the engine that built the image, and takes nothing from the registry but the
    /// root of a base, or the base of an app. Publishes nothing. A difference is named by layer, path and bytes, with exit code 6. Images of
    /// docker are compared by their files and configuration, because folders that it makes have the time of the build.
    #[command(after_help = "\
Examples:
  cargo xtask reproduce                               the app of this tree
  cargo xtask reproduce ghcr.io/acme/app:1.2.0        any image of this repository, base or app, by tag or digest
  cargo xtask reproduce --shadow                      in CI: the sampled share of the images that this commit reuses")]
    Reproduce(ReproduceFlags),
    /// Put published images on a newer root without building them, where that fixes an installed package
    ///
    /// Replaces the root's layers by those that the root's tag names now. The other layers stay where they are and are not downloaded. Refuses a
    /// root of another suite or Python, one with an older libc, and one whose changes a layer would hide. Runs the steps of the policy, and the
    /// smoke test, before the first tag moves. Versions and commits keep their images.
    #[command(after_help = "\
Examples:
  cargo xtask rebase --dry-run                        what would be fixed
  cargo xtask rebase                                  `latest` and the default branch, with their bases
  cargo xtask rebase --all                            every app that a tag names which moves
  cargo xtask rebase ghcr.io/acme/app:prod            one image, with its base
  cargo xtask rebase --undo ghcr.io/acme/app:prod     moves the tag back")]
    Rebase(RebaseFlags),
    /// Carry images over an air gap: with SBOMs, provenance and signatures, as one OCI archive
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// List, describe and create build plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Run an image in this terminal, with Docker or without any engine
    ///
    /// Without a Docker engine the image is unpacked under `target/native/images` and runs in its own namespaces, as an
    /// ordinary user if the machine allows that. Docker publishes the image's ports on 127.0.0.1; without an engine, or if the
    /// engine has no bridge, the image uses the host's network. Files that the program writes are deleted when it ends, and
    /// its exit code is the exit code of this command.
    #[command(after_help = "\
Examples:
  cargo xtask run                           the app of this tree
  cargo xtask run -- --version              the same, with other arguments
  cargo xtask run 127.0.0.1:5000/app:latest another image
  cargo xtask run target/images/app         an OCI layout on this machine")]
    Run {
        /// Image to run: a reference, or the folder of an OCI layout; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
        /// Arguments for the image's entry point, instead of the image's own
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Rebuild and restart the app whenever a file is saved, until Ctrl-C
    ///
    /// Waits for changes of the files that decide about the images: those that the Dockerfiles copy, the program's sources, the policy
    /// and the locks. An error is printed, and the app from before keeps running. A round that changes no image restarts nothing.
    #[command(after_help = "\
Examples:
  cargo xtask watch                                    the app of this tree
  cargo xtask watch -- cargo xtask smoke {}            a command in its place, for each image
  cargo xtask watch --push -- kubectl set image deployment/app app={}")]
    Watch(WatchFlags),
    /// Adopt another repository: write a policy, Dockerfiles and workflows from the Dockerfiles that it has
    ///
    /// Reads the last stage of each Dockerfile, and prints every line that becomes something else, every line that only docker can run, and every
    /// package without a wheel. Writes `images.toml`, `dockerfiles/`, an `xtask` package and the workflows. Never changes a file that exists,
    /// except with `--force`, and then prints the difference.
    #[command(after_help = "\
Examples:
  cargo xtask init --root ../app --dry-run            prints every file, and writes nothing
  cargo xtask init --root ../app --registry ghcr.io/acme
  cargo xtask init --dockerfile api/Dockerfile --name api")]
    Init(InitFlags),
    /// Check everything that a build needs, and print a fix for each problem
    Doctor,
    /// Build, push and smoke-test on a fresh machine: installs what is missing, and asks before
    Quickstart {
        /// Install without asking
        #[arg(short, long)]
        yes: bool,
        /// Engine; `docker` starts a private Docker engine if there is none, the others then build without Docker
        #[arg(long, value_parser = engine_parser())]
        engine: Option<Engine>,
    },
    /// Start and stop a private Docker engine and registry under `target/engine`
    #[command(subcommand)]
    Engine(EngineCommand),
    /// Start and stop a Kubernetes cluster for tests under `target/cluster`
    ///
    /// Runs `etcd`, `kube-apiserver` and, if it is installed, `kube-controller-manager` from the folder of `KUBEBUILDER_ASSETS` or
    /// from `PATH`; where they are missing, `k3d` makes the cluster in Docker.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Work with published bases: list, pin, roll back, prune
    #[command(subcommand)]
    Base(BaseCommand),
    /// Delete old apps from the registry, with tags of deleted branches and what is attached to nothing; prints the plan and its reasons first
    ///
    /// An app stays for a tag that somebody may use, for its age, and if it is in use. The tag of a branch counts while this clone knows the
    /// branch: call `git fetch --prune` before. Compiled dependencies and parts of roots that nothing needs go too. Bases: `cargo xtask base prune`,
    /// afterwards.
    #[command(after_help = "\
Examples:
  cargo xtask prune                                   prints what would go, and why
  cargo xtask prune --every-name                      counts no tag but versions, `latest` and branches
  cargo xtask prune --in-use running.txt --yes        keeps the images that a file lists
  cargo xtask prune -- kubectl get pods -A -o yaml    keeps the images that a command prints")]
    Prune(PruneFlags),
    /// Print what builds cost, and how much time the base saved, from the ledger of builds
    #[command(after_help = "\
Examples:
  cargo xtask stats                          a table and a chart of the last 30 days
  cargo xtask stats --html target/stats.html one page, for example to send
  cargo xtask stats --replay HEAD~100..HEAD  what the last 100 commits would have built and tested
  cargo xtask stats --gate-factor 1.5        for CI: exit code 6 when fast builds have become slower")]
    Stats(StatsFlags),
    /// Measure an edit, a dependency bump and a cold start, and compare with plain docker
    Bench {
        /// Measure only scenarios whose name contains this; several with commas between
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Runs of each warm scenario, by default 5, with `--compare` 7 of each tool; the result is the median
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..100))]
        runs: Option<u32>,
        /// Compare the native engine with docker buildx and, if it is installed, buildah; takes most of an hour
        #[arg(long)]
        compare: bool,
        /// Write the result as Markdown to this file too
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Run everything that CI runs: tidy, clippy, docs, licences, the lock, every test on real engines, a real build
    ///
    /// Stops at the first phase that fails, with its exit code. Stops the engine that it started.
    Ci {
        /// Run only what a change needs, as `plan` names it: `documents`, a `[[ci.tests]]` of the policy, or `all`
        #[arg(long, value_name = "TESTS")]
        only: Option<String>,
        /// Compile and test one part of this workspace; the other phases are the same
        #[arg(long, value_enum, conflicts_with = "only")]
        part: Option<Part>,
    },
    /// Run the tests, with real engines; installs what they need under `target`
    Test {
        /// Run only tests whose name contains this
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Run only unit tests and tests of the command line: needs no engine, installs nothing, takes under a minute once compiled
        #[arg(long)]
        quick: bool,
    },
    /// Write `.github/workflows` or `.gitlab-ci.yml` from the policy
    Workflows {
        /// Change nothing; fail if a file is out of date
        #[arg(long)]
        check: bool,
    },
    /// Write the generated parts of the documents: the reference, the JSON Schema of `images.toml`, the terminal pictures
    Reference {
        /// Change nothing; fail if a file is out of date
        #[arg(long)]
        check: bool,
    },
    /// Check the repository's rules: formatting, plain English, hosts, paths, links, manifests, ignore files, module edges
    ///
    /// Prints every violation with its repair, and changes nothing.
    Tidy,
    /// Delete what builds left under `target` and no build needs; prints the list with its reasons first
    ///
    /// Keeps the newest images, the layers of the native engine and what cargo compiled and used within 7 days. Where cargo works, nothing that it
    /// compiled is deleted.
    Clean {
        /// Make the change
        #[arg(short, long)]
        yes: bool,
    },
    /// Print a manual page: `cargo xtask man build | man -l -`
    Man {
        /// Command as you type it: `build`, `engine up`; by default all of xtask
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Print completions for a shell
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

/// Flags of `sbom`.
#[derive(Clone, Debug, Args)]
pub struct SbomFlags {
    /// Image; by default the app of this tree
    #[arg(value_name = "IMAGE", conflicts_with = "diff")]
    pub image: Option<String>,
    /// Format of the document
    #[arg(long = "type", value_enum, default_value_t = SbomType::Cyclonedx, conflicts_with = "diff")]
    pub kind: SbomType,
    /// Platform of the image; by default this machine's
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<Platform>,
    /// Print the differences between two images instead
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    pub diff: Vec<String>,
    /// Write the file of `crate-licences` in the policy's `sbom` step, from the manifests of the crates
    #[arg(long, conflicts_with_all = ["image", "diff", "kind", "platform"])]
    pub write_licences: bool,
}

/// Flags of `reproduce`.
#[derive(Clone, Debug, Args)]
pub struct ReproduceFlags {
    /// Image to build again; by default the app of this tree
    #[arg(value_name = "IMAGE", conflicts_with = "shadow")]
    pub image: Option<String>,
    /// Platforms to build again; by default all of the image's
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', conflicts_with = "shadow")]
    pub platform: Vec<Platform>,
    /// Build the images again that this commit reuses, as far as they are in the sample of `[ci] shadow`
    #[arg(long)]
    pub shadow: bool,
}

/// Flags of `scan`.
#[derive(Clone, Debug, Args)]
pub struct ScanFlags {
    /// Image; by default the app of this tree
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// Platform of the image; by default this machine's
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<Platform>,
    /// Records in the OSV format: a folder, a file, the URL of a mirror with `ECOSYSTEM/all.zip`, or of a service that ends with `/v1`
    #[arg(long, value_name = "WHERE")]
    pub database: Option<String>,
    /// Mildest severity that fails; by default the step's, `high` without a step
    #[arg(long, value_name = "SEVERITY", value_parser = clap::builder::PossibleValuesParser::new(FAIL_ON))]
    pub fail_on: Option<String>,
    /// Fail only for what a newer version fixes
    #[arg(long)]
    pub only_fixed: bool,
    /// Form of the list; `--format json` prints it as JSON
    #[arg(long = "type", value_enum, default_value_t = ScanType::Text)]
    pub kind: ScanType,
}

/// Part of this workspace with tests of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The packages of the app's program, and the Python worker
    Payload,
    /// All other packages
    Xtask,
}

/// Form of a list of vulnerabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScanType {
    /// A table for a terminal
    Text,
    /// A table for a pull request
    Markdown,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// Format of an SBOM, with the name that the policy has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SbomType {
    /// CycloneDX 1.6
    Cyclonedx,
    /// SPDX 2.3
    Spdx,
    /// SPDX 3.0, as JSON-LD
    Spdx3,
}

/// Flags of `rebase`.
#[derive(Clone, Debug, Default, Args)]
pub struct RebaseFlags {
    /// Images, by tag or digest; by default `latest` of the base and the app, and the tag of the default branch
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Every app that has a tag which is no version, fingerprint or commit
    #[arg(long, conflicts_with = "images")]
    pub all: bool,
    /// Root by tag or digest, of the same repository; by default the policy's tag as it is now, with `--locked` the pinned one
    #[arg(long, value_name = "IMAGE")]
    pub root_image: Option<Reference>,
    /// Rebase although no installed package has a newer version
    #[arg(long)]
    pub force: bool,
    /// Print what would be fixed and rebased, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the new root's digests to `images.lock`, so that the next build uses the rebased images
    #[arg(long)]
    pub pin: bool,
    /// Move tags back to the images before their last rebase
    #[arg(long, conflicts_with_all = ["root_image", "force", "pin"])]
    pub undo: bool,
}

/// `cargo xtask bundle …`
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Write images, and everything attached to them, into one archive; continues what was interrupted
    #[command(after_help = "\
Examples:
  cargo xtask bundle create -o app.tar                              the app of this tree
  cargo xtask bundle create -o 1.3.tar ghcr.io/acme/app:1.3.0 ghcr.io/acme/app-base:latest
  cargo xtask bundle create -o 1.3.tar --since have.json ghcr.io/acme/app:1.3.0")]
    Create {
        /// Images, by tag or digest; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        images: Vec<String>,
        /// Archive to write; until it is whole, `FILE.partial` has what came
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// File that `bundle have` wrote on the other side: the blobs that it lists are left out
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
    /// Check an archive, and bring its images into a registry; tags are written last
    ///
    /// An image goes to the repository with the same last part of its name under `--registry`, or the policy's registry. Every byte is checked
    /// before anything is sent. What the registry has is not sent again, so that the same call continues what was interrupted.
    #[command(after_help = "\
Examples:
  cargo xtask bundle load app.tar --registry registry.lan/acme
  cargo xtask bundle load app.tar --registry registry.lan/acme --key sign.pub")]
    Load {
        /// Archive that `bundle create` wrote
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File of a public key that must have signed each image
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Print what repositories have, for `bundle create --since` on the other side
    Have {
        /// Names of repositories under `--registry`, or the policy's registry; by default the base's and the app's
        #[arg(value_name = "NAME")]
        repositories: Vec<String>,
    },
}

/// `cargo xtask plugin …`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List the plugins of this xtask, and the steps that use them
    List,
    /// Print what a plugin does, and its settings
    Describe {
        /// Name of a plugin, or `package:NAME` for a program of the workspace
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Create a package with a plugin in `plugins/NAME`, with a test
    New {
        /// Name of the package: lowercase letters, digits and `-`
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// `cargo xtask engine …`
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Start the engine; returns when Docker and the registry are ready
    Up {
        /// Port of the registry on 127.0.0.1; kept between runs
        #[arg(long, value_name = "PORT")]
        registry_port: Option<u16>,
        /// Start only the registry, for the native engine: needs no Docker and no root rights
        #[arg(long)]
        registry_only: bool,
    },
    /// Print its state, and the environment variables for it
    Status,
    /// Stop the engine; keeps its data
    Down {
        /// Delete its data too
        #[arg(long)]
        purge: bool,
    },
}

/// `cargo xtask cluster …`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start the cluster, or another one in its place; returns when its API server is ready, and prints `KUBECONFIG`
    Up {
        /// Path of its kubeconfig; by default `target/cluster/kubeconfig`
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Stop the cluster and delete its data
    Down,
}

/// `cargo xtask base …`
#[derive(Debug, Subcommand)]
pub enum BaseCommand {
    /// List the bases in the registry with age, size, platforms and the apps that use them
    List,
    /// Pin a base: every build uses it, whatever the requirements say; writes its digest to `images.lock`
    Pin {
        /// Tag or digest of a base; by default `latest`
        #[arg(value_name = "TAG|DIGEST")]
        name: Option<String>,
        /// Remove the pin
        #[arg(long, conflicts_with = "name")]
        remove: bool,
    },
    /// Move `latest` back to the previous base, or to another one; prints the change first
    Rollback {
        /// Tag or digest of a base; by default the newest complete one of an earlier commit
        #[arg(value_name = "TAG|DIGEST")]
        name: Option<String>,
        /// Make the change
        #[arg(short, long)]
        yes: bool,
    },
    /// Delete old bases that nothing uses, in the registry and on this machine; prints the plan and its reasons first
    Prune {
        /// Number of newest complete bases to keep
        #[arg(long, value_name = "N", default_value_t = 5)]
        keep: usize,
        /// Age from which a base may be deleted: `30d`, `12h`; the bases of younger apps are kept
        #[arg(long, value_name = "AGE", default_value = "30d", value_parser = span)]
        older_than: Duration,
        /// Make the change
        #[arg(short, long)]
        yes: bool,
    },
}

/// Flags of `prune`.
#[derive(Clone, Debug, Args)]
pub struct PruneFlags {
    /// Number of newest apps to keep
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep: usize,
    /// Age from which an app may be deleted: `30d`, `12h`
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = span)]
    pub older_than: Duration,
    /// Take every tag for a branch's, except versions and `latest`, so that tags of deleted branches go. Without it only tags go that
    /// xtask itself must have put
    #[arg(long)]
    pub every_name: bool,
    /// File that lists images in use, by tag or digest, in any format
    #[arg(long, value_name = "FILE")]
    pub in_use: Option<PathBuf>,
    /// Make the change
    #[arg(short, long)]
    pub yes: bool,
    /// Command that prints images in use; a command that fails ends this one
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Flags of `init`. Each answers a question that is otherwise asked on a terminal, or has a default.
#[derive(Clone, Debug, Default, Args)]
pub struct InitFlags {
    /// Print every file, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace files that exist and differ; prints the difference of each
    #[arg(long)]
    pub force: bool,
    /// Write the files although parts could not be translated
    #[arg(long)]
    pub partial: bool,
    /// Also build the repository's own Dockerfiles and the new images on the same root, and compare them
    ///
    /// Exit code 6 if a difference is unexplained. Files that an earlier call wrote stay, and are what is proved. Builds in a
    /// folder below `target`, which is removed.
    #[arg(long, conflicts_with = "dry_run")]
    pub prove: bool,
    /// Ask nothing: use the defaults
    #[arg(short, long)]
    pub yes: bool,
    /// Name of the project, which begins the names of its images; by default the folder's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Dockerfile to translate, from the root; can be repeated. By default all but those for development and tests
    #[arg(long, value_name = "FILE")]
    pub dockerfile: Vec<String>,
    /// Build context of that Dockerfile, from the root; by default the folder in which its sources are
    #[arg(long, value_name = "DIR")]
    pub context: Option<String>,
    /// Stage of the Dockerfile to translate; by default the last
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Requirements file in place of those that the Dockerfile installs; can be repeated
    #[arg(long, value_name = "FILE")]
    pub requirements: Vec<String>,
    /// Root image in place of the Dockerfile's: `python:3.12-slim`
    #[arg(long, value_name = "IMAGE")]
    pub root_image: Option<String>,
    /// Python of the root image, if its tag does not name it: `3.12`
    #[arg(long, value_name = "VERSION")]
    pub python: Option<String>,
    /// Debian package of the root, besides those of the Dockerfile; `none` if Alpine's need no counterpart; can be repeated
    #[arg(long, value_name = "NAME")]
    pub system_package: Vec<String>,
    /// Platforms of the images
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<Platform>,
    /// Branch that moves `latest`; by default the one that `origin` names, or `main`
    #[arg(long, value_name = "BRANCH")]
    pub default_branch: Option<String>,
    /// Write no workflows
    #[arg(long)]
    pub no_workflows: bool,
    /// Service that runs the workflows; by default `gitlab` where `.gitlab-ci.yml` exists or `origin` is on gitlab.com
    #[arg(long, value_name = "SERVICE", value_parser = provider_parser())]
    pub ci: Option<Provider>,
    /// Git repository that the new `xtask` package depends on; by default this program's
    #[arg(long, value_name = "URL")]
    pub xtask_git: Option<String>,
    /// Commit of that repository; by default the one that this program was compiled from
    #[arg(long, value_name = "COMMIT")]
    pub xtask_rev: Option<String>,
}

/// Flags of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchFlags {
    /// Publish each image, under its fingerprint's tag only, and run nothing but the command
    #[arg(long)]
    pub push: bool,
    /// Platforms to build; by default this machine's, and with `--push` all of the policy's
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<Platform>,
    /// Engine; by default `[project] engine` of the policy, `auto` if that is not set
    #[arg(long, value_parser = engine_parser())]
    pub engine: Option<Engine>,
    /// Command in place of the app, restarted with each new image; with `--push`, run after each push. `{}` and the variable
    /// `IMAGE` are the image's reference by digest
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Flags of `stats`.
#[derive(Clone, Debug, Args)]
pub struct StatsFlags {
    /// Age of the oldest build to count: `30d`, `12h`
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = span)]
    pub since: Duration,
    /// Write the statistics as one self-contained HTML page to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Fail (exit code 6) if the last fast builds took more than this many times as long as those before, on the same kind of
    /// machine and engine, for the same kind of edit
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub gate_factor: Option<f64>,
    /// Number of fast builds that the gate compares, last and before
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub gate_builds: u16,
    /// Also use the records in published images, from CI
    #[arg(long)]
    pub from_registry: bool,
    /// Print what each commit of this range would have built and tested, and the time saved against building everything; by first
    /// parents, without a registry
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with_all = ["gate_factor", "from_registry"])]
    pub replay: Option<(String, String)>,
}

/// Reads a range of commits, `A..B`.
fn range(text: &str) -> Result<(String, String), String> {
    match text.split_once("..") {
        Some((from, to)) if !from.is_empty() && !to.is_empty() && !to.starts_with('.') => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err("expected two revisions, as in `v1.0..main` or `HEAD~100..HEAD`".to_owned()),
    }
}

/// Reads a time: `90m`, `12h`, `30d`, `4w`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and a unit, like `90m`, `12h`, `30d` or `4w`".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

/// Reads a factor of at least 1.
fn factor(text: &str) -> Result<f64, String> {
    let factor: Option<f64> = text.parse().ok();
    factor
        .filter(|factor| factor.is_finite() && *factor >= 1.0)
        .ok_or_else(|| "expected a number of at least 1".to_owned())
}

impl Flags {
    /// The build flags of whichever command has them.
    pub fn build(&self) -> Option<&BuildFlags> {
        match &self.command {
            Command::Build(build) | Command::BuildFast(build) | Command::BuildEnhanced(build) => Some(build),
            Command::BuildBase { build, .. } => Some(build),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag of a build, and whether the native engine supports it; it refuses the others. A new flag needs a row: no engine
    /// may ignore it silently.
    const FLAGS: [(&str, bool); 11] = [
        ("push", true),
        ("platform", true),
        // A builder is docker's: with `--engine native` it is an error, else it chooses docker.
        ("builder", false),
        ("force", true),
        ("reuse_only", true),
        ("dry_run", true),
        ("no_latest", true),
        ("no_branch_tag", true),
        ("untested", true),
        ("output", true),
        ("engine", true),
    ];

    #[test]
    fn every_flag_of_a_build_is_honoured_or_refused_by_each_engine() {
        let command = BuildFlags::augment_args(clap::Command::new("build"));
        let known: Vec<&str> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        assert_eq!(known, FLAGS.map(|(flag, _)| flag));
    }

    #[test]
    fn times_and_factors_are_read() {
        let spans = ["90m", "12h", "30d", "4w"].map(|text| span(text).unwrap().as_secs());
        assert_eq!(spans, [5_400, 43_200, 2_592_000, 2_419_200]);
        for wrong in ["", "d", "30", "-3d", "3 d", "3ä", "1e3d", "99999999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(factor("1.5"), Ok(1.5));
        for wrong in ["0.9", "NaN", "inf", "x"] {
            assert!(factor(wrong).is_err(), "{wrong}");
        }
        assert_eq!(range("HEAD~9..main"), Ok(("HEAD~9".to_owned(), "main".to_owned())));
        for wrong in ["", "main", "..main", "main..", "a...b"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
