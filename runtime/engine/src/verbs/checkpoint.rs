//! checkpoint: saves a container to disk, with CRIU.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::record::cgroup_mounts;
use super::{AfterCheckpoint, CheckpointOptions, Container, CriuOptions, Engine, Status, absolute};
use crate::cgroup::Cgroup;
use crate::criu::{Criu, CriuContext, Kind, Mapped, Options};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::probe;
use crate::state::{Verb, allow};
use crate::store;
use brig_plan::container::{self, ContainerPlan, CreateChoices};
use brig_plan::mounts::{CgroupMounts, RootfsPlan};
use brig_plan::namespaces::{NamespaceKind, NamespacePlan};
use brig_plan::{Finished, annotations, external};
use brig_sys::fd::file_type;
use brig_sys::path::{Dir, Links};

/// The file in the image directory that names the container's standard streams, in runc's format.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

impl Engine {
    /// Saves a running container to disk. The container is stopped and deleted afterwards, unless the options leave
    /// it running.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] for a container that is not running; [`ErrorKind::Unsupported`] without CRIU; else
    /// CRIU's error. The container continues to run after an error.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        let container = self.load_locked(id)?;
        allow(Verb::Checkpoint, container.status()?, id)?;
        let spec = container.spec()?;
        let images = Directory::create(&options.images)?;
        let work = work_directory(&options.work)?;
        let parent = options.parent.as_deref().map(|parent| check_parent(&images.path, parent)).transpose()?;
        let (plan, cgroup) = container.plan(&spec, self)?;
        let rootfs = plan.init.rootfs.as_ref().ok_or_else(|| Error::other("the container has no root"))?;
        let pid = container.record.init_process_pid;
        let mut asked = Options::new((images.file.as_fd(), &images.path), "dump.log", &rootfs.root);
        asked.work = work.as_ref().map(|work| (work.file.as_fd(), work.path.as_path()));
        asked.pid = Some(pid);
        asked.leave_running = options.after == AfterCheckpoint::Continue;
        let is_pre_dump = options.after == AfterCheckpoint::ContinueMemoryOnly;
        asked.parent = parent;
        asked.track_memory = parent.is_some() || is_pre_dump;
        asked.page_server = options.page_server.as_ref().map(|(address, port)| (address.as_str(), *port));
        asked.status = options.status_fd;
        asked.freeze = container.freezer();
        asked.configuration = annotations::CRIU_CONFIG.get(&spec);
        apply(&mut asked, &options.common);
        let namespaces = NamespacePlan::new(&spec);
        for (kind, name) in external::NAMESPACES {
            if namespaces.joined().any(|(joined, _)| joined == kind) {
                asked.external.push(format!("{}[{}]:{name}", kind.proc_name(), inode(pid, kind)?));
            }
        }
        let kind = if is_pre_dump { Kind::PreDump } else { Kind::Dump };
        if kind == Kind::Dump {
            asked.mounts = dumped_mounts(rootfs, &cgroup, pid)?;
            write_descriptors(&images.path, pid)?;
        }
        Criu::start(&CriuContext::default())?.request(kind, &asked, &mut |_| Ok(()))?;
        if options.after != AfterCheckpoint::Stop {
            return Ok(());
        }
        container.kill_all(Status::Stopped, container.init()?)?;
        container.forget(self.is_resident)
    }
}

fn inode(pid: i32, kind: NamespaceKind) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/{pid}/ns/{}", kind.proc_name());
    Ok(std::fs::metadata(&path).with_context(|| format!("unable to look at {path}"))?.ino())
}

/// Applies the options that checkpoint and restore share.
pub(super) fn apply(asked: &mut Options<'_>, common: &CriuOptions) {
    asked.features = common.features;
    // As with runc, network devices and addresses are restored by the network's manager: a restored namespace has
    // `lo` alone.
    asked.empty_namespaces = NamespaceKind::Network.clone_flag();
    asked.cgroups = common.cgroups as i64;
}

/// An open directory of images or logs.
pub(super) struct Directory {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Directory> {
        let path = absolute(if path.as_os_str().is_empty() { Path::new("checkpoint") } else { path })?;
        let mut directory = OpenOptions::new();
        // A FIFO in its place would wait for a writer.
        directory.read(true).custom_flags(libc::O_DIRECTORY);
        let file = directory.open(&path).with_context(|| format!("unable to open {}", path.display()))?;
        Ok(Directory { file, path })
    }

    fn create(path: &Path) -> Result<Directory> {
        let path = if path.as_os_str().is_empty() { Path::new("checkpoint") } else { path };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("unable to make {}", path.display()))?;
        Directory::open(path)
    }
}

/// Creates the directory of CRIU's log; `None` for that of the images.
pub(super) fn work_directory(path: &Path) -> Result<Option<Directory>> {
    if path.as_os_str().is_empty() { Ok(None) } else { Directory::create(path).map(Some) }
}

/// The parent's path must be relative, so that both images can be moved together.
fn check_parent<'a>(images: &Path, parent: &'a Path) -> Result<&'a Path> {
    let invalid = |text: String| Error::new(ErrorKind::InvalidConfig, text);
    if parent.is_absolute() {
        return Err(invalid(format!("--parent-path {} must be relative to --image-path", parent.display())));
    }
    let real = images.join(parent);
    if !real.is_dir() {
        return Err(invalid(format!("--parent-path: there is no directory {}", real.display())));
    }
    Ok(parent)
}

/// The container's external mounts, by their names.
fn dumped_mounts(rootfs: &RootfsPlan, cgroup: &CgroupMounts, pid: i32) -> Result<Vec<Mapped>> {
    let named = |one: external::ExternalMount| Mapped { key: one.target.clone(), value: one.target };
    let mut mounts: Vec<Mapped> = external::mounts(rootfs, cgroup).into_iter().map(named).collect();
    // Masked directories are the container's own tmpfs, so only masked files are external.
    let root = Dir::open_host(&PathBuf::from(format!("/proc/{pid}/root")))?;
    for path in &rootfs.masked_paths {
        let masked = root.try_find(path, Links::Follow)?;
        if masked.is_some_and(|found| !file_type(found).is_ok_and(|kind| kind == rustix::fs::FileType::Directory)) {
            mounts.push(Mapped { key: path.clone(), value: external::NULL.into() });
        }
    }
    Ok(mounts)
}

/// Records the targets of the standard streams: restore replaces those that are pipes.
fn write_descriptors(images: &Path, pid: i32) -> Result<()> {
    let stream = |number: i32| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    let streams: Vec<String> = (0..3).map(|number| stream(number).to_string_lossy().into_owned()).collect();
    let text =
        serde_json::to_vec(&streams).map_err(|error| Error::other(format!("unable to write the streams: {error}")))?;
    store::replace(&images.join(DESCRIPTORS), &text, 0o600)
}

impl Container {
    /// Plans the container again, and the mounts of its cgroup.
    fn plan(&self, spec: &Spec, engine: &Engine) -> Result<(Finished<ContainerPlan>, CgroupMounts)> {
        let choices = CreateChoices { manager: engine.manager, ..CreateChoices::default() };
        let (plan, _) = container::build(spec, &self.id, &self.record.bundle, choices, &probe::host()?)?;
        Ok((plan, cgroup_mounts(&Cgroup::from_record(&self.record.cgroup))?))
    }

    /// The directory of the cgroup's freezer.
    fn freezer(&self) -> Option<PathBuf> {
        let paths = &self.record.cgroup.paths;
        paths.get("freezer").or_else(|| paths.get("")).cloned()
    }
}
