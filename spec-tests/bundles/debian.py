"""A whole Debian as a bundle: its shell, its package manager, a web server."""

import os

from kit import images
from kit.commands import contains, equal, run, wait_until
from kit.suite import scenario

_PACKAGE = """Package: brig-test-package
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: an empty package
"""


def debian_root(runtime):
    """The cached Debian under an overlay, so that nothing written there lasts."""
    root = runtime.place / "debian"
    if not os.path.ismount(root):
        layers = runtime.place / "layers"
        layers.mkdir()
        run("mount", "-t", "tmpfs", "layers", layers)
        for directory in (root, layers / "upper", layers / "work"):
            directory.mkdir()
        options = f"lowerdir={images.debian()},upperdir={layers}/upper,workdir={layers}/work"
        run("mount", "-t", "overlay", "-o", options, "debian", root)
    return root


CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_KILL",
                "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"]


def like_docker():
    """The capabilities that package managers and servers live with."""
    return {"capabilities": {name: CAPABILITIES for name in ("bounding", "effective", "permitted")}}


@scenario("a shell of a Debian root")
def shell(runtime):
    bundle = runtime.bundle("sh", debian_root(runtime), ["bash", "-c", "cat /etc/debian_version; id -un; ls /proc | wc -l"])
    lines = runtime("run", "-b", bundle, "sh").out.splitlines()
    equal(lines[0].split(".")[0], "12", "Debian's version")
    equal(lines[1], "root", "id -un")


@scenario("apt: its version, and the installation and removal of a package from a file")
def apt(runtime):
    root = debian_root(runtime)
    build = runtime.place / "package"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "DEBIAN" / "control").write_text(_PACKAGE)
    (build / "usr/share/brig-test").mkdir(parents=True)
    (build / "usr/share/brig-test/file").write_text("installed\n")
    run("dpkg-deb", "--root-owner-group", "-b", build, root / "tmp" / "test.deb")
    script = ("apt-get --version | head -n 1 && apt-get install -y /tmp/test.deb && cat /usr/share/brig-test/file && "
              "dpkg -s brig-test-package | grep Status && apt-get purge -y brig-test-package")
    bundle = runtime.bundle("apt", root, ["sh", "-ec", script], process=like_docker())
    out = runtime("run", "-b", bundle, "apt", timeout=180).out
    for part in ("apt 2.", "installed\n", "install ok installed", "Removing brig-test-package"):
        contains(out, part, "apt's words")


@scenario("nginx of a Debian root answers on the loopback of its own network")
def nginx(runtime):
    root = debian_root(runtime)
    runtime.start("web", root, ["nginx", "-g", "daemon off;"], process=like_docker())
    pid = runtime.state("web")["pid"]
    fetch = ("nsenter", "-t", pid, "-n", "python3", "-c",
             "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1/', timeout=3).read().decode())")
    page = wait_until(lambda: run(*fetch, code=None).out, "nginx to answer")
    contains(page, "nginx", "the page")
    runtime("kill", "web", "QUIT")
    wait_until(lambda: runtime.state("web")["status"] == "stopped", "nginx to end")


@scenario("python of a Debian root: threads, child processes, a pipe to the outside")
def python(runtime):
    code = ("import subprocess, threading; t = threading.Thread(target=print, args=('thread',)); t.start(); t.join(); "
            "print(subprocess.check_output(['uname', '-n'], text=True))")
    bundle = runtime.bundle("py", debian_root(runtime), ["python3", "-c", code], hostname="inside")
    equal(runtime("run", "-b", bundle, "py").out.split(), ["thread", "inside"], "output")
