#!/usr/bin/python3
"""A seccomp agent for tests: agent.py SOCKET.

Listens on SOCKET, and prints what comes, a line each: `ready`; `state JSON` for a container process state; `calls N`
once the listener that came with it has no program any more, after N notifications. mkdir and mkdirat are answered
with success and not done; every other call goes on as if nobody had asked.
"""

import array
import fcntl
import json
import select
import socket
import struct
import sys
import threading

NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
MKDIR = (83, 258)


def serve(listener):
    """Answers until the last program under the filter has ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    calls = 0
    while True:
        events = poll.poll()[0][1]
        if not events & select.POLLIN:
            break
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, request)
            identity, _, _, number = struct.unpack_from("=QIIi", request)
            flags = 0 if number in MKDIR else CONTINUE
            fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", identity, 0, 0, flags))
        except FileNotFoundError:
            continue  # The caller died meanwhile.
        calls += 1
    print(f"calls {calls}", flush=True)


def main():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        fds = array.array("i")
        text = b""
        while True:
            data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 16))
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload)
            if not data:
                break
            text += data
        print("state", json.dumps({**json.loads(text), "received": len(fds)}, sort_keys=True), flush=True)
        threading.Thread(target=serve, args=(fds[0],), daemon=True).start()


main()
