//! Rebasing: other layers of the root under an image that stays as it is above them.
//!
//! The result is the image that a build on the other root gives, as long as nothing above was made of the root. [`graft`] writes its documents,
//! [`root`] decides whether the roots are alike, [`base_key`] and [`app_key`] name the result.

pub mod root;

use crate::image::key::{AppKey, BaseKey, FINGERPRINT_LABEL, Fingerprint, KEY_LABEL, Key, SCHEMA};
use crate::image::presence::Published;
use crate::image::tags;
use crate::spec::oci::{Config, Descriptor, Execution, History, Manifest, annotation, media_type};
use crate::spec::reference::{Digest, Platform, Reference, Tag};
use std::collections::BTreeMap;

/// Label and annotation: the image before, by digest.
pub const FROM: &str = "dev.xtask.rebased.from";

/// Label and annotation: fingerprint of the image before.
pub const FROM_FINGERPRINT: &str = "dev.xtask.rebased.fingerprint";

/// Label: digest of the root before.
pub const ROOT_FROM: &str = "dev.xtask.rebased.root.from";

/// Label: digest of the root now.
pub const ROOT_TO: &str = "dev.xtask.rebased.root.to";

/// The documents of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Documents {
    pub manifest: Manifest,
    pub config: Config,
}

/// Replaces what an image has of `old`, at its bottom, by `new`: layers, history, and the settings that it inherited. `labels` are set last.
///
/// # Errors
/// The image is not on `old`.
pub fn graft(
    image: &Documents,
    old: &Documents,
    new: &Documents,
    labels: &BTreeMap<String, String>,
) -> Result<Documents, String> {
    let count = old.config.rootfs.diff_ids.len();
    let own = image.config.rootfs.diff_ids.strip_prefix(old.config.rootfs.diff_ids.as_slice());
    let own =
        own.ok_or_else(|| "its lowest layers are not those of the image that it is said to be built on".to_owned())?;
    let whole = |one: &Documents| one.manifest.layers.len() == one.config.rootfs.diff_ids.len();
    if !whole(image) || !whole(new) {
        return Err("a manifest and its configuration differ in their number of layers".to_owned());
    }
    let mut made = image.clone();
    let is_oci = image.manifest.media_type.as_deref() == Some(media_type::MANIFEST);
    let lower = new.manifest.layers.iter().map(|layer| typed(layer, is_oci));
    made.manifest.layers = lower.chain(image.manifest.layers[count..].iter().cloned()).collect();
    made.config.rootfs.diff_ids = new.config.rootfs.diff_ids.iter().chain(own).copied().collect();
    let below = old.config.history.as_slice();
    let own = image.config.history.strip_prefix(below).filter(|_| !below.is_empty());
    let own = own.unwrap_or_else(|| above(&image.config.history, count));
    made.config.history = match image.config.history.as_slice() {
        [] => Vec::new(),
        _ => new.config.history.iter().chain(own).cloned().collect(),
    };
    made.config.config = inherited(&image.config.config, &old.config.config, &new.config.config);
    made.config.config.labels.extend(labels.clone());
    for (name, value) in labels {
        // An annotation counts more than a label.
        if let Some(noted) = made.manifest.annotations.get_mut(name) {
            noted.clone_from(value);
        }
    }
    Ok(made)
}

/// A layer with the media type that belongs to the kind of its manifest.
fn typed(layer: &Descriptor, is_oci: bool) -> Descriptor {
    const PAIRS: [(&str, &str); 2] = [
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", media_type::LAYER_GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar", media_type::LAYER),
    ];
    let known = |(docker, oci): &(&'static str, &'static str)| match is_oci {
        true => (*docker == layer.media_type).then(|| (*oci).to_owned()),
        false => (*oci == layer.media_type).then(|| (*docker).to_owned()),
    };
    let media_type = PAIRS.iter().find_map(known).unwrap_or_else(|| layer.media_type.clone());
    Descriptor { media_type, ..layer.clone() }
}

/// The entries of a history above the lowest `count` layers, for an image that does not repeat the history of the one below.
fn above(all: &[History], count: usize) -> &[History] {
    let mut left = count;
    let mut end = 0;
    for (at, entry) in all.iter().enumerate() {
        if left == 0 {
            break;
        }
        if !entry.empty_layer {
            left -= 1;
        }
        end = at + 1;
    }
    &all[end..]
}

/// Instructions that made each layer above the lowest `count`, lowest first; `None` where the history does not say.
pub fn made_by(config: &Config, count: usize) -> Vec<Option<&str>> {
    let layers = config.rootfs.diff_ids.len();
    let entries: Vec<&History> = config.history.iter().filter(|entry| !entry.empty_layer).collect();
    let known = entries.len() == layers;
    (count..layers).map(|at| if known { entries[at].created_by.as_deref() } else { None }).collect()
}

/// Settings: those that were inherited from `old` become those of `new`.
fn inherited(image: &Execution, old: &Execution, new: &Execution) -> Execution {
    let pick = |own: &String, old: &String, new: &String| if own == old { new.clone() } else { own.clone() };
    let starts_anew = image.entrypoint != old.entrypoint;
    Execution {
        user: pick(&image.user, &old.user, &new.user),
        exposed_ports: merged(&image.exposed_ports, &old.exposed_ports, &new.exposed_ports),
        env: environment(&image.env, &old.env, &new.env),
        entrypoint: if starts_anew { &image.entrypoint } else { &new.entrypoint }.clone(),
        // An entry point of its own takes the arguments of the image below away.
        cmd: if starts_anew || image.cmd != old.cmd { &image.cmd } else { &new.cmd }.clone(),
        volumes: merged(&image.volumes, &old.volumes, &new.volumes),
        working_dir: pick(&image.working_dir, &old.working_dir, &new.working_dir),
        labels: merged(&image.labels, &old.labels, &new.labels),
        stop_signal: pick(&image.stop_signal, &old.stop_signal, &new.stop_signal),
        other: merged(&image.other, &old.other, &new.other),
    }
}

fn merged<T: Clone + PartialEq>(
    image: &BTreeMap<String, T>,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> BTreeMap<String, T> {
    let own = image.iter().filter(|(name, value)| old.get(*name) != Some(*value));
    let mut all: BTreeMap<String, T> =
        new.iter().filter(|(name, _)| image.contains_key(*name) || !old.contains_key(*name)).map(owned).collect();
    all.extend(own.map(owned));
    all
}

fn owned<T: Clone>((name, value): (&String, &T)) -> (String, T) {
    (name.clone(), value.clone())
}

/// Variables in the order of a build: those of the image below, then new ones.
fn environment(image: &[String], old: &[String], new: &[String]) -> Vec<String> {
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let mut all = new.to_vec();
    for entry in image.iter().filter(|entry| !old.contains(entry)) {
        match all.iter_mut().find(|other| name(other) == name(entry)) {
            Some(other) => other.clone_from(entry),
            None => all.push(entry.clone()),
        }
    }
    all
}

/// Reason why a key cannot be changed.
fn unreadable(error: impl std::fmt::Display) -> String {
    format!("its key cannot be read: {error}")
}

fn checked<K: Key + serde::de::DeserializeOwned>(json: &str, schema: impl Fn(&K) -> u32) -> Result<K, String> {
    let key: K = serde_json::from_str(json).map_err(unreadable)?;
    if schema(&key) != SCHEMA {
        return Err(unreadable(format!("another version of xtask wrote it (schema {}, not {SCHEMA})", schema(&key))));
    }
    Ok(key)
}

/// Reads the key of a base.
///
/// # Errors
/// It is of another version or of another image, or the base has Debian packages that were resolved for its root.
pub fn read_base_key(json: &str) -> Result<BaseKey, String> {
    let key = checked(json, |key: &BaseKey| key.schema)?;
    if !key.system.is_empty() {
        return Err("its Debian packages were resolved for its root, and its database lists both".to_owned());
    }
    Ok(key)
}

/// Reads the key of an app.
///
/// # Errors
/// It is of another version or another image, or the app is not on a base.
pub fn read_app_key(json: &str) -> Result<AppKey, String> {
    let key = checked(json, |key: &AppKey| key.schema)?;
    if key.base.is_none() {
        return Err("it was built from scratch, on no base".to_owned());
    }
    Ok(key)
}

/// The key of a base on other digests of the same root.
///
/// # Errors
/// A platform of the key has no new digest.
pub fn base_key(key: &BaseKey, digests: &BTreeMap<Platform, Digest>) -> Result<BaseKey, String> {
    let mut key = key.clone();
    for (platform, digest) in &mut key.root.digests {
        *digest = *digests.get(platform).ok_or_else(|| format!("the new root has no image for {platform}"))?;
    }
    Ok(key)
}

/// The key of an app on another base.
pub fn app_key(key: &AppKey, base: &Fingerprint) -> AppKey {
    AppKey { base: Some(base.to_string()), ..key.clone() }
}

/// State of an image before a rebase, and the root that it was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// By digest.
    pub image: Reference,
    pub fingerprint: Fingerprint,
    pub root: Digest,
    /// The root now.
    pub now: Digest,
}

impl Origin {
    /// The labels of a rebased image with this key, on a base of this name.
    pub fn labels(
        &self,
        fingerprint: &Fingerprint,
        key: &str,
        (name, base): (&str, &Digest),
    ) -> BTreeMap<String, String> {
        let text = |name: &str, value: String| (name.to_owned(), value);
        [
            text(FROM, self.image.to_string()),
            text(FROM_FINGERPRINT, self.fingerprint.to_string()),
            text(ROOT_FROM, self.root.to_string()),
            text(ROOT_TO, self.now.to_string()),
            text(FINGERPRINT_LABEL, fingerprint.to_string()),
            text(KEY_LABEL, key.to_owned()),
            text(annotation::BASE_NAME, name.to_owned()),
            text(annotation::BASE_DIGEST, base.to_string()),
        ]
        .into()
    }
}

/// The image from which a published one was made by rebasing.
pub fn before(published: &Published) -> Option<Reference> {
    let before: Reference = published.notes.get(FROM)?.parse().ok()?;
    before.digest.is_some().then_some(before)
}

/// True if `published` is an image of this fingerprint, rebased since.
pub fn is_of(published: &Published, fingerprint: &Fingerprint) -> bool {
    published.notes.get(FROM_FINGERPRINT).is_some_and(|text| *text == fingerprint.to_string())
}

/// Reason why a tag stays where it is when its image is rebased; `None` for one that moves.
pub fn fixed(tag: &Tag, published: &Published) -> Option<&'static str> {
    let text = tag.as_str();
    let begins = |whole: Option<String>| text.len() >= 8 && whole.is_some_and(|whole| whole.starts_with(text));
    if tags::is_version(text) {
        return Some("a version does not move");
    }
    if begins(published.fingerprint().map(|fingerprint| fingerprint.to_string())) {
        return Some("it names the key");
    }
    if begins(published.revision().map(str::to_owned)) {
        return Some("it names the commit, whose `images.lock` has the other root");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::oci::RootFs;

    fn layer(name: &str) -> (Descriptor, Digest) {
        (
            Descriptor::new(media_type::LAYER_GZIP, Digest::of(name.as_bytes()), 1),
            Digest::of(format!("tar {name}").as_bytes()),
        )
    }

    /// An image of layers; a setting follows each.
    fn image(layers: &[&str], execution: Execution) -> Documents {
        let (descriptors, diff_ids) = layers.iter().map(|name| layer(name)).unzip();
        let entry = |name: String, empty_layer| History { created_by: Some(name), empty_layer, ..History::default() };
        let mut history = Vec::new();
        for name in layers {
            history.extend([entry(format!("COPY {name}"), false), entry(format!("ENV {name}"), true)]);
        }
        let config = Config {
            created: None,
            architecture: "amd64".to_owned(),
            variant: None,
            os: "linux".to_owned(),
            config: execution,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
            history,
            other: BTreeMap::new(),
        };
        let config_descriptor = Descriptor::new(media_type::CONFIG, Digest::of(b"config"), 1);
        Documents { manifest: Manifest::new(config_descriptor, descriptors), config }
    }

    fn env(entries: &[&str]) -> Execution {
        Execution { env: entries.iter().map(|entry| (*entry).to_owned()).collect(), ..Execution::default() }
    }

    #[test]
    fn the_lowest_layers_are_replaced_and_the_others_stay() {
        let old = image(&["a", "b"], env(&["PATH=/bin", "VERSION=1", "GONE=1"]));
        let new = image(&["c"], env(&["PATH=/bin", "VERSION=2", "NEW=1"]));
        let own = image(&["a", "b", "own"], env(&["PATH=/app:/bin", "VERSION=1", "GONE=1", "OWN=1"]));
        let labels = BTreeMap::from([(FROM.to_owned(), "x".to_owned())]);
        let made = graft(&own, &old, &new, &labels).unwrap();
        assert_eq!(made.manifest.layers, [layer("c").0, layer("own").0]);
        assert_eq!(made.config.rootfs.diff_ids, [layer("c").1, layer("own").1]);
        let said: Vec<&str> = made.config.history.iter().filter_map(|entry| entry.created_by.as_deref()).collect();
        assert_eq!(said, ["COPY c", "ENV c", "COPY own", "ENV own"]);
        let other = Documents { config: Config { history: Vec::new(), ..old.config.clone() }, ..old.clone() };
        let said = graft(&own, &other, &new, &labels).unwrap().config.history.len();
        assert_eq!(said, 5, "by the number of layers, the last setting below counts as the image's own");
        assert_eq!(made_by(&made.config, 1), [Some("COPY own")]);
        assert_eq!(made.config.config.env, ["PATH=/app:/bin", "VERSION=2", "NEW=1", "OWN=1"]);
        assert_eq!(made.config.config.labels, labels);
    }

    #[test]
    fn an_image_on_something_else_is_refused() {
        let (old, new) = (image(&["a"], env(&[])), image(&["c"], env(&[])));
        assert!(graft(&image(&["b", "own"], env(&[])), &old, &new, &BTreeMap::new()).is_err());
        let mut short = image(&["a", "own"], env(&[]));
        short.manifest.layers.pop();
        assert!(graft(&short, &old, &new, &BTreeMap::new()).is_err());
    }

    #[test]
    fn settings_of_its_own_stay_and_inherited_ones_follow() {
        let program = |name: &str| Some(vec![name.to_owned()]);
        let below =
            |cmd: &str, user: &str| Execution { cmd: program(cmd), user: user.to_owned(), ..Execution::default() };
        let (old, new) = (below("python3", "a"), below("python3.1", "b"));
        let plain = inherited(&old, &old, &new);
        assert_eq!((plain.cmd, plain.user), (program("python3.1"), "b".to_owned()));
        let own = Execution { entrypoint: program("app"), cmd: None, user: "me".to_owned(), ..Execution::default() };
        let kept = inherited(&own, &old, &new);
        assert_eq!((kept.entrypoint, kept.cmd, kept.user), (program("app"), None, "me".to_owned()));
        let map = |entries: &[(&str, i32)]| -> BTreeMap<String, i32> {
            entries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        // Kept, followed, taken away by the image itself, taken away below, new below, new in the image.
        let image = map(&[("kept", 9), ("followed", 1), ("lost", 1), ("own", 1)]);
        let old = map(&[("kept", 1), ("followed", 1), ("removed", 1), ("lost", 1)]);
        let new = map(&[("kept", 2), ("followed", 2), ("removed", 2), ("new", 1)]);
        assert_eq!(merged(&image, &old, &new), map(&[("kept", 9), ("followed", 2), ("new", 1), ("own", 1)]));
    }

    #[test]
    fn docker_types_follow_the_manifest() {
        let docker = Descriptor::new("application/vnd.docker.image.rootfs.diff.tar.gzip", Digest::of(b"x"), 1);
        let oci = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"x"), 1);
        assert_eq!(typed(&docker, true), oci);
        assert_eq!(typed(&oci, false), docker);
        assert_eq!(typed(&oci, true), oci);
    }

    #[test]
    fn keys_change_by_their_root_alone() {
        let key = crate::image::key::tests::base_key();
        let digests: BTreeMap<Platform, Digest> =
            key.root.digests.keys().map(|platform| (platform.clone(), Digest::of(b"new"))).collect();
        let rebased = base_key(&read_base_key(&key.json()).unwrap(), &digests).unwrap();
        assert_ne!(rebased.fingerprint(), key.fingerprint());
        assert_eq!(base_key(&rebased, &key.root.digests).unwrap().fingerprint(), key.fingerprint());
        assert!(base_key(&key, &BTreeMap::new()).is_err());
        assert!(read_base_key("{}").is_err() && read_app_key(&key.json()).is_err());
    }

    #[track_caller]
    fn moves(tag: &str, expected: bool) {
        let notes = BTreeMap::from([
            (FINGERPRINT_LABEL.to_owned(), "0123456789ab".repeat(6)[..64].to_owned()),
            (crate::image::presence::REVISION.to_owned(), "abcdef0123".repeat(4)),
        ]);
        let published = Published::new(Digest::of(b"x"), BTreeMap::new(), notes, None);
        assert_eq!(fixed(&tag.parse().unwrap(), &published).is_none(), expected, "{tag}");
    }

    #[test]
    fn names_of_contents_do_not_move() {
        for tag in ["latest", "main", "prod", "abcdef"] {
            moves(tag, true);
        }
        for tag in ["1.2.3", "0123456789ab", "abcdef0123ab"] {
            moves(tag, false);
        }
    }
}
