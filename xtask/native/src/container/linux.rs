//! Runs images without an engine, and ends the programs that this one starts: namespaces, mounts, capabilities, process handles.

pub mod bare;
pub mod guard;
mod inside;
mod stream;

pub use inside::inside;
