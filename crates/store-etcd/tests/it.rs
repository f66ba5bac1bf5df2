//! The backend under the suite, over real etcds of two versions and over this project's own server of their API; and
//! through what happens to an etcd: restarts, lost leaders, dead endpoints, TLS.

#![expect(clippy::unwrap_used, reason = "tests: a failure is to panic where it happens")]

mod it {
    pub mod certified;
    pub mod faults;
    pub mod program;
}
