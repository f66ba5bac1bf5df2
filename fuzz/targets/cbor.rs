//! A CBOR body: see [`ironclad_fuzz::bodies::cbor`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("cbor"), |data: &[u8]| ironclad_fuzz::bodies::cbor(data));
