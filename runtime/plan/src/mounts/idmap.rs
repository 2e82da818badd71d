//! Idmapped mounts: the id mapping of a bind's source (config.md, Mounts, `uidMappings`, `idmap`, `ridmap`).

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use super::{Findings, MountContext, MountEntry, MountKind, options};
use crate::idmap::{IdMap, IdRange};

/// The id mapping of a mount.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MountMap {
    /// Whether the mounts below the source are mapped too.
    pub recursive: bool,
    /// The source of the maps.
    pub by: MappedBy,
}

/// The source of an idmapped mount's maps. The ids of the mount's source are on the container's side of each map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MappedBy {
    /// User map and group map.
    Maps(IdMap, IdMap),
    /// The user namespace of this file, which the container joins.
    Namespace(PathBuf),
}

/// The container's user namespace, as a source of maps for mounts.
pub(super) fn of_container(linux: Option<&Linux>) -> Option<MappedBy> {
    let linux = linux?;
    let user = linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == LinuxNamespaceType::User)?;
    Some(match user.path() {
        Some(path) if !path.as_os_str().is_empty() => MappedBy::Namespace(path.clone()),
        _ => MappedBy::Maps(IdMap::new(linux.uid_mappings().as_deref()), IdMap::new(linux.gid_mappings().as_deref())),
    })
}

/// Plans the map of one mount, if it has any.
pub(super) fn build(
    entry: MountEntry<'_>,
    kind: &MountKind,
    parsed: &options::Parsed,
    context: &MountContext<'_>,
    findings: &mut Findings,
) -> Option<MountMap> {
    let at = |field: &str| entry.at(field);
    let mount = entry.mount;
    let MountContext { container, host, .. } = *context;
    let (uids, gids) = (IdMap::new(mount.uid_mappings().as_deref()), IdMap::new(mount.gid_mappings().as_deref()));
    let given = !uids.is_empty() || !gids.is_empty();
    if !given && parsed.idmap.is_none() {
        return None;
    }
    let (recursive, text) = parsed.idmap.clone().unwrap_or_default();
    if !matches!(kind, MountKind::Bind { .. }) {
        findings.deny(
            at("options"),
            "id-mapped mounts are only supported for bind-mounts",
            "add bind, or drop the map",
        );
        return None;
    }
    if host.euid != 0 {
        let reason = "id-mapped mounts are not supported for rootless containers";
        findings.deny(at("options"), reason, "the kernel wants privilege over the file system: run as root");
        return None;
    }
    let by = match (given, text) {
        (true, None) => MappedBy::Maps(uids, gids),
        (true, Some(_)) => {
            findings.deny(at("options"), "it has maps, and so have uidMappings and gidMappings", "give one of them");
            return None;
        }
        (false, Some(text)) => match maps(&text, container) {
            Ok((uids, gids)) => MappedBy::Maps(uids, gids),
            Err(reason) => {
                let remedy = "write idmap=uids=CONTAINER-HOST-SIZE#...;gids=CONTAINER-HOST-SIZE#...";
                findings.deny(at("options"), reason, remedy);
                return None;
            }
        },
        (false, None) => match container {
            Some(by) => by.clone(),
            None => {
                let reason = "idmap takes the map of the container's user namespace, and it has none of its own";
                findings.deny(at("options"), reason, "give uidMappings and gidMappings, or a user namespace");
                return None;
            }
        },
    };
    if let MappedBy::Maps(uids, gids) = &by {
        for (field, map) in [("uidMappings", uids), ("gidMappings", gids)] {
            map.check(&at(field), findings);
            if map.is_empty() {
                let reason = "id-mapped mounts must have both uid and gid mappings specified";
                findings.deny(at(field), reason, "map at least one id");
            }
        }
    }
    Some(MountMap { recursive, by })
}

/// Parses the maps of crun's `idmap=uids=0-1-10#10-11-10;gids=0-100-10`. After an `@` the second number of each is a
/// container id to be translated to the host's.
fn maps(text: &str, container: Option<&MappedBy>) -> Result<(IdMap, IdMap), String> {
    let (mut uids, mut gids) = (IdMap::default(), IdMap::default());
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (name, ranges) = part.split_once('=').unwrap_or((part, ""));
        let (map, outer): (&mut IdMap, fn(&MappedBy) -> Option<&IdMap>) = match name {
            "uids" => (&mut uids, |by| if let MappedBy::Maps(uids, _) = by { Some(uids) } else { None }),
            "gids" => (&mut gids, |by| if let MappedBy::Maps(_, gids) = by { Some(gids) } else { None }),
            _ => return Err(format!("{name:?} is neither uids nor gids")),
        };
        for range in ranges.split('#') {
            let (range, relative) = range.strip_prefix('@').map_or((range, false), |range| (range, true));
            let numbers: Option<Vec<u32>> = range.split('-').map(|number| number.parse().ok()).collect();
            let Some(&[inner, mut host, size]) = numbers.as_deref() else {
                return Err(format!("{range:?} is no range of ids"));
            };
            if relative {
                host = container.and_then(outer).and_then(|map| map.host_id(host)).ok_or_else(|| {
                    format!("the container's user namespace does not map id {host} by its configuration")
                })?;
            }
            map.ranges.push(IdRange { container: inner, host, size });
        }
    }
    Ok((uids, gids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::MountOptions;
    use crate::mounts::tests::{build_json, denied, host};

    const MAPPED: &str = r#"{"destination":"/x","type":"bind","source":"/y","options":["rbind","ridmap"],
        "uidMappings":[{"containerID":0,"hostID":1000,"size":10}],"gidMappings":[{"containerID":0,"hostID":2000,"size":10}]}"#;

    fn plan(mount: &str, linux: &str) -> (Option<MountMap>, Vec<String>) {
        let json = format!(r#"{{"ociVersion":"1.2.0","root":{{"path":"r"}},"mounts":[{mount}],"linux":{{{linux}}}}}"#);
        let (plan, findings) = build_json(&json, &MountOptions::default(), &host());
        let faults = denied(&findings).into_iter().map(str::to_owned).collect();
        (plan.mounts.into_iter().next().and_then(|op| op.map), faults)
    }

    const USER: &str = r#""namespaces":[{"type":"mount"},{"type":"user"}],
        "uidMappings":[{"containerID":0,"hostID":0,"size":1},{"containerID":1,"hostID":2,"size":1000}],
        "gidMappings":[{"containerID":0,"hostID":500,"size":9}]"#;
    const PLAIN: &str = r#""namespaces":[{"type":"mount"}]"#;

    fn map_of(container: u32, host: u32, size: u32) -> IdMap {
        IdMap { ranges: vec![IdRange { container, host, size }] }
    }

    #[test]
    fn maps_come_from_the_mount_or_from_the_containers_namespace() {
        let by = MappedBy::Maps(map_of(0, 1000, 10), map_of(0, 2000, 10));
        assert_eq!(plan(MAPPED, PLAIN), (Some(MountMap { recursive: true, by: by.clone() }), vec![]));
        let silent = MAPPED.replace(r#","ridmap""#, "");
        assert_eq!(plan(&silent, USER), (Some(MountMap { recursive: false, by }), vec![]));
        let bare = r#"{"destination":"/x","type":"bind","source":"/y","options":["bind","idmap"]}"#;
        let (map, faults) = plan(bare, USER);
        assert_eq!(faults, [""; 0]);
        assert!(
            matches!(map.unwrap().by, MappedBy::Maps(uids, gids) if uids.ranges.len() == 2 && gids == map_of(0, 500, 9))
        );
        let joined = r#""namespaces":[{"type":"mount"},{"type":"user","path":"/proc/7/ns/user"}]"#;
        let (map, _) = plan(bare, joined);
        assert_eq!(map.unwrap().by, MappedBy::Namespace("/proc/7/ns/user".into()));
        assert_eq!(plan(bare, PLAIN), (None, vec!["mounts[0].options".to_owned()]));
        let bind = r#"{"destination":"/x","type":"bind","source":"/y","options":["bind"]}"#;
        assert_eq!(plan(bind, USER), (None, vec![]));
    }

    #[test]
    fn cruns_option_is_parsed_and_relative_ids_are_translated() {
        let with = |option: &str| {
            plan(&format!(r#"{{"destination":"/x","type":"bind","source":"/y","options":["bind","{option}"]}}"#), USER)
        };
        let (map, faults) = with("idmap=uids=0-1-10#10-11-10;gids=0-100-10");
        assert_eq!(faults, [""; 0]);
        let mut uids = map_of(0, 1, 10);
        uids.ranges.push(IdRange { container: 10, host: 11, size: 10 });
        assert_eq!(map.unwrap(), MountMap { recursive: false, by: MappedBy::Maps(uids, map_of(0, 100, 10)) });
        let (map, _) = with("ridmap=uids=@1-3-10;gids=0-100-10");
        assert_eq!(
            map.unwrap(),
            MountMap { recursive: true, by: MappedBy::Maps(map_of(1, 4, 10), map_of(0, 100, 10)) }
        );
        for bad in
            ["idmap=uids=0-1", "idmap=x=0-1-1", "idmap=uids=@5000-5000-1;gids=0-0-1", "idmap=uids=0-1-a;gids=0-0-1"]
        {
            assert_eq!(with(bad), (None, vec!["mounts[0].options".to_owned()]), "{bad}");
        }
        assert_eq!(with("idmap=uids=0-1-1").1, ["mounts[0].gidMappings"]);
    }

    #[test]
    fn an_invalid_map_is_refused_with_its_path() {
        for (mount, place) in [
            (MAPPED.replace("bind", "tmpfs").replace("rtmpfs", "ro"), "mounts[0].options"),
            (MAPPED.replace(r#""size":10}],"gid"#, r#""size":0}],"gid"#), "mounts[0].uidMappings[0]"),
            (MAPPED.replace("gidMappings", "other"), "mounts[0].gidMappings"),
            (MAPPED.replace("ridmap", "ridmap=uids=0-1-1;gids=0-1-1"), "mounts[0].options"),
        ] {
            assert_eq!(plan(&mount, PLAIN).1, [place], "{mount}");
        }
    }
}
