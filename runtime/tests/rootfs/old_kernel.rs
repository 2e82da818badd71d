//! Kernels without the new calls, simulated by a seccomp filter that returns ENOSYS.

use std::collections::BTreeMap;

use brig_engine::rootfs::{self, RootContext};
use brig_plan::mounts::MountOptions;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::bed::in_bed;
use crate::whole::{look_around, usual};

/// Makes `calls` fail with ENOSYS in this thread from here on.
fn forget(calls: &[i64]) {
    let rules: BTreeMap<i64, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 };
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), arch);
    let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("seccomp");
}

fn usual_root_without(calls: &'static [i64]) {
    in_bed(move |bed| {
        let plan = usual(bed, &MountOptions::default());
        forget(calls);
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        look_around(bed.bundle(), false);
    });
}

#[test]
fn without_openat2() {
    usual_root_without(&[libc::SYS_openat2]);
}

#[test]
fn without_mount_setattr() {
    usual_root_without(&[libc::SYS_mount_setattr]);
}

#[test]
fn without_any_of_the_new_mount_calls() {
    usual_root_without(&[
        libc::SYS_openat2,
        libc::SYS_mount_setattr,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
    ]);
}
