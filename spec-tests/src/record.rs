//! The record of a hook's run: its identity, its place, its input, and its view of the container.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line that `probe record FILE` appends; the lines' order is the order of the calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// argv, of which the first word is the hook's name in the cases.
    pub args: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub directory: String,
    /// The lines of /proc/self/status: capabilities, ids, no_new_privs and seccomp among them.
    pub status: BTreeMap<String, String>,
    /// The content of standard input.
    pub stdin: String,
    /// The text of each link in /proc/self/ns.
    pub namespaces: BTreeMap<String, String>,
    /// The names in the hook's root directory.
    pub root: Vec<String>,
    /// The process that the state names, as far as the hook sees one.
    pub process: Option<Process>,
    /// The requested paths, and whether they exist.
    pub present: BTreeMap<String, bool>,
}

/// A process, read from /proc by its pid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its argv.
    pub args: Vec<String>,
    /// The text of each link in its ns directory.
    pub namespaces: BTreeMap<String, String>,
    /// The names in its root directory.
    pub root: Vec<String>,
    /// Its mount points.
    pub mounts: Vec<String>,
}

impl Record {
    /// Reads stdin to its end and looks around.
    ///
    /// # Errors
    /// When stdin or /proc/self cannot be read.
    pub fn make(args: Vec<String>, look: &[String]) -> anyhow::Result<Record> {
        let mut stdin = String::new();
        std::io::stdin().read_to_string(&mut stdin).context("stdin")?;
        let state: Option<Value> = serde_json::from_str(&stdin).ok();
        let pid = state.and_then(|state| state["pid"].as_i64());
        Ok(Record {
            args,
            env: std::env::vars().collect(),
            directory: std::env::current_dir().context("the working directory")?.to_string_lossy().into_owned(),
            status: status()?,
            namespaces: links("/proc/self/ns")?,
            root: names("/")?,
            process: pid.filter(|&pid| pid > 0).and_then(|pid| Process::find(pid).ok()),
            present: look.iter().map(|path| (path.clone(), Path::new(path).exists())).collect(),
            stdin,
        })
    }

    /// Appends itself to the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, file: &str) -> anyhow::Result<()> {
        let line = serde_json::to_string(self)? + "\n";
        let mut out = fs::OpenOptions::new().create(true).append(true).open(file).context(file.to_owned())?;
        Ok(out.write_all(line.as_bytes())?)
    }

    /// Everything that was appended to the file so far; nothing when there is none.
    ///
    /// # Errors
    /// When it holds something else.
    pub fn read(file: &Path) -> anyhow::Result<Vec<Record>> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("a record is {line:?}"))).collect()
    }

    /// The hook's name: its `argv[0]`.
    pub fn name(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// The state that it was given.
    ///
    /// # Errors
    /// When that was no JSON.
    pub fn state(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdin).with_context(|| format!("{} found {:?} on stdin", self.name(), self.stdin))
    }
}

impl Process {
    fn find(pid: i64) -> anyhow::Result<Process> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let words = |text: String| text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        let point = |line: &str| line.split(' ').nth(4).map(str::to_owned);
        // The exec has let go of its caller, and sets the arguments next.
        let is_over = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        while read("cmdline")?.is_empty() && !is_over(read("stat")?) {
            std::thread::yield_now();
        }
        Ok(Process {
            args: words(read("cmdline")?),
            namespaces: links(&format!("/proc/{pid}/ns"))?,
            root: names(&format!("/proc/{pid}/root/"))?,
            mounts: read("mountinfo")?.lines().filter_map(point).collect(),
        })
    }
}

fn status() -> anyhow::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(text.lines().filter_map(pair).collect())
}

fn names(directory: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.to_owned())? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    found.sort();
    Ok(found)
}

fn links(directory: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let link = |name: String| {
        let text = fs::read_link(format!("{directory}/{name}"))?.to_string_lossy().into_owned();
        Ok((name, text))
    };
    names(directory)?.into_iter().map(link).collect()
}
