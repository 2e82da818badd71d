//! A pid namespace that containers share, as those of a pod may: one of them has CAP_SYS_PTRACE, and searches each
//! process that appears for what a runtime's own process brings along from the host.

use anyhow::ensure;
use serde_json::json;

use super::Outside;
use crate::cases::linux::seccomp_profile::profile;
use crate::harness::{Bundle, Case, Container, Fixture, Level, Need, wait_until};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// A process of the runtime's is there for a millisecond or less before it has become the container's.
const ROUNDS: usize = 500;

/// CAP_SYS_PTRACE, which is all that these containers have.
const CAPABILITIES: (&str, u64) = ("CAP_SYS_PTRACE", 1 << 19);

/// A search that loops needs a CPU of its own, or a round takes as long as it gets of one.
const EXECS: &[Need] = &[Need::Cpus(2)];
/// Before procfs takes `pidns=`, the root of a create cannot be built outside of the pid namespace.
const CREATES: &[Need] = &[Need::Cpus(2), Need::Kernel(6, 18)];

/// Without a user namespace CAP_SYS_PTRACE is good for every process that can be seen, dumpable or not.
pub const CASES: &[Case] = &[
    case("no create into a shared pid namespace shows the host to another process there", "CVE-2016-9962", creates)
        .on(CREATES),
    case("no exec shows the host or more capabilities to another process of the container", "CVE-2016-9962", execs)
        .on(EXECS),
];

fn bundle(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!([CAPABILITIES.0]));
    }
    // Without noNewPrivileges the installation of a filter takes CAP_SYS_ADMIN, which no visible process may have.
    bundle.set("/linux/seccomp", profile()?).set("/process/noNewPrivileges", json!(false)).args(&["/probe", "wait"]);
    Ok(bundle)
}

/// The container that searches.
struct Hunter<'a> {
    container: Container<'a>,
    outside: Outside,
}

impl<'a> Hunter<'a> {
    fn start(fixture: &'a Fixture) -> anyhow::Result<Hunter<'a>> {
        let outside = Outside::make(fixture)?;
        let mut bundle = bundle(fixture)?;
        let marker = outside.path().join("mark");
        bundle.args(&["/probe", "hunt", &marker.to_string_lossy(), &format!("{:x}", CAPABILITIES.1)]);
        let container = fixture.create(&bundle)?;
        container.start()?;
        let hunter = Hunter { container, outside };
        wait_until("the search", || Ok(hunter.container.output()?.starts_with("looks\n").then_some(())))?;
        Ok(hunter)
    }

    fn found(&self) -> anyhow::Result<Vec<String>> {
        let output = self.container.output()?;
        Ok(output
            .lines()
            .filter(|line| line.starts_with("reached ") || line.starts_with("more "))
            .map(str::to_owned)
            .collect())
    }

    /// Fails when anything was found in this round.
    fn expect_nothing(&self, verb: &str, round: usize) -> anyhow::Result<()> {
        let found = self.found()?;
        ensure!(found.is_empty(), "{verb} {round}: expected nothing of the host, found {found:?}");
        Ok(())
    }

    fn wait_for(&self, what: &str) -> anyhow::Result<()> {
        wait_until(&format!("the search to find {what:?}"), || {
            Ok(self.found()?.iter().any(|line| line.contains(what)).then_some(()))
        })
    }

    fn bundle(&self, fixture: &Fixture) -> anyhow::Result<Bundle> {
        let mut bundle = bundle(fixture)?;
        bundle.namespace("pid", Some(&self.container.proc("ns/pid")));
        Ok(bundle)
    }

    /// The search finds what is there to be found: in a container that has the host's directory, by each way.
    fn finds_what_is_there(&self, fixture: &Fixture) -> anyhow::Result<()> {
        let outside = self.outside.path().to_string_lossy();
        let mut bundle = self.bundle(fixture)?;
        bundle
            .mount(&outside, "bind", &outside, &["bind"])
            .set("/process/cwd", json!(outside))
            .args(&["/probe", "hold", "/proc"]);
        let container = fixture.create(&bundle)?;
        container.start()?;
        for link in [" root", " cwd", " fd/"] {
            self.wait_for(link)?;
        }
        container.exec_with(&["--detach", "--cap", "CAP_NET_ADMIN"], &["/probe", "wait"])?.ok()?;
        self.wait_for("more ")?;
        container.kill("KILL")
    }
}

fn creates(fixture: &Fixture) -> anyhow::Result<()> {
    let hunter = Hunter::start(fixture)?;
    let bundle = hunter.bundle(fixture)?;
    for round in 0..ROUNDS {
        let container = fixture.create(&bundle)?;
        container.call_with_flags("delete", &["--force"])?.ok()?;
        container.wait()?;
        hunter.expect_nothing("create", round)?;
    }
    hunter.finds_what_is_there(fixture)
}

fn execs(fixture: &Fixture) -> anyhow::Result<()> {
    let hunter = Hunter::start(fixture)?;
    for round in 0..ROUNDS {
        // Of root and of another user, whose ids are set before its program runs.
        let user = if round % 2 == 0 { "0" } else { "1000" };
        hunter.container.exec_with(&["--user", user], &["/probe", "exit", "0"])?.ok()?;
        hunter.expect_nothing("exec", round)?;
    }
    hunter.finds_what_is_there(fixture)
}
