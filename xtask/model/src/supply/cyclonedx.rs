//! An inventory as CycloneDX 1.6 (ECMA-424).

use super::inventory::{Component, Inventory};
use super::uuid;
use crate::spec::reference::Digest;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// Property of a component: uncompressed digest of the layer that holds it.
const LAYER: &str = "dev.xtask:layer:diff-id";

/// The document. The same inventory gives the same bytes.
pub fn document(inventory: &Inventory, tool_version: &str) -> Vec<u8> {
    let image = inventory.purl();
    let layers = inventory.layers.iter().map(|layer| json!({"name": LAYER, "value": layer.diff_id.to_string()}));
    let all: Vec<&str> = inventory.components.iter().map(|component| component.purl.as_str()).collect();
    let mut dependencies = vec![json!({"ref": image, "dependsOn": all})];
    dependencies.extend(
        inventory.components.iter().map(|component| json!({"ref": component.purl, "dependsOn": component.requires})),
    );
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(&image)),
        "version": 1,
        "metadata": {
            "timestamp": inventory.created,
            "tools": {"components": [{"type": "application", "name": "xtask", "version": tool_version}]},
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": inventory.repository,
                "version": inventory.digest.to_string(),
                "purl": image,
                "properties": layers.collect::<Vec<_>>(),
            },
        },
        "components": inventory.components.iter().map(component).collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    serde_json::to_vec(&document).expect("the document is valid JSON")
}

fn component(component: &Component) -> Value {
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| drop(value.insert(name.to_owned(), field));
    put("type", json!("library"));
    put("bom-ref", json!(component.purl));
    put("name", json!(component.name));
    put("version", json!(component.version));
    put("purl", json!(component.purl));
    if let Some(licence) = &component.licence {
        put("licenses", json!([{"expression": licence}]));
    }
    let hashes: Vec<Value> = component.hashes.iter().filter_map(|hash| hash_of(hash)).collect();
    match hashes.len() {
        0 => {}
        1 => put("hashes", json!(hashes)),
        // One of these files was installed: which one depends on the platform.
        _ => {
            put("externalReferences", json!([{"type": "distribution", "url": component.purl, "hashes": hashes}]));
        }
    }
    if let Some(layer) = component.layer {
        put("properties", json!([{"name": LAYER, "value": layer.to_string()}]));
    }
    Value::Object(value)
}

fn hash_of(hash: &str) -> Option<Value> {
    let (algorithm, hex) = hash.split_once(':')?;
    let name = match algorithm {
        "sha256" => "SHA-256",
        "sha384" => "SHA-384",
        "sha512" => "SHA-512",
        _ => return None,
    };
    Some(json!({"alg": name, "content": hex}))
}

/// The components of a document, for comparing it with another one.
///
/// # Errors
/// It is not a CycloneDX document.
pub fn read(bytes: &[u8]) -> Result<Vec<Component>, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document["bomFormat"] != "CycloneDX" {
        return Err("it is not a CycloneDX document".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut requires = std::collections::BTreeMap::new();
    for one in list(&document["dependencies"]) {
        let on: BTreeSet<String> = list(&one["dependsOn"]).iter().map(text).collect();
        requires.insert(text(&one["ref"]), on);
    }
    let mut components: Vec<Component> = Vec::new();
    for one in list(&document["components"]) {
        let mut hashes = list(&one["hashes"]);
        hashes.extend(list(&one["externalReferences"]).iter().flat_map(|reference| list(&reference["hashes"])));
        let hash = |hash: &Value| {
            let algorithm = text(&hash["alg"]).to_ascii_lowercase().replace('-', "");
            format!("{algorithm}:{}", text(&hash["content"]))
        };
        let layer = list(&one["properties"])
            .iter()
            .find(|property| property["name"] == LAYER)
            .map(|found| text(&found["value"]));
        let purl = text(&one["purl"]);
        components.push(Component {
            name: text(&one["name"]),
            version: text(&one["version"]),
            licence: list(&one["licenses"])
                .first()
                .and_then(|licence| licence["expression"].as_str())
                .map(str::to_owned),
            hashes: hashes.iter().map(hash).collect(),
            layer: layer.and_then(|layer| layer.parse::<Digest>().ok()),
            requires: requires.remove(&purl).unwrap_or_default(),
            purl,
        });
    }
    components.sort();
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::inventory;
    use super::*;

    #[test]
    fn a_document_can_be_read_back() {
        let mut inventory = inventory();
        inventory.components[4].hashes = ["sha256:aa".to_owned(), "sha512:bb".to_owned()].into();
        let bytes = document(&inventory, "1.0");
        assert_eq!(read(&bytes).unwrap(), inventory.components);
        assert_eq!(document(&inventory, "1.0"), bytes);
        assert!(read(b"{}").is_err() && read(b"x").is_err());
    }
}
