//! What a user of `ironclad` notices: the real program, the real kubectl, real containers.
//!
//! Each test has a cluster of its own in namespaces of its own (see `testkit`). All but those of `requests`, `serving`, `settings`,
//! `helm`, `hollow`, `datastore`, `etcd` and `several` need root; `tests/tools.sh` installs what they use. One test file per thing a user does or suffers.

mod it {
    //! The cases.
    pub mod agent;
    pub mod clients;
    pub mod conformance;
    pub mod datastore;
    pub mod etcd;
    pub mod faults;
    pub mod helm;
    pub mod high_availability;
    pub mod hollow;
    pub mod kubectl;
    pub mod logs;
    pub mod metrics;
    pub mod network;
    pub mod requests;
    pub mod restart;
    pub mod rolling;
    pub mod serving;
    pub mod settings;
    pub mod several;
    pub mod store;
    pub mod uninstall;
    pub mod workload;
}

/// The program under test.
const IRONCLAD: &str = env!("CARGO_BIN_EXE_ironclad");
