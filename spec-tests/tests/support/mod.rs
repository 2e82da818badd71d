//! Support of the harness's tests.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes a script that will be executed. Another process makes the file: one that this process had open for writing
/// could not be executed (ETXTBSY) while a child that another thread has just forked still holds a copy of the
/// descriptor.
pub fn write_program(path: &Path, text: &str) {
    let source = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&source, text).expect("a script");
    let made = Command::new("install").args(["-m", "755"]).args([source.path(), path]).status().expect("install");
    assert!(made.success(), "unable to make {}", path.display());
}
