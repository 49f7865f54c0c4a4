//! Programs of the host that end with xtask, however it ends, and inherit only their standard streams.
//!
//! xtask starts itself again first: that process asks the kernel for a signal at the parent's end, closes inherited
//! files, and becomes the program ([`bound`]), ends it with all that it started ([`supervised`]), or starts it in own mount
//! and process namespaces ([`Isolation::isolated`]),
//! so that its mounts and processes end with it.

use super::binary;
pub use super::binary::through;
use super::ids::{Range, Ranges};
use super::reexec::{self, Isolated, Task};

use std::fs;
use std::path::Path;
use xtask_host::process::{self, Command};
use xtask_model::fault::{Exit, Fault};

/// Privileges for programs in own namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    Root,
    /// Root in a container without mount rights: no namespaces are possible, and none are needed.
    Contained,
    /// An ordinary user: the program is root in a user namespace with these additional ids.
    Ordinary(Ranges),
}

/// The same command; it ends with the thread that starts it, and has no open file but its three streams.
pub fn bound(call: Command) -> Command {
    let Some(xtask) = binary::known() else { return call };
    call.wrapped_by(xtask, Task::Bound { parent: std::process::id() }.args().expect("a number is valid JSON"))
}

/// The same command; it ends with the thread that starts it, and so does every process that it started.
pub fn supervised(call: Command) -> Command {
    let Some(xtask) = binary::known() else { return call };
    call.wrapped_by(xtask, Task::Supervised { parent: std::process::id() }.args().expect("a number is valid JSON"))
}

impl Isolation {
    /// Privileges of this process; for an ordinary user, tried out. The error names what is missing.
    pub fn find() -> Result<Self, Fault> {
        if reexec::may_mount() {
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
        let tried = rights.isolated(Command::new("true"))?.output()?;
        if tried.status.success() {
            return Ok(rights);
        }
        Err(no_namespaces(String::from_utf8_lossy(&tried.stderr).trim()))
    }

    /// The same command in own mount and process namespaces, as root there; it ends with the thread that starts it.
    pub fn isolated(self, call: Command) -> Result<Command, Fault> {
        let ranges = match self {
            Self::Contained => return Ok(bound(call)),
            Self::Root => None,
            Self::Ordinary(ranges) => Some(ranges),
        };
        let xtask = binary::known().ok_or_else(|| Fault::new(Exit::Bug, "the xtask binary is not set"))?;
        Ok(call.wrapped_by(xtask, Task::Isolated(Isolated { parent: std::process::id(), ranges }).args()?))
    }

    /// Removes a folder with files of any user of the namespace.
    pub fn remove(self, folder: &Path) -> std::io::Result<()> {
        let Self::Ordinary(_) = self else { return fs::remove_dir_all(folder) };
        let call = Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(folder);
        let removed = self.isolated(call).and_then(|call| call.read(Exit::Build));
        removed.map(drop).map_err(|fault| std::io::Error::other(fault.to_string()))
    }
}

const NEEDED_BY: &str = "installing Debian packages as an ordinary user";

/// Debian's user ids go up to 65534; a shorter range cannot hold them.
const ENOUGH: u32 = 65535;

/// First range of sufficient length in a subuid(5) file, by user name or id.
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

/// Settings that deny user namespaces to ordinary users: file, denying value, allowing value.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "15000"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// The setting that denies user namespaces on this machine, with its allowing value: `user.max_user_namespaces=15000`.
pub(super) fn denying_setting() -> Option<String> {
    let denies = |(file, denying, _): &&(&str, &str, &str)| {
        fs::read_to_string(Path::new("/proc/sys").join(file)).is_ok_and(|value| value.trim() == *denying)
    };
    let (file, _, allowing) = SETTINGS.iter().find(denies)?;
    Some(format!("{}={allowing}", file.replace('/', ".")))
}

fn no_namespaces(said: &str) -> Fault {
    let said = if said.is_empty() { "no reason given" } else { said };
    let fault = Fault::missing("cannot make a user namespace").needed_by(NEEDED_BY).cause(said);
    match denying_setting() {
        Some(setting) => fault.hint(format!("allow it, as root: `sysctl -w {setting}`; or run this as root")),
        None => fault.hint("in a container, allow user namespaces for it; or run this as root"),
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
