//! A strategic merge patch: see [`fuzz::patches::strategic`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("strategic_patch"), |data: &[u8]| fuzz::patches::strategic(data));
