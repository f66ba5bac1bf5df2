//! The tests that certify a backend.
