//! A Python: of an unpacked root, run with the root's own loader and libraries, or of this machine.
//!
//! Needs no root privileges and does not change the root folder. The root's Python runs as the current user: a root is
//! trusted like any base image.

use crate::container::subprocess;
use crate::layer::item;
use crate::stage::Selection;
use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;
use elf::{ElfBytes, ParseError};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::process::{self, Command};
use xtask_host::scratch::Scratch;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::spec::oci::Config;

/// Files that Python and most imports need: a quarter of a root's files, half of its bytes.
pub const PYTHON: Selection = Selection { name: "python", has: is_pythons };

const UNUSED: [&[u8]; 7] = [b"test", b"tests", b"ensurepip", b"idlelib", b"pydoc_data", b"tkinter", b"turtledemo"];

fn is_pythons(path: &ContextPath) -> bool {
    let parts: Vec<&[u8]> = path.parts().collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let Some(folder) = folders.last() else { return false };
    let of_python = |pair: &[&[u8]]| pair[0].starts_with(b"lib") && pair[1].starts_with(b"python");
    match name {
        _ if folders.windows(2).any(of_python) => {
            !folders.iter().any(|part| UNUSED.contains(part) || part.starts_with(b"config-"))
        }
        _ if *folder == b"bin" => name.starts_with(b"python"),
        // Loaders and shared libraries of common distributions.
        _ if folder.starts_with(b"lib") || folder.ends_with(b"-linux-gnu") => {
            name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
        }
        _ => *name == b"ld.so.conf" || *folder == b"ld.so.conf.d",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// `sys.executable`.
    pub(super) program: PathBuf,
    /// `3.13.5`.
    pub(super) version: String,
    /// Magic number of its byte code: `importlib.util.MAGIC_NUMBER` without the last two bytes.
    magic: u16,
}

/// The Python of an unpacked root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RootPython {
    /// Folder of the program.
    base: PathBuf,
    /// Start of a shell command without the program's arguments.
    call: String,
    version: String,
    magic: u16,
}

/// Bytes that [`RootPython::in_home`] writes, at most.
const SCRIPT: u64 = 64 << 10;

/// Magic number of all releases of a CPython minor version; `None` for versions newer than this table.
pub(super) fn magic(minor: &str) -> Option<u16> {
    // Lib/importlib/_bootstrap_external.py, later Include/internal/pycore_magic_number.h.
    let known = [("3.11", 3495), ("3.12", 3531), ("3.13", 3571), ("3.14", 3627)];
    known.into_iter().find_map(|(known, magic)| (known == minor).then_some(magic))
}

impl Interpreter {
    /// A command that is independent of this machine's settings and open files, and ends with xtask.
    pub(super) fn command(&self) -> Command {
        let call = subprocess::bound(Command::new(&self.program).arg("-I"));
        ["LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT"].into_iter().fold(call, Command::env_remove)
    }

    /// True if it makes the byte code that a root with this minor version reads.
    pub(super) fn compiles_for(&self, minor: &str) -> bool {
        self.version.starts_with(&format!("{minor}.")) && magic(minor).is_none_or(|magic| magic == self.magic)
    }

    pub(super) fn of_host(name: &str) -> Option<Self> {
        // A launcher on the PATH may choose a version; this runs what it chose.
        ask(&process::found(name)?).ok()
    }
}

impl RootPython {
    /// Finds the program, and runs it once.
    pub(super) fn new(root: &Path, config: &Config) -> Result<Self, Fault> {
        let cannot = |what: &str| Fault::build("cannot run the root's Python on this machine").cause(what);
        let program = super::paths(config).into_iter().find_map(|folder| {
            let file = within(root, &Path::new(&folder).join("python3")).filter(|file| file.is_file())?;
            Some((folder, file))
        });
        let (folder, program) = program.ok_or_else(|| cannot("no `python3` on the root's PATH"))?;
        let bytes = fs::read(&program).map_err(|error| cannot(&error.to_string()))?;
        let loader = loader(&bytes).map_err(|error| cannot(&error.to_string()))?;
        let shown = |path: &Path| process::quoted(&path.to_string_lossy()).into_owned();
        let call = match loader {
            // A static program runs directly.
            None => format!("exec {}", shown(&program)),
            Some(loader) => {
                let loader = within(root, Path::new(&loader)).filter(|file| file.is_file());
                let loader = loader.ok_or_else(|| cannot("its loader is missing in the root"))?;
                let libraries: Vec<String> =
                    libraries(root).iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
                if libraries.iter().any(|folder| folder.contains([':', ';'])) {
                    return Err(cannot("its folder's name contains `:` or `;`, which separate folders for the loader"));
                }
                format!(
                    "exec {} --inhibit-cache --library-path {} --argv0 \"$0\" {}",
                    shown(&loader),
                    process::quoted(&libraries.join(":")),
                    shown(&program)
                )
            }
        };
        let mut found =
            Self { base: root.join(folder.trim_start_matches('/')), call, version: String::new(), magic: 0 };
        let home =
            Scratch::in_memory(SCRIPT).map_or_else(Scratch::new, Ok).map_err(|error| cannot(&error.to_string()))?;
        let asked = ask(&found.in_home(home.path())?.program)?;
        (found.version, found.magic) = (asked.version, asked.magic);
        Ok(found)
    }

    /// Makes an environment at `home`: a script there starts the program through the root's loader.
    pub(super) fn in_home(&self, home: &Path) -> Result<Interpreter, Fault> {
        let script = home.join("bin/python3");
        let write = || {
            fs::create_dir_all(home.join("bin"))?;
            fs::write(home.join("pyvenv.cfg"), configuration(&self.base.to_string_lossy()))?;
            fs::write(&script, format!("#!/bin/sh\n{} \"$@\"\n", self.call))?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        };
        write().map_err(|error| Fault::build("cannot run the root's Python on this machine").cause(error))?;
        Ok(Interpreter { program: script, version: self.version.clone(), magic: self.magic })
    }
}

/// Contents of `pyvenv.cfg`.
pub(super) fn configuration(home: &str) -> String {
    format!("home = {home}\ninclude-system-site-packages = false\n")
}

fn ask(program: &Path) -> Result<Interpreter, Fault> {
    let script = "import sys, _frozen_importlib_external as e; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3]); \
                print(int.from_bytes(e.MAGIC_NUMBER[:2], 'little'))";
    let said = Interpreter { program: program.to_owned(), version: String::new(), magic: 0 }
        .command()
        .args(["-S", "-c", script])
        .read(Exit::Missing)?;
    let lines: Vec<&str> = said.lines().collect();
    let magic = lines.get(2).and_then(|line| line.parse().ok());
    match (lines.as_slice(), magic) {
        ([program, version, _], Some(magic)) => {
            Ok(Interpreter { program: PathBuf::from(program), version: (*version).to_owned(), magic })
        }
        _ => Err(Fault::missing(format!("`{}` is not a Python interpreter", program.display()))
            .cause(format!("its output is `{said}`"))),
    }
}

/// Loader of an ELF program; `None` for a static one.
fn loader(program: &[u8]) -> Result<Option<String>, ParseError> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(program)?;
    let named = file.segments().and_then(|all| all.iter().find(|segment| segment.p_type == PT_INTERP));
    let Some(named) = named else { return Ok(None) };
    let path = file.segment_data(&named)?;
    Ok(Some(String::from_utf8_lossy(path.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()))
}

/// Resolves a path as if the root were `/`; `None` if it is missing.
fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    let link =
        |path: &ContextPath| Ok(fs::read_link(root.join(path.to_path())).ok().map(|to| to.into_os_string().into_vec()));
    let looped = |path: &ContextPath| Fault::missing(format!("the links at `{path}` form a loop"));
    let found = root.join(item::resolve(path.as_os_str().as_bytes(), 40, &link, &looped).ok()?.to_path());
    found.symlink_metadata().is_ok().then_some(found)
}

/// Library folders of the root's loader: configured ones, then the defaults.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let mut named = Vec::new();
    configured(root, Path::new("/etc/ld.so.conf"), &mut named, 0);
    // Debian's loader knows its own folders without a configuration, which a root of few packages does not have.
    for folder in ["/lib", "/usr/lib"] {
        named.extend(["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|machine| format!("{folder}/{machine}")));
    }
    named.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned));
    let mut found = Vec::new();
    for folder in named {
        let folder = within(root, Path::new(&folder)).filter(|folder| folder.is_dir());
        found.extend(folder.filter(|folder| !found.contains(folder)));
    }
    found
}

fn configured(root: &Path, file: &Path, found: &mut Vec<String>, depth: usize) {
    let Some(text) = within(root, file).and_then(|file| fs::read_to_string(file).ok()) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line.strip_prefix("include ") {
            Some(pattern) if depth < 4 => {
                // Distributions use only this form: all `.conf` files of a folder.
                let Some((folder, "*.conf")) = pattern.trim().rsplit_once('/') else { continue };
                let entries = within(root, Path::new(folder)).and_then(|folder| fs::read_dir(folder).ok());
                let mut names: Vec<_> =
                    entries.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
                names.sort();
                for name in names.iter().filter(|name| name.to_string_lossy().ends_with(".conf")) {
                    configured(root, &Path::new(folder).join(name), found, depth + 1);
                }
            }
            None if line.starts_with('/') => found.push(line.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_includes_folder_is_read_in_order() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n# /none\n/opt/lib\n");
        write("etc/ld.so.conf.d/b.conf", "/usr/local/lib # ours\n");
        write("etc/ld.so.conf.d/a.conf", "/gone\n/usr/lib/x86_64-linux-gnu\n");
        write("etc/ld.so.conf.d/c.txt", "/usr/share\n");
        for folder in ["opt/lib", "usr/local/lib", "usr/lib/x86_64-linux-gnu", "usr/share"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).unwrap();
        let expected = ["usr/lib/x86_64-linux-gnu", "usr/local/lib", "opt/lib", "usr/lib"];
        assert_eq!(libraries(root.path()), expected.map(|folder| root.path().join(folder)));
        // A root without a configuration, as distroless ones are.
        fs::remove_file(root.path().join("etc/ld.so.conf")).unwrap();
        assert_eq!(
            libraries(root.path()),
            ["usr/lib/x86_64-linux-gnu", "usr/lib"].map(|folder| root.path().join(folder))
        );
    }

    #[track_caller]
    fn part(path: &str, expected: bool) {
        assert_eq!(is_pythons(&ContextPath::new(path)), expected, "{path}");
    }

    #[test]
    fn python_and_what_it_loads_are_a_part_of_the_root() {
        part("usr/bin/python3.13", true);
        part("usr/local/bin/python3", true);
        part("usr/bin/perl", false);
        part("usr/lib/python3.13/json/__pycache__/decoder.cpython-313.pyc", true);
        part("usr/local/lib/python3.12/lib-dynload/_ssl.cpython-312-x86_64-linux-gnu.so", true);
        part("usr/lib/python3/dist-packages/apt.py", true);
        part("usr/lib/python3.13/test/support/__init__.py", false);
        part("usr/lib/python3.12/config-3.12-x86_64-linux-gnu/libpython3.12.a", false);
        part("usr/share/doc/python3/README", false);
        part("usr/lib/x86_64-linux-gnu/libc.so.6", true);
        part("usr/lib64/ld-linux-x86-64.so.2", true);
        part("lib/ld-musl-x86_64.so.1", true);
        part("usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", false);
        part("usr/lib/x86_64-linux-gnu/perl-base/auto/POSIX/POSIX.so", false);
        part("etc/ld.so.conf", true);
        part("etc/ld.so.conf.d/x86_64-linux-gnu.conf", true);
        part("etc/ld.so.cache", false);
        part("etc/passwd", false);
        part("", false);
    }

    #[test]
    fn links_stay_within_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/python3.13"), "").unwrap();
        fs::write(folder.path().join("outside"), "").unwrap();
        let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, root.join(path)).unwrap();
        link("/usr/bin", "bin");
        link("python3.13", "usr/bin/python3");
        link("../../../outside", "usr/bin/up");
        link("loop", "loop");
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(within(&root, Path::new(path)), expected.map(|path| root.join(path)), "{path}");
        };
        check("/bin/python3", Some("usr/bin/python3.13"));
        check("bin/../bin/./python3", Some("usr/bin/python3.13"));
        check("/usr/bin/up", None);
        check("/loop", None);
        check("/gone", None);
    }

    #[test]
    fn byte_code_is_made_by_a_python_with_the_roots_magic_number() {
        let host = |version: &str, magic| Interpreter { program: PathBuf::new(), version: version.to_owned(), magic };
        assert!(host("3.12.1", 3531).compiles_for("3.12"));
        // A prerelease, another implementation, another minor version.
        assert!(!host("3.12.0", 3524).compiles_for("3.12"));
        assert!(!host("3.1.2", 3531).compiles_for("3.12"));
        assert!(!host("3.13.0", 3571).compiles_for("3.12"));
        assert!(host("3.99.0", 1).compiles_for("3.99"), "newer than the table: the version alone decides");
    }

    #[test]
    fn the_table_agrees_with_this_machines_python() {
        let Some(host) = Interpreter::of_host("python3") else {
            let why = "no `python3` on the PATH";
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{why}");
            return println!("skipped: {why}");
        };
        let minor = host.version.rsplit_once('.').unwrap().0;
        assert!(magic(minor).is_none_or(|magic| magic == host.magic), "{host:?}");
    }

    #[test]
    fn the_loader_of_this_program_is_found() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = loader(&own).unwrap();
        assert!(found.is_none_or(|path| path.contains("ld-")), "a loader is an `ld-…`");
        assert!(loader(b"#!/bin/sh\n").is_err());
    }
}
