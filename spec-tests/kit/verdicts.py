"""Verdicts on a bed's result: the failures, and the explanations that do not apply any more."""

import fnmatch
import json

from kit import host

REFERENCE_FAILURES = host.TOP / "spec-tests" / "data" / "reference-failures.json"
# The reference runtimes and their versions. Every other runtime must pass, as brig must.
EXPLAINED = ("runc 1.1.5", "crun 1.8.1", "youki 0.7")


def explanations():
    """Reasons why reference runtimes fail: a list of {case, runtime, bed, why}; `bed` is `*` or a comma-separated list.

    `sometimes` marks a failure that depends on a race: the case may pass too. The case `*` with a `section` (a pattern,
    `runc: *`) covers all cases of these sections; with `says`, a pattern too, every failure whose text matches.
    """
    return json.loads(REFERENCE_FAILURES.read_text()) if REFERENCE_FAILURES.exists() else []


def is_reference(entry):
    """Whether explanations apply to this runtime; they never apply to brig."""
    return entry["label"] in EXPLAINED


def is_unknown_reference(entry):
    """Whether this is a reference runtime of a version without explanations: shown, but not checked."""
    return not is_reference(entry) and entry["name"] in {label.split()[0] for label in EXPLAINED}


def explained(entry, bed, report, known):
    """The explanation for this runtime's failure of this case on this bed, or None."""
    for one in known:
        if one["runtime"] == entry["label"] and _covers_bed(one, bed) and _covers(one, report):
            return one
    return None


def _covers(one, report):
    """Whether the explanation covers the report: by its case, or with `*` by its `section` or its text `says`."""
    if "says" in one:
        kind, text = verdict(report)
        return kind == "failed" and fnmatch.fnmatchcase(text, one["says"])
    if one["case"] == "*":
        return fnmatch.fnmatchcase(report["section"], one["section"])
    return one["case"] == report["case"]


def _covers_bed(one, bed):
    return one["bed"] == "*" or bed in [word.strip() for word in one["bed"].split(",")]


def verdict(report):
    """`passed`, `failed` or `absent`, and the text."""
    kind = report["verdict"]
    return ("passed", "") if kind == "passed" else next(iter(kind.items()))


def check_bed(result, known, whole=True):
    """The number of expected results, and a message for each unexpected one."""
    passed, faults = 0, []
    for entry in result["runtimes"]:
        if entry.get("broken"):
            faults.append(f"{entry['name']}: {entry['broken']}")
        if is_unknown_reference(entry):
            continue
        for report in entry["reports"]:
            fault = _fault(entry, report, explained(entry, result["bed"], report, known))
            passed += fault is None and verdict(report)[0] != "absent"
            faults += [fault] if fault else []
        if whole and not is_reference(entry) and not any(verdict(report)[0] == "passed" for report in entry["reports"]):
            faults.append(f"{entry['name']}: not one case passed")
    return passed, faults


def is_of_a_reference(fault, result):
    """Whether a message of check_bed concerns a reference runtime."""
    return any(is_reference(entry) and fault.startswith(f"{entry['name']}: ") for entry in result["runtimes"])


def _fault(entry, report, why):
    kind, text = verdict(report)
    case = f"{entry['name']}: {report['case']} [{report['section']}]"
    if kind == "failed" and not (why and is_reference(entry)):
        hint = "\n  no explanation in data/reference-failures.json" if is_reference(entry) else ""
        return f"{case}\n  {text.strip()}{hint}".replace("\n", "\n  ")
    if kind == "passed" and why and not why.get("sometimes"):
        return f"{case}\n  it passes, so the explanation in data/reference-failures.json does not apply: {why['why']}"
    return None


def summary(entry):
    """The line of one runtime."""
    if entry["refuses"]:
        return f"{entry['name']}: {entry['refuses']}"
    counts = {"passed": 0, "failed": 0, "absent": 0}
    for report in entry["reports"]:
        counts[verdict(report)[0]] += 1
    line = f"{entry['label']}: {counts['passed']} cases pass, {counts['failed']} fail, {counts['absent']} need more " \
           f"than this bed has ({entry['seconds']:.0f} s)"
    return line + (", of a version without explanations" if is_unknown_reference(entry) else "")
