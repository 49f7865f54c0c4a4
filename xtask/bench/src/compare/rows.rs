//! The rows of a comparison. To add a row, add an entry to the table.

use super::goal::Goal;
use super::growth::{self, Among};
use super::harness::{Edit, Harness, copy_file};
use super::large::{self, Large};
use super::native::{self, Caller};
use super::peers;
use super::pull;
use super::subject::{Peer, Pulled, Start, What};
use super::watch::{self, Follow};
use crate::sample::Sample;
use crate::scenarios::{BUMPED, BUMPED_OFTEN, bump, edit_program, edit_template};
use std::fs::File;
use xtask_model::fault::Fault;
use xtask_model::image::policy::Compression;

pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    /// True if it is measured only when named.
    pub on_request: bool,
    pub(super) edit: Edit,
    pub what: What,
    pub start: Start,
    /// Number of changed images: a run that builds fewer is invalid.
    pub builds: usize,
    /// True if the program is compiled. The compiler's files are not counted.
    pub compiles: bool,
    /// The native engine first.
    pub sides: &'static [Side],
}

pub struct Side {
    pub by: &'static str,
    pub work: Work,
    pub goal: Option<Goal>,
    /// Limit on the number of runs of a slow side.
    pub at_most: Option<u32>,
}

#[derive(Clone, Copy)]
pub enum Work {
    Native(Caller),
    Peer(Peer),
    /// From a save until the page is served.
    Follow(Follow),
    /// The native engine with a base that is larger by this many bytes, in ten layers.
    OnBase(u64),
    /// The native engine with this many more files in the context, on a clean checkout.
    AmongFiles(usize, Among),
    /// The native engine with a new file of this many bytes.
    WithFile(u64),
    /// The native engine with one more package, whose wheel has this many bytes.
    WithWheel(u64),
    /// A base of several gigabytes.
    Large(Large),
    /// Docker's engine runs an app that it has to pull.
    Pull(Pulled),
}

impl Work {
    pub fn is_native(self) -> bool {
        let by_others = matches!(
            self,
            Self::Follow(Follow::Docker | Follow::ByHand)
                | Self::Pull(Pulled::Docker(_))
                | Self::Large(Large::Download)
        );
        !by_others && !matches!(self, Self::Peer(_))
    }

    /// Builds once, after the change was made.
    pub fn once(self, harness: &mut Harness, row: &Row) -> Result<Sample, Fault> {
        let sample = match self {
            Self::Native(caller) if row.compiles => native::build_program(harness, caller, row.start),
            Self::Native(caller) => native::build(harness, caller, row.what, row.start),
            Self::Follow(follow) => return watch::build(harness, follow),
            Self::Peer(peer) => peers::build(harness, peer, row.what, row.start),
            Self::OnBase(bytes) => growth::on_base(harness, bytes),
            Self::AmongFiles(count, among) => growth::among_files(harness, count, among),
            Self::WithFile(bytes) => growth::with_file(harness, bytes),
            Self::WithWheel(bytes) => growth::with_wheel(harness, bytes),
            Self::Large(large) => large::build(harness, large),
            Self::Pull(app) => pull::first_answer(harness, app),
        }?;
        if self.is_native() && sample.built != row.builds {
            return Err(Fault::build(format!("cannot compare `{}`", row.name))
                .cause(format!("xtask built {} images, but {} have changed", sample.built, row.builds)));
        }
        Ok(sample)
    }
}

impl Row {
    /// Returns true if each side finishes before the next starts, because preparation is slow.
    pub fn one_by_one(&self) -> bool {
        self.sides.iter().any(|side| matches!(side.work, Work::OnBase(_) | Work::AmongFiles(..)))
    }
}

const fn side(by: &'static str, work: Work, goal: Option<Goal>) -> Side {
    Side { by, work, goal, at_most: None }
}

const fn native(goal: Option<Goal>) -> Side {
    side("native", Work::Native(Caller::Binary), goal)
}

const fn alias(goal: Option<Goal>) -> Side {
    side("native, through cargo's alias", Work::Native(Caller::Alias), goal)
}

const WITHOUT_UV: Side = side("native, installing uv first", Work::Native(Caller::WithoutUv), None);

const fn docker(goal: Option<Goal>) -> Side {
    side("docker buildx", Work::Peer(Peer::Docker), goal)
}

/// `type=registry`: like every cache that a runner reads before a build and writes after it.
const DOCKER_CACHED: Side = side("docker buildx, cache in the registry", Work::Peer(Peer::DockerCached), None);

/// The usual setup of a team. Its cache mounts make it quick on a machine that has built before.
const ONE_FILE: Side = side("docker buildx, one Dockerfile with cache mounts", Work::Peer(Peer::OneFile), None);

/// Compiles and installs everything.
const ONE_FILE_COLD: Side = Side { at_most: Some(1), ..ONE_FILE };

const ONE_FILE_CACHED: Side = Side {
    at_most: Some(3),
    ..side(
        "docker buildx, one Dockerfile with a layer of crates, cache in the registry",
        Work::Peer(Peer::OneFileCached),
        None,
    )
};

const BUILDAH: Side = side("buildah", Work::Peer(Peer::Buildah), None);

/// A base takes it a minute or more.
const SLOW_BUILDAH: Side = Side { at_most: Some(3), ..BUILDAH };

const ROW: Row = Row {
    name: "",
    about: "",
    on_request: false,
    edit: |_| Ok(()),
    what: What::App,
    start: Start::Cold,
    builds: 1,
    compiles: false,
    sides: &[],
};

pub(super) static ROWS: [Row; 20] = [
    Row {
        name: "template-cold",
        about: "a template edited, nothing local",
        edit: |harness| edit_template(&harness.workspace, harness.number),
        sides: &[
            native(Some(Goal::Within(0.25))),
            alias(None),
            docker(Some(Goal::Faster(50.0))),
            DOCKER_CACHED,
            BUILDAH,
        ],
        ..ROW
    },
    Row {
        name: "template-warm",
        about: "a template edited, everything warm",
        edit: |harness| edit_template(&harness.workspace, harness.number),
        start: Start::Warm,
        sides: &[
            native(None),
            alias(None),
            docker(Some(Goal::Faster(4.0))),
            side("docker buildx, by xtask", Work::Native(Caller::Docker), None),
            ONE_FILE,
            BUILDAH,
        ],
        ..ROW
    },
    Row {
        name: "template-watch",
        about: "a template saved, until the page that the app serves has it",
        start: Start::Warm,
        sides: &[
            side("native, `watch`", Work::Follow(Follow::Native), Some(Goal::Within(0.5))),
            side("docker, `watch`", Work::Follow(Follow::Docker), None),
            side("docker buildx, then docker run", Work::Follow(Follow::ByHand), None),
        ],
        ..ROW
    },
    Row {
        name: "rust-warm",
        about: "a line of Rust edited, everything warm",
        edit: |harness| edit_program(&harness.workspace, harness.number),
        what: What::Program,
        start: Start::Warm,
        compiles: true,
        sides: &[
            side("native, without --push", Work::Native(Caller::Local), Some(Goal::Within(5.0))),
            native(None),
            ONE_FILE,
        ],
        ..ROW
    },
    Row {
        name: "rust-cold",
        about: "a line of Rust edited, nothing local, compiled crates in the registry",
        edit: |harness| edit_program(&harness.workspace, harness.number),
        what: What::Program,
        compiles: true,
        sides: &[native(Some(Goal::Within(35.0))), ONE_FILE_CACHED, ONE_FILE_COLD],
        ..ROW
    },
    Row {
        name: "binary-cold",
        about: "a new binary of 15 MB, compiled before, nothing else local",
        edit: new_binary,
        sides: &[native(None), docker(Some(Goal::Faster(20.0))), DOCKER_CACHED, BUILDAH],
        ..ROW
    },
    Row {
        name: "small-package-cold",
        about: "one small package updated, nothing local: base and app",
        edit: |harness| bump(&harness.workspace, 1, &BUMPED),
        what: What::BaseAndApp,
        builds: 2,
        sides: &[
            native(Some(Goal::Within(0.5))),
            WITHOUT_UV,
            docker(Some(Goal::Faster(30.0))),
            DOCKER_CACHED,
            SLOW_BUILDAH,
        ],
        ..ROW
    },
    Row {
        name: "small-package-warm",
        about: "one small package updated, everything warm: base and app",
        // The registry keeps what earlier runs pushed, so each run has a release of its own.
        edit: |harness| bump(&harness.workspace, harness.round, &BUMPED_OFTEN),
        what: What::BaseAndApp,
        start: Start::Warm,
        builds: 2,
        sides: &[native(None), docker(None), ONE_FILE],
        ..ROW
    },
    Row {
        name: "scipy-cold",
        about: "scipy updated, nothing local: base and app",
        edit: |harness| bump(&harness.workspace, 1, &["scipy"]),
        what: What::BaseAndApp,
        builds: 2,
        sides: &[native(None), docker(Some(Goal::Faster(15.0))), DOCKER_CACHED, SLOW_BUILDAH],
        ..ROW
    },
    Row {
        name: "base-from-nothing",
        about: "the whole base, only the root in the registry, no wheel cached",
        what: What::Base,
        start: Start::Nothing,
        sides: &[
            native(None),
            WITHOUT_UV,
            side("docker buildx, with pip", Work::Peer(Peer::DockerByPip), Some(Goal::Faster(6.0))),
            side("docker buildx, with uv", Work::Peer(Peer::Docker), Some(Goal::Faster(6.0))),
            SLOW_BUILDAH,
        ],
        ..ROW
    },
    Row {
        name: "no-op",
        about: "nothing changed",
        start: Start::Warm,
        builds: 0,
        sides: &[native(Some(Goal::Within(0.1))), alias(Some(Goal::Within(0.12))), docker(None), BUILDAH],
        ..ROW
    },
    Row {
        name: "growth-base",
        about: "a template edited, nothing local, on a base that is larger by this size, in ten layers",
        on_request: true,
        edit: growth::edit,
        sides: &[
            side("0.1 GB", Work::OnBase(100_000_000), None),
            side("0.5 GB", Work::OnBase(500_000_000), STEADY),
            side("2 GB", Work::OnBase(2_000_000_000), STEADY),
            side("8 GB", Work::OnBase(8_000_000_000), STEADY),
        ],
        ..ROW
    },
    Row {
        name: "growth-files",
        about: "a template edited, nothing local, with this many more files",
        on_request: true,
        edit: growth::edit,
        sides: &[
            side("1,000 files", Work::AmongFiles(1_000, Among::Cold), None),
            side("10,000 files", Work::AmongFiles(10_000, Among::Cold), STEADY),
            side("100,000 files", Work::AmongFiles(100_000, Among::Cold), STEADY),
        ],
        ..ROW
    },
    Row {
        name: "growth-files-no-op",
        about: "nothing changed, with this many more files",
        on_request: true,
        edit: growth::without_steps,
        builds: 0,
        start: Start::Warm,
        sides: &[
            side("1,000 files", Work::AmongFiles(1_000, Among::Warm), None),
            side("100,000 files", Work::AmongFiles(100_000, Among::Warm), AT_ONCE),
        ],
        ..ROW
    },
    Row {
        name: "growth-files-template",
        about: "a template edited, everything warm, with this many more files",
        on_request: true,
        edit: growth::edit,
        start: Start::Warm,
        sides: &[
            side("1,000 files", Work::AmongFiles(1_000, Among::Warm), None),
            side("100,000 files", Work::AmongFiles(100_000, Among::Warm), AT_ONCE),
        ],
        ..ROW
    },
    Row {
        name: "growth-files-plan",
        about: "`plan` between two commits of which one edits a template, with this many more files",
        on_request: true,
        edit: growth::edit,
        builds: 0,
        start: Start::Warm,
        sides: &[
            side("1,000 files", Work::AmongFiles(1_000, Among::Plan), None),
            side("100,000 files", Work::AmongFiles(100_000, Among::Plan), AT_ONCE),
        ],
        ..ROW
    },
    Row {
        name: "growth-change",
        about: "a new file of random bytes, nothing else local: the memory must not grow",
        on_request: true,
        edit: growth::edit,
        sides: &[
            side("10 MB", Work::WithFile(10_000_000), None),
            side("100 MB", Work::WithFile(100_000_000), None),
            side("1 GB", Work::WithFile(1_000_000_000), None),
        ],
        ..ROW
    },
    Row {
        name: "growth-wheel",
        about: "the whole base with one more package of random bytes, no wheel cached: the memory must not grow",
        on_request: true,
        edit: growth::without_steps,
        what: What::Base,
        start: Start::Nothing,
        sides: &[
            side("10 MB", Work::WithWheel(10_000_000), None),
            side("100 MB", Work::WithWheel(100_000_000), None),
            side("1 GB", Work::WithWheel(1_000_000_000), None),
        ],
        ..ROW
    },
    Row {
        name: "large-base",
        about: "torch and 325 other packages, 3.5 GB of the index's real wheels, only the root in the registry, no wheel cached",
        on_request: true,
        edit: large::edit,
        what: What::Base,
        start: Start::Nothing,
        sides: &[
            Side { at_most: Some(3), ..side("native", Work::Large(Large::Base), None) },
            Side { at_most: Some(3), ..side("the download alone", Work::Large(Large::Download), None) },
        ],
        ..ROW
    },
    Row {
        name: "pull",
        about: "docker's engine runs the app, of which it has nothing, until the app answers",
        on_request: true,
        builds: 0,
        sides: &[
            side("native, gzip", Work::Pull(Pulled::Native(Compression::Gzip)), None),
            side("native, zstd", Work::Pull(Pulled::Native(Compression::Zstd)), None),
            side("docker buildx, gzip", Work::Pull(Pulled::Docker(Compression::Gzip)), LESS),
            side("docker buildx, zstd", Work::Pull(Pulled::Docker(Compression::Zstd)), LESS),
        ],
        ..ROW
    },
];

/// 30 % less than the other side.
const LESS: Option<Goal> = Some(Goal::Faster(1.43));

/// Tolerance for a cost that must not grow.
const STEADY: Option<Goal> = Some(Goal::Steady(1.25));

/// For what a person waits for, whatever the number of files.
const AT_ONCE: Option<Goal> = Some(Goal::Within(0.3));

/// Size of a new binary in bytes.
const BINARY: u64 = 15_000_000;

/// Edits a source and makes its program: the real one with random bytes at the end.
fn new_binary(harness: &mut Harness) -> Result<(), Fault> {
    let program = harness.scratch().join("new-program");
    copy_file(&harness.scratch().join("program"), &program)?;
    let cannot = |error| Fault::build(format!("cannot write `{}`", program.display())).cause(error);
    let mut file = File::options().append(true).open(&program).map_err(cannot)?;
    let has = file.metadata().map_err(cannot)?.len();
    growth::random(BINARY.saturating_sub(has).max(1000), &mut file).map_err(cannot)?;
    harness.new_program = Some(program);
    let number = harness.number;
    harness.workspace.edit("autoscaler/src/main.rs", |text| format!("{text}// {number}\n"))
}
