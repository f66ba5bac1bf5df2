//! The kubelet against an API server in memory and a container runtime in memory, both behind their real interfaces.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod it {
    pub mod api_server;
    pub mod fake_cri;
    mod hollow;
    mod pods;
    mod server;
}
