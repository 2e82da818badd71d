"""ttrpc as shims speak it, and as much of protobuf as its messages take: enough to say what no client would.

A frame is length and stream (32 bit, big endian), type and flags (a byte each), then the message. Messages are written
as dictionaries {field number: value} and come back as {field number: [values]}, numbers as int, all else as bytes.
"""

import itertools
import os
import queue
import socket
import struct
import threading

from kit.commands import Failure

_REQUEST, _RESPONSE = 1, 2
_HEADER = struct.Struct(">IIBB")
# google.rpc.Code
NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED = 5, 6, 9, 12
INVALID_ARGUMENT, UNKNOWN, DEADLINE_EXCEEDED = 3, 2, 4


class Status(Failure):
    """A call was answered with an error; `code` is of google.rpc.Code."""

    def __init__(self, method, code, message):
        super().__init__(f"{method}: code {code}: {message}")
        self.code, self.text = code, message


def _varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(fields):
    """The bytes of a message; a list is a repeated field, a dictionary a message within, None and "" are left out."""
    out = b""
    for number, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if value is None or value == "":
                continue
            if isinstance(value, dict):
                value = encode(value)
            elif isinstance(value, str):
                value = value.encode()
            if isinstance(value, bytes):
                out += _varint(number << 3 | 2) + _varint(len(value)) + value
            else:
                out += _varint(number << 3) + _varint(int(value))
    return out


def decode(data):
    """{field number: [values]} of a message's bytes."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def take(size):
        nonlocal at
        if at + size > len(data):
            raise IndexError("the message is cut off")
        at += size
        return data[at - size:at]

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        elif kind == 2:
            value = take(varint())
        else:
            value = int.from_bytes(take({1: 8, 5: 4}[kind]), "little")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def any_of(name, value):
    """A google.protobuf.Any; `value` is a message's fields, or bytes."""
    return {1: name, 2: encode(value) if isinstance(value, dict) else value}


def _receive(connection):
    """One frame as (stream, type, message), or None at the end."""
    header = _exactly(connection, _HEADER.size)
    if header is None:
        return None
    size, stream, kind, _ = _HEADER.unpack(header)
    message = _exactly(connection, size)
    return None if message is None else (stream, kind, message)


def _exactly(connection, size):
    parts = b""
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return parts


class Client:
    """A connection to a server; calls may be made from several threads at once."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        self.streams = itertools.count(1, 2)
        self.answers, self.lock = {}, threading.Lock()
        # The server has closed the connection, or we have.
        self.ended = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while frame := _receive(self.connection):
            stream, kind, message = frame
            with self.lock:
                answer = self.answers.get(stream)
            if answer and kind == _RESPONSE:
                answer.put(message)
        with self.lock:
            for answer in self.answers.values():
                answer.put(None)
            self.answers = None
        self.ended.set()

    def send(self, service, method, fields, timeout=30):
        """Sends a request; returns a function that waits for the answer, and whose is_answered() looks whether it is there."""
        answer = queue.Queue()
        request = encode({1: service, 2: method, 3: encode(fields), 4: int(timeout * 1e9)})
        with self.lock:
            if self.answers is None:
                raise Failure(f"{method}: the server has closed the connection")
            stream = next(self.streams)
            self.answers[stream] = answer
            self.connection.sendall(_HEADER.pack(len(request), stream, _REQUEST, 0) + request)

        def result(limit=timeout + 2):
            try:
                message = answer.get(timeout=limit)
            except queue.Empty:
                raise Failure(f"{method}: no answer within {limit} s")
            if message is None:
                raise Failure(f"{method}: the server closed the connection")
            response = decode(message)
            status = decode(response.get(1, [b""])[0])
            code = status.get(1, [0])[0]
            if code:
                raise Status(method, code, status.get(2, [b""])[0].decode(errors="replace"))
            return decode(response.get(2, [b""])[0])

        result.is_answered = lambda: not answer.empty()
        return result

    def call(self, service, method, fields, timeout=30):
        """Makes a call; returns the answer's fields or raises Status."""
        return self.send(service, method, fields, timeout)()

    def close(self):
        """Ends the connection."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was first
        self.connection.close()
        self.reader.join(5)


class EventSink:
    """A daemon's service of events: keeps what a shim forwards, in order, as (topic, event type, fields)."""

    def __init__(self, path):
        self.path, self.events, self.open = path, [], threading.Event()
        self.open.set()
        self.connections, self.listener = [], None
        self.listen()

    def listen(self):
        """Begins to take connections (again)."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(16)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        while frame := _receive(connection):
            stream, _, message = frame
            self.open.wait()
            request = decode(decode(message)[3][0])
            envelope = decode(request[1][0])
            event = decode(envelope[4][0])
            self.events.append((envelope[3][0].decode(), event[1][0].decode(), decode(event.get(2, [b""])[0])))
            answer = encode({2: b""})
            try:
                connection.sendall(_HEADER.pack(len(answer), stream, _RESPONSE, 0) + answer)
            except OSError:
                return

    def hang_up(self):
        """Goes away, as a daemon does that ends."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its shim has ended
            connection.close()
        self.connections.clear()
