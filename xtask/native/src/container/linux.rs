//! What runs an image without an engine, and ends what this program starts: namespaces, mounts, capabilities, process handles.

pub mod bare;
pub mod guard;
mod inside;
mod stream;

pub use inside::inside;
