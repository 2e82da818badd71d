"""ctr on Debian's containerd: runc's own shim, whose option BinaryName is the runtime under test."""

import base64
import json

from kit.commands import check, contains, equal, wait_until
from kit.suite import scenario


@scenario("the shim calls the binary of its options, and no other")
def binary(ctr):
    ctr.start("named", ["probe", "wait"])
    options = json.loads(ctr("containers", "info", "named").out)["Runtime"]["Options"]
    check(str(ctr.runtime).encode() in base64.b64decode(options["value"]), f"the container's options: {options}")
    failed = ctr.run("other", ["true"], binary="/no/such/runtime", code=None)
    check(failed.code != 0 and "/no/such/runtime" in failed.err, f"a missing binary: {failed}")


@scenario("run: output, environment, directory, status")
def run_plain(ctr):
    out = ctr.run("--env", "A=1", "--cwd", "/srv", "plain", ["sh", "-c", "echo $A $(pwd) $(id -u)"])
    equal(out.text, "1 /srv 0", "inside")
    ctr.run("status", ["probe", "exit", "7"], code=7)


@scenario("run: bind and tmpfs mounts, a read-only root")
def run_mounts(ctr):
    shared = ctr.base / "shared"
    shared.mkdir()
    (shared / "in").write_text("given\n")
    out = ctr.run("--read-only", "--mount", f"type=bind,src={shared},dst=/srv,options=rbind:ro", "mounts",
                  ["sh", "-c", "cat /srv/in; touch /srv/x || touch /x || echo neither"])
    equal(out.out, "given\nneither\n", "inside")


@scenario("run: memory limit and cgroup")
def run_limits(ctr):
    ctr.start("--memory-limit", str(64 << 20), "limited", ["probe", "wait"])
    contains(ctr("tasks", "metrics", "limited").out, str(64 << 20), "the limit in the metrics")


@scenario("exec: status, user, directory; and programs that cannot run")
def exec_plain(ctr):
    ctr.start("host", ["probe", "wait"])
    # By their status alone: this ctr may end before it has read what a short program wrote.
    ctr.exec("host", ["sh", "-c", "test $(id -u) = 0"])
    ctr.exec("host", "--user", "1000", ["sh", "-c", "test $(id -u) = 1000"])
    ctr.exec("host", "--cwd", "/srv", ["sh", "-c", "test $(pwd) = /srv"])
    ctr.exec("host", ["probe", "exit", "9"], code=9)
    check(ctr.exec("host", ["no-such"], code=None).code != 0, "a missing program ran")


@scenario("pause, resume, ps, kill, delete: tasks have the status that they should")
def lifecycle(ctr):
    ctr.start("life", ["probe", "wait"])
    equal(ctr.status("life"), "RUNNING", "status")
    ctr("tasks", "pause", "life")
    equal(ctr.status("life"), "PAUSED", "status")
    ctr("tasks", "resume", "life")
    equal(ctr.status("life"), "RUNNING", "status")
    contains(ctr("tasks", "ps", "life").out, str(ctr.pid("life")), "ps")
    ctr.kill_and_delete("life", 137)


@scenario("a task that exits by itself is stopped, and its status is kept until it is deleted")
def ends(ctr):
    ctr.start("ends", ["probe", "exit", "3"])
    ctr.until("ends", "STOPPED")
    ctr.delete_task("ends", 3)


@scenario("signals reach the container's first process")
def signals(ctr):
    ctr.start("signalled", ["sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.1; done"])
    wait_until(lambda: "ready" in ctr.output("signalled"), "the trap")
    ctr("tasks", "kill", "-s", "USR1", "signalled")
    ctr.until("signalled", "STOPPED")
    wait_until(lambda: "got" in ctr.output("signalled"), "the handler's output")
    ctr.delete_task("signalled", 5)
