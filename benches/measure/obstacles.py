"""The obstacles of a missed budget: the excess, the part of it that is the kernel's cost for any runtime, and the longest
phases of brig's own trace."""

import json
import subprocess

from measure.bundle import Bundle

TRACED = ["run", "create", "exec"]
LONGEST = 6


def find(place, ours, rows, verbs):
    """Lines for a terminal; `verbs` are the facts of the group of that name: {verb: {contender: summary}}."""
    lines = []
    for row in rows:
        if row.met is not False:
            continue
        allowed = row.budget if row.theirs is None else row.budget * row.theirs
        line = f"missed: {row.what}: {row.ours:.2f} {row.unit}".rstrip()
        line += f", promised {'at least' if row.at_least else 'at most'} {allowed:.2f}"
        if kernel := verbs.get(row.what, {}).get("limit", {}).get("median"):
            line += f"; the kernel alone charges {kernel:.2f}"
        lines.append(line)
    missed = {row.what.split()[0] for row in rows if row.met is False}
    for verb in TRACED:
        if verb in missed:
            phases = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in trace(place, ours, verb))
            lines.append(f"  phases of {verb}: {phases}")
    return lines


def trace(place, ours, verb):
    """The longest phases of one `verb`, as (name, milliseconds)."""
    bundle, ident, path = Bundle(place / f"traced-{verb}", ["/bin/sleep", "1000"]), "bench-traced", place / "trace.json"
    if verb == "run":
        bundle = Bundle(place / "traced-short", ["/bin/true"])
    commands = {"run": [ours.run(bundle, ident)], "create": [ours.create(bundle, ident)],
                "exec": [ours.create(bundle, ident), ours.start(ident), ours.exec(bundle, ident)]}[verb]
    program, *words = commands[-1]
    commands[-1] = [program, "--trace", str(path), *words]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    for command in commands:
        subprocess.run(command, **quiet)
    subprocess.run(ours.delete_by_force(ident), **quiet)
    text = path.read_text().rstrip().rstrip(",").removesuffix("]").rstrip().rstrip(",")
    events = [event for event in json.loads(text + "]") if event["ph"] == "X"]
    # The whole of the command is the phase that bears its name.
    phases = [(event["name"], event["dur"] / 1000) for event in events if event["name"] != verb]
    return sorted(phases, key=lambda phase: -phase[1])[:LONGEST]
