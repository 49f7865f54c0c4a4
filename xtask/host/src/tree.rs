//! The repository on this machine: files, git, the compiled binary, the toolchain, secrets.

pub mod adoption;
pub mod binary;
pub mod committed;
pub mod context;
pub mod facts;
pub mod files;
pub mod git;
pub mod inputs;
pub mod ledger;
pub mod secrets;
pub mod toolchain;
pub mod uv;
pub mod watched;
