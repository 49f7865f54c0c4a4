//! Builds this repository's container images: facts → plan → execution.

pub mod debian;
pub mod engine;
pub mod fault;
pub mod layout;
pub mod oci;
pub mod process;
pub mod reference;
pub mod root;
pub mod ui;
