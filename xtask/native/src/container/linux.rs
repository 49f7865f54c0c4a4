//! Containers without an engine, and programs that end with xtask: namespaces, mounts, capabilities, process handles.

pub mod bare;
mod binary;
mod ids;
mod output;
mod reexec;
pub mod subprocess;

pub use reexec::dispatch;
