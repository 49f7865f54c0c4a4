//! Brings an image to a registry: which layers it has already, and the rest.

pub mod deliver;
pub mod known;
