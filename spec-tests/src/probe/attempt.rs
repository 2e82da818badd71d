//! Operations that a container may or may not be let do: each is tried, and its outcome printed.
//!
//! `probe try read /proc/keys , write /proc/sys/kernel/domainname x , mknod /dev/x c 1 3` prints a line for each:
//! `ok TEXT`, or the name of the error (`EPERM`).

use std::fs::{self, OpenOptions};
use std::io::Write;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown, chroot, setgid, sethostname, setuid};
use rustix::fs::{XattrFlags, setxattr};

/// Tries them in turn.
pub fn all(words: &[String]) {
    for operation in words.split(|word| word == ",") {
        let words: Vec<&str> = operation.iter().map(String::as_str).collect();
        match one(&words) {
            Ok(text) => println!("ok {}", text.trim_end().replace('\n', "\\n")),
            Err(errno) => println!("{errno:?}"),
        }
    }
}

fn one(words: &[&str]) -> Result<String, Errno> {
    let done = |result: nix::Result<()>| result.map(|()| String::new());
    match words {
        ["read", path] => fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(errno),
        ["list", path] => {
            let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> =
                fs::read_dir(path).and_then(|entries| entries.map(name).collect()).map_err(errno)?;
            names.sort();
            Ok(names.join(" "))
        }
        ["link", path] => fs::read_link(path).map(|link| link.display().to_string()).map_err(errno),
        ["write", path, text] => OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map(|()| String::new())
            .map_err(errno),
        ["create", path] => fs::write(path, "").map(|()| String::new()).map_err(errno),
        ["mkdir", path] => fs::create_dir(path).map(|()| String::new()).map_err(errno),
        ["remove", path] => fs::remove_file(path).map(|()| String::new()).map_err(errno),
        ["run", program, args @ ..] => std::process::Command::new(program)
            .args(args)
            .output()
            .map(|output| format!("{} {}", output.status, String::from_utf8_lossy(&output.stdout)))
            .map_err(errno),
        ["stat", path] => {
            use std::os::unix::fs::MetadataExt;
            let meta = fs::symlink_metadata(path).map_err(errno)?;
            Ok(format!("{:o} {}:{} {}", meta.mode(), meta.uid(), meta.gid(), meta.len()))
        }
        ["chown", path, uid, gid] => {
            let id = |word: &str| word.parse::<u32>().map_err(|_| Errno::EINVAL);
            done(chown(*path, Some(Uid::from_raw(id(uid)?)), Some(Gid::from_raw(id(gid)?))))
        }
        ["rewrite-inode", path] => rewrite_inode(path),
        ["set-attributes", path] => set_attributes(path),
        ["mknod", path, kind, major, minor] => {
            let number = |word: &str| word.parse::<u64>().map_err(|_| Errno::EINVAL);
            let kind = match *kind {
                "c" => SFlag::S_IFCHR,
                "b" => SFlag::S_IFBLK,
                _ => return Err(Errno::EINVAL),
            };
            done(mknod(*path, kind, Mode::from_bits_truncate(0o600), makedev(number(major)?, number(minor)?)))
        }
        ["mount", kind, path] => done(mount(Some("none"), *path, Some(*kind), MsFlags::empty(), None::<&str>)),
        ["remount", path] => {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            done(mount(None::<&str>, *path, None::<&str>, flags, None::<&str>))
        }
        ["umount", path] => done(umount(*path)),
        ["unshare", "user"] => done(unshare(CloneFlags::CLONE_NEWUSER)),
        ["unshare", "mount"] => done(unshare(CloneFlags::CLONE_NEWNS)),
        ["sethostname", name] => done(sethostname(name)),
        ["chroot", path] => done(chroot(*path)),
        ["setuid", id] => done(setuid(Uid::from_raw(id.parse().map_err(|_| Errno::EINVAL)?))),
        ["setgid", id] => done(setgid(Gid::from_raw(id.parse().map_err(|_| Errno::EINVAL)?))),
        other => {
            eprintln!("probe: unknown operation {other:?}");
            std::process::exit(2);
        }
    }
}

/// The inode (DEVICE:INODE), and the results of a chown and a chmod to the owner and the mode that it has already.
fn rewrite_inode(path: &str) -> Result<String, Errno> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let meta = fs::metadata(path).map_err(errno)?;
    let owned = chown(path, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())));
    let mode = fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777)).map_err(errno);
    let word = |result: Result<(), Errno>| result.map_or_else(|errno| format!("{errno:?}"), |()| "ok".to_owned());
    Ok(format!("{}:{} {} {}", meta.dev(), meta.ino(), word(owned), word(mode)))
}

/// The inode (DEVICE:INODE), and the results of setting an extended attribute of each kind and an ACL.
fn set_attributes(path: &str) -> Result<String, Errno> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).map_err(errno)?;
    let acl = acl_for_another_user();
    let set = |(name, value): (&str, &[u8])| match setxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error())),
    };
    let attributes: [(&str, &[u8]); 4] = [
        ("user.brig-spec", b"x"),
        ("trusted.brig-spec", b"x"),
        ("security.brig-spec", b"x"),
        ("system.posix_acl_access", &acl),
    ];
    Ok(format!("{}:{} {}", meta.dev(), meta.ino(), attributes.map(set).join(" ")))
}

/// An access ACL that also names user 12345 (struct posix_acl_xattr_header, posix_acl_xattr.h).
fn acl_for_another_user() -> Vec<u8> {
    const UNDEFINED: u32 = u32::MAX;
    // ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_MASK and ACL_OTHER.
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, UNDEFINED), (2, 7, 12345), (4, 6, UNDEFINED), (16, 7, UNDEFINED), (32, 6, UNDEFINED)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
