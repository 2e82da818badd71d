"""Judging runtimes by the cases of spec-tests/src, several of them in one boot of a bed.

What a bed found is one JSON file in target/report/results: the bed's facts, and for each runtime its version and the
report of each case. kit/judge.py says what to make of it, kit/report.py shows it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kit import host

RESULTS = host.TOP / "target" / "report" / "results"
SHARE = host.TOP / "target" / "beds"
YOUKI = SHARE / "youki" / "bin" / "youki"


@dataclass(frozen=True)
class Bed:
    """`command` is what starts it, below spec-tests/beds; `about` is what the report says of it."""

    command: tuple
    about: str
    systemd: bool = False
    # A machine of its own, with a share and a tenth of the speed: unless all is asked for, the peers do only what no
    # quicker bed can show, and so does ours where even that takes long.
    machine: bool = False
    slowest: bool = False


BEDS = {
    "host": Bed((), "the machine itself"),
    "v2view": Bed(("v2view",), "the machine's kernel behind a pure cgroup v2 mount"),
    "uml": Bed(("uml",), "User Mode Linux: pure cgroup v2 with limits, every capability, one CPU", machine=True),
    "uml-systemd": Bed(("uml", "--systemd"), "the same with systemd as PID 1 and as cgroup driver", systemd=True,
                       machine=True),
    "uml-selinux": Bed(("uml", "--selinux"), "the same with SELinux, whose policy allows everything", machine=True,
                       slowest=True),
    "qemu": Bed(("qemu",), "Debian's own kernel in QEMU: every controller, AppArmor, time namespaces", machine=True,
                slowest=True),
}


@dataclass(frozen=True)
class Contender:
    """A runtime under test: what to call it, and where it is."""

    name: str
    path: Path

    def refuses_this_host(self):
        """Why it cannot run any container here, or None."""
        hybrid = not (host.CGROUPS / "cgroup.procs").exists() and (host.CGROUPS / "unified").is_dir()
        if self.name == "crun" and hybrid:
            return "crun 1.8 runs on pure cgroup v1 or v2, and this host has both"
        return None

    def version(self):
        """The first line of `--version`."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0].strip() if done.stdout or done.stderr else "unknown"

    def label(self):
        """`runc 1.1.5`: the name and the version's numbers, as explanations have it."""
        numbers = re.search(r"\d+\.\d+(\.\d+)?", self.version())
        numbers = numbers[0] if numbers else "?"
        # Explanations for youki go for the whole series.
        return f"{self.name} {'.'.join(numbers.split('.')[:2]) if self.name == 'youki' else numbers}"


def contenders(words, with_youki=False):
    """The runtimes of NAME=PATH or PATH words, or brig and its peers when there are none."""
    found = []
    for word in words:
        name, _, path = word.rpartition("=")
        found.append((name or Path(path).name, path))
    if not words:
        found = [("brig", host.TOP / "brig"), ("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")]
        found += [("youki", YOUKI)] if with_youki else []
    missing = [f"{name}: {path}" for name, path in found if not shutil.which(path)]
    if missing:
        raise SystemExit(f"spec: not there: {', '.join(missing)}; `make build` makes ./brig, beds/install the peers")
    return [Contender(name, Path(shutil.which(path)).resolve()) for name, path in found]


def built():
    """The directory with the harness and the probe, up to date."""
    done = subprocess.run([host.TOP / "spec-tests" / "build"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("spec: the harness does not compile")
    return Path(done.stdout.strip())


def entrance(name):
    """The words before a command that run it in the bed; none for this host."""
    bed = BEDS[name]
    share = [SHARE] if bed.machine else []
    return [host.TOP / "spec-tests" / "beds" / bed.command[0], *bed.command[1:], *share] if bed.command else []


def listed(programs, name):
    """Every case by its name, as --list has it in the bed: `lacks` is what the bed has not, None where it can run."""
    words = [*entrance(name), programs / "spec-tests", "--list"]
    found = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout
    return {case["case"]: case for case in json.loads(found)}


def for_machines(programs, name):
    """Names of the cases that no quicker bed than this can run; and of those that ours runs in it: all, but the
    comparisons with runc of which a quicker bed says the same.

    The slowest bed has what UML's cgroup v2 lacks. What differs on cgroup v1 and v2 has to be seen on both, so that
    for its sake this host counts only as far as its view of cgroup v2 goes."""
    quicker = [listed(programs, bed) for bed in (("v2view", "uml") if BEDS[name].slowest else ("host", "v2view"))]
    lacks = {case: [one[case]["lacks"] for one in quicker] for case in quicker[0]}
    alone = [case for case, what in lacks.items() if all(what) and "CgroupV1" not in what]
    compared = {case for case, about in quicker[0].items() if about["section"].startswith("runc: ")}
    return alone, [case for case in quicker[0] if case not in compared or case in alone]


def facts():
    """What the report says of the machine that this runs on."""
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
        "security": text("/sys/kernel/security/lsm") or "not told",
        "capabilities": text("/proc/self/status").split("CapEff:")[1].split()[0],
    }


def run_bed(name, runtimes, options, report):
    """Runs the cases of every runtime in a bed; `report(line)` gets what comes. Returns the result, or None when the
    bed did not come to its end."""
    bed = BEDS[name]
    programs = built()
    SHARE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"spec-{name}-", dir=SHARE))
    try:
        order = {"bed": name, "programs": str(programs), "only": options.only, "full": options.full,
                 "runtimes": [[one.name, str(one.path)] for one in runtimes]}
        if bed.machine and not options.full:
            alone, ours = for_machines(programs, name)
            (place / "chosen").write_text("\n".join(alone))
            (place / "ours").write_text("\n".join(ours))
        (place / "order.json").write_text(json.dumps(order))
        words = [*entrance(name), host.TOP / "spec-tests" / "spec", name, "--in-bed", place]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace")
        for line in process.stdout:
            report(line.rstrip("\n"))
        if process.wait() or not (place / "result.json").exists():
            report(f"the bed ended with {process.returncode}")
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
        one = Contender(name, Path(path))
        entry = {"name": name, "label": one.label(), "version": one.version(), "refuses": one.refuses_this_host(),
                 "partial": False, "seconds": 0, "reports": []}
        result["runtimes"].append(entry)
        chosen = place / "chosen"
        entry["partial"] = chosen.exists() and (bed.slowest or name in ("runc", "crun", "youki"))
        if entry["refuses"]:
            print(f"{name}: {entry['refuses']}", flush=True)
        elif not entry["partial"] or chosen.read_text():
            _run_one(Path(order["programs"]), one, bed, order["only"], place, entry)
    (place / "result.new").write_text(json.dumps(result))
    os.replace(place / "result.new", place / "result.json")


def _run_one(programs, one, bed, only, place, entry):
    out = place / f"{one.name}.json"
    words = [programs / "spec-tests", "--runtime", one.path, "--json", out]
    words += ["--systemd"] if bed.systemd else []
    words += ["--cases", place / "chosen"] if entry["partial"] else \
        ["--cases", place / "ours"] if (place / "ours").exists() else []
    for some in only:
        words += ["--only", some]
    begin = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace")
    for line in process.stdout:
        print(f"{one.name}: {line}", end="", flush=True)
    process.wait()
    entry["seconds"] = round(time.monotonic() - begin, 1)
    if out.exists():
        entry["reports"] = json.loads(out.read_text())
    else:
        entry["broken"] = f"the harness ended with {process.returncode} and wrote no report"
