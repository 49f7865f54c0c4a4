//! Docker's translation of an order, and what becomes of the result in docker's image store.

use super::Context;
use super::order::local_tags;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::docker::{Build, Built};
use xtask_host::tree::facts::{self, RootImage};
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::{context, inputs, toolchain};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::order::{Compiler, FromPlace, ImageOrder};
use xtask_model::image::plan::ImagePlan;
use xtask_model::image::policy::{ImageKind, RelPath, TRANSLATED};
use xtask_model::image::presence::Local;
use xtask_model::spec::lock::formats::Format;
use xtask_model::spec::reference::Tag;

/// Builds an order.
pub(super) fn build(context: &Context<'_>, order: &ImageOrder, root: &RootImage) -> Result<Built, Fault> {
    let secrets = secrets(context, order, root)?;
    let staged = stage(context, order)?;
    let call = call(context, order, &secrets, &staged.folder)?;
    context.docker()?.build(&call, &format!("{} for {}", order.kind, order.platform))
}

/// The command line for an order.
pub(super) fn shown(context: &Context<'_>, order: &ImageOrder, root: &RootImage) -> Result<String, Fault> {
    let secrets = secrets(context, order, root)?;
    let staged = stage(context, order)?;
    let docker = context.docker()?;
    let call = call(context, order, &secrets, &staged.folder)?;
    Ok(format!("{}\n", docker.shown(&docker.build_command(&call, Path::new("metadata.json")))))
}

fn secrets(context: &Context<'_>, order: &ImageOrder, root: &RootImage) -> Result<Secrets, Fault> {
    Secrets::of(&order.secrets, root.name.strip_prefix("debian:"), &|| facts::indexes(context.tree))
}

/// Puts the files that an image reads into a folder of their own, where docker finds nothing that the image's key does not cover.
/// The folder stays locked while the value lives.
fn stage(context: &Context<'_>, order: &ImageOrder) -> Result<context::StagedContext, Fault> {
    let folder = context.tree.root.join("target/docker").join(format!("{}-{}", order.kind, order.platform.dashed()));
    let policy = &context.tree.policy;
    let translated = (order.kind != ImageKind::App && policy.base.format() != Format::Pip).then_some(TRANSLATED);
    if translated.is_some() {
        inputs::write_translated(&context.tree.root, policy)?;
    }
    let made = order.binary.iter().map(RelPath::as_str).chain(translated).map(ContextPath::new).collect::<Vec<_>>();
    let files = facts::list(context.tree, order.kind, &order.files)?;
    context::stage(&context.tree.root, &files, &made, &folder)
}

fn call(context: &Context<'_>, order: &ImageOrder, secrets: &Secrets, staged: &Path) -> Result<Build, Fault> {
    let mut contexts = BTreeMap::new();
    let from = &order.from;
    if let FromPlace::Layout(folder) = &from.place {
        contexts.insert(from.name().to_string(), format!("oci-layout://{}@{}", folder.display(), from.digest));
    }
    if let Some(Compiler::Toolchain(folder)) = &order.compiler {
        contexts.insert(toolchain::CONTEXT.to_owned(), folder.display().to_string());
    }
    let builder = context.request.builder.clone();
    Ok(Build {
        context: staged.to_owned(),
        root: context.tree.root.clone(),
        dockerfile: order.dockerfile.clone(),
        target: None,
        platform: order.platform.clone(),
        args: order.build_args(),
        inherited_args: if order.runs { Secrets::proxies() } else { Vec::new() },
        contexts,
        labels: order.labels.clone(),
        secrets: secrets.files().clone(),
        names: order.names().map(|name| name.to_string()).collect(),
        outputs: order.outputs.clone(),
        compression: order.compression.docker,
        source_date_epoch: order.created,
        // Another builder has its own network.
        host_network: order.runs && builder.is_none() && context.docker()?.lacks_bridge()?,
        builder,
        no_cache: order.rebuild,
        cache: None,
    })
}

/// Gives an app of the local store the names of this commit, as a new build would have them.
pub(super) fn tag_local(context: &Context<'_>, plan: &ImagePlan, local: Option<&Local>) -> Result<Vec<Tag>, Fault> {
    let tags = local_tags(plan);
    if local.is_some_and(|local| local.layout.is_some()) {
        return Ok(tags);
    }
    let docker = context.docker()?;
    let name = plan.repository.tag(&plan.tag).to_string();
    let stored = docker.stored(&name)?.map(|stored| stored.tags).unwrap_or_default();
    for tag in &tags {
        let wanted = plan.repository.tag(tag).to_string();
        if !stored.iter().any(|name| familiar(name) == familiar(&wanted)) {
            docker.tag(&name, &wanted)?;
        }
    }
    Ok(tags)
}

/// A name as docker prints it: without the registry that it takes for granted.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}
