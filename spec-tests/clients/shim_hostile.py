"""A stranger's bundles: other files in the places of the shim's, links where directories should be, hooks that block."""

import json
import os
import time

from clients.shim_task import refused
from kit import host, ttrpc
from kit.commands import check, contains, equal, run, wait_until
from kit.shim import RUNNING, gate
from kit.suite import scenario
from kit.ttrpc import any_of, decode

# The limit that containerd has for `delete` (pkg/shim, cleanupTimeout), in seconds.
_CLEANUP = 5


def _delete(one, code=0):
    """`delete`, within containerd's limit; returns the answer's fields and standard error."""
    begin = time.monotonic()
    done = one.daemon.invoke(one.bundle, one.name, "delete", timeout=60)
    took = time.monotonic() - begin
    check(took < _CLEANUP, f"delete took {took:.1f} s")
    check((done.returncode == 0) == (code == 0), f"delete: status {done.returncode}: {done.stderr!r}")
    return decode(done.stdout), done.stderr.decode()


@scenario("files of the bundle that are links, FIFOs or devices: `delete` reads none of them, and removes the container", deadline=120)
def bundle_files(shim):
    secret = shim.place / "secret"
    secret.write_text("77")
    kinds = {
        "fifo": os.mkfifo,
        "endless": lambda path: os.symlink("/dev/zero", path),
        "link": lambda path: os.symlink(secret, path),
        "directory": os.mkdir,
    }
    for kind, make in kinds.items():
        one = shim.container(kind)
        pid = one.run()
        shim.kill_servers()
        for name in ("init.pid", "init.exit", "exec.x.exit", "address"):
            path = one.bundle / name
            path.unlink(missing_ok=True)
            make(path)
        answer, _ = _delete(one)
        equal((answer.get(1, [0]), answer.get(2)), ([0], [137]), f"pid and status, {kind}")
        check(host.has_exited(pid), "the process is gone")
        one.client.close()
        # The socket that `address` would have named.
        one.socket.unlink(missing_ok=True)
    equal(secret.read_text(), "77", "the file behind the links")


@scenario("the record of the runtime is a FIFO or a device: `delete` says so at once, and removes nothing", deadline=60)
def runtime_record(shim):
    one = shim.container()
    pid = one.run()
    shim.kill_servers()
    path = one.bundle / "shim.json"
    kept = path.read_text()
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        path.unlink()
        make(path)
        contains(_delete(one, code=1)[1], "shim.json", "standard error")
        check(not host.has_exited(pid), "the process is there")
    path.unlink()
    path.write_text(kept)
    _delete(one)
    check(host.has_exited(pid), "the process is gone")


@scenario("configuration and options that are FIFOs or devices: `start` and Create refuse them at once", deadline=60)
def endless_inputs(shim):
    daemon = shim.daemon()
    for number, make in enumerate((os.mkfifo, lambda path: os.symlink("/dev/zero", path))):
        one = shim.container(f"c{number}", daemon=daemon)
        (one.bundle / "config.json").unlink()
        make(one.bundle / "config.json")
        done = daemon.invoke(one.bundle, one.name, "start", stdin=daemon.bootstrap(one.name), timeout=20)
        check(done.returncode != 0, "start of a bundle without a configuration")
        contains((done.stdout + done.stderr).decode(errors="replace"), "config.json", "the error")
        odd = daemon.base / f"options{number}"
        make(odd)
        two = shim.container(f"o{number}", daemon=daemon).launch()
        options = any_of("runtimeoptions.v1.Options", {2: str(odd)})
        contains(refused(lambda: two.create(options=options), ttrpc.INVALID_ARGUMENT), odd.name, "the error")
        two.shutdown()
    wait_until(lambda: not shim.shims(), "the shims to end")


@scenario("the bundle's rootfs is a link: nothing is mounted behind it, and no mount of the host's is taken away there", deadline=60)
def linked_rootfs(shim):
    elsewhere = shim.place / "elsewhere"
    (elsewhere / "volume").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "mine", elsewhere / "volume")
    try:
        one = shim.container(root="rootfs").launch()
        (one.bundle / "rootfs").symlink_to(elsewhere)
        text = refused(lambda: one.create(rootfs=[{1: "bind", 2: str(shim.root), 4: ["rbind", "ro"]}]), ttrpc.INVALID_ARGUMENT)
        contains(text, "rootfs is a symbolic link", "the error")
        check(os.path.ismount(elsewhere / "volume"), "the mount behind the link, after Create")
        _delete(one)
        check(os.path.ismount(elsewhere / "volume"), "the mount behind the link, after delete")
    finally:
        run("umount", elsewhere / "volume")


@scenario("`address` names a file, or a link: `delete` removes sockets alone", deadline=60)
def foreign_address(shim):
    one = shim.container()
    one.run()
    shim.kill_servers()
    precious = shim.place / "precious"
    precious.write_text("kept")
    link = shim.place / "link"
    link.symlink_to(precious)
    for name in (precious, link):
        (one.bundle / "address").write_text(f"unix://{name}")
        _delete(one)
        check(name.is_symlink() or name.read_text() == "kept", f"{name} is there")
    equal(precious.read_text(), "kept", "the file")
    one.socket.unlink()


@scenario("SIGKILL of the shim in the middle of a create, a start, an exec, a pause and a deletion: `delete` leaves nothing", deadline=240)
def killed_in_the_middle(shim):
    for moment in ("create", "start", "exec", "paused", "delete"):
        daemon = shim.daemon()
        with gate(daemon.base / "gate"):
            one = shim.container(f"at-{moment}", daemon=daemon, args=["sh", "-c", "probe wait & exec probe wait"])
            # A hook of a deletion is run by each: the first one alone blocks.
            script = f"[ ! -e {one.bundle}/began ] || exit 0; echo >{one.bundle}/began; read -r _ <{daemon.base}/gate"
            hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
            path = one.bundle / "config.json"
            config = json.loads(path.read_text())
            kind = {"create": "createRuntime", "start": "poststart", "delete": "poststop"}.get(moment)
            if kind:
                config["hooks"] = {kind: [hook]}
                path.write_text(json.dumps(config))
            one.launch()
            pids = []
            if moment == "create":
                one.send("Create", bundle=str(one.bundle))
            else:
                pids.append(one.create())
                one.send("Start") if moment == "start" else one.call("Start")
            if moment == "exec":
                os.mkfifo(one.bundle / "never")
                one.exec("done", ["probe", "wait"])
                one.exec("x", ["true"], start=False, stdout=f"file://{one.bundle}/never")
                one.send("Start", exec_id="x")
            if moment == "paused":
                one.call("Pause")
            if moment == "delete":
                one.kill()
                one.wait()
                one.send("Delete")
            if kind:
                wait_until((one.bundle / "began").exists, "the hook to run")
            shim.kill_servers()
            hooks = [pid for pid, words in host.processes().items() if script in words]
            _delete(one)
            wait_until(lambda: all(map(host.has_exited, pids)), f"the processes to be gone, {moment}")
            # A hook is no process of the container; its own reader exits with the gate.
            host.kill(hooks)
            wait_until(lambda: not shim.leftovers(), f"{moment}: leftovers to go: {shim.leftovers()}")
            _delete(one)


@scenario("a start whose hook blocks, and a deletion whose hook does: the container's own short calls are answered, and "
          "Kill ends it", deadline=120)
def own_hooks(shim):
    for kind in ("startContainer", "poststart", "poststop"):
        daemon = shim.daemon()
        with gate(daemon.base / "gate") as go_on:
            one = shim.container("aa", daemon=daemon, root=shim.root)
            path = one.bundle / "config.json"
            config = json.loads(path.read_text())
            if kind == "startContainer":
                config["mounts"].append({"destination": "/gate", "type": "bind", "source": str(daemon.base / "gate"),
                                         "options": ["bind"]})
                (shim.root / "gate").touch()
                hook = {"path": "/bin/sh", "args": ["sh", "-c", "read -r _ </gate"]}
            else:
                hook = {"path": "/bin/sh", "args": ["sh", "-c", f"read -r _ <{daemon.base}/gate"]}
            config["hooks"] = {kind: [hook]}
            path.write_text(json.dumps(config))
            one.launch()
            one.create()
            blocked = one.send("Start", 100)
            if kind == "poststop":
                blocked(60)
                one.kill()
                one.wait()
                blocked = one.send("Delete", 100)
            took = {}
            for method, fields in (("State", {}), ("Pids", {}), ("Connect", {}), ("Stats", {}), ("Kill", {"signal": 18})):
                begin = time.monotonic()
                try:
                    one.call(method, 20, **fields)
                except ttrpc.Status as status:
                    check(kind == "poststop", f"{kind}: {method}: {status}")
                took[method] = time.monotonic() - begin
            check(max(took.values()) < 1, f"{kind}: {took}")
            check(not blocked.is_answered(), f"{kind}: it is blocked")
            if kind != "poststop":
                one.kill()
            go_on(4)
            try:
                blocked(60)
            except ttrpc.Status:
                pass  # killed while it was started
            if kind != "poststop":
                equal(one.wait(timeout=20), 137, f"{kind}: the exit status")
                one.delete()
            one.shutdown()


@scenario("signals that do not exist and exec ids that no file name has room for are invalid arguments, and change nothing",
          deadline=60)
def odd_numbers(shim):
    one = shim.container()
    one.run()
    for number in (65, 1000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        contains(refused(lambda number=number: one.kill(number), ttrpc.INVALID_ARGUMENT), f"signal {number}", "the error")
    contains(refused(lambda: one.exec("x" * 241, ["true"]), ttrpc.INVALID_ARGUMENT), "241 bytes", "the error")
    one.exec("x" * 240, ["true"])
    equal(one.wait("x" * 240), 0, "the status of an exec with the longest id")
    one.delete("x" * 240)
    equal(one.status(), RUNNING, "status")
    one.finish()
