//! Program of a container: its arguments, environment, folder and user, derived as Docker does.
//!
//! Pure. The image specification leaves most of this to implementations; this follows dockerd.

use serde::{Deserialize, Serialize};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Execution;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment. The last entry of a name counts.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub folder: String,
    pub user: User,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// An image's account files as text; empty if missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    pub passwd: &'a str,
    pub group: &'a str,
}

impl Program {
    /// Program of an image configuration. Another `entrypoint` drops the image's arguments too.
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
            return Err(Fault::usage("the image has no program to run")
                .cause("its configuration has neither `Entrypoint` nor `Cmd`")
                .hint("name a program: `cargo xtask run IMAGE -- PROGRAM`"));
        }
        Self::new(argv, image, accounts)
    }

    /// Another program with the image's environment, folder and user. `argv` must not be empty.
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
    /// User of a configuration: `USER`, `UID`, `USER:GROUP` or `UID:GID`; empty is root. A name must be in the image's
    /// account files; a number need not be.
    pub fn of(spec: &str, accounts: Accounts<'_>) -> Result<Self, Fault> {
        let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
        let number = if user.is_empty() { Some(0) } else { user.parse::<u32>().ok() };
        // passwd(5): name, password, uid, gid, comment, home, shell.
        let known = accounts.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            // A number is never treated as a name.
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
    Fault::build(format!("the image runs as {what} `{name}`, which does not exist in it"))
        .cause(format!("`{file}` of the image has no such entry"))
        .hint("set a numeric user: `USER 10001:10001`")
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
    fn a_missing_name_is_reported() {
        let fault = User::of("nobody", ACCOUNTS).unwrap_err();
        assert_eq!(fault.what, "the image runs as user `nobody`, which does not exist in it");
        assert_eq!(fault.causes, ["`/etc/passwd` of the image has no such entry"]);
        let fault = User::of("app:nobody", ACCOUNTS).unwrap_err();
        assert_eq!(fault.what, "the image runs as group `nobody`, which does not exist in it");
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
    fn arguments_replace_cmd_and_another_entrypoint_replaces_both() {
        argv(&image(), None, &[], &["app", "-v", "serve"]);
        argv(&image(), None, &["a", "b"], &["app", "-v", "a", "b"]);
        argv(&image(), Some("id"), &["-u"], &["id", "-u"]);
        argv(&image(), Some("id"), &[], &["id"]);
        argv(&Execution { entrypoint: None, ..image() }, None, &[], &["serve"]);
        let nothing = Execution::default();
        argv(&nothing, None, &["sh"], &["sh"]);
        let fault = Program::of(&nothing, None, &[], Accounts::default()).unwrap_err();
        assert_eq!(fault.what, "the image has no program to run");
    }

    #[test]
    fn the_environment_is_the_images_plus_path_and_home() {
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
