//! Ignored fields cause a warning each, once, and a clean configuration causes none.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use serde_json::json;

use crate::helpers::script;
use crate::support::{BRIG, Bundle, output, show};

/// The messages of warnings on standard error.
fn warnings(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stderr).replace("\\\"", "\"");
    text.lines().filter(|line| line.contains("level=warning")).map(str::to_owned).collect()
}

/// A container with every kind of ignored field.
fn odd() -> (Bundle, Vec<&'static str>) {
    let mut bundle = script("exec sleep 1000");
    let config = &mut bundle.config;
    config["extra"] = json!(1);
    config["process"]["envs"] = json!([]);
    config["process"]["user"]["username"] = json!("web");
    config["annotations"] = json!({ "run.oci.handler": "x", "krun.cpus": "1", "module.wasm.image/variant": "y" });
    let sets = json!(["CAP_KILL", "CHOWN"]);
    config["process"]["capabilities"] =
        json!({ "bounding": sets, "permitted": sets, "effective": sets, "ambient": sets });
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_S390X"],
        "syscalls": [
            { "names": ["opennat", "s390_pci_mmio_read"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["opennat"], "action": "SCMP_ACT_ERRNO" },
        ],
    });
    let expected = vec![
        "extra: unknown key, ignored",
        "process.envs: unknown key, ignored (did you mean \"env\"?)",
        "process.user.username: ",
        "annotations[\"run.oci.handler\"]: ",
        "annotations[\"krun.cpus\"]: ",
        "annotations[\"module.wasm.image/variant\"]: ",
        "unavailable capability CHOWN (did you mean \"CAP_CHOWN\"?)",
        "process.capabilities.ambient: CAP_KILL",
        "linux.seccomp.architectures[0]: ",
        "opennat (did you mean \"openat\"?)",
    ];
    (bundle, expected)
}

#[test]
fn every_ignored_field_causes_one_warning() {
    let (bundle, expected) = odd();
    bundle.write();
    let created = bundle.brig(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    assert!(created.status.success(), "{}", show(&created));
    let found = warnings(&created.stderr);
    for text in &expected {
        assert_eq!(found.iter().filter(|line| line.contains(text)).count(), 1, "{text}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    // The following verbs use the same configuration.
    for verb in [&["start", &bundle.id][..], &["exec", &bundle.id, "true"], &["delete", "-f", &bundle.id]] {
        let done = bundle.brig(verb);
        assert!(done.status.success() && warnings(&done.stderr).is_empty(), "{verb:?}: {}", show(&done));
    }
}

#[test]
fn the_configuration_of_spec_has_no_warnings() {
    let mut bundle = Bundle::new(&["true"]);
    let made = bundle.path().join("made");
    std::fs::create_dir(&made).unwrap();
    bundle.ok(&["spec", "-b", made.to_str().unwrap()]);
    bundle.config = serde_json::from_slice(&std::fs::read(made.join("config.json")).unwrap()).unwrap();
    assert!(bundle.config["process"]["capabilities"]["ambient"].is_null());
    bundle.config["process"]["terminal"] = json!(false);
    bundle.config["process"]["args"] = json!(["true"]);
    bundle.config["process"]["rlimits"] = json!([]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
    let run = bundle.run();
    assert!(run.status.success() && warnings(&run.stderr).is_empty(), "{}", show(&run));
}

#[test]
fn a_capability_without_its_prefix_is_not_granted() {
    let mut bundle = script("grep CapEff /proc/self/status");
    let sets = json!(["KILL", "CAP_CHOWN", "cap_setuid"]);
    bundle.config["process"]["capabilities"] = json!({ "bounding": sets, "permitted": sets, "effective": sets });
    assert_eq!(bundle.run_ok().trim(), "CapEff:\t0000000000000001");
    let running = script("exec sleep 1000");
    running.start();
    let done = running.brig(&["exec", "--cap", "KILL", &running.id, "grep", "CapBnd", "/proc/self/status"]);
    assert!(warnings(&done.stderr).iter().any(|line| line.contains("[KILL]")), "{}", show(&done));
}

#[test]
fn an_unknown_key_of_update_is_warned_of() {
    let bundle = script("exec sleep 1000");
    bundle.start();
    let file = bundle.path().join("resources.json");
    std::fs::write(&file, r#"{"memory":{"limits":1},"cpus":{"shares":2}}"#).unwrap();
    let done = bundle.brig(&["update", "-r", file.to_str().unwrap(), &bundle.id]);
    let found = warnings(&done.stderr);
    assert_eq!(found.len(), 2, "{}", show(&done));
    assert!(
        found.iter().any(|line| line.contains("memory.limits: unknown key, ignored (did you mean \"limit\"?)")),
        "{found:?}"
    );
    assert!(found.iter().any(|line| line.contains("cpus: unknown key, ignored (did you mean \"cpu\"?)")), "{found:?}");
}

/// The journal's socket is created in a mount namespace of the test's own.
#[test]
fn the_log_goes_to_the_journal_and_creates_no_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("systemd/journal")).unwrap();
    let journal = UnixDatagram::bind(directory.path().join("systemd/journal/socket")).unwrap();
    let run = |place: &str| {
        let text = format!(
            "mount --bind {} /run && cd /run && exec {BRIG} --root /run/none --log {place} state x",
            directory.path().display()
        );
        output(Command::new("unshare").args(["-m", "sh", "-c", &text]))
    };
    let done = run("journald:box");
    assert_eq!(done.status.code(), Some(1), "{}", show(&done));
    let mut packet = [0; 4096];
    let length = journal.recv(&mut packet).unwrap();
    let entry = String::from_utf8_lossy(&packet[..length]).into_owned();
    assert!(
        entry.starts_with("PRIORITY=3\nSYSLOG_IDENTIFIER=box\n") && entry.contains("container does not exist"),
        "{entry:?}"
    );
    assert!(String::from_utf8_lossy(&done.stderr).contains("container does not exist"), "{}", show(&done));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a file was made");
    // A service that is not running is named.
    drop(journal);
    let done = run("journald:box");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(text.contains("/run/systemd/journal/socket"), "{text}");
}
