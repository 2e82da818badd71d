//! A validated mount request, with its options sorted by their receiver.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use brig_plan::Findings;
use brig_plan::idmap::{IdMap, IdRange};
use brig_plan::mounts::options;
use brig_sys::mount::Filesystem;

use super::Mount;
use crate::error::{Error, ErrorKind, Result};

/// A validated mount request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The request's index in the caller's list.
    pub index: usize,
    pub kind: Kind,
    pub source: OsString,
    /// The path below the root file system; empty for the root itself.
    pub target: PathBuf,
    /// MS_ flags that the options set.
    pub flags: u64,
    /// MS_ flags that the options clear by name.
    pub cleared: u64,
    pub propagation: Vec<u64>,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
    pub idmap: Option<IdMaps>,
    /// Whether the source is a file to be attached to a loop device.
    pub loop_device: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Bind { recursive: bool },
    Overlay(Layers),
    Other(String),
}

/// An id range of an idmapped mount: ids inside the user namespace, and outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdMaps {
    pub uid: IdMap,
    pub gid: IdMap,
}

/// The directories of an overlay (Documentation/filesystems/overlayfs.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Lower layers, the topmost first.
    pub lower: Vec<String>,
    /// Data-only layers: they provide file contents alone.
    pub data: Vec<String>,
    pub upper: Option<String>,
    pub work: Option<String>,
}

impl Request {
    pub(super) fn new(index: usize, mount: &Mount) -> Result<Request> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidConfig, format!("rootfs[{index}]: {what}"));
        let is_ours = |option: &&String| options::meaning(option).is_some();
        let ours: Vec<&String> = mount.options.iter().filter(is_ours).collect();
        let parsed = options::parse(&ours);
        let mut request = Request {
            index,
            kind: Kind::Other(mount.kind.clone()),
            source: OsString::from(&mount.source),
            target: mount.target.strip_prefix("/").unwrap_or(&mount.target).to_owned(),
            flags: parsed.flags,
            cleared: parsed.cleared,
            propagation: parsed.propagation,
            data: Vec::new(),
            idmap: None,
            loop_device: false,
        };
        if !parsed.own.is_empty() || parsed.recursive {
            let what = "one of these is for a container's own mounts, not for its root";
            return Err(invalid(format!("options {:?}: {what}", mount.options)));
        }
        if parsed.flags & libc::MS_REMOUNT != 0 {
            return Err(invalid("remount: a root file system is mounted anew".to_owned()));
        }
        let (mut uid, mut gid) = (None, None);
        // Each string is one option, commas included, as containerd writes them: it is not a list.
        for option in mount.options.iter().filter(|option| !is_ours(option) && !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            let wrong = |what: String| invalid(format!("{option:?}: {what}"));
            match (name, value) {
                ("uidmap", Some(value)) => uid = Some(id_map(value).map_err(wrong)?),
                ("gidmap", Some(value)) => gid = Some(id_map(value).map_err(wrong)?),
                ("loop", None) => request.loop_device = true,
                ("loop", Some(_)) => return Err(wrong("expected no device: a free one is found".to_owned())),
                _ => request.data.push((name.to_owned(), value.map(str::to_owned))),
            }
        }
        request.idmap = match (uid, gid) {
            (Some(uid), Some(gid)) => Some(IdMaps { uid, gid }),
            (None, None) => None,
            _ => return Err(invalid("uidmap and gidmap are wanted together".to_owned())),
        };
        request.kind = match mount.kind.as_str() {
            // A mount is a bind mount by its type or by its options.
            "bind" | "rbind" => Kind::Bind { recursive: mount.kind == "rbind" || parsed.flags & libc::MS_REC != 0 },
            _ if parsed.flags & libc::MS_BIND != 0 => Kind::Bind { recursive: parsed.flags & libc::MS_REC != 0 },
            "overlay" => Kind::Overlay(Layers::take(&mut request.data)),
            "" => return Err(invalid("type is empty: expected bind, overlay or a file system".to_owned())),
            kind => Kind::Other(kind.to_owned()),
        };
        if request.loop_device && !matches!(request.kind, Kind::Other(_)) {
            return Err(invalid(format!("\"loop\": a {} mount has no block device", mount.kind)));
        }
        if matches!(request.kind, Kind::Bind { .. }) && !request.data.is_empty() {
            let names: Vec<&str> = request.data.iter().map(|(name, _)| name.as_str()).collect();
            tracing::warn!("rootfs[{index}]: a bind mount has no options of its own, these do nothing: {names:?}");
        }
        Ok(request)
    }

    /// The prefix of this request's errors.
    pub(super) fn describe(&self, rootfs: &Path) -> String {
        let kind = match &self.kind {
            Kind::Bind { .. } => "bind",
            Kind::Overlay(_) => "overlay",
            Kind::Other(kind) => kind,
        };
        let target = if self.target.as_os_str().is_empty() { rootfs.to_owned() } else { rootfs.join(&self.target) };
        format!("rootfs[{}]: cannot mount {kind} {:?} on {}", self.index, self.source, target.display())
    }
}

/// Parses `INSIDE:OUTSIDE:SIZE`, or several of these separated by commas.
fn id_map(text: &str) -> std::result::Result<IdMap, String> {
    let range = |text: &str| {
        let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some([container, host, size]) => Ok(IdRange { container: *container, host: *host, size: *size }),
            _ => Err(format!("{text:?} is no mapping: expected INSIDE:OUTSIDE:SIZE, such as 0:100000:65536")),
        }
    };
    let map = IdMap { ranges: text.split(',').map(range).collect::<std::result::Result<_, _>>()? };
    let mut findings = Findings::default();
    map.check("mapping", &mut findings);
    match findings.violations.first() {
        Some(violation) => Err(violation.to_string()),
        None => Ok(map),
    }
}

impl Layers {
    /// Removes the layers from overlay's options. The last option of one name counts, as in the kernel.
    fn take(data: &mut Vec<(String, Option<String>)>) -> Layers {
        let mut layers = Layers::default();
        data.retain(|(name, value)| {
            let Some(value) = value else { return true };
            match name.as_str() {
                "lowerdir" => (layers.lower, layers.data) = split(value),
                "upperdir" => layers.upper = Some(value.clone()),
                "workdir" => layers.work = Some(value.clone()),
                _ => return true,
            }
            false
        });
        layers
    }

    /// All lower layers as the value of one option.
    pub(super) fn in_one(&self) -> String {
        let escaped = |path: &String| path.replace('\\', "\\\\").replace(':', "\\:");
        let lower: Vec<String> = self.lower.iter().map(escaped).collect();
        let data: String = self.data.iter().map(|path| format!("::{}", escaped(path))).collect();
        lower.join(":") + &data
    }

    /// The number of bytes that these options take.
    pub(super) fn length(&self) -> usize {
        let option = |name: &str, value: usize| name.len() + value + 2;
        option("lowerdir", self.in_one().len())
            + option("upperdir", self.upper.as_deref().unwrap_or("").len())
            + option("workdir", self.work.as_deref().unwrap_or("").len())
    }

    /// Adds the directories that are written to.
    pub(super) fn writable<'a>(&'a self, fs: Filesystem<'a>) -> Filesystem<'a> {
        let named = [("upperdir", &self.upper), ("workdir", &self.work)];
        named.into_iter().fold(fs, |fs, (name, path)| match path {
            Some(path) => fs.parameter(name, Some(Cow::from(path))),
            None => fs,
        })
    }
}

/// Splits `a:b::c` into lower layers, and data layers after double colons. A backslash escapes a colon.
fn split(text: &str) -> (Vec<String>, Vec<String>) {
    let mut parts = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let last = parts.len() - 1;
        match letter {
            '\\' => parts[last].extend(letters.next()),
            ':' => parts.push(String::new()),
            letter => parts[last].push(letter),
        }
    }
    let (mut lower, mut data) = (Vec::new(), Vec::new());
    let mut is_data = false;
    for part in parts {
        match (part.is_empty(), is_data) {
            (true, _) => is_data = !lower.is_empty(),
            (false, false) => lower.push(part),
            (false, true) => data.push(part),
        }
    }
    (lower, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: kind.into(), source: "src".into(), options, ..Mount::default() }
    }

    #[test]
    fn an_overlay_as_containerd_writes_it() {
        let options = ["index=off", "userxattr", "volatile", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "ro"];
        let request = Request::new(0, &mount("overlay", &options)).unwrap();
        let Kind::Overlay(layers) = &request.kind else { panic!("{request:?}") };
        assert_eq!(layers.lower, ["/b", "/a"]);
        assert_eq!((layers.upper.as_deref(), layers.work.as_deref()), (Some("/u"), Some("/w")));
        assert_eq!(request.flags, libc::MS_RDONLY);
        let names: Vec<&str> = request.data.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["index", "userxattr", "volatile"]);
    }

    #[test]
    fn layers_are_split_and_joined_the_kernels_way() {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(split("/a:/b"), (owned(&["/a", "/b"]), vec![]));
        assert_eq!(split(r"/a\:1:/b\\2"), (owned(&["/a:1", r"/b\2"]), vec![]));
        assert_eq!(split("/a:/b::/c::/d"), (owned(&["/a", "/b"]), owned(&["/c", "/d"])));
        let layers = Layers { lower: owned(&["/a:1", r"/b\2"]), data: owned(&["/c"]), ..Layers::default() };
        assert_eq!(layers.in_one(), r"/a\:1:/b\\2::/c");
        assert_eq!(split(&layers.in_one()), (layers.lower.clone(), layers.data.clone()));
    }

    #[test]
    fn a_bind_is_one_by_type_or_option() {
        let recursive = |kind: &str, options: &[&str]| match Request::new(0, &mount(kind, options)).unwrap().kind {
            Kind::Bind { recursive } => Some(recursive),
            _ => None,
        };
        assert_eq!(recursive("bind", &["rbind", "ro"]), Some(true));
        assert_eq!(recursive("bind", &["ro"]), Some(false));
        assert_eq!(recursive("none", &["bind"]), Some(false));
        assert_eq!(recursive("ext4", &["ro"]), None);
    }

    #[test]
    fn id_maps_come_in_pairs() {
        let request = Request::new(0, &mount("bind", &["uidmap=0:1000:10,10:5000:5", "gidmap=0:2000:10"])).unwrap();
        let maps = request.idmap.unwrap();
        assert_eq!(maps.uid.ranges[1], IdRange { container: 10, host: 5000, size: 5 });
        assert_eq!(maps.gid.ranges, [IdRange { container: 0, host: 2000, size: 10 }]);
    }

    #[test]
    fn fields_that_cannot_be_honoured_are_named() {
        let says = |kind: &str, options: &[&str]| {
            let error = Request::new(3, &mount(kind, options)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            error.to_string()
        };
        assert!(says("bind", &["loop"]).starts_with("rootfs[3]: \"loop\": a bind mount has no block device"));
        assert!(says("ext4", &["loop=/dev/loop7"]).contains("\"loop=/dev/loop7\": expected no device"));
        assert!(says("bind", &["uidmap=0:1:1"]).contains("together"));
        assert!(says("bind", &["uidmap=0:1", "gidmap=0:1:1"]).contains("\"uidmap=0:1\": \"0:1\" is no mapping"));
        assert!(says("bind", &["uidmap=0:4294967295:1", "gidmap=0:1:1"]).contains("goes past the last id, 4294967294"));
        assert!(says("bind", &["uidmap=0:1:0", "gidmap=0:1:1"]).contains("size is 0"));
        assert!(says("bind", &["remount"]).contains("remount"));
        assert!(says("", &[]).contains("type is empty"));
        assert!(says("tmpfs", &["tmpcopyup"]).contains("tmpcopyup"));
    }
}
