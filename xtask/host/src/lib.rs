//! Everything that is read or talked to: files, git, processes, registries, docker.

pub mod advisories;
pub mod clock;
pub mod docker;
pub mod file;
pub mod github;
pub mod gitlab;
mod http;
pub mod index;
/// Everything that only Linux has. On another system, and with `--cfg xtask_portable`, `elsewhere.rs` has the same names.
#[cfg(all(target_os = "linux", not(xtask_portable)))]
pub mod linux;
#[cfg(not(all(target_os = "linux", not(xtask_portable))))]
#[path = "elsewhere.rs"]
pub mod linux;
pub mod process;
pub mod registry;
pub mod scratch;
pub mod signing;
pub mod terminal;
pub mod tree;
