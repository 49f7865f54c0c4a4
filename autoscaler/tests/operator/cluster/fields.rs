//! Field ownership: server-side apply and plain updates, as the API server records them.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

type Path = Vec<String>;

/// Fields without an owner: the server sets them, or they name the object.
const UNOWNED: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "deletionTimestamp",
    "generateName",
    "selfLink",
    "ownerReferences",
];

/// The fields of an object that can be owned, down to values that are not objects.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    collect(object, &mut Vec::new(), &mut found);
    found.retain(|path| match path.first().map(String::as_str) {
        Some("apiVersion" | "kind") | None => false,
        Some("metadata") => path.len() > 1 && !UNOWNED.contains(&path[1].as_str()),
        Some(_) => true,
    });
    found
}

fn collect(value: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    match value.as_object() {
        Some(object) if !object.is_empty() => {
            for (name, value) in object {
                at.push(name.clone());
                collect(value, at, found);
                at.pop();
            }
        }
        _ if !value.is_null() => {
            found.insert(at.clone());
        }
        _ => {}
    }
}

fn get<'a>(object: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

fn set(object: &mut Value, path: &Path, new: Value) {
    let mut value = object;
    for name in path {
        if !value.is_object() {
            *value = json!({});
        }
        value = &mut value[name];
    }
    *value = new;
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(map) = object.as_object_mut() else { return };
    if rest.is_empty() {
        map.remove(first);
    } else if let Some(inner) = map.get_mut(first) {
        remove(inner, rest);
        if inner.as_object().is_some_and(Map::is_empty) {
            map.remove(first);
        }
    }
}

struct Entry {
    manager: String,
    operation: String,
    subresource: Option<String>,
    fields: BTreeSet<Path>,
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            let mut fields = BTreeSet::new();
            unpack(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
            Entry {
                manager: entry["manager"].as_str().unwrap_or_default().to_owned(),
                operation: entry["operation"].as_str().unwrap_or_default().to_owned(),
                subresource: entry["subresource"].as_str().map(str::to_owned),
                fields,
            }
        })
        .collect()
}

fn unpack(value: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    let Some(object) = value.as_object() else { return };
    if object.is_empty() && !at.is_empty() {
        found.insert(at.clone());
    }
    for (name, value) in object {
        at.push(name.trim_start_matches("f:").to_owned());
        unpack(value, at, found);
        at.pop();
    }
}

fn write(object: &mut Value, entries: Vec<Entry>) {
    let entries: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut fields = json!({});
            for path in &entry.fields {
                set(&mut fields, &path.iter().map(|name| format!("f:{name}")).collect(), json!({}));
            }
            let mut written = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            });
            if let Some(subresource) = entry.subresource {
                written["subresource"] = json!(subresource);
            }
            written
        })
        .collect();
    object["metadata"]["managedFields"] = json!(entries);
}

fn ours<'a>(entries: &'a mut Vec<Entry>, manager: &str, operation: &str, sub: Option<&str>) -> &'a mut Entry {
    let is =
        |entry: &Entry| entry.manager == manager && entry.operation == operation && entry.subresource.as_deref() == sub;
    let at = entries.iter().position(is).unwrap_or_else(|| {
        entries.push(Entry {
            manager: manager.to_owned(),
            operation: operation.to_owned(),
            subresource: sub.map(str::to_owned),
            fields: BTreeSet::new(),
        });
        entries.len() - 1
    });
    &mut entries[at]
}

/// A plain write: what it changed is its own from now on, and nobody else's.
pub(super) fn update(live: &Value, next: &mut Value, manager: &str, sub: Option<&str>) {
    let mut entries = read(live);
    let there = leaves(next);
    let changed: BTreeSet<Path> = there.iter().filter(|path| get(live, path) != get(next, path)).cloned().collect();
    for entry in &mut entries {
        entry.fields.retain(|path| there.contains(path) && !changed.contains(path));
    }
    ours(&mut entries, manager, "Update", sub).fields.extend(changed);
    write(next, entries);
}

/// A server-side apply, or the conflicts that it meets.
pub(super) fn apply(
    live: &Value,
    applied: &Value,
    manager: &str,
    sub: Option<&str>,
    force: bool,
) -> Result<Value, Vec<Value>> {
    let mut next = live.clone();
    let mut entries = read(live);
    let wanted: BTreeSet<Path> =
        leaves(applied).into_iter().filter(|path| (path[0] == "status") == (sub == Some("status"))).collect();
    let mut causes = Vec::new();
    for entry in &mut entries {
        if entry.manager == manager && entry.operation == "Apply" && entry.subresource.as_deref() == sub {
            continue;
        }
        let disputed: Vec<Path> = entry
            .fields
            .iter()
            .filter(|path| wanted.contains(*path) && get(live, path) != get(applied, path))
            .cloned()
            .collect();
        for path in disputed {
            if force {
                entry.fields.remove(&path);
            } else {
                causes.push(json!({
                    "reason": "FieldManagerConflict", "message": format!("conflict with \"{}\"", entry.manager),
                    "field": format!(".{}", path.join(".")),
                }));
            }
        }
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    let given_up: Vec<Path> = {
        let ours = ours(&mut entries, manager, "Apply", sub);
        let given_up = ours.fields.difference(&wanted).cloned().collect();
        ours.fields = wanted.clone();
        given_up
    };
    for path in given_up {
        if !entries.iter().any(|entry| entry.fields.contains(&path)) {
            remove(&mut next, &path);
        }
    }
    for path in &wanted {
        set(&mut next, path, get(applied, path).cloned().unwrap_or_default());
    }
    write(&mut next, entries);
    Ok(next)
}
