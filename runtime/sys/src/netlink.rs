//! rtnetlink(7): the operations on network devices and addresses that move a device into a container.
//!
//! A request is one datagram; the answer is any number of messages in any number of datagrams, ended by an
//! acknowledgement or by NLMSG_DONE. Numbers are in the machine's byte order, and everything starts at a multiple of
//! four bytes (netlink(7)).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{SysError, SysResult};

/// Message types (linux/rtnetlink.h) and flags (linux/netlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// In a part of a dump: something has changed since the first part (NLM_F_DUMP_INTR).
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
const CREATE_NEW: u16 = 0x600;

/// The most requests for one dump.
const TRIES: u32 = 100;

/// Attributes of a device (linux/if_link.h) and of an address (linux/if_addr.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;

/// Sizes of nlmsghdr, ifinfomsg and ifaddrmsg.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number in its network namespace.
    pub index: i32,
    /// The name in its network namespace.
    pub name: String,
    /// Whether IFF_UP is set.
    pub is_up: bool,
}

/// An address of a device, in the form of RTM_NEWADDR.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Address {
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// IFA_F_* bits.
    pub flags: u32,
    /// RT_SCOPE_*: 0 is the whole world.
    pub scope: u8,
    /// The attributes IFA_LOCAL, IFA_ADDRESS and IFA_BROADCAST that are set: kind, and bytes in network order.
    pub parts: Vec<(u16, Vec<u8>)>,
}

/// A socket to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
}

impl Route {
    /// Opens a socket to the calling thread's network namespace.
    ///
    /// # Errors
    /// EPROTONOSUPPORT on a kernel without rtnetlink, EMFILE past the limit on descriptors.
    pub fn open() -> SysResult<Route> {
        let error = |error| SysError::new("socket", "AF_NETLINK, NETLINK_ROUTE", error);
        // Protocol 0 is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Route { socket: socket.map_err(error)? })
    }

    /// Lists every device.
    ///
    /// # Errors
    /// EAGAIN when changes interrupt each of 100 lists.
    pub fn links(&self) -> SysResult<Vec<Link>> {
        let found = self.ask(RTM_GETLINK, DUMP, &[0; LINK_HEADER], "RTM_GETLINK")?;
        Ok(found.iter().filter_map(|message| link(message)).collect())
    }

    /// Lists the addresses of the device `index`, of every family.
    ///
    /// # Errors
    /// EAGAIN when changes interrupt each of 100 lists.
    pub fn addresses(&self, index: i32) -> SysResult<Vec<Address>> {
        let found = self.ask(RTM_GETADDR, DUMP, &[0; ADDRESS_HEADER], "RTM_GETADDR")?;
        Ok(found.iter().filter_map(|message| address(message, index)).collect())
    }

    /// Moves the device `index` into the network namespace `namespace`, where it gets this name (which may end in `%d`
    /// for a number that is free), and the number `new_index` if one is given (since 5.13). It is down afterwards, and
    /// has no addresses.
    ///
    /// # Errors
    /// EEXIST when the name is taken there, EINVAL for a device that is bound to its namespace, such as `lo`.
    pub fn move_link(
        &self,
        index: i32,
        namespace: BorrowedFd<'_>,
        name: &str,
        new_index: Option<i32>,
    ) -> SysResult<()> {
        let mut body = link_header(index, 0, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())?;
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())?;
        if let Some(new) = new_index {
            attribute(&mut body, IFLA_NEW_IFINDEX, &new.to_ne_bytes())?;
        }
        let shown = format!("RTM_NEWLINK, device {index}, IFLA_IFNAME={name:?}, IFLA_NET_NS_FD");
        self.ask(RTM_NEWLINK, ACKNOWLEDGE, &body, &shown).map(drop)
    }

    /// Brings the device `index` up.
    ///
    /// # Errors
    /// ENODEV when no device has the index; EPERM without CAP_NET_ADMIN.
    pub fn set_up(&self, index: i32) -> SysResult<()> {
        let up = libc::IFF_UP as u32;
        let shown = format!("RTM_NEWLINK, device {index}, IFF_UP");
        self.ask(RTM_NEWLINK, ACKNOWLEDGE, &link_header(index, up, up), &shown).map(drop)
    }

    /// Gives the device `index` an address.
    ///
    /// # Errors
    /// EEXIST for an address that the device has, ENODEV when no device has the index, EPERM without CAP_NET_ADMIN,
    /// EMSGSIZE for an attribute that is too long.
    pub fn add_address(&self, index: i32, address: &Address) -> SysResult<()> {
        // The header has room for the first eight flags; IFA_FLAGS has all of them.
        let [few_flags, ..] = address.flags.to_le_bytes();
        let mut body = vec![address.family, address.prefix, few_flags, address.scope];
        body.extend(index.to_ne_bytes());
        for (kind, bytes) in &address.parts {
            attribute(&mut body, *kind, bytes)?;
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes())?;
        let shown = format!("RTM_NEWADDR, device {index}, {address:?}");
        self.ask(RTM_NEWADDR, ACKNOWLEDGE | CREATE_NEW, &body, &shown).map(drop)
    }

    /// Sends one request and returns the bodies of the answers. `shown` is for errors.
    ///
    /// # Errors
    /// EAGAIN for a dump that changes interrupt each time; else the kernel's error.
    fn ask(&self, kind: u16, flags: u16, body: &[u8], shown: &str) -> SysResult<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            if let Some(answers) = self.ask_once(kind, flags, body, shown)? {
                return Ok(answers);
            }
        }
        Err(SysError::new("recv", format!("{shown}: interrupted {TRIES} times"), Errno::AGAIN))
    }

    /// Sends one request once. `None` for a dump that a change interrupted, which may lack entries that did not change.
    fn ask_once(&self, kind: u16, flags: u16, body: &[u8], shown: &str) -> SysResult<Option<Vec<Vec<u8>>>> {
        let length = HEADER + body.len();
        let length_field = u32::try_from(length).map_err(|_| SysError::new("sendto", shown, Errno::MSGSIZE))?;
        let mut request = Vec::with_capacity(length);
        request.extend(length_field.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | REQUEST).to_ne_bytes());
        // The sequence number and the sender are 0, because each socket has one request at a time.
        request.extend([0; 8]);
        request.extend(body);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &request, SendFlags::empty(), &kernel)
            .map_err(|error| SysError::new("sendto", shown, error))?;
        let (mut answers, mut interrupted) = (Vec::new(), false);
        // The kernel fills at most this much for a dump (net/netlink/af_netlink.c).
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (_, length) = match rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(SysError::new("recv", shown, error)),
                Ok(received) => received,
            };
            let datagram = buffer.get(..length).ok_or_else(|| SysError::new("recv", shown, Errno::MSGSIZE))?;
            for (kind, flags, body) in messages(datagram) {
                interrupted |= flags & INTERRUPTED != 0;
                match kind {
                    NLMSG_DONE => return Ok((!interrupted).then_some(answers)),
                    NLMSG_ERROR => {
                        return match number(body, 0) {
                            Some(0) => Ok(Some(answers)),
                            code => Err(SysError::new(
                                "rtnetlink",
                                shown,
                                Errno::from_raw_os_error(-code.unwrap_or(-libc::EIO)),
                            )),
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }
}

fn link_header(index: i32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(change.to_ne_bytes());
    header
}

/// Appends an attribute.
///
/// # Errors
/// EMSGSIZE for a value whose length its header cannot hold.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> SysResult<()> {
    let length = u16::try_from(value.len() + 4)
        .map_err(|_| SysError::new("sendto", format!("attribute {kind}: {} bytes", value.len()), Errno::MSGSIZE))?;
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of a datagram: kind, flags and body.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(number(rest, 0)?).ok()?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(rest.get(6..8)?.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

/// The attributes behind a header: kind and value.
fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits describe the form of the value.
        Some((kind & 0x3fff, value))
    })
}

fn link(message: &[u8]) -> Option<Link> {
    let (_, name) = attributes(message, LINK_HEADER).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some(Link { index: number(message, 4)?, name, is_up: number(message, 8)? & libc::IFF_UP != 0 })
}

/// Parses the address in a message; `None` for another device than `index`.
fn address(message: &[u8], index: i32) -> Option<Address> {
    let &[family, prefix, few_flags, scope, ..] = message else { return None };
    if number(message, 4)? != index {
        return None;
    }
    let mut flags = u32::from(few_flags);
    let mut parts = Vec::new();
    for (kind, value) in attributes(message, ADDRESS_HEADER) {
        match kind {
            // The header has room for the first eight flags alone.
            IFA_FLAGS => flags = number(value, 0)?.cast_unsigned(),
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => parts.push((kind, value.to_vec())),
            _ => {}
        }
    }
    Some(Address { family, prefix, flags, scope, parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_a_loopback_device() {
        let route = Route::open().unwrap();
        let links = route.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.index, 1);
        let error = route.set_up(0x7fff_fff0).unwrap_err();
        assert_eq!(error.errno(), Errno::NODEV, "{error}");
    }

    #[test]
    fn a_list_is_complete_while_other_devices_are_added_and_removed() {
        std::thread::spawn(|| {
            super::super::ns::unshare(libc::CLONE_NEWNET as u64).unwrap();
            let ip = |words: &str| {
                let done = std::process::Command::new("ip").args(words.split(' ')).status().unwrap();
                assert!(done.success(), "ip {words}");
            };
            // More devices than one part of an answer holds.
            (0..30).for_each(|number| ip(&format!("link add stays{number}a type veth peer name stays{number}b")));
            let route = Route::open().unwrap();
            std::thread::scope(|scope| {
                let changes = scope.spawn(|| {
                    for _ in 0..40 {
                        ip("link add goes type veth peer name away");
                        ip("link del goes");
                    }
                });
                while !changes.is_finished() {
                    let links = route.links().unwrap();
                    assert_eq!(links.iter().filter(|link| link.name.starts_with("stays")).count(), 60);
                }
            });
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_address_is_read_with_all_of_its_flags() {
        let mut message = vec![2, 24, 0x80, 0];
        message.extend(7i32.to_ne_bytes());
        attribute(&mut message, IFA_LOCAL, &[10, 0, 0, 1]).unwrap();
        attribute(&mut message, 3, b"eth0\0").unwrap();
        attribute(&mut message, IFA_FLAGS, &0x280u32.to_ne_bytes()).unwrap();
        let found = address(&message, 7).unwrap();
        assert_eq!((found.prefix, found.flags, found.scope), (24, 0x280, 0));
        assert_eq!(found.parts, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(address(&message, 8), None);
    }

    #[test]
    fn a_truncated_message_or_attribute_ends_the_list() {
        assert_eq!(messages(&[20, 0, 0, 0, 1]).count(), 0);
        let mut body = Vec::new();
        attribute(&mut body, 1, b"abc").unwrap();
        attribute(&mut body, 2, b"").unwrap();
        assert_eq!(attributes(&body, 0).collect::<Vec<_>>(), [(1, b"abc".as_slice()), (2, b"")]);
        assert_eq!(attributes(&body[..6], 0).count(), 0);
    }
}
