//! The store of several members: its consensus in a simulation, the suite over three of them, the loss of a leader.

mod it {
    mod certified;
    mod cluster;
    mod failover;
    mod limits;
    mod linearizable;
    mod recovery;
    mod simulation;
}
