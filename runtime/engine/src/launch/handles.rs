//! The handles of a launch: the descriptors that init inherits beside its plan.
//!
//! | type | process | operation |
//! |---|---|---|
//! | `Handles<BorrowedFd>` | parent | [`Handles::list`] names what the child inherits, [`Handles::numbers`] what it reads |
//! | `Handles<RawFd>` | both | the numbers, written beside the plan |
//! | `Handles<OwnedFd>` | init | [`Handles::claim`] takes each number by value, once, before the first step |
//!
//! [`ContainerHandles::map`] is the one place that goes through all of the container's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use brig_sys::SysResult;
use brig_sys::inherited::Inherited;

/// Every descriptor of a launch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handles<F> {
    /// Init's end of the channel to the parent.
    pub channel: F,
    /// The trace file, to which init appends its phases.
    pub trace: Option<F>,
    /// The container's own.
    pub container: ContainerHandles<F>,
}

/// Descriptors that the host has opened for a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerHandles<F> {
    /// The namespaces to join, in order, each with the CLONE_NEW* flags to join with it. A pidfd serves several flags
    /// at once.
    pub join: Vec<(F, u64)>,
    /// The pid namespace in which the second-stage init starts, where that is the last step.
    pub pid_namespace: Option<F>,
    /// The directory that an exec enters as its root; `None` where joining the mount namespace sets the root.
    pub root: Option<F>,
    /// The cached empty mount namespace. Init is still in the host's, and creates its own as a copy of this one.
    pub empty_namespace: Option<F>,
    /// Detached copies of the sources of bind mounts, by the mount's index in the plan.
    pub sources: BTreeMap<usize, F>,
    /// Init's end of the gate (exec.fifo in runc); without one the program starts at once.
    pub gate: Option<F>,
    /// The socket that receives the terminal's master.
    pub console: Option<F>,
}

impl<F> Default for ContainerHandles<F> {
    fn default() -> ContainerHandles<F> {
        ContainerHandles {
            join: Vec::new(),
            pid_namespace: None,
            root: None,
            empty_namespace: None,
            sources: BTreeMap::new(),
            gate: None,
            console: None,
        }
    }
}

impl<F> ContainerHandles<F> {
    /// The same handles, each converted.
    ///
    /// # Errors
    /// The error of the first that could not be converted.
    fn map<'a, T, E>(&'a self, mut convert: impl FnMut(&'a F) -> Result<T, E>) -> Result<ContainerHandles<T>, E> {
        let ContainerHandles { join, pid_namespace, root, empty_namespace, sources, gate, console } = self;
        Ok(ContainerHandles {
            join: join.iter().map(|(fd, flags)| Ok((convert(fd)?, *flags))).collect::<Result<_, E>>()?,
            pid_namespace: pid_namespace.as_ref().map(&mut convert).transpose()?,
            root: root.as_ref().map(&mut convert).transpose()?,
            empty_namespace: empty_namespace.as_ref().map(&mut convert).transpose()?,
            sources: sources.iter().map(|(at, fd)| Ok((*at, convert(fd)?))).collect::<Result<_, E>>()?,
            gate: gate.as_ref().map(&mut convert).transpose()?,
            console: console.as_ref().map(&mut convert).transpose()?,
        })
    }
}

impl<F: AsFd> ContainerHandles<F> {
    pub(super) fn borrow(&self) -> ContainerHandles<BorrowedFd<'_>> {
        let Ok(borrowed) = self.map(|fd| Ok::<_, Infallible>(fd.as_fd()));
        borrowed
    }
}

impl<F> Handles<F> {
    /// Like [`ContainerHandles::map`].
    fn map<'a, T, E>(&'a self, mut convert: impl FnMut(&'a F) -> Result<T, E>) -> Result<Handles<T>, E> {
        Ok(Handles {
            channel: convert(&self.channel)?,
            trace: self.trace.as_ref().map(&mut convert).transpose()?,
            container: self.container.map(convert)?,
        })
    }
}

impl<F: AsFd> Handles<F> {
    /// The numbers, for init.
    pub(super) fn numbers(&self) -> Handles<RawFd> {
        let Ok(numbers) = self.map(|fd| Ok::<_, Infallible>(fd.as_fd().as_raw_fd()));
        numbers
    }

    /// The descriptors, for the clone.
    pub(super) fn list(&self) -> Vec<BorrowedFd<'_>> {
        let mut list = Vec::new();
        let Ok(_) = self.map(|fd| {
            list.push(fd.as_fd());
            Ok::<_, Infallible>(())
        });
        list
    }
}

impl Handles<RawFd> {
    /// Takes the descriptors of these numbers.
    ///
    /// # Errors
    /// EBADF for a number that the parent did not name, or that two handles share.
    pub(super) fn claim(&self, inherited: &mut Inherited) -> SysResult<Handles<OwnedFd>> {
        self.map(|number| inherited.take(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn handles() -> Handles<OwnedFd> {
        Handles {
            channel: open(),
            trace: Some(open()),
            container: ContainerHandles {
                join: vec![(open(), 1), (open(), 2)],
                pid_namespace: Some(open()),
                root: Some(open()),
                empty_namespace: Some(open()),
                sources: BTreeMap::from([(3, open()), (7, open())]),
                gate: Some(open()),
                console: Some(open()),
            },
        }
    }

    #[test]
    fn each_handle_is_listed_numbered_and_claimed_once() {
        let handles = handles();
        let numbers = handles.numbers();
        let mut listed: Vec<RawFd> = handles.list().iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(listed.len(), 11);
        listed.sort_unstable();
        listed.dedup();
        assert_eq!(listed.len(), 11, "two handles share a number");
        let sent = postcard::to_stdvec(&numbers).unwrap();
        let received: Handles<RawFd> = postcard::from_bytes(&sent).unwrap();
        let mut table = Inherited::default();
        let Handles { channel, trace, container } = handles;
        let ContainerHandles { join, pid_namespace, root, empty_namespace, sources, gate, console } = container;
        let optional = [trace, pid_namespace, root, empty_namespace, gate, console].into_iter().flatten();
        let all = optional.chain(join.into_iter().map(|(fd, _)| fd)).chain(sources.into_values());
        all.chain([channel]).for_each(|fd| _ = table.insert(fd));
        let claimed = received.claim(&mut table).unwrap();
        assert_eq!(postcard::to_stdvec(&claimed.numbers()).unwrap(), sent);
        assert!(received.claim(&mut table).is_err(), "a handle can be claimed twice");
    }
}
