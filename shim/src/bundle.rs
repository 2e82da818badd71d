//! The shim's view of a bundle: the parts of its configuration, and the files that the shim stores in it.
//!
//! ```text
//! BUNDLE/config.json  the container, as containerd wrote it
//! BUNDLE/address      the server's address, for containerd up to 1.7
//! BUNDLE/init.pid     init's pid; EXEC.pid those of execs
//! BUNDLE/init.exit    how init exited; exec.EXEC.exit how execs did (see the module exit_record)
//! BUNDLE/shim.json    which runtime has the container, for `delete`
//! BUNDLE/options.pb   the runtime options that `start` was given for a sandbox, whose Create brings others
//! ```

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use brig_engine::config;
use brig_engine::error::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::file::{self, Links};

/// The few parts of config.json that the shim itself needs.
#[derive(Debug, Default, Deserialize)]
pub struct BundleConfig {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// The annotations whose value groups containers in one server; the first one that is set counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

impl BundleConfig {
    /// Reads config.json of the bundle. A sandbox's bundle has none, and the result is empty then.
    ///
    /// # Errors
    /// The file cannot be read, or is no JSON of that shape.
    pub fn read(bundle: &Path) -> Result<BundleConfig> {
        Ok(BundleConfig::read_if_any(bundle)?.unwrap_or_default())
    }

    /// Reads config.json; `None` where there is none: CRI writes none for a sandbox, which this shim creates itself.
    ///
    /// # Errors
    /// The file is no JSON of that shape.
    pub fn read_if_any(bundle: &Path) -> Result<Option<BundleConfig>> {
        let path = bundle.join("config.json");
        let bytes = file::read(&path, Links::Follow, config::MAX_LEN)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).with_context(|| path.display().to_string())).transpose()
    }

    /// The group that the container belongs to.
    pub fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str).filter(|group| !group.is_empty())
    }

    /// Whether the cgroup's path has the form of a systemd driver, NAME.slice:PREFIX:NAME.
    pub fn has_scope_path(&self) -> bool {
        let path = self.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref()).unwrap_or_default();
        let parts: Vec<&str> = path.split(':').collect();
        let is_name = |name: &str| !name.is_empty() && !name.contains('/');
        match parts[..] {
            [slice, prefix, name] => {
                slice.strip_suffix(".slice").is_some_and(is_name) && is_name(prefix) && is_name(name)
            }
            _ => false,
        }
    }

    /// Whether all processes exit with init: the pid namespace is the container's own.
    pub fn has_own_pid_namespace(&self) -> bool {
        let namespaces = self.linux.iter().filter_map(|linux| linux.namespaces.as_ref()).flatten();
        namespaces.into_iter().any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }
}

/// The largest size of a file that the shim stores in a bundle, in bytes.
const MAX_STORED_LEN: usize = 64 << 10;

/// Reads a file that the shim stores in a bundle; `None` where there is none. Anything else at the path, such as a
/// link, a FIFO or a device, is not read.
///
/// # Errors
/// The file cannot be read, or is no regular file of a usual size.
pub fn read_stored(path: &Path) -> Result<Option<Vec<u8>>> {
    file::read(path, Links::Refuse, MAX_STORED_LEN)
}

/// The name of the file with a sandbox's runtime options, a google.protobuf.Any.
pub const OPTIONS: &str = "options.pb";

/// The record of a container's runtime: BUNDLE/shim.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// The directory of the runtime's records.
    pub root: String,
    /// Another runtime's binary; empty for the engine.
    pub binary: String,
    /// Whether systemd manages the cgroups.
    pub systemd_cgroup: bool,
}

impl RuntimeRecord {
    /// Reads the record; `None` when Create was not completed.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn read(bundle: &Path) -> Result<Option<RuntimeRecord>> {
        let path = bundle.join("shim.json");
        let record = read_stored(&path)?.map(|bytes| serde_json::from_slice(&bytes));
        record.transpose().with_context(|| path.display().to_string())
    }

    /// Writes the record.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context("unable to write shim.json")?;
        brig_engine::replace(&bundle.join("shim.json"), &bytes, 0o600)
    }
}

/// Whether `path` is a symbolic link.
pub fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_symlink())
}

/// Removes a socket; a file of another type stays. A missing one is a success.
///
/// # Errors
/// The socket cannot be removed.
pub fn remove_socket(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => remove_if_there(path),
        Ok(_) => {
            tracing::warn!("{}: expected a socket, found another file, which stays", path.display());
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unable to look at {}", path.display())),
    }
}

/// Removes a file or a socket. A missing one is a success.
///
/// # Errors
/// The file exists and cannot be removed.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("unable to remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> BundleConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_first_annotation_names_the_group() {
        let both = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}}"#;
        assert_eq!(config(both).group(), Some("g"));
        assert_eq!(config(r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#).group(), Some("pod"));
        assert_eq!(config(r#"{"process": {}}"#).group(), None);
    }

    #[test]
    fn a_joined_pid_namespace_is_not_the_container_s_own() {
        assert!(config(r#"{"linux": {"namespaces": [{"type": "pid"}]}}"#).has_own_pid_namespace());
        assert!(
            !config(r#"{"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}"#)
                .has_own_pid_namespace()
        );
        assert!(!config(r#"{"linux": {"namespaces": null}}"#).has_own_pid_namespace());
        assert!(!config("{}").has_own_pid_namespace());
    }

    #[test]
    fn a_scope_is_named_by_slice_prefix_and_name() {
        let has_scope_path =
            |path: &str| config(&format!(r#"{{"linux": {{"cgroupsPath": {path:?}}}}}"#)).has_scope_path();
        for path in ["system.slice:docker:0123", "-.slice:p:n", "a-b.slice:cri-containerd:x.y"] {
            assert!(has_scope_path(path), "{path}");
        }
        for path in [
            "",
            "/docker/0123",
            "system.slice:docker",
            "system.slice:docker:a:b",
            "system.slice::a",
            ":docker:a",
            "system.slice:docker:",
            ".slice:docker:a",
            "system:docker:a",
            "/system.slice:docker:a",
            "system.slice:docker:a/b",
            "a/b.slice:docker:a",
        ] {
            assert!(!has_scope_path(path), "{path}");
        }
        assert!(!config("{}").has_scope_path());
    }

    #[test]
    fn files_of_a_bundle_are_read_only_where_they_are_regular_and_small() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("shim.json");
        let refused = |found: &str| {
            let error = RuntimeRecord::read(bundle.path()).unwrap_err().to_string();
            assert!(error.contains("shim.json") && error.contains(found), "{error}");
            std::fs::remove_file(&path).unwrap();
        };
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("a FIFO");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused("a symbolic link");
        std::fs::write(&path, vec![b' '; 100_000]).unwrap();
        refused("at most 65536 bytes");
        nix::unistd::mkfifo(&bundle.path().join("config.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = BundleConfig::read(bundle.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("a FIFO"), "{error}");
    }

    #[test]
    fn only_sockets_are_removed_as_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, file, link) = (directory.path().join("s"), directory.path().join("f"), directory.path().join("l"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::fs::write(&file, "kept").unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for path in [&link, &file, &socket, &socket] {
            remove_socket(path).unwrap();
        }
        assert!(file.exists() && std::fs::symlink_metadata(&link).is_ok() && !socket.exists());
    }

    #[test]
    fn what_is_kept_comes_back() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(RuntimeRecord::read(bundle.path()).unwrap(), None);
        let record = RuntimeRecord { root: "/run/r".into(), binary: "/usr/bin/runc".into(), systemd_cgroup: true };
        record.write(bundle.path()).unwrap();
        assert_eq!(RuntimeRecord::read(bundle.path()).unwrap(), Some(record));
    }
}
