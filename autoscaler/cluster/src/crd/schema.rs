//! Schemas of Kubernetes' own types in the status, for the API server. k8s-openapi would say it too, with a schema for every type
//! that Kubernetes has: two thirds of what that crate costs to compile. Pure.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// A `Time` of `meta/v1`: RFC 3339.
pub struct Time;

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// A `Condition` of `meta/v1`.
pub struct Condition;

impl JsonSchema for Condition {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One aspect of the state.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "description": "Time of the last change of `status`.",
                    "type": "string",
                    "format": "date-time",
                },
                "message": { "description": "Reason, for people.", "type": "string" },
                "observedGeneration": {
                    "description": "The generation of the spec that this is about.",
                    "type": "integer",
                    "format": "int64",
                },
                "reason": { "description": "Reason in one word, for programs.", "type": "string" },
                "status": { "description": "`True`, `False` or `Unknown`.", "type": "string" },
                "type": { "description": "Name of the aspect.", "type": "string" },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

    #[test]
    fn a_condition_has_the_fields_of_kubernetes_own() {
        let schema = Condition::json_schema(&mut SchemaGenerator::default());
        let said: Vec<_> = schema.as_value()["properties"].as_object().unwrap().keys().cloned().collect();
        let own = meta::Condition {
            last_transition_time: meta::Time(jiff::Timestamp::UNIX_EPOCH),
            message: "m".to_owned(),
            observed_generation: Some(1),
            reason: "R".to_owned(),
            status: "True".to_owned(),
            type_: "Ready".to_owned(),
        };
        let own: Vec<_> = serde_json::to_value(own).unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(said, own);
        assert_eq!(Time::json_schema(&mut SchemaGenerator::default()).as_value()["format"], "date-time");
    }
}
