"""Root file systems, made on the spot: busybox, one static program, and a Debian."""

import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from kit import host, isolate
from kit.commands import run

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
DEBIAN_PACKAGES = "nginx-light,python3-minimal,systemd-sysv,dbus,gosu"
PASSWD = ("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
          "nobody:x:65534:65534:nobody:/:/bin/sh\n")
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"

# This machine as images name it.
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
# Programs that spec-tests/beds builds from Go modules.
MODULES = ("buildkit", "containerd17", "containerd2", "cri-tools", "crio", "kubernetes", "nerdctl")


def prepare(needs):
    """Builds the files that suites need and cannot build in a sandbox; concurrent suites wait for each other."""
    host.CACHE.mkdir(parents=True, exist_ok=True)
    with open(host.CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        probe()
        if "debian" in needs:
            debian()
    for name in sorted(needs & set(MODULES)):
        module(name)


def probe():
    """The static probe program, built once; see spec-tests/src/probe."""
    program = host.CACHE / "probe"
    # The place of a suite has Debian's PATH alone, so `spec-tests/run` builds before it enters one.
    if not isolate.inside():
        built = Path(run(host.TOP / "spec-tests" / "build", timeout=900).text) / "probe"
        if not program.exists() or program.stat().st_mtime < built.stat().st_mtime:
            fresh = program.with_suffix(f".{os.getpid()}")
            shutil.copy2(built, fresh)
            fresh.replace(program)
    return program


def debian():
    """A Debian root made by debootstrap, cached under target/ until another package is wanted."""
    root = host.CACHE / "debian"
    mark = root / "etc" / "complete"
    if not mark.exists() or mark.read_text() != DEBIAN_PACKAGES:
        host.CACHE.mkdir(parents=True, exist_ok=True)
        fresh = host.CACHE / f"debian.{os.getpid()}"
        run("debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", SUITE, fresh, MIRROR, timeout=900)
        (fresh / "etc" / "complete").write_text(DEBIAN_PACKAGES)
        shutil.rmtree(root, ignore_errors=True)
        fresh.rename(root)
    return root


def containerd2():
    """The directory with the programs of a current containerd."""
    return module("containerd2")


@functools.cache
def module(name):
    """The directory with a Go module's programs, built once by spec-tests/beds/NAME."""
    program = host.TOP / "spec-tests" / "beds" / name
    done = subprocess.run([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def busybox_tar(path, files=None):
    """Writes a tar of a small system: busybox and its links, users, the probe, and a setuid copy of it; then `files`,
    {path: (text, mode)}, in whose directories there is nothing else that is new."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "sbin", "etc", "root", "home", "home/app", "proc", "sys", "dev", "run", "var", "srv"):
            _directory(tar, name, 0o755)
        _directory(tar, "tmp", 0o1777)
        _file(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in run(busybox, "--list").out.split():
            if applet != "busybox":
                _link(tar, f"bin/{applet}", "/bin/busybox")
        _file(tar, "bin/probe", probe().read_bytes(), 0o755)
        _file(tar, "bin/setuid-probe", probe().read_bytes(), 0o4755)
        # Some readers refuse a tar that has a name twice.
        usual = {"etc/passwd": (PASSWD, 0o644), "etc/group": (GROUP, 0o644), "etc/plain": ("not a program\n", 0o644)}
        for name, (text, mode) in {**usual, **(files or {})}.items():
            _file(tar, name, text.encode(), mode)
    return path


def oci_archive(path, layer, configs):
    """Writes an OCI archive: images of one and the same layer, which is a tar file. `configs` says by their names what
    each says of its containers: Cmd, Entrypoint, User, Env."""
    with open(layer, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    media = "application/vnd.oci.image"

    def descriptor(kind, data, **more):
        return {"mediaType": f"{media}.{kind}", "size": len(data), "digest": f"sha256:{_sha256(data)}", **more}

    layers = [{"mediaType": f"{media}.layer.v1.tar", "size": os.path.getsize(layer), "digest": f"sha256:{digest}"}]
    blobs, manifests = {}, []
    for name, config in configs.items():
        config = json.dumps({"architecture": MACHINE, "os": "linux",
                             "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin"], **config},
                             "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
        manifest = json.dumps({"schemaVersion": 2, "mediaType": f"{media}.manifest.v1+json",
                               "config": descriptor("config.v1+json", config), "layers": layers}).encode()
        manifests.append(descriptor("manifest.v1+json", manifest, annotations={"io.containerd.image.name": name}))
        blobs.update({_sha256(blob): blob for blob in (config, manifest)})
    with tarfile.open(path, "w") as tar:
        _file(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644)
        _file(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(), 0o644)
        for name, blob in blobs.items():
            _file(tar, f"blobs/sha256/{name}", blob, 0o644)
        tar.add(layer, f"blobs/sha256/{digest}")
    return path


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def scratch_tar(path):
    """Writes a tar of one static program and nothing else: no shell, no /etc."""
    with tarfile.open(path, "w") as tar:
        _file(tar, "probe", probe().read_bytes(), 0o755)
    return path


def unpack_busybox(directory):
    """Makes a root directory of what busybox_tar holds."""
    directory.mkdir(parents=True)
    tar = busybox_tar(directory.with_suffix(".tar"))
    with tarfile.open(tar) as archive:
        archive.extractall(directory, numeric_owner=True)
    tar.unlink()
    return directory


def tar_stream(root):
    """A process whose standard output is a tar of a directory."""
    return subprocess.Popen(["tar", "--numeric-owner", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)


def _directory(tar, name, mode):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _file(tar, name, data, mode):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _link(tar, name, target):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
