//! Parsers for the formats of cgroup files with statistics.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::{Pressure, PressureLine, Rdma, RdmaEntry};
use crate::cgroup::dir::Dir;
use crate::error::{Context, Error, Result};

/// The text of a file; `None` without the file or its controller.
pub(super) fn text(dir: &Dir, file: &str) -> Result<Option<String>> {
    match dir.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error).context("cannot read statistics"),
    }
}

/// A single number; `max` is 2^64-1.
pub(super) fn number(dir: &Dir, file: &str) -> Result<Option<u64>> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    let word = text.trim();
    // Some files of v1 show -1 without a limit.
    match word {
        "max" | "-1" => Ok(Some(u64::MAX)),
        _ => word.parse().map(Some).map_err(|_| unreadable(dir, file, word)),
    }
}

/// A file of lines `key value`.
pub(super) fn table(dir: &Dir, file: &str) -> Result<Option<BTreeMap<String, u64>>> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        table.insert(key.to_owned(), value.trim().parse().map_err(|_| unreadable(dir, file, line))?);
    }
    Ok(Some(table))
}

/// A pressure file; `None` if the kernel has no pressure information.
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

/// Fills in the values of rdma.current and rdma.max, if they exist: lines of `DEVICE hca_handle=N hca_object=N`.
pub(super) fn rdma(dir: &Dir, rdma: &mut Rdma) -> Result<()> {
    for (file, place) in [("rdma.current", &mut rdma.current), ("rdma.max", &mut rdma.limit)] {
        for line in text(dir, file)?.unwrap_or_default().lines() {
            let Some((device, fields)) = line.split_once(' ') else { continue };
            let mut entry = RdmaEntry::default();
            for (key, value) in fields.split_whitespace().filter_map(|field| field.split_once('=')) {
                let value = match value {
                    "max" => u32::MAX,
                    value => value.parse().map_err(|_| unreadable(dir, file, line))?,
                };
                match key {
                    "hca_handle" => entry.hca_handles = value,
                    "hca_object" => entry.hca_objects = value,
                    _ => {}
                }
            }
            place.insert(device.to_owned(), entry);
        }
    }
    Ok(())
}

pub(super) fn unreadable(dir: &Dir, file: &str, text: &str) -> Error {
    Error::other(format!("cannot read statistics: {}/{file} holds {text:?}", dir.path().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_lines_have_a_device_and_may_have_no_limit() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rdma.current"), "mlx4_0 hca_handle=2 hca_object=2000\n").unwrap();
        std::fs::write(
            directory.path().join("rdma.max"),
            "mlx4_0 hca_handle=3 hca_object=max\nocrdma1 hca_handle=max hca_object=max\n",
        )
        .unwrap();
        let mut found = Rdma::default();
        rdma(&Dir::open(directory.path()).unwrap(), &mut found).unwrap();
        let entry = |hca_handles, hca_objects| RdmaEntry { hca_handles, hca_objects };
        assert_eq!(found.current, [("mlx4_0".to_owned(), entry(2, 2000))].into());
        let max = u32::MAX;
        let limits = [("mlx4_0".to_owned(), entry(3, max)), ("ocrdma1".to_owned(), entry(max, max))];
        assert_eq!(found.limit, limits.into());
    }
}
