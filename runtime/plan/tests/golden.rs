//! Plans of the same configurations for create, exec and restore, compared with recorded ones (golden files).
//!
//! `golden/NAME.config.json` is a configuration, `golden/NAME.VERB.json` the plan of VERB. A change of a plan is a change
//! of behaviour: read the difference, then record the new plans by `BRIG_RECORD=1 cargo test -p brig-plan --test golden`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use brig_plan::cgroup::CgroupManager;
use brig_plan::config;
use brig_plan::container::{self, CreateChoices, ExecChoices};
use brig_plan::host::{CgroupLayout, Host, SecurityModules};
use brig_plan::restore;

const BUNDLE: &str = "/run/bundles/golden";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[expect(clippy::disallowed_methods, reason = "the library does no I/O; its test has files to compare with")]
fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares a plan with the recorded one, or records it.
#[expect(clippy::disallowed_methods, reason = "the library does no I/O; its test has files to compare with")]
fn compare(name: &str, plan: &impl Serialize) {
    let found = serde_json::to_string_pretty(plan).unwrap() + "\n";
    if std::env::var_os("BRIG_RECORD").is_some() {
        std::fs::write(file(name), found).unwrap();
        return;
    }
    let expected = read(name);
    let differ = expected.lines().zip(found.lines()).position(|(one, other)| one != other);
    let line = differ.unwrap_or_else(|| expected.lines().count().min(found.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("the end").trim().to_owned();
    assert!(
        expected == found,
        "{name}:{}: expected {:?}, found {:?}; a change that is meant is recorded by BRIG_RECORD=1",
        line + 1,
        at(&expected),
        at(&found)
    );
}

/// Compares the plans of create, exec and restore for one configuration.
fn check(name: &str, host: &Host, choices: CreateChoices) {
    let bundle = Path::new(BUNDLE);
    let (spec, _) = config::parse(read(&format!("{name}.config.json")).as_bytes()).unwrap();
    let (create, _) = container::build(&spec, "golden", bundle, choices, host).unwrap();
    compare(&format!("{name}.create.json"), &create);
    let process = spec.process().as_ref().unwrap();
    let (exec, _) = container::build_exec(&spec, "golden", process, &ExecChoices::default(), host).unwrap();
    compare(&format!("{name}.exec.json"), &exec);
    let (restored, _) = restore::build(&spec, "golden", bundle, choices.manager, host).unwrap();
    compare(&format!("{name}.restore.json"), &restored);
    assert_eq!(
        serde_json::to_value(&*create).unwrap(),
        serde_json::to_value(&restored.container).unwrap(),
        "a container is restored by the plan that it is created by"
    );
}

#[test]
fn the_configuration_of_brig_spec() {
    check("default", &Host::of_root(CgroupLayout::V2), CreateChoices::default());
}

#[test]
fn the_configuration_of_a_container_manager_on_cgroup_v1() {
    let host = Host { security_modules: SecurityModules::SELINUX, ..Host::of_root(CgroupLayout::V1) };
    check("manager", &host, CreateChoices::default());
}

#[test]
fn a_user_namespace_and_an_idmapped_mount_below_systemd() {
    let choices = CreateChoices { manager: CgroupManager::Systemd, ..CreateChoices::default() };
    check("user-namespace", &Host::of_root(CgroupLayout::V2), choices);
}

#[test]
fn a_container_of_a_pod_whose_pid_namespace_it_shares() {
    let host = Host { procfs_shows_joined_pids: true, ..Host::of_root(CgroupLayout::V2) };
    check("pod", &host, CreateChoices::default());
}

#[test]
fn an_exec_with_every_option() {
    let (spec, _) = config::parse(read("default.config.json").as_bytes()).unwrap();
    let host = Host { security_modules: SecurityModules::all(), ..Host::of_root(CgroupLayout::V2) };
    let choices = ExecChoices {
        process_given: false,
        args: vec!["ls".to_owned(), "-l".to_owned()],
        cwd: Some("/srv".into()),
        env: vec!["NAME=value".to_owned()],
        terminal: Some(false),
        user: Some("1000:1000".to_owned()),
        additional_gids: vec![10],
        selinux: Some("system_u:system_r:container_t:s0".to_owned()),
        apparmor: Some("profile".to_owned()),
        no_new_privs: Some(false),
        capabilities: vec!["CAP_SYS_PTRACE".to_owned()],
        preserve_fds: 2,
    };
    let process = spec.process().as_ref().unwrap();
    let (plan, _) = container::build_exec(&spec, "golden", process, &choices, &host).unwrap();
    compare("options.exec.json", &plan);
}
