//! The system's clock.

use std::time::SystemTime;
use xtask_model::time::Timestamp;

pub fn now() -> Timestamp {
    Timestamp::at(SystemTime::now())
}
