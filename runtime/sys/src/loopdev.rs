//! Loop devices: a file as a block device (loop(4)).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{SysError, SysResult};

/// The most free devices that other processes may take first.
const MAX_RACES: u32 = 64;

// include/uapi/linux/loop.h.
const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CLR_FD: u64 = 0x4c01;
const LOOP_SET_STATUS64: u64 = 0x4c04;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// struct loop_info64.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device with a backing file. The kernel frees the device with its last user: after a mount this may be
/// dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The first user of the device.
    _device: OwnedFd,
}

impl LoopDevice {
    /// Makes `file` the backing file of a free device.
    ///
    /// # Errors
    /// ENOENT where there are no loop devices; EBUSY when other processes take each free one first.
    pub fn new(file: &Path, read_only: bool) -> SysResult<LoopDevice> {
        let open = |path: &Path, writable: bool| {
            OpenOptions::new()
                .read(true)
                .write(writable)
                .open(path)
                .map_err(|error| SysError::from_io("openat", format!("{path:?}"), &error))
        };
        let backing = open(file, !read_only)?;
        let control = open(Path::new("/dev/loop-control"), true)?;
        let info = info_of(file, read_only);
        let mut races = 0;
        loop {
            // SAFETY: the call takes no argument and gives a number.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(SysError::last("ioctl", "/dev/loop-control, LOOP_CTL_GET_FREE"));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OwnedFd::from(open(&path, !read_only)?);
            match configure(&device, &path, backing.as_fd(), &info) {
                Ok(()) => return Ok(LoopDevice { path, _device: device }),
                Err(error) if error.errno() == Errno::BUSY && races < MAX_RACES => races += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn info_of(file: &Path, read_only: bool) -> Info {
    let mut file_name = [0; 64];
    // The name is for display alone (losetup(8)), and is cut to leave room for the NUL.
    let name = file.as_os_str().as_bytes();
    let length = name.len().min(file_name.len() - 1);
    file_name[..length].copy_from_slice(&name[..length]);
    Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    }
}

/// Sets backing file and options in one step (Linux 5.8), or in two.
fn configure(device: &OwnedFd, path: &Path, backing: BorrowedFd, info: &Info) -> SysResult<()> {
    let failed = |what: &str| SysError::last("ioctl", format!("{path:?}, {what}"));
    // A borrowed descriptor is never negative.
    let config = Config { fd: backing.as_raw_fd().unsigned_abs(), block_size: 0, info: *info, reserved: [0; 8] };
    // SAFETY: the kernel reads one loop_config, and `config` is laid out as that (a test checks the size) and outlives
    // the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) } == 0 {
        return Ok(());
    }
    let error = failed("LOOP_CONFIGURE");
    if !matches!(error.errno(), Errno::INVAL | Errno::NOTTY) {
        return Err(error);
    }
    // SAFETY: LOOP_SET_FD takes a descriptor by value, and the kernel takes its own reference to the file.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, backing.as_raw_fd()) } != 0 {
        return Err(failed("LOOP_SET_FD"));
    }
    // SAFETY: the kernel reads one loop_info64, and `info` is laid out as that (a test checks the size) and outlives
    // the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64 as _, std::ptr::from_ref(info)) } != 0 {
        let error = failed("LOOP_SET_STATUS64");
        // A failure of this call is not reported, because the first error is the cause.
        // SAFETY: LOOP_CLR_FD takes no argument.
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) };
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_structs_have_the_kernels_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_device_shows_its_backing_file_and_is_freed_with_its_last_user() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
        let Ok(device) = LoopDevice::new(file.path(), true) else { return };
        let sysfs = PathBuf::from("/sys/block").join(device.path().file_name().unwrap()).join("loop/backing_file");
        assert_eq!(std::fs::read_to_string(&sysfs).unwrap().trim(), file.path().to_str().unwrap());
        let mut read = vec![0; 4096];
        std::fs::File::open(device.path()).unwrap().read_exact(&mut read).unwrap();
        assert_eq!(read, [7; 4096]);
        drop(device);
        // A work queue of the kernel frees it, and another process may take it at once.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let is_shown =
            || std::fs::read_to_string(&sysfs).is_ok_and(|text| text.trim() == file.path().to_str().unwrap());
        while is_shown() {
            assert!(std::time::Instant::now() < deadline, "{sysfs:?} stays");
            std::thread::yield_now();
        }
    }
}
