//! Builds this repository's container images: facts → plan → execution.

pub mod fault;
pub mod process;
pub mod reference;
pub mod registry;
pub mod ui;
