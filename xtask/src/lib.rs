//! Builds this repository's container images: facts → plan → execution.

pub mod fault;
pub mod lock;
pub mod process;
pub mod reference;
pub mod requirements;
pub mod ui;
