"""AppArmor, on a kernel that has it."""

from clients.docker_security import HARDENING, status
from kit.commands import contains, equal, run
from kit.suite import scenario


@scenario("7 docker-default confines the container and an exec; unconfined does not")
def docker_default(docker):
    contains(open("/sys/kernel/security/lsm").read(), "apparmor", "the kernel's security modules")
    read = ("cat", "/proc/self/attr/current")
    equal(docker("run", "--rm", "--network", "none", "busybox", *read).text, "docker-default (enforce)", "the profile")
    docker.start("--name", "aa", "--network", "none", ["probe", "wait"])
    equal(docker("exec", "aa", *read).text, "docker-default (enforce)", "exec's profile")
    free = ("--network", "none", "--security-opt", "apparmor=unconfined")
    equal(docker("run", "--rm", *free, "busybox", *read).text, "unconfined", "without it")


@scenario("2 all hardening at once, with the default profile")
def all_hardening(docker):
    options = ("--network", "none", *HARDENING)
    equal(docker("run", "--rm", *options, "busybox", "cat", "/proc/self/attr/current").text, "docker-default (enforce)", "the profile")
    fields = status(docker, *options)
    equal((fields["Uid"].split()[0], fields["NoNewPrivs"], fields["Seccomp"]), ("1000", "1", "2"), "Uid, NoNewPrivs, Seccomp")
    docker("run", "--rm", *options, "busybox", "sh", "-c", "touch /tmp/x && ! touch /x 2>/dev/null")


@scenario("7 docker-default denies a mount, though the container has SYS_ADMIN and no seccomp")
def denies(docker):
    denied = docker("run", "--rm", "--network", "none", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined",
                    "busybox", "mount", "-t", "tmpfs", "tt", "/srv", code=None)
    contains(denied.err, "ermission denied", "mount")


@scenario("7 a profile of one's own, and one that is not loaded")
def own_profile(docker):
    profile = docker.base / "profile"
    profile.write_text("profile brig-test-deny flags=(attach_disconnected) { file, deny /srv/** w, }\n")
    run("apparmor_parser", "-r", profile)
    options = ("--network", "none", "--security-opt", "apparmor=brig-test-deny")
    contains(docker("run", "--rm", *options, "busybox", "touch", "/srv/x", code=1).err, "ermission denied", "the write")
    docker("run", "--rm", *options, "busybox", "touch", "/tmp/x")
    missing = docker("run", "--rm", "--network", "none", "--security-opt", "apparmor=not-loaded", "busybox", "true", code=None)
    contains(missing.err, "apparmor", "a profile that is not loaded")
    equal(missing.code in (125, 126, 127), True, "its exit code says that nothing ran")
