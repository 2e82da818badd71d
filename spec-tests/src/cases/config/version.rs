//! config.md, Specification version.

use serde_json::json;

use crate::harness::{Case, Fixture, Level};

const SECTION: &str = "config.md#specification-version";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("an ociVersion that is no semantic version is refused", SECTION, Level::Must, malformed),
    Case::new("an ociVersion of a release before the runtime's own is accepted", SECTION, Level::Must, earlier),
    Case::new("an ociVersion may name a pre-release and a build", SECTION, Level::Must, prerelease),
    Case::new("an ociVersion of another major release is refused", "config.md#valid-values", Level::Must, major),
];

fn malformed(fixture: &Fixture) -> anyhow::Result<()> {
    for version in ["1.0", "one", "v1.0.2", "01.0.2"] {
        let mut bundle = fixture.bundle()?;
        fixture.refused(bundle.set("/ociVersion", json!(version)))?;
    }
    Ok(())
}

fn earlier(fixture: &Fixture) -> anyhow::Result<()> {
    for version in ["1.0.0", "1.0.1", "1.0.2"] {
        fixture.facts(fixture.bundle()?.set("/ociVersion", json!(version)))?;
    }
    Ok(())
}

fn prerelease(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.facts(fixture.bundle()?.set("/ociVersion", json!("1.0.2-rc.1+build.7"))).map(drop)
}

fn major(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.set("/ociVersion", json!("2.0.0"))).map(drop)
}
