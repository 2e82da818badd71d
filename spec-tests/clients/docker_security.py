"""Hardening: capabilities, no-new-privileges, read-only roots, users, seccomp, masked paths, user namespaces."""

from clients.docker_limits import MIB, limit
from kit import host
from kit.commands import contains, equal, wait_until
from kit.suite import scenario

NET_BIND_SERVICE, CHOWN = 1 << 10, 1 << 0
DEFAULT_CAPS = 0xA80425FB
HARDENING = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--cap-add", "CHOWN",
             "--security-opt", "no-new-privileges", "--pids-limit", "50", "-m", "64m", "--memory-swap", "64m",
             "--user", "1000:1000")


def status(docker, *options, program="probe"):
    """The fields of /proc/self/status as a program in a new container sees them."""
    return host.parse_status(docker("run", "--rm", *options, "busybox", program, "status").out)


def caps(fields, *names):
    """Capability sets as numbers."""
    return [int(fields[name], 16) for name in names]


@scenario("2 all hardening at once")
def all_hardening(docker):
    fields = status(docker, *HARDENING)
    equal(fields["Uid"].split(), ["1000"] * 4, "uid")
    equal(fields["NoNewPrivs"], "1", "NoNewPrivs")
    equal(fields["Seccomp"], "2", "Seccomp")
    equal(caps(fields, "CapEff", "CapPrm", "CapBnd"), [0, 0, CHOWN], "capabilities of a plain user")
    script = "touch /tmp/x && ! touch /x 2>/dev/null && ! touch /etc/x 2>/dev/null"
    docker("run", "--rm", *HARDENING, "busybox", "sh", "-c", script)
    docker.start("--name", "hard", *HARDENING, ["probe", "wait"])
    for v1, v2, wanted in (("pids/pids.max", "pids.max", 50), ("memory/memory.limit_in_bytes", "memory.max", 64 * MIB)):
        equal(limit(docker, "hard", v1, v2), str(wanted), v2)


@scenario("3 a read-only root with two tmpfs mounts; tmpfs-size is kept")
def read_only_root(docker):
    options = ("--read-only", "--tmpfs", "/tmp", "--mount", "type=tmpfs,dst=/srv,tmpfs-size=1m")
    contains(docker("run", "--rm", *options, "busybox", "touch", "/x", code=1).err, "Read-only file system", "write to /")
    docker("run", "--rm", *options, "busybox", "sh", "-c", "touch /tmp/x /srv/x")
    full = docker("run", "--rm", *options, "busybox", "dd", "if=/dev/zero", "of=/srv/big", "bs=1M", "count=2", code=1)
    contains(full.err, "No space left", "more than 1 MB")


@scenario("the default capabilities, and none that are inheritable or ambient")
def default_capabilities(docker):
    fields = status(docker)
    equal(caps(fields, "CapEff", "CapPrm", "CapBnd"), [DEFAULT_CAPS] * 3, "CapEff, CapPrm, CapBnd")
    equal(caps(fields, "CapInh", "CapAmb"), [0, 0], "CapInh, CapAmb")


@scenario("4 drop ALL, add NET_BIND_SERVICE: exactly that bit; a server binds port 80")
def bind_service(docker):
    options = ("--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024")
    equal(caps(status(docker, *options), "CapEff", "CapPrm", "CapBnd"), [NET_BIND_SERVICE] * 3, "CapEff, CapPrm, CapBnd")
    docker.start("--name", "ss", *options, ["probe", "serve", "80"])
    wait_until(lambda: "listening" in docker("logs", "ss").out, "the server")
    contains(docker("exec", "ss", "probe", "fetch", "127.0.0.1:80").out, "probe", "the answer")
    fields = host.parse_status(docker("exec", "ss", "probe", "status").out)
    equal(caps(fields, "CapEff", "CapPrm", "CapBnd"), [NET_BIND_SERVICE] * 3, "exec's CapEff, CapPrm, CapBnd")
    docker("run", "--rm", "--cap-drop", "ALL", *options[4:], "busybox", "probe", "serve", "80", code=1)


@scenario("5 drop ALL, add CHOWN: chown works, mknod does not")
def chown_only(docker):
    options = ("--cap-drop", "ALL", "--cap-add", "CHOWN")
    docker("run", "--rm", *options, "busybox", "sh", "-c", "touch /x && chown 5:5 /x && ! mknod /n c 1 3 2>/dev/null")


@scenario("6 no-new-privileges: a setuid-root program gains nothing")
def no_new_privileges(docker):
    gained = status(docker, "--user", "1000", program="setuid-probe")
    equal(gained["Uid"].split()[1], "0", "effective uid without it")
    kept = status(docker, "--user", "1000", "--security-opt", "no-new-privileges", program="setuid-probe")
    equal(kept["Uid"].split()[1], "1000", "effective uid with it")
    equal(caps(kept, "CapEff"), [0], "CapEff with it")


@scenario("user and group by number and by name, with additional groups")
def users(docker):
    fields = status(docker, "--user", "app", "--group-add", "3000")
    equal(fields["Uid"].split()[0], "1000", "uid of app")
    equal(sorted(fields["Groups"].split()), ["2000", "3000"], "additional groups") if "1000" not in fields["Groups"] else \
        equal(sorted(fields["Groups"].split()), ["1000", "2000", "3000"], "additional groups")
    equal(status(docker, "--user", "7:8")["Gid"].split()[0], "8", "gid")
    contains(docker("run", "--rm", "--user", "nobody-here", "busybox", "true", code=125).err, "nobody-here", "unknown user")


@scenario("seccomp: the default profile denies mount and unshare -U; unconfined does not filter; a profile of one's own")
def seccomp(docker):
    equal(status(docker)["Seccomp"], "2", "Seccomp")
    docker("run", "--rm", "--cap-add", "SYS_PTRACE", "busybox", "sh", "-c", "! unshare -U true 2>/dev/null")
    equal(status(docker, "--security-opt", "seccomp=unconfined")["Seccomp"], "0", "Seccomp when unconfined")
    profile = docker.base / "no-mkdir.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], '
                       '"action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}')
    denied = docker("run", "--rm", "--security-opt", f"seccomp={profile}", "busybox", "mkdir", "/x", code=1)
    contains(denied.err, "No space left", "mkdir under the profile")


@scenario("masked and read-only paths of /proc and /sys")
def masked_paths(docker):
    script = ("test -z \"$(cat /proc/kcore)\" && test -z \"$(ls /proc/acpi /sys/firmware 2>/dev/null | grep -v :)\" && "
              "! echo 1 2>/dev/null >/proc/sys/kernel/domainname && ! touch /sys/x 2>/dev/null")
    docker("run", "--rm", "busybox", "sh", "-c", script)
