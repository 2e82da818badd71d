//! The configuration of a bundle.

use std::path::Path;

use super::Configuration;
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::config;
use brig_sys::file;

/// Reads the configuration: its bytes, and its name in errors.
pub(super) fn configuration(bundle: &Path, config: &Configuration) -> Result<(Vec<u8>, String)> {
    let path = match config {
        Configuration::Bundle => bundle.join("config.json"),
        Configuration::File(path) => path.clone(),
        Configuration::Spec(spec) => {
            return Ok((
                serde_json::to_vec(spec).context("unable to write the configuration as JSON")?,
                "the configuration".to_owned(),
            ));
        }
    };
    Ok((read_config(bundle, &path)?, path.display().to_string()))
}

/// Reads a configuration file. A bundle that is not a directory is the more useful error than the missing file in it.
/// The texts are runc's.
pub(super) fn read_config(bundle: &Path, path: &Path) -> Result<Vec<u8>> {
    match file::read_given(path, config::MAX_BYTES) {
        Err(_) if !bundle.exists() => {
            let message = format!("chdir {}: no such file or directory", bundle.display());
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        Err(_) if !bundle.is_dir() => {
            let message = format!("chdir {}: not a directory", bundle.display());
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("JSON specification file {} not found: give the bundle with --bundle", path.display()),
        )),
        other => other.with_context(|| format!("unable to read {}", path.display())),
    }
}
