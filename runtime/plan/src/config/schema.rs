//! The Linux configuration of the OCI runtime specification 1.3 (config.md, config-linux.md) as a table.

/// The type of a JSON value.
pub(super) enum Type {
    Bool,
    /// A whole number within these inclusive bounds.
    Int(i64, u64),
    Str,
    /// One of these strings. The second of a pair is the model's name where that differs from the specification's.
    Enum(&'static [(&'static str, &'static str)]),
    /// A cpu list such as `0-3,7`.
    CpuList,
    /// An array of capability names.
    Capabilities,
    List(&'static Type),
    /// An object with arbitrary keys.
    Map(&'static Type),
    /// An object with these fields.
    Object(&'static [Field]),
    /// The seccomp object: dropped when it has neither a default action nor system calls.
    Seccomp(&'static [Field]),
    /// The pids object: dropped when it has no limit, for which the model has no value.
    Pids(&'static [Field]),
    /// A section of another platform, whose content is ignored.
    Foreign,
}

/// Whether a field may be absent.
pub(super) enum Need {
    /// May be absent.
    Optional,
    /// Must be present.
    Required,
    /// Optional in the specification, or for runc, but required by the model: this JSON is the default.
    Default(&'static str),
}

/// One field of an object.
pub(super) struct Field {
    pub name: &'static str,
    pub ty: Type,
    pub need: Need,
}

const fn may(name: &'static str, ty: Type) -> Field {
    Field { name, ty, need: Need::Optional }
}

const fn must(name: &'static str, ty: Type) -> Field {
    Field { name, ty, need: Need::Required }
}

const fn or(name: &'static str, ty: Type, default: &'static str) -> Field {
    Field { name, ty, need: Need::Default(default) }
}

const U16: Type = Type::Int(0, u16::MAX as u64);
const U32: Type = Type::Int(0, u32::MAX as u64);
/// A user or group id; (uid_t)-1 is not an id.
const ID: Type = Type::Int(0, crate::ids::MAX as u64);
const U64: Type = Type::Int(0, u64::MAX);
const I32: Type = Type::Int(i32::MIN as i64, i32::MAX as u64);
const I64: Type = Type::Int(i64::MIN, i64::MAX as u64);
const STRINGS: Type = Type::List(&Type::Str);
const TEXTS: Type = Type::Map(&Type::Str);

macro_rules! one_of {
    ($($name:literal $(=> $model:literal)?),* $(,)?) => { Type::Enum(&[$(one_of!(@ $name $(, $model)?)),*]) };
    (@ $name:literal) => { ($name, $name) };
    (@ $name:literal, $model:literal) => { ($name, $model) };
}

/// The whole config.json.
pub(super) static SPEC: Type = Type::Object(&[
    may("ociVersion", Type::Str),
    may("root", Type::Object(&[may("path", Type::Str), may("readonly", Type::Bool)])),
    may("mounts", Type::List(&MOUNT)),
    may("process", PROCESS),
    may("hostname", Type::Str),
    may("domainname", Type::Str),
    may("hooks", HOOKS),
    may("annotations", TEXTS),
    may("linux", LINUX),
    may("solaris", Type::Foreign),
    may("windows", Type::Foreign),
    may("vm", Type::Foreign),
    may("zos", Type::Foreign),
]);

const MOUNT: Type = Type::Object(&[
    must("destination", Type::Str),
    may("type", Type::Str),
    may("source", Type::Str),
    may("options", STRINGS),
    may("uidMappings", Type::List(&ID_MAPPING)),
    may("gidMappings", Type::List(&ID_MAPPING)),
]);

const ID_MAPPING: Type = Type::Object(&[may("hostID", ID), may("containerID", ID), may("size", U32)]);

/// The `process` of a config.json, or a process.json.
pub(super) const PROCESS: Type = Type::Object(&[
    may("terminal", Type::Bool),
    may("consoleSize", Type::Object(&[may("height", U64), may("width", U64)])),
    or(
        "user",
        Type::Object(&[
            may("uid", ID),
            may("gid", ID),
            may("umask", U32),
            may("additionalGids", Type::List(&ID)),
            may("username", Type::Str),
        ]),
        "{}",
    ),
    may("args", STRINGS),
    may("commandLine", Type::Str),
    may("env", STRINGS),
    or("cwd", Type::Str, "\"\""),
    may(
        "capabilities",
        Type::Object(&[
            may("bounding", Type::Capabilities),
            may("effective", Type::Capabilities),
            may("inheritable", Type::Capabilities),
            may("permitted", Type::Capabilities),
            may("ambient", Type::Capabilities),
        ]),
    ),
    may("rlimits", Type::List(&RLIMIT)),
    may("noNewPrivileges", Type::Bool),
    may("apparmorProfile", Type::Str),
    may("oomScoreAdj", I32),
    may("selinuxLabel", Type::Str),
    may(
        "ioPriority",
        Type::Object(&[
            must("class", one_of!("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")),
            may("priority", I64),
        ]),
    ),
    may("scheduler", SCHEDULER),
    may("execCPUAffinity", Type::Object(&[may("initial", Type::CpuList), may("final", Type::CpuList)])),
]);

const RLIMIT: Type = Type::Object(&[
    must(
        "type",
        one_of!(
            "RLIMIT_AS",
            "RLIMIT_CORE",
            "RLIMIT_CPU",
            "RLIMIT_DATA",
            "RLIMIT_FSIZE",
            "RLIMIT_LOCKS",
            "RLIMIT_MEMLOCK",
            "RLIMIT_MSGQUEUE",
            "RLIMIT_NICE",
            "RLIMIT_NOFILE",
            "RLIMIT_NPROC",
            "RLIMIT_RSS",
            "RLIMIT_RTPRIO",
            "RLIMIT_RTTIME",
            "RLIMIT_SIGPENDING",
            "RLIMIT_STACK",
        ),
    ),
    may("hard", U64),
    may("soft", U64),
]);

const SCHEDULER: Type = Type::Object(&[
    must(
        "policy",
        one_of!("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE",),
    ),
    may("nice", I32),
    may("priority", I32),
    may("flags", Type::List(&SCHEDULER_FLAG)),
    may("runtime", U64),
    may("deadline", U64),
    may("period", U64),
]);

const SCHEDULER_FLAG: Type = one_of!(
    "SCHED_FLAG_RESET_ON_FORK" => "SCHED_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN" => "SCHED_FLAG_D_L_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
);

const HOOK: Type =
    Type::Object(&[must("path", Type::Str), may("args", STRINGS), may("env", STRINGS), may("timeout", I64)]);

const HOOKS: Type = Type::Object(&[
    may("prestart", Type::List(&HOOK)),
    may("createRuntime", Type::List(&HOOK)),
    may("createContainer", Type::List(&HOOK)),
    may("startContainer", Type::List(&HOOK)),
    may("poststart", Type::List(&HOOK)),
    may("poststop", Type::List(&HOOK)),
]);

const LINUX: Type = Type::Object(&[
    may("netDevices", Type::Map(&Type::Object(&[may("name", Type::Str)]))),
    may("uidMappings", Type::List(&ID_MAPPING)),
    may("gidMappings", Type::List(&ID_MAPPING)),
    may("sysctl", TEXTS),
    may("resources", RESOURCES),
    may("cgroupsPath", Type::Str),
    may("namespaces", Type::List(&NAMESPACE)),
    may("devices", Type::List(&DEVICE)),
    may("seccomp", SECCOMP),
    may("rootfsPropagation", Type::Str),
    may("maskedPaths", STRINGS),
    may("readonlyPaths", STRINGS),
    may("mountLabel", Type::Str),
    may("intelRdt", INTEL_RDT),
    may("memoryPolicy", MEMORY_POLICY),
    may("personality", Type::Object(&[must("domain", one_of!("LINUX", "LINUX32")), may("flags", STRINGS)])),
    may("timeOffsets", Type::Map(&Type::Object(&[may("secs", I64), may("nanosecs", U32)]))),
]);

const NAMESPACE: Type = Type::Object(&[
    must("type", one_of!("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")),
    may("path", Type::Str),
]);

const DEVICE: Type = Type::Object(&[
    may("path", Type::Str),
    must("type", one_of!("c", "b", "u", "p")),
    may("major", I64),
    may("minor", I64),
    may("fileMode", U32),
    may("uid", ID),
    may("gid", ID),
]);

const INTEL_RDT: Type = Type::Object(&[
    may("closID", Type::Str),
    may("schemata", STRINGS),
    may("l3CacheSchema", Type::Str),
    may("memBwSchema", Type::Str),
    may("enableMonitoring", Type::Bool),
]);

const MEMORY_POLICY: Type = Type::Object(&[
    must(
        "mode",
        one_of!(
            "MPOL_DEFAULT",
            "MPOL_BIND",
            "MPOL_INTERLEAVE",
            "MPOL_WEIGHTED_INTERLEAVE",
            "MPOL_PREFERRED",
            "MPOL_PREFERRED_MANY",
            "MPOL_LOCAL",
        ),
    ),
    may("nodes", Type::Str),
    may("flags", Type::List(&one_of!("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"))),
]);

/// The `linux.resources` of a config.json, or the file of update --resources.
pub(super) const RESOURCES: Type = Type::Object(&[
    may("devices", Type::List(&DEVICE_RULE)),
    may(
        "memory",
        Type::Object(&[
            may("limit", I64),
            may("reservation", I64),
            may("swap", I64),
            may("kernel", I64),
            may("kernelTCP", I64),
            may("swappiness", U64),
            may("disableOOMKiller", Type::Bool),
            may("useHierarchy", Type::Bool),
            may("checkBeforeUpdate", Type::Bool),
        ]),
    ),
    may(
        "cpu",
        Type::Object(&[
            may("shares", U64),
            may("quota", I64),
            may("burst", U64),
            may("period", U64),
            may("realtimeRuntime", I64),
            may("realtimePeriod", U64),
            may("cpus", Type::Str),
            may("mems", Type::Str),
            may("idle", I64),
        ]),
    ),
    may("pids", Type::Pids(&[may("limit", I64)])),
    may("blockIO", BLOCK_IO),
    may("hugepageLimits", Type::List(&Type::Object(&[may("pageSize", Type::Str), may("limit", I64)]))),
    may(
        "network",
        Type::Object(&[
            may("classID", U32),
            may("priorities", Type::List(&Type::Object(&[may("name", Type::Str), may("priority", U32)]))),
        ]),
    ),
    may("rdma", Type::Map(&Type::Object(&[may("hcaHandles", U32), may("hcaObjects", U32)]))),
    may("unified", TEXTS),
]);

const DEVICE_RULE: Type = Type::Object(&[
    may("allow", Type::Bool),
    // An empty type means any type, as an absent one does.
    may("type", one_of!("a", "b", "c", "" => "a")),
    may("major", I64),
    may("minor", I64),
    may("access", Type::Str),
]);

const BLOCK_IO: Type = Type::Object(&[
    may("weight", U16),
    may("leafWeight", U16),
    may(
        "weightDevice",
        Type::List(&Type::Object(&[may("major", I64), may("minor", I64), may("weight", U16), may("leafWeight", U16)])),
    ),
    may("throttleReadBpsDevice", Type::List(&THROTTLE)),
    may("throttleWriteBpsDevice", Type::List(&THROTTLE)),
    may("throttleReadIOPSDevice", Type::List(&THROTTLE)),
    may("throttleWriteIOPSDevice", Type::List(&THROTTLE)),
]);

const THROTTLE: Type = Type::Object(&[may("major", I64), may("minor", I64), may("rate", U64)]);

const ACTION: Type = one_of!(
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
);

const SECCOMP: Type = Type::Seccomp(&[
    must("defaultAction", ACTION),
    may("defaultErrnoRet", U32),
    may("architectures", Type::List(&ARCHITECTURE)),
    may(
        "flags",
        Type::List(&one_of!(
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        )),
    ),
    may("listenerPath", Type::Str),
    may("listenerMetadata", Type::Str),
    may("syscalls", Type::List(&SYSCALL)),
]);

const SYSCALL: Type = Type::Object(&[
    or("names", STRINGS, "[]"),
    must("action", ACTION),
    may("errnoRet", U32),
    may(
        "args",
        Type::List(&Type::Object(&[
            or("index", U64, "0"),
            or("value", U64, "0"),
            may("valueTwo", U64),
            must(
                "op",
                one_of!(
                    "SCMP_CMP_NE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_MASKED_EQ",
                ),
            ),
        ])),
    ),
]);

const ARCHITECTURE: Type = one_of!(
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_NATIVE",
);
