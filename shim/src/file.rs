//! Files of the host that the shim reads: regular and of limited size. An open or a read of another file, such as a
//! FIFO without a writer, would block a call.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Treatment of a symbolic link at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// The file that the link leads to is read.
    Follow,
    /// The link is an error, for a directory that may be another user's.
    Refuse,
}

/// Reads a regular file of at most `max` bytes; `None` when there is none.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a file of another type or of a larger size; else as open(2) and read(2).
pub fn read(path: &Path, links: Links, max: usize) -> Result<Option<Vec<u8>>> {
    let what = || format!("unable to read {}", path.display());
    let wrong = |message: String| Error::new(ErrorKind::InvalidConfig, message).context(what());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let no_follow = if links == Links::Refuse { OFlags::NOFOLLOW } else { OFlags::empty() };
    let file = match rustix::fs::open(path, flags | no_follow, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) if links == Links::Refuse => {
            return Err(wrong("expected a regular file, found a symbolic link".to_owned()));
        }
        Err(error) => return Err(error).with_context(what),
    };
    let metadata = file.metadata().with_context(what)?;
    if !metadata.is_file() {
        return Err(wrong(format!("expected a regular file, found {}", type_name(metadata.file_type()))));
    }
    let size = usize::try_from(metadata.len()).unwrap_or(max).min(max);
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(max as u64 + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() > max {
        return Err(wrong(format!("expected at most {max} bytes, found more")));
    }
    Ok(Some(bytes))
}

fn type_name(kind: std::fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        _ => "a file of unknown type",
    }
}
