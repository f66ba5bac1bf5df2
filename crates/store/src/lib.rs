//! (crate page to be written)
