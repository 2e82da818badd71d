//! The limits that the parent applies to a process which exists and waits.

use crate::error::{Context, Result};
use crate::resctrl::Group;
use brig_sys::procfs::Proc;

/// Limits outside of the cgroup.
#[derive(Debug)]
pub(super) struct Limits {
    pub group: Option<Group>,
    pub oom_score_adj: Option<i32>,
}

impl Limits {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.group.is_some() || self.oom_score_adj.is_some()
    }

    /// Applies the limits to process `pid`.
    ///
    /// # Errors
    /// When the resctrl group or the score refuses the process.
    pub(super) fn apply(&self, pid: i32) -> Result<()> {
        if let Some(group) = &self.group {
            group.enter(pid)?;
        }
        self.oom_score_adj.map_or(Ok(()), |score| set_oom_score(pid, score))
    }
}

/// Writes /proc/PID/oom_score_adj.
///
/// # Errors
/// EACCES when it is lowered without CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
fn set_oom_score(pid: i32, score: i32) -> Result<()> {
    Proc::open()?
        .write(format!("{pid}/oom_score_adj"), score.to_string().as_bytes())
        .with_context(|| format!("unable to set process.oomScoreAdj to {score} (lowering it takes CAP_SYS_RESOURCE)"))
}
