//! Without `--push`: the base in a layout, the app in docker's store, and nothing asked of a registry that need not be.

use crate::fault_proxy::FaultProxy;
use crate::fixture::{Repo, actions};
use crate::real_engine::engine;
use xtask_host::registry::layout::Layout;

#[test]
fn a_local_build_keeps_the_base_in_a_layout_and_the_app_in_dockers_store() {
    let Some(engine) = engine() else { return };
    let proxy = FaultProxy::before(engine.registry().parse().unwrap());
    let repo = Repo::with_registry("local", &proxy.host()).unwrap();
    pin_root(&repo);
    let report = repo.xtask(&["build", "--offline", "--format", "json"]).run().ok().report();
    assert_eq!(report.actions(), actions("built", "built"));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    let folder = repo.path.join("target/images");
    let layouts: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().filter(|e| e.path().is_dir()).collect();
    assert_eq!(layouts.len(), 1, "{layouts:?}");
    let name = layouts[0].file_name().into_string().unwrap();
    assert_eq!(
        name,
        format!("base-{}-{}", report.tags("base")[0], xtask_model::spec::reference::Platform::host().dashed())
    );
    let (_, descriptor) = Layout::open_or_create(&layouts[0].path()).unwrap().list().unwrap().remove(0);
    assert_eq!(descriptor.digest.to_string(), report.digest("base"));
    for tag in report.tags("app") {
        let printed =
            engine.docker(&["run", "--rm", "--network=host", "--pull=never", &format!("{}/app:{tag}", repo.registry)]);
        assert_eq!(printed, "<p>one</p>");
    }
    let label = "{{index .Config.Labels \"org.opencontainers.image.base.digest\"}}";
    let named = engine.docker(&["image", "inspect", "--format", label, &format!("{}/app:latest", repo.registry)]);
    assert_eq!(named, report.digest("base"));

    let again = repo.xtask(&["build", "--offline", "--format", "json"]).run().ok();
    assert_eq!(again.report().actions(), actions("reused", "reused"));
    assert_eq!(again.report().digest("app"), report.digest("app"));
    // An edit of the app takes the base from the layout, by digest.
    repo.write("templates/page.html", "<p>two</p>\n");
    let dry = repo.xtask(&["build", "--offline", "--dry-run"]).run().ok();
    let context = format!("app-base@{}=oci-layout://", report.digest("base"));
    assert!(dry.stdout.contains(&context), "{}", dry.stdout);
    let edited = repo.xtask(&["build-fast", "--offline", "--format", "json"]).run().ok().report();
    assert_eq!(edited.actions(), actions("reused", "built"));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

/// Pins the root to what its tag names now, so that no registry has to be asked for it.
fn pin_root(repo: &Repo) {
    let root = repo.engine.root_repository();
    let tag: xtask_model::spec::reference::Tag = "1".parse().unwrap();
    let found = xtask_host::registry::publish::read(&crate::fixture::client(), &root, tag).unwrap().present().unwrap();
    let mut lock = format!("[root]\nimage = \"{root}:1\"\n\n[root.platforms]\n");
    for (platform, descriptor) in &found.platforms {
        lock += &format!("\"{platform}\" = \"{}\"\n", descriptor.digest);
    }
    repo.write("images.lock", &lock).commit("pin");
}

#[test]
fn a_local_build_takes_the_registrys_base() {
    let Some(repo) = Repo::new("mixed") else { return };
    let base = repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let report = repo.xtask(&["build", "--format", "json"]).run().ok().report();
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(report.digest("base"), base.digest("base"));
    assert!(repo.tags("app").is_empty(), "nothing is published");
}

#[test]
fn a_local_build_continues_without_a_registry_and_says_so() {
    let Some(repo) = Repo::with_registry("alone", "127.0.0.99:9") else { return };
    let said = repo.xtask(&["build", "--format", "json"]).run().ok();
    assert_eq!(said.report().actions(), actions("built", "built"));
    said.says("warning: cannot ask `127.0.0.99:9` for the base");
}

#[test]
fn the_app_from_scratch_has_tags_of_its_own() {
    let Some(repo) = Repo::new("enhanced") else { return };
    let dockerfile = "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY requirements-enhanced.lock /opt/venv/\n\
                      COPY templates /app/templates\nENTRYPOINT [\"cat\", \"/app/templates/page.html\"]\n";
    repo.write("dockerfiles/Dockerfile.enhanced", dockerfile);
    repo.set("app", "enhanced = \"dockerfiles/Dockerfile.enhanced\"").commit("enhanced");
    let fast = repo.push();
    let call = || repo.xtask(&["build-enhanced", "--push", "--format", "json"]);
    let report = call().run().ok().report();
    assert_eq!(report.action("enhanced"), "built");
    assert_eq!(repo.run(&report.text("enhanced", "reference"), &[]), "<p>one</p>");
    assert_eq!(report.tags("enhanced"), [format!("enhanced-{}", &report.fingerprint("enhanced")[..12])]);
    assert_eq!(repo.digest("app", "latest"), fast.digest("app"));
    assert_eq!(call().without_engine().run().ok().report().action("enhanced"), "reused");
}

#[test]
fn the_image_that_compiles_an_app_from_scratch_is_in_its_key() {
    let Some(repo) = Repo::new("compiler") else { return };
    repo.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tool\"]\n");
    repo.write("tool/Cargo.toml", "[package]\nname = \"tool\"\nversion = \"4.5.6\"\nedition = \"2024\"\n");
    repo.write("tool/src/main.rs", "fn main() {}\n");
    repo.write("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml"));
    repo.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"4.5.6\"\n");
    let dockerfile =
        "ARG ROOT_IMAGE\nARG RUST_IMAGE\nFROM ${RUST_IMAGE} AS rust\nFROM ${ROOT_IMAGE}\nCOPY --from=rust /bin /rust\n";
    repo.write("dockerfiles/Dockerfile.enhanced", dockerfile);
    repo.set("app", "enhanced = \"dockerfiles/Dockerfile.enhanced\"");
    let binary = format!("\n[app.binary]\npackage = \"tool\"\nrust-image = \"{}/rust:1\"\n", repo.registry);
    repo.write("images.toml", &(repo.read("images.toml") + &binary)).commit("a program");
    let planned = |marker: &str| {
        let digest = repo.engine.push_root(&repo.repository("rust"), "1", marker);
        let said = repo.xtask(&["build-enhanced", "--push", "--dry-run"]).run().ok();
        assert!(said.stdout.contains(&format!("rust@{digest}")), "{said:?}");
        let at = said.stderr.find(":enhanced-").expect("it is planned");
        said.stderr[at..][..22].to_owned()
    };
    let (one, two) = (planned("one"), planned("two"));
    assert_ne!(one, two);
    assert_eq!(planned("two"), two);
}

#[test]
fn a_layout_that_lost_a_blob_is_built_again() {
    let Some(repo) = Repo::new("lost") else { return };
    pin_root(&repo);
    repo.xtask(&["build-base", "--offline"]).run().ok();
    let folder = std::fs::read_dir(repo.path.join("target/images")).unwrap().flatten().find(|e| e.path().is_dir());
    let blobs = folder.unwrap().path().join("blobs/sha256");
    let biggest =
        std::fs::read_dir(blobs).unwrap().flatten().max_by_key(|entry| entry.metadata().unwrap().len()).unwrap();
    std::fs::write(biggest.path(), "torn").unwrap();
    let report = repo.xtask(&["build", "--offline", "--format", "json"]).run().ok().report();
    assert_eq!(report.actions(), actions("built", "built"));
}

#[test]
fn a_tree_without_git_builds() {
    let Some(repo) = Repo::new("nogit") else { return };
    std::fs::remove_dir_all(repo.path.join(".git")).unwrap();
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    assert_eq!(report.text("app", "latest_stays"), "this folder is not in a git repository");
    assert_eq!(repo.tags("app"), [report.fingerprint("app")[..12].to_owned()]);
}

#[test]
fn a_cargo_package_is_compiled_on_the_host_and_copied() {
    let Some(repo) = Repo::new("binary") else { return };
    repo.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tool\"]\n");
    repo.write("tool/Cargo.toml", "[package]\nname = \"tool\"\nversion = \"4.5.6\"\nedition = \"2024\"\n");
    repo.write("tool/src/main.rs", "fn main() { println!(\"one\"); }\n");
    // A toolchain that is pinned has to be asked for its version nowhere.
    repo.write("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml"));
    repo.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"4.5.6\"\n");
    repo.write(".dockerignore", "target\n!target/image\n.git\n");
    repo.write(
        "dockerfiles/Dockerfile.fast",
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG BINARY=target/release/tool\n\
         COPY --link ${BINARY} /app/tool\nCOPY --link templates /app/templates\n",
    );
    repo.write(
        "images.toml",
        &format!("{}\n[app.binary]\npackage = \"tool\"\nprofile = \"dev\"\n", repo.read("images.toml")),
    );
    repo.commit("a program");
    let first = repo.push();
    let phases = |report: &crate::fixture::Report| report.image("app")["seconds"].to_string();
    assert!(phases(&first).contains("compile"), "{}", phases(&first));
    let labels = repo.config("app", &first.digest("app")).config.labels;
    assert_eq!(labels["org.opencontainers.image.version"], "4.5.6");
    let digest = repo.run(&first.text("app", "reference"), &["sha256sum", "/app/tool"]);
    assert!(digest.ends_with("/app/tool"), "{digest}");
    // Nothing changed: nothing is compiled, even where there is no cargo.
    let again =
        repo.xtask(&["build", "--push", "--format", "json"]).without_engine().env("PATH", "/usr/bin:/bin").run().ok();
    assert_eq!(again.report().actions(), actions("reused", "reused"));
    repo.write("tool/src/main.rs", "fn main() { println!(\"two\"); }\n").commit("edit");
    let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
    assert_eq!(said.report().actions(), actions("reused", "built"));
    said.says("sources of tool");
    // Sources that no commit has: incremental for an image that stays here, and not for one that is published.
    repo.write("tool/src/main.rs", "fn main() { println!(\"three\"); }\n");
    let incremental = || std::fs::read_dir(repo.path.join("target/debug/incremental")).unwrap().count();
    assert_eq!(incremental(), 0);
    repo.xtask(&["build"]).run().ok().says("incrementally");
    assert!(incremental() > 0);
    assert!(repo.read("target/images/app.key.json").contains("\"incremental\":[\"tool\"]"));
    repo.xtask(&["build"]).run().ok().says("nothing to build");
    repo.write("templates/page.html", "<p>four</p>\n");
    let pushed = repo.push();
    let key = repo.config("app", &pushed.digest("app")).config.labels["dev.xtask.image.key"].clone();
    assert!(!key.contains("incremental"), "{key}");
    repo.commit("three");
    repo.xtask(&["build", "--dry-run"]).run().ok();
    // What does not compile is not published.
    let latest = repo.digest("app", "latest");
    repo.write("tool/src/main.rs", "fn main() { oops }\n").commit("broken");
    repo.xtask(&["build", "--push"]).run().ends(4).says("oops");
    assert_eq!(repo.digest("app", "latest"), latest);
}
