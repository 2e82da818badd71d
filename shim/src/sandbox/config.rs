//! A pod's configuration from CRI (PodSandboxConfig of k8s.io/cri-api's runtime.v1), as an OCI configuration.
//!
//! Only the message's fields that concern namespaces, limits and names are read, by their numbers.

use std::collections::BTreeMap;
use std::path::Path;

use brig_engine::error::{Error, ErrorKind, Result};
use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

/// The scope that a namespace is shared in (NamespaceMode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shared {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// Not shared: each container has its own.
    Container,
    /// Shared with the host.
    Node,
}

/// An id range of the pod's user namespace: host id, container id, and size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IdRange {
    host: u64,
    container: u64,
    length: u64,
}

/// The fields of PodSandboxConfig that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    hostname: String,
    cgroup_parent: String,
    network: Shared,
    pid: Shared,
    ipc: Shared,
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
    sysctls: BTreeMap<String, String>,
}

/// The content of a protobuf field.
enum Content {
    Bytes(Vec<u8>),
    Number(u64),
}

fn walk(message: &[u8], mut field: impl FnMut(u32, Content) -> protobuf::Result<()>) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(message);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        match tag & 7 {
            0 => field(tag >> 3, Content::Number(stream.read_uint64()?))?,
            2 => field(tag >> 3, Content::Bytes(stream.read_bytes()?))?,
            _ => {
                protobuf::rt::skip_field_for_tag(tag, &mut stream)?;
            }
        }
    }
    Ok(())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Pod {
    /// Reads the options of CreateSandbox; without any, the pod has its own namespace of each type.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for another message, and for one that cannot be read.
    pub(super) fn read(any: Option<&Any>) -> Result<Pod> {
        let mut pod = Pod::default();
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(pod) };
        if any.type_url.rsplit('/').next() != Some("runtime.v1.PodSandboxConfig") {
            let message = format!("sandbox options of type {:?}: expected runtime.v1.PodSandboxConfig", any.type_url);
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let unreadable =
            |error| Error::new(ErrorKind::InvalidConfig, format!("PodSandboxConfig cannot be read: {error}"));
        let fields = walk(&any.value, |number, content| {
            match (number, content) {
                (2, Content::Bytes(bytes)) => pod.hostname = text(bytes),
                (8, Content::Bytes(bytes)) => pod.linux(&bytes)?,
                _ => {}
            }
            Ok(())
        });
        fields.map_err(unreadable)?;
        Ok(pod)
    }

    /// Reads LinuxPodSandboxConfig.
    fn linux(&mut self, message: &[u8]) -> protobuf::Result<()> {
        walk(message, |number, content| {
            match (number, content) {
                (1, Content::Bytes(bytes)) => self.cgroup_parent = text(bytes),
                // LinuxSandboxSecurityContext, whose first field is NamespaceOption.
                (2, Content::Bytes(bytes)) => walk(&bytes, |number, content| match (number, content) {
                    (1, Content::Bytes(bytes)) => self.namespaces(&bytes),
                    _ => Ok(()),
                })?,
                (3, Content::Bytes(bytes)) => {
                    let (mut key, mut value) = (String::new(), String::new());
                    walk(&bytes, |number, content| {
                        match (number, content) {
                            (1, Content::Bytes(bytes)) => key = text(bytes),
                            (2, Content::Bytes(bytes)) => value = text(bytes),
                            _ => {}
                        }
                        Ok(())
                    })?;
                    self.sysctls.insert(key, value);
                }
                _ => {}
            }
            Ok(())
        })
    }

    /// Reads NamespaceOption.
    fn namespaces(&mut self, message: &[u8]) -> protobuf::Result<()> {
        let shared = |number| match number {
            1 => Shared::Container,
            2 => Shared::Node,
            _ => Shared::Pod,
        };
        walk(message, |number, content| {
            match (number, content) {
                (1, Content::Number(number)) => self.network = shared(number),
                (2, Content::Number(number)) => self.pid = shared(number),
                (3, Content::Number(number)) => self.ipc = shared(number),
                (5, Content::Bytes(bytes)) => {
                    // UserNamespace: its mode and its mappings.
                    let mut own = true;
                    walk(&bytes, |number, content| {
                        match (number, content) {
                            (1, Content::Number(mode)) => own = shared(mode) == Shared::Pod,
                            (2, Content::Bytes(bytes)) => self.users.push(IdRange::read(&bytes)?),
                            (3, Content::Bytes(bytes)) => self.groups.push(IdRange::read(&bytes)?),
                            _ => {}
                        }
                        Ok(())
                    })?;
                    if !own {
                        self.users.clear();
                        self.groups.clear();
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }

    /// Whether systemd manages the cgroups: the parent is a slice.
    pub(super) fn has_systemd_cgroup(&self) -> bool {
        self.cgroup_parent.ends_with(".slice")
    }

    /// The cgroups path, as containerd's CRI names the cgroups of containers.
    fn cgroups_path(&self, id: &str) -> String {
        let parent = self.cgroup_parent.trim_end_matches('/');
        match self.has_systemd_cgroup() {
            true => format!("{}:cri-containerd:{id}", parent.rsplit('/').next().unwrap_or(parent)),
            false => format!("{parent}/{id}"),
        }
    }

    /// The configuration of the process that holds the pod's namespaces: its root contains `pause`, a program of the
    /// host, alone. `netns` is the path of the pod's network namespace, `oom_score` the pause process's OOM score.
    pub(super) fn config(&self, id: &str, netns: &str, pause: &Path, oom_score: i32) -> Value {
        let mut namespaces = vec![json!({"type": "mount"})];
        let mut own = |kind: &str, shared: Shared| {
            if shared != Shared::Node {
                namespaces.push(json!({"type": kind}));
            }
        };
        own("pid", self.pid);
        own("ipc", self.ipc);
        if self.network != Shared::Node {
            // The host name of the host belongs to the host's network.
            own("uts", Shared::Pod);
            namespaces.push(match netns {
                "" => json!({"type": "network"}),
                path => json!({"type": "network", "path": path}),
            });
        }
        let mut linux = json!({
            "cgroupsPath": self.cgroups_path(id),
            "sysctl": self.sysctls,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            // The smallest CPU share (the same as CRI's own pause container).
            "resources": {"cpu": {"shares": 2}, "devices": [{"allow": false, "access": "rwm"}]},
        });
        if !self.users.is_empty() {
            namespaces.push(json!({"type": "user"}));
            linux["uidMappings"] = IdRange::all(&self.users);
            linux["gidMappings"] = IdRange::all(&self.groups);
        }
        linux["namespaces"] = namespaces.into();
        // A user of the pod's own namespace; on the host, an id that owns no files.
        let user = if self.users.is_empty() { 65535 } else { 0 };
        let mut config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": ["/pause"],
                "cwd": "/",
                "user": {"uid": user, "gid": user},
                "noNewPrivileges": true,
                "oomScoreAdj": oom_score,
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                {"destination": "/pause", "type": "bind", "source": pause, "options": ["bind", "ro", "nosuid", "nodev"]},
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-id": id,
            },
            "linux": linux,
        });
        if !self.hostname.is_empty() && self.network != Shared::Node {
            config["hostname"] = self.hostname.as_str().into();
        }
        config
    }
}

impl IdRange {
    /// Reads IDMapping.
    fn read(message: &[u8]) -> protobuf::Result<IdRange> {
        let mut range = IdRange::default();
        walk(message, |number, content| {
            match (number, content) {
                (1, Content::Number(number)) => range.host = number,
                (2, Content::Number(number)) => range.container = number,
                (3, Content::Number(number)) => range.length = number,
                _ => {}
            }
            Ok(())
        })?;
        Ok(range)
    }

    fn all(ranges: &[IdRange]) -> Value {
        let shown =
            |range: &IdRange| json!({"containerID": range.container, "hostID": range.host, "size": range.length});
        ranges.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a field of bytes.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn pod(value: Vec<u8>) -> Pod {
        let any = Any { type_url: "runtime.v1.PodSandboxConfig".into(), value, ..Any::default() };
        Pod::read(Some(&any)).unwrap()
    }

    fn kinds(config: &Value) -> Vec<String> {
        let list = config["linux"]["namespaces"].as_array().unwrap();
        let mut kinds: Vec<String> = list.iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    }

    #[test]
    fn a_plain_pod_has_its_own_namespaces_and_the_networks_path() {
        let sysctl = bytes(3, &[bytes(1, b"net.ipv4.ip_forward"), bytes(2, b"1")].concat());
        let linux = [bytes(1, b"/kubepods/pod1"), sysctl].concat();
        let pod = pod([bytes(2, b"web"), bytes(8, &linux)].concat());
        let config = pod.config("box", "/run/netns/n", Path::new("/usr/bin/shim"), -998);
        assert_eq!(kinds(&config), ["ipc", "mount", "network", "pid", "uts"]);
        let network = config["linux"]["namespaces"].as_array().unwrap().iter().find(|one| one["type"] == "network");
        assert_eq!(network.unwrap()["path"], "/run/netns/n");
        assert_eq!(
            (&config["hostname"], &config["linux"]["cgroupsPath"]),
            (&"web".into(), &"/kubepods/pod1/box".into())
        );
        assert_eq!(config["linux"]["sysctl"]["net.ipv4.ip_forward"], "1");
        assert_eq!(config["mounts"][2]["source"], "/usr/bin/shim");
        brig_engine::config::parse_spec(config.to_string().as_bytes()).unwrap();
    }

    #[test]
    fn what_is_the_hosts_is_not_made() {
        let options = [number(1, 2), number(2, 2), number(3, 2)].concat();
        let linux = bytes(8, &bytes(2, &bytes(1, &options)));
        let config = pod([bytes(2, b"web"), linux].concat()).config("box", "", Path::new("/p"), 0);
        assert_eq!(kinds(&config), ["mount"]);
        assert_eq!(config.get("hostname"), None);
    }

    #[test]
    fn a_slice_is_systemds_and_ids_are_mapped() {
        let range = [number(1, 100), number(2, 0), number(3, 10)].concat();
        let users = bytes(5, &[number(1, 0), bytes(2, &range), bytes(3, &range)].concat());
        let linux = [bytes(1, b"/kubepods.slice/kubepods-pod1.slice"), bytes(2, &bytes(1, &users))].concat();
        let pod = pod(bytes(8, &linux));
        assert!(pod.has_systemd_cgroup());
        let config = pod.config("box", "", Path::new("/p"), 0);
        assert_eq!(config["linux"]["cgroupsPath"], "kubepods-pod1.slice:cri-containerd:box");
        assert_eq!(config["linux"]["uidMappings"][0], json!({"containerID": 0, "hostID": 100, "size": 10}));
        assert!(kinds(&config).contains(&"user".to_owned()));
        // With the host's user namespace, mappings in the message are ignored.
        let host = bytes(5, &[number(1, 2), bytes(2, &range)].concat());
        assert_eq!(super::tests::pod(bytes(8, &bytes(2, &bytes(1, &host)))).users, []);
    }

    #[test]
    fn another_message_is_refused() {
        let any =
            |type_url: &str, value: &[u8]| Any { type_url: type_url.into(), value: value.into(), ..Any::default() };
        assert_eq!(Pod::read(None).unwrap(), Pod::default());
        assert_eq!(Pod::read(Some(&any("", b""))).unwrap(), Pod::default());
        assert!(Pod::read(Some(&any("a.b.C", b""))).unwrap_err().to_string().contains("a.b.C"));
        assert!(Pod::read(Some(&any("runtime.v1.PodSandboxConfig", &[0x12, 9]))).is_err());
    }
}
