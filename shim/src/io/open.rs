//! Opens the addresses of streams. A file system may not answer: nothing here may run on the server's thread.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::fifo::Fifo;
use super::file::HostFile;
use super::{Address, Input, Output};

fn is_fifo(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_fifo())
}

pub(super) fn open_input(address: Address) -> std::io::Result<Input> {
    match address {
        Address::Null | Address::Binary(_) => Ok(Input::Null),
        Address::Path(path) | Address::File(path) => {
            if !is_fifo(&path)? {
                return Ok(Input::File(std::fs::File::open(&path)?));
            }
            Ok(Input::Fifo(path))
        }
    }
}

pub(super) fn open_output(address: Address) -> std::io::Result<Output> {
    match address {
        Address::Null | Address::Binary(_) => Ok(Output::Null),
        Address::Path(path) if is_fifo(&path)? => Ok(Output::Fifo(Fifo::open(&path)?)),
        Address::Path(path) => Ok(Output::File(HostFile::new(OpenOptions::new().append(true).open(path)?))),
        Address::File(path) => {
            if let Some(directory) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            }
            let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
            Ok(Output::File(HostFile::new(file)))
        }
    }
}
