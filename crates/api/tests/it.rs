//! Integration tests of the crate, in one binary.

mod it {
    pub mod golden;
}
