//! Hooks (config.md, POSIX-platform Hooks): six lists, each with its time and its namespace.

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{Hook as SpecHook, Spec};
use serde::{Deserialize, Serialize};

use super::checks::check_no_nul;
use super::{Findings, Finished, annotations};

/// A hook to run.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hook {
    /// JSON path, for messages: `hooks.poststop[0]`.
    pub place: String,
    /// Absolute path of the executable.
    pub path: PathBuf,
    /// The argument vector; the path alone when the configuration gives none.
    pub args: Vec<String>,
    /// The whole environment. `None` inherits that of the process which runs the hook; in the container, that of the
    /// container's program.
    pub env: Option<Vec<String>>,
    /// Time after which the hook is killed and counts as failed.
    pub timeout: Option<Duration>,
    /// Files to which standard output and standard error are appended; `None` discards standard output and includes
    /// standard error in the error.
    pub outputs: [Option<PathBuf>; 2],
}

/// The hooks that the runtime's process runs, in the runtime namespace.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuntimeHooks {
    /// In create, before pivot_root. Deprecated by the specification; run before `create_runtime`.
    pub prestart: Vec<Hook>,
    /// In create, before pivot_root.
    pub create_runtime: Vec<Hook>,
    /// In start, after the program was started. A failure kills the container.
    pub poststart: Vec<Hook>,
    /// In delete. A failure only warns.
    pub poststop: Vec<Hook>,
}

/// The hooks that the container's init runs, in the container namespace.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerHooks {
    /// In create, after the mounts and before pivot_root.
    pub create_container: Vec<Hook>,
    /// In start, before the program.
    pub start_container: Vec<Hook>,
}

/// All hooks of a configuration, in the order in which they run.
#[derive(Debug, Default)]
pub(crate) struct AllHooks {
    pub runtime: RuntimeHooks,
    pub container: ContainerHooks,
}

/// Plans the hooks of a container that has been created, and whose configuration was checked then.
pub fn of_runtime(spec: &Spec) -> Finished<RuntimeHooks> {
    Finished::new(build(spec, &mut Findings::default()).runtime)
}

/// Plans the configuration's hooks.
pub(crate) fn build(spec: &Spec, findings: &mut Findings) -> AllHooks {
    let Some(hooks) = spec.hooks() else { return AllHooks::default() };
    let outputs = annotations::hook_outputs(spec, findings);
    let list = |name, hooks, findings: &mut Findings| list(name, hooks, &outputs, findings);
    #[allow(deprecated, reason = "the specification deprecates prestart, and still asks for it")]
    let prestart = hooks.prestart();
    AllHooks {
        runtime: RuntimeHooks {
            prestart: list("prestart", prestart.as_deref(), findings),
            create_runtime: list("createRuntime", hooks.create_runtime().as_deref(), findings),
            poststart: list("poststart", hooks.poststart().as_deref(), findings),
            poststop: list("poststop", hooks.poststop().as_deref(), findings),
        },
        container: ContainerHooks {
            create_container: list("createContainer", hooks.create_container().as_deref(), findings),
            // The output files are the host's, and these hooks run in the container's mount namespace.
            start_container: self::list("startContainer", hooks.start_container().as_deref(), &[None, None], findings),
        },
    }
}

/// config.md, POSIX-platform Hooks: the path is absolute, and a timeout is above zero.
fn list(name: &str, hooks: Option<&[SpecHook]>, outputs: &[Option<PathBuf>; 2], findings: &mut Findings) -> Vec<Hook> {
    let read = |(index, hook): (usize, &SpecHook)| {
        let place = format!("hooks.{name}[{index}]");
        let timeout = hook.timeout().and_then(|seconds| match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => {
                let reason = "must be greater than zero";
                findings.deny(format!("{place}.timeout"), reason, "leave it out for no limit");
                None
            }
        });
        let path = hook.path().clone();
        if !path.is_absolute() {
            findings.deny(format!("{place}.path"), format!("{path:?} is not absolute"), "");
        }
        // Entries without "=" are passed on, as runc does.
        check_no_nul(hook.env().as_deref(), &format!("{place}.env"), findings);
        check_no_nul(hook.args().as_deref(), &format!("{place}.args"), findings);
        let args = match hook.args() {
            Some(args) if !args.is_empty() => args.clone(),
            _ => vec![path.to_string_lossy().into_owned()],
        };
        let env = environment(name, hook.env().as_ref());
        Hook { place, path, args, env, timeout, outputs: outputs.clone() }
    };
    hooks.unwrap_or_default().iter().enumerate().map(read).collect()
}

/// As with runc, an empty list inherits for a startContainer hook, and a createContainer hook without a list gets an
/// empty environment.
fn environment(name: &str, env: Option<&Vec<String>>) -> Option<Vec<String>> {
    match name {
        "startContainer" => env.filter(|env| !env.is_empty()).cloned(),
        "createContainer" => Some(env.cloned().unwrap_or_default()),
        _ => env.cloned(),
    }
}
