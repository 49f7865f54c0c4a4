//! Any bytes through `xtask_fuzz::wheel_records` and `xtask_fuzz::wheel_rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::wheel_records(bytes);
    xtask_fuzz::wheel_rows(bytes);
});
