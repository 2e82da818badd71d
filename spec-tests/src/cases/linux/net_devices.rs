//! config-linux.md, Network Devices.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Container, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#network-devices";
const LIFECYCLE: &str = "config-linux.md#namespace-lifecycle-and-container-termination";
const LINKS: &[Need] = &[Need::Program("ip"), Need::Links, Need::Program("nsenter")];

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run).on(LINKS)
}

/// In the order of the text.
pub const CASES: &[Case] = &[
    case("a network device is moved into the container", moved),
    case("a network device is renamed on its way", renamed),
    case("a network device that the host does not have is refused", missing).on(&[]),
    case("a network device whose new name is taken is refused", taken),
    case("a network device whose new name ends with %d gets a number", template),
    case("a network device keeps its permanent global addresses", addresses),
    case("a network device is up in the container", up),
    case("a network device without a network namespace is refused", without_namespace),
    case("a name that no network device may have is refused", bad_name),
    Case::new(
        "a virtual network device is removed with the container's network namespace",
        LIFECYCLE,
        Level::Must,
        gone,
    )
    .on(LINKS),
];

/// A pair of network devices of the host; both go with it.
struct Link<'a> {
    fixture: &'a Fixture,
    name: String,
}

impl<'a> Link<'a> {
    fn make(fixture: &'a Fixture) -> anyhow::Result<Link<'a>> {
        // At most 15 bytes; the end of the id is what differs.
        let id: String = fixture.id().chars().filter(char::is_ascii_digit).collect();
        let name = format!("s{}", &id[id.len().saturating_sub(11)..]);
        let peer = format!("{name}p");
        fixture.tool("ip", &["link", "add", &name, "type", "veth", "peer", "name", &peer])?.ok()?;
        Ok(Link { fixture, name })
    }

    fn is_on_host(&self) -> bool {
        fs::symlink_metadata(format!("/sys/class/net/{}", self.name)).is_ok()
    }

    /// A bundle that takes it, under this name if one is given.
    fn bundle(&self, new: Option<&str>) -> anyhow::Result<Bundle> {
        let mut bundle = self.fixture.bundle()?;
        let entry = new.map_or(json!({}), |new| json!({ "name": new }));
        bundle.set(&format!("/linux/netDevices/{}", self.name), entry);
        Ok(bundle)
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        // This removes the other end too, in any namespace.
        let _ = self.fixture.tool("ip", &["link", "delete", &format!("{}p", self.name)]);
    }
}

/// The output of `ip` for a device in the container.
fn device(fixture: &Fixture, container: &Container<'_>, name: &str) -> anyhow::Result<Value> {
    let net = format!("--net={}", container.proc("ns/net"));
    let text = fixture.tool("nsenter", &[&net, "ip", "-json", "address", "show", "dev", name])?.ok()?.stdout;
    let list: Value = serde_json::from_str(&text).context(text)?;
    Ok(list[0].clone())
}

fn moved(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let facts = fixture.facts(&link.bundle(None)?)?;
    ensure!(facts.interfaces.contains(&link.name), "expected {} inside, found {:?}", link.name, facts.interfaces);
    Ok(())
}

fn renamed(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let mut bundle = link.bundle(Some("inside0"))?;
    let container = fixture.start(&mut bundle)?;
    let facts = container.exec_facts(&[])?;
    ensure!(facts.interfaces == ["inside0", "lo"], "expected inside0 and lo, found {:?}", facts.interfaces);
    ensure!(!link.is_on_host(), "{} is still the host's", link.name);
    Ok(())
}

fn missing(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/netDevices/nothere0", json!({}))).map(drop)
}

fn taken(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    fixture.refused(&link.bundle(Some("lo"))?)?;
    ensure!(link.is_on_host(), "{} did not stay with the host after the error", link.name);
    Ok(())
}

fn template(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let facts = fixture.facts(&link.bundle(Some("eth%d"))?)?;
    ensure!(facts.interfaces == ["eth0", "lo"], "expected eth0 and lo, found {:?}", facts.interfaces);
    Ok(())
}

fn addresses(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let add = |address: &str| fixture.tool("ip", &["address", "add", address, "dev", &link.name])?.ok().map(drop);
    add("192.0.2.7/24")?;
    add("198.51.100.9/30")?;
    let has_v6 = fs::symlink_metadata("/proc/sys/net/ipv6").is_ok();
    if has_v6 {
        fixture.tool("ip", &["address", "add", "2001:db8::7/64", "dev", &link.name, "nodad"])?.ok()?;
    }
    let mut bundle = link.bundle(Some("inside0"))?;
    let container = fixture.start(&mut bundle)?;
    let found = device(fixture, &container, "inside0")?["addr_info"].clone();
    let has = |address: &str, prefix: u64| {
        let is_it = |one: &Value| one["local"] == address && one["prefixlen"] == prefix && one["scope"] == "global";
        found.as_array().is_some_and(|list| list.iter().any(is_it))
    };
    ensure!(has("192.0.2.7", 24) && has("198.51.100.9", 30), "expected both addresses of version 4, found {found}");
    ensure!(!has_v6 || has("2001:db8::7", 64), "expected the address of version 6, found {found}");
    Ok(())
}

fn up(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let mut bundle = link.bundle(Some("inside0"))?;
    let container = fixture.start(&mut bundle)?;
    let found = device(fixture, &container, "inside0")?["flags"].clone();
    let is_up = found.as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    ensure!(is_up, "expected the flag UP, found {found}");
    Ok(())
}

fn without_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let mut bundle = link.bundle(None)?;
    bundle.without_namespace("network");
    bundle.config["mounts"].as_array_mut().context("mounts")?.retain(|mount| mount["type"] != "sysfs");
    fixture.refused(&bundle).map(drop)
}

fn bad_name(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    for name in ["a/b", "far-too-long-for-a-name", "..", "a b"] {
        fixture.refused(&link.bundle(Some(name))?).with_context(|| format!("the name {name:?}"))?;
    }
    ensure!(link.is_on_host(), "{} did not stay with the host after the error", link.name);
    Ok(())
}

fn gone(fixture: &Fixture) -> anyhow::Result<()> {
    let link = Link::make(fixture)?;
    let mut bundle = link.bundle(Some("inside0"))?;
    let container = fixture.start(&mut bundle)?;
    container.call_with_flags("delete", &["--force"])?.ok()?;
    ensure!(!link.is_on_host(), "{} came back to the host", link.name);
    let inside = fs::symlink_metadata("/sys/class/net/inside0").is_ok();
    ensure!(!inside, "the renamed device came to the host");
    Ok(())
}
