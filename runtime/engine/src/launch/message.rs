//! The message that init reads from its memory file: the plan, the numbers of the handles, and the settings.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use brig_plan::Finished;
use brig_plan::init::InitPlan;

use super::handles::Handles;
use super::request::Settings;

/// The version of the message's encoding. A message is read by the very version that wrote it, even while the binary is
/// being replaced.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Settings of the parent process that its init shares.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Diagnosis {
    /// The parent logs each step.
    pub log_steps: bool,
    /// Test builds only: the step at which the process stops.
    pub stop_at: Option<String>,
}

/// The content of the message.
pub(super) struct Message {
    pub plan: Finished<InitPlan>,
    pub handles: Handles<RawFd>,
    pub settings: Settings,
    pub diagnosis: Diagnosis,
}

/// Encodes a message.
///
/// # Errors
/// When a path of the plan is no text.
pub(super) fn encode(
    plan: &InitPlan,
    handles: &Handles<RawFd>,
    settings: &Settings,
    diagnosis: &Diagnosis,
) -> Result<Vec<u8>> {
    postcard::to_stdvec(&(VERSION, plan, handles, settings, diagnosis))
        .map_err(|error| Error::other(format!("unable to write the plan: {error}")))
}

/// Decodes a message.
///
/// # Errors
/// When it is of another version, or malformed.
pub(super) fn decode(bytes: &[u8]) -> Result<Message> {
    let unable = |error| Error::other(format!("unable to read the plan: {error}"));
    let (version, rest): (String, _) = postcard::take_from_bytes(bytes).map_err(unable)?;
    if version != VERSION {
        return Err(Error::other(format!("the plan is of brig {version}, and this is {VERSION}")));
    }
    let (plan, handles, settings, diagnosis) = postcard::from_bytes(rest).map_err(unable)?;
    Ok(Message { plan, handles, settings, diagnosis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_version_is_refused_by_its_version() {
        let text = |bytes: &[u8]| decode(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        let other = postcard::to_stdvec(&("0.0.1", 7)).unwrap();
        assert_eq!(text(&other), format!("the plan is of brig 0.0.1, and this is {VERSION}"));
        assert!(text(&[9]).starts_with("unable to read the plan: "));
    }
}
