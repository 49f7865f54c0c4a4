//! Nothing of the host's secrets in an argument, a report, a layer, a history or a log.

use crate::fixture::Repo;
use std::io::Read as _;

const INDEX: &str = "m4rker-1ndex";
const PROXY: &str = "m4rker-pr0xy";
const NETRC: &str = "m4rker-netrc";
const CA: &str = "m4rker-c3rt";
const SECRETS: [&str; 4] = [INDEX, PROXY, NETRC, CA];

/// Reads each secret, by the beginning of its marker, and leaves nothing of it but whether it was present.
const BASE: &str = "\
ARG ROOT_IMAGE
FROM ${ROOT_IMAGE} AS packages
RUN --mount=type=secret,id=ca --mount=type=secret,id=index-url --mount=type=secret,id=netrc,target=/run/netrc \\
    mkdir -p /opt/venv && \\
    grep -q m4rker-c3 /run/secrets/ca && grep -q m4rker-1n /run/secrets/index-url && \\
    grep -q m4rker-ne /run/netrc && echo \"$HTTPS_PROXY\" | grep -q m4rker-pr && echo all > /opt/venv/seen
FROM ${ROOT_IMAGE} AS base
COPY --from=packages /opt/venv /opt/venv
";

#[test]
fn secrets_reach_the_build_and_nothing_else() {
    let Some(repo) = Repo::new("secrets") else { return };
    repo.write("dockerfiles/Dockerfile.base", BASE).write("dockerfiles/check.txt", "").commit("secrets");
    repo.write("target/ca.pem", CA).write("target/netrc", &format!("machine example.com login a password {NETRC}\n"));
    let call = |args: &[&str]| {
        repo.xtask(args)
            .env("PIP_INDEX_URL", format!("https://user:{INDEX}@index.invalid/simple"))
            .env("HTTPS_PROXY", format!("http://user:{PROXY}@127.0.0.1:1"))
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("SSL_CERT_FILE", repo.path.join("target/ca.pem"))
            .env("NETRC", repo.path.join("target/netrc"))
    };
    let dry = call(&["build", "--push", "--dry-run", "-v"]).run().ok();
    assert!(dry.stdout.contains("--secret id=index-url,src="), "{}", dry.stdout);
    let said = call(&["build", "--push", "--format", "json", "-v"]).run().ok();
    let report = said.report();
    for secret in SECRETS {
        for text in [&dry.stdout, &dry.stderr, &said.stdout, &said.stderr] {
            assert!(!text.contains(secret), "{secret} is shown:\n{text}");
        }
    }
    for kind in ["base", "app"] {
        let reference = report.text(kind, "reference");
        let (args, printed) =
            if kind == "base" { (&["cat", "/opt/venv/seen"][..], "all") } else { (&[][..], "<p>one</p>") };
        assert_eq!(repo.run(&reference, args), printed);
        let history = repo.engine.docker(&["history", "--no-trunc", &reference]);
        let archive = repo.path.join(format!("target/{kind}.tar"));
        repo.engine.docker(&["save", "-o", archive.to_str().unwrap(), &reference]);
        let bytes = unpacked(&archive);
        for secret in SECRETS {
            assert!(!history.contains(secret), "{history}");
            assert!(!contains(&bytes, secret.as_bytes()), "{secret} is in the {kind}");
        }
        // The search finds what it should: the Dockerfile in the key's label, the template in its layer.
        assert_eq!(contains(&bytes, b"m4rker-1n"), kind == "base");
        assert_eq!(contains(&bytes, b"<p>one</p>"), kind == "app");
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Every file of a saved image, layers decompressed; without the root's own layer, which is the one big thing.
fn unpacked(archive: &std::path::Path) -> Vec<u8> {
    let mut found = Vec::new();
    let mut tar = tar::Archive::new(std::fs::File::open(archive).unwrap());
    for entry in tar.entries().unwrap() {
        let mut bytes = Vec::new();
        entry.unwrap().read_to_end(&mut bytes).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
            bytes = plain;
        }
        if bytes.len() < 500_000 {
            found.extend(bytes);
        }
    }
    found
}

#[test]
fn a_failing_build_shows_no_secret() {
    let Some(repo) = Repo::new("failing") else { return };
    repo.write(
        "dockerfiles/Dockerfile.base",
        "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nRUN --mount=type=secret,id=index-url false\n",
    );
    let said = repo
        .xtask(&["build", "--push", "-v"])
        .env("PIP_INDEX_URL", format!("https://user:{INDEX}@index.invalid/simple"))
        .env("HTTPS_PROXY", format!("http://user:{PROXY}@127.0.0.1:1"))
        .env("NO_PROXY", "127.0.0.1,localhost")
        .run()
        .ends(4);
    said.says("dockerfiles/Dockerfile.base").keeps(INDEX).keeps(PROXY);
    assert!(repo.tags("app-base").is_empty());
}
