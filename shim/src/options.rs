//! The runtime options of a container, from either message that containerd knows.
//!
//! - `containerd.runc.v1.Options` (containerd's api/types/runc/options/oci.proto): typed fields. CRI sends it only for
//!   a runtime that is literally named io.containerd.runc.v2; `ctr` and Docker send it for any.
//! - `containerd.linux.runc.CreateOptions` (containerd 1.6's runtime/linux/runctypes/runc.proto): what the client of 1.6
//!   sends for a runtime that is not called io.containerd.runc.*; few of the same fields, by other numbers.
//! - `runtimeoptions.v1.Options` (containerd's api/types/runtimeoptions/v1/api.proto): `config_body`, the TOML of the
//!   runtime's section in containerd's configuration, or `config_path`, a TOML file of that form.
//!
//! The TOML keys are the fields' names in Go (`SystemdCgroup`); case and underscores do not matter, as in containerd's
//! own reader. An unknown key is a warning; a value of the wrong type is an error, because the change that it asks for
//! would silently not happen.

use std::path::Path;
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};
use serde_json::{Map, Value};

use crate::file::{self, Links};
use crate::io::OutputTimeouts;

/// The largest size of a configuration file, in bytes.
const MAX_CONFIG_LEN: usize = 1 << 20;

/// The runtime options of containerd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the old root is kept reachable instead of pivot_root (for a root on a ramfs).
    pub no_pivot_root: bool,
    /// Whether the container gets no session keyring of its own.
    pub no_new_keyring: bool,
    /// The cgroup of the shim itself; empty for the caller's.
    pub shim_cgroup: String,
    /// Owner of the pipes of a container's output.
    pub io_uid: u32,
    /// Group of the pipes of a container's output.
    pub io_gid: u32,
    /// Another OCI runtime to execute; empty for this shim's own engine.
    pub binary_name: String,
    /// The directory of the runtime's records; empty for the default.
    pub root: String,
    /// Whether systemd manages the cgroups. `None` where the options do not say so: containerd.runc.v1.Options cannot
    /// express false.
    pub systemd_cgroup: Option<bool>,
    /// The directory of checkpoints, for saving and restoring.
    pub criu_image_path: String,
    /// The directory of CRIU's log.
    pub criu_work_path: String,
    /// The address of a sandbox's own task service; empty for this shim.
    pub task_api_address: String,
    /// The version of that task service.
    pub task_api_version: u32,
    /// The limits for which unread output may delay an exit event and a deletion: keys of the TOML alone,
    /// `ExitOutputTimeoutSec` and `DeleteOutputTimeoutSec`.
    pub output_timeouts: OutputTimeouts,
}

/// Reads the options of a request. Without any, or with an empty message, all are the defaults.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a message of another type, one that cannot be read, a configuration file that
/// cannot be read, invalid TOML, and a value of the wrong type; the message names the key.
pub fn parse(any: Option<&Any>) -> Result<Options> {
    let Some(any) = any else { return Ok(Options::default()) };
    // With a prefix (type.googleapis.com/...) or without; older daemons prepend the name of a plugin.
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let options = match name {
        "" if any.value.is_empty() => Options::default(),
        "containerd.runc.v1.Options" => from_runc(&any.value)?,
        "containerd.linux.runc.CreateOptions" => from_linux(&any.value)?,
        name if name.ends_with("runtimeoptions.v1.Options") => from_generic(&any.value)?,
        // containerd 1.x's empty options.
        "google.protobuf.Empty" => Options::default(),
        _ => {
            return Err(invalid(format!(
                "runtime options of type {:?}: expected containerd.runc.v1.Options, \
                 containerd.linux.runc.CreateOptions or runtimeoptions.v1.Options",
                any.type_url
            )));
        }
    };
    check_ids(&options)?;
    Ok(options)
}

/// The largest user or group id.
const MAX_ID: u32 = u32::MAX - 1;

/// (uid_t)-1 is not a valid id: fchown(2) would leave the pipes with their owner.
fn check_ids(options: &Options) -> Result<()> {
    for (name, id) in [("IoUid", options.io_uid), ("IoGid", options.io_gid)] {
        if id > MAX_ID {
            return Err(invalid(format!("runtime options: {name} is {id}: expected 0 to {MAX_ID}")));
        }
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn from_runc(bytes: &[u8]) -> Result<Options> {
    let message = oci::Options::parse_from_bytes(bytes)
        .map_err(|error| invalid(format!("runtime options: containerd.runc.v1.Options cannot be read: {error}")))?;
    for (number, _) in message.special_fields.unknown_fields().iter() {
        match number {
            8 => tracing::warn!("runtime options: CriuPath does nothing: criu is found by PATH"),
            number => tracing::warn!("runtime options: field {number} of containerd.runc.v1.Options is not known"),
        }
    }
    Ok(Options {
        no_pivot_root: message.no_pivot_root,
        no_new_keyring: message.no_new_keyring,
        shim_cgroup: message.shim_cgroup,
        io_uid: message.io_uid,
        io_gid: message.io_gid,
        binary_name: message.binary_name,
        root: message.root,
        systemd_cgroup: message.systemd_cgroup.then_some(true),
        criu_image_path: message.criu_image_path,
        criu_work_path: message.criu_work_path,
        task_api_address: message.task_api_address,
        task_api_version: message.task_api_version,
        output_timeouts: OutputTimeouts::default(),
    })
}

/// Decodes containerd.linux.runc.CreateOptions.
fn from_linux(bytes: &[u8]) -> Result<Options> {
    let read = || -> protobuf::Result<Options> {
        let mut options = Options::default();
        let mut stream = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = stream.read_raw_tag_or_eof()? {
            // A tag is the field's number and its wire type: 0 is "varint", 2 is "length-delimited".
            match (tag >> 3, tag & 7) {
                (1, 0) => options.no_pivot_root = stream.read_bool()?,
                (8, 0) => options.no_new_keyring = stream.read_bool()?,
                (9, 2) => options.shim_cgroup = stream.read_string()?,
                (10, 0) => options.io_uid = stream.read_uint32()?,
                (11, 0) => options.io_gid = stream.read_uint32()?,
                (12, 2) => options.criu_work_path = stream.read_string()?,
                (13, 2) => options.criu_image_path = stream.read_string()?,
                // Fields 2 to 7 concern checkpoints, whose request has them too.
                _ => protobuf::rt::skip_field_for_tag(tag, &mut stream)?,
            }
        }
        Ok(options)
    };
    read().map_err(|error| {
        invalid(format!("runtime options: containerd.linux.runc.CreateOptions cannot be read: {error}"))
    })
}

/// The fields of runtimeoptions.v1.Options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Generic {
    config_path: String,
    config_body: Vec<u8>,
}

fn from_generic(bytes: &[u8]) -> Result<Options> {
    let generic = Generic::decode(bytes)
        .map_err(|error| invalid(format!("runtime options: runtimeoptions.v1.Options cannot be read: {error}")))?;
    let mut options = Options::default();
    if !generic.config_path.is_empty() {
        let path = Path::new(&generic.config_path);
        let text = read(path).map_err(|error| error.with_kind(ErrorKind::InvalidConfig))?;
        options.apply(&text, &path.display().to_string())?;
    }
    // The body in the configuration itself takes precedence over a file that it names.
    if !generic.config_body.is_empty() {
        let text = std::str::from_utf8(&generic.config_body)
            .map_err(|_| invalid("runtime options: config_body is not UTF-8: expected TOML"))?;
        options.apply(text, "config_body")?;
    }
    Ok(options)
}

impl Generic {
    /// Decodes the message without generated code: field 1 is type_url, which adds no information; 2 is config_path; 3
    /// is config_body.
    fn decode(bytes: &[u8]) -> protobuf::Result<Generic> {
        let mut generic = Generic::default();
        let mut stream = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = stream.read_raw_tag_or_eof()? {
            // A tag is the field's number and its wire type; 2 is "length-delimited".
            match (tag >> 3, tag & 7) {
                (2, 2) => generic.config_path = stream.read_string()?,
                (3, 2) => generic.config_body = stream.read_bytes()?,
                _ => {
                    protobuf::rt::skip_field_for_tag(tag, &mut stream)?;
                }
            }
        }
        Ok(generic)
    }
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("runtime options: config_path {}", path.display());
    let bytes = file::read(path, Links::Follow, MAX_CONFIG_LEN).with_context(what)?;
    let bytes = bytes.ok_or_else(|| invalid(format!("{}: there is no such file", what())))?;
    String::from_utf8(bytes).map_err(|_| invalid(format!("{}: not UTF-8", what())))
}

/// The destination of a key's value.
enum Field<'a> {
    Switch(&'a mut bool),
    Text(&'a mut String),
    Number(&'a mut u32),
    /// A number of seconds.
    Timeout(&'a mut Duration),
    /// A known key that is for another reader.
    Ignored,
    /// A former option.
    Removed,
}

impl Options {
    /// The field of a key, which is in lower case and without underscores.
    fn field(&mut self, key: &str) -> Option<Field<'_>> {
        Some(match key {
            "nopivotroot" => Field::Switch(&mut self.no_pivot_root),
            "nonewkeyring" => Field::Switch(&mut self.no_new_keyring),
            "shimcgroup" => Field::Text(&mut self.shim_cgroup),
            "iouid" => Field::Number(&mut self.io_uid),
            "iogid" => Field::Number(&mut self.io_gid),
            "binaryname" => Field::Text(&mut self.binary_name),
            "root" => Field::Text(&mut self.root),
            "systemdcgroup" => Field::Switch(self.systemd_cgroup.insert(false)),
            "criuimagepath" => Field::Text(&mut self.criu_image_path),
            "criuworkpath" => Field::Text(&mut self.criu_work_path),
            "taskapiaddress" => Field::Text(&mut self.task_api_address),
            "taskapiversion" => Field::Number(&mut self.task_api_version),
            "exitoutputtimeoutsec" => Field::Timeout(&mut self.output_timeouts.exit),
            "deleteoutputtimeoutsec" => Field::Timeout(&mut self.output_timeouts.delete),
            // The message's own fields stand in the same section of containerd's configuration.
            "typeurl" | "configpath" | "configbody" => Field::Ignored,
            "criupath" => Field::Removed,
            _ => return None,
        })
    }

    /// Applies the settings of the TOML `text`. `from` names its origin, for messages.
    fn apply(&mut self, text: &str, from: &str) -> Result<()> {
        let table: Map<String, Value> = basic_toml::from_str(text)
            .map_err(|error| invalid(format!("runtime options: {from} is not the TOML expected: {error}")))?;
        for (key, value) in &table {
            let plain = key.replace('_', "").to_ascii_lowercase();
            let Some(field) = self.field(&plain) else {
                tracing::warn!("runtime options: {from}: the key {key} is not known, and does nothing");
                continue;
            };
            let expected = match (field, value) {
                (Field::Switch(place), Value::Bool(value)) => {
                    *place = *value;
                    continue;
                }
                (Field::Text(place), Value::String(value)) => {
                    place.clone_from(value);
                    continue;
                }
                (Field::Number(place), value) => match number(value) {
                    Some(value) => {
                        *place = value;
                        continue;
                    }
                    None => "a number from 0 to 4294967295",
                },
                (Field::Timeout(place), value) => match number(value) {
                    Some(value) => {
                        *place = Duration::from_secs(value.into());
                        continue;
                    }
                    None => "seconds from 0 to 4294967295",
                },
                (Field::Ignored, _) => continue,
                (Field::Removed, _) => {
                    tracing::warn!("runtime options: {from}: {key} does nothing: criu is found by PATH");
                    continue;
                }
                (Field::Switch(_), _) => "true or false",
                (Field::Text(_), _) => "a string",
            };
            return Err(invalid(format!("runtime options: {from}: {key} is {value}: expected {expected}")));
        }
        Ok(())
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|value| u32::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    /// Encodes a length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length > 0x7f {
            out.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        out.push(length.to_le_bytes()[0]);
        out.extend_from_slice(bytes);
        out
    }

    fn generic(path: &str, body: &str) -> Any {
        let mut bytes = field(1, b"containerd.runc.v1.Options");
        bytes.extend(field(2, path.as_bytes()));
        bytes.extend(field(3, body.as_bytes()));
        any("runtimeoptions.v1.Options", bytes)
    }

    #[test]
    fn nothing_means_the_defaults() {
        assert_eq!(parse(None).unwrap(), Options::default());
        assert_eq!(parse(Some(&Any::default())).unwrap(), Options::default());
        assert_eq!(parse(Some(&any("runtimeoptions.v1.Options", vec![]))).unwrap(), Options::default());
    }

    #[test]
    fn runc_options_are_taken_over_with_any_prefix_and_an_unknown_field() {
        let message = oci::Options {
            no_pivot_root: true,
            no_new_keyring: true,
            shim_cgroup: "/shims".into(),
            io_uid: 5,
            io_gid: 6,
            binary_name: "crun".into(),
            root: "/run/x".into(),
            systemd_cgroup: true,
            criu_image_path: "/i".into(),
            criu_work_path: "/w".into(),
            task_api_address: "ttrpc+unix:///a".into(),
            task_api_version: 3,
            ..oci::Options::default()
        };
        let mut bytes = message.write_to_bytes().unwrap();
        bytes.extend(field(8, b"/usr/sbin/criu"));
        for prefix in ["", "types.containerd.io/", "type.googleapis.com/"] {
            let options = parse(Some(&any(&format!("{prefix}containerd.runc.v1.Options"), bytes.clone()))).unwrap();
            let expected = Options {
                no_pivot_root: true,
                no_new_keyring: true,
                shim_cgroup: "/shims".into(),
                io_uid: 5,
                io_gid: 6,
                binary_name: "crun".into(),
                root: "/run/x".into(),
                systemd_cgroup: Some(true),
                criu_image_path: "/i".into(),
                criu_work_path: "/w".into(),
                task_api_address: "ttrpc+unix:///a".into(),
                task_api_version: 3,
                output_timeouts: OutputTimeouts::default(),
            };
            assert_eq!(options, expected);
        }
    }

    #[test]
    fn options_of_the_client_of_1_6_are_taken_over() {
        let mut bytes = vec![1 << 3, 1, 2 << 3, 1];
        bytes.extend(field(7, b"soft"));
        bytes.extend([8 << 3, 1]);
        bytes.extend(field(9, b"/shims"));
        bytes.extend([10 << 3, 0xe8, 0x07, 11 << 3, 6]);
        bytes.extend(field(12, b"/w"));
        bytes.extend(field(13, b"/i"));
        let options = parse(Some(&any("containerd.linux.runc.CreateOptions", bytes))).unwrap();
        let expected = Options {
            no_pivot_root: true,
            no_new_keyring: true,
            shim_cgroup: "/shims".into(),
            io_uid: 1000,
            io_gid: 6,
            criu_work_path: "/w".into(),
            criu_image_path: "/i".into(),
            ..Options::default()
        };
        assert_eq!(options, expected);
        let error = parse(Some(&any("containerd.linux.runc.CreateOptions", vec![9 << 3 | 2, 9]))).unwrap_err();
        assert!(error.to_string().contains("CreateOptions cannot be read"), "{error}");
    }

    #[test]
    fn the_body_that_cri_sends_is_read_in_any_spelling() {
        let body = "TypeUrl = \"x\"\nBinaryName = \"\"\nSystemdCgroup = true\nio_uid = 7\nIoGid = 8\nNoPivotRoot = true\n\
            CriuImagePath = \"/c\"\nUnheardOf = [1]\n";
        let options = parse(Some(&generic("", body))).unwrap();
        let expected = Options {
            systemd_cgroup: Some(true),
            io_uid: 7,
            io_gid: 8,
            no_pivot_root: true,
            criu_image_path: "/c".into(),
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn toml_can_refuse_systemd_and_runc_s_message_cannot() {
        assert_eq!(parse(Some(&generic("", "SystemdCgroup = false"))).unwrap().systemd_cgroup, Some(false));
        assert_eq!(parse(Some(&generic("", "Root = \"/r\""))).unwrap().systemd_cgroup, None);
        assert_eq!(parse(Some(&any("containerd.runc.v1.Options", vec![]))).unwrap().systemd_cgroup, None);
    }

    #[test]
    fn timeouts_of_unread_output_are_seconds() {
        assert_eq!(parse(None).unwrap().output_timeouts.exit, Duration::from_secs(2));
        let options = parse(Some(&generic("", "ExitOutputTimeoutSec = 0\nDeleteOutputTimeoutSec = 60\n"))).unwrap();
        let expected = OutputTimeouts { exit: Duration::ZERO, delete: Duration::from_secs(60) };
        assert_eq!(options.output_timeouts, expected);
        let error = parse(Some(&generic("", "ExitOutputTimeoutSec = \"2s\""))).unwrap_err().to_string();
        assert!(error.contains("ExitOutputTimeoutSec is \"2s\": expected seconds"), "{error}");
    }

    #[test]
    fn a_file_is_read_and_the_body_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Root = \"/file\"\nShimCgroup = \"/s\"\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(parse(Some(&generic(path, ""))).unwrap().root, "/file");
        let both = parse(Some(&generic(path, "Root = \"/body\""))).unwrap();
        assert_eq!((both.root.as_str(), both.shim_cgroup.as_str()), ("/body", "/s"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let says = |any: &Any| {
            let error = parse(Some(any)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            error.to_string()
        };
        assert!(
            says(&generic("", "SystemdCgroup = \"yes\"")).contains("SystemdCgroup is \"yes\": expected true or false")
        );
        assert!(says(&generic("", "IoUid = -1")).contains("IoUid is -1: expected a number"));
        assert!(says(&generic("", "IoUid = 4294967295")).contains("IoUid is 4294967295: expected 0 to 4294967294"));
        assert!(says(&generic("", "IoGid = 4294967295")).contains("IoGid is 4294967295: expected 0 to 4294967294"));
        assert!(says(&generic("", "Root = 3")).contains("Root is 3: expected a string"));
        assert!(says(&generic("", "Root = ")).contains("config_body"));
        assert!(says(&generic("/nonexistent/brig.toml", "")).contains("/nonexistent/brig.toml"));
        assert!(says(&any("io.containerd.other.Options", vec![])).contains("io.containerd.other.Options"));
        assert!(says(&any("containerd.runc.v1.Options", vec![0xff])).contains("containerd.runc.v1.Options"));
        assert!(says(&any("runtimeoptions.v1.Options", vec![0x12, 9])).contains("cannot be read"));
    }
}
