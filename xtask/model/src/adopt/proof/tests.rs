//! Tests for the causes of differences, and for differences that only look like one with a cause.

use super::*;
use serde_json::{Value, json};

/// Files from lines: `a/` is a folder, `a = text` a file, `a -> b` a link; with `@1:2` at the end it belongs to that owner.
fn files(lines: &[&str]) -> Files {
    let mut found = Files::default();
    for line in lines {
        let (line, owner) = line.rsplit_once(" @").unwrap_or((line, "0:0"));
        let (uid, gid) = owner.split_once(':').unwrap();
        let (path, kind) = if let Some(path) = line.strip_suffix('/') {
            (path, NodeKind::Folder)
        } else if let Some((path, target)) = line.split_once(" -> ") {
            (path, NodeKind::Link(target.to_owned()))
        } else {
            let (path, text) = line.split_once(" = ").unwrap();
            if is_read(path) {
                found.texts.insert(path.to_owned(), text.to_owned());
            }
            let rest =
                text.split_once('\n').filter(|_| text.starts_with("#!")).map(|(_, rest)| Digest::of(rest.as_bytes()));
            (path, NodeKind::File { digest: Digest::of(text.as_bytes()), script: rest })
        };
        let node = Node { kind, mode: 0o755, uid: uid.parse().unwrap(), gid: gid.parse().unwrap() };
        found.nodes.insert(path.to_owned(), node);
    }
    found
}

/// Both images of a case. The old one has its packages in `/srv/venv`, the new one in `/opt/venv`.
#[derive(Default)]
struct Case {
    both: &'static [&'static str],
    old: &'static [&'static str],
    new: &'static [&'static str],
    dropped: &'static [&'static str],
    left_out: &'static [(&'static str, &'static str)],
    configs: [Value; 2],
}

const ENVIRONMENTS: [[&str; 4]; 2] = [
    [
        "srv/venv/pyvenv.cfg = one",
        "srv/venv/lib/python3.13/site-packages/six-1.dist-info/METADATA = Name: six\nVersion: 1\n",
        "srv/venv/lib/python3.13/site-packages/six-1.dist-info/RECORD = six.py,sha256=a,1\n__pycache__/six.pyc,,\nsix-1.dist-info/INSTALLER,sha256=b,1\n../../../bin/six,sha256=c,1\n",
        "srv/venv/lib/python3.13/site-packages/six.py = six",
    ],
    [
        "opt/venv/pyvenv.cfg = other",
        "opt/venv/lib/python3.13/site-packages/six-1.dist-info/METADATA = Name: six\nVersion: 1\n",
        "opt/venv/lib/python3.13/site-packages/six-1.dist-info/RECORD = six-1.dist-info/INSTALLER,sha256=z,1\n../../../bin/six,sha256=d,1\nsix.py,sha256=a,1\n",
        "opt/venv/lib/python3.13/site-packages/six.py = six",
    ],
];

impl Case {
    fn proof(&self) -> Proof {
        let of = |own: &[&str], at: usize| files(&[self.both, &ENVIRONMENTS[at], own].concat());
        let config = |at: usize| -> Execution {
            let value = &self.configs[at];
            if value.is_null() { Execution::default() } else { serde_json::from_value(value.clone()).unwrap() }
        };
        let mut known = Known::default();
        known.dropped.extend(self.dropped.iter().map(|name| (*name).to_owned()));
        for (name, text) in self.left_out {
            known.left_out.entry(Digest::of(text.as_bytes())).or_default().insert((*name).to_owned());
        }
        let (old, new, configs) = (of(self.old, 0), of(self.new, 1), [config(0), config(1)]);
        compare(
            ComparedImage { files: &old, config: &configs[0] },
            ComparedImage { files: &new, config: &configs[1] },
            &known,
        )
    }

    /// Checks the names and causes of all differences.
    #[track_caller]
    fn gives(&self, expected: &[(&str, Option<Cause>)]) {
        let proof = self.proof();
        let found: Vec<(&str, Option<Cause>)> =
            proof.differences.iter().map(|one| (one.name.as_str(), one.cause)).collect();
        assert_eq!(found, expected, "{proof}");
    }
}

/// Files of the old image alone, with the cause of each.
#[track_caller]
fn only_old(old: &'static [&'static str], expected: &[(&str, Option<Cause>)]) {
    Case { old, ..Case::default() }.gives(expected);
}

#[test]
fn the_same_packages_at_another_place_are_equal() {
    let proof = Case::default().proof();
    assert_eq!(proof.differences, []);
    assert_eq!(proof.equal, [(ImagePart::Distribution, 1), (ImagePart::Setting, 2)].into());
}

#[test]
fn paths_have_causes() {
    use Cause::{Bytecode, Cache, Container, Installer, Log, MachineId, PackageState};
    only_old(
        &["a/__pycache__/", "a/__pycache__/x.pyc = 1"],
        &[("/a/__pycache__", Some(Bytecode)), ("/a/__pycache__/x.pyc", Some(Bytecode))],
    );
    only_old(
        &["srv/.cache/", "srv/.cache/pip/", "srv/.cache/pip/x = 1"],
        &[("/srv/.cache", Some(Cache)), ("/srv/.cache/pip", Some(Cache)), ("/srv/.cache/pip/x", Some(Cache))],
    );
    only_old(&["var/cache/apt/x = 1", "tmp/x = 1"], &[("/tmp/x", Some(Cache)), ("/var/cache/apt/x", Some(Cache))]);
    only_old(
        &["var/log/apt/", "var/log/apt/history.log = 1"],
        &[("/var/log/apt", Some(Log)), ("/var/log/apt/history.log", Some(Log))],
    );
    only_old(
        &["var/lib/apt/lists/x = 1", "var/lib/dpkg/lock = "],
        &[("/var/lib/apt/lists/x", Some(PackageState)), ("/var/lib/dpkg/lock", Some(PackageState))],
    );
    only_old(
        &["etc/machine-id = 1", "etc/resolv.conf = 1"],
        &[("/etc/machine-id", Some(MachineId)), ("/etc/resolv.conf", Some(Container))],
    );
    only_old(
        &["usr/local/bin/uv = 1", "usr/local/bin/tool = 1"],
        &[("/usr/local/bin/tool", None), ("/usr/local/bin/uv", Some(Installer))],
    );
}

#[test]
fn what_no_cause_covers_is_unexplained() {
    only_old(&["srv/data/", "srv/data/x = 1"], &[("/srv/data", None), ("/srv/data/x", None)]);
    only_old(&["srv/empty/"], &[("/srv/empty", None)]);
    let case = Case { old: &["data/ @1000:1000", "run.sh = 1"], new: &["data/", "run.sh = 2"], ..Case::default() };
    case.gives(&[("/data", None), ("/run.sh", None)]);
    // What only the new image has is in no cache of the old one.
    Case { new: &["tmp/x = 1", "usr/bin/uv = 1"], ..Case::default() }.gives(&[("/tmp/x", None), ("/usr/bin/uv", None)]);
    let proof = Case { old: &["data/ @1000:1000"], new: &["data/"], ..Case::default() }.proof();
    let said = proof.unexplained().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(said, ["`/data`: old folder, mode 0755, owner 1000:1000, new folder, mode 0755, owner 0:0"]);
}

#[test]
fn a_folder_is_explained_by_what_is_in_it() {
    let left_out = &[("README.md", "hello")];
    let old = &["app/docs/", "app/docs/README.md = hello"];
    let cause = Some(Cause::LeftOut);
    Case { old, left_out, ..Case::default() }.gives(&[("/app/docs", cause), ("/app/docs/README.md", cause)]);
    // The same name with another text, and the same text under another name.
    let old = &["app/README.md = other", "app/x = hello"];
    Case { old, left_out, ..Case::default() }.gives(&[("/app/README.md", None), ("/app/x", None)]);
    Case { new: &["opt/", "opt/venv/"], ..Case::default() }.gives(&[("/opt", Some(Cause::Environment))]);
}

#[test]
fn dropped_debian_packages_explain_their_files_and_what_they_depend_on() {
    let status = "var/lib/dpkg/status = Package: gcc\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nDepends: binutils (>= 2)\n\n\
                  Package: binutils\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n\n\
                  Package: libpq5\nStatus: install ok installed\nArchitecture: all\nVersion: 3\n";
    let old: &'static [&'static str] = vec![
        status,
        "var/lib/dpkg/info/gcc.list = /.\n/usr/bin/gcc\n",
        "var/lib/dpkg/info/binutils.list = /usr/bin/ld\n",
        "var/lib/dpkg/info/libpq5:amd64.list = /usr/lib/libpq.so\n",
        "usr/bin/gcc = 1",
        "usr/bin/ld = 1",
        "usr/lib/libpq.so = 1",
        "usr/bin/cc -> /etc/alternatives/cc",
        "etc/alternatives/cc -> /usr/bin/gcc",
        "usr/bin/other -> /etc/other",
    ]
    .leak();
    let (dropped, state) = (Some(Cause::Dropped), Some(Cause::PackageState));
    Case { old, dropped: &["gcc"], ..Case::default() }.gives(&[
        ("binutils", dropped),
        ("gcc", dropped),
        ("libpq5", None),
        ("/etc/alternatives/cc", dropped),
        ("/usr/bin/cc", dropped),
        ("/usr/bin/gcc", dropped),
        ("/usr/bin/ld", dropped),
        ("/usr/bin/other", None),
        ("/usr/lib/libpq.so", None),
        ("/var/lib/dpkg/info/binutils.list", state),
        ("/var/lib/dpkg/info/gcc.list", state),
        ("/var/lib/dpkg/info/libpq5:amd64.list", state),
        ("/var/lib/dpkg/status", state),
    ]);
}

#[test]
fn accounts_are_compared_by_numbers_homes_and_members() {
    let new = &[
        "etc/passwd = root:x:0:0:root:/root:/bin/sh\nshop:x:1000:1000:shop:/users/shop:/usr/sbin/nologin\n",
        "etc/group = users:x:100:\nshop:x:1000:\n",
    ];
    let old = &[
        "etc/passwd = shop:x:1000:1000::/users/shop:/bin/bash\nroot:x:0:0:root:/root:/bin/bash\n",
        "etc/group = users:x:100:shop\nshop:x:1000:\n",
        "etc/shadow = shop:!:1::::::\n",
    ];
    let cause = Some(Cause::Accounts);
    Case { old, new, ..Case::default() }.gives(&[
        ("/etc/group", cause),
        ("/etc/passwd", cause),
        ("/etc/shadow", cause),
    ]);
    let old = &[
        "etc/passwd = root:x:0:0:root:/root:/bin/sh\nshop:x:999:1000:shop:/users/shop:/usr/sbin/nologin\n",
        "etc/group = users:x:100:\nshop:x:1000:\n",
    ];
    Case { old, new, ..Case::default() }.gives(&[("/etc/passwd", None)]);
    let old = &[
        "etc/passwd = root:x:0:0:root:/root:/bin/sh\nshop:x:1000:1000:shop:/users/shop:/usr/sbin/nologin\n",
        "etc/group = users:x:100:\nshop:x:1000:shop\n",
    ];
    Case { old, new, ..Case::default() }.gives(&[("/etc/group", None)]);
}

#[test]
fn the_skeleton_of_a_home_is_the_one_of_skel() {
    let both = &["etc/passwd = shop:x:1000:1000::/users/shop:/bin/sh\n", "etc/skel/.profile = 1"];
    let old = &["users/shop/.profile = 1", "users/shop/.bashrc = 2"];
    Case { both, old, ..Case::default() }
        .gives(&[("/users/shop/.bashrc", None), ("/users/shop/.profile", Some(Cause::Skeleton))]);
}

#[test]
fn a_home_and_its_folder_may_be_those_that_the_base_makes() {
    let both = &["etc/passwd = shop:x:1000:1000::/users/shop:/bin/sh\n"];
    let (old, new) = (&["users/", "users/shop/ @0:1000"], &["users/ @1000:1000", "users/shop/ @1000:1000"]);
    let home = Some(Cause::Home);
    Case { both, old, new, ..Case::default() }.gives(&[("/users", home), ("/users/shop", None)]);
    let (old, new) = (&["users/ @7:7", "srv/"], &["users/ @1000:1000", "srv/ @1000:1000"]);
    Case { both, old, new, ..Case::default() }.gives(&[("/srv", None), ("/users", None)]);
}

#[test]
fn distributions_are_compared_by_version_record_and_files() {
    let at = |name: &str| -> &'static str { format!("srv/venv/lib/python3.13/site-packages/{name}").leak() };
    let case = |old: Vec<&'static str>| Case { old: old.leak(), ..Case::default() };
    // Edited after the installation: its record says otherwise.
    case(vec![at("six.py = edited")]).gives(&[("six: six.py", None)]);
    case(vec![at("six-1.dist-info/RECORD = six.py,sha256=other,1\n../../../bin/six,,\n")]).gives(&[("six", None)]);
    case(vec![at("six-1.dist-info/METADATA = Name: six\nVersion: 2\n")]).gives(&[("six", None)]);
    // Installers, and what only they require.
    let poetry = at("poetry-2.dist-info/METADATA = Name: poetry\nVersion: 2\nRequires-Dist: cleo\n");
    let cleo = at("cleo-1.dist-info/METADATA = Name: cleo\nVersion: 1\n");
    let attrs = at("attrs-1.dist-info/METADATA = Name: attrs\nVersion: 1\n");
    let cause = Some(Cause::Installer);
    case(vec![poetry, cleo, attrs]).gives(&[("attrs", None), ("cleo", cause), ("poetry", cause)]);
}

#[test]
fn programs_of_distributions_may_differ_in_their_first_line() {
    let programs = |old: &str, new: &str| {
        let line = |place: &str, text: &str| -> &'static str { format!("{place}/bin/six = {text}").leak() };
        Case { old: vec![line("srv/venv", old)].leak(), new: vec![line("opt/venv", new)].leak(), ..Case::default() }
    };
    programs("#!/srv/venv/bin/python\nsix()", "#!/opt/venv/bin/python\nsix()").gives(&[]);
    programs("#!/srv/venv/bin/python\nsix()", "#!/opt/venv/bin/python\nseven()")
        .gives(&[("six: ../../../bin/six", None)]);
}

#[track_caller]
fn setting(old: Value, new: Value, expected: &[(&str, Option<Cause>)]) {
    Case { configs: [old, new], ..Case::default() }.gives(expected);
}

#[test]
fn settings_have_causes() {
    let env = |lines: &[&str]| json!({"Env": lines});
    setting(
        env(&["PATH=/srv/venv/bin:/usr/bin", "PIP_NO_CACHE_DIR=1", "A=1"]),
        env(&["PATH=/opt/venv/bin:/usr/bin", "VIRTUAL_ENV=/opt/venv", "A=2"]),
        &[
            ("Env A", None),
            ("Env PATH", Some(Cause::Environment)),
            ("Env PIP_NO_CACHE_DIR", Some(Cause::Installer)),
            ("Env VIRTUAL_ENV", Some(Cause::Base)),
        ],
    );
    setting(env(&["PATH=/srv/venv/bin:/usr/bin"]), env(&["PATH=/opt/venv/bin:/bin"]), &[("Env PATH", None)]);
    setting(
        json!({"Cmd": ["uv", "run", "--no-sync", "serve", "x"]}),
        json!({"Cmd": ["serve", "x"]}),
        &[("Cmd", Some(Cause::Runner))],
    );
    setting(json!({"Cmd": ["serve", "x"]}), json!({"Cmd": ["serve"]}), &[("Cmd", None)]);
    setting(
        json!({"Cmd": ["/srv/venv/bin/serve"]}),
        json!({"Cmd": ["/opt/venv/bin/serve"]}),
        &[("Cmd", Some(Cause::Environment))],
    );
    setting(json!({"StopSignal": "SIGINT"}), json!({}), &[("StopSignal", None)]);
    setting(
        json!({"Volumes": {"/data": {}}}),
        json!({"Volumes": {"/other": {}}}),
        &[("Volumes /data", None), ("Volumes /other", None)],
    );
    setting(
        json!({"Labels": {"a": "1"}}),
        json!({"Labels": {"org.opencontainers.image.source": "x"}}),
        &[("Labels a", None), ("Labels org.opencontainers.image.source", Some(Cause::Label))],
    );
}

#[test]
fn a_user_is_known_by_its_numbers() {
    let both = &["etc/passwd = shop:x:1000:1000::/users/shop:/bin/sh\n"];
    let configs = [json!({"User": "shop"}), json!({"User": "1000:1000"})];
    Case { both, configs, ..Case::default() }.gives(&[("User", Some(Cause::Accounts))]);
    let configs = [json!({"User": "shop"}), json!({"User": "1000:0"})];
    Case { both, configs, ..Case::default() }.gives(&[("User", None)]);
}

#[test]
fn a_health_check_may_ask_with_python() {
    let check = |test: &str, interval: u64| json!({"Healthcheck": {"Test": ["CMD-SHELL", test], "Interval": interval}});
    let python = |port: u16| {
        format!("python3 -c \"import urllib.request as r; r.urlopen('http://localhost:{port}/health', timeout=5)\"")
    };
    let curl = "curl --fail http://localhost:8000/health || exit 1";
    setting(check(curl, 1), check(&python(8000), 1), &[("Healthcheck", Some(Cause::HealthCheck))]);
    setting(check(curl, 1), check(&python(8001), 1), &[("Healthcheck", None)]);
    setting(check(curl, 1), check(&python(8000), 2), &[("Healthcheck", None)]);
}
