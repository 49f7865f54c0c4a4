//! Native engine: builds images without a daemon; the cost follows the size of the change.

pub mod assembly;
pub mod builder;
pub mod container;
pub mod difference;
pub mod files;
pub mod image;
pub mod inventory;
pub mod layer;
pub mod listing;
pub mod preflight;
pub mod push;
pub mod recipes;
pub mod root;
pub mod stage;
pub mod store;
pub mod wheel;
