//! The embedded engine under the suite, and under crashes, damage and full disks.

#![expect(clippy::unwrap_used, reason = "tests: a failure is to panic where it happens")]

mod it {
    pub mod broken;
    pub mod crash;
    pub mod damage;
    pub mod disk_full;
    pub mod embedded;
    pub mod faults;
    pub mod format;
    pub mod linearizable;
    pub mod model;
    pub mod waiting;
}
