//! A JSON body: see [`ironclad_fuzz::bodies::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("json"), |data: &[u8]| ironclad_fuzz::bodies::json(data));
