"""A daemon with userns-remap: root inside is a plain user outside."""

from kit import host
from kit.commands import contains, equal, wait_until
from kit.suite import scenario


@scenario("28 userns-remap: ids inside and outside, and files that belong to them")
def ids(docker):
    docker.start("--name", "user", ["sh", "-c", "touch /made; probe wait"])
    wait_until(lambda: docker("exec", "user", "test", "-e", "/made", code=None).code == 0, "the program to have begun")
    contains(docker("exec", "user", "cat", "/proc/self/uid_map").out, "200000", "uid_map")
    equal(host.status_of(docker.pid("user"))["Uid"].split()[0], "200000", "uid on the host")
    equal(docker("exec", "user", "stat", "-c", "%u", "/made").text, "0", "owner inside")
    equal(docker("exec", "user", "id", "-u").text, "0", "exec's uid inside")


@scenario("28 userns-remap: common operations work")
def everyday(docker):
    docker("run", "--rm", "busybox", "sh", "-c", "chown 1000 /etc/plain && touch /dev/shm/x && echo x >/dev/null && mkdir /srv/d")
    docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--user", "app", "busybox", "touch", "/tmp/x")
    docker("run", "--rm", "--sysctl", "net.core.somaxconn=777", "--hostname", "box", "busybox", "hostname")
    docker("run", "--rm", "-v", "data:/data", "busybox", "touch", "/data/x")


@scenario("28 userns-remap: stop, pause, restart, and --userns=host as an exception")
def life(docker):
    docker.start("--name", "life", ["sh", "-c", "trap 'exit 4' TERM; echo ready; probe wait & wait"])
    wait_until(lambda: docker("logs", "life").out.count("ready") == 1, "the handler")
    docker("pause", "life")
    docker("unpause", "life")
    docker("restart", "-t", "2", "life")
    wait_until(lambda: docker("logs", "life").out.count("ready") == 2, "the handler of the second run")
    docker("stop", "life")
    equal(docker.inspect("life", "State.ExitCode"), 4, "exit code")
    equal(docker("run", "--rm", "--userns", "host", "busybox", "cat", "/proc/self/uid_map").text.split(), ["0", "0", "4294967295"], "uid_map")
