//! Everything that is read or talked to: files, git, processes, registries, docker.

pub mod clock;
pub mod docker;
pub mod file;
pub mod process;
pub mod registry;
pub mod scratch;
pub mod terminal;
pub mod tree;
