//! The machine of a measurement: processor, memory, kernel, tools. Reads `/proc` and asks tools for their versions;
//! records no host name.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::process::Command;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Exit;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    /// In bytes.
    pub memory: u64,
    pub kernel: String,
    pub system: String,
    /// Type of `target`'s file system, as `ext4`, and whether it is known to have no journal.
    pub file_system: (String, bool),
    pub versions: BTreeMap<&'static str, String>,
    /// The commit, with `-dirty` if the tree differs, and its time.
    pub commit: Option<(String, String)>,
    /// Load average over one minute, before the first measurement and after the last.
    pub load: (f64, f64),
}

impl Machine {
    /// Tools that fail are left out.
    pub fn read(tree: &Tree) -> Self {
        // A failed comparison counts as a difference.
        let differs = xtask::pipeline::compare_with_commit(tree, true)
            .map_or(true, |images| images.iter().any(|(_, differences)| !differences.is_empty()));
        let cpuinfo = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':').unwrap_or_default();
        let kibibytes = memory.trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default();
        let commit = tree
            .commit
            .as_ref()
            .map(|commit| (format!("{}{}", commit.short(), if differs { "-dirty" } else { "" }), commit.created()));
        let mut machine = Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&cpuinfo, "model name", ':').unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory: kibibytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '=')
                .unwrap_or_default()
                .trim_matches('"')
                .to_owned(),
            file_system: file_system(&tree.root, &read("/proc/self/mountinfo"), Path::new("/proc/fs")),
            versions: BTreeMap::new(),
            commit,
            load: (load(), 0.0),
        };
        machine.ask("rustc", &Command::new("rustc").arg("-V").current_dir(&tree.root));
        machine
    }

    pub fn ask(&mut self, tool: &'static str, call: &Command) {
        if let Ok(said) = call.read(Exit::Missing) {
            self.versions.insert(tool, version(&said));
        }
    }
}

/// Load average over one minute; zero if the system has none.
pub fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// File system type of a folder, and whether it is ext4 without a journal. Without a journal, creating a file scans all
/// inodes that were freed in the last minutes, so one build pays for files that another removed.
fn file_system(folder: &Path, mounts: &str, proc_fs: &Path) -> (String, bool) {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    // proc_pid_mountinfo(5): `… MOUNT-POINT OPTIONS [OPTIONAL…] - TYPE SOURCE …`; the last of several mounts is
    // visible.
    let mounted = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let (place, mut kind) = (place.split(' ').nth(4)?, kind.split(' '));
        folder.starts_with(place).then_some((place.len(), kind.next()?, kind.next()?))
    });
    let Some((_, kind, source)) = mounted.max_by_key(|(length, ..)| *length) else { return (String::new(), false) };
    let device = Path::new(source).file_name().unwrap_or_default().to_string_lossy();
    let is_ext4 = kind == "ext4" && proc_fs.join("ext4").join(&*device).exists();
    let journals = std::fs::read_dir(proc_fs.join("jbd2")).into_iter().flatten().flatten();
    let mut names = journals.map(|entry| entry.file_name().to_string_lossy().into_owned());
    (kind.to_owned(), is_ext4 && !names.any(|name| name.starts_with(&format!("{device}-"))))
}

/// Value of the first line `name = value`.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let (_, value) = text.lines().filter_map(|line| line.split_once(separator)).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn version(said: &str) -> String {
    let looks = |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    said.split_whitespace().find(looks).unwrap_or(said).trim_start_matches('v').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_the_output_of_tools() {
        assert_eq!(version("rustc 1.95.0 (59807616e 2026-04-14)"), "1.95.0");
        assert_eq!(version("github.com/docker/buildx v0.13.1 abc"), "0.13.1");
        assert_eq!(version("26.1.5+dfsg1"), "26.1.5+dfsg1");
        assert_eq!(version("unknown"), "unknown");
    }

    #[test]
    fn a_file_system_without_a_journal_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let proc_fs = folder.path().join("proc");
        for path in ["ext4/vda", "ext4/vdb", "jbd2/vdb-8"] {
            std::fs::create_dir_all(proc_fs.join(path)).unwrap();
        }
        let with = folder.path().join("with/deep");
        std::fs::create_dir_all(&with).unwrap();
        let mount = |place: &Path, kind: &str, source: &str| {
            format!("27 1 254:0 / {} rw,relatime shared:1 - {kind} {source} rw\n", place.display())
        };
        let at = folder.path().canonicalize().unwrap();
        let mounts = [mount(Path::new("/"), "ext4", "/dev/vda"), mount(&at.join("with"), "ext4", "/dev/vdb")].concat();
        let find = |folder: &Path, mounts: &str| file_system(folder, mounts, &proc_fs);
        assert_eq!(find(&at, &mounts), ("ext4".to_owned(), true));
        assert_eq!(find(&with, &mounts), ("ext4".to_owned(), false));
        assert_eq!(find(&with, &(mounts + &mount(&at, "xfs", "/dev/vdc"))), ("ext4".to_owned(), false));
        assert_eq!(find(&at, &mount(&at, "overlay", "overlay")), ("overlay".to_owned(), false));
        assert_eq!(find(&at, ""), (String::new(), false));
    }

    #[test]
    fn fields_are_read_by_name() {
        assert_eq!(field("A: 1\nMemTotal:  24 kB\n", "MemTotal", ':').as_deref(), Some("24 kB"));
        assert_eq!(field("A: 1\n", "B", ':'), None);
    }
}
