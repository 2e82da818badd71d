use serde_json::{Value, json};

use super::schema::{self, Need, Type};
use super::*;

const SMALL: &str = r#"{"ociVersion":"1.3.0","root":{"path":"r"},
    "process":{"user":{"uid":0,"gid":0},"args":["a"],"cwd":"/"}}"#;

fn parse_value(value: &Value) -> Result<(Spec, Vec<String>), Refused> {
    parse(serde_json::to_vec(value).unwrap().as_slice())
}

fn fault(value: &Value) -> String {
    parse_value(value).expect_err("no fault found").to_string()
}

/// A correct value of a type.
fn sample(ty: &Type) -> Value {
    match ty {
        Type::Bool => json!(true),
        Type::Int(..) => json!(1),
        Type::Str => json!("text"),
        Type::Enum(names) => json!(names[0].0),
        Type::CpuList => json!("0-3,7"),
        Type::Capabilities => json!(["CAP_CHOWN"]),
        Type::List(item) => json!([sample(item)]),
        Type::Map(item) => json!({ "key.one": sample(item) }),
        Type::Object(fields) | Type::Seccomp(fields) | Type::Pids(fields) => {
            fields.iter().map(|field| (field.name.to_owned(), sample(&field.ty))).collect()
        }
        Type::Foreign => json!({}),
    }
}

/// The whole schema, or without the fields that always go to the table, so that the typed pass is tested too.
fn config(for_path: &str) -> Value {
    let mut config = sample(&schema::SPEC);
    // The model requires a kernel for a virtual machine.
    config.as_object_mut().unwrap().remove("vm");
    for field in ["ioPriority", "scheduler"] {
        if !for_path.starts_with(&format!("process.{field}")) {
            config["process"].as_object_mut().unwrap().remove(field);
        }
    }
    config
}

/// Values that a type must refuse.
fn wrong(ty: &Type) -> Vec<Value> {
    let all =
        [json!(true), json!(1), json!(1.5), json!("text"), json!([[[]]]), json!({"x": [[]]}), json!([]), json!({})];
    let right = |value: &Value| match ty {
        Type::Bool => value.is_boolean(),
        Type::Int(..) => value.is_u64(),
        Type::Str => value.is_string(),
        Type::Enum(_) | Type::CpuList => false,
        Type::List(_) | Type::Capabilities => *value == json!([]),
        // Unknown keys are ignored in an object, and absent seccomp keys are no seccomp.
        Type::Map(_) => *value == json!({}),
        Type::Object(_) | Type::Seccomp(_) | Type::Pids(_) | Type::Foreign => value.is_object(),
    };
    let mut wrong: Vec<Value> = all.into_iter().filter(|value| !right(value)).collect();
    if let Type::Int(low, high) = ty {
        wrong.extend(low.checked_sub(1).map(|value| json!(value)));
        wrong.extend(high.checked_add(1).map(|value| json!(value)));
    }
    wrong
}

/// Calls `check` with every position in the schema: its JSON path, its type, and how to reach it.
fn places(ty: &'static Type, path: &str, steps: &[Value], check: &mut dyn FnMut(&str, &Type, &[Value])) {
    if !path.is_empty() {
        check(path, ty, steps);
    }
    let mut down = |ty: &'static Type, path: String, step: Value| {
        let steps = [steps, &[step]].concat();
        places(ty, &path, &steps, check);
    };
    match ty {
        Type::List(item) => down(item, format!("{path}[0]"), json!(0)),
        Type::Map(item) => down(item, format!("{path}[\"key.one\"]"), json!("key.one")),
        Type::Object(fields) | Type::Seccomp(fields) | Type::Pids(fields) => {
            for field in *fields {
                let dot = if path.is_empty() { "" } else { "." };
                down(&field.ty, format!("{path}{dot}{}", field.name), json!(field.name));
            }
        }
        _ => {}
    }
}

fn place<'a>(value: &'a mut Value, steps: &[Value]) -> &'a mut Value {
    steps.iter().fold(value, |value, step| match step {
        Value::String(key) => &mut value[key.as_str()],
        step => &mut value[usize::try_from(step.as_u64().unwrap()).unwrap()],
    })
}

#[test]
fn the_whole_schema_is_read_by_the_typed_pass_or_by_the_table() {
    parse_value(&sample(&schema::SPEC)).unwrap();
    let typed = serde_json::to_vec(&config("")).unwrap();
    strict::from_slice::<Spec>(&typed).unwrap();
}

#[test]
fn every_field_refuses_every_wrong_type_and_is_named() {
    let mut checked = 0;
    places(&schema::SPEC, "", &[], &mut |path, ty, steps| {
        for value in wrong(ty) {
            let mut config = config(path);
            *place(&mut config, steps) = value.clone();
            let message = match parse_value(&config) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{path} accepts {value}"),
            };
            assert!(
                message.contains(&format!("{path}: ")) || message.contains(&format!("{path}[")),
                "{path} = {value}: {message}"
            );
            checked += 1;
        }
    });
    assert!(checked > 1000, "only {checked} cases");
}

#[test]
fn every_name_of_every_enumeration_is_accepted() {
    places(&schema::SPEC, "", &[], &mut |path, ty, steps| {
        let Type::Enum(names) = ty else { return };
        for (name, _) in *names {
            let mut config = config(path);
            *place(&mut config, steps) = json!(name);
            parse_value(&config).unwrap_or_else(|error| panic!("{path} = {name}: {error}"));
        }
    });
}

#[test]
fn null_is_absence_everywhere_but_in_required_fields() {
    places(&schema::SPEC, "", &[], &mut |path, _, steps| {
        // A null inside an array or a map is not a field.
        let Some(Value::String(key)) = steps.last() else { return };
        if key == "key.one" {
            return;
        }
        let required = required(steps);
        let mut nulled = config(path);
        *place(&mut nulled, steps) = Value::Null;
        match parse_value(&nulled) {
            Ok(_) => assert!(!required, "{path} is required"),
            Err(error) => assert!(required && error.to_string().contains(path), "{path}: {error}"),
        }
        let mut without = config(path);
        let (last, parents) = steps.split_last().unwrap();
        place(&mut without, parents).as_object_mut().unwrap().remove(last.as_str().unwrap());
        assert_eq!(parse_value(&without).is_err(), required, "{path} removed");
    });
}

fn required(steps: &[Value]) -> bool {
    let mut ty = &schema::SPEC;
    let mut required = false;
    for step in steps {
        ty = match ty {
            Type::List(item) | Type::Map(item) => item,
            Type::Object(fields) | Type::Seccomp(fields) | Type::Pids(fields) => {
                let field = fields.iter().find(|field| step == field.name).unwrap();
                required = matches!(field.need, Need::Required);
                &field.ty
            }
            _ => unreachable!(),
        };
    }
    required
}

#[test]
fn all_faults_are_reported_at_once_with_their_paths() {
    let message = fault(&json!({
        "process": {"args": ["a", 7], "cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILES"}]},
        "mounts": [{"type": "proc"}],
        "linux": {"resources": {"cpu": {"shares": -1}, "unified": {"memory.max": 7}}},
    }));
    for part in [
        "invalid config.json: ",
        "process.args[1]: expected a string, found a number",
        "process.rlimits[0].type: unknown value \"RLIMIT_NOFILES\": expected one of RLIMIT_AS, ",
        "mounts[0].destination: missing: expected a string",
        "linux.resources.cpu.shares: -1 is out of range: expected 0 to 18446744073709551615",
        "linux.resources.unified[\"memory.max\"]: expected a string, found a number",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    let message = parse(b"{\n  \"ociVersion\": oops}").unwrap_err().to_string();
    assert_eq!(message, "config.json is not JSON: expected value at line 2 column 17");
    assert!(parse(b"").unwrap_err().to_string().contains("EOF while parsing a value at line 1 column 0"));
    assert!(parse(b"[]").unwrap_err().to_string().contains("the document: expected an object, found an array"));
    assert!(parse(b"{").unwrap_err().to_string().starts_with("config.json is not JSON: "));
}

#[test]
fn faults_that_runc_accepts_are_accepted() {
    let (spec, warnings) = parse(
        br#"{"ociVersion":"1.0.2", "root":{"path":"r"}, "hostname":"a", "hostname":"b", "vendor":{"x":1},
            "process":{"args":["a"],"cwd":"/","rlimits":null,
                "capabilities":{"bounding":["CAP_CHOWN","CAP_NEW"],"effective":null}},
            "mounts":null, "linux":{"seccomp":{}, "resources":{"devices":[{"allow":true,"type":"","access":"rwm"}]}}}"#,
    )
    .unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
    assert_eq!(spec.hostname().as_deref(), Some("b"));
    assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
    assert_eq!(
        warnings,
        ["process.capabilities: ignoring unknown or unavailable capability CAP_NEW", "vendor: unknown key, ignored"]
    );
}

#[test]
fn structures_are_objects_and_names_are_strings() {
    assert!(strict::from_slice::<Spec>(SMALL.as_bytes()).is_ok());
    let message = parse(SMALL.replace(r#"{"path":"r"}"#, r#"["r"]"#).as_bytes()).unwrap_err().to_string();
    assert_eq!(message, "invalid config.json: root: expected an object, found an array");
    let config = r#"{"linux":{"namespaces":[{"type":{"pid":null}}]}}"#;
    let message = parse(config.as_bytes()).unwrap_err().to_string();
    assert_eq!(message, "invalid config.json: linux.namespaces[0].type: expected a string, found an object");
}

#[test]
fn process_and_resources_are_parsed_alone() {
    let (process, _) = parse_process(br#"{"args":["ls"],"cwd":"/"}"#).unwrap();
    assert_eq!(process.args().as_deref(), Some(["ls".to_owned()].as_slice()));
    let message = parse_process(br#"{"args":"ls"}"#).unwrap_err().to_string();
    assert_eq!(message, "invalid process.json: args: expected an array, found a string");
    let (resources, _) = parse_resources(br#"{"memory":{"limit":4096},"pids":null}"#).unwrap();
    assert_eq!(resources.memory().and_then(|memory| memory.limit()), Some(4096));
    assert!(parse_resources(br#"{"memory":{"limit":"4096"}}"#).is_err());
}

#[test]
fn pids_without_a_limit_are_absent_and_a_limit_of_zero_is_not() {
    for pids in ["{}", r#"{"limit":null}"#, "null"] {
        let (resources, _) = parse_resources(format!(r#"{{"pids":{pids}}}"#).as_bytes()).unwrap();
        assert_eq!(*resources.pids(), None, "{pids}");
        let config =
            format!(r#"{{"ociVersion":"1.2.0","root":{{"path":"r"}},"linux":{{"resources":{{"pids":{pids}}}}}}}"#);
        let (spec, _) = parse(config.as_bytes()).unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(*resources.pids(), None, "{pids}");
    }
    let (resources, _) = parse_resources(br#"{"pids":{"limit":0}}"#).unwrap();
    assert_eq!(resources.pids().map(|pids| pids.limit()), Some(0));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(0u8.., 0..64)) {
        let _ = parse(&bytes);
    }
}

/// The example that the integration tests start from: a new field of the schema must be added to it.
#[test]
fn the_full_example_has_every_field() {
    let full: Value = serde_json::from_str(include_str!("../../../tests/data/full.json")).unwrap();
    parse_value(&full).unwrap();
    places(&schema::SPEC, "", &[], &mut |path, _, steps| {
        // The model requires a kernel for a virtual machine; the keys of a map are arbitrary.
        let free = path.starts_with("vm")
            || steps.contains(&json!("key.one"))
            || path.ends_with(".path") && path.contains("namespaces");
        let keys_only = steps.iter().all(|step| step.is_string());
        if !free && keys_only {
            let pointer: String = steps.iter().map(|step| format!("/{}", step.as_str().unwrap())).collect();
            assert!(full.pointer(&pointer).is_some(), "{path} is not in tests/data/full.json");
        }
        let Some(Value::String(field)) = steps.last() else { return };
        let mentioned = serde_json::to_string(&full).unwrap().contains(&format!("{field:?}:"));
        assert!(free || mentioned, "{path} is not in tests/data/full.json");
    });
}

#[test]
fn a_document_is_limited_in_size() {
    let blanks = " ".repeat(MAX_BYTES - SMALL.len());
    assert!(parse(format!("{SMALL}{blanks}").as_bytes()).is_ok());
    let error = parse(format!("{SMALL}{blanks} ").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "config.json: expected at most 16777216 bytes, found more");
    let refused = parse_process(" ".repeat(MAX_BYTES + 1).as_bytes()).unwrap_err();
    assert!(refused.to_string().starts_with("process.json: expected at most "));
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_key() {
    let mut config: Value = serde_json::from_str(SMALL).unwrap();
    config["proces"] = json!({});
    config["null"] = json!(null);
    config["process"]["user"]["uids"] = json!(1);
    config["linux"] = json!({ "resource": {}, "namespaces": [{ "type": "pid" }, { "type": "uts", "Path": "/x" }] });
    config["com.example.own"] = json!([1]);
    let (_, mut warnings) = parse_value(&config).unwrap();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "com.example.own: unknown key, ignored",
            "linux.namespaces[1].Path: unknown key, ignored (did you mean \"path\"?)",
            "linux.resource: unknown key, ignored (did you mean \"resources\"?)",
            "proces: unknown key, ignored (did you mean \"process\"?)",
            "process.user.uids: unknown key, ignored (did you mean \"uid\"?)",
        ]
    );
    let (_, warnings) = parse_resources(br#"{"memory":{"limits":1},"cpus":{}}"#).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let (_, warnings) = parse_process(br#"{"args":["a"],"cwd":"/","argv":["b"]}"#).unwrap();
    assert_eq!(warnings, ["argv: unknown key, ignored (did you mean \"args\"?)"]);
}

#[test]
fn a_capability_without_its_prefix_is_ignored_with_one_warning() {
    let mut config: Value = serde_json::from_str(SMALL).unwrap();
    let names = json!(["CHOWN", "cap_kill", "CAP_CAP_KILL", "CAP_SETUID"]);
    config["process"]["capabilities"] = json!({ "bounding": names, "permitted": names, "effective": names });
    let (spec, warnings) = parse_value(&config).unwrap();
    assert_eq!(
        warnings,
        [
            "process.capabilities: ignoring unknown or unavailable capability CHOWN (did you mean \"CAP_CHOWN\"?)",
            "process.capabilities: ignoring unknown or unavailable capability cap_kill (did you mean \"CAP_KILL\"?)",
            "process.capabilities: ignoring unknown or unavailable capability CAP_CAP_KILL",
        ]
    );
    let sets = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap().clone();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
}
