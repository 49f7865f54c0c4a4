//! Folders as uv leaves them, made by hand.

use super::*;

const SITE: &str = "lib/python3.13/site-packages";

/// An installed folder with these files; `RECORD`s are written of what each distribution is said to have.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(distributions: &[(&str, &[(&str, &str)])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, files) in distributions {
            let record = format!("{name}-1.dist-info/RECORD");
            let mut rows = vec![Row { path: record.clone(), hash: String::new(), size: String::new() }];
            for (path, text) in *files {
                folder.write(path, text);
                rows.push(Row {
                    path: (*path).to_owned(),
                    hash: record::hash(text.as_bytes()),
                    size: text.len().to_string(),
                });
            }
            rows.sort();
            folder.write(&record, &record::print(&rows));
        }
        folder
    }

    /// Writes a file at a path from site-packages.
    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join("installed").join(record::within(SITE, path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Leaves a distribution's own version of a path that several have.
    fn keep(&self, name: &str, path: &str, text: &str) {
        let path = self.0.path().join("shared").join(name).join(record::within(SITE, path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Every part, with what is used of those paths.
    fn split_shared(&self, parts: &[(&str, usize)], owners: &[(&str, &[&str])]) -> Result<Split, Fault> {
        let owners = owners
            .iter()
            .map(|(path, names)| ((*path).to_owned(), names.iter().map(|name| (*name).to_owned()).collect()));
        let shared = Shared { owners: owners.collect(), folder: self.0.path().join("shared") };
        let installed = Installed {
            prefix: &self.0.path().join("installed"),
            python: "3.13.5",
            asked: "python3.13",
            interpreter: "/host/python3",
            shared: &shared,
        };
        let part_of: BTreeMap<String, usize> = parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
        split(&installed, "/opt/venv", &part_of, &part_of.values().copied().collect())
    }

    fn split(&self, parts: &[(&str, usize)]) -> Result<Vec<Items>, Fault> {
        self.split_shared(parts, &[]).map(|split| split.parts.into_values().collect())
    }
}

/// The files of a part, from site-packages where they are in it.
fn files(items: &Items) -> Vec<String> {
    let site = format!("opt/venv/{SITE}/");
    let files = items.values().filter(|item| item.content != Content::Dir).map(|item| item.path.to_string());
    files.map(|path| path.strip_prefix(&site).unwrap_or(&path).to_owned()).collect()
}

fn text(items: &Items, path: &str) -> String {
    let item = &items[&ContextPath::new(format!("opt/venv/{path}"))];
    match &item.content {
        Content::File(Bytes::Here(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
        Content::File(Bytes::At { file, .. }) => fs::read_to_string(file).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_go_where_their_distribution_goes() {
    let folder = Folder::new(&[
        ("a", &[("a/__init__.py", "1"), ("shared/one.py", "2")]),
        ("B_c", &[("b.py", "3"), ("shared/two.py", "4"), ("../../../share/b/data", "5")]),
    ]);
    for code in ["a/__pycache__/__init__.cpython-313.pyc", "shared/__pycache__/two.cpython-313.pyc"] {
        folder.write(code, "code");
    }
    folder.write("a/unlisted.txt", "6");
    fs::write(folder.0.path().join("installed/.lock"), "").unwrap();
    let parts = folder.split(&[("a", 0), ("b-c", 1)]).unwrap();
    let a = ["a-1.dist-info/RECORD", "a/__init__.py", "a/__pycache__/__init__.cpython-313.pyc", "a/unlisted.txt"];
    assert_eq!(files(&parts[0]), [&a[..], &["shared/one.py"]].concat());
    let b = ["B_c-1.dist-info/RECORD", "b.py", "shared/__pycache__/two.cpython-313.pyc", "shared/two.py"];
    assert_eq!(files(&parts[1]), [&b[..], &["opt/venv/share/b/data"]].concat());
    let folders: Vec<String> =
        parts[0].values().filter(|item| item.content == Content::Dir).map(|item| item.path.to_string()).collect();
    assert!(folders.starts_with(&["opt/venv".to_owned(), "opt/venv/lib".to_owned()]), "{folders:?}");
    assert!(folders.contains(&format!("opt/venv/{SITE}/a/__pycache__")), "{folders:?}");
}

#[test]
fn scripts_and_their_records_name_the_images_python() {
    let folder =
        Folder::new(&[("a", &[("../../../bin/a", "#!/host/python3\nx\n"), ("../../../bin/sh", "#!/bin/sh\n")])]);
    let script = folder.0.path().join("installed/bin/a");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let parts = folder.split(&[("a", 0)]).unwrap();
    let wanted = "#!/opt/venv/bin/python3\nx\n";
    assert_eq!(text(&parts[0], "bin/a"), wanted);
    assert_eq!(text(&parts[0], "bin/sh"), "#!/bin/sh\n");
    assert_eq!(parts[0][&ContextPath::new("opt/venv/bin/a")].mode, 0o755);
    assert_eq!(parts[0][&ContextPath::new("opt/venv/bin/sh")].mode, 0o644);
    let record = text(&parts[0], &format!("{SITE}/a-1.dist-info/RECORD"));
    let row = format!("../../../bin/a,{},{}\n", record::hash(wanted.as_bytes()), wanted.len());
    assert!(record.starts_with(&row), "{record}");
    assert_eq!(fs::read_to_string(script).unwrap(), "#!/host/python3\nx\n", "what uv laid down stays as it is");
}

#[track_caller]
fn refused(folder: &Folder, parts: &[(&str, usize)], what: &str) {
    let fault = folder.split(parts).unwrap_err();
    assert_eq!(fault.what, what);
}

#[test]
fn a_shared_path_is_in_both_parts_and_the_last_one_is_used() {
    let same = Folder::new(&[("a", &[("x/__init__.py", "")]), ("b", &[("x/__init__.py", "")])]);
    let parts = same.split(&[("a", 0), ("b", 1)]).unwrap();
    assert!(parts.iter().all(|items| files(items).contains(&"x/__init__.py".to_owned())));

    let folder = Folder::new(&[("a", &[("x/__init__.py", "1"), ("LICENSE", "2")]), ("b", &[("x/__init__.py", "3")])]);
    folder.keep("a", "x/__init__.py", "1");
    folder.keep("a", "x/__pycache__/__init__.cpython-313.pyc", "code of 1");
    folder.keep("b", "x/__init__.py", "3");
    // The part of `b` lies below that of `a`: what is used is on top of both.
    let split = folder.split_shared(&[("a", 1), ("b", 0)], &[("x/__init__.py", &["a", "b"])]).unwrap();
    let at = format!("{SITE}/x/__init__.py");
    let code = format!("{SITE}/x/__pycache__/__init__.cpython-313.pyc");
    assert_eq!([text(&split.parts[&1], &at), text(&split.parts[&0], &at), text(&split.used, &at)], ["1", "3", "3"]);
    assert_eq!(text(&split.parts[&1], &code), "code of 1");
    assert_eq!(text(&split.used, &code), "", "the byte code of another version is not taken for this one's");
    assert_eq!(files(&split.used), ["x/__init__.py", "x/__pycache__/__init__.cpython-313.pyc"]);
    let alone = folder.split_shared(&[("a", 0), ("b", 0)], &[("x/__init__.py", &["a", "b"])]).unwrap();
    assert_eq!(text(&alone.parts[&0], &at), "3");
    assert!(alone.used.is_empty());
}

#[test]
fn only_wanted_parts_are_made() {
    let folder = Folder::new(&[("a", &[("a.py", "1")]), ("b", &[("b/b.py", "2")])]);
    folder.write("b/unlisted", "3");
    let shared = Shared::default();
    let installed = Installed {
        prefix: &folder.0.path().join("installed"),
        python: "3.13.5",
        asked: "python3.13",
        interpreter: "/host/python3",
        shared: &shared,
    };
    let part_of = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 1)]);
    let split = split(&installed, "/opt/venv", &part_of, &BTreeSet::from([0])).unwrap();
    assert_eq!(split.parts.into_keys().collect::<Vec<_>>(), [0]);
}

#[test]
fn files_without_an_owner_are_rejected() {
    let folder = Folder::new(&[("a", &[("x/a.py", "")]), ("b", &[("x/b.py", "")])]);
    refused(&folder, &[("a", 0)], "`b` was installed but not requested");
    folder.write("x/data", "");
    let what = format!("cannot find the package of `{SITE}/x/data`: no `RECORD` lists it");
    refused(&folder, &[("a", 0), ("b", 1)], &what);
    assert!(folder.split(&[("a", 0), ("b", 0)]).is_ok(), "within one part it does not matter");
}

#[test]
fn paths_outside_the_environment_are_rejected() {
    let folder = Folder::new(&[("a", &[("a.py", "")])]);
    folder.write("a-1.dist-info/RECORD", "../../../../etc/passwd,,\n");
    refused(&folder, &[("a", 0)], "`a` lists `../../../../etc/passwd`, which is outside the environment");
    let folder = Folder::new(&[("a", &[("a.py", "")])]);
    std::os::unix::fs::symlink("/etc", folder.0.path().join("installed/lib/link")).unwrap();
    refused(&folder, &[("a", 0)], "`lib/link` is neither a file nor a folder");
}
