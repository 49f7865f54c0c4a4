//! The command line: every command, flag and word of help. Decides nothing.

use crate::policy::Registry;
use crate::reference::Platform;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// Print the plan and the exact commands, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Leave the tag `latest` where it is
    #[arg(long)]
    pub no_latest: bool,
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
    /// Find what is missing or out of date, and say what to do
    Doctor,
    /// From nothing to a smoke-tested app in a registry: installs what is missing (says so first)
    Quickstart {
        /// Do not ask before installing
        #[arg(short, long)]
        yes: bool,
    },
    /// A private Docker engine and registry under `target/engine`, for machines without one
    #[command(subcommand)]
    Engine(EngineCommand),
    /// Measure: what an edit, a bump and a cold start cost, beside plain docker
    Bench {
        /// Measure only scenarios whose name contains this
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Runs of each warm scenario; the median counts
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..100))]
        runs: u32,
    },
    /// What CI runs: tidy, clippy, every test, on real engines
    Ci,
    /// Every test, real-engine tests included; installs what they need
    Test {
        /// Only tests whose name contains this
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Write `.github/workflows` from the policy
    Workflows {
        /// Change nothing; fail if a file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// The repository's invariants: formatting, paths, hosts, generated files, module edges
    Tidy,
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
