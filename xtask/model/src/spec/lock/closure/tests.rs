//! Locks that an edit has left without something, each by its records and requirements.

use super::*;
use crate::spec::requirements::Requirements;
use proptest::prelude::*;
use std::path::Path;

const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const B: &str = "sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6";

fn asked(text: &str) -> Requirements {
    requirements::read(Path::new("r.txt"), &mut |_| Ok(text.to_owned())).unwrap_or_else(|fault| panic!("{fault}"))
}

fn parsed(text: &str) -> Lock {
    Lock::parse(Path::new("r.lock"), text).unwrap_or_else(|fault| panic!("{fault}"))
}

/// A lock of these pins, with records of what each requires.
fn lock(pins: &[(&str, &[&str])]) -> Lock {
    let mut text = format!("# requirements: {A}\n# python: >=3.12\n# resolver: uv 0.13.9\n");
    for (pin, _) in pins {
        text += &format!("{pin} --hash={A}\n");
    }
    let lock = parsed(&text);
    let mut records = Records::default();
    for (pin, metadata) in pins {
        let name = normalised(pin.split(['=', '[', ' ']).next().unwrap());
        let metadata: String = metadata.iter().map(|need| format!("Requires-Dist: {need}\n")).collect();
        for package in lock.packages.iter().filter(|package| package.name == name) {
            records.set_metadata(
                package,
                PackageMetadata::of_metadata(&metadata.replace("Requires-Dist: Python", "Requires-Python: ")),
            );
        }
    }
    // Through the text, as every lock goes.
    parsed(&records.written(&text, &lock.packages))
}

fn places(pythons: &[&str]) -> Vec<Environment> {
    let platforms = ["linux/amd64", "linux/arm64"].map(|name| name.parse().unwrap());
    environments(&platforms, &pythons.iter().map(|one| (*one).to_owned()).collect()).collect()
}

#[track_caller]
fn check(requirements: &str, pins: &[(&str, &[&str])], causes: &[&str]) {
    let found = verify(asked(requirements).requirements(), &lock(pins), &places(&["3.12", "3.13"]));
    assert_eq!(found, causes);
}

#[test]
fn a_pin_outside_of_what_another_requires() {
    check("needw", &[("needw==1.0", &["plain<1.1"]), ("plain==1.0", &[])], &[]);
    check(
        "needw",
        &[("needw==1.0", &["plain<1.1"]), ("plain==1.1", &[])],
        &["needw 1.0 requires `plain<1.1`, but plain 1.1 is locked"],
    );
}

#[test]
fn a_pin_that_was_deleted() {
    check("needw", &[("needw==1.0", &["plain<1.1"])], &["needw 1.0 requires `plain<1.1`, which is not locked"]);
    check("needw\nplain", &[("needw==1.0", &[])], &["the requirements ask for `plain`, which is not locked"]);
    // What only another platform needs is not missing.
    check("needw", &[("needw==1.0", &["plain; sys_platform == 'win32'"])], &[]);
}

#[test]
fn markers_and_extras_are_judged_for_every_python_and_platform() {
    check(
        "a",
        &[("a==1", &["b; python_version < '3.13'"])],
        &["a 1 requires `b`, which is not locked (with Python 3.12 on aarch64, Python 3.12 on x86_64)"],
    );
    check(
        "a",
        &[("a==1", &["b; python_full_version >= '3.13.4'"])],
        &["a 1 requires `b`, which is not locked (with Python 3.13 on aarch64, Python 3.13 on x86_64)"],
    );
    check(
        "a",
        &[("a==1", &["b; platform_machine == 'aarch64'"]), ("b==1 ; platform_machine != 'aarch64'", &[])],
        &["a 1 requires `b`, which is not locked (with Python 3.12 on aarch64, Python 3.13 on aarch64)"],
    );
    check(
        "a ; python_version >= '3.13'",
        &[],
        &["the requirements ask for `a`, which is not locked (with Python 3.13 on aarch64, Python 3.13 on x86_64)"],
    );
    check(
        "a",
        &[("a==1", &["b[Fast]"]), ("b==1", &["c; extra == 'fast'", "d; extra == 'slow'"])],
        &["b[fast] 1 requires `c`, which is not locked"],
    );
    check(
        "b[fast]",
        &[("b[fast]==1", &["c>=2; extra == 'fast'"]), ("c==1", &[])],
        &["b[fast] 1 requires `c>=2`, but c 1 is locked"],
    );
    check(
        "a",
        &[("a==1 ; os_name == 'posix'", &[]), ("a==2 ; os_name != 'nt'", &[])],
        &["a is locked twice, as 1 and 2"],
    );
}

#[test]
fn bounds_of_python_count() {
    check("a", &[("a==1", &["Python>=3.12.4,<4"])], &[]);
    check(
        "a",
        &[("a==1", &["Python<3.13"])],
        &["a 1 requires Python <3.13, not 3.13 (with Python 3.13 on aarch64, Python 3.13 on x86_64)"],
    );
}

#[test]
fn forms_that_no_specification_allows_count_by_their_name() {
    check(
        "a",
        &[("a==1", &["b @ git+https://h/b", "c (>=1.x)", "d>=1; python_version > '2'"]), ("b==1", &[])],
        &["a 1 requires `c`, which is not locked", "a 1 requires `d>=1`, which is not locked"],
    );
}

#[test]
fn a_pin_that_was_edited_has_no_record() {
    let before = lock(&[("a==1", &["b"]), ("b==1", &[])]);
    let everywhere = places(&["3.12"]);
    assert!(unrecorded(&before, &everywhere).is_empty());
    let text = |pin: &str| {
        let head = format!("# requirements: {A}\n# python: >=3.12\n# resolver: uv 1\n");
        before.records.written(&format!("{head}a==1 --hash={A}\n{pin}\n"), &before.packages)
    };
    for pin in [format!("b==2 --hash={A}"), format!("b==1 --hash={B}"), format!("b==1 --hash={A} --hash={B}")] {
        let edited = parsed(&text(&pin));
        assert_eq!(unrecorded(&edited, &everywhere).len(), 1, "{pin}");
        assert!(edited.records.of(&edited.packages[0]).is_some(), "the other is known still");
    }
}

#[test]
fn records_are_written_once_and_read_back() {
    let found = lock(&[("a[x]==1", &["b>=1; extra == 'x'", "c; extra == 'y'", "Python>=3.8"]), ("b==1", &[])]);
    let text = format!("# requirements: {A}\na[x]==1 --hash={A}\n");
    let once = found.records.written(&text, &found.packages);
    assert!(once.contains(") requires b>=1 ; extra == 'x'\n") && once.contains(") requires-python >=3.8\n"), "{once}");
    assert!(!once.contains("requires c") && once.contains(") requires nothing\n"), "{once}");
    assert_eq!(found.records.written(&once, &found.packages), once);
    assert_eq!(Records::parse(&once), found.records);
}

#[test]
fn a_package_without_a_wheel_is_remembered() {
    let mut found = lock(&[("a==1", &[])]);
    found.records.add_missing_wheel(&found.packages[0], "linux/arm64 3.12");
    let text = found.records.written("", &found.packages);
    let back = Records::parse(&text);
    assert_eq!(back.without_wheel(&found.packages[0]).collect::<Vec<_>>(), ["linux/arm64 3.12"]);
}

proptest! {
    #[test]
    fn no_line_ends_the_reader(text in "# [a (]{0,3}[ a-f0-9()]{0,24}\\) (requires|has no wheel for|requires-python) ?[a-z;<>=. ]{0,9}") {
        let _ = Records::parse(&text);
    }

    #[test]
    fn a_lock_without_any_one_of_its_pins_is_noticed(count in 2..7usize, which in 0..7usize) {
        // Each requires the next: p0 -> p1 -> …
        let names: Vec<String> = (0..count).map(|index| format!("p{index}==1")).collect();
        let metadata: Vec<Vec<String>> =
            (0..count).map(|index| if index + 1 < count { vec![format!("p{}", index + 1)] } else { Vec::new() }).collect();
        let metadata: Vec<Vec<&str>> = metadata.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
        let mut pins: Vec<(&str, &[&str])> = names.iter().map(String::as_str).zip(metadata.iter().map(Vec::as_slice)).collect();
        let whole = asked("p0");
        prop_assert!(verify(whole.requirements(), &lock(&pins), &places(&["3.12"])).is_empty());
        pins.remove(which % count);
        prop_assert!(!verify(whole.requirements(), &lock(&pins), &places(&["3.12"])).is_empty());
    }
}
