//! Outside the modules for Linux, code uses only what every system of a laptop has.
//!
//! Pure. A compiler for another system is not on every machine that changes this code; this rule is.

use super::edges::paths;
use super::{Files, Violation};

/// Sources that are compiled on every system.
const SOURCES: [&str; 5] =
    ["xtask/model/src/", "xtask/scan/src/", "xtask/host/src/", "xtask/native/src/", "xtask/src/"];

/// The modules for Linux.
const LINUX: [&str; 2] = ["xtask/host/src/linux.rs", "xtask/native/src/container/linux"];

/// Items of rustix that Linux and macOS have, as far as they are used. Its documentation lists the systems of each.
const COMMON: &[&str] = &[
    "rustix::fs::AtFlags",
    "rustix::fs::CWD",
    "rustix::fs::Dir",
    "rustix::fs::FileType",
    "rustix::fs::Gid",
    "rustix::fs::Mode",
    "rustix::fs::OFlags",
    "rustix::fs::RawMode",
    "rustix::fs::Timespec",
    "rustix::fs::Timestamps",
    "rustix::fs::Uid",
    "rustix::fs::chownat",
    "rustix::fs::fchmod",
    "rustix::fs::futimens",
    "rustix::fs::linkat",
    "rustix::fs::mkdirat",
    "rustix::fs::open",
    "rustix::fs::openat",
    "rustix::fs::statat",
    "rustix::fs::symlinkat",
    "rustix::fs::unlinkat",
    "rustix::fs::utimensat",
    "rustix::io::Errno",
    "rustix::io::Result",
    "rustix::io::fcntl_dupfd_cloexec",
    "rustix::process::Pid",
    "rustix::process::Signal",
    "rustix::process::geteuid",
    "rustix::process::kill_process_group",
    "rustix::termios::tcgetwinsize",
];

/// Every use of what only Linux has.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, code) in files.code() {
        let is_common = SOURCES.iter().any(|folder| path.starts_with(folder));
        if !is_common || path.ends_with("/tests.rs") || LINUX.iter().any(|linux| path.starts_with(linux)) {
            continue;
        }
        let used =
            paths(code).into_iter().filter(|(_, used)| is_linux(used)).map(|(line, used)| (line, format!("`{used}`")));
        let read =
            code.lines().zip(1..).filter(|(text, _)| names_proc(text)).map(|(_, line)| (line, "`/proc`".to_owned()));
        for (line, what) in used.chain(read) {
            let repair = "move it to `linux.rs` of its crate, or list it in `tidy/portable.rs` if macOS has it too";
            found.push(Violation::new(path, line, format!("{what} outside the modules for Linux"), repair));
        }
    }
    found
}

/// True for a line with a text that begins with `/proc/`.
fn names_proc(line: &str) -> bool {
    line.split('"').any(|part| part.strip_prefix('/').is_some_and(|rest| rest.starts_with("proc/")))
}

fn is_linux(path: &str) -> bool {
    let item = path.splitn(4, "::").take(3).collect::<Vec<_>>().join("::");
    path.starts_with("std::os::linux") || path.starts_with("rustix::") && !COMMON.contains(&item.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[&str]) {
        let files = Files::made_up(&[(path, text)]);
        let found: Vec<String> =
            check(&files).into_iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn what_only_linux_has_is_found_outside_its_modules() {
        let text = "use rustix::process::{Pid, pidfd_open};\nuse std::os::linux::fs::MetadataExt;\n\
                    fn a() { rustix::process::Signal::INT; rustix::mount::unmount(b); read(\"/proc/self/status\") }\n";
        let expected = [
            "1: `rustix::process::pidfd_open` outside the modules for Linux",
            "2: `std::os::linux::fs::MetadataExt` outside the modules for Linux",
            "3: `rustix::mount::unmount` outside the modules for Linux",
            "3: `/proc` outside the modules for Linux",
        ];
        finds("xtask/host/src/process.rs", text, &expected);
        finds("xtask/host/src/linux.rs", text, &[]);
        finds("xtask/native/src/container/linux/inside/apart.rs", text, &[]);
        finds("xtask/tests/container.rs", text, &[]);
        finds("xtask/host/src/process.rs", &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n"), &[]);
    }

    #[test]
    fn what_every_system_has_is_allowed() {
        finds("xtask/host/src/a.rs", "use rustix::fs::{AtFlags, CWD};\nuse std::os::unix::fs::symlink;\n", &[]);
        finds("xtask/host/src/a.rs", "fn a() { rustix::process::Signal::INT; rustix::io::Errno::LOOP }\n", &[]);
    }
}
