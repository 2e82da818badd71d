//! The handover of the host's network devices to the container: the parent moves them, since they belong to its
//! namespace; init restores their addresses and brings them up.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::handshake::{Device, Devices};
use brig_plan::namespaces::NamespaceKind;
use brig_plan::network::NetDevice;
use brig_sys::netlink::{Address, Link, Route};
use brig_sys::ns;

use super::context::Init;

/// A flag of an address that was set by hand, without a lifetime (linux/if_addr.h).
const IFA_F_PERMANENT: u32 = 0x80;
/// The flags that the creator of an address may choose: NODAD, HOMEADDRESS, NOPREFIXROUTE, MCAUTOJOIN. The kernel sets
/// the others.
const CALLER_FLAGS: u32 = 0x02 | 0x10 | 0x200 | 0x400;
/// RT_SCOPE_UNIVERSE (linux/rtnetlink.h).
const GLOBAL_SCOPE: u8 = 0;

/// Init's part, a step of its table. All possible obstacles in the container are checked before a device moves.
pub(super) fn network_devices(init: &mut Init) -> Result<()> {
    let devices = &init.plan.net_devices;
    if devices.is_empty() {
        return Ok(());
    }
    let route = Route::open()?;
    let here = route.links()?;
    for device in devices.iter().filter(|device| !device.is_template()) {
        if here.iter().any(|link| link.name == device.name) {
            let text = format!(
                "{}: there is a device {:?} in the container's network namespace already (give another name)",
                device.json_path(),
                device.name
            );
            return Err(Error::other(text));
        }
    }
    let handed = init.channel()?.ask(&Devices { taken: here.iter().map(|link| link.index).collect() })?;
    for (device, handed) in devices.iter().zip(&handed) {
        set(&route, handed.index, &handed.addresses)
            .with_context(|| format!("unable to set up {}", device.json_path()))?;
    }
    Ok(())
}

fn set(route: &Route, index: i32, addresses: &[Address]) -> Result<()> {
    for address in addresses {
        let address = Address { flags: address.flags & CALLER_FLAGS, ..address.clone() };
        route.add_address(index, &address)?;
    }
    Ok(route.set_up(index)?)
}

/// A device during its move.
#[derive(Debug)]
struct Moved {
    link: Link,
    /// The device's index in the container.
    index: i32,
    addresses: Vec<Address>,
}

/// The devices that were handed over. Dropping this before [`HandedOver::disarm`] moves them back: virtual devices
/// would otherwise be removed with the container's namespace, and the others would keep their new names.
#[derive(Debug)]
pub(super) struct HandedOver {
    moved: Vec<Moved>,
    container: OwnedFd,
}

impl HandedOver {
    /// Moves `devices` into the network namespace of the process `pid`, in which the indices `taken` are in use.
    ///
    /// # Errors
    /// Before any move: a device that does not exist, or a namespace that is the host's own.
    pub(super) fn new(devices: &[NetDevice], pid: i32, taken: &[i32]) -> Result<HandedOver> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let container = ns::open(&path, NamespaceKind::Network.clone_flag())?;
        let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let own = identity(Path::new("/proc/thread-self/ns/net")).context("unable to look at the own namespace")?;
        if own == identity(&path).context("unable to look at the container's namespace")? {
            let text = "linux.netDevices: the container's network namespace is the host's own (let it have another)";
            return Err(Error::other(text));
        }
        let route = Route::open()?;
        let links = route.links()?;
        let find = |device: &NetDevice| {
            let found = links.iter().find(|link| link.name == device.host).cloned();
            found.ok_or_else(|| {
                Error::other(format!("{}: there is no such network device on the host", device.json_path()))
            })
        };
        let found = devices.iter().map(find).collect::<Result<Vec<Link>>>()?;
        let mut used = taken.to_vec();
        let mut handed = HandedOver { moved: Vec::new(), container };
        for (device, link) in devices.iter().zip(found) {
            let addresses = route.addresses(link.index)?;
            let free = (1..).find(|number| !used.contains(number));
            let new = if used.contains(&link.index) { free } else { None };
            let index = new.unwrap_or(link.index);
            route.move_link(link.index, handed.container.as_fd(), &device.name, new).map_err(|error| {
                let advice = match error.errno() {
                    Errno::EXIST => "its name is in use in the container's network namespace",
                    Errno::INVAL => "a device of this kind is bound to its network namespace",
                    _ => "unable to move it into the container's network namespace",
                };
                Error::from(error).context(format!("{}: {advice}", device.json_path()))
            })?;
            used.push(index);
            handed.moved.push(Moved { link, index, addresses });
        }
        Ok(handed)
    }

    /// The devices for init: the index of each one in the container, and its addresses.
    pub(super) fn for_init(&self) -> Vec<Device> {
        let lasting = |address: &&Address| address.flags & IFA_F_PERMANENT != 0 && address.scope == GLOBAL_SCOPE;
        let device = |moved: &Moved| Device {
            index: moved.index,
            addresses: moved.addresses.iter().filter(lasting).cloned().collect(),
        };
        self.moved.iter().map(device).collect()
    }

    /// Leaves the devices in the container.
    pub(super) fn disarm(mut self) {
        self.moved.clear();
    }

    /// Moves the devices back, with their names and addresses.
    fn move_back(&self) -> Result<()> {
        let host = ns::open(Path::new("/proc/thread-self/ns/net"), NamespaceKind::Network.clone_flag())?;
        let route = Route::open()?;
        // setns(2) affects one thread: this thread must not leave the caller's namespace.
        let there = std::thread::scope(|scope| {
            let enter = || {
                ns::join(self.container.as_fd(), NamespaceKind::Network.clone_flag())?;
                Route::open()
            };
            scope.spawn(enter).join().map_err(|_| Error::other("a thread has panicked"))
        })??;
        for moved in self.moved.iter().rev() {
            there.move_link(moved.index, host.as_fd(), &moved.link.name, None)?;
            let index = route.links()?.into_iter().find(|link| link.name == moved.link.name).map(|link| link.index);
            let index = index.ok_or_else(|| Error::other("it is in neither network namespace"))?;
            // Addresses that the kernel creates by itself return with the device.
            let by_hand = moved.addresses.iter().filter(|address| address.flags & IFA_F_PERMANENT != 0);
            for address in by_hand {
                let address = Address { flags: address.flags & CALLER_FLAGS, ..address.clone() };
                match route.add_address(index, &address) {
                    Err(error) if error.errno() != Errno::EXIST => return Err(error.into()),
                    _ => {}
                }
            }
            if moved.link.is_up {
                route.set_up(index)?;
            }
        }
        Ok(())
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if !self.moved.is_empty()
            && let Err(error) = self.move_back()
        {
            tracing::warn!("linux.netDevices: unable to move the devices back to the host: {error}");
        }
    }
}
