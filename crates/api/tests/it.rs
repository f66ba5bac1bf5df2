//! Integration tests of the crate, in one binary.

#![allow(clippy::unwrap_used, reason = "a recording that cannot be read fails the test")]

mod it {
    pub mod golden;
    pub mod properties;
}
