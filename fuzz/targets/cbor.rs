//! A CBOR body: see [`fuzz::bodies::cbor`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("cbor"), |data: &[u8]| fuzz::bodies::cbor(data));
