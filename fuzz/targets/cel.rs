//! A CEL expression: see [`ironclad_fuzz::expressions::cel`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("cel"), |data: &[u8]| ironclad_fuzz::expressions::cel(data));
