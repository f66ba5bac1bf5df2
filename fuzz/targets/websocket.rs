//! A WebSocket connection: see [`fuzz::framing::websocket`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("websocket"), |data: &[u8]| fuzz::framing::websocket(data));
