//! linux.netDevices (config-linux.md, Network Devices): devices of the host that move into the container's namespace.

use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use super::namespaces::{NamespaceKind, NamespacePlan};
use super::{Findings, Host};

/// Limit of a device name in bytes (IFNAMSIZ without its NUL, linux/if.h).
const MAX_NAME_LEN: usize = 15;

/// A network device that moves into the container.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetDevice {
    /// Name on the host.
    pub host: String,
    /// Name in the container. It may end in `%d`, which the kernel replaces by the first free number.
    pub name: String,
}

impl NetDevice {
    /// Whether the kernel completes the name.
    pub fn is_template(&self) -> bool {
        self.name.ends_with("%d")
    }

    /// The JSON path, for messages.
    pub fn json_path(&self) -> String {
        format!("linux.netDevices[{:?}]", self.host)
    }
}

/// Plans linux.netDevices, sorted by the host's names. Violations go to `findings`.
pub(crate) fn build(
    linux: Option<&Linux>,
    namespaces: &NamespacePlan,
    host: &Host,
    findings: &mut Findings,
) -> Vec<NetDevice> {
    let devices = linux.and_then(|linux| linux.net_devices().as_ref()).into_iter().flatten();
    let mut devices: Vec<NetDevice> = devices
        .map(|(host, device)| {
            let name = device.name().clone().filter(|name| !name.is_empty()).unwrap_or_else(|| host.clone());
            NetDevice { host: host.clone(), name }
        })
        .collect();
    devices.sort_by(|a, b| a.host.cmp(&b.host));
    if devices.is_empty() {
        return devices;
    }
    if !namespaces.is_private(NamespaceKind::Network) {
        let reason = "unable to move network devices without a NET namespace";
        findings.deny("linux.netDevices", reason, "add {\"type\": \"network\"} to linux.namespaces");
    }
    if host.euid != 0 {
        let reason = "network devices are not supported for rootless containers";
        findings.deny("linux.netDevices", reason, "the kernel wants privilege over the host's network: run as root");
    }
    for (index, device) in devices.iter().enumerate() {
        let place = device.json_path();
        if !is_name(&device.host) {
            findings.deny(&place, format!("invalid network device name {:?}", device.host), "");
        }
        let stem = device.name.strip_suffix("%d").unwrap_or(&device.name);
        if !is_name(&device.name) || stem.contains('%') {
            let reason = format!("invalid network device name {:?}", device.name);
            findings.deny(format!("{place}.name"), reason, "use at most 15 bytes, without / : % and blanks");
        }
        if let Some(other) = devices[..index].iter().find(|other| other.name == device.name && !device.is_template()) {
            let reason = format!("{:?} is the name of {} too", device.name, other.json_path());
            findings.deny(format!("{place}.name"), reason, "give each device a name of its own");
        }
    }
    devices
}

/// Whether the kernel accepts the name (net/core/dev.c, dev_valid_name).
fn is_name(name: &str) -> bool {
    let wrong = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace() || byte == 0x0b;
    !name.is_empty() && name.len() <= MAX_NAME_LEN && name != "." && name != ".." && !name.bytes().any(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::CgroupLayout;

    fn read(devices: &str, namespaces: &str, euid: u32) -> (Vec<NetDevice>, Vec<String>) {
        let config = format!(r#"{{"linux":{{"netDevices":{devices},"namespaces":{namespaces}}}}}"#);
        let (spec, _) = crate::config::parse(config.as_bytes()).unwrap();
        let host = Host { euid, ..Host::of_root(CgroupLayout::V2) };
        let mut findings = Findings::default();
        let devices = build(spec.linux().as_ref(), &NamespacePlan::new(&spec), &host, &mut findings);
        (devices, findings.violations.into_iter().map(|violation| violation.path).collect())
    }

    const NEW: &str = r#"[{"type":"network"}]"#;

    #[test]
    fn devices_keep_their_name_or_are_renamed() {
        let (devices, faults) =
            read(r#"{"eth1":{"name":"net%d"},"eth0":{},"eth2":{"name":"net%d"},"eth3":{"name":""}}"#, NEW, 0);
        assert_eq!(faults, [""; 0]);
        let names: Vec<_> = devices.iter().map(|device| (device.host.as_str(), device.name.as_str())).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "net%d"), ("eth2", "net%d"), ("eth3", "eth3")]);
        assert_eq!(read("{}", "[]", 1000), (vec![], vec![]));
    }

    #[test]
    fn faults_name_the_field() {
        let one = r#"{"eth0":{}}"#;
        assert_eq!(read(one, "[]", 0).1, ["linux.netDevices"]);
        assert_eq!(read(one, NEW, 1000).1, ["linux.netDevices"]);
        assert_eq!(read(one, r#"[{"type":"network","path":"/run/netns/a"}]"#, 0).1, [""; 0]);
        let name = |name: &str| read(&format!(r#"{{"eth0":{{"name":"{name}"}}}}"#), NEW, 0).1;
        for bad in ["a/b", "a b", "a:b", "..", "sixteen-bytes-xx", "a%s", "%dx", "a%d%d"] {
            assert_eq!(name(bad), [r#"linux.netDevices["eth0"].name"#], "{bad}");
        }
        assert_eq!(read(r#"{"a b":{"name":"x"}}"#, NEW, 0).1, [r#"linux.netDevices["a b"]"#]);
        assert_eq!(read(r#"{"a":{"name":"x"},"x":{}}"#, NEW, 0).1, [r#"linux.netDevices["x"].name"#]);
    }
}
