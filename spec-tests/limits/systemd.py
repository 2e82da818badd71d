"""The systemd cgroup driver, below a real systemd: units, their properties, their end."""

import json

from kit import images
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario

MIB = 1 << 20


def busybox_root(runtime):
    """A root directory of a small system."""
    root = runtime.place / "busybox-root"
    return root if root.exists() else images.unpack_busybox(root)


def unit(name):
    """The unit that systemd.cgroupsPath of `name` stands for."""
    return f"brigtest-{name}.scope"


def shown(name, *properties):
    """Properties of a unit as systemctl shows them."""
    lines = run("systemctl", "show", unit(name), *[f"--property={one}" for one in properties]).out.splitlines()
    return dict(line.split("=", 1) for line in lines)


def gone(name):
    """Whether systemd knows the unit no more."""
    return shown(name, "LoadState")["LoadState"] == "not-found"


@scenario("a scope in its slice holds the container, and is described")
def scope(runtime):
    runtime.start("one", busybox_root(runtime), ["probe", "wait"])
    seen = shown("one", "ActiveState", "Slice", "ControlGroup", "Delegate")
    equal((seen["ActiveState"], seen["Slice"], seen["Delegate"]), ("active", "system.slice", "yes"), "the unit")
    cgroup = open(f"/proc/{runtime.state('one')['pid']}/cgroup").read()
    contains(cgroup, f"system.slice/{unit('one')}", "the process's cgroup")
    runtime("exec", "one", "true")


@scenario("limits become properties of the unit, and files of its cgroup")
def limits(runtime):
    resources = {"memory": {"limit": 32 * MIB, "reservation": 16 * MIB}, "pids": {"limit": 40},
                 "cpu": {"quota": 20000, "period": 100000, "shares": 512}}
    runtime.start("lim", busybox_root(runtime), ["probe", "wait"], linux={"resources": resources})
    seen = shown("lim", "MemoryMax", "MemoryLow", "TasksMax", "CPUQuotaPerSecUSec", "ControlGroup")
    equal((seen["MemoryMax"], seen["MemoryLow"], seen["TasksMax"]), (str(32 * MIB), str(16 * MIB), "40"), "properties")
    equal(seen["CPUQuotaPerSecUSec"], "200ms", "CPUQuotaPerSecUSec")
    cgroup = f"/sys/fs/cgroup{seen['ControlGroup']}"
    equal([open(f"{cgroup}/{file}").read().strip() for file in ("memory.max", "pids.max", "cpu.max")],
          [str(32 * MIB), "40", "20000 100000"], "files")
    contains(runtime("exec", "lim", "probe", "fork", "100").out, "Resource temporarily unavailable", "the fork bomb")
    runtime("exec", "lim", "probe", "hog", "100", code=137)


@scenario("update changes the properties, and they survive a daemon-reload")
def update(runtime):
    runtime.start("upd", busybox_root(runtime), ["probe", "wait"], linux={"resources": {"memory": {"limit": 32 * MIB}}})
    runtime("update", "--memory", str(64 * MIB), "--pids-limit", "50", "upd")
    run("systemctl", "daemon-reload")
    seen = shown("upd", "MemoryMax", "TasksMax", "ControlGroup")
    equal((seen["MemoryMax"], seen["TasksMax"]), (str(64 * MIB), "50"), "properties")
    equal(open(f"/sys/fs/cgroup{seen['ControlGroup']}/memory.max").read().strip(), str(64 * MIB), "memory.max")


@scenario("annotations org.systemd.property.* become properties")
def annotations(runtime):
    properties = {"org.systemd.property.TimeoutStopUSec": "uint64 7000000", "org.systemd.property.CollectMode": "'inactive-or-failed'"}
    runtime.start("ann", busybox_root(runtime), ["probe", "wait"], annotations=properties)
    seen = shown("ann", "TimeoutStopUSec", "CollectMode")
    equal((seen["TimeoutStopUSec"], seen["CollectMode"]), ("7s", "inactive-or-failed"), "properties")


@scenario("kill and delete leave no unit; so does a run in the foreground; so does one that cannot start")
def ends(runtime):
    runtime.start("end", busybox_root(runtime), ["probe", "wait"])
    runtime("kill", "end", "KILL")
    wait_until(lambda: runtime.state("end")["status"] == "stopped", "stopped")
    runtime("delete", "end")
    wait_until(lambda: gone("end"), "the unit to be gone")
    bundle = runtime.bundle("fore", busybox_root(runtime), ["probe", "exit", "4"])
    runtime("run", "-b", bundle, "fore", code=4)
    wait_until(lambda: gone("fore"), "the unit of the foreground run to be gone")
    bundle = runtime.bundle("bad", busybox_root(runtime), ["/no/such"])
    runtime("run", "-b", bundle, "bad", code=1)
    wait_until(lambda: gone("bad"), "the unit of the one that cannot start to be gone")


@scenario("pause and resume")
def freeze(runtime):
    runtime.start("ice", busybox_root(runtime), ["probe", "spin"])
    runtime("pause", "ice")
    equal(runtime.state("ice")["status"], "paused", "status")
    runtime("resume", "ice")
    equal(runtime.state("ice")["status"], "running", "status")


@scenario("systemctl stop of the unit ends the container")
def stopped_from_outside(runtime):
    runtime.start("out", busybox_root(runtime), ["probe", "wait"])
    run("systemctl", "kill", "--signal=KILL", unit("out"))
    wait_until(lambda: runtime.state("out")["status"] == "stopped", "stopped")


@scenario("a slice of its own is made, and devices are what the rules allow")
def slices(runtime):
    bundle = runtime.bundle("sl", busybox_root(runtime), ["probe", "wait"],
                            linux={"cgroupsPath": "brigtest-inner.slice:brigtest:sl"})
    check(json.loads((bundle / "config.json").read_text())["linux"]["cgroupsPath"].startswith("brigtest-inner"), "the path")
    runtime("run", "-d", "-b", bundle, "sl", detached=True)
    equal(shown("sl", "Slice")["Slice"], "brigtest-inner.slice", "Slice")
    runtime("exec", "sl", "sh", "-c", "echo x >/dev/null && head -c1 /dev/zero >/dev/null")
    runtime("delete", "-f", "sl")
    run("systemctl", "stop", "brigtest-inner.slice", "brigtest.slice")
