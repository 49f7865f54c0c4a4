//! The client against scripted registries and token servers: what no real registry does on request.

use crate::fault_proxy;
use fault_proxy::{Answer as Scripted, FaultProxy, Mishap, Request};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xtask_host::registry::{Answer, Client, ClientOptions, Credentials, Mount, Proxies};
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::reference::{Digest, Repository, Tag};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BODY: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn quick() -> ClientOptions {
    ClientOptions {
        backoff: Duration::from_millis(5),
        retry_budget: Duration::from_secs(5),
        ..ClientOptions::default()
    }
}

fn client() -> Client {
    Client::new(quick())
}

fn repository(registry: &FaultProxy) -> Repository {
    format!("{}/acme/app", registry.host()).parse().unwrap()
}

fn index() -> Scripted {
    Scripted::new(200).header("content-type", INDEX).body(BODY)
}

fn error(status: u16, code: &str) -> Scripted {
    Scripted::new(status).body(format!(r#"{{"errors":[{{"code":"{code}","message":"as scripted"}}]}}"#))
}

/// Reads a manifest from a registry of this one answer.
#[track_caller]
fn answered(answer: Scripted) -> Result<Answer<Digest>, Fault> {
    let registry = FaultProxy::alone();
    registry.on("GET", "/manifests/", usize::MAX, Mishap::Answer(answer));
    Ok(client().manifest(&repository(&registry), Tag::latest())?.map(|manifest| manifest.digest))
}

#[track_caller]
fn unknown(answer: Scripted, says: &str) {
    let fault = answered(answer).unwrap_err();
    assert_eq!(fault.exit, Exit::Network);
    assert!(fault.to_string().contains(says), "{fault}");
}

#[test]
fn present_absent_and_unknown() {
    assert_eq!(answered(index()).unwrap(), Answer::Present(Digest::of(BODY.as_bytes())));
    assert_eq!(answered(error(404, "MANIFEST_UNKNOWN")).unwrap(), Answer::Absent);
    assert_eq!(answered(error(404, "NAME_UNKNOWN")).unwrap(), Answer::Absent);
    unknown(error(404, "UNSUPPORTED"), "UNSUPPORTED: as scripted");
    unknown(error(403, "DENIED"), "403 Forbidden (DENIED: as scripted)");
    unknown(error(403, "DENIED"), "registries give the same answer for a repository that does not exist");
    unknown(error(401, "UNAUTHORIZED"), "docker login");
    unknown(error(418, ""), "418");
    unknown(Scripted::new(503), "gave up after 5 tries");
    unknown(Scripted::new(204), "204");
}

#[test]
fn a_bare_404_counts_only_where_a_registry_lives() {
    unknown(Scripted::new(404).body("<html>not found</html>"), "is there a registry at");
    let registry = FaultProxy::alone();
    registry.reply("GET", "/v2/", |request| Scripted::new(if request.target == "/v2/" { 200 } else { 404 }));
    let client = client();
    for _ in 0..2 {
        assert_eq!(client.manifest(&repository(&registry), Tag::latest()).unwrap(), Answer::Absent);
        assert!(!client.has_blob(&repository(&registry), &Digest::of(b"")).unwrap());
    }
    assert_eq!(registry.seen().iter().filter(|seen| seen.target == "/v2/").count(), 1);
}

#[test]
fn a_manifest_that_is_not_what_it_says_is_unknown() {
    let lying = Digest::of(b"another").to_string();
    unknown(index().header("docker-content-digest", lying), "its bytes are");
    unknown(index().header("docker-content-digest", "sha256:12"), "malformed digest");
    unknown(Scripted::new(200).header("content-type", "text/html").body(BODY), "`text/html`");
    unknown(Scripted::new(200).body(BODY), "neither it nor the registry says its media type");
    unknown(Scripted::new(200).header("content-type", INDEX).body("{\"sche"), "not a manifest in JSON");
    unknown(Scripted::new(200).header("content-type", INDEX).body("[]"), "not a manifest in JSON");
    let other = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    unknown(Scripted::new(200).header("content-type", INDEX).body(other), "its content says");
    unknown(Scripted::new(200).header("content-type", INDEX).body(vec![b' '; (4 << 20) + 1]), "longer than 4194304");
    unknown(index().header("content-length", "1000"), "broke off");
    let registry = FaultProxy::alone();
    registry.on("GET", "/manifests/", usize::MAX, Mishap::Answer(index()));
    let asked = Digest::of(b"wanted");
    let fault = client().manifest(&repository(&registry), asked).unwrap_err().to_string();
    assert!(fault.contains(&Digest::of(BODY.as_bytes()).to_string()), "{fault}");
}

#[test]
fn what_passes_is_tried_again() {
    let registry = FaultProxy::alone();
    registry
        .on("GET", "/manifests/", 1, Mishap::Answer(Scripted::new(500)))
        .on("GET", "/manifests/", 1, Mishap::Hangup)
        .on("GET", "/manifests/", 1, Mishap::Answer(index().header("content-length", "1000")))
        .on("GET", "/manifests/", 1, Mishap::Answer(index()));
    assert!(client().manifest(&repository(&registry), Tag::latest()).unwrap().present().is_some());
    assert_eq!(registry.count("GET", "/manifests/"), 4);
}

#[test]
fn retry_after_is_honoured_within_reason() {
    let registry = FaultProxy::alone();
    let busy = |after: &str| Mishap::Answer(Scripted::new(429).header("retry-after", after));
    registry.on("GET", "/manifests/", 1, busy("1")).on("GET", "/manifests/", 1, Mishap::Answer(index()));
    let began = Instant::now();
    client().manifest(&repository(&registry), Tag::latest()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));

    registry.on("GET", "/manifests/", 1, busy("3600"));
    let began = Instant::now();
    let fault = client().manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    assert!(fault.contains("3600 s") && began.elapsed() < Duration::from_secs(1), "{fault}");
}

#[test]
fn silence_is_a_timeout() {
    let registry = FaultProxy::alone();
    registry.reply("GET", "", |_| {
        std::thread::sleep(Duration::from_millis(700));
        index()
    });
    let options = ClientOptions { idle_timeout: Duration::from_millis(100), tries: 2, ..quick() };
    let fault = Client::new(options).manifest(&repository(&registry), Tag::latest()).unwrap_err();
    assert!(fault.to_string().contains("timed out"), "{fault}");
}

/// A server that answers each connection by this function, which may take its time.
fn slow_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(client));
        }
    });
    host
}

/// Reads a request's head.
fn head(client: &TcpStream) -> String {
    let mut lines = BufReader::new(client).lines();
    let mut text = String::new();
    while let Some(Ok(line)) = lines.next().filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty())) {
        text += &format!("{line}\n");
    }
    text
}

/// Answers with a head that promises many bytes, and then a byte at a time until nobody listens.
fn drip(mut client: TcpStream) {
    head(&client);
    let promise = format!("HTTP/1.1 200 OK\r\ncontent-type: {INDEX}\r\ncontent-length: 1000000\r\n\r\n");
    let mut open = client.write_all(promise.as_bytes()).is_ok();
    while open {
        std::thread::sleep(Duration::from_millis(5));
        open = client.write_all(b" ").is_ok();
    }
}

fn hasty() -> ClientOptions {
    let (idle_timeout, deadline) = (Duration::from_millis(150), Duration::from_millis(400));
    ClientOptions { idle_timeout, deadline, tries: 100, ..quick() }
}

/// Every way of asking ends within a few deadlines, and says both limits.
#[track_caller]
fn ends_in_time(host: &str) {
    let repository: Repository = format!("{host}/acme/app").parse().unwrap();
    let (client, digest) = (Client::new(hasty()), Digest::of(b"x"));
    let asks: [(&str, &dyn Fn() -> Option<Fault>); 7] = [
        ("manifest", &|| client.manifest(&repository, Tag::latest()).err()),
        ("config", &|| client.blob_bytes(&repository, &digest, 1 << 20).err()),
        ("layer", &|| client.blob(&repository, &digest, 1 << 40, &mut std::io::sink()).err()),
        ("tags", &|| client.tags(&repository).err()),
        ("referrers", &|| client.referrers(&repository, &digest, None).err()),
        ("ping", &|| client.ping(host).err()),
        ("upload", &|| client.upload(&repository, &digest, 1, &b"x".to_vec()).err()),
    ];
    for (name, ask) in asks {
        let began = Instant::now();
        // A registry that drips may have said 200, which is an answer to a ping.
        let Some(fault) = ask() else { continue };
        let (took, text) = (began.elapsed(), fault.to_string());
        assert!(took < Duration::from_secs(4), "{name} took {took:?}: {text}");
        assert!(!fault.unreachable && fault.exit == Exit::Network, "{name}: {text}");
        if text.contains("200 OK") {
            continue;
        }
        assert!(text.contains("limit: 0.40 s") && text.contains("each 10.0 kB"), "{name}: {text}");
    }
}

#[test]
fn a_registry_that_accepts_and_stays_silent_costs_one_deadline() {
    ends_in_time(&slow_server(|client| {
        head(&client);
        std::thread::sleep(Duration::from_secs(5));
    }));
}

#[test]
fn a_registry_that_drips_costs_one_deadline() {
    ends_in_time(&slow_server(drip));
}

#[test]
fn an_upload_that_trickles_away_ends_and_says_the_minimum_speed() {
    let host = slow_server(|mut client| {
        let asked = head(&client);
        if asked.starts_with("POST") {
            let begun = "HTTP/1.1 202 Accepted\r\nlocation: /v2/acme/app/blobs/uploads/1\r\ncontent-length: 0\r\n\r\n";
            client.write_all(begun.as_bytes()).unwrap();
        }
        let mut buffer = [0; 512];
        while client.read(&mut buffer).is_ok_and(|count| count > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let options = ClientOptions { min_speed: 50_000_000, tries: 2, ..hasty() };
    let content = vec![b'x'; 40_000_000];
    let repository: Repository = format!("{host}/acme/app").parse().unwrap();
    let began = Instant::now();
    let fault = Client::new(options).upload(&repository, &Digest::of(&content), content.len() as u64, &content);
    let text = fault.unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_secs(5) && text.contains("50.0 MB"), "{text}");
}

#[test]
fn offline_asks_nobody() {
    let registry = FaultProxy::alone();
    let client = Client::new(ClientOptions { offline: true, ..quick() });
    let repository = repository(&registry);
    let fault = client.manifest(&repository, Tag::latest()).unwrap_err();
    assert!(fault.exit == Exit::Usage && fault.to_string().contains("`--offline`"), "{fault}");
    assert!(client.upload(&repository, &Digest::of(b"x"), 1, &b"x".to_vec()).is_err());
    assert!(client.tags(&repository).is_err() && client.ping(&registry.host()).is_err());
    assert!(registry.seen().is_empty());
}

/// Only a network that leads nowhere is unreachable: whoever answers, whatever it says, has been reached.
#[test]
fn what_answers_is_not_unreachable() {
    let one = ClientOptions { tries: 1, ..quick() };
    for mishap in [
        Mishap::Answer(error(401, "UNAUTHORIZED")),
        Mishap::Answer(error(403, "DENIED")),
        Mishap::Answer(error(429, "TOOMANYREQUESTS")),
        Mishap::Answer(Scripted::new(404).body("<html>")),
        Mishap::Answer(Scripted::new(500)),
        Mishap::Answer(Scripted::new(503)),
        Mishap::Answer(Scripted::new(200).header("content-type", "text/html").body("portal")),
        Mishap::Hangup,
        Mishap::Answer(index().header("content-length", "1000")),
    ] {
        let registry = FaultProxy::alone();
        registry.on("GET", "", usize::MAX, mishap);
        let fault = Client::new(one.clone()).manifest(&repository(&registry), Tag::latest()).unwrap_err();
        assert!(!fault.unreachable, "{fault}");
    }
    // Nor is a certificate that nobody knows, or a registry in plain HTTP.
    let registry = FaultProxy::alone();
    let tls = ClientOptions { tls: [registry.host()].into(), ..one.clone() };
    let fault = Client::new(tls).manifest(&repository(&registry), Tag::latest()).unwrap_err();
    assert!(!fault.unreachable, "{fault}");
    // Nor a credential helper that is missing.
    let registry = FaultProxy::alone();
    registry.reply("*", "", |_| error(401, "UNAUTHORIZED").header("www-authenticate", "Basic realm=x"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"credsStore": "gone"}"#).unwrap();
    let credentials = Credentials { folder: Some(folder.path().to_owned()), path: Some("/nonexistent".into()) };
    let fault =
        Client::new(ClientOptions { credentials, ..one.clone() }).manifest(&repository(&registry), Tag::latest());
    let fault = fault.unwrap_err();
    assert!(!fault.unreachable && fault.to_string().contains("docker-credential-gone"), "{fault}");
    // A port that nobody listens on, and a name that nobody has, are.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for host in [closed, "registry.invalid".to_owned()] {
        let repository: Repository = format!("{host}/a/b").parse().unwrap();
        let fault = Client::new(one.clone()).manifest(&repository, Tag::latest()).unwrap_err();
        assert!(fault.unreachable, "{fault}");
    }
}

#[test]
fn a_registry_in_plain_http_names_the_setting_that_allows_it() {
    let registry = FaultProxy::alone();
    let options = ClientOptions { tls: [registry.host()].into(), tries: 1, ..quick() };
    let fault = Client::new(options).manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    let setting = format!("`[project] insecure-registries = [\"{}\"]`", registry.host());
    assert!(fault.contains("does not speak TLS") && fault.contains(&setting), "{fault}");
    assert!(!fault.contains("SSL_CERT_FILE"), "{fault}");
}

#[test]
fn a_repository_that_the_registry_does_not_have_yet_is_to_be_created() {
    let unknown = || {
        Scripted::new(404).body(
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'acme/app' does not exist in the registry with id '1'"}]}"#,
        )
    };
    let refusing = FaultProxy::alone();
    refusing.reply("*", "/v2/", move |_| unknown());
    let silent = FaultProxy::alone();
    silent.on("POST", "", usize::MAX, Mishap::Hangup).reply("GET", "/v2/", move |_| unknown());
    for registry in [refusing, silent] {
        let repository = repository(&registry);
        let options = ClientOptions { tries: 2, ..quick() };
        let fault = Client::new(options).upload(&repository, &Digest::of(b"x"), 1, &b"x".to_vec()).unwrap_err();
        let text = fault.to_string();
        assert!(text.contains("create the repository `acme/app`"), "{text}");
        // To read there is nothing, which is no fault.
        assert_eq!(client().manifest(&repository, Tag::latest()).unwrap(), Answer::Absent);
    }
}

#[test]
fn nobody_there() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = ClientOptions { tries: 2, connect_timeout: Duration::from_secs(2), ..quick() };
    let client = Client::new(options);
    let cases = [
        (closed.to_string(), "refused", "engine up --registry-only"),
        ("registry.invalid".to_owned(), "registry.invalid", "check the name of the registry"),
    ];
    for (host, says, hint) in cases {
        let repository: Repository = format!("{host}/a/b").parse().unwrap();
        let fault = client.manifest(&repository, Tag::latest()).unwrap_err();
        assert!(fault.exit == Exit::Network && fault.to_string().contains(says), "{fault}");
        assert!(fault.hints.iter().any(|found| found.contains(hint)), "{fault}");
        assert!(client.ping(&host).is_err());
    }
}

/// A registry that wants tokens, and the server that gives them: `token-1`, `token-2`, …
struct Guarded {
    registry: FaultProxy,
    tokens: FaultProxy,
    given: Arc<AtomicUsize>,
}

impl Guarded {
    /// A registry that answers `inner` to whoever shows the newest token.
    fn new(inner: impl Fn(&Request) -> Scripted + Send + Sync + 'static) -> Self {
        let (registry, tokens, given) = (FaultProxy::alone(), FaultProxy::alone(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&given);
        tokens.reply("*", "/token", move |_| {
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Scripted::new(200).body(format!(r#"{{"token": "token-{number}", "expires_in": 300}}"#))
        });
        let (counter, realm) = (Arc::clone(&given), tokens.host());
        registry.reply("*", "/v2/", move |request| {
            let wanted = format!("Bearer token-{}", counter.load(Ordering::SeqCst));
            if request.header("authorization") == Some(&wanted) {
                return inner(request);
            }
            let challenge = format!(r#"Bearer realm="http://{realm}/token",service="test",scope="repository:x:pull""#);
            error(401, "UNAUTHORIZED").header("www-authenticate", challenge)
        });
        Self { registry, tokens, given }
    }

    /// No token that has been given is good any more.
    fn expire(given: &AtomicUsize) {
        given.fetch_add(1, Ordering::SeqCst);
    }

    fn asked(&self) -> Vec<String> {
        self.tokens.seen().into_iter().map(|seen| seen.target).collect()
    }
}

#[test]
fn tokens_are_kept_for_each_scope() {
    let guarded = Guarded::new(|_| index());
    let (client, repository) = (client(), repository(&guarded.registry));
    for _ in 0..3 {
        client.manifest(&repository, Tag::latest()).unwrap();
    }
    assert_eq!(guarded.asked(), ["/token?service=test&scope=repository:acme/app:pull"]);
    assert!(guarded.tokens.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn a_scope_that_only_the_registry_knows_is_asked_for() {
    let (registry, tokens) = (FaultProxy::alone(), FaultProxy::alone());
    tokens.reply("GET", "/token", |request| {
        let token = if request.target.contains("scope=odd:delete") { "good" } else { "poor" };
        Scripted::new(200).body(format!(r#"{{"access_token": "{token}"}}"#))
    });
    let challenge = format!(r#"Bearer realm="http://{}/token",scope="odd:delete""#, tokens.host());
    registry.reply("DELETE", "", move |request| match request.header("authorization") {
        Some("Bearer good") => Scripted::new(202),
        _ => error(401, "UNAUTHORIZED").header("www-authenticate", challenge.clone()),
    });
    let deleted = client().delete_manifest(&repository(&registry), Digest::of(b"x")).unwrap();
    assert_eq!(deleted, Answer::Present(()));
}

#[test]
fn a_mount_asks_for_both_repositories() {
    let guarded = Guarded::new(|_| Scripted::new(201));
    let to = repository(&guarded.registry);
    let from: Repository = format!("{}/acme/base", guarded.registry.host()).parse().unwrap();
    let digest = Digest::of(b"x");
    assert!(matches!(client().mount(&to, &digest, &from).unwrap(), Mount::Mounted));
    let asked = guarded.asked();
    assert!(asked[0].contains("scope=repository:acme/app:pull,push"), "{asked:?}");
    assert!(asked[0].contains("scope=repository:acme/base:pull"), "{asked:?}");
    let mount = guarded.registry.seen().pop().unwrap();
    assert_eq!(mount.target, format!("/v2/acme/app/blobs/uploads/?mount={digest}&from=acme/base"));
}

fn logged_in(host: &str, entry: &str) -> (Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"auths": {{"{host}": {entry}}}}}"#);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let credentials = Credentials { folder: Some(folder.path().to_owned()), path: None };
    (Client::new(ClientOptions { credentials, ..quick() }), folder)
}

#[test]
fn passwords_go_to_the_token_server_only() {
    let guarded = Guarded::new(|_| index());
    let entry = r#"{"username": "u", "password": "s3cret"}"#;
    let (client, _folder) = logged_in(&guarded.registry.host(), entry);
    client.manifest(&repository(&guarded.registry), Tag::latest()).unwrap();
    let basic = Some("Basic dTpzM2NyZXQ=");
    assert!(guarded.tokens.seen().iter().all(|seen| seen.header("authorization") == basic));
    assert!(guarded.registry.seen().iter().all(|seen| seen.header("authorization") != basic));
}

#[test]
fn identity_tokens_are_exchanged_by_post() {
    let guarded = Guarded::new(|_| index());
    let (client, _folder) = logged_in(&guarded.registry.host(), r#"{"identitytoken": "re/fresh+1"}"#);
    client.manifest(&repository(&guarded.registry), Tag::latest()).unwrap();
    let asked = guarded.tokens.seen().remove(0);
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    let form = String::from_utf8(asked.body).unwrap();
    assert!(form.contains("grant_type=refresh_token&refresh_token=re/fresh%2B1"), "{form}");
    assert!(form.ends_with("scope=repository:acme/app:pull"), "{form}");
}

#[test]
fn a_realm_on_plain_http_elsewhere_gets_nothing() {
    let registry = FaultProxy::alone();
    registry.reply("*", "", |_| {
        error(401, "UNAUTHORIZED").header("www-authenticate", r#"Bearer realm="http://token.invalid/token""#)
    });
    let (client, _folder) = logged_in(&registry.host(), r#"{"username": "u", "password": "s3cret"}"#);
    let fault = client.manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    assert!(fault.contains("plain HTTP") && !fault.contains("s3cret"), "{fault}");
}

#[test]
fn a_token_server_that_refuses_is_a_fault() {
    let guarded = Guarded::new(|_| index());
    let refusing = FaultProxy::alone();
    refusing.reply("*", "", |_| error(403, "DENIED"));
    let realm = format!(r#"Bearer realm="http://{}/token""#, refusing.host());
    let registry = FaultProxy::alone();
    registry.reply("*", "", move |_| error(401, "UNAUTHORIZED").header("www-authenticate", realm.clone()));
    let fault = client().manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    assert!(fault.contains("cannot get a token") && fault.contains("DENIED"), "{fault}");
    assert!(fault.contains("not logged in"), "{fault}");
    drop(guarded);
}

#[test]
fn a_token_that_never_pleases_is_not_asked_for_ever() {
    let guarded = Guarded::new(|_| index());
    let registry = FaultProxy::alone();
    let realm = format!(r#"Bearer realm="http://{}/token""#, guarded.tokens.host());
    registry.reply("*", "", move |_| error(401, "UNAUTHORIZED").header("www-authenticate", realm.clone()));
    let fault = client().manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    assert!(fault.contains("401"), "{fault}");
    assert!(registry.seen().len() <= 3 && guarded.asked().len() <= 3);
}

/// A registry whose uploads can be resumed, as the specification wants it. `on_patch` happens before each piece.
fn resumable(on_patch: impl Fn(usize) + Send + Sync + 'static) -> impl Fn(&Request) -> Scripted + Send + Sync {
    let (have, patches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    move |request: &Request| {
        let at = |have: usize| format!("0-{}", have.saturating_sub(1));
        let there = Scripted::new(202).header("location", "/v2/acme/app/blobs/uploads/1?state=a");
        match request.method.as_str() {
            "POST" => there,
            "PATCH" => {
                on_patch(patches.fetch_add(1, Ordering::SeqCst));
                let from: usize = request.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                if from != have.load(Ordering::SeqCst) {
                    return Scripted::new(416);
                }
                have.store(from + request.length as usize, Ordering::SeqCst);
                there.header("range", at(from + request.length as usize))
            }
            "GET" => Scripted::new(204).header("range", at(have.load(Ordering::SeqCst))),
            "PUT" => Scripted::new(201),
            _ => Scripted::new(404),
        }
    }
}

fn pieces() -> Client {
    Client::new(ClientOptions { whole: 0, chunk: Some(1000), ..quick() })
}

fn upload(client: &Client, repository: &Repository, size: usize) -> Result<(), Fault> {
    let content = vec![b'x'; size];
    client.upload(repository, &Digest::of(&content), size as u64, &content)
}

fn sent(registry: &FaultProxy) -> Vec<String> {
    let pieces = registry.seen().into_iter().filter(|seen| seen.method == "PATCH");
    pieces.map(|seen| seen.header("content-range").unwrap().to_owned()).collect()
}

#[test]
fn an_upload_resumes_where_it_was_cut() {
    let registry = FaultProxy::alone();
    registry.on_after(1, "PATCH", "", 1, Mishap::CutRequest(400));
    // What the registry has kept of the piece that was cut.
    registry.on("GET", "/uploads/", 1, Mishap::Answer(Scripted::new(204).header("range", "0-1399")));
    let kept = AtomicUsize::new(0);
    registry.reply("*", "", move |request| match request.method.as_str() {
        "PATCH" => {
            let (from, last) = request.header("content-range").unwrap().split_once('-').unwrap();
            let from: usize = from.parse().unwrap();
            assert!(from == kept.load(Ordering::SeqCst) || from == 1400, "{from}");
            let last: usize = last.parse().unwrap();
            kept.store(last + 1, Ordering::SeqCst);
            Scripted::new(202).header("range", format!("0-{last}"))
        }
        "POST" => Scripted::new(202).header("location", "/v2/acme/app/blobs/uploads/1"),
        _ => Scripted::new(201),
    });
    upload(&pieces(), &repository(&registry), 3000).unwrap();
    assert_eq!(sent(&registry), ["0-999", "1000-1999", "1400-2399", "2400-2999"]);
    assert!(registry.seen().iter().all(|seen| seen.header("transfer-encoding").is_none()));
    assert!(
        registry.seen().iter().all(|s| s.header("content-length").is_some() == !matches!(&*s.method, "GET" | "HEAD"))
    );
}

#[test]
fn a_token_that_expires_amid_an_upload_is_renewed() {
    let holder: Arc<std::sync::OnceLock<Arc<AtomicUsize>>> = Arc::default();
    let inner = Arc::clone(&holder);
    let guarded = Guarded::new(resumable(move |patch| {
        if patch == 1 {
            Guarded::expire(inner.get().unwrap());
        }
    }));
    holder.set(Arc::clone(&guarded.given)).unwrap();
    upload(&pieces(), &repository(&guarded.registry), 3500).unwrap();
    assert_eq!(sent(&guarded.registry), ["0-999", "1000-1999", "2000-2999", "2000-2999", "3000-3499"]);
}

#[test]
fn a_registry_may_keep_less_than_it_was_sent() {
    let registry = FaultProxy::alone();
    registry.on("PATCH", "", 1, Mishap::Answer(Scripted::new(202).header("range", "0-499")));
    registry.on("PATCH", "", usize::MAX, Mishap::Answer(Scripted::new(202)));
    registry.on("POST", "", 1, Mishap::Answer(Scripted::new(202).header("location", "1")));
    registry.on("PUT", "", 1, Mishap::Answer(Scripted::new(201)));
    upload(&pieces(), &repository(&registry), 2000).unwrap();
    assert_eq!(sent(&registry), ["0-999", "500-1499", "1500-1999"]);
}

#[test]
fn a_smallest_piece_is_respected() {
    let registry = FaultProxy::alone();
    let begun = Scripted::new(202).header("location", "1").header("oci-chunk-min-length", "1500");
    registry.on("POST", "", 1, Mishap::Answer(begun));
    registry.reply("PATCH", "", |_| Scripted::new(202));
    registry.on("PUT", "", 1, Mishap::Answer(Scripted::new(201)));
    upload(&pieces(), &repository(&registry), 2000).unwrap();
    assert_eq!(sent(&registry), ["0-1499", "1500-1999"]);
}

#[test]
fn authorization_stays_at_home() {
    let elsewhere = FaultProxy::alone();
    elsewhere.on("GET", "", usize::MAX, Mishap::Answer(Scripted::new(200).body("blob")));
    elsewhere.on("PUT", "", usize::MAX, Mishap::Answer(Scripted::new(201)));
    // The same machine under another name is another origin.
    let there = elsewhere.host().replace("127.0.0.1", "localhost");
    let location = format!("http://{there}/store/1?signature=abc");
    let guarded = Guarded::new(move |request| match request.method.as_str() {
        "GET" => Scripted::new(307).header("location", location.clone()),
        _ => Scripted::new(202).header("location", location.clone()),
    });
    let (client, repository) = (client(), repository(&guarded.registry));
    assert_eq!(client.blob_bytes(&repository, &Digest::of(b"blob"), 9).unwrap(), Answer::Present(b"blob".to_vec()));
    upload(&client, &repository, 100).unwrap();
    let seen = elsewhere.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none() && seen.target.contains("signature=abc")));
    assert!(guarded.registry.seen().iter().any(|seen| seen.header("authorization").is_some()));
}

#[test]
fn redirects_end() {
    let registry = FaultProxy::alone();
    registry.reply("GET", "", |request| Scripted::new(302).header("location", request.target.clone()));
    let fault = client().manifest(&repository(&registry), Tag::latest()).unwrap_err().to_string();
    assert!(fault.contains("redirects more than 5 times"), "{fault}");
    let registry = FaultProxy::alone();
    registry.reply("GET", "", |_| Scripted::new(302).header("location", "http://store.invalid/x?signature=abc"));
    let fault = client().blob_bytes(&repository(&registry), &Digest::of(b""), 9).unwrap_err().to_string();
    assert!(fault.contains("plain HTTP") && !fault.contains("signature"), "{fault}");
}

#[test]
fn a_store_that_has_lost_a_blob_does_not_make_it_absent() {
    let store = FaultProxy::alone();
    let registry = FaultProxy::alone();
    let location = format!("http://{}/gone", store.host());
    registry.reply("GET", "/blobs/", move |_| Scripted::new(307).header("location", location.clone()));
    registry.reply("GET", "/v2/", |_| Scripted::new(200));
    let fault = client().blob_bytes(&repository(&registry), &Digest::of(b""), 9).unwrap_err().to_string();
    assert!(fault.contains("/gone` answered 404"), "{fault}");
}

#[test]
fn a_blob_without_ranges_is_read_again() {
    let content: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    let registry = FaultProxy::alone();
    let cut = Scripted::new(200).header("content-length", "200000").body(&content[..150_000]);
    registry.on("GET", "/blobs/", 2, Mishap::Answer(cut));
    registry.on("GET", "/blobs/", 1, Mishap::Answer(Scripted::new(200).body(content.clone())));
    let mut read = Vec::new();
    let digest = Digest::of(&content);
    assert_eq!(client().blob(&repository(&registry), &digest, 200_000, &mut read).unwrap(), Answer::Present(()));
    assert!(read == content);
}

#[test]
fn lists_come_page_by_page() {
    let registry = FaultProxy::alone();
    registry.reply("GET", "/tags/list", |request| {
        let page = |tags: &str| Scripted::new(200).body(format!(r#"{{"name": "acme/app", "tags": {tags}}}"#));
        let next = |last: &str| format!(r#"</v2/acme/app/tags/list?n=2&last={last}>; rel="next""#);
        match request.target.split("last=").nth(1) {
            None => page(r#"["a", "c"]"#).header("link", next("c")),
            Some("c") => page(r#"["d"]"#).header("link", next("d")),
            _ => page("null"),
        }
    });
    let wanted: Vec<Tag> = ["a", "c", "d"].iter().map(|tag| tag.parse().unwrap()).collect();
    assert_eq!(client().tags(&repository(&registry)).unwrap(), Answer::Present(wanted));

    for link in ["<https://elsewhere.invalid/x>; rel=next", "</v2/acme/app/tags/list?n=1000>; rel=next"] {
        let registry = FaultProxy::alone();
        registry.reply("GET", "", move |_| Scripted::new(200).header("link", link).body(r#"{"tags": ["a"]}"#));
        let fault = client().tags(&repository(&registry)).unwrap_err().to_string();
        assert!(fault.contains("next page"), "{fault}");
    }
}

#[test]
fn referrers_by_api_and_by_tag() {
    let subject = Digest::of(b"subject");
    let one = |artifact: &str| {
        let digest = Digest::of(artifact.as_bytes());
        format!(r#"{{"mediaType": "m", "digest": "{digest}", "size": 3, "artifactType": "{artifact}"}}"#)
    };
    let list = format!(r#"{{"schemaVersion": 2, "manifests": [{}, {}]}}"#, one("sbom"), one("signature"));
    let page = Scripted::new(200).header("content-type", INDEX).body(list);
    let (api, tag) = (FaultProxy::alone(), FaultProxy::alone());
    api.on("GET", "/referrers/", usize::MAX, Mishap::Answer(page.clone()));
    tag.on("GET", &format!("/manifests/sha256-{}", subject.hex()), usize::MAX, Mishap::Answer(page));
    tag.reply("GET", "", |request| Scripted::new(if request.target == "/v2/" { 200 } else { 404 }));
    for registry in [api, tag] {
        let (client, repository) = (client(), repository(&registry));
        assert_eq!(client.referrers(&repository, &subject, None).unwrap().len(), 2);
        let found = client.referrers(&repository, &subject, Some("sbom")).unwrap();
        assert_eq!((found.len(), found[0].digest), (1, Digest::of(b"sbom")));
    }
}

#[test]
fn what_is_written_is_what_was_sent() {
    let registry = FaultProxy::alone();
    let other = Digest::of(b"other");
    let answer = Scripted::new(201).header("docker-content-digest", other.to_string());
    registry.on("PUT", "/manifests/", usize::MAX, Mishap::Answer(answer));
    registry.on("DELETE", "", usize::MAX, Mishap::Answer(error(405, "UNSUPPORTED")));
    let (client, repository) = (client(), repository(&registry));
    let fault = client.put_manifest(&repository, Tag::latest(), INDEX, BODY.as_bytes()).unwrap_err().to_string();
    assert!(fault.contains(&format!("stored `{other}`")), "{fault}");
    assert_eq!(registry.seen()[0].header("content-type"), Some(INDEX));
    let fault = client.put_manifest(&repository, other, INDEX, BODY.as_bytes()).unwrap_err().to_string();
    assert!(fault.contains("the digest of its bytes is"), "{fault}");
    let fault = client.delete_manifest(&repository, other).unwrap_err().to_string();
    assert!(fault.contains("enable deletion"), "{fault}");
}

#[test]
fn a_blob_that_another_job_hides_for_a_moment_is_not_lost() {
    let registry = FaultProxy::alone();
    let hidden = || Mishap::Answer(error(400, "MANIFEST_BLOB_UNKNOWN"));
    registry.on("PUT", "/manifests/", 2, hidden()).on("PUT", "/manifests/", 1, Mishap::Answer(Scripted::new(201)));
    let (client, repository) = (client(), repository(&registry));
    client.put_manifest(&repository, Tag::latest(), INDEX, BODY.as_bytes()).unwrap();
    // One that stays away is.
    registry.on("PUT", "/manifests/", usize::MAX, hidden());
    let fault = client.put_manifest(&repository, Tag::latest(), INDEX, BODY.as_bytes()).unwrap_err();
    assert!(fault.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{fault}");
    assert_eq!(registry.count("PUT", "/manifests/"), 6);
}

#[test]
fn a_head_without_a_digest_reads_the_manifest() {
    let registry = FaultProxy::alone();
    registry.on("*", "/manifests/", usize::MAX, Mishap::Answer(index()));
    let head = client().head(&repository(&registry), Tag::latest()).unwrap().present().unwrap();
    assert_eq!((head.digest, head.size), (Digest::of(BODY.as_bytes()), Some(BODY.len() as u64)));
}

#[test]
fn proxies_are_for_others_than_loopback() {
    let proxy = FaultProxy::alone();
    let proxies = Proxies { http: Some(format!("http://{}", proxy.host())), ..Proxies::default() };
    let plain_http = [String::from("registry.invalid:5000")].into();
    let client = Client::new(ClientOptions { proxies, plain_http, tries: 1, ..quick() });
    let registry = FaultProxy::alone();
    registry.on("GET", "", 1, Mishap::Answer(index()));
    client.manifest(&repository(&registry), Tag::latest()).unwrap();
    assert_eq!(proxy.seen().len(), 0);
    let outside: Repository = "registry.invalid:5000/a".parse().unwrap();
    assert!(client.manifest(&outside, Tag::latest()).is_err());
    let seen = proxy.seen();
    assert!(seen.iter().any(|seen| seen.target.contains("registry.invalid:5000")), "{seen:?}");
}

#[test]
fn a_proxy_that_cannot_be_read_matters_only_where_it_is_needed() {
    let proxies = Proxies { https: Some("gopher://u:s3cret@p".to_owned()), ..Proxies::default() };
    let client = Client::new(ClientOptions { proxies, ..quick() });
    let registry = FaultProxy::alone();
    registry.on("GET", "", 1, Mishap::Answer(index()));
    client.manifest(&repository(&registry), Tag::latest()).unwrap();
    let fault = client.ping("registry.invalid").unwrap_err().to_string();
    assert!(fault.contains("proxy") && !fault.contains("s3cret"), "{fault}");
}

const BUSY: &str = "XTASK_TEST_BUSY_REGISTRY";

/// Waits for the registry that the variable names; does nothing by itself.
#[test]
fn wait_as_asked() {
    let Ok(registry) = std::env::var(BUSY) else { return };
    xtask_host::process::forward_signals().unwrap();
    let fault = Client::new(ClientOptions::default()).ping(&registry).unwrap_err();
    println!("exit: {}", fault.exit as i32);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test program again, signalled by its handle")]
fn ctrl_c_ends_a_pause() {
    let registry = FaultProxy::alone();
    let busy = Scripted::new(503).header("retry-after", "50");
    registry.on("GET", "", usize::MAX, Mishap::Answer(busy));
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["faults::wait_as_asked", "--exact", "--nocapture"])
        .env(BUSY, registry.host())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while registry.seen().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("exit: 130"), "{output}");
    assert!(began.elapsed() < Duration::from_secs(10));
}
