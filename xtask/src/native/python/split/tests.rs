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
        let path = self.0.path().join(record::within(SITE, path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn split(&self, parts: &[(&str, usize)]) -> Result<Vec<Items>, Fault> {
        let installed =
            Installed { prefix: self.0.path(), python: "3.13.5", asked: "python3.13", interpreter: "/host/python3" };
        let part_of: BTreeMap<String, usize> = parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
        let count = parts.iter().map(|(_, part)| part + 1).max().unwrap_or(0);
        split(&installed, "/opt/venv", &part_of, count)
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
    fs::write(folder.0.path().join(".lock"), "").unwrap();
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
    let script = folder.0.path().join("bin/a");
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
fn two_owners_must_agree() {
    let same = Folder::new(&[("a", &[("x/__init__.py", "")]), ("b", &[("x/__init__.py", "")])]);
    let parts = same.split(&[("a", 0), ("b", 1)]).unwrap();
    assert!(parts.iter().all(|items| files(items).contains(&"x/__init__.py".to_owned())));
    let other = Folder::new(&[("a", &[("x/__init__.py", "1")]), ("b", &[("x/__init__.py", "2")])]);
    refused(&other, &[("a", 0), ("b", 1)], "`a` and `b` have different files at `x/__init__.py`");
}

#[test]
fn what_belongs_to_nobody_is_refused() {
    let folder = Folder::new(&[("a", &[("x/a.py", "")]), ("b", &[("x/b.py", "")])]);
    refused(&folder, &[("a", 0)], "`b` was installed, and nobody asked for it");
    folder.write("x/data", "");
    let what = format!("cannot tell which package `{SITE}/x/data` belongs to: no `RECORD` lists it");
    refused(&folder, &[("a", 0), ("b", 1)], &what);
    assert!(folder.split(&[("a", 0), ("b", 0)]).is_ok(), "within one part it does not matter");
}

#[test]
fn nothing_outside_is_touched() {
    let folder = Folder::new(&[("a", &[("a.py", "")])]);
    folder.write("a-1.dist-info/RECORD", "../../../../etc/passwd,,\n");
    refused(&folder, &[("a", 0)], "`a` lists `../../../../etc/passwd`, which is outside of the environment");
    let folder = Folder::new(&[("a", &[("a.py", "")])]);
    std::os::unix::fs::symlink("/etc", folder.0.path().join("lib/link")).unwrap();
    refused(&folder, &[("a", 0)], "`lib/link` is neither a file nor a folder");
}
