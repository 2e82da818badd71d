//! Collects the facts about the host that plans depend on.

use std::path::Path;

use rustix::fs::statfs;

use crate::error::{Context, Result};
use brig_plan::Host;
use brig_plan::host::{CgroupLayout, SecurityModules};
use brig_sys::procfs::Proc;
use brig_sys::{cred, fd};

/// f_type of cgroup2 (include/uapi/linux/magic.h).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Probes the host, with about ten system calls.
pub fn host() -> Result<Host> {
    let proc = Proc::open().context("unable to open /proc")?;
    let number = |path: &str| -> Result<u8> {
        let text = proc.read_to_string(path)?;
        text.trim().parse().map_err(|_| crate::error::Error::other(format!("/proc/{path} holds {text:?}")))
    };
    Ok(Host {
        euid: rustix::process::geteuid().as_raw(),
        effective_capabilities: cred::effective_capabilities()?,
        last_capability: number("sys/kernel/cap_last_cap")?,
        cgroup: cgroup_layout(),
        security_modules: security_modules(),
        in_user_namespace: in_user_namespace(&proc)?,
        kernel: kernel_release(),
        own_namespaces: Vec::new(),
        host_namespaces: Vec::new(),
        procfs_shows_joined_pids: false,
    })
}

/// The layout of /sys/fs/cgroup.
pub fn cgroup_layout() -> CgroupLayout {
    let is_cgroup2 = |path: &str| statfs(path).is_ok_and(|stat| fd::magic(&stat) == CGROUP2_SUPER_MAGIC);
    /// f_type of a v1 hierarchy (include/uapi/linux/magic.h).
    const CGROUP_SUPER_MAGIC: u64 = 0x27_e0eb;
    if is_cgroup2("/sys/fs/cgroup") {
        return CgroupLayout::V2;
    }
    if is_cgroup2("/sys/fs/cgroup/unified") {
        return CgroupLayout::Hybrid;
    }
    let entries = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let is_v1 = |path: &Path| statfs(path).is_ok_and(|stat| fd::magic(&stat) == CGROUP_SUPER_MAGIC);
    let any = entries.map(|entry| entry.path()).any(|path| is_v1(&path));
    if any { CgroupLayout::V1 } else { CgroupLayout::None }
}

fn security_modules() -> SecurityModules {
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    let mut found = SecurityModules::empty();
    found.set(SecurityModules::APPARMOR, apparmor);
    found.set(SecurityModules::SELINUX, Path::new("/sys/fs/selinux/enforce").exists());
    found
}

/// Whether this process is in a user namespace other than the initial one, which maps every id onto itself
/// (user_namespaces(7)).
fn in_user_namespace(proc: &Proc) -> Result<bool> {
    let map = proc.read_to_string("self/uid_map")?;
    let mut fields = map.split_ascii_whitespace();
    let initial = fields.next() == Some("0") && fields.next() == Some("0") && fields.next() == Some("4294967295");
    Ok(!initial)
}

fn kernel_release() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_host_can_be_probed() {
        let host = super::host().unwrap();
        assert!(host.last_capability >= 37 && host.kernel >= (4, 0), "{host:?}");
    }
}
