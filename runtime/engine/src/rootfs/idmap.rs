//! Idmapped mounts, created in the parent, because the kernel requires privilege over the source's file system.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::mounts::describe;
use crate::error::{Context, Error, Result};
use brig_plan::mounts::{MappedBy, MountOp};
use brig_plan::namespaces::NamespaceKind;
use brig_sys::{mount, ns};

/// The user namespaces of the idmapped mounts, one for each distinct pair of maps.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<(MappedBy, OwnedFd)>);

impl Maps {
    /// Applies the operation's id maps to the detached `tree`.
    pub(super) fn apply(&mut self, op: &MountOp, tree: &OwnedFd) -> Result<()> {
        let Some(map) = &op.map else { return Ok(()) };
        let known = self.0.iter().position(|(by, _)| *by == map.by);
        let place = match known {
            Some(place) => place,
            None => {
                self.0.push((map.by.clone(), open(&map.by).with_context(|| describe(op))?));
                self.0.len() - 1
            }
        };
        mount::set_idmap(tree, &self.0[place].1, map.recursive).map_err(|error| {
            let advice = match error.errno() {
                Errno::INVAL => {
                    "the file system of the source, or of a mount below it, does not support idmapped mounts on this \
                     kernel: leave idmap out, or use a source on ext4, xfs, btrfs, or on a tmpfs with a kernel since 6.3"
                }
                Errno::PERM => "the source is mapped already, or the caller has no privilege over its file system",
                Errno::NOSYS => "idmapped mounts take a kernel since 5.12",
                _ => "unable to map it",
            };
            Error::from(error).context(format!("{}: {advice}", describe(op)))
        })
    }
}

fn open(by: &MappedBy) -> Result<OwnedFd> {
    match by {
        MappedBy::Maps(uids, gids) => ns::mapped_user_namespace(&uids.text(), &gids.text())
            .context("unable to make a user namespace of these maps"),
        MappedBy::Namespace(path) => ns::open(path, NamespaceKind::User.clone_flag())
            .with_context(|| format!("unable to open the user namespace {} of linux.namespaces", path.display())),
    }
}
