"""A person at a terminal: a command on the far side of a pty, with what it printed so far."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from kit.commands import Failure, wait_until


class Terminal:
    """A command that believes that it talks to a terminal; a context manager that ends it."""

    def __init__(self, *argv, rows=24, columns=80):
        self.argv = [str(word) for word in argv]
        self.seen = ""
        self.master, slave = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.process = subprocess.Popen(self.argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def resize(self, rows, columns, tell=True):
        """Changes the window's size, as dragging its corner does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(28)  # SIGWINCH; the kernel tells only the foreground group

    def resized(self, rows, columns):
        """Drags the window's corner until the shell on the screen sees that size. The clients of Docker and containerd
        read the size once as they begin, and listen for changes only after that: one in between is lost, with every
        runtime."""
        def seen():
            self.resize(rows, columns)
            return self.size_is(rows, columns)
        wait_until(seen, f"the program's terminal to be {rows} {columns}")

    def size_is(self, rows, columns):
        """Whether the shell on the screen sees that size now. Docker's client sets it a moment after the start.

        The end is a word that is not typed: a shell that learns of a new size draws the line that is being typed
        again, so that what was typed may be on the screen in pieces, or twice."""
        self.send("stty size; echo end-$((40+2))\n")
        return f"{rows} {columns}" in self.expect("end-42")

    def send(self, keys):
        """Types."""
        os.write(self.master, keys.encode())

    def expect(self, text, timeout=20):
        """Waits until `text` was printed since the last expectation was met."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            if not self._read(deadline):
                raise Failure(f"{' '.join(self.argv)}: waited for {text!r} on the terminal; saw {self.seen[-1000:]!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait(self, timeout=20):
        """The exit status of the command, which is expected to end."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        try:
            return self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(self.argv)}: still runs after {timeout} s; saw {self.seen[-1000:]!r}")

    def _read(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.master], [], [], left)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last holder of the other side is gone
            return False
        self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
