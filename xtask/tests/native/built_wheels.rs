//! Packages without a wheel by docker: it takes the wheels that the native engine builds, so both engines give the same files.

use crate::fixture::Outcome;
use crate::world::World;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::registry::publish::wheels;
use xtask_model::fault::Exit;
use xtask_model::spec::reference::Platform;

/// Writes a source archive whose build gives another module each time: `FOLDER`.
const SDIST: &str = r#"
import io, sys, tarfile
backend = """
import os, zipfile
def build_wheel(folder, settings=None, metadata=None):
    info = "pure-1.0.dist-info"
    files = {"pure.py": f"x = {os.urandom(8).hex()!r}\\n", f"{info}/METADATA": "Metadata-Version: 2.1\\nName: pure\\nVersion: 1.0\\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(f"{folder}/pure-1.0-py3-none-any.whl", "w") as made:
        for path, text in files.items():
            made.writestr(path, text)
    return "pure-1.0-py3-none-any.whl"
"""
project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n[project]\nname = 'pure'\nversion = '1.0'\n"
info = "Metadata-Version: 2.2\nName: pure\nVersion: 1.0\n"
with tarfile.open(f"{sys.argv[1]}/pure-1.0.tar.gz", "w:gz") as made:
    for path, text in {"pyproject.toml": project, "PKG-INFO": info, "backend.py": backend}.items():
        entry = tarfile.TarInfo(f"pure-1.0/{path}")
        entry.size = len(text.encode())
        made.addfile(entry, io.BytesIO(text.encode()))
"#;

/// A page of links with the archive, on the loopback for as long as the test runs.
fn index(archive: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let archive = archive.clone();
            std::thread::spawn(move || -> Option<()> {
                let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
                let first = lines.next()?;
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let (kind, body) = match first.contains("pure-1.0.tar.gz") {
                    true => ("application/octet-stream", std::fs::read(archive).ok()?),
                    false => ("text/html", b"<a href=\"pure-1.0.tar.gz\">pure-1.0.tar.gz</a>\n".to_vec()),
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).ok()?;
                if first.starts_with("GET") { stream.write_all(&body).ok() } else { Some(()) }
            });
        }
    });
    format!("http://{address}/")
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A repository with this one's base, and a folder for caches.
fn with_packages(name: &str) -> Option<(World, PathBuf)> {
    let world = World::new(name)?;
    let repo = &world.repo;
    for file in ["Dockerfile.base", "install.py", "compile.py", "check-imports.py", "installer.lock"] {
        let path = format!("dockerfiles/{file}");
        repo.write(&path, &std::fs::read_to_string(Path::new(ROOT).join(&path)).unwrap());
    }
    let skopeo = crate::outputs::tool("skopeo")?;
    let (recipe, root, _) = crate::debian_root::shared();
    let from = format!("oci:{}:{}", root.display(), recipe.ref_name(&Platform::host()));
    let to = format!("docker://{}:debian", world.root());
    skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to]).read(Exit::Build).unwrap();
    repo.edit("images.toml", &format!("{}:1", world.root()), &format!("{}:debian", world.root()));
    repo.edit("images.toml", "python = \"3.12\"", "python = \"3.13\"");
    repo.edit("images.toml", "user = \"user\"", "user = \"user\"\npackages = \"python-packages\"");
    let folder = repo.path.parent().unwrap().to_owned();
    Some((world, folder))
}

/// One whose package has no wheel.
fn world(name: &str) -> Option<(World, PathBuf)> {
    let (world, folder) = with_packages(name)?;
    let repo = &world.repo;
    Command::new("python3").args(["-c", SDIST]).arg(&folder).read(Exit::Build).unwrap();
    let links = index(folder.join("pure-1.0.tar.gz"));
    repo.write("requirements-enhanced.txt", &format!("--find-links {links}\npure==1.0\n"));
    call(&world, &["lock"], &folder).ok();
    assert!(repo.read("images.lock").contains("[[source]]"), "{}", repo.read("images.lock"));
    repo.commit("a package without a wheel");
    Some((world, folder))
}

/// Calls the program as on a machine with this cache.
fn call(world: &World, args: &[&str], cache: &Path) -> Outcome {
    let path = std::env::var_os("XTASK_TEST_UV").map(PathBuf::from).and_then(|uv| Some(uv.parent()?.to_owned()));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::join_paths(path.into_iter().chain(std::env::split_paths(&paths))).unwrap();
    world.repo.xtask(args).env("XTASK_CACHE_DIR", cache.join("cache")).env("PATH", paths).run()
}

/// Every file of the environment with its digest, as the image's own programs see it.
fn files(world: &World) -> String {
    let image = format!("{}/app-base@{}", world.repo.registry, world.repo.digest("app-base", "latest"));
    let script = "cd /opt/venv && find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -type l | sort; cat lib/python3.13/site-packages/pure.py";
    world.repo.engine.docker(&["run", "--rm", "--network=host", "--user=0", "--entrypoint=sh", &image, "-c", script])
}

#[test]
fn docker_takes_the_wheel_that_was_built_once() {
    let Some((world, machine)) = world("keptwheels") else { return };
    let build =
        |engine: &str, cache: &Path| call(&world, &["build-base", "--push", "--force", "--engine", engine], cache).ok();
    let first = build("docker", &machine);
    assert!(first.stderr.contains("built") && first.stderr.contains("pure-1.0-py3-none-any.whl"), "{}", first.stderr);
    let kept = world.repo.tags("app-base").into_iter().filter(|tag| wheels::is(&tag.parse().unwrap())).count();
    assert_eq!(kept, 1, "it is kept in the registry");
    let by_docker = files(&world);
    assert!(by_docker.contains("x = '"), "{by_docker}");
    // A build gives another module each time, so equal files have come from the one wheel.
    build("native", &machine);
    assert_eq!(files(&world), by_docker);
    // A machine that has neither wheel nor layer takes the one of the registry.
    let other = machine.join("other");
    let again = build("docker", &other);
    assert!(again.stderr.contains("built before from the same source"), "{}", again.stderr);
    assert_eq!(files(&world), by_docker);
    // With compilers in the policy none is installed, because nothing is compiled.
    world.repo.edit(
        "images.toml",
        "# base settings",
        "args = { BUILD_PACKAGES = \"no-such-package\" }\n# base settings",
    );
    world.repo.commit("compilers");
    build("docker", &other);
    let with_compilers = files(&world);
    build("native", &other);
    assert_eq!(files(&world), with_compilers);
    let shown = call(&world, &["build-base", "--force", "--engine", "docker", "--dry-run"], &other).ok().stdout;
    assert!(shown.contains("built-wheels=") && shown.contains("BUILD_PACKAGES="), "{shown}");
    // A package that a URL names is the same.
    let links = world.repo.read("requirements-enhanced.txt");
    let links = links.lines().next().unwrap().trim_start_matches("--find-links ").to_owned();
    world.repo.write("requirements-enhanced.txt", &format!("pure @ {links}pure-1.0.tar.gz\n"));
    call(&world, &["lock"], &other).ok();
    world.repo.commit("a url");
    build("docker", &other);
    let by_url = files(&world);
    build("native", &other);
    assert_eq!(files(&world), by_url);
    // By hand, the same Dockerfile builds on what the caller has, or on nothing.
    world.repo.edit("dockerfiles/Dockerfile.base", ",target=/opt/wheels", ",target=/opt/others");
    let refused = call(&world, &["build-base", "--engine", "native", "--force"], &other).ends(2);
    refused.says("does not implement");
}

#[test]
fn a_dockerfile_that_takes_no_wheels_is_refused_or_compiles_as_before() {
    let Some((world, machine)) = world("nowheels") else { return };
    let repo = &world.repo;
    let text = repo.read("dockerfiles/Dockerfile.base");
    repo.write(
        "dockerfiles/Dockerfile.base",
        &text.replace(" --mount=type=bind,from=built-wheels,target=/opt/wheels", ""),
    );
    repo.commit("no mount");
    let refused = call(&world, &["build-base", "--engine", "docker"], &machine).ends(2);
    refused.says("packages have no wheel").says("FROM scratch AS built-wheels");
    // The recipe is the same without it.
    call(&world, &["build-base", "--push", "--engine", "native"], &machine).ok();
}

#[test]
fn a_base_with_the_layers_of_another_knows_what_was_imported() {
    let Some((world, machine)) = with_packages("mounted") else { return };
    let repo = &world.repo;
    let apps = "[bases.one]\n\n[[app]]\nname = \"web\"\nbase = \"one\"\n";
    repo.edit("images.toml", "[app]\n# app settings\n", apps);
    repo.write("requirements-enhanced.txt", "idna==3.10\nsix==1.17.0\n");
    call(&world, &["lock"], &machine).ok();
    repo.commit("one base");
    call(&world, &["build-base", "--push"], &machine).ok();
    // Another machine has no layer: it mounts those of the first base, and imports nothing.
    let other = machine.join("other");
    let two = "[bases.two]\ndockerfile = \"dockerfiles/Dockerfile.two\"\n\n[[app]]\nname = \"worker\"\nbase = \"two\"\n\n[[app]]\nname = \"web\"";
    repo.edit("images.toml", "[[app]]\nname = \"web\"", two);
    let base = repo.read("dockerfiles/Dockerfile.base");
    repo.write(
        "dockerfiles/Dockerfile.two",
        &base.replace("COPY --link --from=user /app /app", "COPY --link --from=user /app /srv"),
    );
    repo.commit("another base");
    let build = |cache: &Path| {
        let done =
            call(&world, &["build-base", "--push", "--app", "worker", "--app", "web", "--format", "json"], cache).ok();
        let report = done.report();
        report.0["images"].as_array().unwrap().iter().find(|image| image["name"] == "two").unwrap().clone()
    };
    let mounted = build(&other);
    assert!(mounted["imports"].is_null(), "{mounted:#}");
    let platform = Platform::host();
    let record = |name: &str| repo.published(name, "latest").unwrap().checked(&platform);
    let (first, second) = (record("app-one-base").unwrap(), record("app-two-base").unwrap());
    assert_eq!((second.layer, second.version, second.size), (first.layer, first.version, first.size));
    // Its next change imports what is new, and trusts the rest.
    repo.write("requirements-enhanced.txt", "idna==3.10\nsix==1.17.0\nitsdangerous==2.2.0\n");
    call(&world, &["lock"], &other).ok();
    repo.commit("a package");
    let changed = build(&other);
    assert_eq!(changed["imports"]["packages"], serde_json::json!(["itsdangerous"]), "{changed:#}");
    assert_eq!(changed["imports"]["known"], serde_json::json!(["idna", "six"]), "{changed:#}");
}
