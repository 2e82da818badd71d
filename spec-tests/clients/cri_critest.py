"""Kubernetes' own tests of the Container Runtime Interface, over brig's shim and over Go's."""

import json

from kit import host
from kit.commands import check
from kit.suite import scenario

# What cannot pass here whatever the runtime is, by the case's name, with the reason.
_TABLE = host.TOP / "spec-tests" / "data" / "critest.json"


def _group(title, focus, skip="", handlers=("brig",)):
    """A scenario of those cases; each must pass over brig's shim. What the table excuses must fail over Go's too."""

    @scenario(f"critest: {title}", deadline=900)
    def run_group(cri):
        excused = json.loads(_TABLE.read_text())[cri.name]
        peer = cri.critest("runc", focus, skip)
        for handler in handlers:
            judge(cri.critest(handler, focus, skip), peer, excused, handler)


def judge(seen, peer, excused, handler):
    """Fails where a case ends otherwise than it should."""
    problems = []
    for name in sorted(set(seen) | set(peer)):
        state, said = seen.get(name, ("missing", ""))
        other = peer.get(name, ("missing", ""))[0]
        if state != "passed" and (name not in excused or other == "passed"):
            problems.append(f"{name}: {state} over {handler}, {other} over runc's shim: {said}")
        if state == "passed" and name in excused:
            problems.append(f"{name}: passes, so the table should not excuse it")
    passed = sum(state == "passed" for state, _ in seen.values())
    print(f"     {handler}: {passed} of {len(seen)} cases", flush=True)
    check(not problems, "\n  ".join(problems))
    check(passed, "no case passed at all")


_group("pods and idempotence", r"\[k8s.io\] (PodSandbox|Idempotence|Runtime info)", skip="RemoveImage")
_group("containers: lifecycle, exec, stats, logs, volumes", r"\[k8s.io\] Container runtime")
_group("containers: mounts, propagation, OOM", r"\[k8s.io\] Container (Mount|OOM)")
_group("streaming: exec, attach, port-forward", r"\[k8s.io\] Streaming")
_group("networking, and several containers in a pod", r"\[k8s.io\] (Networking|Multiple)")
_group("security context", r"\[k8s.io\] Security Context")
_group("user namespaces, in the place of Go's shim", r"UserNamespaces", handlers=("drop-in",))
