//! The plan of a whole container, and of an additional process in one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Spec};
use serde::Serialize;

use super::cgroup::{CgroupManager, CgroupPlan};
use super::hooks::RuntimeHooks;
use super::idmap::IdMap;
use super::ids::{self, IdOrName};
use super::init::{HookState, InitNamespaces, InitPlan, Stages};
use super::intel_rdt::IntelRdtPlan;
use super::mounts::{MountKind, MountOptions, RootfsPlan};
use super::namespaces::{NamespaceKind, NamespacePlan};
use super::{
    Findings, Finished, Host, Refused, annotations, cgroup, checks, hooks, intel_rdt, memory_policy, mounts, network,
    passwd, process, seccomp,
};

/// Options of create, translated by the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateChoices {
    /// The `--no-pivot` flag: move the root and chroot.
    pub no_pivot: bool,
    /// The `--no-new-keyring` flag: keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Number of descriptors from 3 on to keep, besides the socket-activation ones.
    pub preserve_fds: u32,
    /// Number of socket-activation descriptors (LISTEN_FDS), which come first.
    pub listen_fds: u32,
    /// The manager of the container's cgroup.
    pub manager: CgroupManager,
}

/// Everything that create executes, decided before anything is created.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ContainerPlan {
    /// The init process's plan.
    pub init: InitPlan,
    /// The namespaces to create, to join and to inherit.
    pub namespaces: NamespacePlan,
    /// CLONE_NEW* flags of the first clone.
    pub clone_flags: u64,
    /// User and group maps of a new user namespace.
    pub id_maps: Option<(IdMap, IdMap)>,
    /// The place and the limits of the container's cgroup.
    pub cgroup: Finished<CgroupPlan>,
    /// The hooks that the runtime runs.
    pub hooks: RuntimeHooks,
    /// The resctrl group.
    pub intel_rdt: Option<IntelRdtPlan>,
}

impl ContainerPlan {
    /// Whether the new mount namespace may begin as a copy of an empty one. Not with hooks that run before the root is
    /// entered, because they look for the host's paths in the container's mount namespace.
    pub fn fits_empty_namespace(&self) -> bool {
        self.clone_flags & NamespaceKind::Mount.clone_flag() != 0
            && !self.init.runtime_hooks
            && self.init.rootfs.as_ref().is_some_and(RootfsPlan::fits_empty_namespace)
    }
}

/// The plan of an additional process in a running container.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExecPlan {
    /// The plan of the init that becomes the process.
    pub init: InitPlan,
    /// The namespaces to join, every one that is not the host's, as one set of CLONE_NEW* for setns(2) on the pidfd of
    /// the container's init.
    pub join: u64,
}

/// Builds the plan of a container. The strings are warnings for the log.
///
/// # Errors
/// One error that lists every violation.
pub fn build(
    spec: &Spec,
    id: &str,
    bundle: &Path,
    choices: CreateChoices,
    host: &Host,
) -> Result<(Finished<ContainerPlan>, Vec<String>), Refused> {
    let (plan, findings) = plan(spec, id, bundle, choices, host);
    let warnings = findings.into_result()?;
    Ok((Finished::new(plan), warnings))
}

/// Plans a container. The plan is of use only when there are no violations.
pub(crate) fn plan(
    spec: &Spec,
    id: &str,
    bundle: &Path,
    choices: CreateChoices,
    host: &Host,
) -> (ContainerPlan, Findings) {
    let mut findings = Findings::default();
    checks::check(spec, host, &mut findings);
    let linux = spec.linux().as_ref();
    check_seccomp(linux, &mut findings);
    let namespaces = NamespacePlan::on_host(spec, host);
    let mount_options = MountOptions {
        no_pivot: choices.no_pivot,
        user_namespace: namespaces.is_private(NamespaceKind::User),
        cgroup_namespace: namespaces.is_private(NamespaceKind::Cgroup),
    };
    let rootfs = mounts::build(spec, bundle, &mount_options, host, &mut findings);
    let cgroup = cgroup::build(spec, id, choices.manager, host, &mut findings);
    let hooks = hooks::build(spec, &mut findings);
    let (clone_flags, stages) = divide(&namespaces, &rootfs, host);
    let process = process_plan(spec, &namespaces, choices, host, &mut findings);
    let is_new = |kind| namespaces.is_new(kind);
    let id_maps = is_new(NamespaceKind::User).then(|| {
        let map = |list: Option<&Vec<_>>| IdMap::new(list.map(Vec::as_slice));
        (
            map(linux.and_then(|linux| linux.uid_mappings().as_ref())),
            map(linux.and_then(|linux| linux.gid_mappings().as_ref())),
        )
    });
    let plan = ContainerPlan {
        init: InitPlan {
            stages,
            namespaces: init_namespaces(&namespaces),
            time_offsets: is_new(NamespaceKind::Time).then(|| time_offsets(linux)),
            keyring: (!choices.no_new_keyring).then(|| keyring(id)),
            net_devices: network::build(linux, &namespaces, host, &mut findings),
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            rootfs: Some(rootfs),
            sysctl: sysctl(linux),
            // The parent must know of createContainer hooks too: poststop hooks run when one of them fails.
            runtime_hooks: [&hooks.runtime.prestart, &hooks.runtime.create_runtime, &hooks.container.create_container]
                .iter()
                .any(|list| !list.is_empty()),
            hooks: hooks.container,
            hook_state: state(spec, id, bundle),
            process,
            preserve_fds: choices.preserve_fds + choices.listen_fds,
            seccomp: linux.is_some_and(|linux| linux.seccomp().is_some()),
        },
        clone_flags,
        namespaces,
        id_maps,
        cgroup: Finished::new(cgroup),
        hooks: hooks.runtime,
        intel_rdt: intel_rdt::build(linux, id, &mut findings),
    };
    (plan, findings)
}

/// The session keyring's name, by which an exec joins it.
fn keyring(id: &str) -> String {
    format!("_ses.{id}")
}

fn init_namespaces(namespaces: &NamespacePlan) -> InitNamespaces {
    [
        (InitNamespaces::NEW_CGROUP, namespaces.is_new(NamespaceKind::Cgroup)),
        (InitNamespaces::NEW_NETWORK, namespaces.is_new(NamespaceKind::Network)),
        (InitNamespaces::USER, namespaces.is_private(NamespaceKind::User)),
    ]
    .into_iter()
    .filter_map(|(flag, is_set)| is_set.then_some(flag))
    .collect()
}

/// Divides the new namespaces between the first clone, whose flags come first, and the second-stage init's.
///
/// A joined namespace is entered before a new user namespace is created, because the container's root may lack the
/// right to enter it; a joined user namespace is entered before the other namespaces are created, because it owns
/// them; and a joined pid namespace takes effect for children only. Each of these needs a second clone, in the sealed
/// process. The cgroup and the time namespace are unshared later.
///
/// The second clone comes last where only the pid namespace needs it. With a user namespace it comes first: the new
/// namespaces are owned by that, and a process of a user namespace below the caller's cannot trace one that is not
/// dumpable and was started outside (ptrace(2)). It comes first as well where the root has a procfs that only a process
/// inside of the pid namespace can mount.
fn divide(namespaces: &NamespacePlan, rootfs: &RootfsPlan, host: &Host) -> (u64, Stages) {
    let late = NamespaceKind::Cgroup.clone_flag() | NamespaceKind::Time.clone_flag();
    let flags = namespaces.clone_flags() & !late;
    let joins = namespaces.joined().next().is_some();
    let joined = |kind| namespaces.is_private(kind) && !namespaces.is_new(kind);
    let is_inside_first = joined(NamespaceKind::Pid)
        && !host.procfs_shows_joined_pids
        && rootfs.mounts.iter().any(|op| op.kind == MountKind::Proc);
    let owner_first = joined(NamespaceKind::User) || joins && namespaces.is_new(NamespaceKind::User);
    if owner_first || is_inside_first {
        (0, Stages::TwoEarly(flags))
    } else if joined(NamespaceKind::Pid) {
        (flags, Stages::TwoLate)
    } else {
        (flags, Stages::One)
    }
}

fn process_plan(
    spec: &Spec,
    namespaces: &NamespacePlan,
    choices: CreateChoices,
    host: &Host,
    findings: &mut Findings,
) -> process::ProcessPlan {
    let Some(process) = spec.process() else { return process::ProcessPlan::default() };
    let mut plan = process::build(process, namespaces.is_private(NamespaceKind::User), host, findings);
    // config.md: execCPUAffinity does not apply to the container's init process.
    plan.initial_affinity.clear();
    plan.final_affinity.clear();
    let personality = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    plan.personality = personality.map(process::personality);
    plan.memory_policy = memory_policy::build(spec.linux().as_ref(), findings);
    plan.keep_groups = annotations::keeps_groups(spec);
    if choices.listen_fds > 0 {
        plan.env.push(format!("LISTEN_FDS={}", choices.listen_fds));
        plan.env.push("LISTEN_PID=1".to_owned());
    }
    plan
}

fn check_seccomp(linux: Option<&Linux>, findings: &mut Findings) {
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return };
    if let Some(native) = seccomp::Abi::native() {
        // The filter is compiled later, while init is running.
        seccomp::read(profile, native, findings);
    }
}

fn time_offsets(linux: Option<&Linux>) -> String {
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &oci_spec::runtime::LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default())
    };
    offsets.into_iter().flatten().map(line).collect()
}

fn sysctl(linux: Option<&Linux>) -> Vec<(String, String)> {
    let all = linux.and_then(|linux| linux.sysctl().as_ref());
    let mut list: Vec<_> = all.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    list.sort();
    list
}

/// The state of a created container that hooks and a seccomp agent read.
pub fn hook_state(spec: &Spec, id: &str, bundle: &Path) -> Finished<HookState> {
    Finished::new(state(spec, id, bundle))
}

fn state(spec: &Spec, id: &str, bundle: &Path) -> HookState {
    HookState {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        annotations: annotations(spec),
    }
}

/// The configuration's annotations, sorted by name.
pub fn annotations(spec: &Spec) -> BTreeMap<String, String> {
    spec.annotations().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Options of exec, translated by the engine from `engine::ExecOptions`.
#[derive(Clone, Debug, Default)]
pub struct ExecChoices {
    /// The process object comes with the exec instead of from the configuration.
    pub process_given: bool,
    /// Replaces the configuration's argv.
    pub args: Vec<String>,
    /// Replaces the configuration's cwd.
    pub cwd: Option<PathBuf>,
    /// Added to the configuration's environment.
    pub env: Vec<String>,
    /// Replaces the configuration's `terminal`.
    pub terminal: Option<bool>,
    /// The user as `uid[:gid]`, or as names.
    pub user: Option<String>,
    /// Added to the configuration's groups.
    pub additional_gids: Vec<u32>,
    /// Replaces the configuration's SELinux label.
    pub selinux: Option<String>,
    /// Replaces the configuration's AppArmor profile.
    pub apparmor: Option<String>,
    /// Replaces the configuration's noNewPrivileges.
    pub no_new_privs: Option<bool>,
    /// Names of capabilities added to the configuration's.
    pub capabilities: Vec<String>,
    /// Number of descriptors from 3 on to keep.
    pub preserve_fds: u32,
}

/// Builds the plan of an additional process in a running container. The strings are warnings.
///
/// # Errors
/// One error that lists every violation.
pub fn build_exec(
    spec: &Spec,
    id: &str,
    process: &Process,
    choices: &ExecChoices,
    host: &Host,
) -> Result<(Finished<ExecPlan>, Vec<String>), Refused> {
    let mut findings = Findings::default();
    let namespaces = NamespacePlan::on_host(spec, host);
    let own_user_namespace = namespaces.is_private(NamespaceKind::User);
    let mut plan = process::build(process, own_user_namespace, host, &mut findings);
    if process.exec_cpu_affinity().is_none()
        && let Some(own) = spec.process()
    {
        (plan.initial_affinity, plan.final_affinity) = process::exec_affinity(own);
    }
    checks::check_process(process, "process", host, &mut findings);
    if !choices.process_given {
        // create has already warned about the configuration's own process.
        findings.warnings.clear();
    }
    checks::check_labels(choices.apparmor.as_deref(), choices.selinux.as_deref(), host, &mut findings);
    if !choices.args.is_empty() {
        plan.args.clone_from(&choices.args);
    }
    if let Some(cwd) = &choices.cwd {
        plan.cwd.clone_from(cwd);
        if !cwd.is_absolute() {
            findings.deny("--cwd", format!("Cwd must be an absolute path, not {cwd:?}"), "");
        }
    }
    if !choices.env.is_empty() {
        for entry in choices.env.iter().filter(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            findings.deny("--env", format!("invalid environment variable: {entry:?}"), "write NAME=value");
        }
        plan.env.extend(choices.env.iter().cloned());
        plan.env = process::dedup_env(&plan.env);
    }
    plan.terminal = choices.terminal.unwrap_or(plan.terminal);
    plan.no_new_privileges = choices.no_new_privs.unwrap_or(plan.no_new_privileges);
    plan.selinux = choices.selinux.clone().or(plan.selinux);
    plan.apparmor = choices.apparmor.clone().or(plan.apparmor);
    plan.groups.extend(&choices.additional_gids);
    for gid in choices.additional_gids.iter().filter(|gid| **gid > ids::MAX) {
        findings.deny("--additional-gids", format!("{gid} is out of range: expected {}", ids::RANGE), "");
    }
    if let Some(user) = &choices.user {
        set_user(&mut plan, user, &mut findings);
    }
    let (added, unknown) = process::parse_capabilities(&choices.capabilities);
    if !unknown.is_empty() {
        findings.warn(format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
    }
    if !own_user_namespace && added & !host.effective_capabilities != 0 {
        let reason =
            format!("{:#x} cannot be given: the caller does not have it", added & !host.effective_capabilities);
        findings.deny("--cap", reason, "leave it out, or give it to the caller");
    }
    plan.capabilities.bounding |= added;
    plan.capabilities.effective |= added;
    plan.capabilities.permitted |= added;
    // Never inheritable: CVE-2022-29162. Ambient only where the configuration makes it inheritable.
    plan.capabilities.ambient |= added & plan.capabilities.inheritable;
    let linux = spec.linux().as_ref();
    let personality = linux.and_then(|linux| linux.personality().as_ref());
    plan.personality = personality.map(process::personality);
    plan.memory_policy = memory_policy::build(linux, &mut findings);
    plan.keep_groups = annotations::keeps_groups(spec);
    let private = |kind: &NamespaceKind| namespaces.is_private(*kind);
    let join = NamespaceKind::ALL.into_iter().filter(private).fold(0, |flags, kind| flags | kind.clone_flag());
    let init = InitPlan {
        // A joined pid namespace takes effect for children only (setns(2)).
        stages: if namespaces.is_private(NamespaceKind::Pid) { Stages::TwoLate } else { Stages::One },
        namespaces: if own_user_namespace { InitNamespaces::USER } else { InitNamespaces::empty() },
        keyring: Some(keyring(id)),
        process: plan,
        preserve_fds: choices.preserve_fds,
        seccomp: linux.is_some_and(|linux| linux.seccomp().is_some()),
        ..InitPlan::default()
    };
    let warnings = findings.into_result()?;
    Ok((Finished::new(ExecPlan { init, join }), warnings))
}

/// Decimal ids replace only what they name, as with runc; init looks names up in the container's files.
fn set_user(plan: &mut process::ProcessPlan, user: &str, findings: &mut Findings) {
    match passwd::parse_user(user) {
        Ok((IdOrName::Id(uid), None)) => plan.uid = uid,
        Ok((IdOrName::Id(uid), Some(IdOrName::Id(gid)))) => (plan.uid, plan.gid) = (uid, gid),
        Ok(_) => plan.user = Some(user.to_owned()),
        Err(reason) => findings.deny("--user", reason, ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::host::CgroupLayout;

    /// Paths of the violations of a valid configuration after this change.
    fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut config = json!({
            "ociVersion": "1.3.0", "root": { "path": "rootfs" },
            "process": { "user": {}, "args": ["sh"], "cwd": "/" },
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        change(&mut config);
        let spec: Spec = serde_json::from_value(config).unwrap();
        let host = Host::of_root(CgroupLayout::V2);
        let error = build(&spec, "box", Path::new("/bundle"), CreateChoices::default(), &host).err();
        let text = error.map_or_else(String::new, |error| error.to_string());
        let list = text.trim_start_matches("invalid config.json: ").split("; ");
        list.filter_map(|one| Some(one.split_once(": ")?.0.to_owned())).collect()
    }

    #[test]
    fn each_fault_is_reported_once() {
        assert_eq!(refused(|_| ()), Vec::<String>::new());
        let root = |config: &mut Value| drop(config["root"].take());
        assert_eq!(refused(root), ["root"]);
        let propagation = |config: &mut Value| config["linux"]["rootfsPropagation"] = json!("public");
        assert_eq!(refused(propagation), ["linux.rootfsPropagation"]);
        assert_eq!(refused(|config| config["process"]["args"] = json!([])), ["process.args"]);
        let hook = |config: &mut Value| config["hooks"] = json!({ "poststop": [{ "path": "/x", "timeout": -1 }] });
        assert_eq!(refused(hook), ["hooks.poststop[0].timeout"]);
        let device = |config: &mut Value| config["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "a" }]);
        assert_eq!(refused(device), ["linux.devices[0].type"]);
    }
}
