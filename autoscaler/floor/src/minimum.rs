//! Minimum of a HorizontalPodAutoscaler: the owner's value, and the raised value.
//!
//! The owner's number is written into an annotation in the same patch that raises the field, so a new process
//! reads it there and never takes a raised floor for the original. If the two do not match, nothing is
//! assumed. Pure: text in, text out.

use crate::units::Replicas;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The annotation that remembers the original minimum while a floor is raised.
pub const ANNOTATION: &str = "autoscaler.acme.dev/original-minimum";

// What a cluster takes when the field is absent.
const DEFAULT: Replicas = Replicas(1);
const VERSION: u32 = 1;

/// Content of the annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    version: u32,
    /// Field before it was raised; absent if the field was absent.
    original: Option<Replicas>,
    /// Value that the same patch wrote to the field.
    floor: Replicas,
    /// Time at which the floor expires unless it is confirmed.
    expires: Timestamp,
}

/// Minimum in the cluster. The original is never above the floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimum {
    field: Option<Replicas>,
    note: Option<Note>,
}

/// Values that one patch sets: both, or the field would outlive its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// `spec.minReplicas`; none removes the field.
    pub field: Option<Replicas>,
    /// Value of the annotation; none removes it.
    pub annotation: Option<String>,
}

/// An invalid annotation. Its floor must neither be raised nor taken for the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the annotation `{ANNOTATION}` cannot be read: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Minimum {
    /// Reads the field and its annotation.
    ///
    /// If the field differs from the floor in the note, another manager has set it since: its value is the owner's new intent,
    /// and the note is ignored.
    pub fn read(field: Option<u32>, annotation: Option<&str>) -> Result<Minimum, Unreadable> {
        let field = field.map(Replicas);
        let Some(text) = annotation else {
            return Ok(Minimum { field, note: None });
        };
        let note: Note = serde_json::from_str(text).map_err(|cause| Unreadable(cause.to_string()))?;
        if note.version != VERSION {
            return Err(Unreadable(format!("its version is {}, expected {VERSION}", note.version)));
        }
        if note.floor < note.original.unwrap_or(DEFAULT) {
            return Err(Unreadable(format!(
                "its floor {} is below its original {}",
                note.floor,
                note.original.unwrap_or(DEFAULT)
            )));
        }
        let ours = field.unwrap_or(DEFAULT) == note.floor;
        Ok(Minimum { field, note: ours.then_some(note) })
    }

    /// A minimum that nobody has raised.
    pub fn of_owner(original: Replicas) -> Minimum {
        Minimum { field: Some(original), note: None }
    }

    /// Returns the minimum of the owner.
    pub fn original(&self) -> Replicas {
        let field = self.note.as_ref().map_or(self.field, |note| note.original);
        field.unwrap_or(DEFAULT)
    }

    /// Returns the current minimum.
    pub fn floor(&self) -> Replicas {
        self.field.unwrap_or(DEFAULT)
    }

    /// Returns true if the floor is raised and was not confirmed in time.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.note.as_ref().is_some_and(|note| note.expires <= now)
    }

    /// Returns the time at which a raised floor expires unless it is confirmed; none if it is not raised.
    pub fn expires(&self) -> Option<Timestamp> {
        self.note.as_ref().map(|note| note.expires)
    }

    /// The patch that makes `floor` the minimum until `expires`. At the original or below, it restores the
    /// owner's value and removes the annotation.
    pub fn patch(&self, floor: Replicas, expires: Timestamp) -> Patch {
        let original = self.note.as_ref().map_or(self.field, |note| note.original);
        if floor <= self.original() {
            return Patch { field: original, annotation: None };
        }
        let note = Note { version: VERSION, original, floor, expires };
        // Numbers and a time: nothing in it can fail to be JSON.
        let annotation = serde_json::to_string(&note).ok();
        Patch { field: annotation.is_some().then_some(floor).or(original), annotation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER: Timestamp = Timestamp::UNIX_EPOCH;

    fn restarted(patch: &Patch) -> Minimum {
        Minimum::read(patch.field.map(|field| field.0), patch.annotation.as_deref()).unwrap()
    }

    #[test]
    fn a_raised_floor_is_never_taken_for_the_original_after_a_restart() {
        let owner = Minimum::read(Some(2), None).unwrap();
        let raised = restarted(&owner.patch(Replicas(9), LATER));
        assert_eq!((raised.original(), raised.floor()), (Replicas(2), Replicas(9)));
        let higher = restarted(&raised.patch(Replicas(14), LATER));
        assert_eq!((higher.original(), higher.floor()), (Replicas(2), Replicas(14)));
        let released = higher.patch(Replicas(2), LATER);
        assert_eq!(released, Patch { field: Some(Replicas(2)), annotation: None });
    }

    proptest! {
        #[test]
        fn any_number_of_restarts_keeps_the_original(
            field in proptest::option::of(0_u32..50),
            floors in proptest::collection::vec(0_u32..200, 0..20),
        ) {
            let owner = Minimum::read(field, None).unwrap();
            let mut seen = owner.clone();
            for floor in floors {
                seen = restarted(&seen.patch(Replicas(floor), LATER));
                prop_assert_eq!(seen.original(), owner.original());
                prop_assert_eq!(seen.floor(), Replicas(floor).max(owner.original()));
            }
            prop_assert_eq!(restarted(&seen.patch(Replicas(0), LATER)), owner);
        }
    }

    #[test]
    fn a_field_that_was_absent_becomes_absent_again() {
        let owner = Minimum::read(None, None).unwrap();
        assert_eq!(owner.original(), Replicas(1));
        let raised = restarted(&owner.patch(Replicas(3), LATER));
        assert_eq!(raised.patch(Replicas(1), LATER).field, None);
    }

    #[test]
    fn a_value_set_by_another_manager_is_the_owners_new_intent() {
        let annotation = Minimum::of_owner(Replicas(2)).patch(Replicas(9), LATER).annotation;
        let edited = Minimum::read(Some(4), annotation.as_deref()).unwrap();
        assert_eq!((edited.original(), edited.floor()), (Replicas(4), Replicas(4)));
    }

    #[test]
    fn an_annotation_that_cannot_be_read_gives_no_original() {
        for text in [
            "",
            "2",
            "{}",
            r#"{"version":2,"original":2,"floor":9,"expires":"2026-01-01T00:00:00Z"}"#,
            r#"{"version":1,"original":12,"floor":9,"expires":"2026-01-01T00:00:00Z"}"#,
            r#"{"version":1,"original":-1,"floor":9,"expires":"2026-01-01T00:00:00Z"}"#,
            r#"{"version":1,"original":2,"floor":9}"#,
        ] {
            let refused = Minimum::read(Some(9), Some(text)).unwrap_err();
            assert!(refused.to_string().starts_with("the annotation `autoscaler.acme.dev/original-minimum` cannot"));
        }
    }

    #[test]
    fn a_floor_expires_and_an_original_does_not() {
        let raised = restarted(&Minimum::of_owner(Replicas(2)).patch(Replicas(9), LATER));
        assert!(raised.expired(LATER));
        assert!(!raised.expired(LATER - jiff::SignedDuration::from_secs(1)));
        assert!(!Minimum::of_owner(Replicas(2)).expired(LATER));
    }
}
