//! An inventory as SPDX 2.3 (ISO/IEC 5962) in JSON; `v3` writes SPDX 3.0.

pub mod v3;

use super::inventory::{Component, Inventory};
use super::{licence, uuid};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const MEDIA_TYPE: &str = "application/spdx+json";

const IMAGE: &str = "SPDXRef-Image";

/// The document. The same inventory gives the same bytes.
pub fn document(inventory: &Inventory, tool_version: &str) -> Vec<u8> {
    let image = inventory.purl();
    let layer_id = |index: usize| reference(&layer_id(index));
    let of_layer: BTreeMap<_, _> =
        inventory.layers.iter().enumerate().map(|(index, layer)| (layer.diff_id, layer_id(index))).collect();
    let ids: BTreeMap<&str, String> =
        inventory.components.iter().map(|component| (component.purl.as_str(), reference(&id(component)))).collect();
    let mut packages = vec![json!({
        "SPDXID": IMAGE,
        "name": inventory.repository,
        "versionInfo": inventory.digest.to_string(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": inventory.digest.hex()}],
        "externalRefs": [purl(&image)],
    })];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    for (index, layer) in inventory.layers.iter().enumerate() {
        packages.push(json!({
            "SPDXID": layer_id(index),
            "name": layer.diff_id.to_string(),
            "versionInfo": layer.digest.to_string(),
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "checksums": [{"algorithm": "SHA256", "checksumValue": layer.digest.hex()}],
        }));
        relationships.push(relationship(IMAGE, "CONTAINS", &layer_id(index)));
    }
    let mut references: BTreeSet<&str> = BTreeSet::new();
    for component in &inventory.components {
        packages.push(package(component, &ids[component.purl.as_str()]));
        let holder = component.layer.and_then(|layer| of_layer.get(&layer)).map_or(IMAGE, String::as_str);
        let own = &ids[component.purl.as_str()];
        relationships.push(relationship(holder, "CONTAINS", own));
        let required = component.requires.iter().filter_map(|purl| ids.get(purl.as_str()));
        relationships.extend(required.map(|other| relationship(own, "DEPENDS_ON", other)));
        references.extend(component.licence.iter().flat_map(|licence| licence::references(licence)));
    }
    let extracted = references.iter().map(|reference| {
        let name = reference.trim_start_matches(licence::REFERENCE);
        json!({"licenseId": reference, "name": name, "extractedText": format!("The package states `{name}`.")})
    });
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}@{}", inventory.repository, inventory.digest),
        "documentNamespace": format!("https://spdx.org/spdxdocs/xtask-{}", uuid(&image)),
        "creationInfo": {"created": inventory.second(), "creators": [format!("Tool: xtask-{tool_version}")]},
        "packages": packages,
        "hasExtractedLicensingInfos": extracted.collect::<Vec<_>>(),
        "relationships": relationships,
    });
    serde_json::to_vec(&document).expect("the document is valid JSON")
}

/// Name within the document; a digest keeps names apart that differ in other characters.
fn id(component: &Component) -> String {
    let kind = component.purl.strip_prefix("pkg:").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
    };
    let digest = crate::spec::reference::Digest::of(component.purl.as_bytes()).hex();
    format!("{}-{}-{}", plain(kind), plain(&component.name), &digest[..8])
}

/// Name of a layer within the document, by its place from the bottom.
fn layer_id(index: usize) -> String {
    format!("Layer-{}", index + 1)
}

/// A name as SPDX 2.3 writes it.
fn reference(name: &str) -> String {
    format!("SPDXRef-{name}")
}

fn purl(purl: &str) -> Value {
    json!({"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl})
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn package(component: &Component, id: &str) -> Value {
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| drop(value.insert(name.to_owned(), field));
    put("SPDXID", json!(id));
    put("name", json!(component.name));
    put("versionInfo", json!(component.version));
    put("downloadLocation", json!("NOASSERTION"));
    put("filesAnalyzed", json!(false));
    put("licenseDeclared", json!(component.licence.as_deref().unwrap_or("NOASSERTION")));
    put("externalRefs", json!([purl(&component.purl)]));
    let hashes: Vec<&str> = component.hashes.iter().filter_map(|hash| hash.strip_prefix("sha256:")).collect();
    match hashes[..] {
        [] => {}
        [hash] => put("checksums", json!([{"algorithm": "SHA256", "checksumValue": hash}])),
        _ => put("comment", json!(format!("Installed from one of the files with these SHA-256: {}", hashes.join(" ")))),
    }
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::inventory;
    use super::*;

    #[test]
    fn every_component_is_in_a_layer_and_has_a_name_of_its_own() {
        let inventory = inventory();
        let bytes = document(&inventory, "1.0");
        assert_eq!(document(&inventory, "1.0"), bytes);
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let list = |name: &str| document[name].as_array().unwrap().clone();
        let ids: BTreeSet<String> =
            list("packages").iter().map(|one| one["SPDXID"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), list("packages").len());
        assert_eq!(ids.len(), 1 + 3 + inventory.components.len());
        for one in list("relationships") {
            let known = |name: &str| one[name] == "SPDXRef-DOCUMENT" || ids.contains(one[name].as_str().unwrap());
            assert!(known("spdxElementId") && known("relatedSpdxElement"), "{one}");
        }
        let held = list("relationships").iter().filter(|one| one["relationshipType"] == "CONTAINS").count();
        assert_eq!(held, 3 + inventory.components.len());
        assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-Own-Licence");
    }
}
