//! An inventory as SPDX 3.0.1 in JSON-LD.

use super::{id, layer_id};
use crate::supply::inventory::{Component, Inventory};
use crate::supply::{licence, uuid};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The media type that IANA lists for SPDX 3.
pub const MEDIA_TYPE: &str = "application/spdx3+json";

const CONTEXT: &str = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld";

/// Name of the one `CreationInfo` within the document.
const CREATION: &str = "_:creation";

/// The document. The same inventory gives the same bytes.
pub fn document(inventory: &Inventory, tool_version: &str) -> Vec<u8> {
    let graph = ElementGraph::new(inventory);
    let mut elements = vec![
        graph.element("SoftwareAgent", "Agent", json!({"name": "xtask"})),
        graph.element("Tool", "Tool", json!({"name": format!("xtask-{tool_version}")})),
    ];
    elements.extend(graph.licences());
    elements.extend(graph.packages());
    elements.extend(graph.relationships());
    let members: Vec<&Value> = elements.iter().map(|element| &element["spdxId"]).collect();
    let sbom = graph.element(
        "software_Sbom",
        "Sbom",
        json!({
            "rootElement": [graph.uri(IMAGE)],
            "element": members,
            "software_sbomType": ["build"],
            "profileConformance": PROFILES,
        }),
    );
    let document = graph.element(
        "SpdxDocument",
        "Document",
        json!({
            "name": format!("{}@{}", inventory.repository, inventory.digest),
            "rootElement": [graph.uri("Sbom")],
            "profileConformance": PROFILES,
        }),
    );
    let creation = json!({
        "@id": CREATION,
        "type": "CreationInfo",
        "specVersion": "3.0.1",
        "created": inventory.second(),
        "createdBy": [graph.uri("Agent")],
        "createdUsing": [graph.uri("Tool")],
    });
    let all: Vec<Value> = [creation, document, sbom].into_iter().chain(elements).collect();
    serde_json::to_vec(&json!({"@context": CONTEXT, "@graph": all})).expect("the document is valid JSON")
}

const PROFILES: [&str; 3] = ["core", "software", "simpleLicensing"];

const IMAGE: &str = "Image";

struct ElementGraph<'a> {
    inventory: &'a Inventory,
    /// Start of every element's URI.
    namespace: String,
    /// Names of the components, by package URL.
    names: BTreeMap<&'a str, String>,
    /// Names of the licence expressions.
    expressions: BTreeMap<&'a str, String>,
}

impl<'a> ElementGraph<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        let names = inventory.components.iter().map(|component| (component.purl.as_str(), id(component)));
        let stated: BTreeSet<&str> = inventory.components.iter().filter_map(|one| one.licence.as_deref()).collect();
        let numbered = stated.into_iter().enumerate().map(|(at, licence)| (licence, format!("Licence-{}", at + 1)));
        Self {
            inventory,
            namespace: format!("https://spdx.org/spdxdocs/xtask-{}", uuid(&inventory.purl())),
            names: names.collect(),
            expressions: numbered.collect(),
        }
    }

    fn uri(&self, name: &str) -> String {
        format!("{}#{name}", self.namespace)
    }

    /// An element of the graph; `fields` are those of its class.
    fn element(&self, class: &str, name: &str, fields: Value) -> Value {
        let mut element = fields;
        element["type"] = json!(class);
        element["spdxId"] = json!(self.uri(name));
        element["creationInfo"] = json!(CREATION);
        element
    }

    /// Each expression once, and a text for each licence that SPDX does not list.
    fn licences(&self) -> Vec<Value> {
        let mut found = Vec::new();
        let mut unlisted: BTreeSet<&str> = BTreeSet::new();
        for (expression, name) in &self.expressions {
            let references: BTreeSet<&str> = licence::references(expression).collect();
            let mut fields = json!({"simplelicensing_licenseExpression": expression});
            if !references.is_empty() {
                let entry = |reference: &&str| json!({"type": "DictionaryEntry", "key": reference, "value": self.uri(reference)});
                fields["simplelicensing_customIdToUri"] = references.iter().map(entry).collect();
            }
            unlisted.extend(references);
            found.push(self.element("simplelicensing_LicenseExpression", name, fields));
        }
        let text = |reference: &str| {
            let name = reference.trim_start_matches(licence::REFERENCE);
            let fields = json!({"name": name, "simplelicensing_licenseText": format!("The package states `{name}`.")});
            self.element("simplelicensing_SimpleLicensingText", reference, fields)
        };
        found.extend(unlisted.into_iter().map(text));
        found
    }

    /// The image, its layers and its components.
    fn packages(&self) -> Vec<Value> {
        let inventory = self.inventory;
        let package = |name: &str, fields: Value| self.element("software_Package", name, fields);
        let mut found = vec![package(
            IMAGE,
            json!({
                "name": inventory.repository,
                "software_packageVersion": inventory.digest.to_string(),
                "software_packageUrl": inventory.purl(),
                "software_primaryPurpose": "container",
                "verifiedUsing": [sha256(&inventory.digest.hex())],
            }),
        )];
        found.extend(inventory.layers.iter().enumerate().map(|(index, layer)| {
            package(
                &layer_id(index),
                json!({
                    "name": layer.diff_id.to_string(),
                    "software_packageVersion": layer.digest.to_string(),
                    "software_primaryPurpose": "archive",
                    "verifiedUsing": [sha256(&layer.digest.hex())],
                }),
            )
        }));
        found.extend(inventory.components.iter().map(|one| package(&self.names[one.purl.as_str()], fields(one))));
        found
    }

    fn relationships(&self) -> Vec<Value> {
        let inventory = self.inventory;
        // What each layer holds; a component of no known layer is in the image.
        let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let layers: Vec<String> = (0..inventory.layers.len()).map(layer_id).collect();
        held.insert(IMAGE.to_owned(), layers.iter().map(|layer| self.uri(layer)).collect());
        for component in &inventory.components {
            let at = inventory.layers.iter().position(|layer| Some(layer.diff_id) == component.layer);
            let holder = at.map_or_else(|| IMAGE.to_owned(), |at| layers[at].clone());
            held.entry(holder).or_default().push(self.uri(&self.names[component.purl.as_str()]));
        }
        held.retain(|_, members| !members.is_empty());
        let mut found: Vec<Value> =
            held.iter().map(|(holder, members)| self.relationship(holder, "contains", members)).collect();
        for component in &inventory.components {
            let own = &self.names[component.purl.as_str()];
            let required = component.requires.iter().filter_map(|purl| self.names.get(purl.as_str()));
            let required: Vec<String> = required.map(|name| self.uri(name)).collect();
            if !required.is_empty() {
                found.push(self.relationship(own, "dependsOn", &required));
            }
            if let Some(licence) = &component.licence {
                let licence = self.uri(&self.expressions[licence.as_str()]);
                found.push(self.relationship(own, "hasDeclaredLicense", &[licence]));
            }
        }
        found
    }

    fn relationship(&self, from: &str, kind: &str, to: &[String]) -> Value {
        let fields = json!({"from": self.uri(from), "relationshipType": kind, "to": to});
        self.element("Relationship", &format!("{from}-{kind}"), fields)
    }
}

/// Fields of a component's package.
fn fields(component: &Component) -> Value {
    let mut fields = json!({
        "name": component.name,
        "software_packageVersion": component.version,
        "software_packageUrl": component.purl,
        "software_primaryPurpose": "library",
    });
    let hashes: Vec<&str> = component.hashes.iter().filter_map(|hash| hash.strip_prefix("sha256:")).collect();
    match hashes[..] {
        [] => {}
        [hash] => fields["verifiedUsing"] = json!([sha256(hash)]),
        _ => {
            fields["comment"] =
                json!(format!("Installed from one of the files with these SHA-256: {}", hashes.join(" ")));
        }
    }
    fields
}

fn sha256(hex: &str) -> Value {
    json!({"type": "Hash", "algorithm": "sha256", "hashValue": hex})
}

#[cfg(test)]
mod tests {
    use super::super::super::inventory::tests::inventory;
    use super::*;

    #[test]
    fn every_name_is_of_one_element_and_every_reference_names_one() {
        let inventory = inventory();
        let bytes = document(&inventory, "1.0");
        assert_eq!(document(&inventory, "1.0"), bytes);
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let graph = document["@graph"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let ids: Vec<String> =
            graph.iter().filter(|one| one["@id"].is_null()).map(|one| text(&one["spdxId"])).collect();
        let known: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(known.len(), ids.len(), "{ids:#?}");
        let of = |kind: &str| graph.iter().filter(|one| one["type"] == kind).collect::<Vec<_>>();
        assert_eq!(of("software_Package").len(), 1 + 3 + inventory.components.len());
        for one in of("Relationship") {
            let to = one["to"].as_array().unwrap();
            assert!(to.iter().chain([&one["from"]]).all(|id| known.contains(&text(id))), "{one}");
        }
        let held: usize = of("Relationship")
            .iter()
            .filter(|one| one["relationshipType"] == "contains")
            .map(|one| one["to"].as_array().unwrap().len())
            .sum();
        assert_eq!(held, 3 + inventory.components.len());
        let own = &of("simplelicensing_SimpleLicensingText")[0]["spdxId"];
        let expression = |one: &&&Value| one["simplelicensing_licenseExpression"] == "LicenseRef-Own-Licence";
        let expressions = of("simplelicensing_LicenseExpression");
        let expression = expressions.iter().find(expression).unwrap();
        assert_eq!(&expression["simplelicensing_customIdToUri"][0]["value"], own);
    }
}
