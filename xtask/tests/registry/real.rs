//! The client against distribution's own registry, alone and behind a proxy that cuts and loses things.

use crate::{fault_proxy, real_registry};
use fault_proxy::{FaultProxy, Mishap};
use real_registry::{PASSWORD, RealRegistry, USER};
use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;
use xtask_host::registry::{Answer, BlobSource, Client, ClientOptions, Credentials, Mount, Name};
use xtask_model::spec::reference::{Digest, Repository, Tag};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn quick() -> ClientOptions {
    ClientOptions {
        backoff: Duration::from_millis(5),
        retry_budget: Duration::from_secs(5),
        ..ClientOptions::default()
    }
}

fn repository(host: &str, path: &str) -> Repository {
    format!("{host}/{path}").parse().unwrap()
}

/// Bytes that no two offsets share, so that a piece in the wrong place changes the digest.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut all = Vec::with_capacity(length);
    while all.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        all.push((state >> 24) as u8);
    }
    all
}

fn put_blob(client: &Client, repository: &Repository, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    client.upload(repository, &digest, content.len() as u64, &content.to_vec()).unwrap();
    digest
}

fn manifest_over(client: &Client, repository: &Repository, note: &str) -> Vec<u8> {
    let config = put_blob(client, repository, b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[],"annotations":{{"note":"{note}"}}}}"#
    )
    .into_bytes()
}

fn read_blob(client: &Client, repository: &Repository, digest: &Digest, size: u64) -> Vec<u8> {
    let mut all = Vec::new();
    assert_eq!(client.blob(repository, digest, size, &mut all).unwrap(), Answer::Present(()));
    all
}

#[test]
fn everything_there_and_back() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let host = registry.address.to_string();
    let repository = repository(&host, "acme/app");
    client.ping(&host).unwrap();

    assert_eq!(client.manifest(&repository, Tag::latest()).unwrap(), Answer::Absent);
    assert_eq!(client.head(&repository, Tag::latest()).unwrap(), Answer::Absent);
    assert_eq!(client.tags(&repository).unwrap(), Answer::Absent);
    assert!(!client.has_blob(&repository, &Digest::of(b"x")).unwrap());
    assert_eq!(client.blob_bytes(&repository, &Digest::of(b"x"), 9).unwrap(), Answer::Absent);
    assert_eq!(client.delete_manifest(&repository, Digest::of(b"x")).unwrap(), Answer::Absent);

    let manifest = manifest_over(&client, &repository, "one");
    let digest = client.put_manifest(&repository, Tag::latest(), MANIFEST, &manifest).unwrap();
    for name in [Name::from(Tag::latest()), Name::from(digest)] {
        let read = client.manifest(&repository, name.clone()).unwrap().present().unwrap();
        assert_eq!((read.bytes, read.media_type.as_str(), read.digest), (manifest.clone(), MANIFEST, digest));
        let head = client.head(&repository, name).unwrap().present().unwrap();
        assert_eq!((head.digest, head.size), (digest, Some(manifest.len() as u64)));
    }
    assert_eq!(client.tags(&repository).unwrap(), Answer::Present(vec![Tag::latest()]));
    // The registry knows no referrers API, and there is no tag in its place.
    assert_eq!(client.referrers(&repository, &digest, None).unwrap(), vec![]);

    assert_eq!(client.delete_manifest(&repository, digest).unwrap(), Answer::Present(()));
    assert_eq!(client.manifest(&repository, digest).unwrap(), Answer::Absent);
}

#[test]
fn blobs_of_every_size_in_every_way() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let host = registry.address.to_string();
    for (whole, chunk) in [(u64::MAX, None), (0, None), (0, Some(100_000)), (0, Some(1))] {
        let client = Client::new(ClientOptions { whole, chunk, ..quick() });
        for size in [0, 1, 2, 100_000, 300_001] {
            if chunk == Some(1) && size > 2 {
                continue;
            }
            let name = format!("b{}-{}-{size}", whole.min(1), chunk.unwrap_or(0));
            let repository = repository(&host, &name);
            let content = bytes(size);
            let digest = put_blob(&client, &repository, &content);
            assert!(client.has_blob(&repository, &digest).unwrap(), "{name}");
            assert!(read_blob(&client, &repository, &digest, size as u64) == content, "{name}");
        }
    }
}

#[test]
fn a_wrong_size_digest_or_source_is_never_stored() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let repository = repository(&registry.address.to_string(), "a");
    let lying = Digest::of(b"another tool pushed it");
    let fault = client.upload(&repository, &lying, 3, &b"abc".to_vec()).unwrap_err().to_string();
    assert!(fault.contains("DIGEST_INVALID") && fault.contains("whether the file changed"), "{fault}");
    assert!(!client.has_blob(&repository, &lying).unwrap());

    let short = Digest::of(b"abcd");
    let fault = client.upload(&repository, &short, 4, &b"abc".to_vec()).unwrap_err().to_string();
    assert!(fault.contains("shorter than was said"), "{fault}");
    let fault = client.upload(&repository, &short, 4, &std::path::PathBuf::from("/nonexistent")).unwrap_err();
    assert!(fault.to_string().contains("cannot be read"), "{fault}");

    let digest = put_blob(&client, &repository, b"abcd");
    let fault = client.blob(&repository, &digest, 9, &mut Vec::new()).unwrap_err().to_string();
    assert!(fault.contains("has 4 bytes, its descriptor says 9"), "{fault}");
    let fault = client.blob_bytes(&repository, &digest, 3).unwrap_err().to_string();
    assert!(fault.contains("more than 3 bytes"), "{fault}");
}

#[test]
fn mounts_take_a_blob_along() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let host = registry.address.to_string();
    let (one, two) = (repository(&host, "one"), repository(&host, "two"));
    let digest = put_blob(&client, &one, b"shared");
    assert!(matches!(client.mount(&two, &digest, &one).unwrap(), Mount::Mounted));
    assert_eq!(read_blob(&client, &two, &digest, 6), b"shared");

    let other = Digest::of(b"other");
    let Mount::Session(session) = client.mount(&two, &other, &one).unwrap() else { panic!("nothing to mount") };
    client.upload_into(session, &other, 5, &b"other".to_vec()).unwrap();
    assert!(client.has_blob(&two, &other).unwrap());
    let Mount::Session(session) = client.mount(&two, &Digest::of(b"third"), &one).unwrap() else { panic!() };
    client.cancel(session).unwrap();
}

#[test]
fn tags_are_listed_in_order() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let repository = repository(&registry.address.to_string(), "a");
    let manifest = manifest_over(&client, &repository, "x");
    let wanted: Vec<Tag> = ["a", "b.1", "latest"].iter().map(|tag| tag.parse().unwrap()).collect();
    for tag in wanted.iter().rev() {
        client.put_manifest(&repository, tag, MANIFEST, &manifest).unwrap();
    }
    assert_eq!(client.tags(&repository).unwrap(), Answer::Present(wanted));
}

#[test]
fn passwords_are_asked_for_and_taken() {
    let Some(registry) = RealRegistry::start(true) else { return };
    let host = registry.address.to_string();
    let repository = repository(&host, "a");
    let login = |password: &str| {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(r#"{{"auths": {{"{host}": {{"username": "{USER}", "password": "{password}"}}}}}}"#);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let credentials = Credentials { folder: Some(folder.path().to_owned()), path: None };
        (Client::new(ClientOptions { credentials, ..quick() }), folder)
    };
    let (client, _folder) = login(PASSWORD);
    client.ping(&host).unwrap();
    let digest = put_blob(&client, &repository, b"secret things");
    assert_eq!(read_blob(&client, &repository, &digest, 13), b"secret things");
    assert_eq!(client.manifest(&repository, Tag::latest()).unwrap(), Answer::Absent);

    let (wrong, _folder) = login("wr0ng");
    for client in [wrong, Client::new(quick())] {
        let fault = client.manifest(&repository, Tag::latest()).unwrap_err();
        let text = fault.to_string();
        assert_eq!(fault.exit, xtask_model::fault::Exit::Network);
        assert!(text.contains("401") && text.contains(&format!("docker login {host}")), "{text}");
        assert!(!text.contains("wr0ng"), "{text}");
        assert!(client.ping(&host).is_err());
    }
}

/// Sends a blob through a proxy with these mishaps, and looks whether it has arrived.
#[track_caller]
fn arrives(registry: &RealRegistry, options: ClientOptions, size: usize, prepare: impl Fn(&FaultProxy)) -> FaultProxy {
    let proxy = FaultProxy::before(registry.address);
    prepare(&proxy);
    let client = Client::new(options);
    let repository = repository(&proxy.host(), &format!("r{}", proxy.host().rsplit(':').next().unwrap()));
    let content = bytes(size);
    let digest = put_blob(&client, &repository, &content);
    assert!(read_blob(&client, &repository, &digest, size as u64) == content);
    proxy
}

#[test]
fn uploads_survive_every_kind_of_cut() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let pieces = || ClientOptions { whole: 0, chunk: Some(700_000), ..quick() };
    let uploads = "/blobs/uploads/";
    arrives(&registry, pieces(), 3_000_000, |proxy| {
        proxy.on("PATCH", uploads, 3, Mishap::CutRequest(100_000));
    });
    arrives(&registry, pieces(), 3_000_000, |proxy| {
        proxy.on_after(1, "PATCH", uploads, 2, Mishap::LoseAnswer);
    });
    let proxy = arrives(&registry, pieces(), 3_000_000, |proxy| {
        proxy.on("PUT", uploads, 1, Mishap::LoseAnswer);
    });
    // The blob existed; only the answer was lost.
    assert_eq!(proxy.count("POST", uploads), 1);
    arrives(&registry, pieces(), 3_000_000, |proxy| {
        let gone = fault_proxy::Answer::new(404).body(r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#);
        proxy.on_after(2, "PATCH", uploads, 1, Mishap::Answer(gone));
    });
    arrives(&registry, quick(), 1_000_000, |proxy| {
        proxy.on("PUT", uploads, 1, Mishap::CutRequest(500_000));
    });
    arrives(&registry, quick(), 1_000_000, |proxy| {
        proxy.on("PUT", uploads, 1, Mishap::LoseAnswer);
    });
    arrives(&registry, quick(), 1_000_000, |proxy| {
        let busy = fault_proxy::Answer::new(429).header("retry-after", "0");
        proxy.on("*", uploads, 2, Mishap::Answer(busy)).on("POST", uploads, 1, Mishap::Hangup);
    });
}

#[test]
fn an_upload_that_never_succeeds_ends() {
    let Some(registry) = RealRegistry::start(false) else { return };
    for mishap in [
        Mishap::CutRequest(10),
        Mishap::LoseAnswer,
        Mishap::Hangup,
        Mishap::Answer(fault_proxy::Answer::new(503)),
        Mishap::Answer(fault_proxy::Answer::new(404)),
        Mishap::Header("range".to_owned(), "0-0".to_owned()),
    ] {
        let proxy = FaultProxy::before(registry.address);
        proxy.on("PATCH", "/blobs/uploads/", usize::MAX, mishap);
        let options = ClientOptions { whole: 0, retry_budget: Duration::from_millis(300), ..quick() };
        let client = Client::new(options);
        let repository = repository(&proxy.host(), "never");
        let content = bytes(100_000);
        let result = client.upload(&repository, &Digest::of(&content), 100_000, &content);
        // An answer that is lost, or that says too little, may come right by asking; everything else is a fault.
        if let Err(fault) = result {
            assert_eq!(fault.exit, xtask_model::fault::Exit::Network);
        }
        assert!(proxy.seen().len() < 60, "{}", proxy.seen().len());
    }
}

#[test]
fn a_download_resumes_where_it_was_cut() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let proxy = arrives(&registry, quick(), 3_000_000, |proxy| {
        proxy.on("GET", "/blobs/sha256", 3, Mishap::CutAnswer(900_000));
    });
    let ranges: Vec<_> = proxy
        .seen()
        .iter()
        .filter(|s| s.method == "GET")
        .filter_map(|s| s.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["bytes=900000-", "bytes=1800000-", "bytes=2700000-"]);
}

#[test]
fn changed_bytes_are_never_believed() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let proxy = FaultProxy::before(registry.address);
    let repository = repository(&proxy.host(), "a");
    let manifest = manifest_over(&client, &repository, "x");
    let digest = client.put_manifest(&repository, Tag::latest(), MANIFEST, &manifest).unwrap();
    let blob = put_blob(&client, &repository, b"some bytes");
    proxy.on("GET", "", usize::MAX, Mishap::Garble);
    for fault in [
        client.manifest(&repository, Tag::latest()).unwrap_err(),
        client.manifest(&repository, digest).unwrap_err(),
        client.blob_bytes(&repository, &blob, 100).map(|_| ()).unwrap_err(),
    ] {
        assert!(fault.to_string().contains("sha256:"), "{fault}");
    }
}

/// Bytes that are made as they are read.
struct Endless;

impl BlobSource for Endless {
    fn open(&self, _: u64) -> std::io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::io::repeat(b'x')))
    }
}

#[test]
fn memory_does_not_grow_with_the_blob() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let repository = repository(&registry.address.to_string(), "big");
    let size = 300_000_000_u64;
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    let piece = vec![b'x'; 1_000_000];
    (0..300).for_each(|_| sha2::Digest::update(&mut hash, &piece));
    let digest = Digest::from_bytes(sha2::Digest::finalize(hash).into());
    client.upload(&repository, &digest, size, &Endless).unwrap();
    client.blob(&repository, &digest, size, &mut std::io::sink()).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let kilobytes: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    println!("peak resident memory {peak}");
    // Other tests of this process hold a few megabytes each.
    assert!(kilobytes < 200_000, "{peak}");
}

#[test]
fn threads_share_connections() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(quick());
    let proxy = FaultProxy::before(registry.address);
    let repository = repository(&proxy.host(), "many");
    let digests: BTreeSet<Digest> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let (client, repository) = (&client, &repository);
                scope.spawn(move || put_blob(client, repository, format!("blob {number}").as_bytes()))
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert_eq!(digests.len(), 8);
    assert!(digests.iter().all(|digest| client.has_blob(&repository, digest).unwrap()));
}

#[test]
fn the_proxy_passes_chunked_uploads_on() {
    use std::io::Write;
    let Some(registry) = RealRegistry::start(false) else { return };
    let proxy = FaultProxy::before(registry.address);
    let host = proxy.host();
    let ask = |request: String| {
        let mut stream = std::net::TcpStream::connect(&host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let begun = ask(format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"));
    let location = begun.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    // A registry builds its addresses from the host it was asked by, so that the proxy stays in between.
    let target = location.strip_prefix(&format!("http://{host}")).unwrap();
    let chunks = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let sent = ask(format!("PATCH {target} HTTP/1.1\r\nhost: {host}\r\n{chunks}"));
    assert!(sent.starts_with("HTTP/1.1 202") && sent.contains("range: 0-10"), "{sent}");
    let seen = proxy.seen().pop().unwrap();
    assert_eq!((seen.body.as_slice(), seen.length), (&b"hello world"[..], 11));
}
