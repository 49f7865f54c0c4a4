//! The JSON Schema of `images.toml`, for editors: the same keys, types, ranges and defaults as the parser's.

use serde_json::{Map, Value, json};
use xtask_model::image::policy::keys::{self, Default, PolicyKey, ValueKind};
use xtask_model::image::policy::plugin;

/// The schema (draft 2020-12).
pub(super) fn schema() -> Value {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "images.toml",
        "description": "What a repository builds, and how. Written by `cargo xtask reference`.",
    });
    extend(&mut schema, table(""));
    schema
}

fn extend(schema: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (schema, more) {
        all.extend(more);
    }
}

fn table(name: &str) -> Value {
    let described = keys::table(name);
    let mut properties = Map::new();
    for key in described.keys {
        let full = if name.is_empty() { key.name.to_owned() } else { format!("{name}.{}", key.name) };
        let mut value = kind(key, &full);
        extend(&mut value, json!({"description": description(key)}));
        if let Some(default) = default(key) {
            extend(&mut value, json!({"default": default}));
        }
        properties.insert(key.name.to_owned(), value);
    }
    // The settings of a plugin are keys of its step. Those of an adopter's own plugins are not known here.
    let is_step = name == "step";
    if is_step {
        for setting in plugin::BUILT_IN.iter().flat_map(|plugin| plugin.settings) {
            let mut value = kind(setting, "");
            extend(&mut value, json!({"description": description(setting)}));
            properties.insert(setting.name.to_owned(), value);
        }
    }
    let more = if is_step { json!({}) } else { json!(false) };
    let required: Vec<&str> =
        described.keys.iter().filter(|key| key.default == Default::Required).map(|key| key.name).collect();
    json!({"type": "object", "additionalProperties": more, "properties": properties, "required": required})
}

/// Keys that only tables of a list have: the first is required there.
const SEVERAL: [&str; 3] = ["name", "base", "smoke"];

fn kind(key: &PolicyKey, full: &str) -> Value {
    let text = || json!({"type": "string", "minLength": 1});
    match key.kind {
        ValueKind::Text | ValueKind::Path => text(),
        ValueKind::Paths => json!({"anyOf": [text(), {"type": "array", "items": text(), "minItems": 1}]}),
        ValueKind::Version => json!({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$"}),
        ValueKind::Choice(words) => json!({"enum": words}),
        ValueKind::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        ValueKind::AtLeast(least) => json!({"type": "number", "minimum": least}),
        ValueKind::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
        ValueKind::Boolean => json!({"type": "boolean"}),
        ValueKind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        ValueKind::Choices(words) => json!({"type": "array", "items": {"enum": words}}),
        ValueKind::Platforms => json!({
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": "^linux/[a-z0-9]+(/v[0-9]+)?$"},
        }),
        ValueKind::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        ValueKind::MapOf(words) => json!({"type": "object", "additionalProperties": {"enum": words}}),
        ValueKind::Table => table(full),
        ValueKind::Tables => json!({"type": "array", "items": table(full)}),
        ValueKind::TableOrTables => {
            let mut one = table(full);
            if let Some(properties) = one["properties"].as_object_mut() {
                SEVERAL.iter().for_each(|key| drop(properties.remove(*key)));
            }
            let mut several = table(full);
            several["required"] = json!([SEVERAL[0]]);
            json!({"anyOf": [one, {"type": "array", "items": several}]})
        }
        ValueKind::Named(of) => json!({"type": "object", "additionalProperties": table(of)}),
        ValueKind::ForEach(words) => json!({"anyOf": [{"enum": words}, table(full)]}),
    }
}

fn default(key: &PolicyKey) -> Option<Value> {
    match key.default {
        Default::Text(text) => Some(json!(text)),
        Default::Number(number) => Some(json!(number)),
        // Lists of strings, numbers and booleans are spelled the same in TOML and JSON.
        Default::Toml(value) => serde_json::from_str(value).ok(),
        Default::Required | Default::None | Default::Derived(_) => None,
    }
}

fn description(key: &PolicyKey) -> String {
    match key.default {
        Default::Derived(text) => format!("{} (default: {text})", key.meaning),
        _ => key.meaning.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::image::policy;

    const GOOD: &str = include_str!("../../../images.toml");

    /// Returns true if a value is valid, by the part of the specification that the schema uses.
    fn is_valid(schema: &Value, value: &Value) -> bool {
        schema.as_object().unwrap().iter().all(|(keyword, wanted)| match keyword.as_str() {
            "$schema" | "title" | "description" | "default" => true,
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                other => panic!("type {other}"),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "anyOf" => wanted.as_array().unwrap().iter().any(|schema| is_valid(schema, value)),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "minItems" => value.as_array().is_none_or(|items| !items.is_empty()),
            "pattern" => value.as_str().is_none_or(|text| match wanted.as_str().unwrap() {
                r"^[0-9]+(\.[0-9]+)*$" => text.parse::<policy::DottedVersion>().is_ok(),
                "^linux/[a-z0-9]+(/v[0-9]+)?$" => text.parse::<xtask_model::spec::reference::Platform>().is_ok(),
                other => panic!("pattern {other}"),
            }),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(wanted, item))),
            "required" => value.as_object().is_none_or(|fields| {
                wanted.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|fields| {
                fields.iter().all(|(name, value)| wanted.get(name).is_none_or(|s| is_valid(s, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|fields| {
                let properties = schema.get("properties");
                let more = fields.iter().filter(|(name, _)| properties.is_none_or(|known| known.get(name).is_none()));
                more.into_iter().all(|(_, value)| wanted.is_object() && is_valid(wanted, value))
            }),
            other => panic!("keyword {other}"),
        })
    }

    #[track_caller]
    fn both(text: &str) -> (bool, bool) {
        let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        (is_valid(&schema(), &value), policy::parse_all(text, &|_| true, &[]).is_ok())
    }

    #[test]
    fn the_policy_of_this_repository_is_valid() {
        assert_eq!(both(GOOD), (true, true));
    }

    #[test]
    fn several_apps_and_named_bases_are_valid_for_the_schema_and_the_parser() {
        let [before, after] = [GOOD.find("[app]\n").unwrap(), GOOD.find("[smoke]").unwrap()];
        let apps = |apps: &str| both(&format!("{}{apps}\n{}", &GOOD[..before], &GOOD[after..]));
        let named = "[bases.cpu]\nextras = []\n[[app]]\nname = \"web\"\nbase = \"cpu\"\n[app.smoke]\nuser = 1\n\
                     [[app]]\nname = \"worker\"\n";
        assert_eq!(apps(named), (true, true));
        for wrong in ["name = \"web\"\n", "user = 1", "[bases.cpu]"] {
            let with = if wrong == "user = 1" { "usr = 1" } else { "" };
            assert_eq!(apps(&named.replacen(wrong, with, 1)), (false, false), "{wrong}");
        }
        assert_eq!(apps("[app]\nname = \"web\"\n"), (false, false));
    }

    #[test]
    fn typos_wrong_types_and_wrong_values_are_invalid_for_the_schema_and_the_parser() {
        for (from, to) in [
            ("registry = ", "registery = "),
            ("[base]", "[bsae]"),
            ("name = \"autoscaler\"\n", ""),
            ("user = 10001", "user = \"10001\""),
            ("user = 10001", "user = -1"),
            ("platforms = [\"linux/amd64\"]", "platforms = \"linux/amd64\""),
            ("platforms = [\"linux/amd64\"]", "platforms = []"),
            ("platforms = [\"linux/amd64\"]", "platforms = [\"linux/AMD\"]"),
            ("after = \"build\"", "after = \"biuld\""),
            ("fallback = \"debian\"", "fallback = \"alpine\""),
            ("native = \"gzip\"", "native = \"lz4\""),
            ("native = \"gzip\"", "podman = \"gzip\""),
            ("python = \"3.12\"", "python = 3.12"),
            ("user = \"user\"", "user = \"usr\""),
            ("gate-factor = 2", "gate-factor = 0.5"),
            ("shadow = 0.05", "shadow = 1.5"),
            ("source = \"https", "source = \"\"\n#"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            assert_eq!(both(&text), (false, false), "{to}");
        }
    }
}
