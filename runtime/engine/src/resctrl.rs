//! The resctrl file system: groups of processes that share a part of the cache and of the memory bandwidth
//! (Documentation/filesystems/resctrl.rst of the kernel).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::intel_rdt::{IntelRdtPlan, agrees};
use brig_sys::mount::parse_mountinfo;
use brig_sys::procfs::Proc;
use serde::{Deserialize, Serialize};

/// A container's resctrl group, as it stands on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub path: PathBuf,
    /// The group was created for the container, under its id, and is removed with it.
    pub own: bool,
    /// The directory of the monitoring group, which is removed with the container too.
    pub monitor: Option<PathBuf>,
}

impl Group {
    /// The group that `plan` names, which need not exist. Creates nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when no resctrl is mounted.
    pub fn planned(plan: &IntelRdtPlan) -> Result<Group> {
        match root()? {
            Some(root) => Ok(Group::below(&root, plan)),
            None => Err(Error::new(
                ErrorKind::Unsupported,
                "linux.intelRdt: no resctrl file system is mounted (on a machine with Intel RDT or AMD QoS: mount -t \
                 resctrl resctrl /sys/fs/resctrl; else leave it out)",
            )),
        }
    }

    fn below(root: &Path, plan: &IntelRdtPlan) -> Group {
        let path = match plan.class.as_deref() {
            Some("/") => root.to_owned(),
            Some(class) => root.join(class),
            None => root.join(&plan.id),
        };
        let monitor = plan.monitoring.then(|| path.join("mon_groups").join(&plan.id));
        Group { path, own: plan.class.is_none(), monitor }
    }

    /// Creates the missing directories, and writes the limits.
    ///
    /// # Errors
    /// A named group that does not exist and has no schema, or has another one. Created directories are removed again.
    pub fn create(&self, plan: &IntelRdtPlan) -> Result<()> {
        let made = self.make_directory(plan)?;
        let filled = self.fill(plan, made);
        if filled.is_err() && made {
            remove(&self.path)?;
        }
        filled
    }

    /// Creates the group's directory. Returns true if it is new.
    fn make_directory(&self, plan: &IntelRdtPlan) -> Result<bool> {
        if self.path.is_dir() && !self.own {
            return Ok(false);
        }
        if !self.own && plan.fixed.is_empty() && plan.schemata.is_empty() {
            let text = format!(
                "linux.intelRdt.closID: there is no group {} (make it, or give it a schema)",
                self.path.display()
            );
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !self.own => Ok(false),
            other => other.map(|()| true).with_context(|| {
                format!("linux.intelRdt: unable to make the group {} (the hardware has few)", self.path.display())
            }),
        }
    }

    fn fill(&self, plan: &IntelRdtPlan, new: bool) -> Result<()> {
        let file = self.path.join("schemata");
        if new {
            plan.fixed.iter().try_for_each(|line| self.write_schema(&file, line))?;
        } else if !plan.fixed.is_empty() {
            let found = fs::read_to_string(&file).with_context(|| format!("unable to read {}", file.display()))?;
            if let Some(line) = plan.fixed.iter().find(|line| !agrees(line, &found)) {
                let text = format!("linux.intelRdt: {line:?} is not what {} has: {:?}", file.display(), found.trim());
                return Err(Error::new(ErrorKind::InvalidConfig, text));
            }
        }
        plan.schemata.iter().try_for_each(|line| self.write_schema(&file, line))?;
        match &self.monitor {
            Some(monitor) => fs::create_dir(monitor).with_context(|| {
                format!("linux.intelRdt.enableMonitoring: unable to make {} (the hardware has few)", monitor.display())
            }),
            None => Ok(()),
        }
    }

    fn write_schema(&self, file: &Path, line: &str) -> Result<()> {
        fs::write(file, format!("{line}\n")).with_context(|| {
            // The kernel's description of the last error.
            let status =
                self.path.ancestors().map(|above| above.join("info/last_cmd_status")).find(|file| file.is_file());
            let said = status.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
            format!("linux.intelRdt: unable to write {line:?} to {}: {}", file.display(), said.trim())
        })
    }

    /// Moves a process into the group; processes that it starts later belong to the group too.
    pub fn enter(&self, pid: i32) -> Result<()> {
        for directory in std::iter::once(&self.path).chain(&self.monitor) {
            let tasks = directory.join("tasks");
            fs::write(&tasks, pid.to_string())
                .with_context(|| format!("linux.intelRdt: unable to write to {}", tasks.display()))?;
        }
        Ok(())
    }

    /// Changes lines of the group's schemata.
    pub fn update(&self, lines: &[String]) -> Result<()> {
        lines.iter().try_for_each(|line| self.write_schema(&self.path.join("schemata"), line))
    }

    /// Removes the directories that were created for the container.
    pub fn remove(&self) -> Result<()> {
        if let Some(monitor) = &self.monitor {
            remove(monitor)?;
        }
        if self.own { remove(&self.path) } else { Ok(()) }
    }
}

/// Removes a directory of resctrl, whose files are removed with it. A missing directory is no error.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("unable to remove {}", path.display())),
    }
}

/// The mount point of the file system.
fn root() -> Result<Option<PathBuf>> {
    let text = Proc::open()?.read_to_string("self/mountinfo")?;
    Ok(parse_mountinfo(&text).into_iter().find(|mount| mount.kind == "resctrl").map(|mount| mount.target.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_plan::Finished;
    use brig_plan::intel_rdt::of_group;
    use serde_json::{Value, json};

    /// The plan of the container `box` with this `linux.intelRdt`.
    fn plan_of(rdt: Value) -> Finished<IntelRdtPlan> {
        let linux = serde_json::from_value(json!({ "intelRdt": rdt })).unwrap();
        of_group(Some(&linux), "box").unwrap().unwrap()
    }

    fn plan(class: Option<&str>, fixed: &[&str], schemata: &[&str]) -> Finished<IntelRdtPlan> {
        plan_of(json!({ "closID": class, "l3CacheSchema": fixed.first(), "schemata": schemata }))
    }

    fn create(root: &Path, plan: &IntelRdtPlan) -> (Group, Result<()>) {
        let group = Group::below(root, plan);
        let made = group.create(plan);
        (group, made)
    }

    #[test]
    fn an_own_group_is_created_entered_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let (group, made) = create(root.path(), &plan(None, &["L3:0=f"], &["MB:0=20"]));
        made.unwrap();
        assert_eq!((group.path.clone(), group.own), (root.path().join("box"), true));
        // A plain file keeps the last line of several writes; the kernel takes one line at a time.
        assert_eq!(fs::read_to_string(group.path.join("schemata")).unwrap(), "MB:0=20\n");
        group.enter(77).unwrap();
        assert_eq!(fs::read_to_string(group.path.join("tasks")).unwrap(), "77");
        group.update(&["MB:0=30".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(group.path.join("schemata")).unwrap(), "MB:0=30\n");
        // On a plain file system, unlike resctrl, the files prevent the removal.
        for file in ["schemata", "tasks"] {
            fs::remove_file(group.path.join(file)).unwrap();
        }
        group.remove().unwrap();
        assert!(!group.path.exists());
        group.remove().unwrap();
    }

    #[test]
    fn a_named_group_is_compared_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let error = |plan: &IntelRdtPlan| create(root.path(), plan).1.unwrap_err().to_string();
        assert!(error(&plan(Some("gold"), &[], &[])).contains("linux.intelRdt.closID: there is no group"));
        let (group, made) = create(root.path(), &plan(Some("gold"), &["L3:0=f"], &[]));
        made.unwrap();
        create(root.path(), &plan(Some("gold"), &["L3:0=0f"], &[])).1.unwrap();
        create(root.path(), &plan(Some("gold"), &[], &[])).1.unwrap();
        assert!(error(&plan(Some("gold"), &["L3:0=1"], &[])).contains("is not what"));
        group.remove().unwrap();
        assert!(group.path.exists());
        let (group, made) = create(root.path(), &plan(Some("/"), &[], &[]));
        made.unwrap();
        assert_eq!((group.path.as_path(), group.own), (root.path(), false));
    }

    #[test]
    fn a_created_group_is_removed_after_a_later_failure() {
        let root = tempfile::tempdir().unwrap();
        let monitored = plan_of(json!({ "enableMonitoring": true }));
        // Without a directory mon_groups the group cannot be monitored.
        let (group, made) = create(root.path(), &monitored);
        assert!(made.unwrap_err().to_string().contains("linux.intelRdt.enableMonitoring"));
        assert!(!group.path.exists());
    }
}
