//! Locks that the real tools wrote, shortened to the wheels of one Python, and what each translates into.

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

const UV: &str = include_str!("fixtures/uv.lock");
const UV_PROJECT: &str = include_str!("fixtures/uv.pyproject.toml");
const PYLOCK: &str = include_str!("fixtures/pylock.toml");
const POETRY: &str = include_str!("fixtures/poetry.lock");
const POETRY_PROJECT: &str = include_str!("fixtures/poetry.pyproject.toml");
const PIPFILE_LOCK: &str = include_str!("fixtures/Pipfile.lock");
const PIPFILE: &str = include_str!("fixtures/Pipfile");

struct Case<'a> {
    lock: &'a str,
    text: &'a str,
    source: Option<&'a str>,
    selection: Selection,
    platforms: Vec<Platform>,
    pythons: BTreeSet<String>,
}

impl<'a> Case<'a> {
    fn new(lock: &'a str, text: &'a str, source: Option<&'a str>) -> Self {
        let platforms = ["linux/amd64", "linux/arm64"].iter().map(|name| name.parse().unwrap()).collect();
        let pythons = ["3.11", "3.12"].iter().map(|name| (*name).to_owned()).collect();
        Self { lock, text, source, selection: Selection::default(), platforms, pythons }
    }

    fn groups(mut self, names: &[&str]) -> Self {
        self.selection.groups = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn extras(mut self, names: &[&str]) -> Self {
        self.selection.extras = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn members(mut self, names: &[&str]) -> Self {
        self.selection.members = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn python(mut self, python: &str, platform: &str) -> Self {
        (self.pythons, self.platforms) = (BTreeSet::from([python.to_owned()]), vec![platform.parse().unwrap()]);
        self
    }

    fn with<T>(&self, work: impl FnOnce(&LockInput<'_>) -> T) -> T {
        work(&LockInput {
            path: Path::new(self.lock),
            text: self.text,
            selection: &self.selection,
            source: self.source,
            targets: Targets { platforms: &self.platforms, pythons: &self.pythons },
        })
    }

    #[track_caller]
    fn read(&self) -> TranslatedLock {
        self.with(translate).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// The pins, what is asked for, and what is left out.
    #[track_caller]
    fn gives(&self, expected: &Expect) {
        let TranslatedLock { lock, asked, local } = self.read();
        let mut text: String = lock
            .packages
            .iter()
            .map(|package| {
                let extras: Vec<&str> = package.extras.iter().map(String::as_str).collect();
                let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
                let marker = package.marker.as_ref().map(|marker| format!(" ; {marker}")).unwrap_or_default();
                format!("{}{extras}=={}{marker}\n", package.name, package.version)
            })
            .collect();
        let listed = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(" ") };
        let _ = writeln!(text, "asked: {}", listed(asked.names().into_iter().map(str::to_owned).collect()));
        let _ = writeln!(text, "local: {}", listed(local.into_iter().collect()));
        let _ = writeln!(text, "python: {}", lock.python);
        expected.assert_eq(&text);
        // What engines install from is the same lock.
        let printed = printed(&lock, Path::new(self.lock));
        let again = Lock::parse(Path::new("packages.lock"), &printed.replace(&lock.python, ">=3")).unwrap();
        assert_eq!(again.packages, lock.packages);
        assert_eq!(again.meaning(), lock.meaning());
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        let fault = self.with(translate).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }

    #[track_caller]
    fn is_stale(&self, why: &str) {
        let causes = self.with(|input| stale(input, &mut |_| self.source.map(str::to_owned))).unwrap();
        match why {
            "" => assert_eq!(causes, Vec::<String>::new()),
            why => assert!(causes.iter().any(|cause| cause.contains(why)), "{causes:?}"),
        }
    }
}

#[test]
fn a_lock_of_uv_gives_what_uv_exports() {
    Case::new("uv.lock", UV, Some(UV_PROJECT)).gives(&expect![[r#"
        anyio==4.16.0
        async-timeout==5.0.1 ; python_full_version < '3.11.3'
        blinker==1.9.0
        click==8.5.1
        flask==3.1.3
        greenlet==3.5.6 ; platform_machine == 'x86_64'
        h11==0.16.0
        httptools==0.9.0
        humanize==4.17.0
        idna==3.20
        itsdangerous==2.2.0
        jinja2==3.1.6
        markupsafe==3.0.4
        python-dotenv==1.2.4
        pyyaml==6.0.4
        redis==8.1.0
        typing-extensions==4.16.0
        uvicorn[standard]==0.54.0
        uvloop==0.23.0
        watchfiles==1.3.0
        websockets==17.4
        werkzeug==3.1.9
        asked: flask greenlet humanize redis uvicorn
        local: lib
        python: >=3.11
    "#]]);
    Case::new("uv.lock", UV, None).extras(&["postgres"]).groups(&["lint"]).python("3.12", "linux/arm64").gives(
        &expect![[r#"
            anyio==4.16.0
            asn1crypto==1.5.1
            blinker==1.9.0
            click==8.5.1
            flask==3.1.3
            h11==0.16.0
            httptools==0.9.0
            humanize==4.17.0
            idna==3.20
            isort==9.0.2
            itsdangerous==2.2.0
            jinja2==3.1.6
            markupsafe==3.0.4
            mypy-extensions==1.2.0
            pg8000==1.31.6
            python-dateutil==4.0.0
            python-dotenv==1.2.4
            pyyaml==6.0.4
            redis==8.1.0
            scramp==1.5.0
            typing-extensions==4.16.0
            tzdata==2026.6
            uvicorn[standard]==0.54.0
            uvloop==0.23.0
            watchfiles==1.3.0
            websockets==17.4
            werkzeug==3.1.9
            asked: flask humanize isort pg8000 redis uvicorn
            local: lib
            python: >=3.11
        "#]],
    );
    Case::new("uv.lock", UV, None).members(&["api"]).gives(&expect![[r#"
        anyio==4.16.0
        humanize==4.17.0
        idna==3.20
        starlette==1.10.0
        typing-extensions==4.16.0
        asked: humanize starlette
        local: lib
        python: >=3.11
    "#]]);
}

#[test]
fn a_pylock_gives_what_its_markers_say() {
    Case::new("deploy/pylock.web.toml", PYLOCK, None).python("3.11", "linux/amd64").gives(&expect![[r#"
        anyio==4.16.0
        asn1crypto==1.5.1
        async-timeout==5.0.1 ; python_full_version < '3.11.3'
        blinker==1.9.0
        click==8.5.1
        flask==3.1.3
        greenlet==3.5.6
        h11==0.16.0
        httptools==0.9.0
        humanize==4.17.0
        idna==3.20
        iniconfig==2.3.1
        isort==9.0.2
        itsdangerous==2.2.0
        jinja2==3.1.6
        markupsafe==3.0.4
        mypy-extensions==1.2.0
        packaging==26.4
        pg8000==1.31.6
        pluggy==1.7.0
        pygments==2.21.0
        pytest==9.2.0
        python-dateutil==4.0.0
        python-dotenv==1.2.4
        pyyaml==6.0.4
        redis==8.1.0
        scramp==1.5.0
        typing-extensions==4.16.0
        tzdata==2026.6
        uvicorn==0.54.0
        uvloop==0.23.0
        watchfiles==1.3.0
        websockets==17.4
        werkzeug==3.1.9
        asked: -
        local: lib
        python: >=3.11
    "#]]);
}

#[test]
fn extras_and_groups_of_a_pylock_are_selected() {
    let text = r#"
lock-version = "1.0"
created-by = "pdm"
requires-python = ">=3.11"
extras = ["web"]
dependency-groups = ["dev", "main"]
default-groups = ["main"]
[[packages]]
name = "a"
version = "1"
marker = "'main' in dependency_groups"
wheels = [{ name = "a-1-py3-none-any.whl", url = "https://h/a-1-py3-none-any.whl", hashes = { sha256 = "00" } }]
[[packages]]
name = "b"
version = "1"
marker = "'web' in extras and sys_platform != 'win32'"
sdist = { url = "https://h/b-1.tar.gz", hashes = { sha256 = "00" } }
[[packages]]
name = "c"
version = "1"
marker = "'dev' in dependency_groups"
archive = { url = "https://u:p@h/c-1-py3-none-any.whl", hashes = { sha256 = "00" } }
[[packages]]
name = "own"
directory = { path = ".", editable = true }
"#
    .replace("\"00\"", &format!("\"{}\"", "0".repeat(64)));
    let names = |case: Case<'_>| -> Vec<String> {
        case.read().lock.packages.into_iter().map(|package| package.url.unwrap_or(package.name)).collect()
    };
    assert_eq!(names(Case::new("pylock.toml", &text, None)), ["a"]);
    assert_eq!(names(Case::new("pylock.toml", &text, None).extras(&["web"])), ["a", "b"]);
    assert_eq!(names(Case::new("pylock.toml", &text, None).groups(&["dev"])), ["a", "https://h/c-1-py3-none-any.whl"]);
    let case = Case::new("pylock.toml", &text, None).extras(&["web"]).python("3.12", "linux/amd64");
    let found = case.read();
    assert_eq!(found.local, BTreeSet::from(["own".to_owned()]));
    let lock = found.lock;
    assert_eq!(lock.records.without_wheel(&lock.packages[1]).collect::<Vec<_>>(), ["linux/amd64 3.12"]);
    assert_eq!(lock.records.without_wheel(&lock.packages[0]).count(), 0);
    Case::new("pylock.toml", &text, None).extras(&["wev"]).refused("it has `web`");
    Case::new("pylock.toml", &text.replace("1.0", "2.0"), None).refused("version 2.0");
}

#[test]
fn a_lock_of_poetry_gives_its_groups() {
    Case::new("poetry.lock", POETRY, Some(POETRY_PROJECT)).gives(&expect![[r#"
        anyio==4.16.0
        async-timeout==5.0.1 ; python_full_version < '3.11.3'
        blinker==1.9.0
        click==8.5.1
        flask==3.1.3
        h11==0.16.0
        httptools==0.9.0
        idna==3.20
        itsdangerous==2.2.0
        jinja2==3.1.6
        markupsafe==3.0.4
        msgpack==1.2.4 ; platform_machine == 'x86_64'
        python-dotenv==1.2.4
        pyyaml==6.0.4
        redis==8.1.0
        typing-extensions==4.16.0
        uvicorn==0.54.0
        uvloop==0.23.0
        watchfiles==1.3.0
        websockets==17.4
        werkzeug==3.1.9
        asked: flask msgpack redis uvicorn
        local: -
        python: >=3.11,<4
    "#]]);
    Case::new("poetry.lock", POETRY, Some(POETRY_PROJECT))
        .extras(&["postgres"])
        .groups(&["docs"])
        .python("3.12", "linux/amd64")
        .gives(&expect![[r#"
            anyio==4.16.0
            asn1crypto==1.5.1
            blinker==1.9.0
            click==8.5.1
            flask==3.1.3
            h11==0.16.0
            httptools==0.9.0
            idna==3.20
            itsdangerous==2.2.0
            jinja2==3.1.6
            markupsafe==3.0.4
            mistune==3.4.0
            msgpack==1.2.4
            pg8000==1.31.6
            python-dateutil==4.0.0
            python-dotenv==1.2.4
            pyyaml==6.0.4
            redis==8.1.0
            scramp==1.5.0
            typing-extensions==4.16.0
            tzdata==2026.6
            uvicorn==0.54.0
            uvloop==0.23.0
            watchfiles==1.3.0
            websockets==17.4
            werkzeug==3.1.9
            asked: flask mistune msgpack pg8000 redis uvicorn
            local: -
            python: >=3.11,<4
        "#]]);
}

/// Before version 2.1 of the format, groups and markers follow from `pyproject.toml`.
#[test]
fn an_older_lock_of_poetry_gives_the_same() {
    let older: String = POETRY
        .lines()
        .filter(|line| !line.starts_with("groups = ") && !line.starts_with("markers = "))
        .map(|line| format!("{line}\n"))
        .collect();
    for (extras, groups) in [(&[][..], &[][..]), (&["postgres"], &["dev"]), (&[], &["docs", "dev"])] {
        let of = |text| Case::new("poetry.lock", text, Some(POETRY_PROJECT)).extras(extras).groups(groups).read().lock;
        let pins = |lock: Lock| -> BTreeSet<(String, Option<String>)> {
            lock.packages.into_iter().map(|package| (package.name, package.marker)).collect()
        };
        assert_eq!(pins(of(&older)), pins(of(POETRY)));
    }
    Case::new("poetry.lock", &older, None).refused("in `pyproject.toml` alone");
}

#[test]
fn a_lock_of_pipenv_gives_its_categories() {
    Case::new("Pipfile.lock", PIPFILE_LOCK, Some(PIPFILE)).groups(&["docs"]).python("3.11", "linux/arm64").gives(
        &expect![[r#"
            anyio==4.16.0
            blinker==1.9.0
            click==8.5.1
            flask==3.1.3
            h11==0.16.0
            httptools==0.9.0
            idna==3.20
            itsdangerous==2.2.0
            jinja2==3.1.6
            markupsafe==3.0.4
            mistune==3.4.0
            python-dotenv==1.2.4
            pyyaml==6.0.4
            redis==8.1.0
            typing-extensions==4.16.0
            uvicorn[standard]==0.54.0
            uvloop==0.23.0
            watchfiles==1.3.0
            websockets==17.4
            werkzeug==3.1.9
            asked: flask mistune redis uvicorn
            local: -
            python: ==3.11.*
        "#]],
    );
}

#[test]
fn names_that_a_lock_does_not_have_are_refused_with_those_that_it_has() {
    Case::new("uv.lock", UV, None).groups(&["test"]).refused("it has `dev`, `lint`");
    Case::new("uv.lock", UV, None).extras(&["mysql"]).refused("it has `postgres`");
    Case::new("uv.lock", UV, None).members(&["web"]).refused("it has `api`, `lib`, `shop`");
    Case::new("poetry.lock", POETRY, Some(POETRY_PROJECT)).groups(&["test"]).refused("it has `dev`, `docs`");
    Case::new("poetry.lock", POETRY, Some(POETRY_PROJECT)).extras(&["mysql"]).refused("it has `postgres`");
    Case::new("Pipfile.lock", PIPFILE_LOCK, Some(PIPFILE)).groups(&["test"]).refused("it has `develop`, `docs`");
}

#[test]
fn invalid_locks_are_refused_with_a_way_out() {
    Case::new("uv.lock", "version = 2", None).refused("it has version 2 of its format");
    Case::new("uv.lock", "<<<<<<< HEAD\n", None).refused("write it again: `uv lock`");
    Case::new("poetry.lock", "x", None).refused("write it again: `poetry lock`");
    Case::new("poetry.lock", "[metadata]\nlock-version = \"3.0\"", None).refused("version 3.0");
    Case::new("Pipfile.lock", "{}", None).refused("write it again: `pipenv lock`");
    let broken = UV.replacen("name = \"blinker\"", "name = \"blinkr\"", 1);
    Case::new("uv.lock", &broken, None).refused("it has no such package");
    let unhashed = UV.replace(", hash = \"sha256:", ", x = \"");
    Case::new("uv.lock", &unhashed, None).refused("`anyio` has no `sha256` hash");
    let git = UV.replacen(
        "version = \"1.9.0\"\nsource = { registry = \"https://index.example/simple\" }",
        "version = \"1.9.0\"\nsource = { git = \"https://t@h/blinker?rev=1#0123\" }",
        1,
    );
    Case::new("uv.lock", &git, None)
        .refused("`blinker` is a checkout (`https://h/blinker`) that does not name a commit");
}

#[test]
fn checkouts_of_a_commit_are_built() {
    let commit = "0a".repeat(20);
    let of_uv = UV.replacen(
        "version = \"1.9.0\"\nsource = { registry = \"https://index.example/simple\" }",
        &format!("version = \"1.9.0\"\nsource = {{ git = \"https://t@h/blinker?subdirectory=py&rev=1#{commit}\" }}"),
        1,
    );
    let pylock = format!(
        "lock-version = '1.0'\nrequires-python = '>=3.12'\n[[packages]]\nname = 'blinker'\nversion = '1.9.0'\n[packages.vcs]\ntype = 'git'\n\
         url = 'https://h/blinker'\ncommit-id = '{commit}'\nsubdirectory = 'py'\n"
    );
    for (name, text) in [("uv.lock", &of_uv), ("pylock.toml", &pylock)] {
        let lock = Case::new(name, text, None).read().lock;
        let found = lock.packages.iter().find(|package| package.name == "blinker").unwrap();
        assert_eq!(found.url.as_deref(), Some(&*format!("git+https://h/blinker@{commit}#subdirectory=py")), "{name}");
        assert_eq!(found.hashes, BTreeSet::from([format!("git:{commit}")]), "{name}");
        assert!(lock.records.without_wheel(found).next().is_some(), "{name}");
        let back = Lock::parse(Path::new("a"), &printed(&lock, Path::new(name))).unwrap();
        let back = back.packages.iter().find(|package| package.name == "blinker").unwrap();
        assert_eq!((&back.url, &back.hashes), (&found.url, &found.hashes), "{name}");
    }
}

#[test]
fn other_sources_of_uv_are_kept() {
    let replaced = |source: &str| UV.replacen("source = { registry = \"https://index.example/simple\" }", source, 1);
    let url = replaced("source = { url = \"https://u:p@h/anyio-4.16.0-py3-none-any.whl\" }");
    let found = Case::new("uv.lock", &url, None).read();
    assert_eq!(found.lock.packages[0].url.as_deref(), Some("https://h/anyio-4.16.0-py3-none-any.whl"));
    let place = |text: &str| {
        let found = Case::new("deploy/uv.lock", text, None).read();
        found.asked.locations().iter().map(|place| format!("{place:?}")).collect::<Vec<_>>()
    };
    let index = "Locked https://index.example/simple";
    assert_eq!(place(&replaced("source = { path = \"../vendor/anyio.whl\" }")), [index, "Links deploy/../vendor"]);
    assert_eq!(place(&replaced("source = { registry = \"wheels\" }")), [index, "Links deploy/wheels"]);
    assert_eq!(place(&replaced("source = { registry = \"https://h/cpu\" }")), ["Locked https://h/cpu", index]);
}

#[test]
fn a_change_of_what_a_lock_is_made_from_is_noticed() {
    let uv = |text: &str, why: &str| Case::new("uv.lock", UV, Some(text)).is_stale(why);
    uv(UV_PROJECT, "");
    uv(&UV_PROJECT.replace("# ", "## ").replace("\"flask>=3,<4\"", "\"Flask <4,>=3\""), "");
    uv(&UV_PROJECT.replace("redis>=5", "redis>=6"), "`redis>=6` of `pyproject.toml` is not in it");
    uv(&UV_PROJECT.replace("    \"redis>=5\",\n", ""), "`redis>=5` of `pyproject.toml`, where it is gone");
    uv(&UV_PROJECT.replace("pg8000>=1.30", "psycopg"), "`psycopg` in `extra:postgres`");
    uv(&UV_PROJECT.replace("lint = [\"isort\"]", "lint = [\"ruff\"]"), "`ruff` in `group:lint`");
    let poetry = |text: &str, why: &str| Case::new("poetry.lock", POETRY, Some(text)).is_stale(why);
    poetry(POETRY_PROJECT, "");
    poetry(&POETRY_PROJECT.replace("A shop", "Another shop"), "");
    poetry(&POETRY_PROJECT.replace("redis = \">=5\"", "redis = \">=6\""), "changed after it was written");
    let pipfile = |text: &str, why: &str| Case::new("Pipfile.lock", PIPFILE_LOCK, Some(text)).is_stale(why);
    pipfile(PIPFILE, "");
    pipfile(&format!("{PIPFILE}\n[scripts]\nrun = \"x\"\n"), "");
    pipfile(&PIPFILE.replace("redis = \">=5\"", "redis = \">=6\""), "the `Pipfile` changed");
}

#[test]
fn what_is_for_development_alone_changes_nothing() {
    let meaning = |text: &str| Case::new("uv.lock", text, None).read().lock.meaning();
    let newer = UV.replacen("name = \"pytest\"\nversion = \"", "name = \"pytest\"\nversion = \"1", 1);
    assert_ne!(newer, UV);
    assert_eq!(meaning(&newer), meaning(UV));
    let newer = UV.replacen("name = \"flask\"\nversion = \"3.1.3\"", "name = \"flask\"\nversion = \"3.1.4\"", 1);
    let changes: Vec<String> =
        crate::spec::lock::diff(&meaning(UV), &meaning(&newer)).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["flask 3.1.3 -> 3.1.4"]);
}

#[test]
fn conflicting_extras_select_their_own_packages() {
    let hash = "0".repeat(64);
    let package = |version: &str| {
        format!(
            "[[package]]\nname = \"torch\"\nversion = \"{version}\"\nsource = {{ registry = \"https://h/simple\" }}\n\
             wheels = [{{ url = \"https://h/torch-{version}-py3-none-any.whl\", hash = \"sha256:{hash}\" }}]\n"
        )
    };
    let edge = |version: &str, extra: &str| {
        format!(
            "{extra} = [{{ name = \"torch\", version = \"{version}\", marker = \"extra == 'extra-4-shop-{extra}'\" }}]\n"
        )
    };
    let text = format!(
        "version = 1\nrequires-python = \">=3.11\"\n[[package]]\nname = \"shop\"\nversion = \"1\"\n\
         source = {{ editable = \".\" }}\n[package.optional-dependencies]\n{}{}{}{}",
        edge("2.0+cpu", "cpu"),
        edge("2.0", "gpu"),
        package("2.0"),
        package("2.0+cpu")
    );
    let of = |extra: &str| Case::new("uv.lock", &text, None).extras(&[extra]).read().lock.packages[0].version.clone();
    assert_eq!([of("cpu"), of("gpu")], ["2.0+cpu", "2.0"]);
    assert!(Case::new("uv.lock", &text, None).read().lock.packages.is_empty());
}

#[test]
fn nothing_of_a_lock_becomes_another_line() {
    let of = |from: &str, to: &str| Case::new("poetry.lock", &POETRY.replacen(from, to, 1), None).refused_text();
    let injected = "version = \"4.16.0\\n--index-url https://h\"";
    assert!(of("version = \"4.16.0\"", injected).contains("has no valid version"));
    assert!(of("name = \"anyio\"", "name = \"anyio x\"").contains("is not the name of a distribution"));
    assert!(of("hash = \"sha256:", "hash = \"sha256:\\n").contains("has an invalid hash"));
}

impl Case<'_> {
    #[track_caller]
    fn refused_text(&self) -> String {
        self.with(translate).unwrap_err().to_string()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged locks end in an error, or in a lock that can be printed and read.
    #[test]
    fn no_damage_ends_a_reader(which in 0..4usize, at in 0.0..1.0f64, length in 0..40usize, put in "[ a-z=\"'\\[\\]{}\\n:,0-9.]{0,8}") {
        let (name, text) = [("uv.lock", UV), ("pylock.toml", PYLOCK), ("poetry.lock", POETRY), ("Pipfile.lock", PIPFILE_LOCK)][which];
        let from = (at * text.len() as f64) as usize;
        let (from, to) = (text.floor_char_boundary(from), text.floor_char_boundary((from + length).min(text.len())));
        let damaged = format!("{}{put}{}", &text[..from], &text[to..]);
        let case = Case::new(name, &damaged, None);
        if let Ok(TranslatedLock { lock, .. }) = case.with(translate) {
            let printed = printed(&lock, Path::new(name));
            let head = printed.lines().filter(|line| line.starts_with('#')).count();
            let body: String = printed.lines().skip(head).map(|line| format!("{line}\n")).collect();
            let digest = lock.requirements;
            let again = format!("# requirements: {digest}\n# python: >=3\n# resolver: x\n{body}");
            prop_assert_eq!(Lock::parse(Path::new("p.lock"), &again).unwrap().packages, lock.packages);
        }
    }
}
