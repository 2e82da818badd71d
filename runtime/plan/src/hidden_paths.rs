//! Masked and read-only paths (config-linux.md, Masked Paths and Readonly Paths).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Linux;

use super::Findings;
use super::mounts::clean;

/// Limit for each list: the kernel walks all mounts of the root for each path that becomes read-only, so the time
/// grows with the square of their number (fs/namespace.c, copy_tree).
const MAX_PATHS: usize = 4096;

/// Plans `linux.maskedPaths` and `linux.readonlyPaths`: each path once, as with runc.
///
/// `own_mounts` tells whether the container has a mount namespace of its own.
pub(crate) fn build(linux: Option<&Linux>, own_mounts: bool, findings: &mut Findings) -> [Vec<PathBuf>; 2] {
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref());
    let readonly = linux.and_then(|linux| linux.readonly_paths().as_deref());
    [("linux.maskedPaths", masked), ("linux.readonlyPaths", readonly)].map(|(field, list)| {
        let list = list.unwrap_or_default();
        // In the caller's own mount namespace, the path would be hidden from the host.
        if !own_mounts && !list.is_empty() {
            let reason = "unable to restrict sys entries without a private MNT namespace";
            findings.deny(field, reason, "add {\"type\": \"mount\"} to linux.namespaces");
        }
        if list.len() > MAX_PATHS {
            let reason = format!("expected at most {MAX_PATHS} paths, found {}", list.len());
            findings.deny(field, reason, "mask or write-protect a directory above them");
        }
        for (index, path) in list.iter().enumerate().filter(|(_, path)| !Path::new(path).is_absolute()) {
            findings.warn(format!("{field}[{index}]: {path:?} is not absolute: taken from the root"));
        }
        let mut seen = HashSet::new();
        let paths = list.iter().take(MAX_PATHS).map(|path| clean(Path::new(path)));
        paths.filter(|path| seen.insert(path.clone())).collect()
    })
}
