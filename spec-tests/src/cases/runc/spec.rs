//! spec, features, checkpoint and restore.

use std::fs;

use anyhow::Context;
use serde_json::{Value, json};

use super::RUNC;
use crate::harness::{Case, Differential, Done, Fixture, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Runc, run).on(RUNC)
}

/// Verbs that need no container.
pub const CASES: &[Case] = &[
    case("spec writes runc's configuration", "runc: spec", writes),
    case("spec --rootless writes runc's configuration", "runc: spec", rootless),
    case("spec writes into a bundle, and overwrites no file", "runc: spec", places),
    case("the configuration that spec writes can be run", "runc: spec", runs),
    case("features has runc's properties", "runc: features", features),
    case("checkpoint refuses invalid requests as runc does", "runc: checkpoint and restore", checkpoint),
    case("restore refuses invalid requests as runc does", "runc: checkpoint and restore", restore),
    case(
        "wrong values for flags of checkpoint and restore have the same outcome as runc's",
        "runc: checkpoint and restore",
        values,
    ),
];

fn written(both: &Differential, name: &str, file: &str) -> anyhow::Result<()> {
    both.see(name, |side| {
        let text = fs::read_to_string(side.directory().join(file))?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["ociVersion"].take();
        config["hostname"].take();
        // runc has written no ambient set since 1.2: nothing in the inheritable set allows one.
        if let Some(sets) = config.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
            sets.remove("ambient");
        }
        let indent: String =
            text.lines().nth(1).unwrap_or_default().chars().take_while(|sign| sign.is_whitespace()).collect();
        Ok(format!("{indent:?} {} {config}", text.ends_with('\n')))
    })?;
    Ok(())
}

fn writes(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.line("spec")?;
    written(&both, "config.json of spec", "config.json")?;
    both.see("its mode", |side| {
        use std::os::unix::fs::PermissionsExt;
        Ok(format!("{:o}", fs::metadata(side.directory().join("config.json"))?.permissions().mode()))
    })?;
    both.equal()
}

fn rootless(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.line("spec --rootless")?;
    written(&both, "config.json of spec --rootless", "config.json")?;
    both.equal()
}

fn places(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.each(|side| Ok(fs::create_dir(side.directory().join("box"))?))?;
    both.lines(&["spec --bundle box", "spec -b {dir}/box", "spec -b none", "spec", "spec", "spec --rootless"])?;
    written(&both, "config.json of spec --bundle", "box/config.json")?;
    both.equal()
}

fn runs(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    both.each(|side| Ok(fs::remove_file(side.bundle.path().join("config.json"))?))?.line("spec -b {bundle}")?;
    both.each(|side| {
        let path = side.bundle.path().join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/probe", "facts"]);
        config["linux"]["cgroupsPath"] = side.bundle.config["linux"]["cgroupsPath"].clone();
        Ok(fs::write(path, config.to_string())?)
    })?;
    // On some machines not even root may raise limits: the result is the same then.
    super::facts(&both, "run -b {bundle} {id}")?;
    both.equal()
}

/// Paths of every property, lists and values left out.
fn properties(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            found.push(path.clone());
            if path != "/annotations" {
                properties(value, &path, found);
            }
        }
    }
}

fn features(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.done("features", |side| {
        let done = side.call(&["features"])?;
        let value: Value = serde_json::from_str(&done.stdout).context("features")?;
        let mut found = Vec::new();
        properties(&value, "", &mut found);
        let indent: String =
            done.stdout.lines().nth(1).unwrap_or_default().chars().take_while(|sign| *sign == ' ').collect();
        // The properties of this release of runc.
        let newer = [
            "rdma",
            "memoryPolicy",
            "mountExtensions",
            "netDevices",
            "intelRdt",
            "potentiallyUnsafe",
            "knownFlags",
            "supportedFlags",
        ];
        found.retain(|path| !newer.iter().any(|name| path.contains(name)));
        Ok(Done { stdout: format!("{} {}\n{}", indent.len(), done.stdout.ends_with("}\n"), found.join("\n")), ..done })
    })?;
    both.equal()
}

fn checkpoint(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.lines(&["checkpoint x", "checkpoint --image-path {dir}/image --leave-running x", "checkpoint a/b"])?;
    both.bundle(|_| ())?.create()?.line("checkpoint --image-path {dir}/image {id}")?;
    both.line("start {id}")?.wait()?.line("checkpoint --image-path {dir}/image {id}")?.line("state {id}")?.equal()
}

fn restore(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    both.lines(&[
        "restore x",
        "restore -b {dir}/none x",
        "restore --image-path {dir}/none -b {bundle} {id}",
        "state {id}",
    ])?
    .equal()
}

fn values(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.each(|side| Ok(fs::write(side.directory().join("file"), "")?))?;
    for flags in [
        "--manage-cgroups-mode bogus",
        "--page-server nowhere",
        "--page-server nowhere:port",
        "--empty-ns bogus",
        "--image-path {dir}/file",
        "--work-path {dir}/file/below",
        "--status-fd many",
        "--leave-running=maybe",
    ] {
        both.line(&format!("checkpoint {flags} {{id}}"))?;
    }
    both.line("state {id}")?.stopped()?.line("delete {id}")?;
    for flags in ["--manage-cgroups-mode bogus", "--empty-ns bogus", "--image-path {dir}/file", "--detach=maybe"] {
        both.line(&format!("restore {flags} -b {{bundle}} {{id}}"))?;
    }
    both.line("state {id}")?.equal()
}
