//! Builds this repository's container images: facts → plan → execution.

pub mod context;
pub mod dockerfile;
pub mod fault;
pub mod ignore;
pub mod process;
pub mod reference;
pub mod ui;
