//! Hooks whose program is the probe: each appends a line to the bundle's log, so what ran, and in which order, is seen.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Bundle;
use crate::record::Record;

/// The lists of hooks, in the order of the lifecycle.
pub const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

impl Bundle {
    /// Where the hooks write, as the host sees it.
    pub fn log(&self) -> PathBuf {
        self.rootfs("/log")
    }

    /// Appends a hook of this kind that calls itself `name`; `words` are those of `probe record` after its file.
    pub fn hook(&mut self, kind: &str, name: &str, words: &[&str]) -> &mut Bundle {
        let entry = self.hook_entry(kind, name, words);
        self.push(&format!("/hooks/{kind}"), entry)
    }

    /// The same as JSON, to be changed before it is appended.
    pub fn hook_entry(&self, kind: &str, name: &str, words: &[&str]) -> Value {
        // Only a startContainer hook finds its program, and writes, in the container's own files.
        let (program, log) = match kind {
            "startContainer" => ("/probe".into(), "/log".into()),
            _ => (self.rootfs("/probe"), self.log()),
        };
        let log = log.display().to_string();
        let args = [&[name, "record", &log], words].concat();
        json!({ "path": program, "args": args })
    }

    /// A hook of every kind, called by its kind.
    pub fn hook_of_every_kind(&mut self) -> &mut Bundle {
        for kind in KINDS {
            self.hook(kind, kind, &[]);
        }
        self
    }

    /// The output of the hooks so far, in order.
    ///
    /// # Errors
    /// When the log has other content.
    pub fn records(&self) -> anyhow::Result<Vec<Record>> {
        Record::read(&self.log())
    }

    /// The names of the hooks that wrote, in order.
    ///
    /// # Errors
    /// When the log has other content.
    pub fn called(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.records()?.iter().map(|record| record.name().to_owned()).collect())
    }

    /// The record of the hook of this name.
    ///
    /// # Errors
    /// When it was not called.
    pub fn record(&self, name: &str) -> anyhow::Result<Record> {
        let records = self.records()?;
        let names: Vec<_> = records.iter().map(|record| record.name().to_owned()).collect();
        let found = records.into_iter().find(|record| record.name() == name);
        found.ok_or_else(|| anyhow::anyhow!("{name} was not called; called were {names:?}"))
    }
}
