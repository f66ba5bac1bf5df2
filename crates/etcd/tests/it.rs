//! The server under the real `etcdctl` of two versions, and its snapshots under etcd's own tools.

#![expect(clippy::unwrap_used, reason = "tests: a failure is to panic where it happens")]

mod it {
    pub mod etcdctl;
    mod pages;
    mod wire;
}
