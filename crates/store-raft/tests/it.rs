//! The store of several members: its consensus in a simulation.

mod it {
    mod memory_disk;
    mod simulation;
}
