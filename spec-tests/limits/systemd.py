"""The systemd cgroup driver, below a real systemd: units, their properties, their end. On cgroup v2 and on v1."""

import json
from pathlib import Path

from kit import host, images
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario

MIB = 1 << 20
V2 = (host.CGROUPS / "cgroup.procs").exists()


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
    """Whether systemd knows the unit no more, and no hierarchy has its cgroup."""
    left = [root for root in host.hierarchies() if (root / "system.slice" / unit(name)).exists()]
    return shown(name, "LoadState")["LoadState"] == "not-found" and not left


def value(name, controller, file):
    """The content of a file of the unit's cgroup, in the hierarchy of the controller where there are several."""
    group = shown(name, "ControlGroup")["ControlGroup"].lstrip("/")
    return ((host.CGROUPS if V2 else host.CGROUPS / controller) / group / file).read_text().strip()


def cgroups_of(text):
    """Each hierarchy's path of a text of /proc/PID/cgroup. Without v1 hierarchies it is one."""
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return {controllers: path for _, controllers, path in lines}


def home(text):
    """The path in the hierarchy that is systemd's own."""
    return cgroups_of(text)["" if V2 else "name=systemd"]


@scenario("a scope in its slice holds the container, and is described")
def scope(runtime):
    runtime.start("one", busybox_root(runtime), ["probe", "wait"])
    seen = shown("one", "ActiveState", "Slice", "ControlGroup", "Delegate")
    equal((seen["ActiveState"], seen["Slice"], seen["Delegate"]), ("active", "system.slice", "yes"), "the unit")
    cgroup = open(f"/proc/{runtime.state('one')['pid']}/cgroup").read()
    place = f"/system.slice/{unit('one')}"
    equal(set(cgroups_of(cgroup).values()), {place}, "the process's cgroups")
    equal(set(cgroups_of(cgroup)), set(cgroups_of(Path("/proc/self/cgroup").read_text())), "the hierarchies")
    seen = cgroups_of(runtime("exec", "one", "cat", "/proc/self/cgroup").out)
    equal(set(seen.values()), {"/"} if V2 else {place}, "the cgroups of an exec, in a cgroup namespace on v2")


@scenario("limits become properties of the unit, and files of its cgroup")
def limits(runtime):
    resources = {"memory": {"limit": 32 * MIB, "reservation": 16 * MIB}, "pids": {"limit": 40},
                 "cpu": {"quota": 20000, "period": 100000, "shares": 512}}
    runtime.start("lim", busybox_root(runtime), ["probe", "wait"], linux={"resources": resources})
    properties = {"TasksMax": "40", "CPUQuotaPerSecUSec": "200ms"}
    files = {("pids", "pids.max"): "40"}
    if V2:
        properties |= {"MemoryMax": str(32 * MIB), "MemoryLow": str(16 * MIB), "CPUWeight": "59"}
        files |= {("memory", "memory.max"): str(32 * MIB), ("cpu", "cpu.max"): "20000 100000"}
    else:
        properties |= {"MemoryLimit": str(32 * MIB), "CPUShares": "512"}
        files |= {("memory", "memory.limit_in_bytes"): str(32 * MIB), ("memory", "memory.soft_limit_in_bytes"): str(16 * MIB),
                  ("cpu", "cpu.cfs_quota_us"): "20000", ("cpu", "cpu.shares"): "512"}
    equal(shown("lim", *properties), properties, "properties")
    equal({place: value("lim", *place) for place in files}, files, "files")
    stats = json.loads(runtime("events", "--stats", "lim").out)["data"]
    equal((stats["memory"]["usage"]["limit"], stats["pids"]["limit"]), (32 * MIB, 40), "limits among the statistics")
    contains(runtime("exec", "lim", "probe", "fork", "100").out, "Resource temporarily unavailable", "the fork bomb")
    runtime("exec", "lim", "probe", "hog", "100", code=137)


@scenario("update changes the properties, and they survive a daemon-reload")
def update(runtime):
    runtime.start("upd", busybox_root(runtime), ["probe", "wait"], linux={"resources": {"memory": {"limit": 32 * MIB}}})
    runtime("update", "--memory", str(64 * MIB), "--pids-limit", "50", "upd")
    run("systemctl", "daemon-reload")
    limit, file = ("MemoryMax", "memory.max") if V2 else ("MemoryLimit", "memory.limit_in_bytes")
    equal(shown("upd", limit, "TasksMax"), {limit: str(64 * MIB), "TasksMax": "50"}, "properties")
    equal(value("upd", "memory", file), str(64 * MIB), file)


@scenario("an update keeps exact values that systemd rounds, and keeps devices")
def update_keeps(runtime):
    resources = {"cpu": {"quota": 20500, "period": 100000},
                 "devices": [{"allow": False, "access": "rwm"},
                             {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}
    runtime.start("kept", busybox_root(runtime), ["probe", "wait"], linux={"resources": resources})
    quota = ("cpu", "cpu.max") if V2 else ("cpu", "cpu.cfs_quota_us")
    before = value("kept", *quota), "" if V2 else value("kept", "devices", "devices.list")
    contains(before[0], "20500", "the quota")
    runtime("update", "--memory", str(64 * MIB), "kept")
    equal((value("kept", *quota), "" if V2 else value("kept", "devices", "devices.list")), before, "quota and devices")
    runtime("exec", "kept", "sh", "-c", "echo x >/dev/null")


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
    runtime("exec", "-d", "ice", "probe", "wait", detached=True)
    runtime("pause", "ice")
    runtime("kill", "--all", "ice", "KILL")
    wait_until(lambda: runtime.state("ice")["status"] == "stopped", "stopped")
    runtime("delete", "ice")
    wait_until(lambda: gone("ice"), "the unit to be gone")


@scenario("cgroupsPath names slice and scope as runc reads it, whatever part is missing")
def spellings(runtime):
    root = busybox_root(runtime)

    def each(number, path):
        """The outcome for the runtime and for runc: whether they ran it, and the output."""
        for name, words in ((f"spell{number}", [runtime.runtime]), (f"runc{number}", ["runc"])):
            namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
            bundle = runtime.bundle(name, root, ["cat", "/proc/self/cgroup"],
                                    linux={"cgroupsPath": path, "namespaces": namespaces})
            done = run(*words, "--root", runtime.root, "--systemd-cgroup", "run", "-b", bundle, name, code=None)
            yield done.code == 0, done.out + done.err

    places = {":brigtest:n": "/system.slice/brigtest-n.scope", "-.slice:brigtest:n": "/brigtest-n.scope",
              "brigtest-a.slice:brigtest:n": "/brigtest.slice/brigtest-a.slice/brigtest-n.scope",
              "system.slice::brigtest": "/system.slice/-brigtest.scope",
              "system.slice:brigtest:": "/system.slice/brigtest-.scope"}
    for number, (path, place) in enumerate(places.items()):
        (ran, text), (runc_ran, runc_text) = each(number, path)
        check(ran and runc_ran, f"{path}: {text}, and runc: {runc_text}")
        equal((home(text), home(runc_text)), (place, place), f"{path}, here and with runc")
        equal(set(cgroups_of(text).values()), {place}, f"{path} in every hierarchy")
    refused = {"brigtest:n": "format", "/brigtest/n": "format", "system.slice:brigtest:n:x": "format",
               "system:brigtest:n": "invalid slice name", ".slice:brigtest:n": "invalid slice name",
               "a--b.slice:brigtest:n": "invalid slice name", "a/b.slice:brigtest:n": "invalid slice name"}
    for number, (path, words) in enumerate(refused.items(), len(places)):
        for ran, text in each(number, path):
            check(not ran, f"{path} was taken: {text}")
            contains(text, words, path)


@scenario("systemctl stop of the unit kills the container")
def stopped_from_outside(runtime):
    runtime.start("out", busybox_root(runtime), ["probe", "wait"])
    run("systemctl", "kill", "--signal=KILL", unit("out"))
    wait_until(lambda: runtime.state("out")["status"] == "stopped", "stopped")


@scenario("a slice of its own is made, and devices are those that the rules allow")
def slices(runtime):
    bundle = runtime.bundle("sl", busybox_root(runtime), ["probe", "wait"],
                            linux={"cgroupsPath": "brigtest-inner.slice:brigtest:sl"})
    check(json.loads((bundle / "config.json").read_text())["linux"]["cgroupsPath"].startswith("brigtest-inner"), "the path")
    runtime("run", "-d", "-b", bundle, "sl", detached=True)
    equal(shown("sl", "Slice")["Slice"], "brigtest-inner.slice", "Slice")
    runtime("exec", "sl", "sh", "-c", "echo x >/dev/null && head -c1 /dev/zero >/dev/null")
    runtime("delete", "-f", "sl")
    run("systemctl", "stop", "brigtest-inner.slice", "brigtest.slice")
