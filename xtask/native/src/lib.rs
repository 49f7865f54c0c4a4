//! The native engine: images without a daemon, in the time of what changed.

pub mod assembly;
pub mod build;
pub mod container;
pub mod files;
pub mod image;
pub mod layer;
pub mod push;
pub mod recipes;
pub mod root;
pub mod store;
pub mod support;
