//! A JSON merge patch: see [`fuzz::patches::merge`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("merge_patch"), |data: &[u8]| fuzz::patches::merge(data));
