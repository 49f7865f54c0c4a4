//! Registries, disks and credentials that fail: a clear end, the right exit code, no tag moved, and the next run heals.

use crate::fault_proxy::{Answer, FaultProxy, Mishap};
use crate::fixture::{Outcome, Repo, actions};
use crate::real_engine::engine;
use crate::real_registry::{PASSWORD, RealRegistry, USER};
use base64::Engine as _;
use std::path::Path;
use std::time::Duration;

/// A repository whose registry is reached through a proxy, published once, then edited so that base and app are to be built.
fn behind_proxy(name: &str) -> Option<(Repo, FaultProxy)> {
    let engine = engine()?;
    let proxy = FaultProxy::before(engine.registry().parse().unwrap());
    let repo = Repo::with_registry(name, &proxy.host())?;
    repo.push();
    repo.write("dockerfiles/check.txt", name).write("templates/page.html", name).commit("edit");
    Some((repo, proxy))
}

/// State that a broken build must leave as it was.
struct Before {
    base: String,
    app: String,
    tags: [Vec<String>; 2],
}

impl Before {
    fn of(repo: &Repo) -> Self {
        let tags = ["app-base", "app"].map(|name| repo.tags(name));
        Self { base: repo.digest("app-base", "latest"), app: repo.digest("app", "latest"), tags }
    }

    /// No tag of the app has come or moved, `latest` of the base neither; then a build without trouble heals everything.
    #[track_caller]
    fn heals(&self, repo: &Repo) {
        assert_eq!(repo.digest("app-base", "latest"), self.base);
        assert_eq!(repo.digest("app", "latest"), self.app);
        assert_eq!(["app-base", "app"].map(|name| repo.tags(name)), self.tags);
        let report = repo.push();
        assert_eq!(report.action("app"), "built");
        assert_eq!(repo.digest("app-base", "latest"), report.digest("base"));
        assert_eq!(repo.digest("app", "latest"), report.digest("app"));
    }
}

#[track_caller]
fn breaks(name: &str, code: i32, mishap: impl FnOnce(&FaultProxy)) -> Option<Outcome> {
    let (repo, proxy) = behind_proxy(name)?;
    let before = Before::of(&repo);
    mishap(&proxy);
    let said = repo.xtask(&["build", "--push"]).run().ends(code);
    assert_eq!(said.stdout, "");
    proxy.clear();
    before.heals(&repo);
    Some(said)
}

#[test]
fn a_registry_that_is_down_is_a_network_failure() {
    // Nobody listens on the discard port of a loopback address of our own.
    let Some(repo) = Repo::with_registry("down", "127.0.0.99:9") else { return };
    let said = repo.xtask(&["build", "--push"]).run().ends(5);
    said.says("127.0.0.99:9").says("hint:").keeps("panicked");
}

#[test]
fn a_registry_of_500s_is_a_network_failure_not_an_absent_image() {
    let said = breaks("fivehundred", 5, |proxy| {
        proxy.on("*", "/manifests/", usize::MAX, Mishap::Answer(Answer::new(500)));
    });
    said.map(|said| said.says("500"));
}

#[test]
fn a_host_without_a_registry_is_not_an_absent_image() {
    let said = breaks("fourohfour", 5, |proxy| {
        proxy.on("*", "/", usize::MAX, Mishap::Answer(Answer::new(404)));
    });
    said.map(|said| said.says("hint:"));
}

#[test]
fn truncated_manifests_are_a_network_failure() {
    breaks("truncated", 5, |proxy| _ = proxy.on("GET", "/manifests/", usize::MAX, Mishap::CutAnswer(20)));
}

#[test]
fn garbled_manifests_are_a_network_failure() {
    breaks("garbled", 5, |proxy| _ = proxy.on("GET", "/manifests/", usize::MAX, Mishap::Garble));
}

#[test]
fn a_push_that_is_refused_moves_no_tag() {
    let said = breaks("refused", 5, |proxy| {
        proxy.on("POST", "/blobs/uploads", usize::MAX, Mishap::Answer(Answer::new(403)));
    });
    said.map(|said| said.says("cannot push base").says("`cargo xtask doctor`"));
}

#[test]
fn a_push_that_breaks_now_and_then_goes_through() {
    let Some((repo, proxy)) = behind_proxy("nowandthen") else { return };
    proxy.on("PUT", "/manifests/", 1, Mishap::Answer(Answer::new(503)));
    proxy.on("HEAD", "/manifests/", 1, Mishap::Hangup);
    proxy.on("GET", "/manifests/", 1, Mishap::CutAnswer(9));
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
}

#[test]
fn a_failure_between_manifest_and_tag_leaves_no_tag() {
    // The engine's push of one platform goes well, our index does not.
    breaks("nothing tagged", 5, |proxy| {
        let index = |request: &crate::fault_proxy::Request| {
            request.header("content-type") == Some("application/vnd.oci.image.index.v1+json")
        };
        proxy.on_where("PUT", "/manifests/", index, Mishap::Answer(Answer::new(500)));
    });
}

#[test]
fn a_run_with_nothing_to_do_asks_the_registry_little() {
    let Some((repo, proxy)) = behind_proxy("little") else { return };
    repo.push();
    let before = proxy.seen().len();
    repo.xtask(&["build", "--push"]).without_engine().run().ok();
    let asked: Vec<String> =
        proxy.seen()[before..].iter().map(|request| format!("{} {}", request.method, request.target)).collect();
    // One for each layer too: an image exists only when it is whole.
    let layers = asked.iter().filter(|line| line.contains("/blobs/") && line.starts_with("HEAD")).count();
    assert!(asked.len() - layers <= 16 && layers <= 8, "{} requests:\n{}", asked.len(), asked.join("\n"));
    assert!(asked.iter().all(|line| line.starts_with("GET") || line.starts_with("HEAD")), "{asked:?}");
}

/// A docker configuration with this password, in a folder of the repository.
fn login(repo: &Repo, host: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    repo.write("target/docker/config.json", &format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{auth}\"}}}}}}"));
    repo.path.join("target/docker").to_str().unwrap().to_owned()
}

fn with_password() -> Option<(RealRegistry, Repo)> {
    let engine = engine()?;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let registry = RealRegistry::start_at(&engine.registry_program(), folder, &store, true);
    let repo = Repo::with_registry("login", &registry.address.to_string())?;
    Some((registry, repo))
}

#[test]
fn wrong_credentials_are_a_network_failure_that_shows_no_password() {
    let Some((registry, repo)) = with_password() else { return };
    let config = login(&repo, &registry.address.to_string(), "wr0ng-passw0rd");
    let said = repo.xtask(&["build", "--push", "-v"]).env("DOCKER_CONFIG", config).run().ends(5);
    said.says("docker login").keeps("wr0ng-passw0rd").keeps("wr0ng");
}

#[test]
fn missing_credentials_are_a_network_failure_that_says_how_to_log_in() {
    let Some((registry, repo)) = with_password() else { return };
    let said = repo.xtask(&["build", "--push"]).run().ends(5);
    said.says(&format!("docker login {}", registry.address));
}

#[test]
fn right_credentials_reach_our_client_and_dockers_push() {
    let Some((registry, repo)) = with_password() else { return };
    let config = login(&repo, &registry.address.to_string(), PASSWORD);
    let said = repo.xtask(&["build", "--push", "-v"]).env("DOCKER_CONFIG", config).run().ok();
    said.reference();
    said.keeps(PASSWORD);
}

/// A file system of a few bytes; unmounted when dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(folder: &'a Path, size: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={size}");
        let status =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder).status();
        assert!(status.unwrap().success());
        Self(folder)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // A registry that is just ending may hold it for a moment.
        for _ in 0..50 {
            if std::process::Command::new("umount").arg(self.0).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_full_disk_of_a_registry_is_reported_and_a_later_build_succeeds() {
    let Some(engine) = engine() else { return };
    let holder = tempfile::tempdir().unwrap();
    let store = holder.path().join("small");
    let _small = Small::mount(&store, "1m");
    let registry =
        RealRegistry::start_at(&engine.registry_program(), tempfile::tempdir().unwrap(), &store.join("store"), false);
    let repo = Repo::with_registry("full", &registry.address.to_string()).unwrap();
    let said = repo.xtask(&["build", "--push"]).run().ends(5);
    said.says("cannot push base").says("hint:");
    assert!(repo.tags("app-base").is_empty());
    let status = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&store).status();
    assert!(status.unwrap().success());
    // A link that distribution could not write is an empty file, and its blob a 500 for ever, until someone removes it.
    let cleared = std::process::Command::new("find").arg(&store).args(["-name", "link", "-empty", "-delete"]).status();
    assert!(cleared.unwrap().success());
    assert_eq!(repo.push().actions(), actions("built", "built"));
}

#[test]
fn a_full_local_disk_is_reported_and_a_later_build_succeeds() {
    let Some(repo) = Repo::new("fulldisk") else { return };
    let images = repo.path.join("target/images");
    let _small = Small::mount(&images, "256k");
    let said = repo.xtask(&["build"]).run().ends(4);
    said.says("no space left on device").says("hint:").says("disk");
    let status = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&images).status();
    assert!(status.unwrap().success());
    repo.xtask(&["build"]).run().ok();
}
