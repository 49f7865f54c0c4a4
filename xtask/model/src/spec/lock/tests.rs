//! Locks as texts: read, compared, held against requirements.

use super::*;
use crate::spec::requirements as pip_files;
use expect_test::expect;

const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const B: &str = "sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6";

fn head(requirements: &str) -> String {
    let digest = read_requirements(requirements).fingerprint();
    format!("# Written.\n# requirements: {digest}\n# python: >=3.12\n# resolver: uv 0.13.9\n")
}

fn read_requirements(text: &str) -> Requirements {
    pip_files::read(Path::new("r.txt"), &mut |_| Ok(text.to_owned())).unwrap_or_else(|fault| panic!("{fault}"))
}

fn parse(text: &str) -> Result<Lock, Fault> {
    Lock::parse(Path::new("r.lock"), text)
}

fn lock(body: &str) -> Lock {
    parse(&format!("{}{body}", head("a"))).unwrap_or_else(|fault| panic!("{fault}"))
}

#[test]
fn a_lock_of_uv_is_read() {
    let found = lock(&format!(
        "scipy==1.16.0 ; python_full_version < '3.13' \\\n    --hash={B} \\\n    --hash={A}\n    # via -r r.txt\n\
         NumPy[x]==2.3.1 \\\n    --hash={A}\n    # via\n    #   scipy\n\
         scipy==1.17.0 ; python_full_version >= '3.13' --hash={A}\nz @ https://h/z-1.0-py3-none-any.whl --hash={A}\n"
    ));
    assert_eq!((found.python.as_str(), found.resolver.as_str()), (">=3.12", "uv 0.13.9"));
    let packages: Vec<String> = found.packages.iter().map(|package| serde_json::to_string(package).unwrap()).collect();
    expect![[r#"
        {"name":"numpy","version":"2.3.1","extras":["x"],"marker":null,"url":null,"hashes":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
        {"name":"scipy","version":"1.16.0","extras":[],"marker":"python_full_version < '3.13'","url":null,"hashes":["sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6","sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
        {"name":"scipy","version":"1.17.0","extras":[],"marker":"python_full_version >= '3.13'","url":null,"hashes":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
        {"name":"z","version":"1.0","extras":[],"marker":null,"url":"https://h/z-1.0-py3-none-any.whl","hashes":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}"#]].assert_eq(&packages.join("\n"));
}

#[test]
fn only_the_pins_have_a_meaning() {
    let body = format!("a==1.0 --hash={A}\nb==2 --hash={B} --hash={A}\n");
    let other = format!("# note\nB==2.0 \\\n  --hash={A} \\\n  --hash={B}\n  # via a\na==1.0 --hash={A}\n");
    let moved = format!("a==1.0 --hash={A}\nb==2.0 --hash={B} --hash={A}\n");
    assert_eq!(lock(&moved).meaning(), lock(&other).meaning());
    let newer = format!("{}{moved}", head("zzz").replace(">=3.12", ">=3.13").replace("0.13.9", "0.14"));
    assert_eq!(parse(&newer).unwrap().meaning(), lock(&moved).meaning());
    for changed in [
        body.replace("1.0", "1.1"),
        body.replace(&format!(" --hash={B}"), ""),
        body.replace("a==", "a[x]=="),
        body.replace("1.0", "1.0 ; os_name == 'x'"),
        format!("--no-binary a\n{body}"),
    ] {
        assert_ne!(lock(&changed).meaning(), lock(&body).meaning(), "{changed}");
    }
}

#[test]
fn the_encoding_is_golden() {
    let found = lock(&format!("b==2 ; os_name=='x' --hash={A}\na[y]==1.0 --hash={A} --hash={B}\n"));
    expect![[r#"{"schema":1,"packages":[{"name":"a","version":"1.0","extras":["y"],"hashes":"sha256:b4012b109cf4b3d8b12aa4b3c2552843e39c3a62f6593b72a12addd5dc57e728"},{"name":"b","version":"2","marker":"os_name == 'x'","hashes":"sha256:084c549b4d987bb58c6ede291356dd0b6dd357d9661d8f31f8acaaa0665c90fe"}],"no_binary":[],"only_binary":[]}"#]].assert_eq(&serde_json::to_string(&found.meaning()).unwrap());
    let json = serde_json::to_string(&found.meaning()).unwrap();
    assert_eq!(serde_json::from_str::<LockMeaning>(&json).unwrap(), found.meaning());
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let fault = parse(text).unwrap_err();
    assert!(fault.to_string().contains(why), "{fault}");
    assert!(!fault.hints.is_empty(), "{fault}");
}

#[test]
fn an_invalid_lock_is_reported_with_the_reason() {
    refused("", "no line `# requirements: …` at its head");
    refused("a==1\n", "no line `# requirements: …`");
    refused(&head("a").replace("# python: >=3.12\n", ""), "no line `# python: …`");
    refused(&head("a").replace(">=3.12", "3.12"), "r.lock:3:1: expected the oldest Python version");
    refused(&head("a").replace("sha256:", "sha1:"), "r.lock:2:1: `sha1:");
    refused(&format!("{}a==1\n", head("a")), "r.lock:5:1: expected `--hash=sha256:…`");
    refused(&format!("{}a>=1 --hash={A}\n", head("a")), "r.lock:5:1: expected one exact version");
    refused(&format!("{}a==1.* --hash={A}\n", head("a")), "one exact version");
    refused(&format!("{}<<<<<<< HEAD\n", head("a")), "r.lock:5:1: expected the name of a distribution");
    refused(&format!("{}-r other.txt\n", head("a")), "names the file `other.txt`");
    refused(&format!("{}-r deep/r.lock\n", head("a")), "names the file `deep/r.lock`");
    refused(&format!("{}--index-url https://h/simple\n", head("a")), "options about indexes");
}

#[track_caller]
fn checked(requirements: &str, python: &str, body: &str, causes: &[&str]) {
    let lock = lock(body);
    let lock = Lock { requirements: read_requirements(requirements).fingerprint(), ..lock };
    let found = check(&read_requirements(requirements), python, &lock).err();
    let found = found.map(|fault| {
        assert_eq!((fault.exit, fault.hints.len()), (crate::fault::Exit::Drift, 1));
        fault.causes
    });
    assert_eq!(found.unwrap_or_default(), causes);
}

#[test]
fn a_lock_satisfies_its_requirements() {
    let body = format!("a==1.5 --hash={A}\nb==2 --hash={A}\n");
    checked("a>=1,<2\nb", "3.12", &body, &[]);
    checked("a", "3.13", &body, &[]);
    checked("a", "3.12.4", &body, &[]);
    checked("a", "3.11", &body, &["it was resolved for Python >=3.12, not for 3.11"]);
    checked("a>=2\nc", "3.12", &body, &["a 1.5 is locked, but `a>=2` is required", "`c` is missing from it"]);
    checked("c ; python_version < '3'", "3.12", &body, &[]);
    checked("a @ https://h/a-1.5.zip", "3.12", &body, &["a 1.5 is locked, but `a @ https://h/a-1.5.zip` is required"]);
    let forked = format!("a==1 ; os_name=='x' --hash={A}\na==2 ; os_name!='x' --hash={A}\n");
    checked("a<2 ; os_name=='x'\na>=2 ; os_name!='x'", "3.12", &forked, &[]);
    checked("a<2", "3.12", &forked, &["a 2 is locked, but `a<2` is required"]);
}

#[test]
fn a_hash_that_a_person_wrote_is_the_only_one_that_is_pinned() {
    let wanted = |hash: &str| read_requirements(&format!("a==1 --hash={hash}\nb"));
    let text =
        format!("{}a==1 \\\n    --hash={B} \\\n    --hash={A}\n    # via -r r.txt\nb==2 --hash={B}\n", head("a"));
    for (hash, other) in [(A, B), (B, A)] {
        let kept = hashes::constrained(&wanted(hash), &text, &parse(&text).unwrap()).unwrap();
        let lock = parse(&kept).unwrap_or_else(|fault| panic!("{kept}{fault}"));
        assert_eq!(lock.packages[0].hashes, BTreeSet::from([hash.to_owned()]));
        assert_eq!(lock.packages[1].hashes, BTreeSet::from([B.to_owned()]), "of others nothing is taken");
        assert!(kept.contains("# via -r r.txt"), "{kept}");
        assert!(hashes::unlisted(&wanted(hash), &lock).is_empty());
        assert_eq!(hashes::unlisted(&wanted(other), &lock).len(), 1);
    }
    let none = format!("sha256:{}", "0".repeat(64));
    let fault = hashes::constrained(&wanted(&none), &text, &parse(&text).unwrap()).unwrap_err();
    assert_eq!(fault.what, "no file of a 1 has a hash that the requirements list");
    let long = format!("sha512:{}", "0".repeat(128));
    let fault = hashes::constrained(&wanted(&long), &text, &parse(&text).unwrap()).unwrap_err();
    assert!(fault.hints[0].contains("a lock pins sha256"), "{fault}");
    let body = format!("a==1 --hash={A} --hash={B}\nb==2 --hash={B}\n");
    let requirements = format!("a==1 --hash={A}\nb");
    checked(&requirements, "3.12", &body, &["a 1 is locked with a hash that the requirements do not list"]);
}

#[test]
fn constraints_are_checked_too() {
    let lock = lock(&format!("a==1 --hash={A}\nb==2 --hash={A}\n"));
    let mut load = |path: &Path| Ok(if path == Path::new("r.txt") { "a\n-c c.txt" } else { "b<2\nz<1" }.to_owned());
    let wanted = pip_files::read(Path::new("r.txt"), &mut load).unwrap();
    let fault = check(&wanted, "3.12", &lock).unwrap_err();
    expect![[r#"
        the lock is out of date with `r.txt`
          cause: b 2 is locked, but `b<2` is required

        hint: update it: `cargo xtask lock`"#]]
    .assert_eq(&fault.to_string());
}

#[test]
fn a_change_that_leaves_no_trace_in_the_lock_is_drift_all_the_same() {
    let fault = check(&read_requirements("a>=1"), "3.12", &lock(&format!("a==1 --hash={A}\n"))).unwrap_err();
    assert!(fault.causes[0].contains("a requirement, constraint or option"), "{fault}");
}

#[track_caller]
fn changes(old: &str, new: &str, wanted: &[&str]) {
    let meaning =
        |body: &str| lock(&body.replace('#', &format!(" --hash={A}")).replace('%', &format!(" --hash={B}"))).meaning();
    let found: Vec<String> = diff(&meaning(old), &meaning(new)).iter().map(LockChange::to_string).collect();
    assert_eq!(found, wanted);
}

#[test]
fn differences_are_reported_by_distribution() {
    changes("a==1#\n", "a==1#\n", &[]);
    changes("scipy==1.16.3#", "scipy==1.17.0%", &["scipy 1.16.3 -> 1.17.0"]);
    changes("b==1#\na==1#", "c==1#\na==1#", &["removed b 1", "added c 1"]);
    changes("numpy==2.3.1#", "numpy==2.3.1%", &["numpy 2.3.1: hashes changed"]);
    changes("a==1#", "a[x]==1 ; os_name=='x'#", &["a 1: extras and marker changed"]);
    changes("a==1#", "a @ https://h/a-1.zip#", &["a 1: url changed"]);
    changes("a==1#", "--only-binary a\na==1#", &["`--only-binary` changed"]);
}

#[test]
fn versions_under_markers_are_paired() {
    let forked = "a==1 ; os_name=='x'#\na==2 ; os_name!='x'#";
    changes(forked, "a==1 ; os_name=='x'#\na==3 ; os_name!='x'#", &["a 2 -> 3"]);
    changes(forked, "a==2#", &["a 2: marker changed", "removed a 1"]);
    changes("a==2#", forked, &["a 2: marker changed", "added a 1"]);
}
