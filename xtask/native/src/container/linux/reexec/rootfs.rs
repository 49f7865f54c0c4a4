//! Root file system of a container: the image's folders under a writable layer, with own devices and `/proc`.
//!
//! Everything is in a mount namespace and in memory: the image's folders are not written to, and nothing remains after
//! the last process. While the host's files are reachable, no path of the image is written to: a link in it could lead
//! there.

use super::{Privileges, Start, cannot, cannot_at};
use crate::container::Manner;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use xtask_model::fault::Fault;

/// Mount point of the host's files while they are needed.
const HOST: &str = ".xtask-host";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` for administrators: what Docker hides, and what it makes read-only.
const HIDDEN: [&str; 7] = ["kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats", "interrupts"];
const HIDDEN_FOLDERS: [&str; 4] = ["acpi", "asound", "scsi", "tty/driver"];
const UNWRITABLE: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Makes the image the root of this process's private mount namespace.
pub(super) fn enter(start: &Start) -> Result<(), Fault> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(cannot("make mounts private"))?;
    let host_file = |name: &str| fs::read(Path::new("/etc").join(name)).ok();
    let names = match start.manner {
        Manner::Confined | Manner::Offline => [("hosts", Some(LOCALHOST.as_bytes().to_vec())), ("resolv.conf", None)],
        Manner::Open => ["hosts", "resolv.conf"].map(|name| (name, host_file(name))),
    };
    stack(start)?;
    proc()?;
    devices()?;
    let host = Path::new("/").join(HOST);
    unmount(&host, UnmountFlags::DETACH).map_err(cannot("unmount the host's files"))?;
    // An empty folder of this name does no harm.
    let _ = fs::remove_dir(&host);
    for (name, content) in names {
        if let Some(content) = content {
            // A file that cannot be written here, such as one of another owner, stays the image's own.
            let _ = put(Path::new("/etc").join(name).as_path(), &content);
        }
    }
    if let Some(program) = &start.program {
        // Docker creates the folder too; if that fails, entering it reports the reason.
        let _ = fs::create_dir_all(&program.folder);
    }
    match start.manner {
        Manner::Confined => read_only("/", MountFlags::NOSUID | MountFlags::NODEV),
        Manner::Open | Manner::Offline => Ok(()),
    }
}

/// Mounts a writable in-memory layer over the image, and makes that the root.
fn stack(start: &Start) -> Result<(), Fault> {
    let open = |folder| File::open(folder).map_err(cannot_at("open", folder));
    let lower = start.folders.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let folder = &start.folders[0];
    let mode = lower[0].metadata().map_err(cannot_at("read", folder))?.permissions().mode();
    // The image stays reachable by its descriptors; the writable layer is mounted over a path of it, so it needs no folder
    // of its own.
    let options = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", folder, "tmpfs", options, c"mode=0755").map_err(cannot("mount a tmpfs"))?;
    std::env::set_current_dir(folder).map_err(cannot_at("enter", folder))?;
    for name in ["upper", "work", "root", "upper/proc", "upper/dev", &format!("upper/{HOST}")] {
        fs::create_dir(name).map_err(cannot("write to a tmpfs"))?;
    }
    fs::set_permissions("upper", Permissions::from_mode(mode & 0o7777)).map_err(cannot("write to a tmpfs"))?;
    // An ordinary user needs the `user.` attributes of overlayfs.
    let own = if start.rights == Privileges::Ordinary { ",userxattr" } else { "" };
    let lower: Vec<String> = lower.iter().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd())).collect();
    let layers = format!("lowerdir={},upperdir=upper,workdir=work{own}", lower.join(":"));
    let layers = CString::new(layers).expect("the paths have no zero byte");
    mount("overlay", "root", "overlay", options, layers.as_c_str())
        .map_err(cannot("mount an overlay (ordinary users need Linux 5.11 or newer)"))?;
    let host = Path::new("root").join(HOST);
    rustix::process::pivot_root("root", &host).map_err(cannot("change the root file system"))?;
    std::env::set_current_dir("/").map_err(cannot_at("enter", "/"))
}

fn proc() -> Result<(), Fault> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", plain, None).map_err(cannot_at("mount", "/proc"))?;
    let proc = Path::new("/proc");
    for path in UNWRITABLE.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        mount_bind(&path, &path).map_err(cannot_at("mount", &path))?;
        read_only(&path, plain)?;
    }
    for path in HIDDEN.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        mount_bind(Path::new("/").join(HOST).join("dev/null"), &path).map_err(cannot_at("hide", &path))?;
    }
    for path in HIDDEN_FOLDERS.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        mount("tmpfs", &path, "tmpfs", plain | MountFlags::RDONLY, None).map_err(cannot_at("hide", &path))?;
    }
    Ok(())
}

fn devices() -> Result<(), Fault> {
    let dev = Path::new("/dev");
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", dev, "tmpfs", plain, c"mode=0755,size=64k").map_err(cannot_at("mount", dev))?;
    for name in DEVICES {
        let (host, own) = (Path::new("/").join(HOST).join("dev").join(name), dev.join(name));
        File::create(&own).map_err(cannot_at("write", &own))?;
        mount_bind(&host, &own).map_err(cannot_at("mount", &own))?;
    }
    let links = [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
    for (name, target) in links {
        symlink(target, dev.join(name)).map_err(cannot_at("write", dev.join(name)))?;
    }
    let shm = dev.join("shm");
    fs::create_dir(&shm).map_err(cannot_at("write", &shm))?;
    // Docker's size; writable even if everything else is read-only.
    mount("tmpfs", &shm, "tmpfs", plain | MountFlags::NODEV, c"mode=1777,size=64m")
        .map_err(cannot_at("mount", &shm))?;
    read_only(dev, plain)
}

fn read_only(path: impl AsRef<Path>, kept: MountFlags) -> Result<(), Fault> {
    let path = path.as_ref();
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | kept, "").map_err(cannot_at("write-protect", path))
}

/// Replaces whatever file the image has at this path.
fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, content)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}
