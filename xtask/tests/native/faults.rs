//! A registry that is slow, breaks off, refuses, forgets and lies: the build ends right, or with the exit code of the table;
//! nothing that is not whole has a name, `latest` moves with success alone, and the next build heals.

use crate::fault_proxy::{Answer, FaultProxy, Mishap, Request};
use crate::fixture::{Outcome, actions};
use crate::world::{NAMES, World};
use std::time::{Duration, Instant};
use xtask_model::spec::reference::Digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn refusal(status: u16, code: &str) -> Answer {
    Answer::new(status).body(format!("{{\"errors\": [{{\"code\": \"{code}\", \"message\": \"as scripted\"}}]}}"))
}

/// Published once, then edited so that base and app are to be built.
fn edited(name: &str) -> Option<World> {
    let world = World::new(name)?;
    world.repo.push();
    world.repo.write("dockerfiles/check.txt", &format!("{name}\n").repeat(20_000));
    world.repo.write("templates/page.html", name).commit("edit");
    Some(world)
}

fn latest(world: &World) -> [String; 2] {
    NAMES.map(|name| world.repo.digest(name, "latest"))
}

/// A build with a mishap ends with this code, and what it leaves is right either way.
#[track_caller]
fn ends(world: &World, code: i32, mishap: impl FnOnce(&FaultProxy)) -> Outcome {
    let before = latest(world);
    mishap(&world.proxy);
    let outcome = world.repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ends(code);
    world.proxy.clear();
    world.is_whole();
    if code == 0 {
        let report = outcome.report();
        assert_eq!(latest(world), [report.digest("base"), report.digest("app")]);
    } else {
        assert_eq!(outcome.stdout, "");
        assert_eq!(latest(world)[1], before[1], "`latest` of the app moved");
        // A later one without trouble.
        let healed = world.repo.push();
        assert_eq!(healed.action("app"), "built");
        assert_eq!(latest(world), [healed.digest("base"), healed.digest("app")]);
        world.is_whole();
    }
    outcome
}

/// The build goes through.
#[track_caller]
fn passes(name: &str, mishap: impl FnOnce(&FaultProxy)) {
    let Some(world) = edited(name) else { return };
    ends(&world, 0, mishap);
}

/// The build fails as the registry's failures do, and says this.
#[track_caller]
fn fails(name: &str, says: &str, mishap: impl FnOnce(&FaultProxy)) {
    let Some(world) = edited(name) else { return };
    ends(&world, 5, mishap).says("error: ").says(says).keeps("panicked");
}

#[test]
fn slow_answers() {
    passes("slow", |proxy| _ = proxy.on("*", "/v2/", 20, Mishap::Delay(Duration::from_millis(100))));
}

#[test]
fn connections_that_are_interrupted() {
    passes("cut", |proxy| {
        proxy.on("PUT", "/blobs/uploads/", 1, Mishap::CutRequest(100));
        proxy.on("HEAD", "/v2/", 1, Mishap::Hangup);
        proxy.on("GET", "/app/manifests/", 1, Mishap::CutAnswer(10));
        proxy.on("PUT", "/manifests/", 1, Mishap::LoseAnswer);
    });
}

#[test]
fn connections_that_are_always_interrupted() {
    fails("alwayscut", "cannot upload the blob", |proxy| {
        proxy.on("PUT", "/blobs/uploads/", usize::MAX, Mishap::CutRequest(100));
    });
}

#[test]
fn too_many_requests_with_a_time_to_wait() {
    let Some(world) = edited("busy") else { return };
    let began = Instant::now();
    ends(&world, 0, |proxy| {
        let busy = || Mishap::Answer(Answer::new(429).header("retry-after", "1"));
        proxy.on("POST", "/blobs/uploads/", 1, busy()).on("PUT", "/manifests/", 1, busy());
    });
    assert!(began.elapsed() >= Duration::from_secs(2), "it waited {:?}", began.elapsed());
}

#[test]
fn too_many_requests_beyond_the_retry_limit() {
    fails("busyforever", "3600 s", |proxy| {
        let busy = Answer::new(429).header("retry-after", "3600");
        proxy.on("POST", "/blobs/uploads/", usize::MAX, Mishap::Answer(busy));
    });
}

#[test]
fn temporary_internal_errors() {
    passes("fivehundred", |proxy| {
        let broken = || Mishap::Answer(Answer::new(500));
        proxy.on("PUT", "/blobs/uploads/", 1, broken()).on("PUT", "/manifests/sha256", 1, broken());
        proxy.on("HEAD", "/blobs/", 1, broken());
    });
}

/// The manifest arrives, the index that would name it does not.
#[test]
fn internal_errors_before_any_tag() {
    fails("noindex", "500", |proxy| {
        let index = |request: &Request| request.header("content-type") == Some(INDEX);
        proxy.on_where("PUT", "/manifests/", index, Mishap::Answer(Answer::new(500)));
    });
}

#[test]
fn a_token_that_expires_during_a_build() {
    let tokens = FaultProxy::alone();
    tokens.reply("GET", "/token", |_| Answer::new(200).body("{\"token\": \"new\"}"));
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", tokens.host());
    let Some(world) = edited("spent") else { return };
    ends(&world, 0, |proxy| {
        let spent = refusal(401, "UNAUTHORIZED").header("www-authenticate", challenge);
        proxy.on("PUT", "/blobs/uploads/", 1, Mishap::Answer(spent));
    });
    assert!(tokens.seen()[0].target.contains("pull,push"), "{:?}", tokens.seen());
    let shown = |request: &Request| request.header("authorization") == Some("Bearer new");
    assert!(world.proxy.seen().iter().any(|request| request.method == "PUT" && shown(request)));
}

#[test]
fn a_login_that_is_rejected_during_a_build() {
    fails("refused", "docker login", |proxy| {
        let refused = refusal(401, "UNAUTHORIZED").header("www-authenticate", "Basic realm=\"test\"");
        proxy.on("PUT", "/blobs/uploads/", usize::MAX, Mishap::Answer(refused));
    });
}

#[test]
fn an_upload_that_the_registry_forgets() {
    passes("forgets", |proxy| {
        let forgotten = || Mishap::Answer(refusal(404, "BLOB_UPLOAD_UNKNOWN"));
        proxy.on("PUT", "/blobs/uploads/", 2, forgotten());
    });
}

#[test]
fn a_registry_that_forgets_every_upload() {
    fails("forgetsall", "the upload was begun 5 times", |proxy| {
        let forgotten = Mishap::Answer(refusal(404, "BLOB_UPLOAD_UNKNOWN"));
        proxy.on("PUT", "/blobs/uploads/", usize::MAX, forgotten);
    });
}

/// An answer about something else than was asked or sent, for requests of this method and target.
#[track_caller]
fn lies(name: &str, method: &str, part: &str) {
    let other = Digest::of(b"another").to_string();
    fails(name, &other, |proxy| {
        proxy.on(method, part, usize::MAX, Mishap::Header("docker-content-digest".to_owned(), other.clone()));
    });
}

#[test]
fn a_wrong_digest_for_what_was_uploaded() {
    lies("liesblob", "PUT", "/blobs/uploads/");
}

#[test]
fn a_wrong_digest_for_the_manifest_that_was_written() {
    lies("liesput", "PUT", "/manifests/sha256");
}

#[test]
fn a_wrong_digest_for_the_manifest_that_is_read() {
    lies("liesget", "GET", "/manifests/");
}

#[test]
fn a_manifest_of_the_wrong_type() {
    fails("type", "text/html", |proxy| {
        let html = Mishap::Header("content-type".to_owned(), "text/html".to_owned());
        proxy.on("GET", "/manifests/sha256", usize::MAX, html);
    });
    // An index that is said to be a manifest.
    fails("typeindex", "its content says", |proxy| {
        let manifest = "application/vnd.oci.image.manifest.v1+json".to_owned();
        proxy.on("GET", "/manifests/latest", usize::MAX, Mishap::Header("content-type".to_owned(), manifest));
    });
}

#[test]
fn a_garbled_document() {
    fails("garbled", "have the digest", |proxy| {
        proxy.on("GET", "/blobs/", usize::MAX, Mishap::Garble);
    });
}

/// A cold runner with an app that has to read its base, whose layers the registry damages.
#[track_caller]
fn damaged_base(name: &str, code: i32, mishap: impl FnOnce(&FaultProxy, &str)) -> Option<Outcome> {
    let world = World::new(name)?;
    world.repo.edit("dockerfiles/Dockerfile.fast", "COPY --link --chown=0:0 templates", "COPY --chown=0:0 templates");
    world.repo.commit("unlinked");
    let base = world.repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let layers = world.manifest("app-base", &base.digest("base")).layers;
    mishap(&world.proxy, &format!("/blobs/{}", layers[0].digest));
    let runner = world.repo.clone("runner");
    let call = || runner.xtask(&["build", "--push", "--format", "json"]).without_engine();
    let outcome = call().run().ends(code);
    world.proxy.clear();
    world.is_whole();
    if code != 0 {
        assert!(world.repo.tags("app").is_empty());
    }
    // What was spoilt has not been kept.
    let report = call().run().ok().report();
    assert_eq!(report.action("base"), "reused");
    world.is_whole();
    world.wipe();
    let calm = world.repo.clone("calm").xtask(&["build", "--push", "--format", "json"]).run().ok().report();
    assert_eq!(calm.image("app")["platforms"], report.image("app")["platforms"]);
    Some(outcome)
}

#[test]
fn a_truncated_layer_is_requested_again() {
    damaged_base("truncated", 0, |proxy, layer| _ = proxy.on("GET", layer, 2, Mishap::CutAnswer(1000)));
}

#[test]
fn a_layer_that_never_arrives() {
    let said = damaged_base("truncatedalways", 5, |proxy, layer| {
        proxy.on("GET", layer, usize::MAX, Mishap::CutAnswer(0));
    });
    said.map(|said| said.says("broke off"));
}

#[test]
fn a_garbled_layer() {
    let said = damaged_base("garbledlayer", 5, |proxy, layer| _ = proxy.on("GET", layer, usize::MAX, Mishap::Garble));
    said.map(|said| said.says("have the digest").keeps("panicked"));
}

#[test]
fn a_layer_that_the_registry_lost_is_made_again() {
    let Some(world) = World::new("lost") else { return };
    world.repo.push();
    let lost = world.manifest("app", "latest").layers;
    // The app's own layer of its code, which an edit of the template names again.
    let code = &lost[lost.len() - 2];
    world.lose("app", &code.digest);
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let said = world.repo.clone("runner").xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok();
    assert_eq!(said.report().actions(), actions("reused", "built"));
    said.says("the registry lost layers that its manifests name; building them again");
    assert!(world.manifest("app", "latest").layers.iter().any(|layer| layer.digest == code.digest));
    world.is_whole();
}

#[test]
fn a_lost_base_layer_is_mounted_again() {
    let Some(world) = World::new("lostbeneath") else { return };
    world.repo.push();
    let base = world.manifest("app-base", "latest").layers;
    world.lose("app", &base[1].digest);
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let (said, traffic) = world.traffic(|| world.repo.xtask(&["build", "--push", "--format", "json"]).run());
    assert_eq!(said.ok().report().actions(), actions("reused", "built"));
    assert!(traffic.mounted() > 0);
    assert_eq!(traffic.read(&base), vec![0; base.len()]);
    world.is_whole();
}

#[test]
fn layers_are_uploaded_to_a_registry_without_mounts() {
    let Some(world) = World::new("nomount") else { return };
    let base = world.repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let below = world.manifest("app-base", &base.digest("base")).layers;
    // It begins an upload instead, as one may that keeps its repositories apart.
    let host = world.proxy.host();
    let straight = world.repo.repository("app");
    let begin = move |request: &Request| {
        assert!(request.target.contains("from="), "{}", request.target);
        Answer::new(202).header("location", format!("http://{host}/v2/{}/blobs/uploads/none", straight.path()))
    };
    world.proxy.reply("POST", "mount=", begin);
    let (said, traffic) = world.traffic(|| world.repo.xtask(&["build", "--push", "--format", "json"]).run());
    assert_eq!(said.ok().report().actions(), actions("reused", "built"));
    assert_eq!(traffic.read(&below), vec![1; below.len()]);
    world.is_whole();
}
