"""One static program: the runtime's verbs by hand."""

import json

from kit import host, images
from kit.commands import check, contains, equal, wait_until
from kit.suite import scenario


def root_of_probe(runtime):
    """A root directory that holds the probe and nothing else."""
    root = runtime.place / "probe-root"
    if not root.exists():
        root.mkdir()
        (root / "probe").write_bytes(images.probe().read_bytes())
        (root / "probe").chmod(0o755)
    return root


@scenario("run in the foreground: output and exit status")
def foreground(runtime):
    bundle = runtime.bundle("fg", root_of_probe(runtime), ["/probe", "status"])
    contains(runtime("run", "-b", bundle, "fg").out, "Pid:\t1\n", "its status")
    bundle = runtime.bundle("seven", root_of_probe(runtime), ["/probe", "exit", "7"])
    runtime("run", "-b", bundle, "seven", code=7)


@scenario("create, state, start, exec, ps, pause, resume, kill, delete")
def verbs(runtime):
    bundle = runtime.bundle("life", root_of_probe(runtime), ["/probe", "wait"])
    pid_file = runtime.place / "pid"
    runtime("create", "-b", bundle, "--pid-file", pid_file, "life", detached=True)
    equal(runtime.state("life")["status"], "created", "status")
    equal(int(pid_file.read_text()), runtime.state("life")["pid"], "the pid file")
    status = host.status_of(runtime.state("life")["pid"])
    check(status["Name"] != "probe", f"the program runs before start: {status['Name']}")
    runtime("start", "life")
    wait_until(lambda: host.status_of(runtime.state("life")["pid"])["Name"] == "probe", "the program")
    equal(runtime.state("life")["status"], "running", "status")
    contains(runtime("exec", "life", "/probe", "status").out, "Seccomp", "exec")
    runtime("exec", "life", "/probe", "exit", "3", code=3)
    equal(json.loads(runtime("ps", "-f", "json", "life").out), [runtime.state("life")["pid"]], "ps")
    runtime("pause", "life")
    equal(runtime.state("life")["status"], "paused", "status")
    runtime("resume", "life")
    check("life" in runtime("list", "-q").out.split(), "list -q")
    contains(runtime("delete", "life", code=1).err, "not stopped", "delete of a running one")
    runtime("kill", "life", "KILL")
    wait_until(lambda: runtime.state("life")["status"] == "stopped", "stopped")
    runtime("delete", "life")
    contains(runtime("state", "life", code=1).err, "does not exist", "state afterwards")


@scenario("failures: no such program, no such container, a taken id, an id that is a path")
def failures(runtime):
    bundle = runtime.bundle("bad", root_of_probe(runtime), ["/none"])
    contains(runtime("run", "-b", bundle, "bad", code=1).err, "no such file or directory", "no such program")
    contains(runtime("start", "nobody", code=1).err, "does not exist", "no such container")
    runtime.start("taken", root_of_probe(runtime), ["/probe", "wait"])
    contains(runtime("create", "-b", runtime.place / "bundles" / "taken", "taken", code=1).err, "already exists", "a taken id")
    contains(runtime("create", "-b", runtime.place / "bundles" / "taken", "../up", code=1).err, "invalid container ID", "the id")
