//! config.md, Annotations, Extensibility and Valid values.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Case, Fixture, Level};

const UNKNOWN: &str = "config.md#extensibility";
const VALID: &str = "config.md#valid-values";
const ANNOTATIONS: &str = "config.md#annotations";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("annotations may be left out, or be empty", ANNOTATIONS, Level::Must, none),
    Case::new("an annotation's value may be empty", ANNOTATIONS, Level::Must, empty_value),
    Case::new("an annotation's value that is no string is refused", ANNOTATIONS, Level::Must, no_string),
    Case::new("annotations of the image specification are accepted", ANNOTATIONS, Level::Must, images),
    Case::new("an unknown annotation of a reserved name is ignored", ANNOTATIONS, Level::Must, reserved),
    Case::new("unknown properties are ignored", UNKNOWN, Level::Must, unknown),
    Case::new("unknown properties do not change the container", UNKNOWN, Level::Must, unchanged),
    Case::new("configurations of other platforms are ignored", "runc: platforms", Level::Runc, platforms),
    Case::new("a value of another type than the property's is refused", VALID, Level::Must, types),
    Case::new("a number that the property cannot have is refused", VALID, Level::Must, numbers),
    Case::new("a string that the property cannot have is refused", VALID, Level::Must, words),
    Case::new("a config.json that is no JSON is refused", VALID, Level::Must, no_json),
];

fn none(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.facts(bundle.remove("/annotations"))?;
    fixture.facts(bundle.set("/annotations", json!({}))).map(drop)
}

fn empty_value(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/annotations", json!({ "org.example.empty": "" })).args(&["/probe", "wait"]);
    let found = fixture.create(&bundle)?.state()?["annotations"]["org.example.empty"].clone();
    ensure!(found == "", "the annotation in the state: expected an empty string, found {found}");
    Ok(())
}

fn no_string(fixture: &Fixture) -> anyhow::Result<()> {
    for value in [json!(5), json!(true), json!(["a"]), json!({ "a": "b" })] {
        fixture.refused(fixture.bundle()?.set("/annotations", json!({ "org.example.key": value })))?;
    }
    Ok(())
}

fn images(fixture: &Fixture) -> anyhow::Result<()> {
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
    let mut bundle = fixture.bundle()?;
    bundle.set("/annotations", annotations.clone()).args(&["/probe", "wait"]);
    let found = fixture.create(&bundle)?.state()?["annotations"].clone();
    ensure!(found == annotations, "the annotations in the state: expected {annotations}, found {found}");
    Ok(())
}

fn reserved(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.facts(bundle.set("/annotations", json!({ "org.opencontainers.no.such.key": "value" }))).map(drop)
}

/// Objects of the configuration; each gets an unknown property.
const OBJECTS: &[&str] =
    &["", "/process", "/process/user", "/process/capabilities", "/root", "/mounts/0", "/linux", "/linux/namespaces/0"];

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    for object in OBJECTS {
        for value in [json!("text"), json!({ "deep": [1, { "deeper": null }] })] {
            let mut bundle = fixture.bundle()?;
            bundle.set(&format!("{object}/ofNobody"), value);
            fixture.facts(&bundle).with_context(|| format!("an unknown property in {object:?}"))?;
        }
    }
    let mut bundle = fixture.bundle()?;
    bundle.set("/hooks", json!({ "beforeEverything": [{ "path": "/nowhere" }] }));
    bundle.set("/linux/resources", json!({ "ofNobody": { "limit": 1 } }));
    fixture.facts(&bundle).context("an unknown list of hooks").map(drop)
}

fn unchanged(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for object in OBJECTS {
        bundle.set(&format!("{object}/ofNobody"), json!("text"));
    }
    let with = fixture.facts(&bundle)?;
    let without = fixture.facts(&fixture.bundle()?)?;
    ensure!(with.env == without.env && with.status["CapEff"] == without.status["CapEff"], "the process has changed");
    let points = |facts: &crate::facts::Facts| facts.mounts.iter().map(|mount| mount.point.clone()).collect::<Vec<_>>();
    let (found, wanted) = (points(&with), points(&without));
    ensure!(found == wanted, "the mounts: expected {wanted:?}, found {found:?}");
    Ok(())
}

fn platforms(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/solaris", json!({ "limitpriv": "default" }));
    bundle.set("/windows", json!({ "layerFolders": ["C:\\Layers\\layer1"] }));
    bundle.set("/zos", json!({ "namespaces": [] })).set("/freebsd", json!({ "devices": [] }));
    fixture.facts(&bundle).map(drop)
}

fn each_refused(fixture: &Fixture, settings: &[(&str, Value)]) -> anyhow::Result<()> {
    for (pointer, value) in settings {
        let mut bundle = fixture.bundle()?;
        fixture.refused(bundle.set(pointer, value.clone())).with_context(|| format!("{pointer} = {value}"))?;
    }
    Ok(())
}

fn types(fixture: &Fixture) -> anyhow::Result<()> {
    each_refused(
        fixture,
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

fn numbers(fixture: &Fixture) -> anyhow::Result<()> {
    each_refused(
        fixture,
        &[
            ("/process/user/uid", json!(-1)),
            ("/process/user/gid", json!(1u64 << 33)),
            ("/process/user/additionalGids", json!([-5])),
            ("/process/consoleSize", json!({ "height": -1, "width": 80 })),
            ("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": -1, "hard": 64 }])),
        ],
    )
}

fn words(fixture: &Fixture) -> anyhow::Result<()> {
    each_refused(
        fixture,
        &[
            ("/linux/namespaces/0/type", json!("room")),
            ("/linux/rootfsPropagation", json!("sideways")),
            ("/process/cwd", json!("")),
        ],
    )
}

fn no_json(fixture: &Fixture) -> anyhow::Result<()> {
    for text in ["", "{", "null", "[]", "{\"ociVersion\": \"1.0.2\",}"] {
        let bundle = fixture.bundle()?;
        bundle.write()?;
        std::fs::write(bundle.path().join("config.json"), text)?;
        let id = fixture.id();
        fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?.refused()?;
    }
    Ok(())
}
