"""What to make of a bed's result: who failed, whose fault that is, and whether the explanations still hold."""

import fnmatch
import json

from kit import host

PEERS = host.TOP / "spec-tests" / "data" / "peers.json"
# The runtimes, and their versions, that data/peers.json speaks of. Others have to pass, as ours has.
EXPLAINED = ("runc 1.1.5", "crun 1.8.1", "youki 0.7")


def explanations():
    """Why peers fail: a list of {case, runtime, bed, why}; `bed` is `*` or names of beds with commas between.

    `sometimes` marks what depends on a race: it may pass too. The case `*` with a `section` (a pattern, `runc: *`) goes
    for all cases there; with `says`, a pattern too, for every failure that is told in such words.
    """
    return json.loads(PEERS.read_text()) if PEERS.exists() else []


def is_peer(entry):
    """Whether explanations can excuse this runtime; ours never."""
    return entry["label"] in EXPLAINED


def is_unknown_peer(entry):
    """A peer of a version that nobody has looked at: shown, but not judged."""
    return not is_peer(entry) and entry["name"] in {label.split()[0] for label in EXPLAINED}


def explained(entry, bed, report, known):
    """The explanation for this runtime's failure of this case on this bed, or None."""
    for one in known:
        if one["runtime"] == entry["label"] and _goes_for(one, bed) and _speaks_of(one, report):
            return one
    return None


def _speaks_of(one, report):
    """The case `*` stands for all cases of the sections that fit `section`, or all failures whose text fits `says`."""
    if "says" in one:
        kind, text = verdict(report)
        return kind == "failed" and fnmatch.fnmatchcase(text, one["says"])
    if one["case"] == "*":
        return fnmatch.fnmatchcase(report["section"], one["section"])
    return one["case"] == report["case"]


def _goes_for(one, bed):
    return one["bed"] == "*" or bed in [word.strip() for word in one["bed"].split(",")]


def verdict(report):
    """`passed`, `failed` or `absent`, and the text."""
    kind = report["verdict"]
    return ("passed", "") if kind == "passed" else next(iter(kind.items()))


def judge_bed(result, known, whole=True):
    """How many cells are as they should be, and a sentence for each that is not."""
    passed, faults = 0, []
    for entry in result["runtimes"]:
        if entry.get("broken"):
            faults.append(f"{entry['name']}: {entry['broken']}")
        if is_unknown_peer(entry):
            continue
        for report in entry["reports"]:
            fault = _fault(entry, report, explained(entry, result["bed"], report, known))
            passed += fault is None and verdict(report)[0] != "absent"
            faults += [fault] if fault else []
        if whole and not is_peer(entry) and not any(verdict(report)[0] == "passed" for report in entry["reports"]):
            faults.append(f"{entry['name']}: not one case passed")
    return passed, faults


def is_of_a_peer(fault, result):
    """Whether a sentence of judge_bed's speaks of a runtime that is not ours."""
    return any(is_peer(entry) and fault.startswith(f"{entry['name']}: ") for entry in result["runtimes"])


def _fault(entry, report, why):
    kind, text = verdict(report)
    case = f"{entry['name']}: {report['case']} [{report['section']}]"
    if kind == "failed" and not (why and is_peer(entry)):
        hint = "\n  no explanation in data/peers.json" if is_peer(entry) else ""
        return f"{case}\n  {text.strip()}{hint}".replace("\n", "\n  ")
    if kind == "passed" and why and not why.get("sometimes"):
        return f"{case}\n  it passes, so the explanation in data/peers.json does not apply: {why['why']}"
    return None


def summary(entry):
    """One runtime's line."""
    if entry["refuses"]:
        return f"{entry['name']}: {entry['refuses']}"
    counts = {"passed": 0, "failed": 0, "absent": 0}
    for report in entry["reports"]:
        counts[verdict(report)[0]] += 1
    told = f"{entry['label']}: {counts['passed']} cases pass, {counts['failed']} fail, {counts['absent']} need more " \
           f"than this bed has ({entry['seconds']:.0f} s)"
    return told + (", of a version that nobody has judged yet" if is_unknown_peer(entry) else "")
