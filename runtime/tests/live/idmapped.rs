//! Idmapped mounts in live containers, with a user namespace and without.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::helpers::{Holder, script};
use crate::support::Bundle;

const LOOK: &str = "stat -c '%u:%g' /d/file; touch /d/made; stat -c '%u:%g' /d/made";

/// A container that inspects a directory of the host's, mounted with these options and maps; and that directory.
fn bundle(mount: Value) -> (Bundle, PathBuf) {
    let mut bundle = script(LOOK);
    let source = bundle.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(5), Some(6)).unwrap();
    let mut mount = mount;
    mount["destination"] = json!("/d");
    mount["type"] = json!("bind");
    mount["source"] = json!(source);
    bundle.config["mounts"].as_array_mut().unwrap().push(mount);
    (bundle, source)
}

fn range(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

fn owner(path: PathBuf) -> (u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn a_mount_has_maps_of_its_own() {
    let maps =
        json!({"options": ["bind", "idmap"], "uidMappings": range(0, 1000, 100), "gidMappings": range(0, 2000, 100)});
    let (mut bundle, source) = bundle(maps);
    // Root is not mapped there, and may not create files. The user to which the source's root is mapped may.
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 2000});
    assert_eq!(bundle.run_ok(), "1005:2006\n1000:2000\n");
    assert_eq!(owner(source.join("made")), (0, 0));
    // Without the option the maps apply too, as with runc.
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.config["mounts"][last]["options"] = json!(["bind"]);
    assert_eq!(bundle.run_ok(), "1005:2006\n1000:2000\n");
    bundle.config["mounts"][last].as_object_mut().unwrap().retain(|field, _| !field.ends_with("Mappings"));
    bundle.config["mounts"][last]["options"] = json!(["bind", "idmap=uids=0-1000-100;gids=0-2000-100"]);
    assert_eq!(bundle.run_ok(), "1005:2006\n1000:2000\n");
}

#[test]
fn the_containers_user_namespace_maps_a_mount() {
    let (mut bundle, source) = bundle(json!({"options": ["bind", "idmap"]}));
    bundle.map_ids();
    assert_eq!(bundle.run_ok(), "5:6\n0:0\n");
    assert_eq!(owner(source.join("made")), (0, 0));
}

#[test]
fn a_joined_user_namespace_maps_a_mount() {
    let holder = Holder::new(&["--user"]);
    for file in ["uid_map", "gid_map"] {
        fs::write(holder.path("user").replace("ns/user", file), "0 100000 65536").unwrap();
    }
    let (mut bundle, source) = bundle(json!({"options": ["bind", "idmap"]}));
    bundle.map_ids();
    bundle.namespace("user", Some(json!({"type": "user", "path": holder.path("user")})));
    for field in ["uidMappings", "gidMappings"] {
        bundle.config["linux"].as_object_mut().unwrap().remove(field);
    }
    assert_eq!(bundle.run_ok(), "5:6\n0:0\n");
    assert_eq!(owner(source.join("made")), (0, 0));
}

/// A tmpfs below a source, until it is dropped.
struct Below(PathBuf);

impl Below {
    fn new(path: PathBuf) -> Below {
        fs::create_dir(&path).unwrap();
        brig_sys::mount::mount_raw(Some("tmpfs".as_ref()), &path, Some("tmpfs"), 0, None).unwrap();
        fs::write(path.join("file"), "").unwrap();
        Below(path)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _ = brig_sys::mount::detach(&self.0);
    }
}

#[test]
fn mounts_below_are_mapped_when_that_is_asked_for() {
    for (option, below) in [("ridmap", "1000:2000"), ("idmap", "0:0")] {
        let maps = json!({"options": ["rbind", option], "uidMappings": range(0, 1000, 100), "gidMappings": range(0, 2000, 100)});
        let (mut bundle, source) = bundle(maps);
        let mounted = Below::new(source.join("below"));
        bundle.config["process"]["args"][2] = json!("stat -c '%u:%g' /d/file /d/below/file");
        assert_eq!(bundle.run_ok(), format!("1005:2006\n{below}\n"), "{option}");
        drop(mounted);
    }
}

#[test]
fn a_mount_that_cannot_be_mapped_reports_the_cause() {
    let maps =
        json!({"options": ["bind", "idmap"], "uidMappings": range(0, 1000, 100), "gidMappings": range(0, 2000, 100)});
    let (mut bundle, _) = bundle(maps);
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.config["mounts"][last]["source"] = json!("/sys/kernel");
    let error = bundle.run_fails();
    assert!(
        error.contains(&format!("mounts[{last}]")) && error.contains("does not support idmapped mounts"),
        "{error}"
    );
    bundle.config["mounts"][last]["source"] = json!("/nonexistent");
    assert!(bundle.run_fails().contains(&format!("mounts[{last}].source: stat /nonexistent")));
}
