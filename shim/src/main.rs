//! The shim's binary: a pod's pause process, a short command of containerd's, or the server. The engine diverts the
//! init of a container before `main`.
#![forbid(unsafe_code)]

fn main() {
    let status = if brig_shim::sandbox::pause::is_pause(std::env::args_os().next().as_deref()) {
        brig_shim::sandbox::pause::main()
    } else {
        brig_shim::bootstrap::run(std::env::args_os().collect())
    };
    std::process::exit(status)
}
