//! A SPDY connection: see [`ironclad_fuzz::framing::spdy`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("spdy"), |data: &[u8]| ironclad_fuzz::framing::spdy(data));
