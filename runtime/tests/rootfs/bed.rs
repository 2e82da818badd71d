//! A bundle, a mount namespace for it, and the inspection of the mounts there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brig_engine::rootfs::{self, Root, RootContext};
use brig_plan::host::CgroupLayout;
use brig_plan::mounts::{self, MountOptions, RootfsPlan};
use brig_plan::{Finished, Host};
use brig_sys::mount::{ATTR_RDONLY, mount_raw, set_attributes};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

/// A bundle with an empty `rootfs`, and a directory `host` beside it for files that must stay untouched, or are bound.
pub struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    /// Creates the bundle on a tmpfs of this thread's mount namespace.
    fn lay_out(&self) {
        tmpfs(self.bundle(), 0);
        std::fs::create_dir(self.root("")).expect("rootfs");
        std::fs::create_dir(self.host("")).expect("host");
    }

    pub fn bundle(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("rootfs").join(path.trim_start_matches('/'))
    }

    pub fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join("host").join(path)
    }

    /// The plan of a container with `mounts`, and with `linux` added.
    pub fn plan(&self, mounts: Value, linux: Value) -> Finished<RootfsPlan> {
        self.plan_with(mounts, linux, &MountOptions::default())
    }

    pub fn plan_with(&self, mounts: Value, mut linux: Value, options: &MountOptions) -> Finished<RootfsPlan> {
        linux["namespaces"] = json!([{"type": "mount"}]);
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux});
        let spec = serde_json::from_value(spec).expect("a spec");
        mounts::of_root(&spec, self.bundle(), options, &host()).expect("a plan")
    }

    /// Prepares a plan of one mount.
    pub fn one(&self, mount: Value) -> brig_engine::error::Result<Root> {
        rootfs::prepare(&self.plan(json!([mount]), json!({})), RootContext::default())
    }
}

/// The plan after `edit`, which no configuration may express. A plan is read back as an init does.
pub fn edited(plan: &Finished<RootfsPlan>, edit: impl FnOnce(&mut Value)) -> Finished<RootfsPlan> {
    let mut value = serde_json::to_value(plan).expect("JSON");
    edit(&mut value);
    serde_json::from_value(value).expect("a plan")
}

fn host() -> Host {
    Host::of_root(CgroupLayout::V2)
}

/// Runs `body` with a bundle, as [`in_namespace`] does. The bundle is removed outside, whatever root `body` has
/// entered.
pub fn in_bed(body: impl FnOnce(&Bed) + Send) {
    let bed = Bed { dir: tempfile::tempdir().expect("tempdir") };
    let ended = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                leave_the_host();
                bed.lay_out();
                body(&bed);
            })
            .join()
    });
    drop(bed);
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Enters a mount namespace in which all of the host is read-only: a successful attack, or a test against code without
/// its check, must not damage the host.
fn leave_the_host() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("unshare");
    mount_raw(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None).expect("private");
    let top = brig_sys::path::Dir::open_host(Path::new("/")).expect("open");
    set_attributes(top.fd(), ATTR_RDONLY, 0, 0, true).expect("read-only");
}

/// Runs `body` in a thread with a mount namespace of its own, from which nothing propagates to the host.
pub fn in_namespace(body: impl FnOnce() + Send + 'static) {
    in_thread(move || {
        leave_the_host();
        body();
    });
}

/// Runs `body` in a thread, whose panic is propagated.
pub fn in_thread(body: impl FnOnce() + Send + 'static) {
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// One mount in mountinfo.
#[derive(Clone, Debug)]
pub struct Seen {
    pub options: Vec<String>,
    pub optional: String,
    pub kind: String,
    pub super_options: Vec<String>,
}

impl Seen {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|seen| seen == option)
    }
}

/// The mounts of this thread's namespace by target; the topmost where there are several. `proc` is a procfs.
pub fn mounts_of(proc: &Path) -> BTreeMap<PathBuf, Seen> {
    let text = std::fs::read_to_string(proc.join("thread-self/mountinfo")).expect("mountinfo");
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    text.lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").expect("a separator");
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let seen = Seen {
                options: list(left[5]),
                optional: left[6..].join(" "),
                kind: right[0].to_owned(),
                super_options: list(right[2]),
            };
            (PathBuf::from(left[4]), seen)
        })
        .collect()
}

/// The mount at `target` in this thread's namespace, as the host sees its path.
pub fn seen(target: &Path) -> Seen {
    let mounts = mounts_of(Path::new("/proc"));
    mounts.get(target).cloned().unwrap_or_else(|| panic!("{target:?} is no mount: {:?}", mounts.keys()))
}

/// Mounts a tmpfs with these MS_ flags.
pub fn tmpfs(target: &Path, flags: u64) {
    std::fs::create_dir_all(target).expect("mkdir");
    mount_raw(Some("tmpfs".as_ref()), target, Some("tmpfs"), flags, None).expect("tmpfs");
}
