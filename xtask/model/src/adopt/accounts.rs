//! Users and groups that a Dockerfile creates, with the numbers that the system would choose.
//!
//! Pure. The rules are those of Debian's `adduser` and of shadow's `useradd`, in an image of Debian where nothing was created before.

use super::effect::{CommandEffect, Created, Group, IdRange, NewGroup, NewUser};
use super::shell::Simple;
use std::collections::{BTreeMap, BTreeSet};

impl IdRange {
    fn system(adduser: bool) -> Self {
        if adduser { Self::SystemUp } else { Self::SystemDown }
    }

    fn free(self, taken: &BTreeSet<u32>) -> u32 {
        let is_free = |id: &u32| !taken.contains(id);
        let found = match self {
            Self::Ordinary => (1000..).find(is_free),
            Self::SystemUp => (100..).find(is_free),
            Self::SystemDown => (1..=999).rev().find(is_free),
        };
        found.unwrap_or_default()
    }
}

/// Groups of Debian that images name.
const GROUPS: [(&str, u32); 18] = [
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("mail", 8),
    ("proxy", 13),
    ("dialout", 20),
    ("audio", 29),
    ("www-data", 33),
    ("backup", 34),
    ("video", 44),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
    ("nogroup", NOGROUP),
];

const NOGROUP: u32 = 65534;

/// Numbers of user and group of each new user, in the order in which they are created.
pub(super) fn numbers(created: &[&Created]) -> Vec<(u32, u32)> {
    let mut groups: BTreeMap<String, u32> = GROUPS.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect();
    let mut users = BTreeSet::from([0]);
    let mut numbers = Vec::new();
    for one in created {
        let taken: BTreeSet<u32> = groups.values().copied().collect();
        match one {
            Created::Group(new) => {
                let id = new.id.unwrap_or_else(|| new.range.free(&taken));
                groups.entry(new.name.clone()).or_insert(id);
            }
            Created::User(new) => {
                let id = new.id.unwrap_or_else(|| new.range.free(&users));
                let own = match new.range {
                    IdRange::Ordinary if !taken.contains(&id) => id,
                    range => range.free(&taken),
                };
                let group = match &new.group {
                    Group::Default if new.range == IdRange::SystemUp => NOGROUP,
                    Group::Default | Group::Own => *groups.entry(new.name.clone()).or_insert(own),
                    Group::Named(name) => match name.parse() {
                        Ok(number) => number,
                        Err(_) => *groups.entry(name.clone()).or_insert(own),
                    },
                };
                users.insert(id);
                numbers.push((id, group));
            }
        }
    }
    numbers
}

pub(super) fn user(one: &Simple) -> CommandEffect {
    let adduser = one.program() == "adduser";
    let mut user = NewUser::default();
    let mut names: Vec<String> = Vec::new();
    let mut homes = None;
    let named = |group: Option<String>| group.map_or(Group::Default, Group::Named);
    let mut words = one.args().iter().flat_map(|word| match word.split_once('=') {
        Some((name, value)) if word.starts_with("--") => vec![name.to_owned(), value.to_owned()],
        _ => vec![word.clone()],
    });
    while let Some(word) = words.next() {
        let flag = if word.starts_with("--") || !word.starts_with('-') {
            word.clone()
        } else {
            if word.contains(if adduser { 'S' } else { 'r' }) {
                user.range = IdRange::system(adduser);
            }
            // A cluster: only its last letter takes a value.
            format!("-{}", word.chars().next_back().unwrap_or('-'))
        };
        match flag.as_str() {
            "--system" => user.range = IdRange::system(adduser),
            "--group" if adduser => user.group = Group::Own,
            "-u" | "--uid" => user.id = words.next().and_then(|text| text.parse().ok()),
            "-g" | "--gid" | "--ingroup" if !adduser || flag != "-g" => user.group = named(words.next()),
            "-G" if adduser => user.group = named(words.next()),
            "-d" | "--home" | "--home-dir" => user.home = words.next(),
            "-h" if adduser => user.home = words.next(),
            "-b" | "--base-dir" => homes = words.next(),
            "-g" | "-G" | "--groups" | "-s" | "--shell" | "-c" | "--comment" | "--gecos" | "-k" | "-K" | "-e"
            | "-f" | "-p" | "--password" => drop(words.next()),
            _ if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    let mut names = names.into_iter();
    match (names.next(), names.next()) {
        (Some(_), Some(_)) => CommandEffect::Unknown(
            "the new images run with one group, and it adds a user to another one",
            "give the files that need it to the user's own group",
        ),
        (Some(name), None) => {
            let home = user.home.or_else(|| Some(format!("{}/{name}", homes?.trim_end_matches('/'))));
            CommandEffect::Account(Created::User(NewUser { name, home, ..user }))
        }
        (None, _) => CommandEffect::Other,
    }
}

pub(super) fn group(one: &Simple) -> CommandEffect {
    let addgroup = one.program() == "addgroup";
    let (mut group, mut names) = (NewGroup::default(), Vec::new());
    let mut words = one.args().iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--gid" => group.id = words.next().and_then(|text| text.parse().ok()),
            "--system" => group.range = IdRange::system(addgroup),
            _ if word.starts_with("--gid=") => group.id = word["--gid=".len()..].parse().ok(),
            _ if word.starts_with('-') => {
                if !word.starts_with("--") && word.contains(if addgroup { 'S' } else { 'r' }) {
                    group.range = IdRange::system(addgroup);
                }
                if !word.starts_with("--") && word.ends_with('g') {
                    group.id = words.next().and_then(|text| text.parse().ok());
                }
            }
            _ => names.push(word.clone()),
        }
    }
    match names.as_slice() {
        [name] => CommandEffect::Account(Created::Group(NewGroup { name: name.clone(), ..group })),
        _ => CommandEffect::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::effect;
    use super::super::shell;
    use super::*;

    fn created(text: &str) -> Vec<Created> {
        let created = |one: &Simple| match effect(one, "/app") {
            CommandEffect::Account(created) => created,
            other => panic!("{text}: {other:?}"),
        };
        shell::commands(text, &BTreeMap::new()).unwrap().all.iter().map(created).collect()
    }

    fn user(text: &str) -> NewUser {
        match created(text).pop() {
            Some(Created::User(user)) => user,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn options_of_users_and_groups_are_read() {
        let one = user("useradd -r -u 1001 -g app -d /srv -s /sbin/nologin -ms /bin/bash app");
        assert_eq!((one.name.as_str(), one.id, one.range), ("app", Some(1001), IdRange::SystemDown));
        assert_eq!((one.group, one.home.as_deref()), (Group::Named("app".to_owned()), Some("/srv")));
        let two = user("adduser --disabled-password --gecos '' --uid=1500 web");
        assert_eq!((two.name.as_str(), two.id, two.range), ("web", Some(1500), IdRange::Ordinary));
        let three = user("adduser -D -u 1000 -h /data -G users app");
        assert_eq!((three.name.as_str(), three.id), ("app", Some(1000)));
        assert_eq!(three.group, Group::Named("users".to_owned()));
        let four = user("useradd -u 5 -M -b /opt -c 'A user' app");
        assert_eq!((four.name.as_str(), four.home.as_deref()), ("app", Some("/opt/app")));
        let group = NewGroup { name: "app".to_owned(), id: Some(900), range: IdRange::SystemDown };
        assert_eq!(created("groupadd -r -g 900 app"), [Created::Group(group)]);
        let two = effect(&shell::commands("adduser app video", &BTreeMap::new()).unwrap().all[0], "/");
        assert!(matches!(two, CommandEffect::Unknown(..)), "{two:?}");
    }

    /// Compares with the numbers that the programs of Debian 12 gave to the accounts of a slim image.
    #[test]
    fn numbers_are_those_that_debian_gives() {
        for (commands, expected) in [
            ("addgroup --system app && adduser --system --no-create-home --group app", vec![(100, 101)]),
            ("adduser --system --no-create-home --group app", vec![(100, 101)]),
            ("adduser --system --no-create-home app", vec![(100, 65534)]),
            ("addgroup --system app && adduser --system --ingroup app app", vec![(100, 101)]),
            ("addgroup -S app && adduser -S -G app app", vec![(100, 101)]),
            ("adduser --system --group a && adduser --system --group b", vec![(100, 101), (101, 102)]),
            ("groupadd -r app && useradd -r -g app app", vec![(999, 999)]),
            ("useradd -r app", vec![(999, 999)]),
            ("useradd -r a && useradd -r b", vec![(999, 999), (998, 998)]),
            ("groupadd -r app && useradd -r app -g app && useradd -m me", vec![(999, 999), (1000, 1000)]),
            ("groupadd app && useradd -g app app", vec![(1000, 1000)]),
            ("groupadd x && useradd app", vec![(1000, 1001)]),
            ("adduser --disabled-password --gecos '' app", vec![(1000, 1000)]),
            ("useradd -r -u 1001 app", vec![(1001, 999)]),
            ("useradd -u 1001 app", vec![(1001, 1001)]),
            ("groupadd -g 3000 app && useradd -u 2000 -g app app", vec![(2000, 3000)]),
            ("useradd -g users -u 1500 app", vec![(1500, 100)]),
        ] {
            let created = created(commands);
            assert_eq!(numbers(&created.iter().collect::<Vec<_>>()), expected, "{commands}");
        }
    }
}
