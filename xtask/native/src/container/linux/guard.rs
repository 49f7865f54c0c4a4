//! Programs of this machine that end when xtask ends, however it ends, and that inherit only their streams.
//!
//! This binary, started again, comes first: it asks the kernel for the signal at our end, closes what it has inherited, and
//! becomes the program ([`guarded`]), or starts it in mount and process namespaces of its own ([`Rights::apart`]), with which its mounts
//! and all its processes end.

use super::inside::{self, Apart, OURSELVES, Task};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xtask_host::process::{self, Command};
use xtask_model::fault::{Exit, Fault};

/// User or group numbers that a process may use in addition to its own: the first, and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// The ranges of `/etc/subuid` and `/etc/subgid` that an ordinary user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ranges {
    /// Users.
    pub users: Range,
    /// Groups.
    pub groups: Range,
}

/// The rights with which programs are started apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Root's: the program is root on this machine.
    Root,
    /// Root's in a container that may not mount: no namespaces can be made, and none are needed.
    Contained,
    /// An ordinary user's: the program is root in a user namespace, where our user is `root` and these are the others.
    Ordinary(Ranges),
}

/// The binary that is started, where it is not the one that runs.
static XTASK: OnceLock<PathBuf> = OnceLock::new();

/// Sets the xtask binary. Until then programs start without a guard: another binary, a test's, does not know the call.
pub fn through(xtask: impl Into<PathBuf>) {
    // It is set once: there is one xtask.
    let _ = XTASK.set(xtask.into());
}

pub(super) fn through_ourselves() {
    through(OURSELVES);
}

/// The same call, ending with the thread that starts it, and with no open file but its three streams.
pub fn guarded(call: Command) -> Command {
    let Some(xtask) = XTASK.get() else { return call };
    call.behind(xtask, Task::Guarded { parent: std::process::id() }.args().expect("a number is JSON"))
}

impl Rights {
    /// Those of this process; for an ordinary user, tried. A fault names what is missing.
    pub fn find() -> Result<Self, Fault> {
        if inside::has_roots() {
            return Ok(Self::Root);
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Contained);
        }
        for program in ["newuidmap", "newgidmap"] {
            process::find(program, NEEDED_BY, "install it: `apt-get install uidmap`; or run this as root")?;
        }
        let user = Command::new("id").arg("-un").read(Exit::Missing).unwrap_or_default();
        let uid = rustix::process::getuid().as_raw();
        let range = |file: &'static str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            range_of(&text, &user, uid).ok_or_else(|| no_range(file, &user, uid))
        };
        let rights = Self::Ordinary(Ranges { users: range("/etc/subuid")?, groups: range("/etc/subgid")? });
        let tried = rights.apart(Command::new("true"))?.output()?;
        if tried.status.success() {
            return Ok(rights);
        }
        Err(no_namespaces(String::from_utf8_lossy(&tried.stderr).trim()))
    }

    /// The same call in mount and process namespaces of its own, as root there, ending with the thread that starts it.
    pub fn apart(self, call: Command) -> Result<Command, Fault> {
        let ranges = match self {
            Self::Contained => return Ok(guarded(call)),
            Self::Root => None,
            Self::Ordinary(ranges) => Some(ranges),
        };
        let xtask =
            XTASK.get().ok_or_else(|| Fault::new(Exit::Bug, "no xtask binary is set to start programs with"))?;
        Ok(call.behind(xtask, Task::Apart(Apart { parent: std::process::id(), ranges }).args()?))
    }

    /// Removes a folder whose files may be of every user that programs apart have.
    pub fn remove(self, folder: &Path) -> std::io::Result<()> {
        let Self::Ordinary(_) = self else { return fs::remove_dir_all(folder) };
        let call = Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(folder);
        let removed = self.apart(call).and_then(|call| call.read(Exit::Build));
        removed.map(drop).map_err(|fault| std::io::Error::other(fault.to_string()))
    }
}

const NEEDED_BY: &str = "installing Debian packages as an ordinary user";

/// The users of a Debian system end at 65534: a shorter range cannot hold them.
const ENOUGH: u32 = 65535;

/// The first range that is long enough in a file of subuid(5)'s form, by the user's name or number.
fn range_of(text: &str, user: &str, uid: u32) -> Option<Range> {
    let number = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let whose = !name.is_empty() && (name == user || name == number);
        let range = Range { first: first.parse().ok()?, count: count.parse().ok()? };
        (whose && range.count >= ENOUGH && range.first.checked_add(ENOUGH).is_some()).then_some(range)
    })
}

fn no_range(file: &str, user: &str, uid: u32) -> Fault {
    let name = if user.is_empty() { uid.to_string() } else { user.to_owned() };
    Fault::missing(format!("`{file}` has no range of {ENOUGH} numbers for user `{name}`"))
        .needed_by(NEEDED_BY)
        .hint(format!("add one, as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"))
        .hint("or run this as root")
}

/// Settings that keep user namespaces from ordinary users: the file, the value that does so, and the one that does not.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "15000"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
];

fn no_namespaces(said: &str) -> Fault {
    let said = if said.is_empty() { "it gave no reason" } else { said };
    let fault = Fault::missing("cannot make a user namespace").needed_by(NEEDED_BY).cause(said);
    let closed = SETTINGS.iter().find(|(file, closed, _)| {
        fs::read_to_string(Path::new("/proc/sys").join(file)).is_ok_and(|value| value.trim() == *closed)
    });
    match closed {
        Some((file, _, open)) => {
            let setting = file.replace('/', ".");
            fault.hint(format!("allow it, as root: `sysctl -w {setting}={open}`; or run this as root"))
        }
        None => fault.hint("within a container, that one has to allow user namespaces; or run this as root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn range(text: &str, expected: Option<(u32, u32)>) {
        let expected = expected.map(|(first, count)| Range { first, count });
        assert_eq!(range_of(text, "ann", 1000), expected, "{text}");
    }

    #[test]
    fn a_range_is_found_by_name_and_by_number_and_must_be_long_enough() {
        range("bob:1:65536\nann:100000:65536\n", Some((100_000, 65_536)));
        range("1000:200000:65535\n", Some((200_000, 65_535)));
        range("ann:100000:1000\nann:300000:65536", Some((300_000, 65_536)));
        range("ann:100000:1000\n", None);
        range("anna:100000:65536\n", None);
        range("ann:4294967295:65536\n", None);
        range("ann\nann:x:y\n:100000:65536\n", None);
        range("", None);
    }

    #[test]
    fn a_missing_range_is_reported_with_the_command_that_adds_it() {
        let fault = no_range("/etc/subuid", "ann", 1000);
        assert_eq!(fault.what, "`/etc/subuid` has no range of 65535 numbers for user `ann`");
        assert!(fault.hints[0].contains("usermod --add-subuids") && fault.hints[0].ends_with(" ann`"), "{fault}");
    }
}
