"""What was measured, beside what was promised: rows, a table, Markdown."""

import os
import platform
import tomllib
from dataclasses import dataclass

from measure.contenders import TOP

OURS = "brig"


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
        """None when nothing was promised."""
        if self.budget is None:
            return None
        return self.ratio >= self.budget if self.at_least else self.ratio <= self.budget

    def cells(self):
        compared = "" if self.theirs is None else f"{self.theirs:.2f}"
        ratio = "" if self.theirs is None else f"{self.ratio:.2f}"
        promised = "" if self.budget is None else f"{'>=' if self.at_least else '<='} {self.budget:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return [self.what, f"{self.ours:.2f} {self.unit}", self.against, compared, ratio, promised, verdict]


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


def machine():
    """Facts of this machine, as short words."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) // 1024 // 1024
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"
