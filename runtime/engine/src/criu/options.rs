//! CRIU's options: criu_opts of its rpc.proto, with the numbers of the fields.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use brig_wire::protobuf::Message;

use crate::options::CriuFeatures;

/// The level at which CRIU's log has every message.
const LOG_LEVEL: i64 = 4;

/// An external mount: its mount point in the container, and its name (in a dump) or its source (in a restore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub key: PathBuf,
    /// The name, or the source.
    pub value: PathBuf,
}

/// The options of one request. Descriptors are those of this process: CRIU opens them through /proc.
#[derive(Debug)]
pub struct Options<'a> {
    /// The directory of the images, and its path for messages.
    pub images: (BorrowedFd<'a>, &'a Path),
    /// The directory of the log, and its path. `None` means the directory of the images.
    pub work: Option<(BorrowedFd<'a>, &'a Path)>,
    /// The file name of the log.
    pub log: &'a str,
    /// The root of the process tree to dump.
    pub pid: Option<i32>,
    /// The container's root on the host.
    pub root: &'a Path,
    /// Leaves the processes running after a dump.
    pub leave_running: bool,
    /// Parts that are included, and the transfer of memory.
    pub features: CriuFeatures,
    /// Tracks changes of memory from now on.
    pub track_memory: bool,
    /// The path of an earlier image, relative to this one.
    pub parent: Option<&'a Path>,
    /// The address and port of a server that takes the pages.
    pub page_server: Option<(&'a str, u16)>,
    /// A descriptor that gets a NUL byte as soon as lazy pages can be requested.
    pub status: Option<i32>,
    /// Namespaces (CLONE_NEW*) that are created but left empty.
    pub empty_namespaces: u64,
    /// The handling of cgroups (criu_cg_mode).
    pub cgroups: i64,
    /// The cgroup whose freezer stops the processes.
    pub freeze: Option<PathBuf>,
    /// The path of a configuration file of CRIU's.
    pub configuration: Option<&'a str>,
    pub mounts: Vec<Mapped>,
    /// External namespaces, by their inherited names.
    pub external: Vec<String>,
    /// Descriptors of CRIU's that replace files named in the image.
    pub inherit: Vec<(String, i32)>,
    /// Namespaces to join: kind and file.
    pub join: Vec<(&'a str, PathBuf)>,
    /// The roots of the restored cgroups: controllers and path.
    pub cgroup_roots: Vec<(String, String)>,
    /// Makes the restored processes children of this process.
    pub rst_sibling: bool,
    /// A security profile, as `TYPE:NAME`.
    pub lsm_profile: Option<&'a str>,
    /// A security context for mounts.
    pub lsm_mount_context: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// Options with the required values alone.
    pub fn new(images: (BorrowedFd<'a>, &'a Path), log: &'a str, root: &'a Path) -> Options<'a> {
        Options {
            images,
            work: None,
            log,
            pid: None,
            root,
            leave_running: false,
            features: CriuFeatures::empty(),
            track_memory: false,
            parent: None,
            page_server: None,
            status: None,
            empty_namespaces: 0,
            cgroups: 0,
            freeze: None,
            configuration: None,
            mounts: Vec::new(),
            external: Vec::new(),
            inherit: Vec::new(),
            join: Vec::new(),
            cgroup_roots: Vec::new(),
            rst_sibling: false,
            lsm_profile: None,
            lsm_mount_context: None,
        }
    }

    /// The path of CRIU's log.
    pub(super) fn log_path(&self) -> PathBuf {
        self.work.map_or(self.images.1, |(_, path)| path).join(self.log)
    }

    pub(super) fn message(&self) -> Message {
        let path = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let has = |feature| self.features.contains(feature);
        let mut message = Message::default()
            .number(1, self.images.0.as_raw_fd().into())
            .flag(3, self.leave_running)
            .flag(4, has(CriuFeatures::EXTERNAL_UNIX))
            .flag(5, has(CriuFeatures::TCP_ESTABLISHED))
            // Device nodes are recognised by their device numbers, wherever they are.
            .flag(6, true)
            .flag(7, has(CriuFeatures::SHELL_JOB))
            .flag(8, has(CriuFeatures::FILE_LOCKS))
            .number(9, LOG_LEVEL)
            .text(10, self.log)
            .flag(12, true)
            .text(13, path(self.root))
            .flag(15, self.track_memory)
            .flag(16, has(CriuFeatures::AUTO_DEDUP))
            .flag(18, has(CriuFeatures::LINK_REMAP))
            .flag(24, self.cgroups != 0)
            .flag(26, self.rst_sibling)
            .number(34, self.cgroups)
            .number(38, self.empty_namespaces.cast_signed())
            .flag(46, has(CriuFeatures::TCP_SKIP_IN_FLIGHT))
            .flag(48, has(CriuFeatures::LAZY_PAGES))
            .flag(50, true);
        if let Some(pid) = self.pid {
            message = message.number(2, pid.into());
        }
        if let Some((address, port)) = self.page_server {
            message = message.message(11, &Message::default().text(1, address).number(2, port.into()));
        }
        if let Some(parent) = self.parent {
            message = message.text(14, path(parent));
        }
        if let Some((work, _)) = self.work {
            message = message.number(17, work.as_raw_fd().into());
        }
        for mount in &self.mounts {
            message = message.message(23, &Message::default().text(1, path(&mount.key)).text(2, path(&mount.value)));
        }
        for (controllers, root) in &self.cgroup_roots {
            message = message.message(25, &Message::default().text(1, controllers).text(2, root));
        }
        for (name, fd) in &self.inherit {
            message = message.message(27, &Message::default().text(1, name).number(2, (*fd).into()));
        }
        for name in &self.external {
            message = message.text(37, name);
        }
        for (kind, file) in &self.join {
            message = message.message(39, &Message::default().text(1, kind).text(2, path(file)));
        }
        if let Some(freezer) = &self.freeze {
            message = message.text(44, path(freezer));
        }
        if let Some(status) = self.status {
            message = message.number(49, status.into());
        }
        for (field, text) in [(51, self.configuration), (53, self.lsm_profile), (63, self.lsm_mount_context)] {
            if let Some(text) = text {
                message = message.text(field, text);
            }
        }
        message
    }
}
