//! OCI documents from bytes to types, as the engine reads them.
//!
//! An unknown key or capability is a warning, as in other runtimes, and every fault of a document is reported at once.
//! A program that builds its [`Spec`] in memory needs none of this.

use oci_spec::runtime::{LinuxResources, Spec};

use crate::error::Result;

/// Limit of a document's size, in bytes.
pub const MAX_LEN: usize = brig_plan::config::MAX_BYTES;

/// A document, with warnings for a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    /// The document's content.
    pub value: T,
    /// Parts of the document that are ignored, each as a sentence that begins with the part's JSON path.
    pub warnings: Vec<String>,
}

/// Parses a config.json.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) lists every part that is not of the specification's
/// type.
pub fn parse_spec(json: &[u8]) -> Result<Parsed<Spec>> {
    let (value, warnings) = brig_plan::config::parse(json)?;
    Ok(Parsed { value, warnings })
}

/// Parses a `linux.resources` object, for [`Engine::update`](crate::Engine::update). `null` changes nothing.
///
/// # Errors
/// As for [`parse_spec`].
pub fn parse_resources(json: &[u8]) -> Result<Parsed<LinuxResources>> {
    let (value, warnings) = brig_plan::config::parse_resources(json)?;
    Ok(Parsed { value, warnings })
}
