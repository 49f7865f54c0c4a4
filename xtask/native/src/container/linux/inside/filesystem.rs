//! The root filesystem of a container: the image's folder beneath what a container writes, with devices and `/proc` of its own.
//!
//! All of it is in a mount namespace and in memory: nothing is written to the image's folder, and nothing is left of it when
//! the last process has ended. Until the host's files are out of sight, no path of the image is written to: a link in it
//! could lead there.

use super::{Rights, Start, cannot, cannot_at};
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

/// Where the host's files are while they are still needed.
const HOST: &str = ".xtask-host";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What of `/proc` is for administrators: the same that Docker hides, and what it shows unwritable.
const HIDDEN: [&str; 7] = ["kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats", "interrupts"];
const HIDDEN_FOLDERS: [&str; 4] = ["acpi", "asound", "scsi", "tty/driver"];
const UNWRITABLE: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Makes the image the root of this process's mount namespace, which nobody else uses.
pub(super) fn enter(start: &Start) -> Result<(), Fault> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(cannot("keep mounts to ourselves"))?;
    let host_file = |name: &str| fs::read(Path::new("/etc").join(name)).ok();
    let names = match start.manner {
        Manner::Confined => [("hosts", Some(LOCALHOST.as_bytes().to_vec())), ("resolv.conf", None)],
        Manner::Open => ["hosts", "resolv.conf"].map(|name| (name, host_file(name))),
    };
    stack(start)?;
    proc()?;
    devices()?;
    let host = Path::new("/").join(HOST);
    unmount(&host, UnmountFlags::DETACH).map_err(cannot("put the host's files out of sight"))?;
    // An empty folder of this name harms nobody.
    let _ = fs::remove_dir(&host);
    for (name, content) in names {
        if let Some(content) = content {
            // What cannot be written here, a file of another owner for one, leaves the image's own.
            let _ = put(Path::new("/etc").join(name).as_path(), &content);
        }
    }
    if let Some(program) = &start.program {
        // Docker makes the folder too; where it cannot be made, entering it says why.
        let _ = fs::create_dir_all(&program.folder);
    }
    match start.manner {
        Manner::Confined => read_only("/", MountFlags::NOSUID | MountFlags::NODEV),
        Manner::Open => Ok(()),
    }
}

/// Stacks a writable layer in memory on the image, and makes that the root.
fn stack(start: &Start) -> Result<(), Fault> {
    let folder = &start.folder;
    let image = File::open(folder).map_err(cannot_at("open", folder))?;
    let mode = image.metadata().map_err(cannot_at("read", folder))?.permissions().mode();
    // The image stays reachable by its descriptor; its name is taken by what is written, which so needs no folder of its own.
    let options = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", folder, "tmpfs", options, c"mode=0755").map_err(cannot("mount a tmpfs"))?;
    std::env::set_current_dir(folder).map_err(cannot_at("enter", folder))?;
    for name in ["upper", "work", "root", "upper/proc", "upper/dev", &format!("upper/{HOST}")] {
        fs::create_dir(name).map_err(cannot("write to a tmpfs"))?;
    }
    fs::set_permissions("upper", Permissions::from_mode(mode & 0o7777)).map_err(cannot("write to a tmpfs"))?;
    // Attributes that an ordinary user may not set have a name of their own there.
    let own = if start.rights == Rights::Ordinary { ",userxattr" } else { "" };
    let layers = format!("lowerdir=/proc/self/fd/{},upperdir=upper,workdir=work{own}", image.as_raw_fd());
    let layers = CString::new(layers).expect("there is no zero byte in it");
    mount("overlay", "root", "overlay", options, layers.as_c_str())
        .map_err(cannot("mount an overlay, which an ordinary user can from Linux 5.11 on"))?;
    let host = Path::new("root").join(HOST);
    rustix::process::pivot_root("root", &host).map_err(cannot("change the root filesystem"))?;
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
    // As large as Docker's, and as writable even where all else is not.
    mount("tmpfs", &shm, "tmpfs", plain | MountFlags::NODEV, c"mode=1777,size=64m")
        .map_err(cannot_at("mount", &shm))?;
    read_only(dev, plain)
}

fn read_only(path: impl AsRef<Path>, kept: MountFlags) -> Result<(), Fault> {
    let path = path.as_ref();
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | kept, "").map_err(cannot_at("write-protect", path))
}

/// A file in the place of whatever the image has there.
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
