//! Bundles made in code: a root file system with the probe, and a config.json that a case changes by JSON pointer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

/// A directory with `rootfs` and, once written, `config.json`.
///
/// A new bundle is that of `runc spec`, without a terminal, with the probe's `facts` as its program. A plain JSON value
/// on purpose: a case may write what no typed model would let it.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    /// The configuration; written to config.json by [`Bundle::write`].
    pub config: Value,
}

impl Bundle {
    pub(super) fn make(path: PathBuf, probe: &Path, cgroups_path: &str) -> anyhow::Result<Bundle> {
        for directory in ["dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(path.join("rootfs").join(directory))?;
        }
        let inside = path.join("rootfs/probe");
        fs::copy(probe, &inside).with_context(|| format!("unable to copy {}", probe.display()))?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
        Ok(Bundle { path, config: default_config(cgroups_path) })
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the root file system, as the caller of the runtime sees it.
    pub fn rootfs(&self, inside: &str) -> PathBuf {
        self.path.join("rootfs").join(inside.trim_start_matches('/'))
    }

    /// Sets the value at a JSON pointer (`/process/cwd`); what is missing on the way is made as objects.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Bundle {
        let mut place = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            place = match place {
                Value::Array(list) => match key.parse::<usize>() {
                    Ok(index) if index < list.len() => &mut list[index],
                    _ => {
                        list.push(Value::Null);
                        let last = list.len() - 1;
                        &mut list[last]
                    }
                },
                other => {
                    if !other.is_object() {
                        *other = json!({});
                    }
                    &mut other[key]
                }
            };
        }
        *place = value;
        self
    }

    /// Appends to the list at a JSON pointer; a missing one is made.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Bundle {
        match self.config.pointer_mut(pointer) {
            Some(Value::Array(list)) => list.push(value),
            _ => {
                self.set(pointer, json!([value]));
            }
        }
        self
    }

    /// Takes away what is at a JSON pointer, if it is there.
    pub fn remove(&mut self, pointer: &str) -> &mut Bundle {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        match self.config.pointer_mut(parent) {
            Some(Value::Object(object)) => {
                object.remove(key);
            }
            Some(Value::Array(list)) => {
                if let Some(index) = key.parse().ok().filter(|&index: &usize| index < list.len()) {
                    list.remove(index);
                }
            }
            _ => {}
        }
        self
    }

    /// The program: `process.args`.
    pub fn args(&mut self, args: &[&str]) -> &mut Bundle {
        self.set("/process/args", json!(args))
    }

    /// Takes a namespace of this type (`network`, ...) out of the configuration: the container inherits the caller's.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Bundle {
        if let Some(Value::Array(list)) = self.config.pointer_mut("/linux/namespaces") {
            list.retain(|one| one["type"] != kind);
        }
        self
    }

    /// Makes it a namespace that is joined by path, or, without one, a new one.
    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Bundle {
        self.without_namespace(kind);
        let mut entry = json!({ "type": kind });
        if let Some(path) = path {
            entry["path"] = json!(path);
        }
        self.push("/linux/namespaces", entry)
    }

    /// Gives it a new user namespace in which `count` ids from 0 are the host's from `host` on; the root file system
    /// is handed to them.
    pub fn user_namespace(&mut self, host: u32, count: u32) -> anyhow::Result<&mut Bundle> {
        self.namespace("user", None);
        let mapping = json!([{ "containerID": 0, "hostID": host, "size": count }]);
        self.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping);
        give(&self.path.join("rootfs"), host)?;
        Ok(self)
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Bundle {
        self.push("/mounts", json!({ "destination": destination, "type": kind, "source": source, "options": options }))
    }

    /// Writes config.json.
    pub fn write(&self) -> anyhow::Result<()> {
        fs::write(self.path.join("config.json"), serde_json::to_vec_pretty(&self.config)?).context("config.json")
    }
}

fn give(path: &Path, owner: u32) -> anyhow::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

fn default_config(cgroups_path: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/probe", "facts"],
            "env": ["PATH=/:/bin:/usr/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "spec",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] }
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ]
        }
    })
}
