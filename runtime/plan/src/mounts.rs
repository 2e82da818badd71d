//! A container's root and mounts, as a list of operations that the engine's `rootfs` executes in order.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use serde::{Deserialize, Serialize};

use super::devices::{self, DeviceOp};
use super::host::SecurityModules;
use super::namespaces::NamespaceKind;
use super::{Findings, Finished, Host, Refused, annotations, hidden_paths};

mod idmap;
pub mod options;

pub use idmap::{MappedBy, MountMap};
pub use options::RuntimeOptions;

/// Options of create that concern the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// The `--no-pivot` flag: move the root and chroot.
    pub no_pivot: bool,
    /// The container has a user namespace other than the host's, new or joined.
    pub user_namespace: bool,
    /// The container gets a new cgroup namespace.
    pub cgroup_namespace: bool,
}

/// How the process enters its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pivot {
    /// pivot_root(2); the old root is detached.
    Pivot,
    /// The root is moved over / and entered by chroot(2).
    Move,
    /// chroot(2) alone, in the host's mount namespace.
    Chroot,
}

/// The kind of a mount, which decides how it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A bind of a file or directory of the host, with the mounts below it when `recursive`.
    Bind {
        /// Whether mounts below the source are bound too (`rbind`).
        recursive: bool,
    },
    /// procfs, whose target must be a real directory.
    Proc,
    /// sysfs, whose target must be a real directory.
    Sysfs,
    /// A new tmpfs.
    Tmpfs,
    /// POSIX message queues (mq_overview(7)).
    Mqueue,
    /// The container's view of its cgroups, whatever the host's layout is.
    Cgroup,
    /// Changes the mount that is already at the target.
    Remount,
    /// Any other file system, by name.
    Other(String),
}

/// A mount to make, or to change.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MountOp {
    /// Index in config.json's `mounts`.
    pub index: u32,
    /// The type, which decides how it is mounted.
    pub kind: MountKind,
    /// The source; absolute for a bind.
    pub source: PathBuf,
    /// Path in the container: absolute, without `.` and `..`.
    pub target: PathBuf,
    /// MS_ flags to set.
    pub flags: u64,
    /// MS_ flags that an option clears explicitly.
    pub cleared: u64,
    /// MOUNT_ATTR_ to set and to clear for the whole tree (mount_setattr(2)).
    pub recursive: Option<(u64, u64)>,
    /// Propagation types to set, in order (MS_ flags).
    pub propagation: Vec<u64>,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
    /// The options that the runtime itself implements.
    pub own: RuntimeOptions,
    /// The id mapping of an idmapped mount.
    pub map: Option<MountMap>,
}

/// A cgroup hierarchy of the host, and the container's cgroup in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupHierarchy {
    /// Name of the hierarchy's directory below /sys/fs/cgroup: `cpu,cpuacct`, `memory`, `systemd`.
    pub name: String,
    /// Mount options that select the hierarchy: `cpu,cpuacct`, or `none,name=systemd`.
    pub options: String,
    /// The container's own cgroup as a path on the host: `/sys/fs/cgroup/memory/x/y`.
    pub own: PathBuf,
}

/// The content of a mount of type `cgroup`. It is no part of a plan, because it is known once the container's cgroup
/// exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupMounts {
    /// The host has no cgroup hierarchy, or the container is in none.
    #[default]
    None,
    /// v2: cgroup2 alone.
    V2 {
        /// The host's mount point, usually /sys/fs/cgroup.
        mountpoint: PathBuf,
        /// The container's own cgroup as a path on the host.
        own: PathBuf,
    },
    /// v1 hierarchies. A hybrid host's cgroup2 hierarchy is left out: systemd as process 1 of the container would
    /// take the host for hybrid and fail, because that hierarchy is not its own.
    V1(Vec<CgroupHierarchy>),
}

/// The SELinux label of new mounts.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MountLabel {
    /// `context`, `fscontext`, `defcontext` or `rootcontext` (mount(8)).
    pub option: String,
    /// The SELinux context.
    pub label: String,
}

bitflags::bitflags! {
    /// Parts of the root that become read-only as the last steps.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ReadOnly: u8 {
        /// The root itself.
        const ROOT = 1;
        /// /dev, once its content exists.
        const DEV = 1 << 1;
    }

    /// Namespaces on which the mounts depend.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct RootfsNamespaces: u8 {
        /// A user namespace, where mknod(2) is refused and nodes are bound from the host.
        const USER = 1;
        /// A cgroup namespace of the container's own, in which cgroup mounts may be writable.
        const CGROUP = 1 << 1;
    }
}

/// The root file system and everything mounted or created in it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootfsPlan {
    /// Absolute path of the root on the host.
    pub root: PathBuf,
    /// The parts that become read-only as the last steps.
    pub readonly: ReadOnly,
    /// rootfsPropagation as MS_ flags; `None` means rslave, and nothing is set on the new root.
    pub root_propagation: Option<u64>,
    /// The mounts, in order.
    pub mounts: Vec<MountOp>,
    /// The device nodes, default ones included. Empty when the host's /dev is bound.
    pub devices: Vec<DeviceOp>,
    /// Whether to create /dev's symlinks: false when the host's /dev is bound.
    pub setup_dev: bool,
    /// Paths to hide under an empty read-only file or directory.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// The way to enter the root.
    pub pivot: Pivot,
    /// The process has a terminal, so the container gets a /dev/console.
    pub console: bool,
    /// The label of linux.mountLabel.
    pub mount_label: Option<MountLabel>,
    /// The namespaces on which the mounts depend.
    pub namespaces: RootfsNamespaces,
}

impl RootfsPlan {
    /// Whether the mounts are made in a user namespace.
    pub fn has_user_namespace(&self) -> bool {
        self.namespaces.contains(RootfsNamespaces::USER)
    }

    /// Whether the container gets a cgroup namespace of its own.
    pub fn has_cgroup_namespace(&self) -> bool {
        self.namespaces.contains(RootfsNamespaces::CGROUP)
    }

    /// The propagation of mount events before the container's own is set, as MS_ flags.
    pub fn spread(&self) -> u64 {
        self.root_propagation.unwrap_or(libc::MS_SLAVE | libc::MS_REC)
    }

    /// Whether the root can be made from detached copies of the host's mounts alone, so that the mount namespace need
    /// not begin as a copy of the host's. False for a file system that looks its source up by path, for a root from
    /// which events propagate to the host, and for a user namespace, which may not create the copies.
    pub fn fits_empty_namespace(&self) -> bool {
        let by_path = |op: &MountOp| matches!(&op.kind, MountKind::Other(name) if name != "devpts");
        let spread = self.spread();
        self.pivot == Pivot::Pivot
            && !self.has_user_namespace()
            && spread & libc::MS_REC != 0
            && spread & (libc::MS_SLAVE | libc::MS_PRIVATE) != 0
            && !self.mounts.iter().any(by_path)
    }
}

/// Files below /proc that may be mounted over, because lxcfs emulates them.
pub const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Normalises `path` to an absolute one without `.`, `..` and doubled slashes; `..` is resolved literally and never
/// above `/`.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Plans the root of `spec` alone, as [`crate::container::build`] does with the rest.
///
/// # Errors
/// One error that lists every violation.
pub fn of_root(
    spec: &Spec,
    bundle: &Path,
    options: &MountOptions,
    host: &Host,
) -> Result<Finished<RootfsPlan>, Refused> {
    let mut findings = Findings::default();
    let plan = build(spec, bundle, options, host, &mut findings);
    findings.into_result()?;
    Ok(Finished::new(plan))
}

/// Plans the root of `spec`. Relative paths are relative to `bundle`, which is absolute.
pub(crate) fn build(
    spec: &Spec,
    bundle: &Path,
    options: &MountOptions,
    host: &Host,
    findings: &mut Findings,
) -> RootfsPlan {
    let linux = spec.linux().as_ref();
    let configured = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let own_mounts = configured.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount)
        && !host.own_namespaces.contains(&NamespaceKind::Mount);
    let [masked_paths, readonly_paths] = hidden_paths::build(linux, own_mounts, findings);
    if !own_mounts {
        warn_of_shared_mounts(spec, findings);
    }
    let root = root(spec, findings).map_or_else(PathBuf::new, |root| clean(&bundle.join(root)));
    let container = idmap::of_container(linux);
    let context = MountContext { bundle, options, container: container.as_ref(), host };
    let mounts: Vec<MountOp> = (0..)
        .zip(spec.mounts().iter().flatten())
        .filter_map(|(index, mount)| plan_mount(MountEntry { index, mount }, &context, findings))
        .collect();
    let bound_dev = |op: &MountOp| matches!(op.kind, MountKind::Bind { .. }) && op.target == Path::new("/dev");
    let setup_dev = !mounts.iter().any(bound_dev);
    let mut readonly = ReadOnly::empty();
    readonly.set(ReadOnly::ROOT, own_mounts && spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false));
    let is_dev_readonly = |op: &MountOp| op.target == Path::new("/dev") && op.flags & libc::MS_RDONLY != 0;
    readonly.set(ReadOnly::DEV, mounts.iter().any(is_dev_readonly));
    let mut namespaces = RootfsNamespaces::empty();
    namespaces.set(RootfsNamespaces::USER, options.user_namespace || host.in_user_namespace);
    namespaces.set(RootfsNamespaces::CGROUP, options.cgroup_namespace);
    let configured = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let devices = devices::build(configured, findings);
    RootfsPlan {
        root,
        readonly,
        root_propagation: root_propagation(spec, options, findings),
        mounts,
        devices: if setup_dev { devices } else { Vec::new() },
        setup_dev,
        masked_paths,
        readonly_paths,
        pivot: match (own_mounts, options.no_pivot) {
            (false, _) => Pivot::Chroot,
            (true, true) => Pivot::Move,
            (true, false) => Pivot::Pivot,
        },
        console: spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false),
        mount_label: mount_label(spec, host, findings),
        namespaces,
    }
}

/// Without a mount namespace of its own, the container's mounts are made on the host, as with runc.
fn warn_of_shared_mounts(spec: &Spec, findings: &mut Findings) {
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        findings.warn(
            "root.readonly: without a mount namespace it has no effect: the host's own mounts would be read-only",
        );
    }
    if spec.mounts().iter().flatten().next().is_some() {
        findings.warn("mounts: without a mount namespace they are made on the host, and stay there");
    }
}

/// config.md, Root: both the object and its path are required on Linux.
fn root<'a>(spec: &'a Spec, findings: &mut Findings) -> Option<&'a Path> {
    let Some(root) = spec.root() else {
        findings.deny("root", "root must be specified", "name the root file system in root.path");
        return None;
    };
    if root.path().as_os_str().is_empty() {
        findings.deny("root.path", "is empty", "name the root file system");
    }
    Some(root.path())
}

/// config-linux.md, Rootfs Mount Propagation.
fn root_propagation(spec: &Spec, options: &MountOptions, findings: &mut Findings) -> Option<u64> {
    let name = spec.linux().as_ref()?.rootfs_propagation().as_deref().filter(|name| !name.is_empty())?;
    let Some(flags) = options::propagation(name) else {
        let expected = "private, rprivate, slave, rslave, shared, rshared, unbindable, runbindable";
        let reason = format!("{name:?} is not supported: expected one of {expected}");
        findings.deny("linux.rootfsPropagation", reason, "");
        return None;
    };
    if options.no_pivot && flags & libc::MS_PRIVATE != 0 {
        let reason = "rootfsPropagation of [r]private is not safe without pivot_root";
        findings.deny("linux.rootfsPropagation", reason, "drop --no-pivot, or use rslave");
    }
    Some(flags)
}

/// Plans linux.mountLabel; an annotation, after crun, chooses the mount option.
fn mount_label(spec: &Spec, host: &Host, findings: &mut Findings) -> Option<MountLabel> {
    let label = spec.linux().as_ref()?.mount_label().clone().filter(|label| !label.is_empty())?;
    if !host.security_modules.contains(SecurityModules::SELINUX) {
        findings.deny("linux.mountLabel", "SELinux is not enabled on this host", "leave it out");
        return None;
    }
    let annotation = annotations::MOUNT_CONTEXT.name();
    let kind = annotations::MOUNT_CONTEXT.get(spec).unwrap_or("context");
    if !matches!(kind, "context" | "fscontext" | "defcontext" | "rootcontext") {
        let remedy = "use context, fscontext, defcontext or rootcontext";
        findings.deny(format!("annotations.{annotation}"), format!("{kind:?} is no type of context"), remedy);
        return None;
    }
    Some(MountLabel { option: kind.to_owned(), label })
}

/// A mount of the configuration, and its index in `mounts`.
#[derive(Clone, Copy)]
struct MountEntry<'a> {
    index: u32,
    mount: &'a Mount,
}

impl MountEntry<'_> {
    /// The JSON path of a field of the mount.
    fn at(&self, field: &str) -> String {
        format!("mounts[{}].{field}", self.index)
    }
}

/// Facts outside of a mount's entry that its plan depends on.
struct MountContext<'a> {
    bundle: &'a Path,
    options: &'a MountOptions,
    /// The container's user namespace, as a source of maps.
    container: Option<&'a MappedBy>,
    host: &'a Host,
}

fn plan_mount(entry: MountEntry<'_>, context: &MountContext<'_>, findings: &mut Findings) -> Option<MountOp> {
    let MountEntry { index, mount } = entry;
    let MountContext { bundle, options, host, .. } = *context;
    let at = |field: &str| entry.at(field);
    let before = findings.violations.len();
    let parsed = options::parse(mount.options().as_deref().unwrap_or_default());
    if mount.destination().as_os_str().is_empty() {
        findings.deny(at("destination"), "is empty", "name a path in the container");
        return None;
    }
    let target = clean(mount.destination());
    if target == Path::new("/") {
        let reason = format!("{:?} is the top of the rootfs", mount.destination());
        findings.deny(at("destination"), reason, "name a directory below it, or use root.path and root.readonly");
    }
    let kind = kind(mount.typ().as_deref().unwrap_or(""), &parsed);
    let mut source = mount.source().clone().unwrap_or_default();
    if let MountKind::Bind { .. } = kind {
        if source.as_os_str().is_empty() {
            findings.deny(at("source"), "a bind mount has none", "give the path on the host");
        }
        // Not normalised: `..` after a symlink is the kernel's to resolve.
        source = bundle.join(source);
        if !parsed.data.is_empty() {
            let named = |(name, _): &(String, Option<String>)| match options::similar(name) {
                Some(known) => format!("{name} (did you mean {known:?}?)"),
                None => name.clone(),
            };
            let names: Vec<String> = parsed.data.iter().map(named).collect();
            findings.warn(format!("{}: a bind mount has no use for {}", at("options"), names.join(", ")));
        }
    } else if kind == MountKind::Other(String::new()) {
        findings.deny(at("type"), "it is missing", "name a file system, or add the option bind or rbind");
    }
    if parsed.own.contains(RuntimeOptions::COPY_UP) && kind != MountKind::Tmpfs {
        findings.deny(at("options"), "tmpcopyup is for tmpfs alone", "drop it");
    }
    options::check_owners(&at("options"), &parsed.data, findings);
    let map = idmap::build(entry, &kind, &parsed, context, findings);
    check_proc(&at("destination"), &kind, &target, findings);
    let in_user_namespace = options.user_namespace || host.in_user_namespace;
    let shares_cgroups = in_user_namespace && !options.cgroup_namespace;
    if kind == MountKind::Cgroup && shares_cgroups && parsed.flags & libc::MS_RDONLY == 0 {
        findings.warn(format!(
            "{}: the mount is read-only, since the container has a user namespace and no cgroup namespace of its own",
            at("options")
        ));
    }
    (findings.violations.len() == before).then_some(MountOp {
        index,
        kind,
        source,
        target,
        flags: parsed.flags,
        cleared: parsed.cleared,
        recursive: parsed.recursive.then_some((parsed.all_set, parsed.all_clear)),
        propagation: parsed.propagation,
        data: parsed.data,
        own: parsed.own,
        map,
    })
}

fn kind(name: &str, parsed: &options::Parsed) -> MountKind {
    if parsed.flags & libc::MS_REMOUNT != 0 {
        return MountKind::Remount;
    }
    // A bind mount's type is ignored.
    if parsed.flags & libc::MS_BIND != 0 || name == "bind" {
        return MountKind::Bind { recursive: parsed.flags & libc::MS_REC != 0 };
    }
    match name {
        "proc" => MountKind::Proc,
        "sysfs" => MountKind::Sysfs,
        "tmpfs" => MountKind::Tmpfs,
        "mqueue" => MountKind::Mqueue,
        "cgroup" => MountKind::Cgroup,
        // Without a type there is nothing to mount, and "none" with neither bind nor remount names none.
        "none" => MountKind::Other(String::new()),
        other => MountKind::Other(other.to_owned()),
    }
}

/// Only procfs may be mounted over /proc, and below it only the files that lxcfs emulates: LSM labels and sysctls of
/// the container's later processes are written through /proc. A bind over /proc is checked by its source, once that
/// is open.
fn check_proc(at: &str, kind: &MountKind, target: &Path, findings: &mut Findings) {
    if !target.starts_with("/proc") || matches!(kind, MountKind::Remount) {
        return;
    }
    if target == Path::new("/proc") {
        if !matches!(kind, MountKind::Proc | MountKind::Bind { .. }) {
            let reason = format!("{target:?} cannot be mounted because it is not of type proc");
            findings.deny(at, reason, "mount it elsewhere");
        }
    } else if !PROC_FILES.iter().any(|file| target == Path::new(file)) {
        findings.deny(at, format!("{target:?} cannot be mounted because it is inside /proc"), "mount it elsewhere");
    }
}

#[cfg(test)]
pub(crate) mod tests;
