//! Files in places that another user may write: how they are replaced.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::rand::GetRandomFlags;

use super::{SysError, SysResult};

/// How many temporary names are tried. Each is 64 random bits: a second one is needed only while somebody guesses.
const MAX_NAMES: u32 = 16;

/// Replaces the file at `path` with one of these bytes and exactly this mode, by rename: no reader sees half of it, and
/// a symbolic link at `path` is itself replaced.
///
/// The directory may be another user's. The temporary file is made with O_EXCL under a name that cannot be foreseen,
/// and the directory is looked up once: a link that was planted there is neither followed nor written through.
///
/// # Errors
/// The failed call. No temporary file stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> SysResult<()> {
    let name = path.file_name().ok_or_else(|| SysError::new("rename", format!("{path:?}: no file name"), Errno::EINVAL))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())
        .map_err(|error| SysError::from_rustix("open", format!("{parent:?}, O_PATH|O_DIRECTORY"), error))?;
    let (file, temporary) = make_temporary(&directory, parent)?;
    let written = write(file, &temporary, bytes, mode).and_then(|()| {
        rustix::fs::renameat(&directory, &temporary, &directory, name)
            .map_err(|error| SysError::from_rustix("renameat", format!("{temporary:?}, {path:?}"), error))
    });
    if written.is_err() {
        // The first error is the one that matters; a file that cannot be removed was most likely moved by its owner.
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    written
}

/// A new file in `directory`, which this process alone may open until it has its mode, and its name.
fn make_temporary(directory: &OwnedFd, parent: &Path) -> SysResult<(File, OsString)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..MAX_NAMES {
        let name = OsString::from(format!(".brig-{:016x}", random()?));
        match rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok((File::from(fd), name)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(SysError::from_rustix("openat", format!("{parent:?}, {name:?}, O_CREAT|O_EXCL"), error)),
        }
    }
    Err(SysError::new("openat", format!("{parent:?}: {MAX_NAMES} random names, O_CREAT|O_EXCL"), Errno::EEXIST))
}

fn write(mut file: File, name: &OsString, bytes: &[u8], mode: u32) -> SysResult<()> {
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(mode))
        .map_err(|error| SysError::from_rustix("fchmod", format!("{name:?}, {mode:#o}"), error))?;
    file.write_all(bytes).map_err(|error| SysError::from_io("write", format!("{name:?}"), &error))
}

fn random() -> SysResult<u64> {
    let mut bytes = [0; 8];
    let error = |error| SysError::from_rustix("getrandom", "", error);
    // Up to 256 bytes come whole (getrandom(2)). Early in boot, names that can be foreseen do no harm: O_EXCL still holds.
    let filled = match rustix::rand::getrandom(&mut bytes, GetRandomFlags::INSECURE) {
        // Kernels before 5.6 do not have the flag.
        Err(rustix::io::Errno::INVAL) => rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()),
        other => other,
    };
    match filled.map_err(error)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(SysError::new("getrandom", "8 bytes", Errno::EIO)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_replaced_file_has_its_bytes_its_mode_and_no_companion() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pid");
        replace(&path, b"1", 0o644).unwrap();
        replace(&path, b"22", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"22");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert!(replace(&root.path().join("no/pid"), b"1", 0o644).is_err());
    }

    #[test]
    fn a_failed_replacement_leaves_no_companion() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pid");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(replace(&path, b"1", 0o644).unwrap_err().errno(), Errno::EISDIR);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_files_place_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (path, victim) = (root.path().join("pid"), root.path().join("victim"));
        std::fs::write(&victim, "kept").unwrap();
        symlink(&victim, &path).unwrap();
        replace(&path, b"1", 0o644).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn links_planted_under_names_that_were_seen_before_are_not_written_through() {
        let root = tempfile::tempdir().unwrap();
        let (path, victim) = (root.path().join("pid"), root.path().join("victim"));
        std::fs::write(&victim, "kept").unwrap();
        // The names of older versions, which an attacker can know.
        symlink(&victim, root.path().join(format!(".pid.{}", std::process::id()))).unwrap();
        symlink(&victim, root.path().join(".pid")).unwrap();
        replace(&path, b"1", 0o644).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1);
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
