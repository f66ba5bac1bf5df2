//! The contracts of the client crate: informers over the fake API, the wire transport over a real socket.

#[path = "it/https.rs"]
mod https;
#[path = "it/informer.rs"]
mod informer;
#[path = "it/leader.rs"]
mod leader;
#[path = "it/servers.rs"]
mod servers;
