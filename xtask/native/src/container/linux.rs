//! Containers without an engine, and programs that end with xtask: namespaces, mounts, capabilities, process handles.

pub mod bare;
mod output;
mod reexec;
pub mod subprocess;

pub use reexec::dispatch;
