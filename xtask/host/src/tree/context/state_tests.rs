//! Contents that a context never has, and its maximum depth.

use super::*;
use std::fs;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::reference::Platform;

fn tree(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    root
}

fn read_with(root: &Path, instruction: &str, ignore: &str) -> Result<Vec<String>, Fault> {
    let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{instruction}\n"))?;
    let ignore = Ignore::parse("app.dockerignore", ignore.as_bytes())?;
    let entries = read_sources(root, &file.sources(&BTreeMap::new(), &Platform::host())?, &ignore, no_folder())?;
    Ok(entries.iter().filter(|entry| entry.kind == FileKind::File).map(|entry| entry.path.to_string()).collect())
}

const FILES: [&str; 5] = ["a", "target/images/x", "target/release/app", "targets/b", "src/target/c"];

#[test]
fn our_own_state_is_part_of_no_context_unless_it_is_named() {
    let root = tree(&FILES);
    let outside = ["a", "src/target/c", "targets/b"];
    for (instruction, expected) in [
        ("COPY . /app/", &outside[..]),
        ("COPY * /app/", &outside),
        ("COPY --parents . /app/", &outside),
        ("COPY --parents **/* /app/", &outside),
        ("RUN --mount=type=bind,target=/x true", &outside),
        ("COPY t* /app/", &["targets/b"]),
        ("COPY target/release/app /app", &["target/release/app"]),
        ("COPY target/release /app/", &["target/release/app"]),
        ("COPY target/*/app /app/", &["target/release/app"]),
        ("COPY --parents target/release/* /app/", &["target/release/app"]),
        ("COPY . target/release/app /app/", &["a", "src/target/c", "target/release/app", "targets/b"]),
    ] {
        assert_eq!(read_with(root.path(), instruction, "").unwrap(), expected, "{instruction}");
    }
    // A source that names a file in it brings nothing of it into another source.
    let sources =
        Dockerfile::parse("Dockerfile", "FROM scratch\nCOPY . /app/\nCOPY target/release/app /bin/\n").unwrap();
    let sources = sources.sources(&BTreeMap::new(), &Platform::host()).unwrap();
    let picked = pick(root.path(), &sources, &Ignore::none(), &BTreeSet::new(), no_folder()).unwrap();
    let whole = picked.matches.iter().find(|found| found.source == 0).unwrap();
    assert!(whole.below.iter().all(|path| !path.to_string().starts_with("target/")), "{whole:?}");
}

#[test]
fn our_own_state_is_refused_where_a_source_names_it() {
    let root = tree(&["target/images/x", "target/release/app", "target/native/store/y"]);
    for (instruction, path) in [
        ("COPY target /x/", "target/images"),
        ("COPY target/images /x/", "target/images"),
        ("COPY target/native/store/y /x", "target/native/store/y"),
        ("COPY target/*/x /x/", "target/images/x"),
        ("COPY --parents target/./** /x/", "target/images"),
    ] {
        let fault = read_with(root.path(), instruction, "").unwrap_err();
        assert_eq!(fault.what, format!("`{path}` would be copied into the image"), "{instruction}");
    }
    assert!(read_with(root.path(), "COPY target /x/", "target/images\ntarget/native\n").is_ok());
}

#[test]
fn gits_folder_in_a_context_is_refused_and_the_ignore_file_named() {
    for (at, instruction) in [
        (".git", "COPY . /app/"),
        (".git", "COPY .git /app/"),
        (".git", "RUN --mount=type=bind,target=/x true"),
        ("vendor/lib/.git", "COPY vendor /app/"),
        ("vendor/lib/.git", "COPY --parents vendor/**/* /app/"),
    ] {
        let root = tree(&["a", "vendor/lib/a", &format!("{at}/HEAD")]);
        let fault = read_with(root.path(), instruction, "").unwrap_err();
        assert_eq!(fault.what, format!("`{at}` would be copied into the image"), "{instruction}");
        assert_eq!(fault.hints, [format!("exclude it: add a line `{at}` to `app.dockerignore`")]);
        if instruction == "COPY . /app/" {
            assert_eq!(read_with(root.path(), instruction, ".git").unwrap(), ["a", "vendor/lib/a"]);
        }
    }
    // A work tree's and a submodule's `.git` is a file.
    let root = tree(&["a", ".git"]);
    assert!(read_with(root.path(), "COPY . /app/", "").is_err());
    let root = tree(&["a", ".gitignore", "x.git/b", ".github/c"]);
    assert_eq!(read_with(root.path(), "COPY . /app/", "").unwrap(), [".github/c", ".gitignore", "a", "x.git/b"]);
}

#[test]
fn two_thousand_nested_folders_are_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("deep").join("d/".repeat(1900));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "").unwrap();
    // It took minutes; this is much even for a busy machine.
    let began = std::time::Instant::now();
    let fault = read_with(root.path(), "COPY --exclude=**/*.md . /app/", "**/x\n!y").unwrap_err();
    assert_eq!(fault.what, "folders below `deep` are nested more than 256 deep");
    assert!(fault.hints[0].contains("`app.dockerignore`"), "{fault}");
    assert!(read_with(root.path(), "COPY . /app/", "deep").unwrap().is_empty(), "what is left out does not count");
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
