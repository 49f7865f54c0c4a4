//! Signatures: read by cosign, made by cosign, and by an identity of CI.

use super::{Signed, new_key, public_of, runs};
use crate::fault_proxy::{Answer, FaultProxy};
use crate::fixture::{Outcome, client};
use crate::supply::tools::{cosign, path_with};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use xtask_host::registry::attach;
use xtask_model::supply::provenance;

#[test]
fn an_attested_image_is_verified_by_us_and_by_cosign() {
    let Some(signed) = Signed::new("attested") else { return };
    let (app, traffic) = signed.world.traffic(|| signed.push());
    let name = app.to_string();
    let verified = signed.call(&["verify", &name, "--format", "json"]).ok();
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(xtask::documents::VERIFY.unlisted(&verified), [""; 0], "{verified:#}");
    let checks = verified["checks"].to_string();
    for check in ["signature of the index", "signature for linux", "SBOMs for linux", "gives its key"] {
        assert!(checks.contains(check), "{check}: {checks}");
    }
    let base = signed.repo().published("app-base", "latest").unwrap();
    let base = signed.repo().repository("app-base").digest(base.digest).to_string();
    signed.call(&["verify", &base]).ok();
    // Everything was attached before the first tag that people use.
    let writes = traffic.writes();
    let first_tag = writes
        .iter()
        .position(|one| one.ends_with("/app/manifests/main") || one.ends_with("/app/manifests/latest"))
        .unwrap();
    let last_attached = writes.iter().rposition(|one| one.contains("/app/manifests/sha256-")).unwrap();
    assert!(last_attached < first_tag, "{writes:#?}");

    // A template edit, for its times.
    signed.repo().write("templates/page.html", "edit").commit("edit");
    let build = || signed.call(&["build", "--push", "--format", "json"]).ok().report();
    let (report, traffic) = signed.world.traffic(build);
    println!("template edit: {} requests", traffic.0.len());
    println!("template edit: {} s of {}", report.0["seconds"], report.image("app")["seconds"]);
    let (again, traffic) = signed.world.traffic(|| signed.call(&["build", "--push", "--format", "json"]).ok().report());
    println!("nothing to do: {} s", again.0["seconds"]);
    assert_eq!(traffic.writes(), [""; 0], "what is signed is not signed again");

    let Some(cosign) = cosign() else { return };
    let key = signed.repo().path.join("sign.pub");
    let flags = ["--insecure-ignore-tlog=true", "--allow-http-registry=true", "--key"];
    let home = tempfile::tempdir().unwrap();
    let cosign = |args: &[&str], key: &Path, image: &str| {
        let mut command = Command::new(&cosign);
        command.args(args).args(flags).arg(key).arg(image).env("HOME", home.path());
        command
    };
    let tag = format!("{}:latest", signed.repo().repository("app"));
    for image in [&name, &tag] {
        runs(&mut cosign(&["verify"], &key, image));
    }
    let manifest = signed.repo().repository("app").digest(signed.manifest("app", &app).digest).to_string();
    runs(&mut cosign(&["verify"], &key, &manifest));
    let attested = runs(&mut cosign(&["verify-attestation", "--type", "slsaprovenance1"], &key, &manifest));
    let envelope: Value = serde_json::from_str(attested.lines().next().unwrap()).unwrap();
    assert_eq!(envelope["payloadType"], provenance::MEDIA_TYPE);
    let other = public_of(&new_key(home.path(), "other.key"));
    assert!(!cosign(&["verify"], &other, &name).output().unwrap().status.success(), "another key verifies nothing");
}

#[test]
fn cosign_signs_with_a_key_that_only_it_can_use() {
    let Some(signed) = Signed::new("encrypted") else { return };
    let Some(cosign) = cosign() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut generate = Command::new(&cosign);
    runs(
        generate
            .arg("generate-key-pair")
            .current_dir(folder.path())
            .env("COSIGN_PASSWORD", "p a$s")
            .env("HOME", folder.path()),
    );
    let public = std::fs::read_to_string(folder.path().join("cosign.pub")).unwrap();
    let key = folder.path().join("cosign.key");
    let repo = signed.repo();
    let step = format!("public-key = \"sign.pub\"\ncosign = \"{}\"", key.display());
    repo.write("sign.pub", &public).edit("images.toml", "public-key = \"sign.pub\"", &step).commit("cosign");
    let build = |args: &[&str], password: &str| {
        let call = repo.xtask(&[&["build", "--push"], args].concat()).env("COSIGN_PASSWORD", password);
        call.env("PATH", path_with(&cosign)).without_engine().run()
    };
    let app = build(&["--verbose"], "p a$s").ok().keeps("p a$s").reference();
    signed.call(&["verify", &app.to_string()]).ok();
    repo.write("templates/page.html", "two").commit("two");
    build(&[], "wrong").ends(4).says("cosign");
    assert_eq!(repo.digest("app", "latest"), app.digest.unwrap().to_string(), "no tag moved");
}

/// A stand-in for cosign that writes down how it was called, and signs with a key next to it. It checks what the real one needs.
const RECORDER: &str = r#"#!/bin/sh
set -e
here=$(dirname "$0")
printf '%s\n' "$*" >> "$here/argv"
env >> "$here/env"
[ "$1" = sign-blob ] || exit 64
shift
while [ $# -gt 0 ]; do
    case "$1" in
        --output-signature) signature=$2; shift ;;
        --output-certificate) certificate=$2; shift ;;
        --bundle) bundle=$2; shift ;;
        --key) key=$2; shift ;;
        --*) ;;
        *) message=$1 ;;
    esac
    shift
done
openssl dgst -sha256 -sign "$here/sign.key" "$message" | base64 -w 0 > "$signature"
[ -n "$key" ] && exit 0
[ -n "$SIGSTORE_ID_TOKEN" ] || { echo "no identity" >&2; exit 1; }
printf 'certificate' | base64 -w 0 > "$certificate"
echo '{"rekorBundle": {"Payload": {"logIndex": 7}}}' > "$bundle"
"#;

/// A repository whose images the recorder signs.
struct Recorded {
    signed: Signed,
    folder: tempfile::TempDir,
}

impl Recorded {
    fn new(name: &str, settings: &str) -> Option<Self> {
        let signed = Signed::new(name)?;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("cosign");
        std::fs::write(&program, RECORDER).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(&signed.key, folder.path().join("sign.key")).unwrap();
        signed.repo().edit("images.toml", "public-key = \"sign.pub\"", settings).commit("cosign");
        Some(Self { signed, folder })
    }

    /// `build --push` with these variables, every line of it shown.
    fn build(&self, variables: &[(&str, &str)]) -> Outcome {
        let call = self.signed.repo().xtask(&["build", "--push", "--verbose"]).without_engine();
        let call = call.env("PATH", path_with(&self.folder.path().join("cosign")));
        variables.iter().fold(call, |call, (name, value)| call.env(name, *value)).run()
    }

    fn recorded(&self, what: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(what)).unwrap_or_default()
    }
}

#[test]
fn a_key_of_a_kms_signs_through_cosign() {
    let settings = "public-key = \"sign.pub\"\ncosign = \"awskms:///alias/sign\"";
    let Some(recorded) = Recorded::new("kms", settings) else { return };
    let secret = [("AWS_SECRET_ACCESS_KEY", "m4rker-aws")];
    let app = recorded.build(&secret).ok().keeps("m4rker-aws").reference();
    let argv = recorded.recorded("argv");
    assert!(
        argv.lines().count() >= 5 && argv.lines().all(|line| line.contains("--key awskms:///alias/sign")),
        "{argv}"
    );
    assert!(!argv.contains("m4rker") && recorded.recorded("env").contains("m4rker-aws"), "{argv}");
    recorded.signed.call(&["verify", &app.to_string()]).ok();
    // The service has another key than the policy.
    let repo = recorded.signed.repo();
    std::fs::copy(new_key(recorded.folder.path(), "other.key"), recorded.folder.path().join("sign.key")).unwrap();
    repo.write("templates/page.html", "two").commit("two");
    recorded.build(&secret).ends(2).says("the key of cosign is not the one of the policy");
    assert_eq!(repo.digest("app", "latest"), app.digest.unwrap().to_string(), "no tag moved");
    // A secret in the reference would be an argument; the file of an encrypted key is its owner's alone. Nothing is built.
    let before = recorded.recorded("argv");
    let pin = "cosign = \"pkcs11:token=a?pin-value=1234\"";
    repo.edit("images.toml", "cosign = \"awskms:///alias/sign\"", pin);
    recorded.build(&[]).ends(2).says("has a password in it").says("COSIGN_PKCS11_PIN").keeps("pin-value=1234");
    let key = recorded.folder.path().join("open.key");
    std::fs::write(&key, "encrypted").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    repo.edit("images.toml", pin, &format!("cosign = \"{}\"", key.display()));
    recorded.build(&[]).ends(2).says("its mode is 644").says("chmod 600");
    assert_eq!(recorded.recorded("argv"), before);
}

fn token(audience: &str, issuer: &str) -> String {
    let part =
        |text: &str| xtask_host::signing::base64(text.as_bytes()).replace('+', "-").replace('/', "_").replace('=', "");
    let claims = format!(r#"{{"iss": "{issuer}", "aud": "{audience}", "exp": 4102444800, "sub": "repo:acme/app"}}"#);
    format!("{}.{}.{}", part(r#"{"alg": "none"}"#), part(&claims), part("m4rker-signature"))
}

#[test]
fn an_identity_of_ci_signs_without_a_key() {
    let issuer = "https://token.example.com";
    let settings = format!("cosign = \"keyless\"\nidentity = \"ci@example.com\"\nissuer = \"{issuer}\"");
    let Some(recorded) = Recorded::new("keyless", &settings) else { return };
    let repo = recorded.signed.repo();
    let server = FaultProxy::alone();
    let good = token("sigstore", issuer);
    let give = |token: &str| {
        server.clear();
        let answer = Answer::new(200).body(format!("{{\"value\": \"{token}\"}}"));
        server.reply("GET", "/token", move |_| answer.clone());
    };
    let address = format!("http://{}/token?api-version=2.0", server.host());
    let variables =
        [("ACTIONS_ID_TOKEN_REQUEST_URL", address.as_str()), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "m4rker-request")];
    // No token, another audience, another issuer, a service that refuses: each before anything is built.
    recorded.build(&[]).ends(2).says("there is no identity to sign with").says("id-token: write");
    give(&token("npm", issuer));
    recorded.build(&variables).ends(2).says("is for `npm`, not for `sigstore`");
    give(&token("sigstore", "https://other.example.com"));
    recorded.build(&variables).ends(2).says("by another issuer than the policy's").says("other.example.com");
    server.clear();
    server.reply("GET", "/token", |_| Answer::new(403));
    recorded.build(&variables).ends(5).says("answered 403").says("id-token: write").keeps("m4rker-request");
    // A redirect would take the request's secret elsewhere.
    server.clear();
    let elsewhere = FaultProxy::alone();
    let redirect = Answer::new(302).header("location", format!("http://{}/token", elsewhere.host()));
    server.reply("GET", "/token", move |_| redirect.clone());
    recorded.build(&variables).ends(5).says("answered 302");
    assert!(elsewhere.seen().is_empty());
    assert!(repo.tags("app-base").is_empty() && recorded.recorded("argv").is_empty());

    give(&good);
    let asked = server.seen().len();
    let said = recorded.build(&variables).ok();
    for secret in ["m4rker-request", good.as_str()] {
        assert!(!said.stderr.contains(secret) && !said.stdout.contains(secret), "{said:?}");
    }
    for request in &server.seen()[asked..] {
        assert_eq!(request.target, "/token?api-version=2.0&audience=sigstore");
        assert_eq!(request.header("authorization"), Some("bearer m4rker-request"));
    }
    let (argv, env) = (recorded.recorded("argv"), recorded.recorded("env"));
    assert!(argv.contains("--output-certificate") && !argv.contains("--key"), "{argv}");
    assert!(!argv.contains(&good) && !argv.contains("m4rker"), "{argv}");
    assert!(env.contains(&format!("SIGSTORE_ID_TOKEN={good}")) && !env.contains("ACTIONS_ID_TOKEN"), "{env}");
    // What cosign reads is attached, and neither token is.
    let app = said.reference();
    let (client, repository) = (client(), repo.repository("app"));
    let found = attach::find_tagged(&client, &repository, &app.digest.unwrap(), "sig").unwrap().unwrap();
    let annotations = &found.documents[0].annotations;
    assert_eq!(annotations["dev.sigstore.cosign/certificate"], "certificate");
    assert_eq!(annotations["dev.sigstore.cosign/bundle"], r#"{"Payload":{"logIndex":7}}"#);
    for request in recorded.signed.world.proxy.seen().iter().filter(|request| request.method == "PUT") {
        assert!(!String::from_utf8_lossy(&request.body).contains("m4rker"), "{}", request.target);
    }
}
