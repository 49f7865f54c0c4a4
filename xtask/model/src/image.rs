//! Images and the decisions about them: policy, key, plan, change.

pub mod bases;
pub mod change;
pub mod commit;
pub mod context;
pub mod dependencies;
pub mod key;
pub mod order;
pub mod plan;
pub mod policy;
pub mod presence;
pub mod rebase;
pub mod shadow;
pub mod tags;
