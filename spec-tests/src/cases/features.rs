//! features.md and features-linux.md: the features that a runtime reports, and whether it has them.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Fixture, Level, Need};

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("the Features structure is one JSON object", "features.md#features-structure", Level::Must, object),
    Case::new("features reports its oldest and newest version", VERSION, Level::Must, versions),
    Case::new("the versions that features reports are accepted", VERSION, Level::Must, accepted),
    Case::new("features has only properties that the specification defines", VERSION, Level::Must, properties),
    Case::new("each hook that features lists is run", "features.md#hooks", Level::Must, hooks),
    Case::new("each mount option that features lists is recognised", "features.md#mount-options", Level::Must, options),
    Case::new("features lists no option of a file system", "features.md#mount-options", Level::Should, own_options),
    Case::new("the annotations of features are texts by name", "features.md#annotations", Level::Must, annotations),
    Case::new(
        "each namespace that features lists is recognised",
        "features-linux.md#namespaces",
        Level::Must,
        namespaces,
    ),
    Case::new(
        "each capability that features lists is recognised",
        "features-linux.md#capabilities",
        Level::Must,
        capabilities,
    ),
    Case::new("each seccomp action that features lists is recognised", SECCOMP, Level::Must, actions),
    Case::new("each seccomp operator that features lists is recognised", SECCOMP, Level::Must, operators),
    Case::new("each architecture that features lists is recognised", SECCOMP, Level::Must, architectures),
    Case::new("each seccomp flag that features knows is recognised", SECCOMP, Level::Must, known_flags),
    Case::new("each seccomp flag that features supports works", SECCOMP, Level::Must, supported_flags),
    Case::new(
        "each memory policy that features lists is recognised",
        "features-linux.md#memorypolicy",
        Level::Must,
        policies,
    ),
    Case::new(
        "a runtime that reads the mappings of mounts reports that",
        "features-linux.md#mountextensions",
        Level::Must,
        idmap,
    )
    .on(&[Need::Namespace("user")]),
];

const VERSION: &str = "features.md#specification-version";
const SECCOMP: &str = "features-linux.md#seccomp";

fn features(fixture: &Fixture) -> anyhow::Result<Value> {
    let text = fixture.call(&["features"])?.ok()?.stdout;
    serde_json::from_str(&text).with_context(|| format!("features printed no JSON, but {text:?}"))
}

/// The texts of a list; none when it is absent or null, as every property but the versions may be.
fn list(features: &Value, pointer: &str) -> anyhow::Result<Vec<String>> {
    match features.pointer(pointer) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => {
            serde_json::from_value(value.clone()).with_context(|| format!("{pointer}: expected texts, found {value}"))
        }
    }
}

fn object(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    ensure!(found.is_object(), "expected an object, found {found}");
    Ok(())
}

fn version(features: &Value, name: &str) -> anyhow::Result<(String, Vec<u64>)> {
    let text = features[name].as_str().with_context(|| format!("{name}: expected a text, found {}", features[name]))?;
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let numbers =
        plain.split('.').map(|word| word.parse::<u64>().with_context(|| format!("{name}: {text:?} is no version")));
    Ok((text.to_owned(), numbers.collect::<anyhow::Result<_>>()?))
}

fn versions(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    let (oldest, newest) = (version(&found, "ociVersionMin")?, version(&found, "ociVersionMax")?);
    ensure!(oldest.1 <= newest.1, "ociVersionMax {} is older than ociVersionMin {}", newest.0, oldest.0);
    ensure!(newest.1.len() == 3, "ociVersionMax: expected three numbers, found {}", newest.0);
    Ok(())
}

fn accepted(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    for name in ["ociVersionMin", "ociVersionMax"] {
        let text = version(&found, name)?.0;
        runs(fixture, &format!("{name} {text}"), |bundle| {
            bundle.set("/ociVersion", json!(text));
        })?;
    }
    Ok(())
}

/// Names that release 1.3 defines; later ones may add.
const DEFINED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ociVersionMin",
            "ociVersionMax",
            "hooks",
            "mountOptions",
            "linux",
            "annotations",
            "potentiallyUnsafeConfigAnnotations",
        ],
    ),
    (
        "/linux",
        &[
            "namespaces",
            "capabilities",
            "cgroup",
            "seccomp",
            "apparmor",
            "selinux",
            "memoryPolicy",
            "intelRdt",
            "mountExtensions",
            "netDevices",
        ],
    ),
    ("/linux/cgroup", &["v1", "v2", "systemd", "systemdUser", "rdma"]),
    ("/linux/seccomp", &["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"]),
    ("/linux/apparmor", &["enabled"]),
    ("/linux/selinux", &["enabled"]),
    ("/linux/memoryPolicy", &["modes", "flags"]),
    ("/linux/intelRdt", &["enabled", "schemata", "monitoring"]),
    ("/linux/mountExtensions", &["idmap"]),
    ("/linux/mountExtensions/idmap", &["enabled"]),
    ("/linux/netDevices", &["enabled"]),
];

fn properties(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    for (place, known) in DEFINED {
        let Some(Value::Object(fields)) = found.pointer(place) else { continue };
        for name in fields.keys() {
            ensure!(known.contains(&name.as_str()), "{place}/{name} is not defined by the specification");
        }
    }
    Ok(())
}

/// The bundle with this change is created; its program's end does not matter.
fn runs(fixture: &Fixture, what: &str, change: impl FnOnce(&mut Bundle)) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    change(&mut bundle);
    fixture.run(&bundle)?.ok().with_context(|| format!("{what} is listed, but not accepted"))?;
    Ok(())
}

/// The runtime's message for the bundle; empty when the runtime accepts it.
fn said(fixture: &Fixture, change: impl FnOnce(&mut Bundle)) -> anyhow::Result<String> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    change(&mut bundle);
    let done = fixture.run(&bundle)?;
    Ok(if done.code == 0 { String::new() } else { done.stderr })
}

/// Recognised is what is done, or refused for another reason than its name: no error may call it unknown.
fn recognised(what: &str, said: &str) -> anyhow::Result<()> {
    let low = said.to_lowercase();
    let unknown = [
        "unknown",
        "unrecognised",
        "unrecognized",
        "not a valid",
        "does not exist",
        "invalid namespace",
        "expected one of",
    ];
    ensure!(!unknown.iter().any(|word| low.contains(word)), "{what} is listed, but not recognised: {}", said.trim());
    Ok(())
}

fn hooks(fixture: &Fixture) -> anyhow::Result<()> {
    let names = list(&features(fixture)?, "/hooks")?;
    let mut bundle = fixture.bundle()?;
    let probe = bundle.rootfs("/probe").display().to_string();
    std::fs::create_dir_all(bundle.rootfs("/marks"))?;
    for name in &names {
        // Some run in the container's root, the others outside.
        let (program, directory) = match name.as_str() {
            "startContainer" => ("/probe".to_owned(), "/marks".to_owned()),
            _ => (probe.clone(), bundle.rootfs("/marks").display().to_string()),
        };
        let args = json!(["probe", "try", "create", format!("{directory}/{name}")]);
        bundle.set(&format!("/hooks/{name}"), json!([{ "path": program, "args": args }]));
    }
    bundle.args(&["/probe", "exit", "0"]);
    fixture.run(&bundle)?.ok()?;
    for name in &names {
        ensure!(bundle.rootfs(&format!("/marks/{name}")).exists(), "the hook {name} is listed, but was not run");
    }
    Ok(())
}

fn options(fixture: &Fixture) -> anyhow::Result<()> {
    for chunk in list(&features(fixture)?, "/mountOptions")?.chunks(4) {
        // In the order of the list, each as a bind mount of its own; `remount` changes what is there.
        let said = said(fixture, |bundle| {
            let source = bundle.rootfs("/tmp").display().to_string();
            for (index, option) in chunk.iter().enumerate() {
                let place = format!("/here-{index}");
                match option.as_str() {
                    // Of tmpfs only, here.
                    "tmpcopyup" | "copy-symlink" => bundle.mount(&place, "tmpfs", "tmpfs", &[option]),
                    // These need a mapping, or another mount at the same path: the cases of config.md have them.
                    "idmap" | "ridmap" | "remount" => bundle,
                    _ => bundle.mount(&place, "bind", &source, &["rbind", option]),
                };
            }
        })?;
        recognised(&format!("one of the mount options {chunk:?}"), &said)?;
        // The kernel may not want it for this mount.
        let kernels = said.to_lowercase().contains("invalid argument");
        ensure!(said.is_empty() || kernels, "one of the mount options {chunk:?}: {}", said.trim());
    }
    Ok(())
}

fn own_options(fixture: &Fixture) -> anyhow::Result<()> {
    let of_file_systems =
        ["size", "mode", "nr_inodes", "gid", "uid", "newinstance", "ptmxmode", "lowerdir", "upperdir", "workdir"];
    for option in list(&features(fixture)?, "/mountOptions")? {
        let name = option.split('=').next().unwrap_or_default();
        ensure!(!of_file_systems.contains(&name), "mountOptions has {option}, which is for a file system");
    }
    Ok(())
}

fn annotations(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    let Some(Value::Object(annotations)) = found.get("annotations") else { return Ok(()) };
    for (name, value) in annotations {
        ensure!(!name.is_empty() && value.is_string(), "annotations: expected texts by name, found {name:?}: {value}");
    }
    list(&found, "/potentiallyUnsafeConfigAnnotations").map(drop)
}

fn namespaces(fixture: &Fixture) -> anyhow::Result<()> {
    for kind in list(&features(fixture)?, "/linux/namespaces")? {
        let file = match kind.as_str() {
            "mount" => "mnt",
            "network" => "net",
            other => other,
        };
        let said = said(fixture, |bundle| {
            // A new one of users would need mappings: the cases of config-linux.md make them.
            if kind != "user" {
                bundle.namespace(&kind, None);
            }
        })?;
        recognised(&format!("the namespace {kind}"), &said)?;
        let there = std::fs::symlink_metadata(format!("/proc/self/ns/{file}")).is_ok();
        ensure!(said.is_empty() || !there, "the namespace {kind}: {}", said.trim());
    }
    Ok(())
}

fn capabilities(fixture: &Fixture) -> anyhow::Result<()> {
    let names = list(&features(fixture)?, "/linux/capabilities")?;
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]).set("/process/capabilities", json!({ "bounding": names }));
    let done = fixture.run(&bundle)?.ok()?;
    // A separate warning names those that the kernel lacks.
    for name in names {
        ensure!(
            !done.stderr.contains(&format!("unknown capability {name}")),
            "{name} is not recognised: {}",
            done.stderr
        );
    }
    Ok(())
}

/// Every value in a seccomp profile that allows all else.
fn profile(fixture: &Fixture, pointer: &str, mut change: impl FnMut(&mut Bundle, &str)) -> anyhow::Result<()> {
    for name in list(&features(fixture)?, pointer)? {
        let said = said(fixture, |bundle| {
            bundle.set(
                "/linux/seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [] }),
            );
            change(bundle, &name);
        })?;
        recognised(&name, &said)?;
        ensure!(said.is_empty(), "{name} is listed, but refused: {}", said.trim());
    }
    Ok(())
}

fn actions(fixture: &Fixture) -> anyhow::Result<()> {
    profile(fixture, "/linux/seccomp/actions", |bundle, action| {
        // A call that the probe does not make; an agent for NOTIFY is not there, so that one rule stays away.
        let rule = json!([{ "names": ["acct"], "action": action }]);
        if action != "SCMP_ACT_NOTIFY" {
            bundle.set("/linux/seccomp/syscalls", rule);
        }
    })
}

fn operators(fixture: &Fixture) -> anyhow::Result<()> {
    profile(fixture, "/linux/seccomp/operators", |bundle, operator| {
        let argument = json!([{ "index": 0, "value": 1, "valueTwo": 1, "op": operator }]);
        let rule = json!([{ "names": ["acct"], "action": "SCMP_ACT_ERRNO", "args": argument }]);
        bundle.set("/linux/seccomp/syscalls", rule);
    })
}

fn architectures(fixture: &Fixture) -> anyhow::Result<()> {
    for name in list(&features(fixture)?, "/linux/seccomp/archs")? {
        let rule = json!([{ "names": ["acct"], "action": "SCMP_ACT_ERRNO" }]);
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [name], "syscalls": rule });
        // One filter cannot hold architectures of both byte orders for every runtime: recognised is all that is asked.
        recognised(
            &name,
            &said(fixture, |bundle| {
                bundle.set("/linux/seccomp", profile);
            })?,
        )?;
    }
    Ok(())
}

fn known_flags(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    let known = list(&found, "/linux/seccomp/knownFlags")?;
    for flag in list(&found, "/linux/seccomp/supportedFlags")? {
        ensure!(known.contains(&flag), "{flag} is supported, but not among the known {known:?}");
    }
    for flag in known {
        let said = said(fixture, |bundle| {
            bundle.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag] }));
        })?;
        recognised(&flag, &said)?;
    }
    Ok(())
}

fn supported_flags(fixture: &Fixture) -> anyhow::Result<()> {
    profile(fixture, "/linux/seccomp/supportedFlags", |bundle, flag| {
        let listens = flag.ends_with("_WAIT_KILLABLE_RECV");
        // This flag has an effect only with an agent.
        if !listens {
            bundle.set("/linux/seccomp/flags", json!([flag]));
            bundle.set("/linux/seccomp/syscalls", json!([{ "names": ["acct"], "action": "SCMP_ACT_ERRNO" }]));
        }
    })
}

fn policies(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    for mode in list(&found, "/linux/memoryPolicy/modes")? {
        let nodes = if ["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode.as_str()) { "" } else { "0" };
        let said = said(fixture, |bundle| {
            bundle.set("/linux/memoryPolicy", json!({ "mode": mode, "nodes": nodes, "flags": [] }));
        })?;
        recognised(&format!("the memory policy {mode}"), &said)?;
    }
    for flag in list(&found, "/linux/memoryPolicy/flags")? {
        let said = said(fixture, |bundle| {
            bundle.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": [flag] }));
        })?;
        recognised(&format!("the memory policy's flag {flag}"), &said)?;
    }
    Ok(())
}

fn idmap(fixture: &Fixture) -> anyhow::Result<()> {
    let found = features(fixture)?;
    let told = found.pointer("/linux/mountExtensions/idmap/enabled") == Some(&Value::Bool(true));
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let said = said(fixture, |bundle| {
        let source = bundle.rootfs("/tmp").display().to_string();
        bundle.push(
            "/mounts",
            json!({
                "destination": "/mapped", "type": "bind", "source": source, "options": ["bind"],
                "uidMappings": mapping, "gidMappings": mapping
            }),
        );
    })?;
    let works = said.is_empty();
    ensure!(
        told || !works || !found["linux"]["mountExtensions"].is_object(),
        "mappings of mounts are accepted, but features says no"
    );
    Ok(())
}
