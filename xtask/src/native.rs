//! The native engine: the same images as docker's, without a daemon, in the time of what changed.
//!
//! An image is the layers of what it stands on, layers that recipes make, and a configuration. A recipe has a fingerprint
//! before anything is made; a layer that somebody made of it already is named, and neither built nor moved.

pub mod assembly;
pub mod build;
pub mod deliver;
pub mod files;
pub mod image;
pub mod item;
pub mod known;
pub mod layer;
pub mod outline;
pub mod python;
pub mod recipes;
pub mod stage;
pub mod store;
pub mod support;
pub mod unpack;
pub mod user;
