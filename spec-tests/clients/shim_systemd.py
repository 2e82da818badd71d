"""The shim below a real systemd: scopes in every hierarchy, whether the options ask for them or the path does."""

import json
import shutil
from pathlib import Path

from kit import host
from kit.commands import check, equal, run, wait_until
from kit.shim import PAUSED, RUNNING
from kit.suite import scenario
from kit.ttrpc import any_of, decode

V2 = (host.CGROUPS / "cgroup.procs").exists()
RUNC_OPTIONS = "containerd.runc.v1.Options"
SYSTEMD = any_of(RUNC_OPTIONS, {9: 1})
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


def cgroups_of(pid):
    """The process's path in every hierarchy."""
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def shown(unit, name):
    """A property of a unit."""
    return run("systemctl", "show", "--value", "-p", name, unit).text


def gone(place):
    """Whether no hierarchy has a cgroup of that path."""
    return not any((root / place.lstrip("/")).exists() for root in host.hierarchies())


@scenario("with SystemdCgroup a container is a scope in every hierarchy, and each call works on it", deadline=120)
def scope(shim):
    one = shim.container(options=SYSTEMD, cgroup="system.slice:brigtest:scope", resources={"pids": {"limit": 50}})
    pid = one.run()
    unit, place = "brigtest-scope.scope", "/system.slice/brigtest-scope.scope"
    equal(cgroups_of(pid), {place}, "init's cgroups")
    equal(cgroups_of(one.exec("more", ["probe", "wait"])), {place}, "an exec's cgroups")
    equal((shown(unit, "ActiveState"), shown(unit, "TasksMax")), ("active", "50"), "the unit")
    one.call("Update", resources=any_of(RESOURCES, json.dumps({"pids": {"limit": 77}}).encode()))
    root = host.CGROUPS if V2 else host.CGROUPS / "pids"
    equal(((root / place[1:] / "pids.max").read_text(), shown(unit, "TasksMax")), ("77\n", "77"), "after an update")
    told = decode(one.call("Stats")[1][0])
    equal(told[1], [f"io.containerd.cgroups.v{2 if V2 else 1}.Metrics".encode()], "the type of the statistics")
    equal(decode(decode(told[2][0])[1 if V2 else 2][0])[2], [77], "the limit among the statistics")
    one.call("Pause")
    equal(one.status(), PAUSED, "status")
    one.call("Resume")
    equal(one.status(), RUNNING, "status")
    equal(len(one.call("Pids")[1]), 2, "pids")
    one.finish()
    wait_until(lambda: gone(place) and shown(unit, "LoadState") == "not-found", "the scope to be gone")


@scenario("with SystemdCgroup a container that exceeds its memory is out of memory", deadline=120)
def out_of_memory(shim):
    little = {"memory": {"limit": 24 << 20, "swap": 24 << 20}}
    one = shim.container(args=["probe", "hog", "100"], options=SYSTEMD, cgroup="system.slice:brigtest:oom",
                         resources=little)
    one.run()
    equal(one.wait(), 137, "the exit status")
    check("oom" in one.events_until("exit"), "an event tells that memory ran out")
    equal(one.delete(), 137, "the deleted task's exit status")
    one.shutdown()
    wait_until(lambda: gone("/system.slice/brigtest-oom.scope"), "the scope to be gone")


@scenario("without the option slice:prefix:name is a scope, as with Docker; any other path is a directory",
          deadline=120)
def by_path(shim):
    runc = {6: shutil.which("runc"), 7: f"{shim.place}/runc-state"}
    for number, options in enumerate((None, any_of(RUNC_OPTIONS, {7: f"{shim.place}/state"}), any_of(RUNC_OPTIONS, runc))):
        one = shim.container(f"scope{number}", options=options, cgroup="system.slice:docker:brigtest")
        equal(cgroups_of(one.run()), {"/system.slice/docker-brigtest.scope"}, f"the scope of {options}")
        one.finish()
        wait_until(lambda: gone("/system.slice/docker-brigtest.scope"), "the scope to be gone")
    refused = any_of("runtimeoptions.v1.Options", {3: "SystemdCgroup = false\n"})
    for number, (options, path) in enumerate(((None, f"/{shim.parent}/plain"), (None, f"/{shim.parent}/a:b:c"),
                                              (refused, f"system.slice:docker:{shim.parent}"))):
        one = shim.container(f"plain{number}", options=options, cgroup=path)
        found = cgroups_of(one.run())
        check(all(cgroup.endswith(path) for cgroup in found), f"expected {path} at the end of each, found {found}")
        equal(shown(f"docker-{shim.parent}.scope", "LoadState"), "not-found", "a unit")
        one.finish()
