//! `bundle`: images with everything attached to them, over an air gap.

use crate::documents;
use crate::flags::{BundleCommand, Format, Global};
use std::collections::BTreeSet;
use std::path::Path;
use xtask_host::registry::bundle::{self, Bundle, Have, Selected};
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::signing::PublicKey;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{ImageKind, Registry};
use xtask_model::quantity;
use xtask_model::spec::reference::Repository;

pub fn run(global: &Global, command: &BundleCommand) -> anyhow::Result<()> {
    global.check_online("bundle")?;
    match command {
        BundleCommand::Create { images, output, since } => create(global, images, output, since.as_deref()),
        BundleCommand::Load { file, key } => load(global, file, key.as_deref()),
        BundleCommand::Have { repositories } => have(global, repositories),
    }
}

/// The client, and the registry that a command means. Where there is no repository, `--registry` is enough.
fn place(global: &Global) -> Result<(Client, Registry), Fault> {
    match (facts::find_root(global.root.as_deref()), &global.registry) {
        (Err(_), Some(registry)) => Ok((Client::new(ClientOptions::from_env()), registry.clone())),
        _ => {
            let tree = global.any_tree()?;
            Ok((tree.client(), tree.registry.clone()))
        }
    }
}

fn create(global: &Global, images: &[String], output: &Path, since: Option<&Path>) -> anyhow::Result<()> {
    let names = match images {
        [] => {
            let app = |tree| super::smoke::this_trees(&global.of(&tree), "bundle create");
            global.trees()?.into_iter().map(app).collect::<Result<_, _>>()?
        }
        named => named.to_vec(),
    };
    let images = names.iter().map(|name| super::image_named(name)).collect::<Result<Vec<_>, _>>()?;
    let since = since.map(|path| {
        let cannot = |why: String| {
            Fault::usage(format!("cannot read `{}`", path.display()))
                .cause(why)
                .hint("write it on the other side: `cargo xtask bundle have > FILE`")
        };
        let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
        Have::parse(&text).map_err(cannot)
    });
    let since = since.transpose()?;
    let client = match facts::find_root(global.root.as_deref()) {
        Ok(_) => global.any_tree()?.client(),
        Err(_) => Client::new(ClientOptions::from_env()),
    };
    let selected = Selected::read(&client, &images)?;
    let made = bundle::create(&client, &selected, since.as_ref(), output)?;
    let left_out =
        if made.left_out > 0 { format!(", without {} that the other side has", made.left_out) } else { String::new() };
    let what = format!("`{}`: {} blobs{left_out}, {}", output.display(), made.blobs, quantity::bytes(made.bytes));
    terminal::step("bundle", &what);
    if global.format == Format::Json { documents::BUNDLE_CREATE.print(&made) } else { Ok(()) }
}

fn load(global: &Global, file: &Path, key: Option<&Path>) -> anyhow::Result<()> {
    let key = key.map(PublicKey::read).transpose()?;
    let (client, registry) = place(global)?;
    let bundle = Bundle::open(file)?;
    if let Some(key) = key {
        let signed = bundle.verify(&key)?;
        terminal::step("verified", &format!("{signed} images are signed by the key"));
    }
    let loaded = bundle.load(&client, &|name| registry.repository(name))?;
    let sent = format!("{} blobs, {}; {} were present", loaded.sent, quantity::bytes(loaded.bytes), loaded.present);
    terminal::step("loaded", &sent);
    match global.format {
        Format::Json => documents::BUNDLE_LOAD.print(&loaded),
        Format::Text | Format::Github | Format::Gitlab => super::print(&(loaded.images.join("\n") + "\n")),
    }
}

fn have(global: &Global, repositories: &[String]) -> anyhow::Result<()> {
    let (client, registry) = place(global)?;
    let repositories: Vec<Repository> = match repositories {
        [] => {
            let of = |tree: &Tree| [ImageKind::Base, ImageKind::App].map(|kind| tree.repository(kind));
            let all: BTreeSet<Repository> = global.trees()?.iter().flat_map(of).collect();
            all.into_iter().collect()
        }
        names => names.iter().map(|name| registry.repository(name)).collect(),
    };
    let have = bundle::have(&client, &repositories)?;
    terminal::step("have", &format!("{} blobs in {} repositories", have.len(), repositories.len()));
    super::print(&(serde_json::to_string(&have)? + "\n"))
}
