"""Runs the conformance cases of spec-tests/src, for several runtimes in one boot of a bed.

The result of a bed is one JSON file in target/report/results: facts about the bed, and for each runtime its version and
the report of each case. kit/verdicts.py decides which results are faults, kit/report.py shows them.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from kit import host

RESULTS = host.TOP / "target" / "report" / "results"
SHARE = host.TOP / "target" / "beds"
YOUKI = SHARE / "youki" / "bin" / "youki"


@dataclass(frozen=True)
class Bed:
    """An environment for cases: its command below spec-tests/beds, and its description in the report."""

    command: tuple
    about: str
    systemd: bool = False
    # A virtual machine, with a shared directory and a tenth of the speed; and the slowest of them.
    machine: bool = False
    slowest: bool = False
    # Sections that have the same results in a quicker bed, and run here with --full alone.
    beyond: tuple = ("runc: *",)


BEDS = {
    "host": Bed((), "the machine itself", beyond=()),
    "v2view": Bed(("v2view", "--mounts=300"), "the machine's kernel behind a pure cgroup v2 mount, and with hundreds of mounts", beyond=()),
    "uml": Bed(("uml",), "User Mode Linux: pure cgroup v2 with limits, every capability, one CPU", machine=True,
                beyond=("runc: command line", "runc: bundles", "runc: spec", "runc: checkpoint and restore",
                        "runc: exec", "runc: create", "runc: run")),
    "uml-systemd": Bed(("uml", "--systemd"), "the same with systemd as PID 1 and as cgroup driver", systemd=True,
                       machine=True, beyond=("runc: *", "config.md#*", "features*")),
    "uml-systemd-v1": Bed(("uml", "--systemd", "--cgroups=v1"), "the same on pure cgroup v1", systemd=True, machine=True,
                          beyond=("runc: *", "config.md#*", "features*")),
    "uml-systemd-hybrid": Bed(("uml", "--systemd", "--cgroups=hybrid"), "the same on cgroup v1 with an empty cgroup v2 beside it",
                              systemd=True, machine=True, beyond=("runc: *", "config.md#*", "features*")),
    "uml-selinux": Bed(("uml", "--selinux"), "the same with SELinux, whose policy allows everything", machine=True,
                       slowest=True),
    "qemu": Bed(("qemu",), "Debian's own kernel in QEMU: every controller, AppArmor, time namespaces", machine=True,
                slowest=True),
}


@dataclass(frozen=True)
class Runtime:
    """A runtime under test: its name and path."""

    name: str
    path: Path

    def refuses_this_host(self):
        """The reason why the runtime cannot run any container here, or None."""
        hybrid = not (host.CGROUPS / "cgroup.procs").exists() and (host.CGROUPS / "unified").is_dir()
        if self.name == "crun" and hybrid:
            return "crun 1.8 runs on pure cgroup v1 or v2, and this host has both"
        return None

    def version(self):
        """The first line of `--version`."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0].strip() if done.stdout or done.stderr else "unknown"

    def label(self):
        """The name and the version number, as in data/reference-failures.json: `runc 1.1.5`."""
        numbers = re.search(r"\d+\.\d+(\.\d+)?", self.version())
        numbers = numbers[0] if numbers else "?"
        # Explanations for youki apply to the whole series.
        return f"{self.name} {'.'.join(numbers.split('.')[:2]) if self.name == 'youki' else numbers}"


def find_runtimes(words, with_youki=False):
    """The runtimes of NAME=PATH or PATH words, or brig and the reference runtimes when there are none."""
    found = []
    for word in words:
        name, _, path = word.rpartition("=")
        found.append((name or Path(path).name, path))
    if not words:
        found = [("brig", host.TOP / "brig"), ("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")]
        found += [("youki", YOUKI)] if with_youki else []
    missing = [f"{name}: {path}" for name, path in found if not shutil.which(path)]
    if missing:
        raise SystemExit(f"spec: missing: {', '.join(missing)}; `make build` builds ./brig, and beds/install installs the "
                         "reference runtimes")
    return [Runtime(name, Path(shutil.which(path)).resolve()) for name, path in found]


def built():
    """The directory with the harness and the probe, up to date."""
    done = subprocess.run([host.TOP / "spec-tests" / "build"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("spec: the harness does not compile")
    return Path(done.stdout.strip())


def entrance(name):
    """The arguments before a command that run it in the bed; none for this host."""
    bed = BEDS[name]
    share = [SHARE] if bed.machine else []
    return [host.TOP / "spec-tests" / "beds" / bed.command[0], *bed.command[1:], *share] if bed.command else []


def listed(programs, name):
    """The cases that --list prints in the bed, by name: `lacks` is the first missing need, or None."""
    with attended([*entrance(name), programs / "spec-tests", "--list"]) as process:
        found = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"spec: --list in {name} exited with {process.returncode}")
    return {case["case"]: case for case in json.loads(found)}


@contextmanager
def attended(words, **options):
    """A process with a pipe for its stdout. When this program is interrupted, the process is terminated and given time
    to clean up: a bed removes its machine and its files, the harness its containers."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
                               **options)
    try:
        yield process
    except BaseException:
        process.terminate()
        # The process that cleans up outlives it, and holds the pipe open.
        for _ in process.stdout:
            pass
        raise
    finally:
        process.wait()


def choose(programs, name, full):
    """Names of the cases that brig runs in the bed, and of those that the reference runtimes run.

    Comparisons with runc run for brig: on this host for cgroup v1, in its view of v2, and with limits where cgroup v2 has
    some. Reference runtimes make no promise about them, and skip them in virtual machines. Without `full` a reference
    runtime runs in a virtual machine only the cases that no quicker bed can run, and so does brig in the slowest one:
    UML's cgroup v2 lacks controllers that it has. Cases whose results differ between cgroup v1 and v2 must run on both,
    so a case counts as run on this host only if it also runs in its view of cgroup v2."""
    bed = BEDS[name]
    quicker = ("v2view", "uml") if bed.slowest else ("host", "v2view") if bed.machine else (name,)
    quicker = [listed(programs, one) for one in quicker]
    compared = _of_sections(quicker[0], ("runc: *",))
    if full:
        return list(quicker[0]), [case for case in quicker[0] if not (bed.machine and case in compared)]
    beyond = _of_sections(quicker[0], bed.beyond)
    lacks = {case: [one[case]["lacks"] for one in quicker] for case in quicker[0]}
    alone = {case for case, what in lacks.items() if all(what) and "CgroupV1" not in what}
    ours = [case for case in lacks if case in alone or not (bed.slowest or case in beyond)]
    return ours, [case for case in lacks if case not in compared and (case in alone or not bed.machine)]


def _of_sections(cases, patterns):
    """Names of the cases whose section fits one of the patterns."""
    return {case for case, about in cases.items() if any(fnmatch(about["section"], one) for one in patterns)}


def facts():
    """Facts about this machine, for the report."""
    def text(path):
        try:
            return Path(path).read_text().strip()
        except OSError:
            return ""

    pure = (host.CGROUPS / "cgroup.procs").exists()
    own = re.findall(r"^\d+:([^:]+):", text("/proc/self/cgroup"), re.MULTILINE)
    controllers = text(host.CGROUPS / "cgroup.controllers").split() if pure else \
        sorted({name for names in own for name in names.split(",") if "=" not in name})
    layout = "pure v2" if pure else ("hybrid" if (host.CGROUPS / "unified").is_dir() else "pure v1")
    release = re.search(r'PRETTY_NAME="(.*)"', text("/etc/os-release"))
    return {
        "kernel": " ".join((os.uname().sysname, os.uname().release)), "machine": os.uname().machine,
        "distribution": release[1] if release else "", "cgroups": layout, "controllers": controllers,
        "cpus": len(os.sched_getaffinity(0)), "init": text("/proc/1/comm"),
        "security": text("/sys/kernel/security/lsm") or "unknown",
        "capabilities": text("/proc/self/status").split("CapEff:")[1].split()[0],
    }


def run_bed(name, runtimes, options, report):
    """Runs the cases of every runtime in a bed, and passes each line of output to `report`. Returns the result, or None when
    the bed failed."""
    programs = built()
    SHARE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"spec-{name}-", dir=SHARE))
    try:
        order = {"bed": name, "programs": str(programs), "only": options.only, "full": options.full,
                 "runtimes": [[one.name, str(one.path)] for one in runtimes]}
        if not options.only:
            ours, references = choose(programs, name, options.full)
            (place / "ours").write_text("\n".join(ours))
            (place / "references").write_text("\n".join(references))
        (place / "order.json").write_text(json.dumps(order))
        words = [*entrance(name), host.TOP / "spec-tests" / "spec", name, "--in-bed", place]
        with attended(words, stderr=subprocess.STDOUT) as process:
            for line in process.stdout:
                report(line.rstrip("\n"))
        if process.returncode or not (place / "result.json").exists():
            report(f"the bed exited with {process.returncode}")
            return None
        return json.loads((place / "result.json").read_text())
    finally:
        shutil.rmtree(place)


def run_here(place):
    """Inside the bed: each runtime in turn; the result goes into `place`."""
    order = json.loads((place / "order.json").read_text())
    bed = BEDS[order["bed"]]
    result = {"bed": order["bed"], "about": bed.about, "host": facts(), "full": order["full"],
              "only": order["only"], "began": time.time(), "runtimes": []}
    for name, path in order["runtimes"]:
        one = Runtime(name, Path(path))
        entry = {"name": name, "label": one.label(), "version": one.version(), "refuses": one.refuses_this_host(),
                 "partial": False, "seconds": 0, "reports": []}
        result["runtimes"].append(entry)
        # An unknown runtime must pass, as brig must.
        chosen = place / ("references" if name in ("runc", "crun", "youki") else "ours")
        entry["partial"] = bed.machine and not order["full"] and (bed.slowest or chosen.name == "references")
        if entry["refuses"]:
            print(f"{name}: {entry['refuses']}", flush=True)
        elif not chosen.exists() or chosen.read_text():
            _run_one(Path(order["programs"]), one, bed, order["only"], chosen, entry)
    (place / "result.new").write_text(json.dumps(result))
    os.replace(place / "result.new", place / "result.json")


def _run_one(programs, one, bed, only, chosen, entry):
    """`chosen` is a file with names of cases; without it all are run."""
    out = chosen.with_name(f"{one.name}.json")
    # A machine's only CPU also waits a lot.
    workers = max(2, len(os.sched_getaffinity(0)))
    words = [programs / "spec-tests", "--runtime", one.path, "--json", out, "--workers", str(workers)]
    words += ["--systemd"] if bed.systemd else []
    words += ["--cases", chosen] if chosen.exists() else []
    for some in only:
        words += ["--only", some]
    begin = time.monotonic()
    with attended(words, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            print(f"{one.name}: {line}", end="", flush=True)
    entry["seconds"] = round(time.monotonic() - begin, 1)
    if out.exists():
        entry["reports"] = json.loads(out.read_text())
    else:
        entry["broken"] = f"the harness ended with {process.returncode} and wrote no report"
