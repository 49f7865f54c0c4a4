//! `build-base --analyze`: size of a base by layer and by package.

use crate::documents;
use crate::flags::{BuildFlags, Format, Global};
use serde::Serialize;
use xtask_host::docker::Docker;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Answer, publish};
use xtask_host::tree::facts::{self};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::Fingerprint;
use xtask_model::image::policy::ImageKind;
use xtask_model::quantity;
use xtask_model::record::report::Report;
use xtask_model::spec::oci::{Config, Descriptor, Manifest};
use xtask_model::spec::reference::Platform;

/// Findings of an analysis.
#[derive(Debug, Serialize)]
struct Analysis {
    layers: Vec<Layer>,
    packages: Vec<Package>,
}

#[derive(Debug, Serialize)]
struct Layer {
    /// Compressed bytes.
    size: u64,
    /// The instruction that made it.
    made_by: String,
}

#[derive(Debug, Serialize, serde::Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Bytes of its files on disk.
    size: u64,
    files: u64,
}

/// Sums the files that each distribution's RECORD lists; what is listed twice counts once.
const MEASURE: &str = r#"
import importlib.metadata, json, os
found = []
for d in importlib.metadata.distributions():
    paths = {str(d.locate_file(f)) for f in d.files or []}
    sizes = [os.lstat(p).st_size for p in paths if os.path.lexists(p)]
    found.append({"name": d.name, "version": d.version, "size": sum(sizes), "files": len(sizes)})
print(json.dumps(found))
"#;

/// Refuses to analyse several bases at once.
pub fn check(global: &Global) -> Result<(), Fault> {
    super::base::one(global).map(drop)
}

/// Analyses the base that a build has just reported.
pub fn run(global: &Global, flags: &BuildFlags, report: &Report) -> anyhow::Result<()> {
    let tree = super::base::one(global)?;
    let platform = flags.platform.first().cloned().unwrap_or_else(Platform::host);
    let repository = tree.repository(ImageKind::Base);
    let base = &report.images[0];
    let tag = &base.tags[0];
    let fingerprint: Fingerprint = base.fingerprint.parse()?;
    let (manifest, config, digest) = match facts::in_layout(&tree, ImageKind::Base, &fingerprint, tag, &platform)? {
        Some(local) if !flags.push => {
            let layout = Layout::open_or_create(&local.layout.unwrap_or_default())?;
            let (_, descriptor) =
                layout.list()?.into_iter().next().ok_or_else(|| Fault::build("the base's layout is empty"))?;
            let manifest: Manifest = layout.read_json(&descriptor)?;
            let config: Config = layout.read_json(&manifest.config)?;
            (manifest, config, descriptor.digest)
        }
        _ => {
            let client = tree.client();
            let Answer::Present(found) = publish::read(&client, &repository, tag.clone())? else {
                return Err(Fault::network(format!("`{}` is not in the registry", repository.tag(tag))).into());
            };
            let descriptor: &Descriptor = found
                .platforms
                .get(&platform)
                .ok_or_else(|| Fault::usage(format!("the base has no image for {platform}")))?;
            let manifest = publish::read_manifest(&client, &repository, descriptor.digest)?;
            let config = publish::read_config(&client, &repository, &manifest)?;
            (manifest, config, descriptor.digest)
        }
    };
    let docker = Docker::find(&tree.root)?;
    let output = docker
        .bring("run", &repository.digest(digest).to_string())
        .args(["--rm", "--network=none", "--read-only", "--entrypoint=python3"])
        .arg(repository.digest(digest).to_string())
        .args(["-c", MEASURE])
        .read(Exit::Build)?;
    let mut packages: Vec<Package> = serde_json::from_str(&output)?;
    packages.sort_by_key(|package| std::cmp::Reverse(package.size));
    let analysis = Analysis { layers: layers(&manifest, &config), packages };
    if global.format == Format::Json {
        return documents::ANALYSIS.print(&analysis);
    }
    super::print(&text(&analysis))
}

/// Layers with the history entries that made them; entries without a layer are skipped.
fn layers(manifest: &Manifest, config: &Config) -> Vec<Layer> {
    let mut made_by = config.history.iter().filter(|entry| !entry.empty_layer);
    let layer = |layer: &Descriptor| Layer {
        size: layer.size,
        made_by: made_by.next().and_then(|entry| entry.created_by.clone()).unwrap_or_default(),
    };
    manifest.layers.iter().map(layer).collect()
}

fn text(analysis: &Analysis) -> String {
    let mut text = format!("{:>10}  layer, compressed\n", "size");
    for layer in &analysis.layers {
        let made_by: String = layer.made_by.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
        text += &format!("{:>10}  {made_by}\n", quantity::bytes(layer.size));
    }
    text += &format!("\n{:>10}  {:>6}  package, on disk\n", "size", "files");
    for package in &analysis.packages {
        text += &format!(
            "{:>10}  {:>6}  {} {}\n",
            quantity::bytes(package.size),
            package.files,
            package.name,
            package.version
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_the_reference() {
        let layers = vec![Layer { size: 1, made_by: "COPY".to_owned() }];
        let package = Package { name: "a".to_owned(), version: "1".to_owned(), size: 1, files: 1 };
        let mut json = serde_json::to_value(Analysis { layers, packages: vec![package] }).unwrap();
        json["version"] = documents::ANALYSIS.version.into();
        assert_eq!(documents::ANALYSIS.unlisted(&json), [""; 0]);
    }
}
