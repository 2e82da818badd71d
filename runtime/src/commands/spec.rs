//! `spec`: a default config.json.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Args, Count, Flag, Global, Order, Verb};
use crate::output;
use brig_engine::SPEC_VERSION;
use brig_engine::error::{Context, Error, ErrorKind, Result};

pub const VERB: Verb = Verb {
    name: "spec",
    usage: "",
    about: "write a config.json to start from",
    details: "The file makes a container that runs 'sh' on a terminal, with the root file system in ./rootfs.\n\
        Edit process.args to run something else.",
    example: "brig spec --bundle /srv/box",
    flags: &[
        Flag::value("bundle", "b", "DIR", "write it there (default: the working directory)"),
        Flag::switch("rootless", "", "one that a plain user can run: a user namespace with the caller as its root"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(0),
    run,
};

fn run(_: &Global, args: &Args) -> Result<i32> {
    let bundle = args.path("bundle").unwrap_or_default();
    if !bundle.as_os_str().is_empty() && !bundle.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("chdir {}: no such file or directory", bundle.display()),
        ));
    }
    let owner =
        args.is_on("rootless").then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let text = output::json_indented(&document(owner, is_cgroup_v2()), "\t")?;
    let path: PathBuf = bundle.join("config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = "File config.json exists. Remove it first";
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        file => file.with_context(|| format!("create {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// Whether /sys/fs/cgroup is cgroup2, in which case the container gets its own cgroup namespace.
fn is_cgroup_v2() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == libc::CGROUP2_SUPER_MAGIC)
}

/// The default configuration; `owner` is the caller's uid and gid for an unprivileged container.
fn document(owner: Option<(u32, u32)>, v2: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "brig",
        "mounts": mounts(owner.is_some()),
        "linux": linux(owner, v2),
    })
}

fn mounts(rootless: bool) -> Value {
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !rootless {
        // Group tty, which a user namespace of one id does not map.
        devpts.push("gid=5");
    }
    // A new sysfs needs a network namespace owned by the user namespace, so the host's is bound instead.
    let sys = if rootless {
        json!({ "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] })
    } else {
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"] })
    };
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"] },
        sys,
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
    ])
}

fn linux(owner: Option<(u32, u32)>, v2: bool) -> Value {
    let mut namespaces = vec!["pid"];
    if owner.is_none() {
        namespaces.push("network");
    }
    namespaces.extend(["ipc", "uts", "mount"]);
    if v2 {
        namespaces.push("cgroup");
    }
    if owner.is_some() {
        namespaces.push("user");
    }
    let namespaces: Vec<Value> = namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    match owner {
        Some((uid, gid)) => {
            linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
            linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
        }
        None => linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] }),
    }
    linux
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documents_are_valid_configurations() {
        for owner in [None, Some((1000, 1000))] {
            for v2 in [false, true] {
                let text = serde_json::to_vec(&document(owner, v2)).unwrap();
                let (spec, warnings) = brig_plan::config::parse(&text).unwrap();
                assert!(warnings.is_empty());
                let namespaces = spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len();
                assert_eq!(namespaces, 5 + usize::from(v2));
            }
        }
    }
}
