//! A protobuf body: see [`ironclad_fuzz::bodies::protobuf`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("protobuf"), |data: &[u8]| ironclad_fuzz::bodies::protobuf(data));
