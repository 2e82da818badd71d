"""A suite: named scenarios that run one after the other on one client, and one line that closes it."""

import signal
import time
import traceback

from kit.commands import Failure

_SCENARIOS = []
# Deadlines are for a machine that does nothing else; three suites run at once on two processors.
_SHARED = 2


def scenario(title, deadline=300):
    """Registers a function as a scenario; it gets the suite's client and raises Failure. It has `deadline` seconds."""

    def register(function):
        function.deadline = deadline
        _SCENARIOS.append((title, function))
        return function

    return register


def run_all(name, client, modules, only, times=1):
    """Runs the modules' scenarios (whose title holds `only`), `times` over; returns how many passed and failed."""
    chosen = [entry for entry in _SCENARIOS if entry[1].__module__ in modules and only in entry[0]] * times
    passed = failed = 0
    for title, function in chosen:
        begin = time.monotonic()
        problem = _attempt(function, client, function.deadline * _SHARED * getattr(client, "timeout_factor", 1))
        tidy_problem = _attempt(lambda one: one.tidy(), client, 300)
        problem = problem or tidy_problem
        took = time.monotonic() - begin
        if problem:
            failed += 1
            print(f"FAIL {name}: {title} ({took:.1f} s)\n  {problem}{_heard(client)}", flush=True)
        else:
            passed += 1
            print(f"ok   {name}: {title} ({took:.1f} s)", flush=True)
    return passed, failed


def _heard(client):
    """The end of the client daemon's log, where there is a daemon: a rare failure must give its reason the first time."""
    text = getattr(client, "log_text", str)()
    return "".join(f"\n  | {line}" for line in ("the daemon's log ends with:", *text.splitlines()) if text)


def _attempt(function, client, deadline):
    def too_late(*_):
        raise Failure(f"not done within {deadline} s")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(deadline)
    try:
        function(client)
    except Failure as failure:
        where = traceback.extract_tb(failure.__traceback__)
        line = next((frame for frame in reversed(where) if "/kit/" not in frame.filename), where[-1])
        return f"{line.filename.rsplit('/', 1)[-1]}:{line.lineno}: {failure}"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return None
