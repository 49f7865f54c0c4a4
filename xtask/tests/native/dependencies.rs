//! Compiled dependencies through the registry: cargo's own files from one machine are used on another, and change no byte.

use crate::fault_proxy::Answer;
use crate::fixture::{Call, Repo, client};
use crate::world::World;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::registry::publish;
use xtask_model::fault::Exit;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::oci::media_type::MANIFEST;
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// A program with a library that a build script writes a part of, and a macro; both from a registry of crates in a folder.
struct Program {
    world: World,
    home: PathBuf,
    _folder: tempfile::TempDir,
}

const LIBRARY: &str = "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n\
                       pub fn greet(who: Option<&str>) -> String { format!(\"{MADE} {}\", who.expect(\"a name\")) }\n";
const SCRIPT: &str = "fn main() {\n    let out = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap());\n    \
                      std::fs::write(out.join(\"made.rs\"), \"pub const MADE: &str = \\\"hello\\\";\").unwrap();\n    \
                      println!(\"cargo::rerun-if-changed=build.rs\");\n}\n";
const MACRO: &str = "#[proc_macro]\npub fn twice(input: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
                     format!(\"({input}, {input})\").parse().unwrap()\n}\n";

impl Program {
    fn new(name: &str) -> Option<Self> {
        let world = World::new(name)?;
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap().join("cargo");
        let crates = folder.path().canonicalize().unwrap().join("crates");
        krate(&crates, "greeting", "build = \"build.rs\"", &[("src/lib.rs", LIBRARY), ("build.rs", SCRIPT)]);
        krate(&crates, "twofold", "[lib]\nproc-macro = true", &[("src/lib.rs", MACRO)]);
        write(
            &home.join("config.toml"),
            &format!(
                "[source.crates-io]\nreplace-with = \"folder\"\n[source.folder]\nlocal-registry = \"{}\"\n",
                crates.display()
            ),
        );
        let repo = &world.repo;
        repo.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tool\"]\n");
        let manifest = "[package]\nname = \"tool\"\nversion = \"4.5.6\"\nedition = \"2024\"\n[dependencies]\n";
        repo.write("tool/Cargo.toml", &format!("{manifest}greeting = \"1\"\ntwofold = \"1\"\n"));
        repo.write("tool/src/main.rs", &main(1));
        repo.write("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml"));
        repo.write(".dockerignore", "target\n!target/image\n.git\n");
        let fast =
            "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG BINARY=target/release/tool\nCOPY --link ${BINARY} /app/tool\n";
        repo.write("dockerfiles/Dockerfile.fast", fast);
        repo.write("images.toml", &format!("{}\n[app.binary]\npackage = \"tool\"\n", repo.read("images.toml")));
        let locked = cargo(repo, &home).args(["generate-lockfile", "--offline"]);
        locked.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
        repo.commit("a program");
        Some(Self { world, home, _folder: folder })
    }

    fn repo(&self) -> &Repo {
        &self.world.repo
    }

    fn shared(&self) -> Repository {
        self.repo().repository("app-target")
    }

    /// Does away with what was compiled, as on a machine that never compiled it.
    fn becomes_cold(&self) -> &Self {
        for folder in ["release", "image", "images", "native"] {
            let _ = fs::remove_dir_all(self.repo().path.join("target").join(folder));
        }
        self
    }

    fn edits(&self, number: usize) -> &Self {
        self.repo().write("tool/src/main.rs", &main(number)).commit("edit");
        self
    }

    /// A build with these flags, each line of cargo shown.
    fn build(&self, flags: &[&str]) -> Call {
        let call = self.repo().xtask(&[&["-v", "build", "--push", "--format", "json"], flags].concat());
        call.without_engine().env("CARGO_HOME", &self.home)
    }

    fn staged(&self) -> Vec<u8> {
        let image = self.repo().path.join("target/image");
        let platform = fs::read_dir(image).unwrap().flatten().next().unwrap().path();
        fs::read(platform.join("tool")).unwrap()
    }
}

fn main(number: usize) -> String {
    format!(
        "fn main() {{\n    let (one, _) = twofold::twice!({number});\n    \
         println!(\"{{}} {{one}}\", greeting::greet(std::env::args().nth(1).as_deref()));\n}}\n"
    )
}

fn cargo(repo: &Repo, home: &Path) -> Command {
    Command::new("cargo").current_dir(&repo.path).env("CARGO_HOME", home).env_remove("CARGO_TARGET_DIR")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Puts a crate into a registry in a folder, as `cargo vendor` would be too late for: cargo unpacks it into its home.
fn krate(registry: &Path, name: &str, more: &str, files: &[(&str, &str)]) {
    let folder = registry.join(format!("{name}-1.0.0"));
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n{more}\n");
    write(&folder.join("Cargo.toml"), &manifest);
    files.iter().for_each(|(path, text)| write(&folder.join(path), text));
    let file = format!("{name}-1.0.0.crate");
    let packed = Command::new("tar").current_dir(registry).args(["czf", &file, &format!("{name}-1.0.0")]);
    packed.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    let checksum = Digest::of(&fs::read(registry.join(file)).unwrap()).hex();
    let entry = json!({"name": name, "vers": "1.0.0", "deps": [], "cksum": checksum, "features": {}, "yanked": false});
    write(&registry.join("index").join(&name[..2]).join(&name[2..4]).join(name), &format!("{entry}\n"));
}

#[test]
fn another_machine_compiles_only_its_own_crate() {
    let Some(program) = Program::new("compiled") else { return };
    let (repo, shared) = (program.repo(), program.shared());
    // A desk puts nothing.
    program.build(&[]).run().ok().says("no compiled dependencies for this machine").says("Compiling greeting");
    assert_eq!(repo.tags("app-target"), [""; 0]);
    // CI of the default branch does: first under a name that no build reads.
    let ci = |flags: &[&str]| program.build(flags).env("CI", "1").run();
    program.becomes_cold().edits(3);
    let pushed = ci(&["--untested"]).ok().report().image("app")["dependencies"].clone();
    assert_eq!((&pushed["action"], &pushed["crates"]), (&json!("pushed"), &json!(2)), "{pushed}");
    let [untested] = repo.tags("app-target").try_into().unwrap();
    assert!(untested.ends_with("-untested"), "{untested}");
    program.becomes_cold().build(&["--force"]).run().ok().says("no compiled dependencies").keeps("\"dependencies\"");
    ci(&["--reuse-only"]).ok().says("named");
    let tested = untested.trim_end_matches("-untested").to_owned();
    assert_eq!(repo.tags("app-target"), [tested.clone(), untested]);
    // A cold machine compiles its own crate alone, and the program is the same as without.
    program.becomes_cold().edits(4);
    let plan = repo.xtask(&["plan", "--base", "HEAD^1"]).without_engine().env("CARGO_HOME", &program.home).run().ok();
    assert!(plan.stdout.contains("dependencies: 2 crates, "), "{}", plan.stdout);
    let pulled = program.build(&[]).run().ok().says("Compiling tool");
    assert_eq!(pulled.report().image("app")["dependencies"]["action"], "pulled");
    pulled.keeps("Compiling greeting").keeps("Compiling twofold");
    let with = program.staged();
    // Where they are, nobody asks.
    let (_, traffic) = program.world.traffic(|| program.edits(5).build(&[]).run().ok().keeps("pulled"));
    assert_eq!(traffic.count("GET", "app-target"), 0);
    // Nothing is left of the unpacking.
    let left = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".dependencies-");
    assert!(!fs::read_dir(repo.path.join("target")).unwrap().flatten().any(|entry| left(&entry)));
    let off = repo.read("images.toml").replace("package = \"tool\"", "package = \"tool\"\ndependencies = \"off\"");
    repo.write("images.toml", &off);
    let alone = program.becomes_cold().edits(4).build(&["--force"]).run().ok();
    alone.keeps("compiled dependencies").says("Compiling greeting");
    assert!(program.staged() == with, "pulled dependencies changed the program");
    assert_eq!(client().tags(&shared).unwrap().present().unwrap().len(), 2);
}

#[test]
fn docker_compiles_what_the_registry_lacks_or_refuses() {
    let Some(program) = Program::new("dockercompiled") else { return };
    let repo = program.repo();
    let build = |flags: &[&str]| {
        let args = [&["-v", "build", "--push", "--engine", "docker", "--format", "json"], flags].concat();
        repo.xtask(&args).env("CARGO_HOME", &program.home)
    };
    let app = |call: Call| call.run().ok().report().image("app").clone();
    // The registry has none: a desk compiles, and CI puts what it compiled.
    build(&[]).run().ok().says("no compiled dependencies for this machine").says("Compiling greeting");
    program.becomes_cold().edits(2);
    assert_eq!(app(build(&[]).env("CI", "1"))["dependencies"]["action"], "pushed");
    program.becomes_cold().edits(3);
    let pulled = build(&[]).run().ok().says("Compiling tool").keeps("Compiling greeting").report();
    assert_eq!(pulled.image("app")["dependencies"]["action"], "pulled");
    let with = program.staged();
    // It refuses, it has none any more, it has lost a layer: the same program, compiled here.
    let [tag] = repo.tags("app-target").try_into().unwrap();
    let found = client().manifest(&program.shared(), tag.parse::<Tag>().unwrap()).unwrap().present().unwrap();
    let layer = publish::read_manifest(&client(), &program.shared(), found.digest).unwrap().layers[0].digest;
    let compiles = |why: &str| {
        program.becomes_cold();
        build(&["--force"]).run().ok().says(why).says("Compiling greeting");
        assert!(program.staged() == with, "{why}");
    };
    for (status, why) in [(403, "403"), (404, "no compiled dependencies for this machine")] {
        program.world.proxy.reply("GET", "app-target/manifests", move |_| Answer::new(status));
        compiles(why);
        program.world.proxy.clear();
    }
    program.world.lose("app-target", &layer);
    compiles("missing from the registry");
}

#[test]
fn what_is_refused_or_wrong_is_compiled() {
    let Some(program) = Program::new("refused") else { return };
    let repo = program.repo();
    program.build(&[]).env("CI", "1").run().ok().says("pushed");
    let [tag] = repo.tags("app-target").try_into().unwrap();
    let tag: Tag = tag.parse().unwrap();
    let mut number = 10;
    let mut compiles = |why: &str| {
        number += 1;
        program.becomes_cold().edits(number).build(&[]).run().ok().says(why).says("Compiling greeting");
    };
    program.world.proxy.reply("GET", "app-target/manifests", |_| Answer::new(403));
    compiles("403");
    program.world.proxy.clear();
    // An artifact with a unit of the workspace's own crate, and one whose files are not those that it says.
    let (client, shared) = (client(), program.shared());
    let found = client.manifest(&shared, tag.clone()).unwrap().present().unwrap();
    let manifest = publish::read_manifest(&client, &shared, found.digest).unwrap();
    let contents =
        client.blob_bytes(&shared, &manifest.config.digest, manifest.config.size).unwrap().present().unwrap();
    let contents: Value = serde_json::from_slice(&contents).unwrap();
    let spoil = |change: &dyn Fn(&mut Value)| {
        let mut changed = contents.clone();
        change(&mut changed);
        let bytes = serde_json::to_vec(&changed).unwrap();
        let digest = Digest::of(&bytes);
        client.upload(&shared, &digest, bytes.len() as u64, &bytes).unwrap();
        let mut spoiled = manifest.clone();
        spoiled.config = Descriptor::new(manifest.config.media_type.clone(), digest, bytes.len() as u64);
        client.put_manifest(&shared, tag.clone(), MANIFEST, &serde_json::to_vec(&spoiled).unwrap()).unwrap();
    };
    spoil(&|contents| contents["units"].as_array_mut().unwrap().push(json!("tool-0123456789abcdef")));
    compiles("has no crates for tool-0123456789abcdef");
    spoil(&|contents| contents["units"] = json!(["greeting-0123456789abcdef"]));
    compiles("which is no compiled dependency");
    spoil(&|contents| contents["diff_ids"][0] = json!(Digest::of(b"other")));
    compiles("digest");
    spoil(&|contents| contents["diff_ids"] = json!([]));
    compiles("does not say the digests");
    // The good one again, whose layer is lost.
    client.put_manifest(&shared, tag, MANIFEST, &found.bytes).unwrap();
    program.world.lose("app-target", &manifest.layers[0].digest);
    compiles("missing from the registry");
}
