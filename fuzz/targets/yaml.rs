//! A YAML body: see [`ironclad_fuzz::bodies::yaml`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("yaml"), |data: &[u8]| ironclad_fuzz::bodies::yaml(data));
