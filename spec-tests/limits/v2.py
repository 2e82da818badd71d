"""Limits on pure cgroup v2, as the runtime's own command line sets them: written, read inside, and enforced."""

import json
from pathlib import Path

from bundles.static import root_of_probe
from kit import host, images
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario

MIB = 1 << 20


def busybox_root(runtime):
    """A root directory of a small system."""
    root = runtime.place / "busybox-root"
    return root if root.exists() else images.unpack_busybox(root)


def started(runtime, name, resources, args=("probe", "wait")):
    """A container in the background with these linux.resources and a view of its own cgroup."""
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "nodev", "noexec"]}
    bundle = runtime.bundle(name, busybox_root(runtime), list(args), linux={"resources": resources})
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    kinds = {space["type"] for space in config["linux"]["namespaces"]}
    config["linux"]["namespaces"] += [{"type": "cgroup"}] if "cgroup" not in kinds else []
    config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/sys/fs/cgroup"] + [mount]
    path.write_text(json.dumps(config))
    runtime("run", "-d", "-b", bundle, name, detached=True)
    return name


def read(runtime, name, file):
    """A file of the container's cgroup, as the container reads it."""
    return runtime("exec", name, "cat", f"/sys/fs/cgroup/{file}").text


def table(text):
    """Lines of `key number` as a dictionary."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


@scenario("memory: limit, swap, reservation are read back; a process that uses more is killed, and events report it")
def memory(runtime):
    resources = {"memory": {"limit": 32 * MIB, "swap": 48 * MIB, "reservation": 16 * MIB}}
    started(runtime, "mem", resources)
    seen = [read(runtime, "mem", file) for file in ("memory.max", "memory.swap.max", "memory.low")]
    equal(seen, [str(32 * MIB), str(16 * MIB), str(16 * MIB)], "max, swap.max, low")
    runtime("exec", "mem", "probe", "hog", "20")
    runtime("exec", "mem", "probe", "hog", "100", code=137)
    check(table(read(runtime, "mem", "memory.events"))["oom_kill"] >= 1, "memory.events")
    stats = json.loads(runtime("events", "--stats", "mem").out)
    equal(stats["data"]["memory"]["usage"]["limit"], 32 * MIB, "events --stats")
    equal(runtime.state("mem")["status"], "running", "its first process lives")


@scenario("memory: init that uses more exits with 137")
def memory_of_the_first(runtime):
    bundle = runtime.bundle("hog", root_of_probe(runtime), ["/probe", "hog", "100"],
                            linux={"resources": {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}})
    runtime("run", "-b", bundle, "hog", code=137)


@scenario("pids: a fork bomb gets EAGAIN, and the container continues to run")
def pids(runtime):
    started(runtime, "pids", {"pids": {"limit": 40}})
    equal(read(runtime, "pids", "pids.max"), "40", "pids.max")
    contains(runtime("exec", "pids", "probe", "fork", "100").out, "Resource temporarily unavailable", "the fork bomb")
    check(table(read(runtime, "pids", "pids.events"))["max"] >= 1, "pids.events")
    runtime("exec", "pids", "true")


@scenario("cpu: quota, period and weight are read back; a busy loop is throttled")
def cpu(runtime):
    started(runtime, "cpu", {"cpu": {"shares": 1024, "quota": 20000, "period": 100000}}, ["probe", "spin"])
    equal(read(runtime, "cpu", "cpu.max"), "20000 100000", "cpu.max")
    check(1 <= int(read(runtime, "cpu", "cpu.weight")) <= 10000, "cpu.weight")
    wait_until(lambda: table(read(runtime, "cpu", "cpu.stat"))["nr_throttled"] > 2, "throttling")
    equal(runtime.state("cpu")["status"], "running", "status")


@scenario("io: weight and throttles are read back; a read through the device is slowed down")
def io(runtime):
    image = runtime.place / "disk"
    run("truncate", "-s", "16M", image)
    run("modprobe", "loop", code=None)
    device = run("losetup", "--find", "--show", image).text
    try:
        major, minor = Path(f"/sys/class/block/{device.rsplit('/', 1)[1]}/dev").read_text().strip().split(":")
        limit = [{"major": int(major), "minor": int(minor), "rate": MIB}]
        node = {"path": "/dev/disk", "type": "b", "major": int(major), "minor": int(minor), "fileMode": 0o600, "uid": 0, "gid": 0}
        allow = {"allow": True, "type": "b", "major": int(major), "minor": int(minor), "access": "rwm"}
        bundle = runtime.bundle("io", busybox_root(runtime), ["probe", "wait"], linux={
            "devices": [node], "resources": {"devices": [{"allow": False, "access": "rwm"}, allow],
                                             "blockIO": {"throttleReadBpsDevice": limit, "throttleWriteBpsDevice": limit}}})
        runtime("run", "-d", "-b", bundle, "io", detached=True)
        text = (host.cgroups_named(runtime.parent)[0] / "io" / "io.max").read_text()
        contains(text, f"rbps={MIB} wbps={MIB}", "io.max")
        took = runtime("exec", "io", "sh", "-c", "begin=$(cut -d. -f1 /proc/uptime); dd if=/dev/disk of=/dev/null bs=64k count=64 "
                       "iflag=direct 2>/dev/null; echo $(($(cut -d. -f1 /proc/uptime) - begin))").text
        check(int(took) >= 2, f"4 MB at 1 MB/s took {took} s")
    finally:
        runtime("delete", "-f", "io", code=None)
        run("losetup", "-d", device)


@scenario("unified: any key of cgroup v2 is written as it stands")
def unified(runtime):
    started(runtime, "any", {"unified": {"memory.high": str(24 * MIB), "pids.max": "33"}})
    equal([read(runtime, "any", file) for file in ("memory.high", "pids.max")], [str(24 * MIB), "33"], "memory.high, pids.max")


@scenario("update: memory, pids and cpu change while the container runs")
def update(runtime):
    started(runtime, "up", {"memory": {"limit": 32 * MIB}, "pids": {"limit": 40}})
    runtime("update", "--memory", str(64 * MIB), "--pids-limit", "50", "--cpu-quota", "30000", "--cpu-period", "100000", "up")
    seen = [read(runtime, "up", file) for file in ("memory.max", "pids.max", "cpu.max")]
    equal(seen, [str(64 * MIB), "50", "30000 100000"], "memory.max, pids.max, cpu.max")


@scenario("a cgroup tree that the container makes inside is removed with it; exec works meanwhile")
def nested(runtime):
    started(runtime, "nest", {"pids": {"limit": 40}})
    cgroup = host.cgroups_named(runtime.parent)[0] / "nest"
    (cgroup / "inner" / "most").mkdir(parents=True)
    runtime("exec", "nest", "true")
    runtime("kill", "nest", "KILL")
    wait_until(lambda: runtime.state("nest")["status"] == "stopped", "stopped")
    runtime("delete", "nest")
    check(not cgroup.exists(), "the cgroup is gone with what was inside")


@scenario("pause freezes and resume thaws, as cgroup.events reports")
def freeze(runtime):
    started(runtime, "ice", {}, ["probe", "spin"])
    cgroup = host.cgroups_named(runtime.parent)[0] / "ice"
    runtime("pause", "ice")
    contains((cgroup / "cgroup.events").read_text(), "frozen 1", "cgroup.events")
    contains(runtime("exec", "ice", "true", code=None).err, "paused", "exec while paused")
    runtime("resume", "ice")
    contains((cgroup / "cgroup.events").read_text(), "frozen 0", "cgroup.events")


@scenario("devices: those that the rules allow, before and after an update")
def devices(runtime):
    started(runtime, "dev", {"devices": [{"allow": False, "access": "rwm"}]})
    runtime("exec", "dev", "sh", "-c", "echo x >/dev/null && head -c1 /dev/zero >/dev/null && head -c1 /dev/urandom >/dev/null")
    refused = runtime("exec", "--cap", "CAP_MKNOD", "dev", "sh", "-c", "mknod /kmsg c 1 11; head -c1 /kmsg", code=1)
    contains(refused.err, "Operation not permitted", "a device that no rule allows")


@scenario("events reports an oom")
def oom_event(runtime):
    started(runtime, "oom", {"memory": {"limit": 24 * MIB, "swap": 24 * MIB}})
    log = runtime.place / "events"
    watcher = runtime.background("events", "oom", output=log)
    try:
        wait_until(lambda: '"stats"' in log.read_text(), "the first stats", 15)
        runtime("exec", "oom", "probe", "hog", "100", code=137)
        wait_until(lambda: '"oom"' in log.read_text(), "an oom event")
    finally:
        watcher.kill()
        watcher.wait()
