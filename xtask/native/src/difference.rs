//! Differences between a published image and the same image built again: fields of the documents, layers, and in a layer each path.
//!
//! Only layers whose uncompressed digests differ are read, both to their end, so that a damaged one is an error and no difference.

mod layers;

use crate::files::ImageFiles;
use crate::image::Image;
use crate::store::Store;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::Path;
use xtask_host::registry::Client;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::Digest;

/// A difference: first the published image's value, then the one of the image that was built again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `configuration`, `manifest`, or `layer 3 of 5`.
    pub part: String,
    /// Path of a file or of a field; empty for the part as a whole.
    pub path: String,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.part, self.what),
            path => write!(f, "{}: `{path}`: {}", self.part, self.what),
        }
    }
}

/// Promise of an engine about two builds of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The same bytes.
    Digest,
    /// The same files and configuration: folders that the engine makes have the time of the build.
    Tree,
}

/// Reads the parts of images that are compared.
pub struct Comparison<'a> {
    pub client: &'a Client,
    pub store: &'a Store,
    /// Folder under whose `target` files are kept.
    pub root: &'a Path,
    pub promise: Promise,
}

impl Comparison<'_> {
    /// Every difference; none for images that are the same as far as their engine promises it.
    pub fn images(&self, published: &Image, rebuilt: &Image) -> Result<Vec<Difference>, Fault> {
        let exact = self.promise == Promise::Digest;
        if published.digest == rebuilt.digest {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let config = |image: &Image| self.document(image, &image.manifest.config);
        // The digests of layers are compared as layers.
        let without_layers = |mut config: Value| {
            config.as_object_mut().map(|fields| fields.remove("rootfs"));
            config
        };
        let (old, new) = (without_layers(config(published)?), without_layers(config(rebuilt)?));
        fields("configuration", &old, &new, &mut found);
        self.layers(published, rebuilt, &mut found)?;
        if exact {
            // With the same layers and configuration only the manifest's own fields are left.
            let itself = |image: &Image| {
                let mut manifest = serde_json::to_value(&image.manifest).unwrap_or_default();
                manifest.as_object_mut().map(|fields| [fields.remove("layers"), fields.remove("config")]);
                manifest
            };
            fields("manifest", &itself(published), &itself(rebuilt), &mut found);
            if found.is_empty() {
                let what = format!("its encoding differs: `{}`, `{}`", published.digest, rebuilt.digest);
                found.push(Difference { part: "manifest".to_owned(), path: String::new(), what });
            }
        }
        Ok(found)
    }

    fn document(&self, image: &Image, document: &Descriptor) -> Result<Value, Fault> {
        let bytes = image.document(self.client, document)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Fault::network(format!("cannot read configuration `{}`", document.digest)).cause(error))
    }

    /// Pairs the layers from both ends, and compares those between.
    fn layers(&self, published: &Image, rebuilt: &Image, found: &mut Vec<Difference>) -> Result<(), Fault> {
        let (old, new): (Vec<_>, Vec<_>) = (published.layers().collect(), rebuilt.layers().collect());
        let same = |(one, two): &(&(&Descriptor, Digest), &(&Descriptor, Digest))| one.1 == two.1;
        let front = old.iter().zip(&new).take_while(same).count();
        let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(same).count();
        let (old_end, new_end) = (old.len() - back, new.len() - back);
        let name = |index: usize, all: usize| format!("layer {} of {all}", index + 1);
        if self.promise == Promise::Digest {
            let pairs = (0..front).map(|at| (at, at)).chain((0..back).map(|at| (old_end + at, new_end + at)));
            for (at, other) in pairs {
                descriptors(&name(at, old.len()), old[at].0, new[other].0, found);
            }
        }
        for at in front..old_end.max(new_end) {
            let whole = |what: String| Difference { part: name(at, old.len()), path: String::new(), what };
            match (old[..old_end].get(at), new[..new_end].get(at)) {
                (Some((old, old_id)), Some((new, new_id))) => {
                    let before = found.len();
                    self.layer(
                        &name(at, published.manifest.layers.len()),
                        (published, old, *old_id),
                        (rebuilt, new, *new_id),
                        found,
                    )?;
                    if found.len() == before && self.promise == Promise::Digest {
                        found.push(whole(format!(
                            "same files and metadata, in another order or encoding: `{old_id}`, `{new_id}`"
                        )));
                    }
                }
                (Some((_, id)), None) => found.push(whole(format!("only in the published image: `{id}`"))),
                (None, Some((_, id))) => found.push(whole(format!("only in the image that was built again: `{id}`"))),
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn layer(
        &self,
        part: &str,
        old: (&Image, &Descriptor, Digest),
        new: (&Image, &Descriptor, Digest),
        found: &mut Vec<Difference>,
    ) -> Result<(), Fault> {
        let read = |(image, descriptor, id): (&Image, &Descriptor, Digest)| {
            let files = ImageFiles::new(self.client, self.store, image, &image.digest.to_string(), self.root);
            files.read_layer(descriptor, id, layers::listing)
        };
        let (before, after) = (read(old)?, read(new)?);
        let differences = layers::compare(&before, &after, self.promise);
        let wanted = differences.edited();
        let contents = |(image, descriptor, id): (&Image, &Descriptor, Digest)| {
            let files = ImageFiles::new(self.client, self.store, image, &image.digest.to_string(), self.root);
            files.read_layer(descriptor, id, |reader| layers::contents(reader, &wanted))
        };
        let bytes = if wanted.is_empty() { Default::default() } else { (contents(old)?, contents(new)?) };
        found.extend(differences.described(part, &bytes.0, &bytes.1));
        Ok(())
    }
}

/// The differences of two descriptors of one layer.
fn descriptors(part: &str, old: &Descriptor, new: &Descriptor, found: &mut Vec<Difference>) {
    if old.digest != new.digest {
        let what = format!("same contents, compressed to other bytes: `{}`, `{}`", old.digest, new.digest);
        found.push(Difference { part: part.to_owned(), path: String::new(), what });
    }
    let rest = |descriptor: &Descriptor| {
        let mut value = serde_json::to_value(descriptor).unwrap_or_default();
        value.as_object_mut().map(|fields| [fields.remove("digest"), fields.remove("size")]);
        value
    };
    fields(part, &rest(old), &rest(new), found);
}

/// The fields in which two documents differ, by their paths.
fn fields(part: &str, old: &Value, new: &Value, found: &mut Vec<Difference>) {
    fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, add: &mut dyn FnMut(&str, String)) {
        match (old, new) {
            (Some(Value::Object(one)), Some(Value::Object(two))) => {
                let names: std::collections::BTreeSet<&String> = one.keys().chain(two.keys()).collect();
                for name in names {
                    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                    let step = if plain { format!(".{name}") } else { format!("[\"{name}\"]") };
                    walk(format!("{path}{step}").trim_start_matches('.'), one.get(name), two.get(name), add);
                }
            }
            (Some(Value::Array(one)), Some(Value::Array(two))) => {
                for at in 0..one.len().max(two.len()) {
                    walk(&format!("{path}[{at}]"), one.get(at), two.get(at), add);
                }
            }
            (one, two) if one == two => {}
            (one, two) => add(path, format!("{}, built again {}", shown(one), shown(two))),
        }
    }
    walk("", Some(old), Some(new), &mut |path, what| {
        found.push(Difference { part: part.to_owned(), path: path.to_owned(), what });
    });
}

/// A value in a message, the begin of a long one.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 120;
    let Some(value) = value else { return "nothing".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(old: Value, new: Value, expected: &[&str]) {
        let mut found = Vec::new();
        fields("configuration", &old, &new, &mut found);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_field_is_named_by_its_path_with_both_values() {
        let labels = |value: &str| json!({"config": {"Labels": {"a.b": value, "c": "d"}, "Env": ["A=1"]}});
        check(labels("1"), labels("1"), &[]);
        check(labels("1"), labels("2"), &["configuration: `config.Labels[\"a.b\"]`: `\"1\"`, built again `\"2\"`"]);
        let more = json!({"config": {"Labels": {"a.b": "1", "c": "d"}, "Env": ["A=1", "B=2"], "User": "0"}});
        let env = "configuration: `config.Env[1]`: nothing, built again `\"B=2\"`";
        let user = "configuration: `config.User`: nothing, built again `\"0\"`";
        check(labels("1"), more, &[env, user]);
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "é".repeat(500);
        check(
            json!({"a": long}),
            json!({}),
            &[&format!("configuration: `a`: `\"{}…`, built again nothing", "é".repeat(119))],
        );
    }
}
