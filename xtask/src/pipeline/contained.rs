//! Builds the app images of a tree into folders of that tree, for a comparison: no engine gets a name, and nothing is published.

use super::execution::{self, Bases};
use super::order;
use super::{Context, Request, Work, build_roots};
use crate::flags::{BuildFlags, Global};
use xtask_host::registry::layout::Layout;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::order::FromImage;
use xtask_model::image::plan::Target;
use xtask_model::image::policy::{Engine, ImageKind};
use xtask_model::spec::reference::Platform;
use xtask_native::image::{Image, Place};

/// An app image in a folder of its tree.
pub struct Contained {
    pub image: Image,
    /// The root that its base is built on.
    pub root: FromImage,
    /// The root by the name that keys and labels have.
    pub root_name: String,
}

/// Builds the app of each tree for this machine, with this engine or the policy's. Trees that share a base have it built once.
///
/// # Errors
/// A platform that the policy does not have, and everything that a build refuses.
pub fn build(global: &Global, trees: &[Tree], engine: Option<Engine>) -> Result<Vec<Contained>, Fault> {
    let mut bases = Bases::default();
    let mut built = Vec::new();
    for tree in trees {
        let client = tree.client();
        let flags = BuildFlags { engine, no_latest: true, ..BuildFlags::default() };
        let request = Request { contained: true, ..Request::new(global, &flags, Target::App, tree)? };
        let context = Context::new(tree, request, &client);
        let platform = Platform::host();
        let mut work = [Work::plan(&context)?];
        let reports = std::thread::scope(|scope| {
            let mut compilation = build_roots(scope, &mut work)?;
            execution::execute(&work[0], &mut bases, &mut compilation)
        })?;
        let planned = &work[0].planned;
        let root = order::from_root(&context, &planned.root, &platform)?;
        let app = reports.last().filter(|report| report.kind == ImageKind::App);
        let app = app.ok_or_else(|| Fault::build("the build gave no app image"))?;
        // The first of the tags is the fingerprint's, which names the folder.
        let folder = facts::local_layout(tree, ImageKind::App, &app.tags[0], &platform);
        let place = match folder.join("index.json").is_file() {
            true => Place::Layout(Layout::open_or_create(&folder)?),
            false => Place::Registry(app.reference.repository.clone()),
        };
        let image = Image::open(&client, place, app.platforms[&platform], &platform)?;
        built.push(Contained { image, root, root_name: planned.root.name.clone() });
    }
    Ok(built)
}
