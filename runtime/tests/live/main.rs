//! Tests of the whole command with live containers, compared with runc where possible. Needs root, busybox, runc,
//! util-linux and a C compiler.
#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod against_runc;
mod debug_log;
mod devices;
mod helpers;
mod hooks;
mod idmapped;
mod lifecycle;
mod locked;
mod many_mounts;
mod namespaces;
mod process;
mod sealed_program;
mod seccomp_live;
mod seccomp_notify;
mod security;
mod shared_pid;
mod stopped;
mod terminal;
mod warnings;
mod without_cgroup;
