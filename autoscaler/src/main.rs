//! The autoscaler's command line.
fn main() {}
