//! Any bytes through `xtask_fuzz::lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::lock(bytes);
});
