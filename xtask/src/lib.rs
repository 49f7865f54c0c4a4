//! Builds this repository's container images: facts → plan → execution.

pub mod binary;
pub mod context;
pub mod debian;
pub mod docker;
pub mod dockerfile;
pub mod engine;
pub mod facts;
pub mod fault;
pub mod flags;
pub mod git;
pub mod ignore;
pub mod key;
pub mod layout;
pub mod lock;
pub mod oci;
pub mod plan;
pub mod policy;
pub mod process;
pub mod publish;
pub mod reference;
pub mod registry;
pub mod requirements;
pub mod root;
pub mod smoke;
pub mod ui;
