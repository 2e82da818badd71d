//! A container's root file system, mounted as a snapshotter describes it, and its removal.
//!
//! containerd's snapshotters and their like describe a root as a list of mounts: overlay with its layers, a bind mount,
//! an image on a loop device. [`mount()`] makes them on a directory, which is then the `root.path` of a configuration,
//! and [`unmount`] removes them once the container is deleted.
//!
//! ```no_run
//! use brig_engine::root_mounts::{self, Mount};
//! use std::path::Path;
//!
//! # fn main() -> brig_engine::Result<()> {
//! let options = ["lowerdir=/srv/layers/2:/srv/layers/1", "upperdir=/srv/web/upper", "workdir=/srv/web/work"];
//! let overlay = Mount {
//!     kind: "overlay".into(),
//!     source: "overlay".into(),
//!     options: options.map(String::from).into(),
//!     ..Mount::default()
//! };
//! root_mounts::mount(&[overlay], Path::new("/srv/web/rootfs"))?;
//! root_mounts::unmount(Path::new("/srv/web/rootfs"))?;
//! # Ok(()) }
//! ```
//!
//! Each mount is created detached, with all of its attributes, and then moved onto a descriptor of its target: a
//! half-configured mount is never visible, and no path is resolved twice. Only `target`, a path below the root file
//! system, passes through components that an image may have chosen; it is resolved inside the root (openat2,
//! RESOLVE_IN_ROOT).
//!
//! | feature | since | without it |
//! |---|---|---|
//! | fsopen, open_tree, move_mount | 5.2 | mount(2) on the target's descriptor |
//! | mount_setattr | 5.12 | remount after mount(2); an idmapped mount is an error |
//! | overlay's `lowerdir+` | 6.7 | one `lowerdir`; past a page of options the layers go by descriptors (`/proc/self/fd/N`) |

mod request;
mod unmount;

use std::borrow::Cow;
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use brig_sys::fd::{fd_path, mount_id};
use brig_sys::loopdev::LoopDevice;
use brig_sys::mount::{self, Filesystem};
use brig_sys::path::Dir;
use brig_sys::{SysError, SysResult, ns};
use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use request::{IdMaps, Kind, Layers, Request};

pub use unmount::unmount;

/// The directory, beside the root file system, on which the layers of an idmapped overlay are attached while it is
/// created.
const LAYERS: &str = "idmapped-layers";
/// The options of one mount(2) call fit into a page with their NUL (fs/namespace.c, copy_mount_options).
const PAGE: usize = 4096;
/// The longest value that fsconfig accepts (fs/fsopen.c).
const FSCONFIG_VALUE_MAX: usize = 255;
/// The flags of a bind mount other than those that select a bind mount.
const NOT_A_BIND_FLAG: u64 = !(libc::MS_BIND | libc::MS_REC | libc::MS_SILENT);

/// Set once overlay was found not to support `lowerdir+`.
static NO_SINGLE_LAYERS: AtomicBool = AtomicBool::new(false);

/// One mount of a root file system, in the form of containerd's `mount.Mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The type of the file system; `bind` or `rbind` for a bind mount.
    pub kind: String,
    /// The source: a path, a device, or a name for a file system that has no device.
    pub source: String,
    /// The path below the root file system; empty for the root itself.
    pub target: PathBuf,
    /// Options of mount(8), and the file system's own, one in each string. `uidmap=` and `gidmap=`
    /// (INSIDE:OUTSIDE:SIZE, several separated by commas) map the owners of the files, and `loop` attaches the source
    /// to a free loop device.
    pub options: Vec<String>,
}

/// Creates `mounts` in their order on `rootfs`, which is created where it is missing (mode 0711, as containerd's shims
/// do).
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a symbolic link at `rootfs`, and for an option that cannot be honoured, before
/// anything is mounted. When a mount fails, those before it are unmounted. Messages name the mount by its index in the
/// list.
pub fn mount(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    let requests = mounts.iter().enumerate().map(|(index, mount)| Request::new(index, mount));
    let requests = requests.collect::<Result<Vec<_>>>()?;
    if requests.is_empty() {
        return Ok(());
    }
    match DirBuilder::new().mode(0o711).create(rootfs) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", rootfs.display()));
        }
        _ => {}
    }
    refuse_link(rootfs)?;
    let mut guard = MountGuard::default();
    for request in &requests {
        let mounted = request.execute(rootfs).with_context(|| request.describe(rootfs))?;
        guard.0.push(mounted);
    }
    guard.disarm();
    Ok(())
}

/// Fails where `rootfs` is a symbolic link: mounts and files would be made, and later removed, elsewhere on the host.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a symbolic link.
pub fn refuse_link(rootfs: &Path) -> Result<()> {
    match is_link(rootfs) {
        false => Ok(()),
        true => {
            let message =
                format!("rootfs: {} is a symbolic link; expected a directory of the bundle", rootfs.display());
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
    }
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_symlink())
}

/// Mounts that are unmounted on drop unless the guard is disarmed.
#[derive(Default)]
struct MountGuard(Vec<OwnedFd>);

impl MountGuard {
    fn disarm(mut self) {
        self.0.clear();
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        for mounted in self.0.iter().rev() {
            if let Err(error) = mount::detach(&fd_path(mounted)) {
                tracing::warn!("unable to unmount after a failed create: {error}");
            }
        }
    }
}

impl Request {
    fn execute(&self, rootfs: &Path) -> Result<OwnedFd> {
        // Opened anew for each mount: an earlier mount may lie on it.
        let root = Dir::open_host(rootfs)?;
        let target = match self.target.as_os_str().is_empty() {
            true => root.into_fd(),
            false => root.find(&self.target)?,
        };
        let userns = match &self.idmap {
            Some(IdMaps { uid, gid }) => Some(ns::mapped_user_namespace(&uid.text(), &gid.text())?),
            None => None,
        };
        let target = Target { rootfs, below: &self.target, fd: target };
        let mounted = match &self.kind {
            Kind::Bind { recursive } => self.bind(*recursive, userns.as_ref(), &target)?,
            Kind::Overlay(layers) => self.overlay(layers, userns.as_ref(), &target)?,
            Kind::Other(kind) if self.loop_device => {
                let device = LoopDevice::new(Path::new(&self.source), self.flags & libc::MS_RDONLY != 0)?;
                let of = Request { source: device.path().into(), ..self.clone() };
                // The device stays with its mount from here on.
                of.new_instance(&of.with_options(of.filesystem(kind)), userns.as_ref(), &target)?
            }
            Kind::Other(kind) => {
                self.new_instance(&self.with_options(self.filesystem(kind)), userns.as_ref(), &target)?
            }
        };
        for &propagation in &self.propagation {
            mount::set_propagation(&mounted, propagation)?;
        }
        Ok(mounted)
    }

    fn filesystem<'a>(&'a self, kind: &'a str) -> Filesystem<'a> {
        Filesystem::new(kind).source(&self.source).flags(self.flags)
    }

    /// Creates a new instance of a file system.
    fn new_instance(&self, fs: &Filesystem<'_>, userns: Option<&OwnedFd>, target: &Target<'_>) -> Result<OwnedFd> {
        if fs.fits_fsconfig() {
            match fs.mount(mount::attributes(self.flags)) {
                Ok(mounted) => {
                    if let Some(userns) = userns {
                        map_owners(&mounted, userns, false)?;
                    }
                    mount::attach(&mounted, &target.fd)?;
                    return Ok(mounted);
                }
                Err(error) if mount::is_missing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if userns.is_some() {
            return Err(no_idmap());
        }
        fs.mount_legacy(&fd_path(&target.fd), self.flags)?;
        Ok(target.mounted()?)
    }

    fn bind(&self, recursive: bool, userns: Option<&OwnedFd>, target: &Target<'_>) -> Result<OwnedFd> {
        let source = Path::new(&self.source);
        let tree = match mount::clone_host_tree(source, recursive, true) {
            Err(error) if mount::is_missing(&error) => return self.bind_by_path(recursive, userns, target),
            other => other?,
        };
        let changed = self.flags & NOT_A_BIND_FLAG != 0 || self.cleared != 0;
        let mut late = false;
        if changed {
            match mount::remount_bind(&tree, self.flags, self.cleared) {
                Err(error) if mount::is_missing(&error) => late = true,
                other => other?,
            }
        }
        if let Some(userns) = userns {
            map_owners(&tree, userns, recursive)?;
        }
        mount::attach(&tree, &target.fd)?;
        if late {
            let guard = MountGuard(vec![tree]);
            mount::remount_bind_legacy(&guard.0[0], &fd_path(&guard.0[0]), self.flags, self.cleared)?;
            return target.mounted().map_err(Error::from).inspect(|_| guard.disarm());
        }
        Ok(tree)
    }

    /// Creates the bind mount like [`Request::bind`], on kernels without open_tree.
    fn bind_by_path(&self, recursive: bool, userns: Option<&OwnedFd>, target: &Target<'_>) -> Result<OwnedFd> {
        if userns.is_some() {
            return Err(no_idmap());
        }
        let flags = libc::MS_BIND | if recursive { libc::MS_REC } else { 0 };
        mount::mount_raw(Some(&self.source), &fd_path(&target.fd), None, flags, None)?;
        let guard = MountGuard(vec![target.mounted()?]);
        if self.flags & NOT_A_BIND_FLAG != 0 || self.cleared != 0 {
            mount::remount_bind_legacy(&guard.0[0], &fd_path(&guard.0[0]), self.flags, self.cleared)?;
        }
        target.mounted().map_err(Error::from).inspect(|_| guard.disarm())
    }

    fn overlay(&self, layers: &Layers, userns: Option<&OwnedFd>, target: &Target<'_>) -> Result<OwnedFd> {
        let Some(userns) = userns else { return self.overlay_of(layers, target) };
        // Only the lower layers are mapped: the upper directory belongs to the container's ids already, as containerd
        // creates it. A layer must be attached somewhere until the overlay holds a clone of it (fs/overlayfs/super.c).
        let beside = target.rootfs.parent().unwrap_or(Path::new("/")).join(LAYERS);
        let attached = AttachedLayers::new(&beside, layers, userns)?;
        let mapped = Layers {
            lower: attached.paths(0..layers.lower.len()),
            data: attached.paths(layers.lower.len()..layers.lower.len() + layers.data.len()),
            upper: layers.upper.clone(),
            work: layers.work.clone(),
        };
        self.overlay_of(&mapped, target)
    }

    fn overlay_of(&self, layers: &Layers, target: &Target<'_>) -> Result<OwnedFd> {
        let mut first = None;
        if !NO_SINGLE_LAYERS.load(Ordering::Relaxed) {
            let aliases = Aliases::of(layers, FSCONFIG_VALUE_MAX)?;
            let fs = self.with_options(self.filesystem("overlay"));
            let fs = aliases.layers.lower.iter().fold(fs, |fs, layer| fs.parameter("lowerdir+", Some(layer.into())));
            let fs = aliases.layers.data.iter().fold(fs, |fs, layer| fs.parameter("datadir+", Some(layer.into())));
            let fs = aliases.layers.writable(fs);
            if fs.fits_fsconfig() {
                match fs.mount(mount::attributes(self.flags)) {
                    Ok(mounted) => {
                        mount::attach(&mounted, &target.fd)?;
                        return Ok(mounted);
                    }
                    // The errors of an overlay that does not know the option, from the call itself or from the last
                    // one.
                    Err(error) if error.errno() == Errno::INVAL || mount::is_missing(&error) => first = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match self.overlay_in_one(layers, target) {
            Ok(mounted) => {
                if first.is_some() {
                    NO_SINGLE_LAYERS.store(true, Ordering::Relaxed);
                }
                Ok(mounted)
            }
            // The kernel may have given a better reason for the first attempt, unless that failed for a missing
            // feature.
            Err(error) => match first {
                Some(first) if says_why(&first) => Err(first.into()),
                _ => Err(error),
            },
        }
    }

    /// Creates the overlay with all layers in one option, which every kernel accepts.
    fn overlay_in_one(&self, layers: &Layers, target: &Target<'_>) -> Result<OwnedFd> {
        let mut aliases = Aliases::of(layers, usize::MAX)?;
        let length = |(name, value): &(String, Option<String>)| name.len() + value.as_ref().map_or(0, String::len) + 2;
        let options: usize = self.data.iter().map(length).sum();
        if options + aliases.layers.length() >= PAGE {
            aliases = Aliases::of(layers, 0)?;
        }
        let one = aliases.layers.in_one();
        let fs = self.with_options(self.filesystem("overlay"));
        let fs = if one.is_empty() { fs } else { fs.parameter("lowerdir", Some(one.into())) };
        self.new_instance(&aliases.layers.writable(fs), None, target)
    }

    fn with_options<'a>(&'a self, fs: Filesystem<'a>) -> Filesystem<'a> {
        self.data.iter().fold(fs, |fs, (name, value)| fs.parameter(name, value.as_deref().map(Cow::from)))
    }
}

/// Whether the kernel logged a reason for an error that concerns no option too new for it.
fn says_why(error: &SysError) -> bool {
    let text = error.to_string();
    text.contains("kernel: ") && !text.contains("lowerdir+")
}

/// Maps the owners of a detached mount.
fn map_owners(tree: &OwnedFd, userns: &OwnedFd, recursive: bool) -> Result<()> {
    let advice = "uidmap and gidmap: this file system has no idmapped mounts on this kernel, or is idmapped already";
    match mount::set_idmap(tree, userns, recursive) {
        Err(error) if error.errno() == Errno::NOSYS => Err(no_idmap()),
        Err(error) if error.errno() == Errno::INVAL => Err(error).context(advice).map_err(unsupported),
        other => Ok(other?),
    }
}

fn unsupported(error: Error) -> Error {
    error.with_kind(ErrorKind::Unsupported)
}

fn no_idmap() -> Error {
    Error::new(ErrorKind::Unsupported, "uidmap and gidmap need idmapped mounts (Linux 5.12)")
}

/// The position of a mount.
struct Target<'a> {
    rootfs: &'a Path,
    below: &'a Path,
    fd: OwnedFd,
}

impl Target<'_> {
    /// Resolves the target again after mount(2), which returns no descriptor, and verifies that it is a mount point.
    fn mounted(&self) -> SysResult<OwnedFd> {
        let root = Dir::open_host(self.rootfs)?;
        let mounted = if self.below.as_os_str().is_empty() { root.into_fd() } else { root.find(self.below)? };
        match (mount_id(&mounted), mount_id(&self.fd)) {
            (Some(new), Some(old)) if new == old => {
                let what = format!("{:?} was changed while it was mounted on", self.below);
                Err(SysError::new("mount", what, Errno::STALE))
            }
            _ => Ok(mounted),
        }
    }
}

/// Layers with short names in the place of long ones: `/proc/self/fd/N` leads to the directory that N is open on.
struct Aliases {
    layers: Layers,
    /// The directories, open as long as the names are used.
    _open: Vec<OwnedFd>,
}

impl Aliases {
    /// Gives every path that is longer than `longest` bytes a short name.
    fn of(layers: &Layers, longest: usize) -> Result<Aliases> {
        let mut open = Vec::new();
        let mut alias = |path: &String| -> Result<String> {
            if path.len() <= longest {
                return Ok(path.clone());
            }
            let directory = Dir::open_host(Path::new(path))?.into_fd();
            let name = fd_path(&directory).to_string_lossy().into_owned();
            open.push(directory);
            Ok(name)
        };
        let layers = Layers {
            lower: layers.lower.iter().map(&mut alias).collect::<Result<_>>()?,
            data: layers.data.iter().map(&mut alias).collect::<Result<_>>()?,
            upper: layers.upper.as_ref().map(&mut alias).transpose()?,
            work: layers.work.as_ref().map(&mut alias).transpose()?,
        };
        Ok(Aliases { layers, _open: open })
    }
}

/// The layers of an overlay, idmapped, each attached to a directory of its own. They are detached with this value.
struct AttachedLayers {
    base: PathBuf,
    count: usize,
}

impl AttachedLayers {
    fn new(base: &Path, layers: &Layers, userns: &OwnedFd) -> Result<AttachedLayers> {
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot make {}", path.display()))
            }
            _ => Ok(()),
        };
        // Remains of an interrupted create lie below the new mount, and are removed with it.
        make(base)?;
        let mut attached = AttachedLayers { base: base.to_owned(), count: 0 };
        for layer in layers.lower.iter().chain(&layers.data) {
            let target = attached.path(attached.count);
            make(&target)?;
            attached.count += 1;
            let tree = mount::clone_host_tree(Path::new(layer), false, true)?;
            map_owners(&tree, userns, false)?;
            mount::attach(&tree, Dir::open_host(&target)?.fd())?;
        }
        Ok(attached)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.base.join(number.to_string())
    }

    fn paths(&self, range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| self.path(number).to_string_lossy().into_owned()).collect()
    }
}

impl Drop for AttachedLayers {
    fn drop(&mut self) {
        let gone = |path: &Path| unmount(path).and_then(|()| std::fs::remove_dir(path).context("rmdir"));
        for path in (0..self.count).map(|number| self.path(number)).chain([self.base.clone()]) {
            if let Err(error) = gone(&path) {
                tracing::warn!("unable to remove {}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests;
