//! Builds this repository's container images: facts → plan → execution.

pub mod bench;
pub mod build;
pub mod commands;
pub mod container;
pub mod fuzzing;
pub mod leftovers;
pub mod native;
pub mod root;
pub mod smoke;
pub mod steps;
pub mod survey;

pub use xtask_core::{
    bases, binary, change, committed, context, debian, docker, dockerfile, engine, event, facts, fault, flags, git,
    ignore, key, layout, ledger, lock, oci, plan, policy, process, publish, reference, registry, report, requirements,
    scratch, secrets, stats, tags, tidy, time, toolchain, ui, workflows,
};
