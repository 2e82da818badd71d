"""Kubernetes' own tests of the Container Runtime Interface, compared with those of a reference runtime."""

import json
import re

from kit import host
from kit.commands import check
from kit.suite import scenario

# Cases that cannot pass here with any runtime, by name, with the reason.
_TABLE = host.TOP / "spec-tests" / "data" / "critest.json"


def group(module, title, focus, skip="", handlers=("brig",), reference="runc"):
    """A scenario of `module` with those cases; each must pass over brig. Cases that the table excuses must fail with the reference runtime
    too."""

    def run_group(cri):
        excused = json.loads(_TABLE.read_text())[cri.name]
        for handler in handlers:
            seen = cri.critest(handler, focus, skip)
            # A case that passes with brig needs no reference runtime.
            missed = [case.leaf for case in seen.values() if case.state != "passed"]
            other = cri.critest(reference, "|".join(map(_literal, missed))) if missed else {}
            judge(seen, other, excused, handler)

    run_group.__module__ = module
    scenario(f"critest: {title}", deadline=900)(run_group)


def _literal(text):
    """A regular expression of Go's that matches the text alone: there a space cannot be escaped."""
    return re.escape(text).replace("\\ ", " ")


def judge(seen, reference, excused, handler):
    """Fails where a case ends otherwise than it should."""
    problems = []
    for name, case in sorted(seen.items()):
        other = reference[name].state if name in reference else "not run"
        if case.state != "passed" and (name not in excused or other in ("passed", "not run")):
            problems.append(f"{name}: {case.state} over {handler}, {other} with the reference runtime: {case.said}")
        if case.state == "passed" and name in excused:
            problems.append(f"{name}: passes, so the table should not excuse it")
    passed = sum(case.state == "passed" for case in seen.values())
    print(f"     {handler}: {passed} of {len(seen)} cases", flush=True)
    check(not problems, "\n  ".join(problems))
    check(passed, "no case passed at all")
