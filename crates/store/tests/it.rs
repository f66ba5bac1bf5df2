//! The embedded engine under the suite, and under crashes, damage and full disks.

mod it {
    pub mod crash;
    pub mod damage;
    pub mod disk_full;
    pub mod embedded;
    pub mod model;
}
