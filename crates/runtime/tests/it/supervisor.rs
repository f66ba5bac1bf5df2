//! The executable that the crate's tests and examples use as a pod supervisor.

fn main() {
    let args: Vec<String> = std::env::args().collect();
    runtime::supervisor::main(&args)
}
