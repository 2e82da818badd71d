//! The shim's binary: the sealed init stage of a container, a pod's pause process, a short command of containerd's, or
//! the server.
#![forbid(unsafe_code)]

fn main() {
    // Before anything else: the engine starts this very binary inside of containers.
    let status = if brig_engine::launch::is_init() {
        brig_engine::launch::init::main()
    } else if brig_shim::sandbox::pause::is_pause(std::env::args_os().next().as_deref()) {
        brig_shim::sandbox::pause::main()
    } else {
        brig_shim::bootstrap::run(std::env::args_os().collect())
    };
    std::process::exit(status)
}
