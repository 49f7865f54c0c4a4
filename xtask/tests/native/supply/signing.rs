//! Signatures: read by cosign, made by cosign, and by an identity of CI.

use super::{Signed, new_key, public_of, runs};
use crate::supply::tools::{cosign, path_with};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
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
