//! Builds this repository's container images: facts → plan → execution.

pub mod binary;
pub mod fault;
pub mod git;
pub mod key;
pub mod policy;
pub mod process;
pub mod reference;
pub mod ui;
