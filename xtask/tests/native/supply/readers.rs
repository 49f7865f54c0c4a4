//! Documents that other programs read: SBOMs and SARIF, by the official schemas and by libraries of others.

use super::Signed;
use crate::fixture::client;
use crate::supply::tools::readers;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask_host::registry::attach;
use xtask_model::spec::reference::Platform;
use xtask_model::supply::{cyclonedx, spdx};

/// Reads files with the libraries of others. What they found, or what a schema or a specification forbids; `None` without them.
pub(super) fn read(files: &[&Path]) -> Option<Result<Value, String>> {
    let libraries = readers()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/supply/read.py");
    let done = Command::new("python3").arg(script).args(files).env("PYTHONPATH", &libraries).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Some(if done.status.success() { Ok(serde_json::from_slice(&done.stdout).unwrap()) } else { Err(said) })
}

/// The formats of SBOMs by their names in the policy, with their media types.
pub(super) const KINDS: [(&str, &str); 3] =
    [("cyclonedx", cyclonedx::MEDIA_TYPE), ("spdx", spdx::MEDIA_TYPE), ("spdx3", spdx::v3::MEDIA_TYPE)];

#[test]
fn sboms_are_valid_for_other_readers_and_the_same_everywhere() {
    let Some(signed) = Signed::new("readers") else { return };
    let formats = "uses = \"sbom\"\nformats = [\"spdx\", \"cyclonedx\", \"spdx3\"]";
    signed.repo().edit("images.toml", "uses = \"sbom\"", formats).commit("formats");
    let app = signed.push();
    let manifest = signed.manifest("app", &app);
    let (client, repository) = (client(), signed.repo().repository("app"));
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (kind, media_type) in KINDS {
        let attached = attach::find(&client, &repository, &manifest.digest, media_type).unwrap();
        assert_eq!(attached.len(), 1);
        let bytes = attached[0].documents[0].bytes.clone();
        let printed = signed.call(&["sbom", &app.to_string(), "--type", kind]).ok().stdout;
        assert_eq!(printed.trim_end().as_bytes(), bytes, "{kind}");
        let file = folder.path().join(format!("a.{kind}.json"));
        std::fs::write(&file, &bytes).unwrap();
        files.push(file);
    }
    // A machine that has no layer makes the same documents, from what is attached to the base.
    let elsewhere = signed.repo().clone("elsewhere");
    let call =
        elsewhere.xtask(&["build", "--push", "--force", "--format", "json"]).env("XTASK_SIGNING_KEY_FILE", &signed.key);
    let again = call.without_engine().run().ok().report();
    let again = signed.repo().published("app", &again.digest("app")).unwrap().platforms[&Platform::host()].digest;
    assert_eq!(again, manifest.digest, "the same image");
    assert_eq!(attach::find(&client, &repository, &again, spdx::MEDIA_TYPE).unwrap().len(), 1, "the same SBOM");

    let Some(read) = read(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>()) else { return };
    let read = read.unwrap();
    assert_eq!(read["cyclonedx"], read["spdx"]);
    assert_eq!(read["spdx3"], read["spdx"]);
    let purls: BTreeSet<&str> = read["spdx"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for purl in ["pkg:pypi/six@1.17.0", "pkg:pypi/scipy@1.16.3"] {
        assert!(purls.contains(purl), "{purls:?}");
    }
    assert!(purls.iter().any(|purl| purl.starts_with("pkg:deb/debian/zlib1g@")), "{purls:?}");
    // The readers do refuse: a relationship that SPDX does not have, a component without a name.
    for (kind, from, to) in [("spdx3", "dependsOn", "leansOn"), ("cyclonedx", "\"name\":\"six\",", "")] {
        let file = folder.path().join(format!("a.{kind}.json"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        assert!(self::read(&[&file]).unwrap().is_err(), "{kind}");
    }
}
