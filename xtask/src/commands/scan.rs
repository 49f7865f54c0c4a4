//! `scan`: known vulnerabilities of an image.

use super::sbom;
use crate::documents;
use crate::flags::{Format, Global, ScanFlags, ScanType};
use crate::plugins::scan::{self, Search};
use serde_json::json;
use xtask_model::fault::Fault;
use xtask_model::image::policy::plugin::SCAN;
use xtask_model::spec::reference::Platform;
use xtask_model::supply::inventory::image_purl;
use xtask_model::supply::scan::Subject;

/// Prints what is known against an image; fails at the gate.
pub fn run(global: &Global, flags: &ScanFlags) -> anyhow::Result<()> {
    let tree = global.tree_for(flags.image.as_deref())?;
    let client = tree.client();
    let platform = flags.platform.clone().unwrap_or_else(Platform::host);
    let mut settings = crate::plugins::settings_of(&tree.policy, SCAN.name).cloned().unwrap_or_default();
    let mut replace = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            settings.insert(name, value, format!("--{name}"));
        }
    };
    replace("fail-on", flags.fail_on.as_ref().map(|word| json!(word)));
    replace("only-fixed", flags.only_fixed.then_some(true.into()));
    if let Some(database) = &flags.database {
        // A path on the command line is one of the folder that it is called in.
        let database = if database.contains("://") { database.into() } else { std::path::absolute(database)? };
        settings = settings.without("public-key");
        settings.insert("database", json!(database), "--database".to_owned());
    }
    let search = Search::new(&tree.root, &settings)?;
    let name = sbom::name(global, flags.image.as_deref(), "scan")?;
    let opened = sbom::open(&tree, &client, &name, &platform)?;
    let components = sbom::components(&tree, &client, &opened, &platform)?;
    let repository = opened.repository.to_string();
    let found = search.scan(
        Subject {
            reference: &opened.repository.digest(opened.image.digest).to_string(),
            purl: &image_purl(&repository, &opened.image.digest, &platform),
            platform: &platform.to_string(),
            components: &components,
        },
        &tree,
    )?;
    match (global.format, flags.kind) {
        (Format::Json, _) => documents::SCAN.print(&found)?,
        (_, ScanType::Text) => super::print(&found.text(&search.gate))?,
        (_, ScanType::Markdown) => super::print(&found.markdown(&search.gate))?,
        (_, ScanType::Sarif) => super::print(&(scan::sarif(&found, &search.gate, &tree) + "\n"))?,
    }
    match found.stopped_by(&search.gate).count() {
        0 => Ok(()),
        count => Err(Fault::drift(format!("{count} vulnerabilities of `{}` are too severe", found.image))
            .hint("update what has a fix; a statement in OpenVEX (`vex` of the `scan` step) dismisses what does not affect the image")
            .into()),
    }
}
