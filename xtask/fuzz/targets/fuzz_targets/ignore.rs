//! Any bytes through `xtask_fuzz::ignore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::ignore(bytes);
});
