"""Measurements beside their budgets: rows, a table, Markdown."""

import json
import os
import platform
import re
import sys
import tomllib
from dataclasses import dataclass

from measure.contenders import OURS, TOP


@dataclass
class Row:
    """`ours` and `theirs` are numbers of one unit; `ratio` is what the budget speaks of, or None without a budget."""

    what: str
    ours: float
    unit: str
    against: str = ""
    theirs: float | None = None
    budget: float | None = None
    at_least: bool = False

    @property
    def ratio(self):
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def met(self):
        """None when nothing was promised. A ratio is judged as it is printed: what differs in its third place is noise."""
        if self.budget is None:
            return None
        ratio = self.ratio if self.theirs is None else round(self.ratio, 2)
        return ratio >= self.budget if self.at_least else ratio <= self.budget

    def cells(self):
        compared = "" if self.theirs is None else _shown(self.theirs)
        ratio = "" if self.theirs is None else f"{self.ratio:.2f}"
        promised = "" if self.budget is None else f"{'>=' if self.at_least else '<='} {self.budget:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return [self.what, f"{_shown(self.ours)} {self.unit}", self.against, compared, ratio, promised, verdict]


def _shown(number):
    """A count is printed without a fraction."""
    return str(number) if isinstance(number, int) else f"{number:.2f}"


HEAD = ["what", "brig", "against", "theirs", "ratio", "budget", ""]


def budgets():
    """budget.toml."""
    with open(TOP / "benches" / "budget.toml", "rb") as file:
        return tomllib.load(file)


def verb_rows(times):
    """Rows for the verbs, from {verb: {contender: Series}}."""
    promised = budgets()
    rows = []
    for verb, series in times.items():
        for other in series:
            if other != OURS:
                rows.append(Row(verb, series[OURS].median, "ms", other, series[other].median,
                                promised.get(verb, {}).get(other)))
    return rows


def table(rows):
    """Lines for a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) if column in (0, 2, 6) else cell.rjust(width)
                               for column, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def markdown(rows):
    """The same as a table of Markdown."""
    body = ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(HEAD) + " |", "|---|---:|---|---:|---:|---:|---|", *body])


GROUP_TITLES = {
    "verbs": "Each verb alone, milliseconds", "host": "The same on the host's own cgroups",
    "counts": "What each verb executes: instructions of processes and kernel in an emulated machine, system calls by strace",
    "growth": "What grows: `run` with more of it", "seccomp": "Docker's seccomp profile, three architectures",
    "scale": "Many containers, 16 at a time", "memory": "Memory (in the UML environment)", "binary": "The binary"}


def write_results(directory):
    """Puts what results.json and the shim's files in `directory` hold between the marks of RESULTS.md and README.md."""
    written = directory / "results.json"
    if not written.exists():
        sys.exit(f"bench: {written} is not there: --write-results wants a run before it, or with it")
    facts = json.loads(written.read_text())
    versions = "; ".join(f"{name}: {version}" for name, version in facts["versions"].items())
    head = f"{facts['machine']}; {facts['rounds']} rounds, medians; load average before it {facts['load']:.1f}."
    head += f"\n\n{versions}."
    parts = [head]
    for group, title in GROUP_TITLES.items():
        if group in facts["tables"]:
            parts.append(f"### {title}\n\n{facts['tables'][group]}")
    if "verbs" in facts:
        parts.append("### Spread: median (10th to 90th of a hundred), milliseconds\n\n" + spread(facts["verbs"]))
    if facts.get("obstacles"):
        parts.append("### What was missed\n\n" + "\n".join(f"- {line.strip()}" for line in facts["obstacles"]))
    for shim in sorted(directory.glob("shim-*.json")):
        found = json.loads(shim.read_text())
        parts.append(f"### The shim with containerd {found['generation']}, compared with the Go shim of that version\n\n"
                     f"{found['table']}")
    between_marks(TOP / "benches" / "RESULTS.md", "\n\n".join(parts))
    if "verbs" in facts and "memory" in facts:
        between_marks(TOP / "README.md", summary(facts))


def between_marks(path, text):
    """Replaces what stands between the marks `<!-- measured -->` and `<!-- end -->` of a file."""
    whole, count = re.subn(r"(<!-- measured -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{text}\n{found[2]}",
                           path.read_text(), flags=re.S)
    if count != 1:
        sys.exit(f"bench: {path} lacks the marks for what was measured")
    path.write_text(whole)


def spread(verbs):
    """A table of {verb: {contender: summary}}."""
    names = list(next(iter(verbs.values())))
    lines = ["| verb | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for verb, series in verbs.items():
        cells = [f"{one['median']:.2f} ({one['p10']:.2f} to {one['p90']:.2f})" for one in series.values()]
        lines.append(f"| {verb} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# The columns of the README's table.
SUMMARY = (OURS, "crun", "runc")


def summary(facts):
    """The README's table of three numbers, and a line that names the versions, the machine and the method."""
    verbs, memory = facts["verbs"], facts["memory"]
    names = [name for name in SUMMARY if name in verbs["run"] and name in memory]
    rows = [(f"Time of `{verb}` with `/bin/true`", [f"{verbs[verb][name]['median']:.2f} ms" for name in names])
            for verb in ("run", "exec")]
    rows.append(("Memory of a container between `create` and `start`", [f"{memory[name]['pss']} KiB" for name in names]))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += [f"| {what} | " + " | ".join(cells) + " |" for what, cells in rows]
    versions = ", ".join(facts["versions"][name].replace(" version", "") for name in names)
    return "\n".join([*lines, "", f"{versions}, on {facts['machine']}; medians of {facts['rounds']} rounds."])


def machine():
    """A short description of this machine."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) // 1024 // 1024
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"
