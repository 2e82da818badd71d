//! The application of device rules: a program on v2, lists on v1.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::dir::Dir;
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::cgroup::devices::{DeviceRule, Mode, program, simplify};
use brig_sys::bpf;

/// Attaches `rules` to a cgroup that has no program yet.
pub(super) fn attach(dir: &Dir, rules: &[DeviceRule]) -> Result<()> {
    tracing::debug!("cgroup: attach a device program of {} rules to {}", rules.len(), dir.path().display());
    let program = load(rules)?;
    bpf::attach_device_program(dir.as_fd(), program.as_fd())
        .with_context(|| format!("cannot attach the device program to {}", dir.path().display()))
}

fn load(rules: &[DeviceRule]) -> Result<std::os::fd::OwnedFd> {
    bpf::load_device_program(&program(rules)).map_err(|error| {
        let kind = if error.errno() == Errno::PERM { ErrorKind::Other } else { ErrorKind::Unsupported };
        Error::from(error)
            .context("linux.resources.devices: cannot load the device program (it needs CAP_BPF or CAP_SYS_ADMIN, and CONFIG_CGROUP_BPF)")
            .with_kind(kind)
    })
}

/// Replaces all programs of the cgroup by `rules`.
///
/// The cgroup always has a program: a single old one is replaced in one step; else the new one is attached first,
/// beside the old ones, and they are detached after that.
pub(super) fn replace(dir: &Dir, rules: &[DeviceRule]) -> Result<()> {
    let what = || format!("cannot replace the device program of {}", dir.path().display());
    let new = load(rules)?;
    let old = bpf::attached_device_programs(dir.as_fd()).with_context(what)?;
    if let [only] = &old[..] {
        match bpf::replace_device_program(dir.as_fd(), new.as_fd(), only.as_fd()) {
            Ok(()) => return Ok(()),
            // Linux before 5.6, or a program that was not attached with BPF_F_ALLOW_MULTI.
            Err(error) if error.errno() == Errno::INVAL => {}
            Err(error) => return Err(error).with_context(what),
        }
    }
    bpf::attach_device_program(dir.as_fd(), new.as_fd()).with_context(what)?;
    for program in &old {
        match bpf::detach_device_program(dir.as_fd(), program.as_fd()) {
            Ok(()) => {}
            // Its owner detached it first.
            Err(error) if error.errno() == Errno::NOENT => {}
            Err(error) => return Err(error).with_context(what),
        }
    }
    Ok(())
}

/// Writes `rules` to the lists of a v1 devices cgroup. `old` is their content; `None` for a new cgroup, whose lists are
/// its parent's.
pub(super) fn write_lists(dir: &Dir, old: Option<&[DeviceRule]>, rules: &[DeviceRule]) -> Result<()> {
    let policy = simplify(rules).map_err(|index| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "linux.resources.devices: cgroup v1 cannot take \"{}\" out of a wider rule before it",
                rules[index].text()
            ),
        )
    })?;
    let file = |allow: bool| if allow { "devices.allow" } else { "devices.deny" };
    let old = old.and_then(|rules| simplify(rules).ok()).filter(|old| old.mode == policy.mode);
    let what = || "linux.resources.devices: cannot set the device lists";
    let Some(old) = old else {
        // The whole list at once. The kernel refuses that after the cgroup has children, hence the other way below.
        dir.write(file(policy.mode == Mode::AllowUnlisted), "a").with_context(what)?;
        for rule in &policy.exceptions {
            dir.write(file(rule.allow), &rule.text()).with_context(what)?;
        }
        return Ok(());
    };
    // Additions precede removals, so that no rule in both lists is missing for a moment.
    for rule in policy.exceptions.iter().filter(|rule| !old.exceptions.contains(rule)) {
        dir.write(file(rule.allow), &rule.text()).with_context(what)?;
    }
    for rule in &old.exceptions {
        let same = |it: &&DeviceRule| (it.kind, it.major, it.minor) == (rule.kind, rule.major, rule.minor);
        let stays = policy.exceptions.iter().find(same).map_or(0, |it| it.access);
        let gone = DeviceRule { access: rule.access & !stays, ..*rule };
        if gone.access != 0 {
            dir.write(file(!gone.allow), &gone.text()).with_context(what)?;
        }
    }
    Ok(())
}

/// Writes `rules` to the lists of a v1 devices cgroup whose content is systemd's, which made it of `old` or of `rules`.
///
/// A cgroup with others below it cannot be emptied at once, not by systemd either: there the lists are those of `old`,
/// with what systemd has added.
pub(super) fn rewrite_lists(dir: &Dir, old: &[DeviceRule], rules: &[DeviceRule]) -> Result<()> {
    let children = dir.children().context("linux.resources.devices: cannot set the device lists")?;
    write_lists(dir, Some(old).filter(|_| !children.is_empty()), rules)
}
