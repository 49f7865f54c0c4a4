//! Processes and mounts as `/proc` shows them, and ending them; memory, file systems and attributes as only Linux has them.
//!
//! Ends a process only where its id and its start are both the expected ones.

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask_model::fault::Fault;

/// True in a program that has the parts for Linux.
pub const PRESENT: bool = true;

/// Folder of files in memory.
pub const MEMORY: &str = "/dev/shm";

/// The folder of files in memory, if there is ample room for this many bytes, and programs may be started there.
pub fn memory_folder(bytes: u64) -> Option<&'static Path> {
    (bytes < memory_room()).then_some(Path::new(MEMORY))
}

/// Bytes for which that folder has ample room; none where no program may be started there.
pub fn memory_room() -> u64 {
    let Ok(room) = rustix::fs::statvfs(Path::new(MEMORY)) else { return 0 };
    let starts = !room.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
    // Other programs use it too.
    if starts { room.f_bavail.saturating_mul(room.f_frsize) / 2 } else { 0 }
}

/// A process that is the same one for as long as both numbers are: ids are used again, start times are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks from boot to its start (proc(5), field 22 of `stat`).
    pub started: u64,
}

impl Process {
    /// The process that has this id now; `None` where it has ended, reaped or not.
    pub fn now(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    pub fn runs(&self) -> bool {
        Self::now(self.pid) == Some(*self)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| self.runs()) {
            // It may have ended since.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM, then SIGKILL after `grace`; returns once it has ended.
    pub fn stop(&self, grace: Duration) -> Result<(), Fault> {
        self.signal(Signal::TERM);
        if self.ends_within(grace) {
            return Ok(());
        }
        self.signal(Signal::KILL);
        if self.ends_within(Duration::from_secs(10)) {
            return Ok(());
        }
        Err(Fault::build(format!("cannot end process {}", self.pid)).cause("it is still running 10 s after SIGKILL"))
    }

    fn ends_within(&self, grace: Duration) -> bool {
        let limit = Instant::now() + grace;
        while self.runs() {
            if Instant::now() >= limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// State and start time. The name before them is in parentheses and may contain anything, even parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Process::now)
}

/// Processes whose program is one of `programs` in `folder`, by the kernel's own link: no id is trusted.
pub fn running_from(folder: &Path, programs: &[&str]) -> Vec<(String, Process)> {
    all()
        .filter_map(|process| {
            let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).ok()?;
            if !exe.starts_with(folder) {
                return None;
            }
            let name = exe.file_name()?.to_str()?;
            // The link of a program whose file is gone ends so.
            let name = name.strip_suffix(" (deleted)").unwrap_or(name);
            programs.contains(&name).then(|| (name.to_owned(), process))
        })
        .collect()
}

/// Processes of containers: their root is an overlay whose upper folder lies in `data`.
pub fn rooted_in(data: &Path) -> Vec<Process> {
    let mine = fs::read("/proc/self/mountinfo").map(|info| root_mount(&info)).ok().flatten();
    all()
        .filter(|process| {
            let info = fs::read(format!("/proc/{}/mountinfo", process.pid)).unwrap_or_default();
            let root = root_mount(&info);
            root.is_some()
                && root != mine
                && root.is_some_and(|options| upper_folder(&options).is_some_and(|upper| upper.starts_with(data)))
        })
        .collect()
}

/// The super options of the mount at `/`: the last field of mountinfo.
fn root_mount(info: &[u8]) -> Option<Vec<u8>> {
    info.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        (fields.nth(4)? == b"/").then(|| fields.next_back().map(<[u8]>::to_vec))?
    })
}

fn upper_folder(options: &[u8]) -> Option<PathBuf> {
    let option = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"upperdir="))?;
    Some(unescape(option))
}

/// Mount points below `folder`, innermost first.
pub fn mounts_under(folder: &Path) -> Vec<PathBuf> {
    let info = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&info).into_iter().rev().filter(|point| point.starts_with(folder)).collect()
}

fn mount_points(info: &[u8]) -> Vec<PathBuf> {
    let lines = info.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape).collect()
}

/// Blanks and the like are written as `\040` in mountinfo, once more escaped within options.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Unmounts everything below `folder`, not the folder itself, which may be a volume of the caller. A busy mount is detached
/// and goes with its last user.
pub fn unmount_under(folder: &Path) -> Result<(), Fault> {
    for point in mounts_under(folder).iter().filter(|point| *point != folder) {
        if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH)
            // It may have gone with the one that was mounted on it.
            && mounts_under(folder).contains(point)
        {
            return Err(Fault::build(format!("cannot unmount `{}`", point.display())).cause(error));
        }
    }
    Ok(())
}

/// The most memory that this process has held at once, in bytes: the kernel's high-water mark of what was resident. Programs that
/// it runs are not counted.
pub fn peak_memory() -> Option<u64> {
    high_water(&fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<u64>().ok()? * 1024)
}

/// Bytes of files that this process has written or will have written to a disk: those in memory are not counted, nor are programs that
/// it runs.
pub fn disk_written() -> Option<u64> {
    let counters = fs::read_to_string("/proc/self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// Processor time of the programs that this process has run to their end, with those that they have run, in seconds.
pub fn children_seconds() -> Option<f64> {
    children_ticks(&fs::read_to_string("/proc/self/stat").ok()?).map(|ticks| ticks as f64 / TICKS)
}

/// `USER_HZ` of every architecture that is built for.
const TICKS: f64 = 100.0;

/// Fields 16 and 17 of proc_pid_stat(5).
fn children_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(13).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// True for a folder on an overlay file system.
pub fn is_overlay(folder: &Path) -> bool {
    const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type as u64 == OVERLAYFS_MAGIC)
}

/// True for a file with capabilities, which no copy keeps.
pub fn has_capabilities(file: &Path) -> bool {
    rustix::fs::lgetxattr(file, "security.capability", &mut [0; 64][..]).is_ok()
}

pub fn require(_what: &str) -> Result<(), Fault> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_in_bytes() {
        assert_eq!(high_water("VmPeak:\t  900 kB\nVmHWM:\t    12 kB\nVmRSS:\t 4 kB\n"), Some(12 * 1024));
        assert_eq!(high_water("VmPeak:\t  900 kB\n"), None);
        assert!(peak_memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_time_of_ended_children_is_in_two_fields() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194304 1 2 0 0 3 4 500 60 20 0 1 0 777 0 0";
        assert_eq!(children_ticks(stat), Some(560));
        assert_eq!(children_ticks("12 (a) S 1"), None);
        assert!(children_seconds().is_some() && disk_written().is_some());
    }

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let me = Process::now(std::process::id()).unwrap();
        assert!(me.runs());
        assert!(!Process { started: me.started + 1, ..me }.runs());
        assert_eq!(Process::now(u32::MAX), None);
    }

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "12 (a) R (b) S 1 12 12 0 -1 4 0 0 0 0 1 2 3 4 20 0 1 0 777 99 1";
        assert_eq!(parse_stat(stat), Some(('S', 777)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a child of this process, known by its handle")]
    fn a_child_is_stopped_and_a_stranger_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::now(child.id()).unwrap();
        Process { started: process.started + 1, ..process }.stop(Duration::ZERO).unwrap();
        assert!(process.runs(), "a reused id must not be signalled");
        process.stop(Duration::from_secs(5)).unwrap();
        assert!(!process.runs());
        child.wait().unwrap();
    }

    #[test]
    fn a_mount_on_the_folder_stays_and_those_below_go() {
        let folder = tempfile::tempdir().unwrap();
        let [data, inner] = ["da ta", "da ta/in ner"].map(|name| folder.path().canonicalize().unwrap().join(name));
        for point in [&data, &inner] {
            fs::create_dir_all(point).unwrap();
            if let Err(error) = rustix::mount::mount("none", point, "tmpfs", rustix::mount::MountFlags::empty(), None) {
                assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot mount: {error}");
                println!("skipped: cannot mount: {error}");
                return;
            }
        }
        assert_eq!(mounts_under(&data), [inner.clone(), data.clone()]);
        unmount_under(&data).unwrap();
        assert_eq!(mounts_under(&data), std::slice::from_ref(&data));
        unmount_under(folder.path()).unwrap();
        assert!(mounts_under(&data).is_empty());
    }

    #[test]
    fn mounts_are_read_with_their_blanks() {
        let info = b"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /a\\040b/c rw - overlay overlay rw,upperdir=/d\\040e/u,workdir=/w\n";
        assert_eq!(mount_points(info), [PathBuf::from("/"), PathBuf::from("/a b/c")]);
        assert_eq!(root_mount(info).unwrap(), b"rw");
        assert_eq!(upper_folder(b"rw,upperdir=/d\\040e/u,workdir=/w"), Some(PathBuf::from("/d e/u")));
        assert_eq!(upper_folder(b"rw"), None);
    }
}
