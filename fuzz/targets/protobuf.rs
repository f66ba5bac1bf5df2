//! A protobuf body: see [`fuzz::bodies::protobuf`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("protobuf"), |data: &[u8]| fuzz::bodies::protobuf(data));
