//! A deterministic fuzzer of the parsers of config.json: from bytes to a plan, without a panic, and without a leak.
//!
//! `BRIG_FUZZ_CASES` sets the number of cases, `BRIG_FUZZ_SEED` the first state of the generator. A failed case is
//! written to the temporary directory.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use brig_plan::container::{self, CreateChoices, ExecChoices};
use brig_plan::host::{CgroupLayout, SecurityModules};
use brig_plan::namespaces::NamespaceKind;
use brig_plan::{Host, config};
use serde_json::{Map, Value, json};

const DEFAULT_CASES: u64 = 20_000;
/// The maximum growth of memory from the first tenth to the end, in KiB.
const GROWTH: u64 = 16 * 1024;

/// A generator (xorshift64*) whose cases are reproducible.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

fn corpus() -> Vec<Value> {
    let full: Value = serde_json::from_str(include_str!("data/full.json")).unwrap();
    // A configuration that passes the checks, so that mutations reach beyond them.
    let mut sound = full.clone();
    for field in ["intelRdt", "memoryPolicy", "netDevices"] {
        sound["linux"].as_object_mut().unwrap().remove(field);
    }
    for field in ["uidMappings", "gidMappings"] {
        sound["mounts"][2].as_object_mut().unwrap().remove(field);
    }
    // Each of these belongs to one version of cgroups.
    sound["linux"]["resources"].as_object_mut().unwrap().remove("unified");
    for field in ["realtimeRuntime", "realtimePeriod"] {
        sound["linux"]["resources"]["cpu"].as_object_mut().unwrap().remove(field);
    }
    let mut typed = sound.clone();
    for field in ["ioPriority", "scheduler"] {
        typed["process"].as_object_mut().unwrap().remove(field);
    }
    let small = json!({"ociVersion": "1.0.2", "root": {"path": "r"}, "process": {"user": {}, "args": ["a"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}});
    vec![full, sound, typed, small]
}

/// Boundary values.
fn odd(random: &mut Random) -> Value {
    match random.below(22) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!(i64::MIN),
        6 => json!(i64::MAX),
        7 => json!(u32::MAX),
        8 => json!(1.5e308),
        9 => json!(""),
        10 => json!("\u{0}"),
        11 => json!("/../../.."),
        12 => json!("a".repeat(1 << random.below(17))),
        13 => json!("0-4294967295,8191,,-"),
        14 => json!("\u{10ffff}\u{202e}\n%s%n"),
        15 => json!([]),
        16 => json!({}),
        17 => json!([null, {}, [[]], 0]),
        18 => json!("max"),
        19 => json!("=,:/-."),
        20 => (0..1 << random.below(9)).map(|number| json!(number)).collect(),
        _ => (0..40).fold(json!("x"), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"x": inner}) }),
    }
}

/// A random position in a value.
fn place<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let size = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if size == 0 || random.below(6) == 0 {
        return value;
    }
    let index = random.below(size);
    match value {
        Value::Object(fields) => place(fields.values_mut().nth(index).unwrap(), random),
        list => place(&mut list[index], random),
    }
}

/// Changes one position.
fn mutate(config: &mut Value, donor: &Value, random: &mut Random) {
    let value = odd(random);
    let target = place(config, random);
    match (random.below(8), target) {
        (0, target) => *target = place(&mut donor.clone(), random).take(),
        (1, Value::Array(items)) if !items.is_empty() => {
            let again = items[random.below(items.len())].clone();
            items.extend(std::iter::repeat_n(again, 1 + random.below(3)));
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (3, Value::Object(fields)) if !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap();
            fields.remove(&key);
        }
        (4, Value::Object(fields)) => {
            fields.insert(["path", "type", "", "x.y", "names", "\u{0}"][random.below(6)].to_owned(), value);
        }
        (5, Value::String(text)) => mutate_text(text, random),
        (6, Value::Number(number)) => {
            let base = number.as_i64().unwrap_or(1);
            let (shift, less) = (u32::try_from(random.below(64)).unwrap(), i64::try_from(random.below(3)).unwrap());
            *number = (base.wrapping_shl(shift) ^ base).wrapping_sub(less).into();
        }
        (_, target) => *target = value,
    }
}

fn mutate_text(text: &mut String, random: &mut Random) {
    let mut letters: Vec<char> = text.chars().collect();
    let at = random.below(letters.len() + 1);
    match random.below(4) {
        0 => letters.insert(at, *random.pick(&['/', '-', ',', '=', '.', ':', '\0', '9', 'é'])),
        1 => letters.truncate(at),
        2 => letters.extend_from_within(..at),
        _ if at < letters.len() => letters[at] = char::from(u8::try_from(random.below(128)).unwrap()),
        _ => {}
    }
    *text = letters.into_iter().collect();
}

/// Damages the bytes themselves: flips, truncates, repeats, nests, and duplicates keys.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next().to_le_bytes()[0],
        3 => {
            let end = (at + random.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + random.below(256)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        5 => {
            let deep = *random.pick(&[&b"["[..], b"{\"a\":", b"[{\"x\":["]);
            bytes.splice(at..at, deep.repeat(1 << random.below(11)));
        }
        _ => {
            // Duplicates a key of an object.
            let keys = [r#""process":{"args":[]},"#, r#""linux":null,"#, r#""root":{"path":"x"},"#, r#""type":"pid","#];
            let twice = random.pick(&keys).bytes();
            let brace = bytes[at..].iter().position(|byte| *byte == b'{').map_or(0, |found| at + found + 1);
            bytes.splice(brace.min(bytes.len())..brace.min(bytes.len()), twice);
        }
    }
}

fn host(random: &mut Random) -> Host {
    use CgroupLayout::{Hybrid, None, V1, V2};
    Host {
        euid: *random.pick(&[0, 0, 1000]),
        effective_capabilities: u64::MAX,
        last_capability: *random.pick(&[40, 36]),
        cgroup: *random.pick(&[V2, Hybrid, V1, None]),
        security_modules: [SecurityModules::empty(), SecurityModules::APPARMOR, SecurityModules::SELINUX]
            [random.below(3)],
        in_user_namespace: random.below(4) == 0,
        kernel: *random.pick(&[(6, 12), (4, 19)]),
        own_namespaces: NamespaceKind::ALL.into_iter().filter(|_| random.below(8) == 0).collect(),
        host_namespaces: NamespaceKind::ALL.into_iter().filter(|_| random.below(8) == 0).collect(),
        procfs_shows_joined_pids: random.below(2) == 0,
    }
}

/// Does everything that a create, an exec, and an update do with the bytes before they change the host. Returns true if
/// they are accepted.
fn run(bytes: &[u8], host: &Host, manager: brig_engine::CgroupManager) -> bool {
    // The same code reads the files of update and exec: a few cases suffice for their tables.
    match bytes.len() % 16 {
        0 => drop(config::parse_resources(bytes)),
        1 => drop(config::parse_process(bytes)),
        _ => {}
    }
    let Ok((spec, _)) = config::parse(bytes) else { return false };
    let choices = CreateChoices { manager, preserve_fds: 2, listen_fds: 1, ..CreateChoices::default() };
    let planned = container::build(&spec, "box", Path::new("/bundle"), choices, host).is_ok();
    if let Some(process) = spec.process() {
        let _ = container::build_exec(&spec, "box", process, &ExecChoices::default(), host);
    }
    if planned && let Some(seccomp) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        let _ = brig_engine::seccomp::compile(seccomp);
    }
    planned
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn case(corpus: &[Value], random: &mut Random) -> Vec<u8> {
    let mut config = random.pick(corpus).clone();
    let donor = random.pick(corpus);
    for _ in 0..random.below(4) {
        mutate(&mut config, donor, random);
    }
    if !config.is_object() && random.below(8) != 0 {
        config = Value::Object(Map::from_iter([("linux".to_owned(), config)]));
    }
    let mut bytes = serde_json::to_vec(&config).unwrap();
    if random.below(3) == 0 {
        damage(&mut bytes, random);
    }
    bytes
}

#[test]
fn any_configuration_is_planned_or_refused() {
    let cases = variable("BRIG_FUZZ_CASES").unwrap_or(DEFAULT_CASES);
    let mut random = Random(variable("BRIG_FUZZ_SEED").unwrap_or(0x9e37_79b9_7f4a_7c15).max(1));
    let corpus = corpus();
    let fds = open_fds();
    let (mut accepted, mut memory) = (0, 0);
    for number in 0..cases {
        let bytes = case(&corpus, &mut random);
        let host = host(&mut random);
        let manager = *random.pick(&[brig_engine::CgroupManager::Cgroupfs, brig_engine::CgroupManager::Systemd]);
        match catch_unwind(AssertUnwindSafe(|| run(&bytes, &host, manager))) {
            Ok(planned) => accepted += u64::from(planned),
            Err(_) => {
                let file = std::env::temp_dir().join(format!("brig-fuzz-{number}.json"));
                std::fs::write(&file, &bytes).unwrap();
                panic!("case {number} panics for {host:?}, {manager:?}: {}", file.display());
            }
        }
        if number == cases / 10 {
            memory = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(memory);
    println!("{cases} cases, {accepted} accepted; memory grew by {grown} KiB");
    // A set of mutations that the first check refuses would prove nothing.
    assert!(accepted * 100 > cases, "only {accepted} of {cases} were accepted");
    assert!(grown < GROWTH, "memory grew by {grown} KiB over {cases} cases");
    assert_eq!(open_fds(), fds, "descriptors are left open");
}
