//! Made-up wheels of every shape, as they are installed. `xtask/tests/machine/native_packages.rs` compares with uv.

use super::*;
use crate::layer::packed::contents;
use crate::wheel::test_data::{Made, made, wheel};

const PLACE: EnvironmentPlace<'static> = EnvironmentPlace { home: "/opt/venv", folder: "python3.13" };

fn package(name: &str, url: Option<&str>) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: "1".to_owned(),
        extras: BTreeSet::new(),
        marker: None,
        url: url.map(str::to_owned),
        hashes: BTreeSet::new(),
    }
}

fn installed(files: &[Made], url: Option<&str>) -> Result<Distribution, Fault> {
    let folder = tempfile::tempdir().unwrap();
    let path = wheel(folder.path(), "odd_one", files);
    let wheel = Wheel::open(&path, "odd_one-1-py3-none-any.whl")?;
    let mut found = Distribution::new(&wheel, &package("odd-one", url), &PLACE)?;
    // The archive goes with the folder.
    for file in found.files.values_mut() {
        file.bytes = Bytes::Here(contents(&file.bytes).unwrap().into());
    }
    Ok(found)
}

fn text(distribution: &Distribution, path: &str) -> String {
    String::from_utf8(contents(&distribution.files[path].bytes).unwrap()).unwrap()
}

#[track_caller]
fn rejects(files: &[Made], why: &str) {
    let fault = installed(files, None).unwrap_err();
    assert!(fault.causes[0].contains(why), "{fault}");
}

const SITE: &str = "lib/python3.13/site-packages";

#[test]
fn files_go_where_the_specification_says() {
    let data = "odd_one-1.data";
    let found = installed(
        &[
            made("odd_one/__init__.py", ""),
            Made { mode: 0o100_711, ..made("odd_one/run.py", "") },
            made("odd.pth", "import odd_one\n"),
            made("space/name/module.py", ""),
            Made { mode: 0o040_755, ..made("empty/", "") },
            made(&format!("{data}/purelib/pure.py"), ""),
            made(&format!("{data}/platlib/plat/__init__.py"), ""),
            made(&format!("{data}/headers/sub/odd.h"), ""),
            made(&format!("{data}/data/share/doc/odd.txt"), ""),
            Made { mode: 0o100_755, ..made(&format!("{data}/data/etc/run"), "") },
            made(&format!("{data}/scripts/shell"), "#!/bin/sh\n"),
        ],
        None,
    )
    .unwrap();
    let own: Vec<(&str, bool)> = found
        .files
        .iter()
        .filter(|(path, _)| !path.contains("dist-info"))
        .map(|(path, file)| (path.strip_prefix(SITE).unwrap_or(path), file.executable))
        .collect();
    let expected = [
        ("bin/shell", true),
        ("etc/run", true),
        ("include/site/python3.13/odd-one/sub/odd.h", false),
        ("/odd.pth", false),
        ("/odd_one/__init__.py", false),
        ("/odd_one/run.py", true),
        ("/plat/__init__.py", false),
        ("/pure.py", false),
        ("/space/name/module.py", false),
        ("share/doc/odd.txt", false),
    ];
    assert_eq!(own, expected);
    assert_eq!(found.folders, [format!("{SITE}/empty")].into());
    let record = text(&found, &format!("{SITE}/odd_one-1.dist-info/RECORD"));
    for row in ["../../../bin/shell,sha256=", "../../../include/site/python3.13/odd-one/sub/odd.h,", "pure.py,sha256="]
    {
        assert!(record.contains(&format!("\n{row}")) || record.starts_with(row), "{row}: {record}");
    }
    assert_eq!(text(&found, &format!("{SITE}/odd_one-1.dist-info/INSTALLER")), "uv");
}

#[test]
fn scripts_start_the_environments_python() {
    let points = "# comment\n[console_scripts]\nodd = odd_one:main\ndotted = odd_one.a:B.c [extra]\nboth = odd_one:x\n\n\
                  [gui_scripts]\nboth=odd_one:gui\n[other]\nnothing = to:install\n";
    let data = "odd_one-1.data/scripts";
    let found = installed(
        &[
            made("odd_one-1.dist-info/entry_points.txt", points),
            made(&format!("{data}/odd"), "#!python\nnot used\n"),
            made(&format!("{data}/old"), "#!pythonw -E\nprint(1)\n"),
            made(&format!("{data}/env"), "#!/usr/bin/env python\n"),
            made(&format!("{data}/binary"), [0x7f, 0xff, 0]),
        ],
        None,
    )
    .unwrap();
    assert_eq!(text(&found, "bin/old"), "#!/opt/venv/bin/python3\nprint(1)\n");
    assert_eq!(text(&found, "bin/env"), "#!/usr/bin/env python\n");
    assert!(text(&found, "bin/odd").ends_with("\n    sys.exit(main())\n"));
    assert!(text(&found, "bin/dotted").contains("from odd_one.a import B\n"));
    assert!(text(&found, "bin/both").contains("sys.exit(gui())"));
    assert!(!found.files.contains_key("bin/nothing"));
    let row = Row {
        path: "../../../bin/old".to_owned(),
        hash: record::hash(b"#!/opt/venv/bin/python3\nprint(1)\n"),
        size: "33".to_owned(),
    };
    assert!(found.rows.contains(&row), "{:?}", found.rows);
}

#[test]
fn a_direct_reference_is_recorded() {
    let url = "https://example.invalid/odd_one-1-py3-none-any.whl";
    let found = installed(&[], Some(url)).unwrap();
    let path = format!("{SITE}/odd_one-1.dist-info/direct_url.json");
    assert_eq!(text(&found, &path), format!(r#"{{"url":"{url}","archive_info":{{}}}}"#));
    assert!(installed(&[], None).unwrap().files.keys().all(|path| !path.contains("direct_url")));
}

#[test]
fn rows_follow_the_files() {
    let record = "odd_one/__init__.py,md5=x,0\ngone.py,sha256=y,1\nodd_one-1.dist-info/RECORD,,\n";
    let listed = [
        made("odd_one/__init__.py", ""),
        made("odd_one/unlisted.txt", "123"),
        made("odd_one-1.dist-info/RECORD", record),
    ];
    let found = installed(&listed, None).unwrap();
    let row =
        |path: &str| found.rows.iter().find(|row| row.path == path).map(|row| format!("{},{}", row.hash, row.size));
    assert_eq!(row("odd_one/__init__.py").as_deref(), Some("md5=x,0"));
    assert_eq!(row("odd_one/unlisted.txt").as_deref(), Some(",3"));
    assert_eq!(row("gone.py"), None);
    assert!(found.rows.is_sorted());
}

#[test]
fn a_row_is_kept_as_it_is_spelled() {
    let info = "odd_one-1.dist-info";
    for (record, expected) in [
        ("./m.py,sha256=x,4\nINFO/RECORD,,\n", "./m.py,sha256=x,4\nINFO/RECORD,,"),
        ("n/..//m.py,sha256=x,4\nINFO/RECORD,,\n", "n/..//m.py,sha256=x,4\nINFO/RECORD,,"),
        ("/m.py,sha256=x,04\n./INFO/RECORD,sha256=y,3\n", "./INFO/RECORD,sha256=y,3\nm.py,sha256=x,4"),
        ("m.py,sha256=x,1\n./m.py,sha256=y,2\nINFO/RECORD,,\n", "m.py,sha256=x,1\nINFO/RECORD,,"),
        ("\"m.py\",,\n../m.py,sha256=y,2\nINFO/RECORD,,\n", "m.py,,\nINFO/RECORD,,"),
        ("", "m.py,,6\nINFO/RECORD,,0"),
    ] {
        let record = made(&format!("{info}/RECORD"), record.replace("INFO", info));
        let found =
            installed(&[made("m.py", "x = 1\n"), made(&format!("{info}/RECORD.jws"), ""), record], None).unwrap();
        let written = text(&found, &format!("{SITE}/{info}/RECORD"));
        let others = ["/INSTALLER,", "/METADATA,", "/REQUESTED,", "/WHEEL,"];
        let own: Vec<&str> = written.lines().filter(|row| !others.iter().any(|name| row.contains(name))).collect();
        assert_eq!(own.join("\n"), expected.replace("INFO", info));
        assert!(found.rows.iter().any(|row| row.path == "m.py"));
    }
}

#[test]
fn a_wheel_that_breaks_the_specification_is_rejected() {
    let info = "odd_one-1.dist-info";
    let points = |text: &str| [made(&format!("{info}/entry_points.txt"), text)];
    rejects(&[made("odd_one-1.data/weird/x", "")], "`odd_one-1.data/weird/x` has no known place");
    rejects(&[made("odd_one-1.data/scripts/sub/x", "")], "is not directly in the folder of scripts");
    rejects(&[made("m.py", "1"), made("odd_one-1.data/purelib/m.py", "2")], "two files for");
    rejects(&[made("other-1.dist-info/METADATA", "")], "2 folders named `*.dist-info`");
    rejects(&[made(&format!("{info}/RECORD"), "\"a")], "`RECORD`: a quote is not closed");
    rejects(&[made(&format!("{info}/RECORD"), "a,,\nb,\n")], "`RECORD`: the row `b,` does not have three fields");
    rejects(&points("[console_scripts]\nodd = m\n"), "the invalid line `odd = m`");
    rejects(&points("[console_scripts]\n../odd = m:f\n"), "the invalid line `../odd = m:f`");
    rejects(&points("[console_scripts]\nodd = m:f; import os\n"), "the invalid line");
    rejects(&points("[console_scripts]\nodd = m:f\nodd = m:g\n"), "has `odd` twice");
    assert_eq!(version("Wheel-Version: 1.9\n"), Ok(()));
    assert!(version("Wheel-Version: 2.0\n").is_err() && version("Generator: x\n").is_err());
    let folder = tempfile::tempdir().unwrap();
    let path = wheel(folder.path(), "other", &[]);
    let fault = Distribution::new(&Wheel::open(&path, "w").unwrap(), &package("odd-one", None), &PLACE).unwrap_err();
    assert_eq!(fault.causes, ["it has the metadata `other-1.dist-info`, but `odd-one` is locked"]);
}

#[test]
fn a_path_is_a_file_or_a_folder() {
    let data = "odd_one-1.data";
    let folder = |name: &str| Made { mode: 0o040_755, ..made(&format!("{data}/purelib/{name}/"), "") };
    for (files, why) in [
        (
            [made("x", ""), made(&format!("{data}/platlib/x/__init__.py"), "")],
            format!("it has a file for `{SITE}/x`, and `{SITE}/x/__init__.py` below it"),
        ),
        (
            [made("x/y/__init__.py", ""), made(&format!("{data}/purelib/x"), "")],
            format!("it has a file for `{SITE}/x`, and `{SITE}/x/y/__init__.py` below it"),
        ),
        (
            [made("y", ""), made(&format!("{data}/data/lib/python3.13/site-packages/y/z"), "")],
            format!("it has a file for `{SITE}/y`, and `{SITE}/y/z` below it"),
        ),
        ([made("x", ""), folder("x/y")], format!("it has a file for `{SITE}/x`, and `{SITE}/x/y` below it")),
        ([made("x", ""), folder("x")], format!("it has a file and a folder for `{SITE}/x`")),
    ] {
        rejects(&files, &why);
    }
    assert!(
        installed(&[made("x/__init__.py", ""), made(&format!("{data}/purelib/x/y.py"), ""), folder("x")], None).is_ok()
    );
}

#[test]
fn metadata_is_of_the_locked_package() {
    let stated = |name: &str, version: &str, locked: &str| {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("Metadata-Version: 2.1\n{name}{version}\nName: other\nVersion: 9\n");
        let path = wheel(folder.path(), "odd_one", &[made("odd_one-1.dist-info/METADATA", text)]);
        let package = LockedPackage { version: locked.to_owned(), ..package("odd-one", None) };
        let found = Distribution::new(&Wheel::open(&path, "odd_one-1-py3-none-any.whl").unwrap(), &package, &PLACE);
        found.map(drop).map_err(|fault| fault.causes[0].clone())
    };
    for (name, version, locked) in [
        ("Name: odd-one\n", "Version: 1\n", "1"),
        ("Name: Odd.One\r\n", "Version: 1.0\r\n", "1"),
        ("name: odd_one\n", "VERSION:\n 1\n", "1"),
        ("Name: odd_one\n", "Version: 1\n", "1+cpu"),
        ("Name: odd_one\n", "Version: 1+cpu\n", "1"),
        ("Name: odd_one\n", "Version: 1\n", "unknown"),
    ] {
        assert_eq!(stated(name, version, locked), Ok(()), "{name}{version}");
    }
    for (name, version, locked, why) in [
        ("Name: other\n", "Version: 1\n", "1", "its `METADATA` has the name `other`, but `odd-one` is locked"),
        ("Name: odd-one\n", "Version: 2\n", "1", "its `METADATA` has the version `2`, but 1 is locked"),
        ("Name: odd-one\n", "Version: 2\n", "unknown", "its `METADATA` has the version `2`, but 1 is locked"),
        ("Name: odd-one\n", "Version: 1+a\n", "1+b", "its `METADATA` has the version `1+a`, but 1+b is locked"),
        ("Name: odd-one\n", "", "1", "its `METADATA` has no `Version`"),
        ("", "Version: 1\n", "1", "its `METADATA` has no `Name`"),
    ] {
        assert_eq!(stated(name, version, locked).unwrap_err(), why);
    }
}

#[test]
fn entry_points_are_read_as_python_does() {
    for (text, names) in [
        ("[console_scripts] # comment\na = m:f\n", &["a"][..]),
        ("[console_scripts]\ra = m:f\r", &["a"]),
        ("[console_scripts]\r\na = m:f\r\n", &["a"]),
        ("  [console_scripts]\n  a = m:f\n", &["a"]),
        ("[console_scripts]\n\ta = m:f\n", &["a"]),
        ("[console_scripts]\na = m:f\n  [x]\n\nb =\n  m:f\n", &["a", "b"]),
        ("[other]\nx = y\n\n  [console_scripts]\n  a = m:f\n", &[]),
        ("[ console_scripts ]\na = m:f\n", &[]),
        ("[console_scripts] # see [x]\na = m:f\n", &[]),
        (
            "[console_scripts]\npip = m:f\npip3 = m:f\npip3.11 = m:f\npip3.x = m:f\n",
            &["pip", "pip3", "pip3.13", "pip3.x"],
        ),
        ("[console_scripts]\npip3.11 = m:f\n", &[]),
        ("[gui_scripts]\npip3.11 = m:f\n", &["pip3.11"]),
        ("", &[]),
    ] {
        let found = entry_points(text, "13").unwrap();
        assert_eq!(found.scripts.keys().collect::<Vec<_>>(), names, "{text}");
        assert!(found.scripts.values().all(|target| target.module == "m" && target.attribute == "f"), "{text}");
    }
    for (text, why) in [
        ("\u{feff}[console_scripts]\na = m:f\n", "the invalid line `\\u{feff}[console_scripts]`"),
        ("a = m:f\n[console_scripts]\n", "the invalid line `a = m:f`"),
        ("[console_scripts]\na: m:f\n", "the invalid line `a: m:f`"),
        ("[other]\nx = y\n[console_scripts\na = m:f\n", "the invalid line `[console_scripts`"),
        ("[console_scripts]\na = m:f\n  b = m:f\n", "the invalid line `a = m:f\\nb = m:f`"),
        ("[console_scripts]\na = m:f # comment\n", "the invalid line `a = m:f # comment`"),
        ("[console_scripts]\n[other]\n[console_scripts]\n", "the section `console_scripts` twice"),
    ] {
        let found = entry_points(text, "13").unwrap_err();
        assert!(found.contains(why), "{text}: {found}");
    }
    let others = |text: &str| entry_points(text, "13").unwrap().has_others;
    assert!(others("[console_scripts]\n[pytest11]\n") && !others("[console_scripts]\n[gui_scripts]\n"));
}

#[test]
fn a_script_is_not_installed_in_place_of_another_file() {
    let points =
        |text: &str| made("odd_one-1.dist-info/entry_points.txt", format!("[console_scripts]\n{text} = odd_one:f\n"));
    let data = |path: &str| made(&format!("odd_one-1.data/{path}"), "text");
    for (files, why) in [
        (vec![points("odd"), data("data/bin/odd")], "it has two files for `bin/odd`"),
        (vec![data("scripts/odd"), data("data/bin/odd")], "it has two files for `bin/odd`"),
        (vec![points("python")], "`bin/python`, which is the environment's own"),
        (vec![data("scripts/python3")], "`bin/python3`, which is the environment's own"),
        (vec![data("data/bin/python3.13")], "`bin/python3.13`, which is the environment's own"),
        (vec![data("data/pyvenv.cfg")], "`pyvenv.cfg`, which is the environment's own"),
    ] {
        rejects(&files, why);
    }
    // Files of other systems' installers for the same script.
    let found = installed(&[points("odd"), data("scripts/odd-script.py"), data("scripts/odd.exe")], None).unwrap();
    let scripts: Vec<&String> = found.files.keys().filter(|path| path.starts_with("bin/")).collect();
    assert_eq!(scripts, ["bin/odd"]);
}

#[test]
fn paths_differ_by_more_than_case() {
    for (path, first, second) in [
        ("purelib/M.py", format!("{SITE}/M.py"), format!("{SITE}/m.py")),
        (
            "data/lib/python3.13/Site-Packages/m.py",
            "lib/python3.13/Site-Packages/m.py".to_owned(),
            format!("{SITE}/m.py"),
        ),
    ] {
        let files = [made("m.py", "1"), made(&format!("odd_one-1.data/{path}"), "2")];
        rejects(&files, &format!("it has files for `{first}` and `{second}`, which differ only by case"));
    }
}

#[test]
fn paths_in_a_record_start_in_site_packages() {
    for (path, expected) in [
        ("bin/x", "../../../bin/x"),
        ("lib/python3.13/site-packages/a/b.py", "a/b.py"),
        ("lib/python3.13/other", "../other"),
        ("lib/x", "../../x"),
    ] {
        assert_eq!(relative(SITE, path), expected);
    }
}
