//! The command line compared with runc's, for commands without a container: exit codes, error texts, JSON.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BRIG: &str = env!("CARGO_BIN_EXE_brig");

fn run(program: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"))
}

fn brig(dir: &Path, args: &[&str]) -> Output {
    run(BRIG, dir, args)
}

/// Runs brig and runc in scratch directories of their own, with roots of their own.
fn both(args: &[&str]) -> [(i32, String, String); 2] {
    [BRIG, "runc"].map(|program| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let line = [&["--root", root.to_str().unwrap()], args].concat();
        let output = run(program, dir.path(), &line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), message(&text(&output.stderr)))
    })
}

/// The msg of a log line.
fn message(line: &str) -> String {
    let text = line.trim_end().split_once("msg=").map_or("", |(_, text)| text);
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).replace("\\\"", "\"")
}

#[test]
fn wrong_flags_and_arguments_have_the_outcome_of_runc() {
    for args in [
        &["--bogus", "spec"][..],
        &["spec", "--bogus"],
        &["--log"],
        &["spec", "--bundle"],
        &["--log-format", "xml", "spec"],
        &["spec", "-b", "/nonexistent"],
    ] {
        let [ours, theirs] = both(args);
        assert_eq!((ours.0, &ours.2), (theirs.0, &theirs.2), "{args:?}");
    }
    for args in [&["bogus"][..], &["help", "bogus"], &["spec", "extra"], &["checkpoint"]] {
        let [ours, theirs] = both(args);
        assert_eq!(ours.0, theirs.0, "{args:?}");
        let part = theirs.2.trim_end_matches("\\n").replace("runc: ", "");
        assert!(ours.2.contains(&part), "{args:?}: {part} is not in {}", ours.2);
    }
}

#[test]
fn verbs_without_their_container_have_the_outcome_of_runc() {
    for args in [
        &["state", "nope"][..],
        &["state", "a/b"],
        &["state", ".."],
        &["start", "nope"],
        &["kill", "nope"],
        &["kill", "nope", "FOO"],
        &["delete", "nope"],
        &["delete", "-f", "nope"],
        &["delete", "nope", "--force"],
        &["pause", "nope"],
        &["resume", "nope"],
        &["ps", "nope"],
        &["ps", "-f", "foo", "nope"],
        &["update", "nope"],
        &["update", "--memory", "1x", "nope"],
        &["events", "nope"],
        &["events", "--stats", "nope"],
        &["events", "--interval", "0s", "nope"],
        &["exec", "nope"],
        &["exec", "nope", "ls", "-l"],
    ] {
        let [mut ours, theirs] = both(args);
        // The container and the root follow runc's text.
        if let Some((before, rest)) = ours.2.split_once("container does not exist: ") {
            assert!(rest.contains(" (--root "), "{args:?}: {rest}");
            ours.2 = format!("{before}container does not exist");
        }
        assert_eq!(ours, theirs, "{args:?}");
    }
    for args in [&["list"][..], &["list", "-q"], &["list", "-f", "json"], &["list", "-f", "foo"]] {
        let [ours, _] = both(args);
        assert_eq!((ours.0, ours.1.as_str()), (1, ""), "{args:?}");
        assert!(
            ours.2.starts_with("open ") && ours.2.ends_with("/root: no such file or directory"),
            "{args:?}: {ours:?}"
        );
    }
    for args in [
        &["state"][..],
        &["state", "a", "b"],
        &["list", "extra"],
        &["exec"],
        &["run"],
        &["create", "nope"],
        &["create", "a/b"],
        &["run", "-b", "/nonexistent", "nope"],
    ] {
        let [ours, theirs] = both(args);
        assert_eq!(ours.0, theirs.0, "{args:?}: {ours:?} {theirs:?}");
        assert!(!ours.2.is_empty(), "{args:?}");
    }
}

/// Checks that every key of `theirs` is in `ours`, with a value of the same type.
fn assert_covers(ours: &Value, theirs: &Value, path: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let found = ours.get(key).unwrap_or_else(|| panic!("{path}.{key} is missing"));
                assert_covers(found, value, &format!("{path}.{key}"));
            }
        }
        (ours, theirs) => {
            assert_eq!(std::mem::discriminant(ours), std::mem::discriminant(theirs), "{path}: {ours} for {theirs}");
        }
    }
}

#[test]
fn features_have_runcs_shape() {
    let [ours, theirs] = both(&["features"]);
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (ours, mut theirs) = (value(&ours.1), value(&theirs.1));
    // Each runtime names its own product and version there.
    theirs["annotations"] = Value::Object(Default::default());
    assert_covers(&ours, &theirs, "features");
    for list in ["/linux/namespaces", "/linux/capabilities", "/hooks"] {
        let names = |value: &Value| -> Vec<Value> { value.pointer(list).unwrap().as_array().unwrap().clone() };
        assert!(names(&theirs).iter().all(|name| names(&ours).contains(name)), "{list}");
    }
}

#[test]
fn spec_writes_runcs_configuration() {
    for flags in [&[][..], &["--rootless"]] {
        let [ours, theirs] = [BRIG, "runc"].map(|program| {
            let dir = tempfile::tempdir().unwrap();
            let output = run(program, dir.path(), &[&["spec"], flags].concat());
            assert!(output.status.success() && output.stdout.is_empty());
            let mut config: Value =
                serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
            // The version and the product's name differ on purpose.
            config["ociVersion"].take();
            config["hostname"].take();
            // runc has written no ambient set since 1.2, because no capability in the inheritable set permits one.
            config["process"]["capabilities"].as_object_mut().unwrap().remove("ambient");
            let again = run(program, dir.path(), &["spec"]);
            (config, again.status.code(), message(&String::from_utf8_lossy(&again.stderr)))
        });
        assert_eq!(ours, theirs);
        assert_eq!((ours.1, ours.2.as_str()), (Some(1), "File config.json exists. Remove it first"));
    }
}

#[test]
fn an_error_goes_to_the_log_and_its_message_to_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--log", "log", "--log-format", "json", "state", "box"];
    let output = brig(dir.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.starts_with("container does not exist: box (--root "), "{stderr}");
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&line["level"], line["msg"].as_str()), (&Value::from("error"), Some(stderr.trim_end())));
    assert_eq!(line["time"].as_str().map(str::len), Some("2026-01-01T00:00:00Z".len()));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["-h"], &["help"], &[], &["spec", "--help"], &["help", "spec"], &["-v"]] {
        let output = brig(dir.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let version = String::from_utf8(brig(dir.path(), &["--version"]).stdout).unwrap();
    assert!(version.starts_with("brig version "));
}

#[test]
fn the_root_of_the_disk_is_no_place_for_records() {
    let dir = tempfile::tempdir().unwrap();
    let output = brig(dir.path(), &["--root", "/", "spec"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("invalid --root"));
}
