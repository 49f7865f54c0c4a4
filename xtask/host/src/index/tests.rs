//! The client against an index on loopback that misbehaves on request, and against uv.

use super::*;
use crate::http::Limits;
use crate::tree::uv;
use fault_proxy::{Answer, FaultProxy, Mishap, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask_model::fault::Exit;
use xtask_model::spec::requirements::Requirements;

#[path = "../../../tests/support/fault_proxy.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod fault_proxy;

/// A file of the index. Its bytes are its name, repeated.
#[derive(Clone, Default)]
struct Wheel {
    name: String,
    /// Left out of the page.
    hashless: bool,
    requires: Option<&'static str>,
    yanked: Option<&'static str>,
    /// The size that the page states instead of the right one.
    size: Option<u64>,
}

impl Wheel {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn bytes(&self) -> Vec<u8> {
        self.name.repeat(20_000 / self.name.len()).into_bytes()
    }

    fn hash(&self) -> String {
        Digest::of(&self.bytes()).hex()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Json,
    Html,
}

/// An index whose projects have these files; it knows ranges.
fn index(format: Format, projects: &[(&str, &[Wheel])]) -> FaultProxy {
    serve(FaultProxy::alone(), format, projects)
}

fn serve(server: FaultProxy, format: Format, projects: &[(&str, &[Wheel])]) -> FaultProxy {
    for (project, wheels) in projects {
        let mut json = Vec::new();
        let mut html = "<!DOCTYPE html><html><body>".to_owned();
        for wheel in *wheels {
            let mut hashes = BTreeMap::new();
            if !wheel.hashless {
                hashes.insert("sha256", wheel.hash());
            }
            let yanked = wheel.yanked.map_or(serde_json::Value::Bool(false), Into::into);
            json.push(serde_json::json!({
                "filename": wheel.name, "url": format!("../../files/{}", wheel.name), "hashes": hashes,
                "requires-python": wheel.requires, "yanked": yanked, "core-metadata": true,
                "size": wheel.size.unwrap_or(wheel.bytes().len() as u64),
            }));
            let fragment = if wheel.hashless { String::new() } else { format!("#sha256={}", wheel.hash()) };
            let requires = wheel.requires.map_or_else(String::new, |text| {
                format!(" data-requires-python=\"{}\"", text.replace('>', "&gt;").replace('<', "&lt;"))
            });
            let yanked = wheel.yanked.map_or_else(String::new, |text| format!(" data-yanked=\"{text}\""));
            write!(html, "<a href=\"../../files/{0}{fragment}\"{requires}{yanked}>{0}</a><br>", wheel.name).unwrap();
            let (bytes, length) = (wheel.bytes(), wheel.bytes().len());
            let name = wheel.name.split('-').next().unwrap().to_owned();
            let version = wheel.name.split('-').nth(1).unwrap().to_owned();
            server.reply("GET", &format!("/files/{}.metadata", wheel.name), move |_| {
                Answer::new(200).body(format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"))
            });
            server.reply("GET", &format!("/files/{}", wheel.name), move |request: &Request| {
                let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
                match from.map(|from| from.parse::<usize>().unwrap()) {
                    Some(from) if from >= length => Answer::new(416),
                    Some(from) => Answer::new(206)
                        .header("content-range", format!("bytes {from}-{}/{length}", length - 1))
                        .body(&bytes[from..]),
                    None => Answer::new(200).body(bytes.clone()),
                }
            });
        }
        let page = serde_json::json!({"meta": {"api-version": "1.1"}, "name": project, "files": json}).to_string();
        server.reply("GET", &format!("/simple/{project}/"), move |_| match format {
            Format::Json => {
                Answer::new(200).header("content-type", "application/vnd.pypi.simple.v1+json").body(page.clone())
            }
            Format::Html => Answer::new(200).header("content-type", "text/html; charset=utf-8").body(html.clone()),
        });
    }
    server
}

fn locked(name: &str, version: &str, wheels: &[Wheel]) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: version.to_owned(),
        extras: BTreeSet::new(),
        marker: None,
        url: None,
        hashes: wheels.iter().map(|wheel| format!("sha256:{}", wheel.hash())).collect(),
    }
}

/// A machine with these variables and a cache of its own.
struct Machine {
    cache: tempfile::TempDir,
    indexes: Indexes,
    settings: Settings,
}

impl Machine {
    fn new(variables: &[(&str, &str)]) -> Self {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let gathered = Indexes::gather(Path::new("/"), &Requirements::default(), &variable, &mut |_| None);
        let limits = Limits { tries: 3, backoff: Duration::from_millis(1), ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        Self { cache: tempfile::tempdir().unwrap(), indexes: gathered.unwrap(), settings }
    }

    fn of(server: &FaultProxy) -> Self {
        Self::new(&[("UV_DEFAULT_INDEX", &format!("http://{}/simple", server.host()))])
    }

    fn fetched(&self, packages: &[LockedPackage]) -> Result<Fetched, Fault> {
        let request = WheelRequest {
            packages,
            indexes: &self.indexes,
            python: "3.13.5",
            platform: &"linux/amd64".parse().unwrap(),
            glibc: "2_36",
        };
        fetch_with(&request, &self.settings, &Cache::at(self.cache.path()))
    }

    fn wheels(&self, packages: &[LockedPackage]) -> Vec<FetchedWheel> {
        match self.fetched(packages).unwrap() {
            Fetched::Wheels(wheels) => wheels,
            Fetched::Unsupported(why) => panic!("{why}"),
        }
    }

    fn fault(&self, packages: &[LockedPackage]) -> Fault {
        self.fetched(packages).unwrap_err()
    }
}

const ANY: &str = "a-1.0-py3-none-any.whl";

#[test]
fn wheels_are_fetched_once_from_pages_of_both_formats() {
    for format in [Format::Json, Format::Html] {
        let a = [Wheel::of("a-1.0-py3-none-any.whl"), Wheel::of("a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl")];
        let b = [Wheel::of("b_c-2-py3-none-any.whl")];
        let server = index(format, &[("a", &a), ("b-c", &b)]);
        let machine = Machine::of(&server);
        let packages = [locked("b-c", "2", &b), locked("a", "1.0", &a)];
        let wheels = machine.wheels(&packages);
        let names: Vec<&str> = wheels.iter().map(|wheel| wheel.filename.as_str()).collect();
        assert_eq!(names, [b[0].name.as_str(), a[1].name.as_str()], "in the order of the packages");
        assert_eq!(std::fs::read(&wheels[1].path).unwrap(), a[1].bytes());
        let before = server.seen().len();
        assert_eq!(machine.wheels(&packages), wheels);
        assert_eq!(server.seen().len(), before, "the cache answers");
        // A damaged file is not used.
        std::fs::write(&wheels[1].path, "no wheel").unwrap();
        assert_eq!(machine.wheels(&packages), wheels);
        assert_eq!(std::fs::read(&wheels[1].path).unwrap(), a[1].bytes());
    }
}

#[track_caller]
fn fails(server: &FaultProxy, exit: Exit, what: &str, cause: &str) -> Fault {
    let fault = Machine::of(server).fault(&[locked("a", "1.0", &[Wheel::of(ANY)])]);
    assert_eq!(fault.exit, exit, "{fault}");
    assert!(fault.what.contains(what), "{fault}");
    assert!(fault.causes.iter().any(|told| told.contains(cause)), "{fault}");
    fault
}

#[test]
fn each_refusal_is_a_fact_of_its_own() {
    let answers = |part: &str, answer: Answer| {
        let server = FaultProxy::alone();
        server.on("GET", part, usize::MAX, Mishap::Answer(answer));
        let wheel = Wheel::of(ANY);
        let page = format!("<a href='/files/{ANY}#sha256={}'>", wheel.hash());
        server.reply("GET", "/simple/a/", move |_| {
            Answer::new(200).header("content-type", "text/html").body(page.clone())
        });
        server
    };
    let page = |status| answers("/simple/", Answer::new(status));
    let file = |status| answers("/files/", Answer::new(status));
    fails(&page(401), Exit::Network, "the package index refuses access", "answered 401 Unauthorized");
    fails(&file(403), Exit::Network, "the package index refuses access", "answered 403 Forbidden");
    fails(&page(404), Exit::Build, "a 1.0 is not on the package index", "asked: http://127.0.0.1:");
    fails(&file(404), Exit::Network, "cannot download `a-1.0-py3-none-any.whl`", "it is on the index's page, but");
    fails(&page(429), Exit::Network, "cannot read the package index", "answered 429 Too Many Requests");
    fails(&file(503), Exit::Network, "cannot download", "gave up after 3 tries");
    fails(&page(418), Exit::Network, "cannot read the package index", "answered 418");
    let patient = Answer::new(429).header("retry-after", "3600");
    fails(&answers("/simple/", patient), Exit::Network, "cannot read", "it asks to wait 3600 s");
    let json = Answer::new(200).header("content-type", "application/vnd.pypi.simple.v1+json");
    fails(&answers("/simple/", json.clone().body("{}")), Exit::Network, "cannot read", "not a page of PEP 691");
    let newer = json.body("{\"meta\": {\"api-version\": \"2.0\"}, \"files\": []}");
    fails(&answers("/simple/", newer), Exit::Network, "cannot read", "version `2.0`");
    let other = Answer::new(200).header("content-type", "application/pdf");
    fails(&answers("/simple/", other), Exit::Network, "cannot read", "the type `application/pdf`");
    let fault = fails(
        &answers("/files/", Answer::new(200).body("other bytes")),
        Exit::Network,
        "the hash of",
        "has the digest",
    );
    assert!(fault.hints[0].contains("check what the index serves"), "{fault}");
    let unencrypted = Answer::new(302).header("location", "ftp://h/");
    fails(&answers("/simple/", unencrypted), Exit::Network, "cannot read", "redirects to no address");
}

#[test]
fn a_silent_or_missing_server_is_given_up() {
    let server = index(Format::Json, &[("a", &[Wheel::of(ANY)])]);
    let upstream = server.host().parse().unwrap();
    let slow = FaultProxy::before(upstream);
    slow.on("GET", "/files/", usize::MAX, Mishap::Delay(Duration::from_secs(5)));
    let mut machine = Machine::of(&slow);
    machine.settings.limits = Limits { idle_timeout: Duration::from_millis(100), ..machine.settings.limits };
    let began = Instant::now();
    let fault = machine.fault(&[locked("a", "1.0", &[Wheel::of(ANY)])]);
    assert!(fault.causes[0].contains("silent for"), "{fault}");
    assert!(began.elapsed() < Duration::from_secs(4));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = Machine::new(&[("UV_DEFAULT_INDEX", &format!("http://{gone}/simple"))]);
    let fault = machine.fault(&[locked("a", "1.0", &[Wheel::of(ANY)])]);
    assert!(fault.unreachable && fault.exit == Exit::Network, "{fault}");
}

#[test]
fn packages_without_a_wheel_are_reported_together() {
    let musl = [Wheel::of("a-1.0-cp313-cp313-musllinux_1_2_x86_64.whl")];
    let windows = [
        Wheel::of("b-1.0-cp313-cp313-win_amd64.whl"),
        Wheel { requires: Some(">=3.14"), ..Wheel::of("b-1.0-py3-none-any.whl") },
    ];
    let server = index(Format::Json, &[("a", &musl), ("b", &windows)]);
    let fault = Machine::of(&server).fault(&[locked("a", "1.0", &musl), locked("b", "1.0", &windows)]);
    assert_eq!(fault.exit, Exit::Usage);
    assert_eq!(fault.what, "a 1.0, b 1.0 have no wheel for linux/amd64 and Python 3.13.5");
    assert!(
        fault.causes[0].contains("the image has glibc, not musl") && fault.causes[1].contains("win_amd64"),
        "{fault}"
    );
    let fault = Machine::of(&server).fault(&[locked("b", "1.0", &[]), locked("a", "2.0", &musl)]);
    assert!(fault.what.contains("b 1.0") || fault.what == "a 2.0 is not on the package index", "{fault}");
    let other = [Wheel::of(ANY)];
    let server = index(Format::Html, &[("a", &other)]);
    let fault = Machine::of(&server).fault(&[locked("a", "1.0", &musl)]);
    assert_eq!(fault.what, "the hash of a 1.0 differs from the lock");
}

#[test]
fn a_broken_download_is_taken_up_again() {
    let wheel = Wheel::of(ANY);
    let cutting = FaultProxy::alone();
    let (bytes, length) = (wheel.bytes(), wheel.bytes().len());
    let part = |from: usize, status| {
        let answer = Answer::new(status).header("content-length", (length - from).to_string());
        let answer = answer.header("content-range", format!("bytes {from}-{}/{length}", length - 1));
        Mishap::Answer(answer.body(&bytes[from..from + 4000]))
    };
    cutting.on("GET", "/files/", 1, part(0, 200)).on("GET", "/files/", 1, part(4000, 206));
    // One that knows no ranges.
    cutting.on("GET", "/files/", 1, part(0, 200));
    let cutting = serve(cutting, Format::Json, &[("a", std::slice::from_ref(&wheel))]);
    let machine = Machine::of(&cutting);
    let wheels = machine.wheels(&[locked("a", "1.0", std::slice::from_ref(&wheel))]);
    assert_eq!(std::fs::read(&wheels[0].path).unwrap(), wheel.bytes());
    let seen = cutting.seen();
    let files = seen.iter().filter(|request| request.target.starts_with("/files/"));
    let ranges: Vec<Option<&str>> = files.map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=4000-"), Some("bytes=8000-"), Some("bytes=8000-")]);
}

#[test]
fn a_file_that_changes_while_it_is_downloaded_is_downloaded_again() {
    let wheel = Wheel::of(ANY);
    let length = wheel.bytes().len();
    let changing = |times: usize| {
        let server = FaultProxy::alone();
        for _ in 0..times {
            let cut = Answer::new(200).header("content-length", length.to_string()).header("etag", "\"a\"");
            server.on("GET", "/files/", 1, Mishap::Answer(cut.body(vec![0; 4000])));
            let rest = Answer::new(206).header("content-range", format!("bytes 4000-{}/{length}", length - 1));
            let rest = rest.header("etag", "\"b\"").body(&wheel.bytes()[4000..]);
            server.on("GET", "/files/", 1, Mishap::Answer(rest));
        }
        serve(server, Format::Json, &[("a", std::slice::from_ref(&wheel))])
    };
    let server = changing(1);
    let machine = Machine::of(&server);
    let wheels = machine.wheels(&[locked("a", "1.0", std::slice::from_ref(&wheel))]);
    assert_eq!(std::fs::read(&wheels[0].path).unwrap(), wheel.bytes());
    let seen = server.seen();
    let files = seen.iter().filter(|request| request.target.starts_with("/files/"));
    assert_eq!(files.map(|request| request.header("range")).collect::<Vec<_>>(), [None, Some("bytes=4000-"), None]);
    fails(&changing(2), Exit::Network, "the hash of", "may be of different files");
}

#[test]
fn a_wrong_size_on_the_page_does_not_matter() {
    for size in [0, 10, 1 << 40] {
        let wheel = Wheel { size: Some(size), ..Wheel::of(ANY) };
        let server = index(Format::Json, &[("a", std::slice::from_ref(&wheel))]);
        let machine = Machine::of(&server);
        let wheels = machine.wheels(&[locked("a", "1.0", std::slice::from_ref(&wheel))]);
        assert_eq!(std::fs::read(&wheels[0].path).unwrap(), wheel.bytes());
    }
}

/// Bytes that an interrupted process has left, and the ranges that are asked for then.
#[track_caller]
fn left(part: &[u8], ranges: &[Option<&str>]) {
    let wheel = Wheel::of(ANY);
    let server = index(Format::Json, &[("a", std::slice::from_ref(&wheel))]);
    let machine = Machine::of(&server);
    let url = format!("http://{}/files/{ANY}", server.host());
    let folder = machine.cache.path().join("wheels");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.part", Digest::of(url.as_bytes()).hex()));
    std::fs::write(&path, part).unwrap();
    let wheels = machine.wheels(&[locked("a", "1.0", std::slice::from_ref(&wheel))]);
    assert_eq!(std::fs::read(&wheels[0].path).unwrap(), wheel.bytes());
    assert!(!path.exists());
    let seen = server.seen();
    let files = seen.iter().filter(|request| request.target.starts_with("/files/"));
    assert_eq!(files.map(|request| request.header("range")).collect::<Vec<_>>(), ranges);
}

#[test]
fn what_an_interrupted_process_left_is_used_if_it_fits() {
    let whole = Wheel::of(ANY).bytes();
    left(&whole[..5000], &[Some("bytes=5000-")]);
    left(&whole, &[Some(&format!("bytes={}-", whole.len()))]);
    left(b"of another file", &[Some("bytes=15-"), None]);
    left(&vec![0; whole.len() + 1], &[None]);
    left(b"", &[None]);
}

#[test]
fn many_processes_download_a_file_once() {
    let wheel = Wheel::of(ANY);
    let server = index(Format::Json, &[("a", std::slice::from_ref(&wheel))]);
    let machine = Machine::of(&server);
    let package = [locked("a", "1.0", std::slice::from_ref(&wheel))];
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(machine.wheels(&package).len(), 1));
        }
    });
    assert_eq!(server.count("GET", "/files/"), 1);
}

#[test]
fn credentials_go_to_their_own_host_only() {
    let wheel = Wheel::of(ANY);
    let package = [locked("a", "1.0", std::slice::from_ref(&wheel))];
    let sent = |server: &FaultProxy| -> BTreeSet<Option<String>> {
        server.seen().iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
    };
    // `me:p@ss`.
    let basic = Some("Basic bWU6cEBzcw==".to_owned());
    let server = index(Format::Html, &[("a", std::slice::from_ref(&wheel))]);
    Machine::new(&[("UV_DEFAULT_INDEX", &format!("http://me:p%40ss@{}/simple/", server.host()))]).wheels(&package);
    assert_eq!(sent(&server), BTreeSet::from([basic.clone()]));
    // A named index has its credentials in variables.
    let server = index(Format::Html, &[("a", std::slice::from_ref(&wheel))]);
    let own = format!("own=http://{}/simple", server.host());
    Machine::new(&[("UV_INDEX", &own), ("UV_INDEX_OWN_USERNAME", "me"), ("UV_INDEX_OWN_PASSWORD", "p@ss")])
        .wheels(&package);
    assert_eq!(sent(&server), BTreeSet::from([basic.clone()]));
    // Another port is another place: files there, and redirects.
    let files = index(Format::Html, &[("a", std::slice::from_ref(&wheel))]);
    let listing = FaultProxy::alone();
    let there = format!("http://{}/simple/a/", files.host());
    listing.reply("GET", "/simple/a/", move |_| Answer::new(302).header("location", there.clone()));
    Machine::new(&[("UV_DEFAULT_INDEX", &format!("http://me:p%40ss@{}/simple", listing.host()))]).wheels(&package);
    assert_eq!((sent(&listing), sent(&files)), (BTreeSet::from([basic.clone()]), BTreeSet::from([None])));
    // The netrc file knows hosts.
    let server = index(Format::Html, &[("a", std::slice::from_ref(&wheel))]);
    let mut machine = Machine::of(&server);
    machine.settings.netrc = netrc::Netrc::parse("machine 127.0.0.1 login me password p@ss");
    machine.wheels(&package);
    assert_eq!(sent(&server), BTreeSet::from([basic]));
}

#[test]
fn what_other_installers_can_do_is_left_to_them() {
    let server = FaultProxy::alone();
    server.on("GET", "/simple/", usize::MAX, Mishap::Answer(Answer::new(401)));
    let package = [locked("a", "1.0", &[Wheel::of(ANY)])];
    let unsupported = |machine: &Machine| match machine.fetched(&package) {
        Ok(Fetched::Unsupported(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut machine = Machine::of(&server);
    machine.settings.elsewhere = Some("`UV_KEYRING_PROVIDER` names a keyring program".to_owned());
    let why = unsupported(&machine);
    assert!(why.contains("401 Unauthorized, and `UV_KEYRING_PROVIDER`"), "{why}");
    let mut machine = Machine::of(&server);
    machine.settings.offline = true;
    let asked = server.seen().len();
    assert!(machine.fault(&package).what.ends_with("must be asked, and `UV_OFFLINE` is set"));
    assert_eq!(server.seen().len(), asked);
    let mut machine = Machine::of(&server);
    machine.settings.stored = true;
    assert!(machine.fault(&package).causes[1].contains("`uv auth`"));
    assert!(unsupported(&Machine::new(&[("UV_DEFAULT_INDEX", "ssh://h/simple")])).contains("ssh"));
    let mut machine = Machine::of(&server);
    machine.settings.unsupported = Some("x".to_owned());
    assert_eq!(unsupported(&machine), "x");
}

#[test]
fn the_strategy_says_which_indexes_count() {
    let (old, new) = (Wheel::of("a-1.0-py3-none-any.whl"), Wheel::of("a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl"));
    let other = Wheel::of("a-0.9-py3-none-any.whl");
    let first = index(Format::Json, &[("a", std::slice::from_ref(&other))]);
    let second = index(Format::Json, &[("a", std::slice::from_ref(&old))]);
    let third = index(Format::Json, &[("a", std::slice::from_ref(&new))]);
    let package = [locked("a", "1.0", &[old.clone(), new.clone()])];
    let url = |server: &FaultProxy| format!("http://{}/simple", server.host());
    let extra = format!("{} {}", url(&first), url(&second));
    let machine = |strategy| {
        Machine::new(&[("UV_DEFAULT_INDEX", &url(&third)), ("UV_INDEX", &extra), ("UV_INDEX_STRATEGY", strategy)])
    };
    assert_eq!(machine("").fault(&package).what, "a 1.0 is not on the package index");
    assert_eq!(machine("unsafe-first-match").wheels(&package)[0].filename, old.name);
    assert_eq!(machine("unsafe-best-match").wheels(&package)[0].filename, new.name);
}

#[test]
fn folders_and_pages_of_links_have_wheels_too() {
    let (own, any) = (Wheel::of("a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl"), Wheel::of(ANY));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(ANY), any.bytes()).unwrap();
    let package = [locked("a", "1.0", &[own.clone(), any.clone()])];
    let path = folder.path().to_str().unwrap();
    let machine = Machine::new(&[("UV_FIND_LINKS", path), ("PIP_NO_INDEX", "1")]);
    let wheels = machine.wheels(&package);
    assert_eq!(wheels[0].path, folder.path().join(ANY));
    std::fs::write(folder.path().join(ANY), "other").unwrap();
    assert_eq!(machine.fault(&package).what, "the hash of a 1.0 differs from the lock");
    // A page of links is flat, and a file without a hash is checked all the same.
    let server = FaultProxy::alone();
    let bytes = own.bytes();
    server.reply("GET", "/links/a-1.0", move |_| Answer::new(200).body(bytes.clone()));
    let href = format!("<a href='{}'>", own.name);
    server.reply("GET", "/links/", move |_| Answer::new(200).header("content-type", "text/html").body(href.clone()));
    let links = format!("http://{}/links/", server.host());
    let machine = Machine::new(&[("UV_FIND_LINKS", &links), ("PIP_NO_INDEX", "1")]);
    assert_eq!(machine.wheels(&package)[0].filename, own.name);
}

#[test]
fn a_direct_reference_is_fetched_by_its_address() {
    let wheel = Wheel::of(ANY);
    let server = index(Format::Json, &[("a", std::slice::from_ref(&wheel))]);
    let machine = Machine::of(&server);
    let at =
        |url: &str| LockedPackage { url: Some(url.to_owned()), ..locked("a", "1.0", std::slice::from_ref(&wheel)) };
    let url = format!("http://{}/files/{ANY}", server.host());
    assert_eq!(machine.wheels(&[at(&url)])[0].filename, ANY);
    assert_eq!(server.count("GET", "/simple/"), 0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(ANY), wheel.bytes()).unwrap();
    let local = format!("file://{}/{ANY}", folder.path().display());
    assert_eq!(machine.wheels(&[at(&local)])[0].path, folder.path().join(ANY));
    for (url, cause) in
        [("https://h/a-1.0.tar.gz", "is not a wheel"), ("https://h/a-1.0-cp39-cp39-win32.whl", "another platform")]
    {
        let fault = machine.fault(&[at(url)]);
        assert!(fault.what.contains("a 1.0 has no wheel") && fault.causes[0].contains(cause), "{fault}");
    }
}

fn uv_program() -> Option<uv::Uv> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = uv::find(&root, &[]).ok();
    if found.is_none() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no uv");
        println!("skipped: no uv");
    }
    found
}

/// The files that uv selects, by package.
fn selected(machine: &Machine, packages: &[LockedPackage], uv: &uv::Uv) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    let line = |package: &LockedPackage| {
        let hashes: String = package.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        format!("{}=={}{hashes}\n", package.name, package.version)
    };
    std::fs::write(&list, packages.iter().map(line).collect::<String>()).unwrap();
    let call = uv.installing(&machine.indexes).env("UV_CACHE_DIR", folder.path().join("cache"));
    let call = call.args(["pip", "install", "--verbose", "--dry-run", "--no-deps", "--no-build", "--require-hashes"]);
    let call = call.args(["--python-platform", "x86_64-manylinux_2_36", "--python-version", "3.13", "--target"]);
    let output = call.arg(folder.path().join("there")).arg("-r").arg(&list).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mut found = BTreeMap::new();
    for line in said.lines() {
        let Some((_, rest)) = line.split_once("Selecting: ") else { continue };
        let name = rest.split("==").next().unwrap().to_owned();
        found.insert(name, rest.rsplit_once('(').unwrap().1.trim_end_matches(')').to_owned());
    }
    found
}

#[test]
fn uv_chooses_the_same_wheels() {
    const TAGS: [&str; 22] = [
        "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp313-cp313-manylinux_2_28_x86_64",
        "cp313-cp313-manylinux_2_36_x86_64",
        "cp313-cp313-manylinux_2_38_x86_64",
        "cp313-cp313-musllinux_1_2_x86_64",
        "cp313-cp313t-manylinux_2_17_x86_64",
        "cp313-cp313-linux_x86_64",
        "cp313-cp313-manylinux1_x86_64",
        "cp313-cp313-manylinux2010_x86_64",
        "cp312-cp312-manylinux_2_17_x86_64",
        "cp312-abi3-manylinux_2_17_x86_64",
        "cp37-abi3-manylinux2014_x86_64",
        "cp313-none-manylinux_2_17_x86_64",
        "py3-none-manylinux_2_17_x86_64",
        "py312-none-manylinux_2_17_x86_64",
        "cp313-none-any",
        "py313-none-any",
        "py2.py3-none-any",
        "py30-none-any",
        "cp312-none-any",
        "cp313-cp313-win_amd64",
        "cp313-cp313-macosx_11_0_arm64",
    ];
    let Some(uv) = uv_program() else { return };
    let mut drawn = 0_u32;
    let mut below = |most: u32| {
        drawn += 1;
        u32::from_str_radix(&Digest::of(&drawn.to_le_bytes()).hex()[..8], 16).unwrap() % most
    };
    let mut projects = Vec::new();
    for number in 0..40 {
        let name = format!("p{number}");
        // One that always fits.
        let mut wheels = vec![Wheel::of(&format!("{name}-1.0-py3-none-any.whl"))];
        for tag in TAGS {
            if below(4) == 0 {
                let build = match below(4) {
                    0 => format!("{}-", below(12)),
                    _ => String::new(),
                };
                // uv gives up where the chosen file is for other Pythons; this takes the next one.
                let requires = [None, None, None, None, Some(">=3.8"), Some("~=3.13.0"), Some("<4")];
                wheels.push(Wheel {
                    requires: requires[below(7) as usize],
                    hashless: below(9) == 0,
                    yanked: (below(12) == 0).then_some("broken"),
                    ..Wheel::of(&format!("{name}-1.0-{build}{tag}.whl"))
                });
            }
        }
        // Some files are not in the lock.
        let kept: Vec<Wheel> = wheels
            .iter()
            .enumerate()
            .filter(|(at, _)| *at == 0 || below(5) > 0)
            .map(|(_, wheel)| wheel.clone())
            .collect();
        let hashless: Vec<Wheel> = wheels.iter().filter(|wheel| wheel.hashless).cloned().collect();
        let package = locked(&name, "1.0", &[kept, hashless].concat());
        projects.push((name, wheels, package));
    }
    let pages: Vec<(&str, &[Wheel])> =
        projects.iter().map(|(name, wheels, _)| (name.as_str(), wheels.as_slice())).collect();
    let packages: Vec<LockedPackage> = projects.iter().map(|(_, _, package)| package.clone()).collect();
    let chosen = |machine: &Machine| -> BTreeMap<String, String> {
        machine.wheels(&packages).into_iter().map(|wheel| (wheel.name, wheel.filename)).collect()
    };
    let (json, html) = (index(Format::Json, &pages), index(Format::Html, &pages));
    let machine = Machine::of(&json);
    let own = chosen(&machine);
    assert_eq!(chosen(&Machine::of(&html)), own);
    assert_eq!(selected(&machine, &packages, &uv), own);
}

/// The wheels of this repository's lock, from the index of this machine: not in the quick mode, which uses no network.
#[test]
fn uv_chooses_the_same_wheels_for_the_lock_of_this_repository() {
    if std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1") {
        println!("skipped: it downloads from the index of this machine");
        return;
    }
    let Some(uv) = uv_program() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("requirements-enhanced.lock");
    let lock = xtask_model::spec::lock::Lock::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    let environment = Environment::new("3.13.5", &"linux/amd64".parse().unwrap());
    let here = xtask_model::spec::lock::closure::pins_of(&lock.packages, &environment).0;
    let packages: Vec<LockedPackage> = here.into_values().cloned().collect();
    let requirements = crate::tree::inputs::requirements_at(&root, Path::new("requirements-enhanced.txt")).unwrap();
    let indexes = uv::indexes(&root, &requirements).unwrap();
    let settings = Settings::from_env(&indexes).unwrap();
    let machine = Machine { cache: tempfile::tempdir().unwrap(), indexes, settings };
    for round in ["cold", "warm"] {
        let began = Instant::now();
        let bytes: u64 = machine.wheels(&packages).iter().map(|wheel| wheel.path.metadata().unwrap().len()).sum();
        println!("{round}: {} wheels, {bytes} bytes, {:?}", packages.len(), began.elapsed());
    }
    let own: BTreeMap<String, String> =
        machine.wheels(&packages).into_iter().map(|wheel| (wheel.name, wheel.filename)).collect();
    assert_eq!(selected(&machine, &packages, &uv), own);
}
