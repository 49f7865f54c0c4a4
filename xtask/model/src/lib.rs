//! Everything that is computed: no file, clock, environment, process or network. `tidy` checks it.

pub mod adopt;
pub mod fault;
pub mod image;
pub mod quantity;
pub mod record;
pub mod spec;
pub mod supply;
pub mod time;
