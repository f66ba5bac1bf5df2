//! A JSON patch: see [`ironclad_fuzz::patches::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("json_patch"), |data: &[u8]| ironclad_fuzz::patches::json(data));
