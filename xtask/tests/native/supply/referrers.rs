//! A registry with the referrers API of OCI 1.1: the real one, before which a proxy answers what it lacks.

use super::Signed;
use crate::fault_proxy::{Answer, Mishap, Request};
use crate::fixture::client;
use crate::supply::readers::KINDS;
use crate::supply::tools::cosign;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use xtask_host::registry::attach::{self, Artifact};
use xtask_model::spec::oci::media_type;

/// The referrers of `GET /v2/NAME/referrers/DIGEST`, by the manifests in a registry's folder.
fn referrers(store: &Path, request: &Request) -> Answer {
    let path = request.target.split('?').next().unwrap_or_default();
    let (name, subject) = path.strip_prefix("/v2/").unwrap().split_once("/referrers/").unwrap();
    let store = store.join("docker/registry/v2");
    let revisions = store.join("repositories").join(name).join("_manifests/revisions/sha256");
    let mut manifests = Vec::new();
    let listed = std::fs::read_dir(revisions).into_iter().flatten().flatten().map(|entry| entry.path());
    // What is deleted has lost its link.
    let mut digests: Vec<PathBuf> = listed.filter(|digest| digest.join("link").is_file()).collect();
    digests.sort();
    for digest in digests {
        let hex = digest.file_name().unwrap().to_str().unwrap();
        let Ok(bytes) = std::fs::read(store.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))) else { continue };
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        if manifest["subject"]["digest"] == subject {
            let mut one =
                json!({"mediaType": media_type::MANIFEST, "digest": format!("sha256:{hex}"), "size": bytes.len()});
            for field in ["artifactType", "annotations"] {
                if let Some(value) = manifest.get(field) {
                    one[field] = value.clone();
                }
            }
            manifests.push(one);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests});
    Answer::new(200).header("content-type", media_type::INDEX).body(index.to_string())
}

/// Answers as a registry with the API does.
fn with_api(signed: &Signed) {
    let store = signed.world.store().to_owned();
    let proxy = &signed.world.proxy;
    proxy.reply("GET", "/referrers/", move |request| referrers(&store, request));
    proxy.on("PUT", "/manifests/", usize::MAX, Mishap::Header("oci-subject".to_owned(), "listed".to_owned()));
}

#[test]
fn a_registry_with_the_referrers_api_lists_what_is_attached_by_itself() {
    let Some(signed) = Signed::new("api") else { return };
    with_api(&signed);
    let (app, traffic) = signed.world.traffic(|| signed.push());
    let written = traffic.writes();
    let is_index =
        |one: &&String| one.contains("/manifests/sha256-") && !one.ends_with(".sig") && !one.ends_with(".att");
    assert_eq!(written.iter().find(is_index), None, "the fallback tag was written");
    assert!(written.iter().any(|one| one.ends_with(".sig")), "{written:#?}");
    signed.call(&["verify", &app.to_string()]).ok();
    let manifest = signed.manifest("app", &app);
    let repository = signed.repo().repository("app");
    for (kind, media_type) in KINDS.iter().take(2) {
        let attached = attach::find(&client(), &repository, &manifest.digest, media_type).unwrap();
        assert_eq!(attached.len(), 1, "{kind}");
    }
    // An SBOM that the build did not make takes the place of its own, and the next build's the place of that.
    let lie = Artifact::of(KINDS[1].1, b"{\"packages\": []}".to_vec());
    attach::attach(&client(), &repository, &manifest, &[lie]).unwrap();
    signed.refuses(&app, "its SBOM is not the one in its provenance");
    let own = attach::find(&client(), &repository, &manifest.digest, KINDS[1].1).unwrap();
    assert_eq!(own.len(), 1, "the older one was not deleted");
    signed.call(&["build", "--push", "--force"]).ok();
    signed.call(&["verify", &app.to_string()]).ok();
    // Where nothing may be deleted, both stay, and the image is refused until one is removed.
    let refusal = Answer::new(405).body("{\"errors\": [{\"code\": \"UNSUPPORTED\"}]}");
    signed.world.proxy.on("DELETE", "/manifests/", usize::MAX, Mishap::Answer(refusal));
    let lie = Artifact::of(KINDS[1].1, b"{\"packages\": []}".to_vec());
    let through = signed.world.repo.repository("app");
    let lie = attach::attach(&client(), &through, &manifest, &[lie]).unwrap();
    signed.refuses(&app, "an SBOM is attached that is not in its provenance");
    signed.world.proxy.clear();
    with_api(&signed);
    client().delete_manifest(&repository, lie[0].digest).unwrap();
    signed.call(&["verify", &app.to_string()]).ok();
    // An edit after it: the base's SBOM is found by the API, and nothing of it is read again.
    let elsewhere = signed.repo().clone("elsewhere");
    elsewhere.write("templates/page.html", "two").commit("two");
    let call = elsewhere.xtask(&["build", "--push"]).env("XTASK_SIGNING_KEY_FILE", &signed.key).without_engine();
    let base = signed.world.manifest("app-base", "latest");
    let (_, traffic) = signed.world.traffic(|| call.run().ok());
    assert_eq!(traffic.read(&base.layers), vec![0; base.layers.len()], "layers of the base were downloaded");
    let Some(cosign) = cosign() else { return };
    let mut cosign = Command::new(cosign);
    let flags = ["verify", "--insecure-ignore-tlog=true", "--allow-http-registry=true", "--key"];
    let call = cosign.args(flags).arg(signed.repo().path.join("sign.pub")).arg(app.to_string());
    super::runs(call.env("HOME", signed.repo().path.join("target")));
}

#[test]
fn referrers_that_are_slow_or_refused_leave_every_tag_where_it_was() {
    let Some(signed) = Signed::new("slow") else { return };
    with_api(&signed);
    signed.push();
    let latest = || signed.repo().digest("app", "latest");
    let build = |page: &str, times: usize, mishap: Mishap| {
        signed.repo().write("templates/page.html", page).commit(page);
        signed.world.proxy.clear();
        // The first is the image's own manifest, which no tag names yet.
        signed.world.proxy.on_after(1, "PUT", "/app/manifests/sha256", times, mishap);
        with_api(&signed);
        signed.call(&["build", "--push"])
    };
    let refusal = Answer::new(403).body("{\"errors\": [{\"code\": \"DENIED\", \"message\": \"as scripted\"}]}");
    let before = latest();
    build("refused", usize::MAX, Mishap::Answer(refusal))
        .ends(5)
        .says("no tag of the image was moved")
        .says("as scripted");
    assert_eq!(latest(), before);
    let busy = Answer::new(503).header("retry-after", "0");
    for (page, times, mishap) in [
        ("busy", 2, Mishap::Answer(busy)),
        ("lost", 1, Mishap::LoseAnswer),
        ("slow", usize::MAX, Mishap::Delay(Duration::from_millis(300))),
    ] {
        let app = build(page, times, mishap).ok().reference();
        assert_eq!(latest(), app.digest.unwrap().to_string(), "{page}");
        let manifest = signed.manifest("app", &app);
        let repository = signed.repo().repository("app");
        let attached = attach::find(&client(), &repository, &manifest.digest, KINDS[0].1).unwrap();
        assert_eq!(attached.len(), 1, "{page}: attached twice");
        signed.call(&["verify", &app.to_string()]).ok();
    }
}
