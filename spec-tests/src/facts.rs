//! Facts that the probe reads from the kernel inside a container, without interpretation.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// All of it; `probe facts` prints it as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// argv of the probe.
    pub args: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub cwd: String,
    /// Every line of /proc/self/status by its name: `Uid`, `CapEff`, `Seccomp`, `NoNewPrivs`, `Umask`, ...
    pub status: BTreeMap<String, String>,
    /// /proc/self/stat from field 1 on (proc(5)); the name of the program without its parentheses.
    pub stat: Vec<String>,
    /// Soft and hard limits by name (`RLIMIT_NOFILE`); none is unlimited.
    pub rlimits: BTreeMap<String, (Option<u64>, Option<u64>)>,
    /// The text of each link in /proc/self/ns.
    pub namespaces: BTreeMap<String, String>,
    /// /proc/self/mountinfo, in its order.
    pub mounts: Vec<Mount>,
    /// /proc/self/cgroup, line by line.
    pub cgroups: Vec<String>,
    /// Everything in /dev, two levels deep, without what is below /dev/pts.
    pub devices: BTreeMap<String, Node>,
    /// Open descriptors and what they are; the one that read them is left out.
    pub fds: BTreeMap<i32, String>,
    /// Files of /proc/self, and of /proc/sys, that are short, by path; what cannot be read is left out.
    pub files: BTreeMap<String, String>,
    /// uname's node name.
    pub hostname: String,
    /// uname's domain name.
    pub domainname: String,
    /// The machine of uname(2), which shows the personality.
    pub machine: String,
    /// Rows and columns, when stdin is a terminal.
    pub terminal: Option<(u16, u16)>,
    /// Names of the network interfaces.
    pub interfaces: Vec<String>,
}

/// A line of mountinfo (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The directory of the file system that is the mount's root.
    pub root: String,
    /// Where.
    pub point: String,
    /// Options of the mount.
    pub options: Vec<String>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`; none of them is private.
    pub propagation: Vec<String>,
    /// The file system's type.
    pub kind: String,
    /// The device or name that the mount shows as its source.
    pub source: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

/// A file of /dev.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `c`, `b`, `p`, `l`, `d`, `s` or `f`.
    pub kind: char,
    /// For `c` and `b`.
    pub major: u64,
    /// For `c` and `b`.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a link points.
    pub link: Option<String>,
}

const SHORT_FILES: &[&str] = &[
    "/proc/self/attr/current",
    "/proc/self/gid_map",
    "/proc/self/oom_score_adj",
    "/proc/self/personality",
    "/proc/self/setgroups",
    "/proc/self/timens_offsets",
    "/proc/self/uid_map",
    "/proc/sys/kernel/msgmax",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/uptime",
];

impl Facts {
    /// Looks around.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn find() -> anyhow::Result<Facts> {
        let uname = rustix::system::uname();
        let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
        Ok(Facts {
            args: std::env::args().collect(),
            env: std::env::vars().collect(),
            cwd: std::env::current_dir()?.to_string_lossy().into_owned(),
            status: status(&fs::read_to_string("/proc/self/status").context("/proc/self/status")?),
            stat: stat_fields(&stat).context("/proc/self/stat has an unknown form")?,
            rlimits: rlimits(),
            namespaces: links("/proc/self/ns")?,
            mounts: mounts(&fs::read_to_string("/proc/self/mountinfo")?),
            cgroups: fs::read_to_string("/proc/self/cgroup")?.lines().map(str::to_owned).collect(),
            devices: devices()?,
            fds: fds()?,
            files: SHORT_FILES
                .iter()
                .filter_map(|path| Some(((*path).to_owned(), fs::read_to_string(path).ok()?)))
                .collect(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            domainname: uname.domainname().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            terminal: terminal()?,
            interfaces: names("/sys/class/net").unwrap_or_default(),
        })
    }

    /// Reads what `probe facts` printed.
    ///
    /// # Errors
    /// When it is something else; the error shows it.
    pub fn parse(printed: &str) -> anyhow::Result<Facts> {
        serde_json::from_str(printed).with_context(|| format!("the probe printed no facts, but {printed:?}"))
    }

    /// The mount that is seen at this path: the last one there.
    pub(crate) fn mount(&self, point: &str) -> anyhow::Result<&Mount> {
        let found = self.mounts.iter().rev().find(|mount| mount.point == point);
        found.with_context(|| format!("nothing is mounted at {point}; there are {:?}", self.mounts))
    }

    /// A value of /proc/self/status.
    pub(crate) fn status(&self, name: &str) -> anyhow::Result<&str> {
        Ok(self.status.get(name).with_context(|| format!("status has no {name}"))?)
    }

    /// A capability set by its name in status (`CapEff`), as a mask.
    pub(crate) fn capabilities(&self, set: &str) -> anyhow::Result<u64> {
        Ok(u64::from_str_radix(self.status(set)?, 16)?)
    }

    /// A file of /dev.
    pub(crate) fn device(&self, path: &str) -> anyhow::Result<&Node> {
        self.devices.get(path).with_context(|| format!("there is no {path}; there are {:?}", self.devices.keys()))
    }
}

fn status(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

fn stat_fields(text: &str) -> Option<Vec<String>> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let rest = rest.split_whitespace().map(str::to_owned);
    Some([pid.to_owned(), name.to_owned()].into_iter().chain(rest).collect())
}

fn rlimits() -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    use rustix::process::Resource;
    let all = [
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_STACK", Resource::Stack),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
    ];
    let value = |resource| {
        let limit = rustix::process::getrlimit(resource);
        (limit.current, limit.maximum)
    };
    all.into_iter().map(|(name, resource)| (name.to_owned(), value(resource))).collect()
}

fn mounts(text: &str) -> Vec<Mount> {
    let list = |words: &str| words.split(',').map(str::to_owned).collect();
    let one = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(Mount {
            root: (*left.get(3)?).to_owned(),
            point: (*left.get(4)?).to_owned(),
            options: list(left.get(5)?),
            propagation: left.get(6..)?.iter().map(|&word| word.to_owned()).collect(),
            kind: (*right.first()?).to_owned(),
            source: (*right.get(1)?).to_owned(),
            super_options: list(right.get(2)?),
        })
    };
    text.lines().filter_map(one).collect()
}

fn names(directory: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    found.sort();
    Ok(found)
}

fn links(directory: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in names(directory)? {
        let link = fs::read_link(format!("{directory}/{name}"))?;
        found.insert(name, link.to_string_lossy().into_owned());
    }
    Ok(found)
}

fn devices() -> anyhow::Result<BTreeMap<String, Node>> {
    let mut found = BTreeMap::new();
    let Ok(first) = names("/dev") else { return Ok(found) };
    for name in first {
        let path = format!("/dev/{name}");
        let node = node(&path)?;
        if node.kind == 'd' && name != "pts" {
            for below in names(&path).unwrap_or_default() {
                let path = format!("{path}/{below}");
                found.insert(path.clone(), self::node(&path)?);
            }
        }
        found.insert(path, node);
    }
    Ok(found)
}

fn node(path: &str) -> anyhow::Result<Node> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let kinds = [
        (kind.is_char_device(), 'c'),
        (kind.is_block_device(), 'b'),
        (kind.is_fifo(), 'p'),
        (kind.is_symlink(), 'l'),
        (kind.is_dir(), 'd'),
        (kind.is_socket(), 's'),
    ];
    let letter = kinds.into_iter().find(|(is, _)| *is).map_or('f', |(_, letter)| letter);
    Ok(Node {
        kind: letter,
        major: u64::from(rustix::fs::major(meta.rdev())),
        minor: u64::from(rustix::fs::minor(meta.rdev())),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        link: fs::read_link(path).ok().map(|link| link.to_string_lossy().into_owned()),
    })
}

fn fds() -> anyhow::Result<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse()?;
        // Gone by now: it was the directory's own.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy().into_owned();
        if !(link.starts_with("/proc/") && link.ends_with("/fd")) {
            found.insert(number, link);
        }
    }
    Ok(found)
}

fn terminal() -> anyhow::Result<Option<(u16, u16)>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    match rustix::termios::tcgetwinsize(&stdin) {
        Ok(size) => Ok(Some((size.ws_row, size.ws_col))),
        Err(error) => bail!("tcgetwinsize: {error}"),
    }
}
