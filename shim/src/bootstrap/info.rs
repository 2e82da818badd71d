//! `-info`: the features of this shim and its runtime, which containerd 2.2 and later query.

use std::io::{Read, Write};
use std::process::Command;

use brig_engine::error::{Context, Error, Result};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use crate::options;
use crate::runtime::Runtime;

/// The type of the features document, which is JSON, in containerd's messages.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads the runtime options from standard input, and writes the answer to standard output.
///
/// # Errors
/// The options cannot be read.
pub fn run() -> Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("unable to read standard input")?;
    let any = match bytes.is_empty() {
        true => None,
        false => Some(Any::parse_from_bytes(&bytes).map_err(|error| Error::other(format!("options: {error}")))?),
    };
    let features = features(&options::parse(any.as_ref())?.binary_name);
    let features = features.map(|value| Any { type_url: FEATURES.to_owned(), value, ..Any::default() });
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
    let info = RuntimeInfo {
        name: "io.containerd.brig.v2".to_owned(),
        version: MessageField::some(version),
        options: any.into(),
        features: features.into(),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().map_err(|error| Error::other(error.to_string()))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("unable to answer")
}

/// The runtime's features, as JSON; `None` for another runtime that does not report them.
fn features(binary: &str) -> Option<Vec<u8>> {
    let record = Runtime::choose("", "", binary, false);
    if record.binary.is_empty() {
        return Some(brig_engine::features().to_string().into_bytes());
    }
    let output = Command::new(&record.binary).arg("features").output().ok()?;
    output.status.success().then_some(output.stdout)
}
