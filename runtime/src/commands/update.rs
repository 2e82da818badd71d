//! `update`: new limits for a running container.

use std::str::FromStr;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Args, Count, Flag, Global, Order, Verb};
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_plan::config;
use brig_sys::file;

pub const VERB: Verb = Verb {
    name: "update",
    usage: "CONTAINER",
    about: "change a container's limits",
    details: "What is not given stays as it is. Sizes are in bytes, or take k, m, g or t (of 1024).\n\
        The file of --resources is linux.resources of a config.json, such as {\"memory\": {\"limit\": 1048576}};\n\
        other flags are then ignored.",
    example: "brig update --memory 512m --pids-limit 100 box1",
    flags: &[
        Flag::value("resources", "r", "FILE", "take the limits from a JSON file, or from standard input for -"),
        Flag::number("blkio-weight", "", "WEIGHT", "share of block I/O, 10 to 1000"),
        Flag::value("cpu-period", "", "USEC", "period of the CPU quota"),
        Flag::value("cpu-quota", "", "USEC", "CPU time in each period; -1 for no limit"),
        Flag::value("cpu-burst", "", "USEC", "CPU time that may be saved up for a burst"),
        Flag::value("cpu-share", "", "SHARES", "share of CPU time beside others (1024 is normal)"),
        Flag::value("cpu-rt-period", "", "USEC", "period of the realtime limit"),
        Flag::value("cpu-rt-runtime", "", "USEC", "realtime CPU time in each period"),
        Flag::value("cpuset-cpus", "", "LIST", "CPUs to use, such as 0-3,7"),
        Flag::value("cpuset-mems", "", "LIST", "memory nodes to use"),
        Flag::value("cpu-idle", "", "0|1", "1 for the idle scheduling class"),
        Flag::value("memory", "", "SIZE", "limit of memory"),
        Flag::value("memory-reservation", "", "SIZE", "soft limit of memory"),
        Flag::value("memory-swap", "", "SIZE", "limit of memory and swap together; -1 for no limit"),
        Flag::number("pids-limit", "", "N", "largest number of processes"),
        Flag::value("l3-cache-schema", "", "SCHEMA", "Intel RDT cache allocation, such as L3:0=7f0;1=1f"),
        Flag::value("mem-bw-schema", "", "SCHEMA", "Intel RDT memory bandwidth, such as MB:0=20;1=70"),
        Flag::value("kernel-memory", "", "SIZE", ""),
        Flag::value("kernel-memory-tcp", "", "SIZE", ""),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let engine = global.engine();
    let resources = match resources(args) {
        Ok(resources) => resources,
        Err(error) => {
            // A wrong id is the more useful error of the two.
            engine.state(id)?;
            return Err(error);
        }
    };
    // Before the limits: a container without a resctrl group is refused before anything has changed.
    let schemata = [args.text("l3-cache-schema")?, args.text("mem-bw-schema")?];
    let schemata: Vec<String> = schemata.into_iter().flatten().collect();
    if !schemata.is_empty() {
        engine.update_schemata(id, &schemata)?;
    }
    engine.update(id, &resources)?;
    Ok(0)
}

fn resources(args: &Args) -> Result<LinuxResources> {
    let (resources, warnings) = match args.path("resources") {
        Some(path) if path.as_os_str() == "-" => {
            let bytes =
                file::read_beginning(std::io::stdin().lock(), config::MAX_BYTES).context("read standard input")?;
            config::parse_resources(&bytes)?
        }
        Some(path) => {
            let bytes = file::read_given(&path, config::MAX_BYTES);
            let bytes = bytes.with_context(|| format!("open {}", path.display()))?;
            config::parse_resources(&bytes)?
        }
        None => {
            let text = serde_json::to_vec(&from_flags(args)?).context("encode JSON")?;
            config::parse_resources(&text)?
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(resources)
}

/// Converts the flags to `linux.resources`, so that both inputs pass the same checks.
fn from_flags(args: &Args) -> Result<Value> {
    for name in ["kernel-memory", "kernel-memory-tcp"] {
        if args.value(name).is_some() {
            tracing::warn!("--{name} is ignored: kernels since 5.16 have no such limit");
        }
    }
    let mut cpu = Map::new();
    let mut put = |field: &str, value: Option<Value>| cpu.extend(value.map(|value| (field.to_owned(), value)));
    put("period", number::<u64>(args, "cpu-period")?);
    put("quota", number::<i64>(args, "cpu-quota")?);
    put("burst", number::<u64>(args, "cpu-burst")?);
    put("shares", number::<u64>(args, "cpu-share")?);
    put("realtimePeriod", number::<u64>(args, "cpu-rt-period")?);
    put("realtimeRuntime", number::<i64>(args, "cpu-rt-runtime")?);
    put("idle", number::<i64>(args, "cpu-idle")?);
    put("cpus", args.text("cpuset-cpus")?.map(Value::from));
    put("mems", args.text("cpuset-mems")?.map(Value::from));
    let mut memory = Map::new();
    for (field, name) in [("limit", "memory"), ("reservation", "memory-reservation"), ("swap", "memory-swap")] {
        memory.extend(size(args, name)?.map(|size| (field.to_owned(), size.into())));
    }
    let mut all = Map::new();
    let mut group = |name: &str, fields: Map<String, Value>| {
        if !fields.is_empty() {
            all.insert(name.to_owned(), fields.into());
        }
    };
    group("cpu", cpu);
    group("memory", memory);
    if let Some(limit) = number::<i64>(args, "pids-limit")? {
        all.insert("pids".into(), json!({ "limit": limit }));
    }
    if let Some(weight) = number::<u16>(args, "blkio-weight")? {
        all.insert("blockIO".into(), json!({ "weight": weight }));
    }
    Ok(all.into())
}

fn number<T: FromStr<Err = std::num::ParseIntError> + Into<Value>>(args: &Args, name: &str) -> Result<Option<Value>> {
    let number = args.number::<T>(name).map_err(|error| error.context(format!("invalid value for {name}")))?;
    Ok(number.map(Into::into))
}

/// Parses a size in bytes: `1048576`, `512k`, `1.5GB`, `2GiB`; -1 means no limit.
fn size(args: &Args, name: &str) -> Result<Option<i64>> {
    let Some(text) = args.text(name)? else { return Ok(None) };
    let invalid = || Error::new(ErrorKind::InvalidConfig, format!("invalid value for {name}: invalid size: '{text}'"));
    if text == "-1" {
        return Ok(Some(-1));
    }
    let end = text.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let prefix = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match prefix.strip_suffix('i').unwrap_or(prefix) {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let factor = 1_u64 << (10 * power);
    let bytes = match digits.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor).and_then(|bytes| i64::try_from(bytes).ok()),
        Err(_) => {
            let bytes = digits.parse::<f64>().map_err(|_| invalid())? * factor as f64;
            // Digits alone make the number; one that is no i64 does not parse.
            format!("{:.0}", bytes.trunc()).parse().ok()
        }
    };
    bytes.map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use std::ffi::OsString;

    fn given(line: &[&str]) -> Args {
        args::parse(VERB.flags, VERB.order, line.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn flags_become_resources() {
        let args = given(&[
            "box",
            "--memory",
            "512m",
            "--memory-swap=-1",
            "--cpu-quota",
            "-1",
            "--cpu-share=512",
            "--pids-limit",
            "9",
            "--cpuset-cpus",
            "0-1",
            "--blkio-weight",
            "10",
        ]);
        let resources = resources(&args).unwrap();
        assert_eq!(
            serde_json::to_value(resources).unwrap(),
            json!({
                "memory": {"limit": 536_870_912, "swap": -1},
                "cpu": {"quota": -1, "shares": 512, "cpus": "0-1"},
                "pids": {"limit": 9},
                "blockIO": {"weight": 10},
            })
        );
    }

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| size(&given(&["--memory", text]), "memory").ok().flatten();
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("2k", 2048),
            ("2KB", 2048),
            ("2KiB", 2048),
            ("1.5k", 1536),
            ("3b", 3),
            ("-1", -1),
            ("1 g", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["x", "1x", "-2", "1bb2", ".", "9999999999g", "1ib"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn errors_name_the_flag_or_the_file() {
        let fault = |line: &[&str]| resources(&given(line)).unwrap_err().to_string();
        assert!(fault(&["--cpu-quota", "x"]).starts_with("invalid value for cpu-quota: "));
        assert!(fault(&["--resources", "/nonexistent"]).starts_with("open /nonexistent: "));
    }
}
