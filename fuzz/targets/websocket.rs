//! A WebSocket connection: see [`ironclad_fuzz::framing::websocket`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("websocket"), |data: &[u8]| ironclad_fuzz::framing::websocket(data));
