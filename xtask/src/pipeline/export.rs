//! `--output oci:DIR` and `oci-archive:FILE`: the finished image for other tools, from wherever the build left it.

use super::Context;
use super::order::local_tags;
use crate::flags::Output;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::Path;
use xtask_host::docker::Docker;
use xtask_host::registry::layout::Layout;
use xtask_host::scratch::{self, Scratch};
use xtask_host::terminal;
use xtask_host::tree::facts;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::plan::ImagePlan;
use xtask_model::image::policy::ImageKind;
use xtask_model::record::report::ImageReport;
use xtask_model::spec::oci::{Descriptor, Index, annotation, media_type};
use xtask_model::spec::reference::Tag;
use xtask_native::image::{Image, Place};
use xtask_native::push::deliver::{self, ImageLayer, LayerPlace};

/// Writes images, each with the context that it was built in, where `--output` says: one layout or archive with all of them.
pub(super) fn export(images: &[(&Context<'_>, ImageReport)]) -> Result<(), Fault> {
    let Some((context, _)) = images.first() else { return Ok(()) };
    match &context.request.output {
        Some(Output::Layout(folder)) => {
            let layout = Layout::open_or_create(folder)?;
            Layout::sweep(folder);
            let names = copy_all(images, &layout)?;
            terminal::step("output", &format!("{names} in the layout `{}`", folder.display()));
        }
        Some(Output::Archive(file)) => {
            let cannot = |error| Fault::build(format!("cannot write `{}`", file.display())).cause(error);
            let work = context.tree.root.join("target");
            std::fs::create_dir_all(&work).map_err(cannot)?;
            let folder = Scratch::new_in(&work, scratch::SHARED).map_err(cannot)?;
            let layout = Layout::open_or_create(folder.path())?;
            let names = copy_all(images, &layout)?;
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            scratch::sweep(parent, &[scratch::SHARED], scratch::remove);
            // On the archive's own file system, so that it appears whole.
            let near = Scratch::new_in(parent, scratch::SHARED).map_err(cannot)?;
            let new = near.path().join("archive");
            File::create_new(&new).and_then(|new| archive(&layout, None, &new)).map_err(cannot)?;
            std::fs::rename(&new, file).map_err(cannot)?;
            terminal::step("output", &format!("{names} in the archive `{}`", file.display()));
        }
        Some(Output::Registry | Output::Docker) | None => {}
    }
    Ok(())
}

/// Copies images into a layout; returns their names in it, for people. An image has its tag as name. Where the policy names several, the
/// name of its repository is before it, `app-web:TAG`: a tag alone says nothing about the app.
fn copy_all(images: &[(&Context<'_>, ImageReport)], layout: &Layout) -> Result<String, Fault> {
    let mut names = Vec::new();
    for (context, report) in images {
        let tag = &report.tags[0];
        let name = match &report.name {
            Some(_) => {
                let path = report.reference.repository.path();
                format!("{}:{tag}", path.rsplit('/').next().unwrap_or(path))
            }
            None => tag.to_string(),
        };
        copy_to(context, report, &name, layout)?;
        names.push(format!("`{name}`"));
    }
    Ok(names.join(", "))
}

/// Brings an image of a layout into the store of docker or podman, under all its names.
pub(super) fn load(context: &Context<'_>, folder: &Path, plan: &ImagePlan) -> Result<(), Fault> {
    const NAME: &str = "io.containerd.image.name";
    let layout = Layout::open_or_create(folder)?;
    let (_, found) = layout
        .list()?
        .into_iter()
        .next()
        .ok_or_else(|| Fault::build(format!("there is no image in the layout `{}`", folder.display())))?;
    let docker = context.docker()?;
    let names: Vec<Tag> = std::iter::once(plan.tag.clone()).chain(local_tags(plan)).collect();
    if docker.podman {
        return load_by_podman(docker, &layout, &found, plan, &names);
    }
    let named = |tag: Tag| {
        let descriptor = found.clone().with_annotation(annotation::REF_NAME, tag.as_str());
        descriptor.with_annotation(NAME, plan.repository.tag(&tag).to_string())
    };
    load_index(docker, &layout, &Index::new(names.into_iter().map(named).collect()))
}

/// Podman takes one image of an archive, whose annotation is the whole name.
fn load_by_podman(
    docker: &Docker,
    layout: &Layout,
    found: &Descriptor,
    plan: &ImagePlan,
    names: &[Tag],
) -> Result<(), Fault> {
    let whole = |tag: &Tag| plan.repository.tag(tag).to_string();
    let [first, others @ ..] = names else { return Ok(()) };
    let named = found.clone().with_annotation(annotation::REF_NAME, whole(first));
    load_index(docker, layout, &Index::new(vec![named]))?;
    others.iter().try_for_each(|tag| docker.tag(&whole(first), &whole(tag)))
}

fn load_index(docker: &Docker, layout: &Layout, index: &Index) -> Result<(), Fault> {
    let cannot = |error: io::Error| Fault::build("cannot bring the image to the engine").cause(error);
    let file = tempfile::NamedTempFile::new_in(layout.folder()).map_err(cannot)?;
    let bytes = serde_json::to_vec(index).expect("an index is JSON");
    archive(layout, Some(&bytes), file.as_file()).map_err(cannot)?;
    docker.command().args(["image", "load", "--input"]).arg(file.path()).read(Exit::Build).map(drop)
}

/// Copies an image into a layout under a name.
fn copy_to(context: &Context<'_>, report: &ImageReport, name: &str, layout: &Layout) -> Result<(), Fault> {
    let (platform, tag) = (&context.request.wanted.platforms[0], &report.tags[0]);
    let digest = report.platforms[platform];
    let local = facts::local_layout(context.tree, report.kind, tag, platform);
    let place = match (context.request.wanted.push, local.join("index.json").is_file()) {
        (true, _) => Place::Registry(report.reference.repository.clone()),
        (false, true) => Place::Layout(Layout::open_or_create(&local)?),
        // A base that is used where it is stays in the registry even for a local build.
        (false, false) if report.kind == ImageKind::Base => Place::Registry(report.reference.repository.clone()),
        (false, false) => return save(context, report, name, layout),
    };
    let image = Image::open(context.client, place, digest, platform)?;
    let layer = |(descriptor, diff_id): (&Descriptor, _)| ImageLayer {
        descriptor: descriptor.clone(),
        diff_id,
        place: LayerPlace::Base,
        checks: None,
    };
    let layers: Vec<ImageLayer> = image.layers().map(layer).collect();
    deliver::to_layout(context.client, layout, &layers, Some(&image))?;
    // Documents go over as the bytes that they are: their digests are of these.
    let documents = [Descriptor::new(media_type::MANIFEST, image.digest, 0), image.manifest.config.clone()];
    for document in &documents {
        layout.put_bytes(&image.document(context.client, document)?)?;
    }
    let size = layout.blob_size(&image.digest).unwrap_or(0);
    let media_type = image.manifest.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.to_owned());
    layout.set(name, &Descriptor::new(media_type, image.digest, size).with_platform(platform))
}

/// Takes an image out of docker's store: `docker image save` writes a layout as an archive.
fn save(context: &Context<'_>, report: &ImageReport, own: &str, layout: &Layout) -> Result<(), Fault> {
    let name = report.reference.repository.tag(&report.tags[0]).to_string();
    if context.docker()?.podman {
        return Err(Fault::build(format!("cannot save `{name}`"))
            .cause("podman would write its layers as others, and the image with another digest")
            .hint("build it again: `--force`"));
    }
    let cannot = |error: &dyn std::fmt::Display| Fault::build(format!("cannot save `{name}`")).cause(error);
    let folder = Scratch::new_in(&context.tree.root.join("target"), scratch::SHARED).map_err(|error| cannot(&error))?;
    let file = folder.path().join("image.tar");
    context.docker()?.command().args(["image", "save", "--output"]).arg(&file).arg(&name).read(Exit::Build)?;
    let open = File::open(&file).map_err(|error| cannot(&error))?;
    let mut archive = tar::Archive::new(BufReader::new(open));
    let mut index: Option<Index> = None;
    for entry in archive.entries().map_err(|error| cannot(&error))? {
        let entry = entry.map_err(|error| cannot(&error))?;
        let path = entry.path().map_err(|error| cannot(&error))?.into_owned();
        if path == Path::new("index.json") {
            index = Some(serde_json::from_reader(entry).map_err(|error| cannot(&error))?);
        } else if let Ok(hex) = path.strip_prefix("blobs/sha256")
            && let Some(Ok(digest)) = hex.to_str().map(|hex| format!("sha256:{hex}").parse())
        {
            layout.put_blob(entry, Some(&digest))?;
        }
    }
    let found = index.and_then(|index| index.manifests.into_iter().next());
    let mut found = found.ok_or_else(|| {
        cannot(&"docker wrote no OCI index").hint("an engine that keeps images with containerd writes one")
    })?;
    found.annotations.retain(|name, _| name != annotation::REF_NAME);
    layout.set(own, &found)
}

/// A layout as one tar file, perhaps with another index; the same layout gives the same bytes.
fn archive(layout: &Layout, index: Option<&[u8]>, to: &File) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(to));
    let header = |size| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header
    };
    let mut blobs: Vec<_> = std::fs::read_dir(layout.folder().join("blobs/sha256"))?.collect::<Result<_, _>>()?;
    blobs.sort_by_key(std::fs::DirEntry::file_name);
    let blobs = blobs.iter().map(|entry| Path::new("blobs/sha256").join(entry.file_name()));
    for path in ["oci-layout", "index.json"].map(Path::new).map(Path::to_owned).into_iter().chain(blobs) {
        if let Some(index) = index.filter(|_| path == Path::new("index.json")) {
            tar.append_data(&mut header(index.len() as u64), &path, index)?;
            continue;
        }
        let mut file = File::open(layout.folder().join(&path))?;
        tar.append_data(&mut header(file.metadata()?.len()), &path, &mut file)?;
    }
    tar.into_inner()?.flush()
}
