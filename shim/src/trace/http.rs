//! The part of HTTP/1.1 that a collector needs: a POST, and the status of its response.

use std::fmt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes of a response that are read; its status is in the first line.
const MAX_RESPONSE_LEN: usize = 512;

/// The collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    host: String,
    port: u16,
    /// The path, with its leading slash.
    path: String,
}

impl Endpoint {
    /// Parses `http://HOST[:PORT][/PATH]`; `None` for anything else.
    pub(super) fn parse(url: &str) -> Option<Endpoint> {
        let rest = url.trim().strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(80), |port| port.parse().ok())?;
        let clean = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'@');
        (!host.is_empty() && clean(host) && clean(path)).then(|| Endpoint {
            host: host.to_owned(),
            port,
            path: format!("/{path}"),
        })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// Sends `body`, of the media type `kind`, and closes the connection.
///
/// # Errors
/// The failure as text: no connection, or a response whose status is no success.
pub(super) async fn post(to: &Endpoint, kind: &str, headers: &[(String, String)], body: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(failed)?;
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n",
        to.path,
        to.authority(),
        body.len()
    );
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(failed)?;
    stream.write_all(body).await.map_err(failed)?;
    let mut answer = Vec::with_capacity(MAX_RESPONSE_LEN);
    stream.take(MAX_RESPONSE_LEN as u64).read_to_end(&mut answer).await.map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let status = code.and_then(|code| code.parse().ok());
    match status {
        Some(200..=299_u16) => Ok(()),
        _ => Err(format!("the answer was {line:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_defaults_and_limits() {
        let shown = |url: &str| Endpoint::parse(url).map(|endpoint| endpoint.to_string());
        assert_eq!(shown("http://h").as_deref(), Some("http://h:80/"));
        assert_eq!(shown("http://h:4318/v1/traces").as_deref(), Some("http://h:4318/v1/traces"));
        assert_eq!(shown("http://[::1]:1/x").as_deref(), Some("http://[::1]:1/x"));
        for wrong in ["https://h", "h:4317", "http://", "http://h:port", "http://h/\r\nx", "http://user@h"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
