//! The task API version of a running server, which may be an older one after an upgrade.

use std::path::Path;
use std::time::Duration;

use brig_engine::error::{Error, Result};
use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};
use protobuf::Message;
use ttrpc::{Client, Code, Request};

/// The time that a server may take to answer: its socket exists before it runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A version of the task API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The service containerd.task.v2.
    V2,
    /// The service containerd.task.v3, with or without v2.
    V3,
}

impl Version {
    /// The number in the answer to `start`.
    pub fn number(self) -> i32 {
        match self {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

/// Queries the server at `path`.
///
/// # Errors
/// The server does not answer.
pub fn of_server(path: &Path) -> Result<Version> {
    let failed =
        |error: ttrpc::Error| Error::other(format!("the server at {} does not answer: {error}", path.display()));
    let client = Client::connect(&format!("unix://{}", path.display())).map_err(failed)?;
    let payload = ConnectRequest::new().write_to_bytes().map_err(|error| Error::other(error.to_string()))?;
    let request = Request {
        service: "containerd.task.v3.Task".to_owned(),
        method: "Connect".to_owned(),
        timeout_nano: i64::try_from(ANSWER_TIMEOUT.as_nanos()).unwrap_or(i64::MAX),
        payload,
        ..Default::default()
    };
    match client.request(request) {
        Ok(answer) => match ConnectResponse::parse_from_bytes(&answer.payload) {
            Ok(_) => Ok(Version::V3),
            Err(error) => Err(failed(ttrpc::Error::Others(error.to_string()))),
        },
        // Go's servers and others do not know the service, and answer each with their own code.
        Err(ttrpc::Error::RpcStatus(status)) if status.code() != Code::DEADLINE_EXCEEDED => Ok(Version::V2),
        Err(error) => Err(failed(error)),
    }
}
