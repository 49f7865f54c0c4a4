//! `user`: the user's account entries, home and app folder, as in the Dockerfile's stage `user`.

use crate::layer::item::{Bytes, Content, Item};
use crate::stage::{Part, Realise, RootFiles};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::reference::Digest;

/// Increase it when the same inputs give other items.
const SCHEMA: u32 = 1;

pub struct UserStage<'a> {
    root_files: &'a dyn RootFiles,
    name: String,
    user: u32,
    group: u32,
    home: String,
    parts: Vec<Part>,
}

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";
const APP: &str = "app";

impl<'a> UserStage<'a> {
    /// The recipe with the stage's arguments `USER_NAME`, `USER_ID`, `GROUP_ID` and `USER_HOME`.
    ///
    /// # Errors
    /// An argument that is missing or not allowed in `/etc/passwd`.
    pub fn new(args: &BTreeMap<String, String>, root_files: &'a dyn RootFiles) -> Result<Self, Fault> {
        let name = argument(args, "USER_NAME", "a name like `app`", |text| {
            !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })?;
        let number = |key| -> Result<u32, Fault> {
            let text =
                argument(args, key, "a whole number", |text| text.parse::<u32>().is_ok_and(|n| n.to_string() == text))?;
            Ok(text.parse().expect("checked before"))
        };
        let (user, group) = (number("USER_ID")?, number("GROUP_ID")?);
        let home = argument(args, "USER_HOME", "a path like `/home/app`", |text| {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain)) && !text.contains([':', '\n'])
        })?;
        let layers = &root_files.config().rootfs.diff_ids;
        let part = |path: &str, name: String, own: serde_json::Value| {
            let recipe = serde_json::json!({ "recipe": "user", "schema": SCHEMA, "path": path, "of": own });
            let under = ContextPath::new(path);
            Part { name, recipe: Digest::of(recipe.to_string().as_bytes()), under }
        };
        let place = home.trim_start_matches('/').to_owned();
        let mut parts = vec![
            part(PASSWD, format!("user {name}"), serde_json::json!([layers, name, user, group, home])),
            part(GROUP, format!("group {name}"), serde_json::json!([layers, name, group])),
            part(&place, format!("home of {name}"), serde_json::Value::Null),
        ];
        if place != APP {
            parts.push(part(APP, format!("folder `/{APP}`"), serde_json::Value::Null));
        }
        Ok(Self { root_files, name, user, group, home, parts })
    }

    fn items_at(&self, path: &ContextPath) -> Result<Vec<Item>, Fault> {
        let Self { name, user, group, home, .. } = self;
        let line = match path.as_bytes() {
            bytes if bytes == PASSWD.as_bytes() => format!("{name}:x:{user}:{group}:{name}:{home}:/usr/sbin/nologin\n"),
            bytes if bytes == GROUP.as_bytes() => format!("{name}:x:{group}:\n"),
            _ => return Ok(vec![item(path, 0o755, Content::Dir)]),
        };
        let mut text = self.root_files.file(path)?.unwrap_or_default();
        text.extend_from_slice(line.as_bytes());
        Ok(vec![item(path, 0o644, Content::File(Bytes::Here(text.into())))])
    }
}

fn item(path: &ContextPath, mode: u32, content: Content) -> Item {
    Item { path: path.clone(), mode, uid: 0, gid: 0, content }
}

fn argument(
    args: &BTreeMap<String, String>,
    key: &str,
    like: &str,
    good: impl Fn(&str) -> bool,
) -> Result<String, Fault> {
    let what = match args.get(key) {
        Some(text) if !text.is_empty() && good(text) => return Ok(text.clone()),
        Some(text) => format!("the argument `{key}` is `{text}`, not {like}"),
        None => format!("the stage has no argument `{key}`"),
    };
    Err(Fault::usage(what)
        .needed_by("the recipe `user`")
        .hint(format!("set it in the Dockerfile: `ARG {key}`, {like}")))
}

impl Realise for UserStage<'_> {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn items(&self, part: usize) -> Result<Vec<Item>, Fault> {
        self.items_at(&self.parts[part].under)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Selection;
    use std::path::PathBuf;
    use xtask_model::spec::oci::Config;

    struct Root(Config, &'static str);

    impl RootFiles for Root {
        fn config(&self) -> &Config {
            &self.0
        }

        fn has(&self, path: &ContextPath) -> Result<bool, Fault> {
            Ok(self.file(path)?.is_some())
        }

        fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
            Ok((path.as_bytes() == PASSWD.as_bytes()).then(|| self.1.as_bytes().to_vec()))
        }

        fn folder(&self, _: Option<&Selection>) -> Result<PathBuf, Fault> {
            Err(Fault::build("the recipe needs no unpacked root"))
        }
    }

    fn root(passwd: &'static str) -> Root {
        let text = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(passwd.as_bytes())]},
        });
        Root(serde_json::from_value(text).unwrap(), passwd)
    }

    fn args(changed: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = [("USER_NAME", "app"), ("USER_ID", "10001"), ("GROUP_ID", "10002"), ("USER_HOME", "/home/app")];
        own.iter().chain(changed).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn one_line_is_appended_to_each_account_file() {
        let root = root("root:x:0:0:root:/root:/bin/sh\n");
        let user = UserStage::new(&args(&[]), &root).unwrap();
        let made = user.produce(&[0, 1, 2, 3]).unwrap();
        let text = |index: usize| match &made[index][0].content {
            Content::File(Bytes::Here(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:10001:10002:app:/home/app:/usr/sbin/nologin\n";
        assert_eq!(text(0), passwd);
        assert_eq!(text(1), "app:x:10002:\n");
        let places: Vec<String> = made.iter().map(|items| items[0].path.to_string()).collect();
        assert_eq!(places, ["etc/passwd", "etc/group", "home/app", "app"]);
        assert_eq!(made[2][0].content, Content::Dir);
    }

    fn recipes(root: &Root, changed: &[(&str, &str)]) -> Vec<Digest> {
        UserStage::new(&args(changed), root).unwrap().parts.iter().map(|part| part.recipe).collect()
    }

    #[test]
    fn a_part_depends_on_its_inputs() {
        let (one, two) = (root("one"), root("two"));
        let (before, after) = (recipes(&one, &[]), recipes(&two, &[]));
        let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
        assert_eq!(same, [false, false, true, true], "folders do not depend on the root");
        let named: Vec<bool> =
            recipes(&one, &[("USER_ID", "7")]).iter().zip(&before).map(|(after, before)| after == before).collect();
        assert_eq!(named, [false, true, true, true]);
        assert_eq!(UserStage::new(&args(&[("USER_HOME", "/app")]), &one).unwrap().parts.len(), 3);
    }

    #[track_caller]
    fn refused(name: &str, value: &str, what: &str) {
        let root = root("");
        let Err(fault) = UserStage::new(&args(&[(name, value)]), &root) else { panic!("`{value}` was taken") };
        assert_eq!(fault.what, what);
    }

    #[test]
    fn values_that_are_invalid_in_passwd_are_rejected() {
        refused("USER_NAME", "a:b", "the argument `USER_NAME` is `a:b`, not a name like `app`");
        refused("USER_NAME", "", "the argument `USER_NAME` is ``, not a name like `app`");
        refused("USER_ID", "010", "the argument `USER_ID` is `010`, not a whole number");
        refused("GROUP_ID", "staff", "the argument `GROUP_ID` is `staff`, not a whole number");
        refused("USER_HOME", "/srv/../etc", "the argument `USER_HOME` is `/srv/../etc`, not a path like `/home/app`");
        let mut without = args(&[]);
        without.remove("GROUP_ID");
        let root = root("");
        let Err(fault) = UserStage::new(&without, &root) else { panic!("nothing was missed") };
        assert_eq!(fault.what, "the stage has no argument `GROUP_ID`");
    }
}
