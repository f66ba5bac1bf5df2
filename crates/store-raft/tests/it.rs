//! The store of several members: its consensus in a simulation, the suite over three of them, the loss of a leader.

mod it {
    mod authority;
    mod certified;
    mod cluster;
    mod etcd_api;
    mod failover;
    mod joining;
    mod limits;
    mod linearizable;
    mod processes;
    mod recovery;
    mod simulation;
}
