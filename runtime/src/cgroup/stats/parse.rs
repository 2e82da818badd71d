//! The few shapes that the numbers of cgroup files come in.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Pressure, PressureLine};
use crate::cgroup::dir::Dir;
use crate::error::{Context, Error, Result};

/// A file's text; `None` when the file or the controller behind it is not there.
pub(super) fn text(dir: &Dir, file: &str) -> Result<Option<String>> {
    match dir.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).context("cannot read statistics"),
    }
}

/// A single number; `max` is 2^64-1.
pub(super) fn number(dir: &Dir, file: &str) -> Result<Option<u64>> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    let word = text.trim();
    // v1 shows no limit as -1 in places.
    match word {
        "max" | "-1" => Ok(Some(u64::MAX)),
        _ => word.parse().map(Some).map_err(|_| unreadable(dir, file, word)),
    }
}

/// Lines of `key value`.
pub(super) fn table(dir: &Dir, file: &str) -> Result<Option<BTreeMap<String, u64>>> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        table.insert(key.to_owned(), value.trim().parse().map_err(|_| unreadable(dir, file, line))?);
    }
    Ok(Some(table))
}

/// A pressure file; `None` when the kernel keeps no such account.
pub(super) fn pressure(dir: &Dir, file: &str) -> Result<Option<Pressure>> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let Some((kind, fields)) = line.split_once(' ') else { continue };
        let mut parsed = PressureLine::default();
        for (key, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
            let float = || value.parse::<f64>().map_err(|_| unreadable(dir, file, line));
            match key {
                "avg10" => parsed.avg10 = float()?,
                "avg60" => parsed.avg60 = float()?,
                "avg300" => parsed.avg300 = float()?,
                "total" => parsed.total = value.parse().map_err(|_| unreadable(dir, file, line))?,
                _ => {}
            }
        }
        match kind {
            "some" => pressure.some = parsed,
            "full" => pressure.full = parsed,
            _ => {}
        }
    }
    Ok(Some(pressure))
}

pub(super) fn unreadable(dir: &Dir, file: &str, text: &str) -> Error {
    Error::other(format!("cannot read statistics: {}/{file} holds {text:?}", dir.path().display()))
}
