//! Runs images: by docker, or, where no engine is, bare.

pub mod bare;
mod inside;
pub mod program;
mod stream;

pub use inside::inside;

use serde::{Deserialize, Serialize};

/// What a container may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// Nothing: a read-only filesystem, no network but its own loopback, no capabilities, and none to be gained.
    Confined,
    /// What Docker allows by itself, and the host's network.
    Open,
}

/// What is run of an image.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Instead of the image's own program and its arguments.
    pub entrypoint: Option<String>,
    /// Arguments; without any, the image's own.
    pub args: Vec<String>,
    /// What it may do.
    pub manner: Manner,
}
