//! Says that xtask is being compiled. The alias `cargo xtask` hides cargo's output, and the first compilation takes half a minute or more.
//!
//! Cargo starts what most units of a build need first: with two processors, libraries such as `libc` and `syn`, on which up to 27 units
//! depend. On a crate of the workspace no more than 8 can: those of xtask itself. Of the crates without others of xtask below them, this one's
//! script has the most above it, but for a crate of its own, which would be one more to compile.

use std::fs::File;
use std::io::Write as _;
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt as _;

const LINE: &str = "   compiling xtask; the first time takes about a minute\n";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Cargo keeps what a build script prints.
    if let Ok(mut terminal) = File::options().write(true).open("/dev/tty") {
        // The line may have cargo's progress bar.
        let _ = write!(terminal, "\r\x1b[2K{LINE}");
        return;
    }
    // Without a terminal, as in CI, cargo's own stderr is a pipe that somebody reads. A file has one offset for each who opens it: what is
    // written here would be overwritten.
    #[cfg(unix)]
    {
        let stderr = format!("/proc/{}/fd/2", std::os::unix::process::parent_id());
        if std::fs::metadata(&stderr).is_ok_and(|meta| meta.file_type().is_fifo()) {
            // Opened for both, which never waits for a reader.
            if let Ok(mut pipe) = File::options().read(true).write(true).open(&stderr) {
                let _ = pipe.write_all(LINE.as_bytes());
            }
        }
    }
}
