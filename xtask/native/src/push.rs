//! Uploads an image: finds the layers that the registry has, and sends the others.

pub mod deliver;
pub mod published;
