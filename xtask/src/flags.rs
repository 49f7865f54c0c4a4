//! The command line: every command, flag and word of help. Decides nothing.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use xtask_host::tree::context::Files;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::git::Git;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Engine, Registry};
use xtask_model::spec::reference::Platform;

/// Builds this repository's container images: a base with every dependency, the app on it.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Begin here:
  cargo xtask quickstart     on a fresh machine: installs what is missing, builds, pushes, smoke-tests
  cargo xtask build          base if it changed, then the app on it
  cargo xtask doctor         what is missing, and what to do about it

Exit codes: 0 done, 1 a bug of ours, 2 usage or policy, 3 a missing tool or engine, 4 a build failed,
            5 a registry or network failure, 6 a check found drift, 130 interrupted"
)]
pub struct Flags {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub global: Global,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The repository to work on; by default the nearest folder above with an `images.toml`
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Registry and path prefix instead of the policy's: `127.0.0.1:5000`, `ghcr.io/acme`
    #[arg(long, global = true, value_name = "HOST[/PREFIX]", env = "XTASK_REGISTRY")]
    pub registry: Option<Registry>,
    /// What stdout carries
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Refuse anything that is not pinned: a root without digest, a fallback root, a stale lock
    #[arg(long, global = true)]
    pub locked: bool,
    /// Ask no registry: only what is on this machine counts
    #[arg(long, global = true)]
    pub offline: bool,
    /// Every line of every tool
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Global {
    /// Finds the repository and reads its policy and the commit that is checked out.
    pub fn tree(&self) -> Result<Tree, Fault> {
        let root = facts::find_root(self.root.as_deref())?;
        let commit = Git::at(&root).commit(&|name| std::env::var(name).ok())?;
        Ok(Tree { commit, ..self.tree_of(Box::new(root))? })
    }

    /// Reads the policy of the repository in these files; knows no commit.
    pub fn tree_of(&self, files: Box<dyn Files>) -> Result<Tree, Fault> {
        Ok(Tree { offline: self.offline, ..Tree::with_registry(self.registry.clone(), files)? })
    }
}

/// Reads the name of an engine, and offers all names in help and completions.
fn engine_parser() -> impl clap::builder::TypedValueParser<Value = Engine> {
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
    let values = Engine::NAMES.map(|(name, engine)| {
        PossibleValue::new(name).help(match engine {
            Engine::Auto => "Docker where one answers, native otherwise",
            Engine::Docker => "The docker and buildx command lines",
            Engine::Native => "No daemon: layers are put together here, and only what changed is moved",
        })
    });
    PossibleValuesParser::new(values).map(|chosen| {
        Engine::NAMES.iter().find(|(name, _)| *name == chosen).map(|(_, engine)| *engine).unwrap_or_default()
    })
}

/// What stdout carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people and shells.
    Text,
    /// One JSON document.
    Json,
    /// GitHub's outputs and job summary; for `plan`.
    Github,
}

/// How images are built.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Building")]
pub struct BuildFlags {
    /// Publish to the registry; without it the image stays in the local Docker
    #[arg(long)]
    pub push: bool,
    /// Build for these platforms only; by default this machine's, and with `--push` all of the policy's
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<Platform>,
    /// A buildx builder or docker context to build with: a second machine, a Kubernetes builder
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// Build even what exists already, without the build cache
    #[arg(long)]
    pub force: bool,
    /// Build nothing: fail (exit code 6) where an image is not there already; for naming what was tested
    #[arg(long, conflicts_with = "force")]
    pub reuse_only: bool,
    /// Print the plan and the exact commands, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Leave the tag `latest` where it is
    #[arg(long)]
    pub no_latest: bool,
    /// Leave out the tag of the branch, as for a registry whose tags are immutable
    #[arg(long)]
    pub no_branch_tag: bool,
    /// Put no tag but the fingerprint's: the tests of this commit have not passed yet
    #[arg(long, conflicts_with = "reuse_only")]
    pub untested: bool,
    /// Where the image goes: `registry` (as `--push`), `docker`, `oci:DIR` or `oci-archive:FILE`
    ///
    /// A folder or an archive is written beside where the image goes anyway: the local Docker or `target/images`, or the registry with
    /// `--push`.
    #[arg(long, value_name = "WHERE")]
    pub output: Option<Output>,
    /// What builds; by default the policy's `[project] engine`, and without one docker where it answers, native otherwise
    #[arg(long, value_parser = engine_parser())]
    pub engine: Option<Engine>,
}

/// Where an image goes.
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
        let place = |path: &str| if path.is_empty() { Err("it names no path".to_owned()) } else { Ok(path.into()) };
        match (text, text.split_once(':')) {
            ("registry", _) => Ok(Self::Registry),
            ("docker", _) => Ok(Self::Docker),
            (_, Some(("oci", folder))) => place(folder).map(Self::Layout),
            (_, Some(("oci-archive", file))) => place(file).map(Self::Archive),
            _ => Err("it is none of `registry`, `docker`, `oci:DIR`, `oci-archive:FILE`".to_owned()),
        }
    }
}

/// What is compared.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Comparing")]
pub struct PlanFlags {
    /// Compare with this revision; by default what CI's event names, at the desk where the change left the default branch
    #[arg(long, value_name = "REV", conflicts_with = "event")]
    pub base: Option<String>,
    /// Plan for this revision; by default the working tree with all that is not committed
    #[arg(long, value_name = "REV")]
    pub head: Option<String>,
    /// A CI event's JSON; by default `$GITHUB_EVENT_PATH`
    #[arg(long, value_name = "FILE")]
    pub event: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make sure of the base, then build the app on it; prints the app's reference by digest
    ///
    /// The base is built when nothing that determines it has been built before: its key is hashed over the root, the lock's
    /// meaning, the Dockerfile and every file it copies. The app is built when one of its own files changed.
    #[command(after_help = "\
Examples:
  cargo xtask build                                   into the local Docker
  cargo xtask build --push                            into the policy's registry, `latest` with it
  cargo xtask build --push --registry 127.0.0.1:5000  into a registry on this machine
  cargo xtask build --dry-run                         what would be run, and why")]
    Build(BuildFlags),
    /// Build the base image: Python and every locked dependency
    BuildBase {
        #[command(flatten)]
        #[allow(missing_docs)]
        build: BuildFlags,
        /// Show where the bytes are, by layer and by package
        #[arg(long)]
        analyze: bool,
    },
    /// Build the app on the base of this tree, which has to exist
    BuildFast(BuildFlags),
    /// Build the app from scratch, without any base: the fallback and the yardstick
    BuildEnhanced(BuildFlags),
    /// What a change needs: `skip`, `fast`, `base+fast` or `full`, and why
    ///
    /// Compares what determines the images at two revisions, and asks the registry what is there. What cannot be known leads
    /// to building, never to `skip`.
    #[command(after_help = "\
Examples:
  cargo xtask plan                                    this working tree
  cargo xtask plan --base origin/main --head HEAD     two commits
  cargo xtask plan --format github                    in CI: the event's change, as outputs and job summary")]
    Plan(PlanFlags),
    /// Why an image of this tree is not the published one: package by package, file by file
    Explain {
        /// Compare this commit with the working tree, or, given twice, with the second
        #[arg(long, value_name = "REV")]
        commit: Vec<String>,
    },
    /// Resolve the requirements into the lock, and pin the root's digests
    ///
    /// Writes the lock with every transitive package and its hashes for all platforms, the installer's lock, and `images.lock`
    /// with the root's digest for each platform.
    Lock {
        /// Change nothing; fail if the lock does not answer to the requirements
        #[arg(long)]
        check: bool,
        /// Take the newest version of every package that the requirements allow
        #[arg(long, conflicts_with = "check")]
        upgrade: bool,
        /// Take the newest version of this package
        #[arg(short = 'P', long, value_name = "NAME", conflicts_with = "check")]
        upgrade_package: Vec<String>,
    },
    /// Run a built image and ask it something: version, user, read-only filesystem, the policy's own checks
    Smoke {
        /// The image; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
    },
    /// Run an image with this terminal: by Docker, or without any engine
    ///
    /// Where no Docker engine answers, the image is unpacked under `target/native/images` and run in namespaces of its own, as
    /// an ordinary user where the machine allows that. Docker publishes the image's ports on 127.0.0.1; without an engine, and
    /// where the engine has no bridge, the host's network is the image's. What the program writes is gone when it has ended,
    /// and its exit code is this command's.
    #[command(after_help = "\
Examples:
  cargo xtask run                           the app of this tree
  cargo xtask run -- --version              the same with other arguments
  cargo xtask run 127.0.0.1:5000/app:latest another image
  cargo xtask run target/images/app         an OCI layout on this machine")]
    Run {
        /// The image: a reference, or the folder of an OCI layout; by default the app of this tree
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
        /// Arguments instead of the image's own
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Find what is missing or out of date, and say what to do
    Doctor,
    /// From nothing to a smoke-tested app in a registry: installs what is missing (says so first)
    Quickstart {
        /// Do not ask before installing
        #[arg(short, long)]
        yes: bool,
        /// What builds; `docker` starts a private engine where none answers, otherwise such a machine needs none
        #[arg(long, value_parser = engine_parser())]
        engine: Option<Engine>,
    },
    /// A private Docker engine and registry under `target/engine`, for machines without one
    #[command(subcommand)]
    Engine(EngineCommand),
    /// The published bases: list them, pin one, move `latest` back, prune
    #[command(subcommand)]
    Base(BaseCommand),
    /// What builds have cost, and what the split into base and app has saved: from the ledger of measured builds
    #[command(after_help = "\
Examples:
  cargo xtask stats                          a table and a chart of the last 30 days
  cargo xtask stats --html target/stats.html one page to look at or to send
  cargo xtask stats --gate-factor 1.5        for CI: exit code 6 when fast builds have become slower")]
    Stats(StatsFlags),
    /// Measure: what an edit, a bump and a cold start cost, beside plain docker
    Bench {
        /// Measure only scenarios whose name contains this, or one of these with commas between
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Runs of each warm scenario, by default 5; with `--compare` of each side, by default 7; the median counts
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..100))]
        runs: Option<u32>,
        /// Measure the native engine beside docker buildx and, where it is installed, buildah; takes most of an hour
        #[arg(long)]
        compare: bool,
        /// Write the result as Markdown into this file too
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// What CI runs: tidy, clippy, docs, licences, the lock, every test on real engines, a real build
    ///
    /// Ends at the first phase that fails, with its exit code. The engine that it starts is ended again.
    Ci {
        /// Only what a small change needs, as `plan` names it: `documents`, or a `[[ci.tests]]` of the policy
        #[arg(long, value_name = "TESTS")]
        only: Option<String>,
    },
    /// Every test, real-engine tests included; installs what they need, under `target`
    Test {
        /// Only tests whose name contains this
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Only unit tests and tests of the command line: no engine, nothing installed, under a minute when compiled
        #[arg(long)]
        quick: bool,
    },
    /// Write `.github/workflows` from the policy
    Workflows {
        /// Change nothing; fail if a file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// The repository's invariants: formatting, hosts, paths, links, manifests, ignore files, module edges
    ///
    /// Tells every violation with its repair, and changes nothing.
    Tidy,
    /// A manual page, on stdout: `cargo xtask man build | man -l -`
    Man {
        /// The command, as it is typed: `build`, `engine up`; by default all of xtask
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Completions for a shell, on stdout
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `cargo xtask engine …`
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Start it; returns when Docker and the registry answer
    Up {
        /// The registry's port on 127.0.0.1; kept between runs
        #[arg(long, value_name = "PORT")]
        registry_port: Option<u16>,
        /// The registry alone, for the native engine: no Docker, no root rights
        #[arg(long)]
        registry_only: bool,
    },
    /// How it is, and the environment that reaches it
    Status,
    /// Stop it by its process id; its data stays
    Down {
        /// Remove its folder too
        #[arg(long)]
        purge: bool,
    },
}

/// `cargo xtask base …`
#[derive(Debug, Subcommand)]
pub enum BaseCommand {
    /// What is in the registry: age, size, platforms, who stands on it, which is `latest`, this tree's, pinned
    List,
    /// Build on this base whatever the requirements say: writes its digest into `images.lock`
    Pin {
        /// A base's tag or digest; by default the one that `latest` names
        #[arg(value_name = "TAG|DIGEST")]
        name: Option<String>,
        /// Let the pinned base go
        #[arg(long, conflicts_with = "name")]
        remove: bool,
    },
    /// Move `latest` back to the base before, or to the named one; shows what it does first
    Rollback {
        /// A base's tag or digest; by default the newest complete one of an earlier commit
        #[arg(value_name = "TAG|DIGEST")]
        name: Option<String>,
        /// Do it
        #[arg(short, long)]
        yes: bool,
    },
    /// Delete old bases that nothing refers to, with the layouts on this machine; shows the plan and its reasons first
    Prune {
        /// Keep so many of the newest complete bases
        #[arg(long, value_name = "N", default_value_t = 5)]
        keep: usize,
        /// Keep what was built later than so long ago, and the bases of apps that were: `30d`, `12h`
        #[arg(long, value_name = "AGE", default_value = "30d", value_parser = span)]
        older_than: Duration,
        /// Do it
        #[arg(short, long)]
        yes: bool,
    },
}

/// What `stats` shows.
#[derive(Clone, Debug, Args)]
pub struct StatsFlags {
    /// Builds of this last time only: `30d`, `12h`
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = span)]
    pub since: Duration,
    /// Write one self-contained page to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Fail (exit code 6) when the last fast builds took more than so many times what those before took: on the same kind of
    /// machine and engine, of the same kind of edit
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub gate_factor: Option<f64>,
    /// How many fast builds the gate compares with how many before
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub gate_builds: u16,
    /// Take the records that travelled with the images of CI, too
    #[arg(long)]
    pub from_registry: bool,
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

    /// Every flag of a build, and whether the native engine honours it; what it cannot honour it refuses. A new flag has to get a
    /// row: no engine may pass over it in silence.
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
    }
}
