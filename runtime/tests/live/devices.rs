//! linux.netDevices: devices of the host that move into a container, and return after a failure.

use std::process::Command;

use serde_json::{Value, json};

use crate::helpers::{Holder, script};
use crate::support::{Bundle, show, wait_until};

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args}: {}", show(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A pair of connected devices with addresses, which is removed on drop.
struct Pair {
    moved: String,
    stays: String,
}

impl Pair {
    fn new() -> Pair {
        let number = std::process::id() % 100_000;
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pair = Pair { moved: format!("bt{number}-{next}a"), stays: format!("bt{number}-{next}b") };
        ip(&format!("link add {} mtu 1391 type veth peer name {}", pair.moved, pair.stays));
        ip(&format!("address add 192.0.2.7/24 brd + dev {}", pair.moved));
        ip(&format!("address add 2001:db8::7/64 nodad dev {}", pair.moved));
        ip(&format!("address add 169.254.7.7/16 scope link dev {}", pair.moved));
        ip(&format!("address add 198.51.100.7/24 valid_lft 1000 preferred_lft 1000 dev {}", pair.moved));
        ip(&format!("link set {} up", pair.moved));
        pair
    }

    /// The pair of a container's configuration.
    fn config(&self, name: Value) -> Value {
        json!({ self.moved.as_str(): name })
    }

    fn is_on_host(&self) -> bool {
        std::path::Path::new("/sys/class/net").join(&self.moved).exists()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Mostly it is gone already: a container's namespace removes it.
        let _ = Command::new("ip").args(["link", "del", &self.stays]).output();
    }
}

/// `ip` in the network namespace of a process.
fn inside(pid: i64, args: &str) -> String {
    let mut command = Command::new("nsenter");
    let output =
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{args}: {}", show(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Addresses that were set by hand, with their prefixes, sorted.
fn addresses(pid: i64, name: &str) -> Vec<String> {
    let text = inside(pid, &format!("-o address show dev {name}"));
    let mut list: Vec<String> = text
        .lines()
        .filter(|line| !line.contains("scope link") || line.contains("169.254"))
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .collect();
    list.sort();
    list
}

#[test]
fn a_device_moves_with_its_lasting_addresses_and_is_up() {
    for (name, found) in
        [(json!({}), None), (json!({"name": "inner"}), Some("inner")), (json!({"name": "net%d"}), Some("net0"))]
    {
        let pair = Pair::new();
        let mut bundle = script("exec sleep 1000");
        bundle.config["linux"]["netDevices"] = pair.config(name);
        bundle.start();
        assert!(!pair.is_on_host());
        let (pid, found) = (bundle.state()["pid"].as_i64().unwrap(), found.unwrap_or(&pair.moved));
        assert_eq!(addresses(pid, found), ["192.0.2.7/24", "2001:db8::7/64"], "{found}");
        let shown = inside(pid, &format!("address show dev {found}"));
        assert!(shown.contains("mtu 1391") && shown.contains("UP") && shown.contains("brd 192.0.2.255"), "{shown}");
        bundle.ok(&["delete", "-f", &bundle.id]);
        // Virtual devices are removed with their namespace; the runtime does not move them back.
        wait_until("the end of the pair", || !std::path::Path::new("/sys/class/net").join(&pair.stays).exists());
    }
}

#[test]
fn a_device_moves_into_a_joined_namespace_where_its_number_may_be_taken() {
    let pair = Pair::new();
    let index: u32 =
        std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", pair.moved)).unwrap().trim().parse().unwrap();
    let other = format!("ip link add taken index {index} type veth peer name taken2");
    let holder = Holder::with_script(&["--net"], &other);
    let mut bundle = script("exec sleep 1000");
    bundle.namespace("network", Some(json!({"type": "network", "path": holder.path("net")})));
    bundle.config["linux"]["netDevices"] = pair.config(json!({"name": "inner"}));
    bundle.start();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    assert_eq!(addresses(pid, "inner"), ["192.0.2.7/24", "2001:db8::7/64"]);
    // A device of this name is there by now, for another container too.
    let second = Pair::new();
    let mut late = script("true");
    late.namespace("network", Some(json!({"type": "network", "path": holder.path("net")})));
    late.config["linux"]["netDevices"] = second.config(json!({"name": "inner"}));
    let error = late.run_fails();
    assert!(error.contains("linux.netDevices[") && error.contains("already"), "{error}");
    assert!(second.is_on_host());
}

#[test]
fn a_device_comes_back_when_the_container_fails() {
    let pair = Pair::new();
    let mut bundle = script("true");
    bundle.config["linux"]["netDevices"] = pair.config(json!({"name": "inner"}));
    bundle.config["process"]["args"] = json!(["/no-such-program"]);
    let before = ip(&format!("-o address show dev {} scope global", pair.moved));
    bundle.run_fails();
    let after = ip(&format!("-o address show dev {} scope global", pair.moved));
    let permanent = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("forever"));
        let mut list: Vec<_> = lines.filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect();
        list.sort();
        list
    };
    assert_eq!(permanent(&after), permanent(&before));
    assert!(ip(&format!("link show {}", pair.moved)).contains("UP"));
}

#[test]
fn a_device_that_cannot_move_is_an_error_before_any_device_moves() {
    let pair = Pair::new();
    let mut bundle = script("true");
    let mut devices = pair.config(json!({"name": "inner"}));
    devices["zz-no-such"] = json!({});
    bundle.config["linux"]["netDevices"] = devices;
    let error = bundle.run_fails();
    assert!(error.contains("zz-no-such") && error.contains("no such network device"), "{error}");
    assert!(pair.is_on_host());
    bundle.config["linux"]["netDevices"] = pair.config(json!({"name": "lo"}));
    assert!(bundle.run_fails().contains("already"));
    bundle.config["linux"]["netDevices"] = pair.config(json!({}));
    bundle.namespace("network", Some(json!({"type": "network", "path": "/proc/self/ns/net"})));
    let error = bundle.run_fails();
    assert!(error.contains("linux.netDevices"), "{error}");
    bundle.namespace("network", None);
    assert!(bundle.run_fails().contains("without a NET namespace"));
    assert!(pair.is_on_host());
    let lo: Bundle = {
        let mut bundle = script("true");
        bundle.config["linux"]["netDevices"] = json!({"lo": {"name": "other"}});
        bundle
    };
    let error = lo.run_fails();
    assert!(error.contains("bound to its network namespace"), "{error}");
}
