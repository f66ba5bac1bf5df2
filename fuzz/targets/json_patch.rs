//! A JSON patch: see [`fuzz::patches::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("json_patch"), |data: &[u8]| fuzz::patches::json(data));
