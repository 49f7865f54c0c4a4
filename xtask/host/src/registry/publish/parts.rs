//! Parts of root images, which builds on a new machine read in place of whole layers: an artifact in the repository of roots, under a tag that
//! says what it is made of.
//!
//! For each layer of the root it has a tar file with the entries of the part, and the layer's table of contents, both in gzip. It is as trustworthy
//! as roots, bases and their layers: who may write its tag may publish these too.

use crate::registry::layout::Layout;
use crate::registry::{Answer, Client};
use crate::{clock, scratch::Scratch};
use std::io::Read;
use xtask_model::fault::Fault;
use xtask_model::image::presence::CREATED;
use xtask_model::spec::oci::{Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// Type of the artifact.
pub const TYPE: &str = "application/vnd.xtask.root-part.v1";

const TABLE: &str = "application/vnd.xtask.table-of-contents.v1+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 30;

/// The files of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPart<Tar, Table> {
    pub tar: Tar,
    pub table: Table,
}

const TAG_PREFIX: &str = "part-";

/// The tag of a part: `part-` and the digits of its id.
pub fn tag(id: &Digest) -> Tag {
    Tag::from_name(&format!("{TAG_PREFIX}{}", id.hex())).expect("letters and digits are a tag")
}

/// True if a tag is that of a part.
pub fn is(tag: &Tag) -> bool {
    tag.as_str().starts_with(TAG_PREFIX)
}

/// The files of a part, for a root of this many layers.
///
/// # Errors
/// A registry that does not answer or refuses.
pub fn find(
    client: &Client,
    repository: &Repository,
    id: &Digest,
    layers: usize,
) -> Result<Option<Vec<LayerPart<Descriptor, Descriptor>>>, Fault> {
    let Answer::Present(found) = client.manifest(repository, tag(id))? else { return Ok(None) };
    let manifest = serde_json::from_slice::<Manifest>(&found.bytes).ok().filter(|manifest| {
        manifest.other.get("artifactType").and_then(|kind| kind.as_str()) == Some(TYPE)
            && manifest.layers.len() == 2 * layers
    });
    let fits = |file: &Descriptor, kind: &str| file.media_type == kind && file.size <= LONGEST;
    let layer = |pair: &[Descriptor]| {
        let [tar, table] = pair else { return None };
        let fits = fits(tar, media_type::LAYER_GZIP) && fits(table, TABLE);
        fits.then(|| LayerPart { tar: tar.clone(), table: table.clone() })
    };
    Ok(manifest.and_then(|manifest| manifest.layers.chunks(2).map(layer).collect()))
}

/// Puts a part into a repository; `next` gives the files of each layer, the lowest first.
///
/// # Errors
/// Files that cannot be read; anything that the registry refuses.
pub fn keep<R: Read>(
    client: &Client,
    repository: &Repository,
    id: &Digest,
    layers: impl Iterator<Item = Result<LayerPart<R, Vec<u8>>, Fault>>,
) -> Result<(), Fault> {
    let scratch = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
    let layout = Layout::open_or_create(scratch.path())?;
    let config = layout.put_json(EMPTY, &serde_json::json!({}))?;
    let mut files = Vec::new();
    for layer in layers {
        let LayerPart { tar, table } = layer?;
        let (digest, size) = layout.put_blob(tar, None)?;
        files.push(Descriptor::new(media_type::LAYER_GZIP, digest, size));
        let (digest, size) = layout.put_bytes(&table)?;
        files.push(Descriptor::new(TABLE, digest, size));
    }
    let mut manifest = Manifest::new(config, files);
    manifest.other.insert("artifactType".to_owned(), TYPE.into());
    manifest.annotations.insert(CREATED.to_owned(), clock::now().to_string());
    super::send(client, &layout, &layout.put_json(media_type::MANIFEST, &manifest)?, repository, &tag(id))
}
