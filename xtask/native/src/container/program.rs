//! What is run in a container of an image: its program, environment, folder and user, as Docker derives them.
//!
//! Pure. The image specification leaves most of this open ("implementations may"); where it does, what dockerd does counts.

use serde::{Deserialize, Serialize};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Execution;

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with everything that it starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment. Of a name that comes twice the last counts.
    pub env: Vec<(String, String)>,
    /// The folder in which it starts, absolute.
    pub folder: String,
    /// Who runs it.
    pub user: User,
}

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The numeric user.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
}

/// An image's account files, as text; empty where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a str,
    /// `/etc/group`.
    pub group: &'a str,
}

impl Program {
    /// What runs for an image's configuration. Another `entrypoint` takes the image's arguments away with its program.
    pub fn of(
        image: &Execution,
        entrypoint: Option<&str>,
        args: &[String],
        accounts: Accounts<'_>,
    ) -> Result<Self, Fault> {
        let mut argv: Vec<String> = match entrypoint {
            Some(entrypoint) => vec![entrypoint.to_owned()],
            None => image.entrypoint.clone().unwrap_or_default(),
        };
        if !args.is_empty() {
            argv.extend_from_slice(args);
        } else if entrypoint.is_none() {
            argv.extend(image.cmd.iter().flatten().cloned());
        }
        if argv.is_empty() {
            return Err(Fault::usage("the image names no program")
                .cause("its configuration has neither `Entrypoint` nor `Cmd`")
                .hint("name one: `cargo xtask run IMAGE -- PROGRAM`"));
        }
        Self::new(argv, image, accounts)
    }

    /// Another program with the image's environment, folder and user. `argv` is not empty.
    pub fn new(argv: Vec<String>, image: &Execution, accounts: Accounts<'_>) -> Result<Self, Fault> {
        let user = User::of(&image.user, accounts)?;
        let mut env = vec![("PATH".to_owned(), PATH.to_owned()), ("HOME".to_owned(), user.home.clone())];
        env.extend(image.env.iter().map(|entry| {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            (name.to_owned(), value.to_owned())
        }));
        let folder = match image.working_dir.as_str() {
            "" => "/".to_owned(),
            folder if folder.starts_with('/') => folder.to_owned(),
            folder => format!("/{folder}"),
        };
        Ok(Self { argv, env, folder, user })
    }
}

impl User {
    /// The user of a configuration, `USER`, `UID`, `USER:GROUP` or `UID:GID`; empty is root. A name has to be in the image's
    /// own files, a number need not be.
    pub fn of(spec: &str, accounts: Accounts<'_>) -> Result<Self, Fault> {
        let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
        let number = if user.is_empty() { Some(0) } else { user.parse::<u32>().ok() };
        // passwd(5): name, password, uid, gid, comment, home, shell.
        let known = accounts.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            // What is a number is never taken for a name.
            let matches = number.map_or(fields[0] == user, |number| number == uid);
            let home = fields.get(5).filter(|home| !home.is_empty()).unwrap_or(&"/");
            matches.then(|| (fields[0], Self { uid, gid, groups: Vec::new(), home: (*home).to_owned() }))
        });
        let (name, mut found) = match (known, number) {
            (Some((name, found)), _) => (Some(name), found),
            (None, Some(uid)) => (None, Self { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() }),
            (None, None) => return Err(unknown("user", user, "/etc/passwd")),
        };
        // group(5): name, password, gid, members.
        let groups = accounts.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields[0], fields.get(2)?.parse::<u32>().ok()?, fields.get(3).copied().unwrap_or_default()))
        });
        if group.is_empty() {
            let is_member = |members: &str| name.is_some_and(|name| members.split(',').any(|member| member == name));
            found.groups = groups.filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect();
            return Ok(found);
        }
        found.gid = match group.parse() {
            Ok(gid) => gid,
            Err(_) => groups
                .into_iter()
                .find_map(|(name, gid, _)| (name == group).then_some(gid))
                .ok_or_else(|| unknown("group", group, "/etc/group"))?,
        };
        Ok(found)
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Fault {
    Fault::build(format!("the image runs as {what} `{name}`, which it does not have"))
        .cause(format!("its `{file}` does not name it"))
        .hint("name the user by number: `USER 10001:10001`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# odd\napp:x:10001:10002::/home/app:/bin/false\n7:x:8:9::/seven:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\naudio:x:51:other\nwheel:x:52:app\n";
    const ACCOUNTS: Accounts<'static> = Accounts { passwd: PASSWD, group: GROUP };

    #[track_caller]
    fn user(spec: &str, expected: (u32, u32, &[u32], &str)) {
        let found = User::of(spec, ACCOUNTS).unwrap();
        assert_eq!((found.uid, found.gid, found.groups.as_slice(), found.home.as_str()), expected);
    }

    #[test]
    fn users_are_found_by_number_and_by_name() {
        user("", (0, 0, &[], "/root"));
        user("0", (0, 0, &[], "/root"));
        user("app", (10001, 10002, &[50, 52], "/home/app"));
        user("10001", (10001, 10002, &[50, 52], "/home/app"));
        user("10001:10001", (10001, 10001, &[], "/home/app"));
        user("app:staff", (10001, 50, &[], "/home/app"));
        user("12:13", (12, 13, &[], "/"));
        user("12", (12, 0, &[], "/"));
        user(":50", (0, 50, &[], "/root"));
    }

    #[test]
    fn a_number_is_never_a_name() {
        user("7", (7, 0, &[], "/"));
        user("8", (8, 9, &[], "/seven"));
    }

    #[test]
    fn a_name_that_is_not_there_is_said() {
        let fault = User::of("nobody", ACCOUNTS).unwrap_err();
        assert_eq!(fault.what, "the image runs as user `nobody`, which it does not have");
        assert_eq!(fault.causes, ["its `/etc/passwd` does not name it"]);
        let fault = User::of("app:nobody", ACCOUNTS).unwrap_err();
        assert_eq!(fault.what, "the image runs as group `nobody`, which it does not have");
        assert!(User::of("-1", ACCOUNTS).is_err());
        assert!(User::of("4294967296", ACCOUNTS).is_err());
    }

    fn image() -> Execution {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Execution {
            entrypoint: Some(list(&["app", "-v"])),
            cmd: Some(list(&["serve"])),
            env: list(&["A=b=c", "EMPTY=", "BARE", "HOME=/elsewhere"]),
            working_dir: "srv".to_owned(),
            ..Execution::default()
        }
    }

    #[track_caller]
    fn argv(image: &Execution, entrypoint: Option<&str>, args: &[&str], expected: &[&str]) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        assert_eq!(Program::of(image, entrypoint, &args, Accounts::default()).unwrap().argv, expected);
    }

    #[test]
    fn arguments_stand_for_cmd_and_another_entrypoint_for_both() {
        argv(&image(), None, &[], &["app", "-v", "serve"]);
        argv(&image(), None, &["a", "b"], &["app", "-v", "a", "b"]);
        argv(&image(), Some("id"), &["-u"], &["id", "-u"]);
        argv(&image(), Some("id"), &[], &["id"]);
        argv(&Execution { entrypoint: None, ..image() }, None, &[], &["serve"]);
        let nothing = Execution::default();
        argv(&nothing, None, &["sh"], &["sh"]);
        let fault = Program::of(&nothing, None, &[], Accounts::default()).unwrap_err();
        assert_eq!(fault.what, "the image names no program");
    }

    #[test]
    fn the_environment_is_the_images_with_what_every_program_expects() {
        let program = Program::of(&image(), None, &[], ACCOUNTS).unwrap();
        let value = |name: &str| program.env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| &**value);
        assert_eq!(value("PATH"), Some(PATH));
        assert_eq!(value("A"), Some("b=c"));
        assert_eq!(value("EMPTY"), Some(""));
        assert_eq!(value("BARE"), Some(""));
        assert_eq!(value("HOME"), Some("/elsewhere"));
        assert_eq!(program.folder, "/srv");
        let bare = Program::of(&Execution::default(), None, &["x".to_owned()], ACCOUNTS).unwrap();
        assert_eq!((bare.env[1].1.as_str(), bare.folder.as_str()), ("/root", "/"));
    }
}
