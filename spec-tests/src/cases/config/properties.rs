//! config.md, Annotations, Extensibility and Valid values.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Case, Ground, Level};

const UNKNOWN: &str = "config.md#extensibility";
const VALID: &str = "config.md#valid-values";
const ANNOTATIONS: &str = "config.md#annotations";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("annotations may be left out, or be empty", ANNOTATIONS, Level::Must, none),
    Case::new("an annotation's value may be empty", ANNOTATIONS, Level::Must, empty_value),
    Case::new("an annotation's value that is no string is refused", ANNOTATIONS, Level::Must, no_string),
    Case::new("annotations of the image specification are taken", ANNOTATIONS, Level::Must, images),
    Case::new("an unknown annotation of a reserved name is ignored", ANNOTATIONS, Level::Must, reserved),
    Case::new("unknown properties are ignored", UNKNOWN, Level::Must, unknown),
    Case::new("unknown properties do not change the container", UNKNOWN, Level::Must, unchanged),
    Case::new("configurations of other platforms are ignored", "runc: platforms", Level::Runc, platforms),
    Case::new("a value of another type than the property's is refused", VALID, Level::Must, types),
    Case::new("a number that the property cannot have is refused", VALID, Level::Must, numbers),
    Case::new("a word that the property cannot have is refused", VALID, Level::Must, words),
    Case::new("a config.json that is no JSON is refused", VALID, Level::Must, no_json),
];

fn none(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    ground.facts(bundle.remove("/annotations"))?;
    ground.facts(bundle.set("/annotations", json!({}))).map(drop)
}

fn empty_value(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.set("/annotations", json!({ "org.example.empty": "" })).args(&["/probe", "wait"]);
    let found = ground.create(&bundle)?.state()?["annotations"]["org.example.empty"].clone();
    ensure!(found == "", "the annotation in the state: expected an empty string, found {found}");
    Ok(())
}

fn no_string(ground: &Ground) -> anyhow::Result<()> {
    for value in [json!(5), json!(true), json!(["a"]), json!({ "a": "b" })] {
        ground.refused(ground.bundle()?.set("/annotations", json!({ "org.example.key": value })))?;
    }
    Ok(())
}

fn images(ground: &Ground) -> anyhow::Result<()> {
    let annotations = json!({
        "org.opencontainers.image.os": "linux",
        "org.opencontainers.image.os.version": "6.1",
        "org.opencontainers.image.os.features": "none",
        "org.opencontainers.image.architecture": "amd64",
        "org.opencontainers.image.variant": "v3",
        "org.opencontainers.image.author": "Clarissa",
        "org.opencontainers.image.created": "2024-06-13T10:00:00Z",
        "org.opencontainers.image.stopSignal": "SIGQUIT"
    });
    let mut bundle = ground.bundle()?;
    bundle.set("/annotations", annotations.clone()).args(&["/probe", "wait"]);
    let found = ground.create(&bundle)?.state()?["annotations"].clone();
    ensure!(found == annotations, "the annotations in the state: expected {annotations}, found {found}");
    Ok(())
}

fn reserved(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    ground.facts(bundle.set("/annotations", json!({ "org.opencontainers.no.such.key": "value" }))).map(drop)
}

/// Objects of the configuration; each gets a property that nobody knows.
const OBJECTS: &[&str] =
    &["", "/process", "/process/user", "/process/capabilities", "/root", "/mounts/0", "/linux", "/linux/namespaces/0"];

fn unknown(ground: &Ground) -> anyhow::Result<()> {
    for object in OBJECTS {
        for value in [json!("text"), json!({ "deep": [1, { "deeper": null }] })] {
            let mut bundle = ground.bundle()?;
            bundle.set(&format!("{object}/ofNobody"), value);
            ground.facts(&bundle).with_context(|| format!("an unknown property in {object:?}"))?;
        }
    }
    let mut bundle = ground.bundle()?;
    bundle.set("/hooks", json!({ "beforeEverything": [{ "path": "/nowhere" }] }));
    bundle.set("/linux/resources", json!({ "ofNobody": { "limit": 1 } }));
    ground.facts(&bundle).context("an unknown list of hooks").map(drop)
}

fn unchanged(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    for object in OBJECTS {
        bundle.set(&format!("{object}/ofNobody"), json!("text"));
    }
    let with = ground.facts(&bundle)?;
    let without = ground.facts(&ground.bundle()?)?;
    ensure!(with.env == without.env && with.status["CapEff"] == without.status["CapEff"], "the process has changed");
    let points = |facts: &crate::facts::Facts| facts.mounts.iter().map(|mount| mount.point.clone()).collect::<Vec<_>>();
    let (found, wanted) = (points(&with), points(&without));
    ensure!(found == wanted, "the mounts: expected {wanted:?}, found {found:?}");
    Ok(())
}

fn platforms(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.set("/solaris", json!({ "limitpriv": "default" }));
    bundle.set("/windows", json!({ "layerFolders": ["C:\\Layers\\layer1"] }));
    bundle.set("/zos", json!({ "namespaces": [] })).set("/freebsd", json!({ "devices": [] }));
    ground.facts(&bundle).map(drop)
}

fn each_refused(ground: &Ground, settings: &[(&str, Value)]) -> anyhow::Result<()> {
    for (pointer, value) in settings {
        let mut bundle = ground.bundle()?;
        ground.refused(bundle.set(pointer, value.clone())).with_context(|| format!("{pointer} = {value}"))?;
    }
    Ok(())
}

fn types(ground: &Ground) -> anyhow::Result<()> {
    each_refused(
        ground,
        &[
            ("/ociVersion", json!(1)),
            ("/root", json!("rootfs")),
            ("/root/readonly", json!("yes")),
            ("/mounts", json!({})),
            ("/mounts/0/options", json!("ro")),
            ("/process", json!("facts")),
            ("/process/terminal", json!("no")),
            ("/process/cwd", json!(5)),
            ("/process/env", json!("PATH=/")),
            ("/process/args", json!("/probe")),
            ("/process/user/uid", json!("root")),
            ("/process/noNewPrivileges", json!("true")),
            ("/process/oomScoreAdj", json!("many")),
            ("/hostname", json!(5)),
            ("/hooks", json!([])),
            ("/annotations", json!(["key=value"])),
            ("/linux", json!([])),
            ("/linux/namespaces", json!("pid")),
        ],
    )
}

fn numbers(ground: &Ground) -> anyhow::Result<()> {
    each_refused(
        ground,
        &[
            ("/process/user/uid", json!(-1)),
            ("/process/user/gid", json!(1u64 << 33)),
            ("/process/user/additionalGids", json!([-5])),
            ("/process/consoleSize", json!({ "height": -1, "width": 80 })),
            ("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": -1, "hard": 64 }])),
        ],
    )
}

fn words(ground: &Ground) -> anyhow::Result<()> {
    each_refused(
        ground,
        &[
            ("/linux/namespaces/0/type", json!("room")),
            ("/linux/rootfsPropagation", json!("sideways")),
            ("/process/cwd", json!("")),
        ],
    )
}

fn no_json(ground: &Ground) -> anyhow::Result<()> {
    for text in ["", "{", "null", "[]", "{\"ociVersion\": \"1.0.2\",}"] {
        let bundle = ground.bundle()?;
        bundle.write()?;
        std::fs::write(bundle.path().join("config.json"), text)?;
        let id = ground.id();
        ground.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?.refused()?;
    }
    Ok(())
}
