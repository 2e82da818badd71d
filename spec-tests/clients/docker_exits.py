"""Exit codes, and what is said when a container cannot start."""

from kit.commands import check, contains, equal, wait_until
from kit.suite import scenario


@scenario("14 exit codes 0, 1, 42 and 255 come through")
def plain_codes(docker):
    for code in (0, 1, 42, 255):
        docker("run", "--rm", "busybox", "probe", "exit", code, code=code)


@scenario("14 exit codes 125, 126 and 127")
def start_failures(docker):
    docker("run", "--no-such-flag", "busybox", code=125)
    contains(docker("run", "--rm", "busybox", "/etc/plain", code=126).err, "permission denied", "not executable")
    directory = docker("run", "--rm", "busybox", "/etc", code=None)
    check(directory.code in (125, 126), f"a directory: {directory}")  # Docker 20.10 knows `permission denied` alone
    contains(docker("run", "--rm", "busybox", "no-such", code=127).err, "executable file not found", "not in PATH")
    contains(docker("run", "--rm", "busybox", "/no/such", code=127).err, "no such file or directory", "no such path")


@scenario("14 exit codes 137, 139 and 143: died by a signal")
def signal_codes(docker):
    for name, number in (("KILL", 137), ("SEGV", 139), ("TERM", 143)):
        docker("run", "--init", "--rm", "busybox", "sh", "-c", f"kill -{name} $$", code=number)
        docker.start("--name", name, ["sh", "-c", "echo up; exec cat /dev/zero >/dev/null"])
        wait_until(lambda one=name: "up" in docker("logs", one).out, "the start")
    docker("kill", "KILL")
    equal(docker("wait", "KILL").text, "137", "docker kill")


@scenario("14 exec's exit codes: the program's own, 126, 127")
def exec_codes(docker):
    docker.start("--name", "xx", ["probe", "wait"])
    docker("exec", "xx", "probe", "exit", "7", code=7)
    docker("exec", "xx", "/etc/plain", code=126)
    missing = docker("exec", "xx", "no-such", code=None)
    check(missing.code in (126, 127), f"no such program: {missing}")  # Docker 20.10 says 126, newer ones 127
    contains(missing.out + missing.err, "executable file not found", "no such program")
    docker("exec", "xx", "sh", "-c", "kill -TERM $$", code=143)
