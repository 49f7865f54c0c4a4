//! `cargo-xtask`: what `cargo install` installs, for repositories without a package of their own. Cargo starts it as `cargo xtask`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
