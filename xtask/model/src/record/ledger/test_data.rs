//! Records for tests, of builds that nobody ran.

use super::{BuildKind, Bytes, Record, SCHEMA};
use crate::time::Timestamp;

/// A record of this kind, at this second, that took so long.
pub fn record(kind: BuildKind, second: i64, seconds: f64) -> Record {
    Record {
        schema: SCHEMA,
        when: Timestamp::from_second(second).unwrap(),
        app: None,
        commit: None,
        branch: Some("main".to_owned()),
        decision: kind,
        reasons: vec!["`a` changed".to_owned()],
        change: None,
        seconds,
        phases: vec![("app build".to_owned(), seconds / 2.0)],
        bytes: Bytes { built: Some(5), ..Bytes::default() },
        steps: Some([4, 2]),
        engine: None,
        platform: Some("linux/amd64".parse().unwrap()),
        cores: 2,
        ci: false,
        failed: None,
    }
}
