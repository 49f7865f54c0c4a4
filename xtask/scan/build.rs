//! Says that xtask is being compiled. The alias `cargo xtask` hides cargo's output, and the first compilation takes half a minute or more.

use std::io::Write as _;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Cargo keeps what a build script prints. Without a terminal nobody waits.
    if let Ok(mut terminal) = std::fs::File::options().write(true).open("/dev/tty") {
        // The line may have cargo's progress bar.
        let _ = terminal.write_all(b"\r\x1b[2K   compiling xtask; the first time takes about a minute\n");
    }
}
