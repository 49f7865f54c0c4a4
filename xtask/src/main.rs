//! Builds this repository's container images.
fn main() {}
