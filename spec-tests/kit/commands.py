"""Running commands, and waiting for what they bring about."""

import subprocess
import tempfile
import time
from pathlib import Path


class Failure(Exception):
    """A scenario did not go as documented; the message says what was seen."""


class Result:
    """The result of a command: its exit status and its two outputs as text."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    @property
    def text(self):
        """Standard output without the blank space around it."""
        return self.out.strip()

    def __str__(self):
        shown = " ".join(str(word) for word in self.argv)
        return f"{shown}\n  exit {self.code}\n  out: {self.out[-2000:]!r}\n  err: {self.err[-2000:]!r}"


def run(*argv, code=0, timeout=180, detached=False, **options):
    """Runs a command to its end. `code` is the exit status that it must have; None takes any.

    With `detached`, what it leaves running keeps its outputs too, so they go to files and not to pipes.
    """
    if detached:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                  timeout=timeout, check=False)
            out.seek(0)
            err.seek(0)
            result = Result(argv, done.returncode, out.read(), err.read())
        return _judged(result, code)
    words = [str(word) for word in argv]
    options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
    if options["stdin"] is None:
        del options["stdin"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout, **options)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{' '.join(words)}\n  did not end within {timeout} s; so far: {late.stdout!r} {late.stderr!r}")
    return _judged(Result(words, done.returncode, done.stdout, done.stderr), code)


def _judged(result, code):
    if code is not None and result.code != code:
        raise Failure(f"expected exit {code}: {result}")
    return result


def wait_until(condition, what, timeout=60):
    """Polls until `condition()` is true, and gives its value back."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"waited {timeout} s for: {what}")
        time.sleep(0.02)


def nothing_left(leftovers, within=30):
    """Fails unless `leftovers()` is empty at last, `within` seconds from now; says what it holds else."""
    try:
        wait_until(lambda: not leftovers(), "leftovers to go", within)
    except Failure:
        raise Failure(f"left behind: {leftovers()}")


def end_of(log):
    """The end of what a program wrote into a file."""
    return Path(log).read_text(errors="replace")[-3000:]


def equal(seen, wanted, what):
    """Fails unless the two are equal."""
    if seen != wanted:
        raise Failure(f"{what}: expected {wanted!r}, saw {seen!r}")


def contains(text, part, what):
    """Fails unless `part` is within `text`."""
    if part not in text:
        raise Failure(f"{what}: expected {part!r} in {text[-2000:]!r}")


def check(truth, what):
    """Fails with `what` unless `truth` holds."""
    if not truth:
        raise Failure(what)
