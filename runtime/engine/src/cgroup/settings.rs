//! Writes of settings: in order, with errors that name the field, and with a journal to restore the previous values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use brig_plan::cgroup::{Absent, Setting, Settings};
use brig_sys::{SysError, SysResult};

/// The directories of one cgroup, by controller.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    /// The cgroup2 directory.
    pub v2: Option<Dir>,
    /// The v1 directories, each with its controllers.
    pub v1: Vec<(Vec<String>, Dir)>,
}

impl Dirs {
    /// Opens the directories of a record.
    pub(super) fn open(paths: &BTreeMap<String, PathBuf>) -> SysResult<Dirs> {
        let mut dirs = Dirs::default();
        for (controller, path) in paths {
            if controller.is_empty() {
                dirs.v2 = Some(Dir::open(path)?);
            } else if let Some((names, _)) = dirs.v1.iter_mut().find(|(_, dir)| dir.path() == path) {
                names.push(controller.clone());
            } else {
                dirs.v1.push((vec![controller.clone()], Dir::open(path)?));
            }
        }
        Ok(dirs)
    }

    /// The v1 directory of `controller`.
    pub(super) fn v1(&self, controller: &str) -> Option<&Dir> {
        self.v1.iter().find(|(names, _)| names.iter().any(|name| name == controller)).map(|(_, dir)| dir)
    }
}

/// The content of a file before a write.
#[derive(Debug)]
struct Before {
    path: PathBuf,
    file: String,
    value: String,
}

/// The overwritten values, so that they can be restored.
#[derive(Debug, Default)]
pub(super) struct Journal(Vec<Before>);

impl Journal {
    /// Restores everything, the last write first. Returns a text about the files that could not be restored.
    pub(super) fn restore(self) -> Option<String> {
        let mut lost = Vec::new();
        for before in self.0.into_iter().rev() {
            let back = Dir::open(&before.path).and_then(|dir| dir.write(&before.file, &before.value));
            if let Err(error) = back {
                lost.push(error.to_string());
            }
        }
        (!lost.is_empty()).then(|| lost.join("; "))
    }
}

/// Writes all of `settings`.
///
/// The kernel checks some files against each other's old value: a limit on memory against that of memory and swap, a
/// quota against a burst. A refusal that may mean this is retried once, after the other writes.
pub(super) fn write(settings: &Settings, dirs: &Dirs, journal: Option<&mut Journal>) -> Result<()> {
    let mut writer = Writer { dirs, journal };
    let mut later = Vec::new();
    let on_v1 = |controller: &str| dirs.v1(controller).is_some();
    let v1 = settings.v1.iter().filter(|setting| {
        // On a hybrid host a controller may be on the other side, for which `unified` has the same limit in v2's terms.
        on_v1(&setting.controller) || !settings.v2.iter().any(|it| same_controller(it, setting))
    });
    let v2 = settings.v2.iter().filter(|setting| dirs.v1.is_empty() || !on_v1(v1_name(&setting.controller)));
    let all = v1.map(|it| (it, Side::V1)).chain(v2.map(|it| (it, Side::V2)));
    for (setting, side) in all {
        match writer.write(setting, side) {
            Err(error) if matches!(error.errno(), Errno::INVAL | Errno::BUSY | Errno::RANGE) => {
                later.push((setting, side));
            }
            Err(error) => return Err(writer.explain(setting, side, error)),
            Ok(()) => {}
        }
    }
    for (setting, side) in later {
        writer.write(setting, side).map_err(|error| writer.explain(setting, side, error))?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    V1,
    V2,
}

/// v1's name of a v2 controller.
fn v1_name(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

fn same_controller(v2: &Setting, v1: &Setting) -> bool {
    v1_name(&v2.controller) == v1.controller
}

struct Writer<'a> {
    dirs: &'a Dirs,
    journal: Option<&'a mut Journal>,
}

impl Writer<'_> {
    fn dir(&self, setting: &Setting, side: Side) -> Option<&Dir> {
        match side {
            Side::V1 => self.dirs.v1(&setting.controller),
            Side::V2 => self.dirs.v2.as_ref(),
        }
    }

    fn write(&mut self, setting: &Setting, side: Side) -> SysResult<()> {
        let missing = || SysError::new("openat", format!("{:?}", setting.file), Errno::NOENT);
        let result = match self.dir(setting, side) {
            None => Err(missing()),
            Some(dir) => {
                let before = match &self.journal {
                    Some(_) => dir.read(&setting.file).map(|text| before(dir.path(), setting, &text)).map(Some),
                    None => Ok(None),
                };
                before.and_then(|before| dir.write(&setting.file, &setting.value).map(|()| before))
            }
        };
        match (result, &setting.absent) {
            (Ok(before), _) => {
                if let (Some(journal), Some(before)) = (&mut self.journal, before) {
                    journal.0.push(before);
                }
                Ok(())
            }
            (Err(error), Absent::Skip) if error.errno() == Errno::NOENT => Ok(()),
            (Err(error), Absent::Instead(other)) if error.errno() == Errno::NOENT => self.write(other, side),
            (Err(error), _) => Err(error),
        }
    }

    /// The CPUs or memory nodes that a cpuset may have, for an error.
    fn available(&self, setting: &Setting, side: Side) -> String {
        let (kind, what, file) = match setting.file.ends_with("mems") {
            true => ("node", "memory nodes", "mems"),
            false => ("cpu", "CPUs", "cpus"),
        };
        let trimmed = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let host = Dir::open(&Path::new("/sys/devices/system").join(kind)).and_then(|dir| dir.read("online"));
        let host = host.ok().and_then(trimmed).unwrap_or_else(|| "0".to_owned());
        // On v1 the parent's set is the limit; v2 accepts any CPU of the host.
        let above = self.dir(setting, side).filter(|_| side == Side::V1).and_then(|dir| {
            let above = Dir::open(dir.path().parent()?).ok()?;
            trimmed(above.read(&format!("cpuset.{file}")).ok()?)
        });
        match above.filter(|above| *above != host) {
            Some(above) => format!("this host has {what} {host}, and the cgroup above has {above}"),
            None => format!("this host has {what} {host}"),
        }
    }

    /// Adds the cause and a hint to the error of a refused write.
    fn explain(&self, setting: &Setting, side: Side, error: SysError) -> Error {
        let controller = &setting.controller;
        let field = setting.field.to_string();
        match error.errno() {
            Errno::NOENT => {
                let known = self.dir(setting, side).is_some_and(|dir| {
                    side == Side::V1
                        || *controller == "cgroup"
                        || dir
                            .read("cgroup.controllers")
                            .is_ok_and(|all| all.split(' ').any(|it| it.trim() == controller))
                });
                let reason = if known {
                    format!("this kernel's {controller} controller has no file {}", setting.file)
                } else {
                    format!(
                        "cannot set {} limit: the {controller} controller is not available to the container's cgroup \
                         (enable it on this host, or leave the limit out)",
                        controller
                    )
                };
                Error::new(ErrorKind::Unsupported, reason).context(field)
            }
            Errno::BUSY if setting.file == "memory.limit_in_bytes" => {
                let number = |file: &str| {
                    let text = self.dir(setting, side).and_then(|dir| dir.read(file).ok());
                    text.map_or("unknown".to_owned(), |text| text.trim().to_owned())
                };
                Error::other(format!(
                    "{field}: unable to set memory limit to {} (current usage: {}, peak usage: {})",
                    setting.value,
                    number("memory.usage_in_bytes"),
                    number("memory.max_usage_in_bytes")
                ))
            }
            Errno::NODEV => Error::from(error).context("no such block device").context(field),
            // The kernel's errors are about numbers that do not fit (ERANGE), about arguments and about permission.
            Errno::RANGE | Errno::INVAL | Errno::ACCESS if controller == "cpuset" => {
                let reason =
                    format!("{:?} is not among what there is ({})", setting.value, self.available(setting, side));
                Error::new(ErrorKind::InvalidConfig, reason).context(field)
            }
            Errno::OPNOTSUPP => Error::from(error)
                .context("the cgroup is threaded, which this controller does not support")
                .context(field),
            _ => Error::from(error).context(field),
        }
    }
}

/// Returns the value whose write restores `text`, the file's content before `setting`.
///
/// Files of one line for each device are restored for the device that the setting names, since a write to them changes
/// that line only; a device without a line had no limit.
fn before(path: &Path, setting: &Setting, text: &str) -> Before {
    let file = setting.file.to_string();
    let device = setting.value.split_once(' ').map(|(first, _)| first).filter(|_| {
        matches!(
            file.as_str(),
            "io.max" | "io.weight" | "io.bfq.weight" | "io.latency" | "rdma.max" | "net_prio.ifpriomap"
        ) || file.starts_with("blkio.throttle.")
            || file.ends_with("weight_device")
    });
    let value = match device {
        Some(device) => {
            let line = text.lines().find(|line| line.split(' ').next() == Some(device));
            match (line, file.as_str()) {
                (Some(line), _) => line.to_owned(),
                (None, "io.max") => format!("{device} rbps=max wbps=max riops=max wiops=max"),
                (None, "io.weight" | "io.bfq.weight") => format!("{device} default"),
                (None, "rdma.max") => format!("{device} hca_handle=max hca_object=max"),
                (None, _) => format!("{device} 0"),
            }
        }
        // A weight file shows `default N` first; the other lines are devices, which this write did not change.
        None if file.ends_with("weight") => {
            text.lines().next().unwrap_or_default().trim_start_matches("default ").to_owned()
        }
        // oom_control shows several keys, and accepts the first one's value.
        None if file == "memory.oom_control" => {
            text.lines().next().unwrap_or_default().trim_start_matches("oom_kill_disable ").to_owned()
        }
        None => {
            let value = text.trim_end();
            // An empty write has no effect: a newline empties a cpuset.
            if value.is_empty() { "\n".to_owned() } else { value.to_owned() }
        }
    };
    Before { path: path.to_owned(), file, value }
}
