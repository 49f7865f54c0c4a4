//! `cargo xtask`: builds this repository's container images.

use std::process::ExitCode;

fn main() -> ExitCode {
    image_xtask::main()
}
