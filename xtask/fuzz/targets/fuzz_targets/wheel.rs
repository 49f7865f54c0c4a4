//! Any bytes through `xtask_fuzz::wheel_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::wheel_records(bytes);
});
