"""One end of a connection whose bytes are a function of (flow, offset).

An End neither blocks nor owns a thread: drive() moves any number of them, so
that a test says exactly who reads, who writes and who ends when.
"""

import array
import fcntl
import hashlib
import select
import socket
import ssl
import termios
import time

from .tls import DEADLINE, reset

PERIOD = 65521
RECORD = 16384


class Pattern:
    """An endless stream of bytes, different for each flow."""

    def __init__(self, flow):
        self.block = hashlib.shake_128(repr(flow).encode()).digest(PERIOD)
        self.twice = self.block * 2

    def at(self, offset, n):
        out = bytearray()
        while n:
            start = (offset + len(out)) % PERIOD
            step = min(n, PERIOD)
            out += self.twice[start:start + step]
            n -= step
        return bytes(out)

    def first_wrong(self, offset, data):
        """Offset of the first byte that is not this flow's, or None."""
        if data == self.at(offset, len(data)):
            return None
        want = self.at(offset, len(data))
        return offset + next(i for i, b in enumerate(data) if b != want[i])


class End:
    """A socket, perhaps under TLS, that sends one flow and expects another."""

    def __init__(self, sock, sends, expects, ctx=None, server=False):
        self.sock = sock
        sock.setblocking(False)
        self.sends, self.expects = Pattern(sends), Pattern(expects)
        self.tls = None
        self.outbuf = bytearray()
        self.records = []           # (end in ciphertext, end in plaintext)
        self.cipher_made = self.handed = 0
        self.to_send = self.made = 0
        self.received, self.wrong = 0, None
        self.reading = True
        self.end = None             # clean, rst, truncated, alert
        self.detail = ""
        self.raw_end = None         # fin, rst
        self.finished = False       # our own clean end is said
        self.dead = False           # we are gone: the socket is closed
        self.send_failed = None
        if ctx:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = ctx.wrap_bio(self.incoming, self.outgoing,
                                    server_side=server)
            self.shaken = False
            if not server:
                self._shake()

    # ---- What it knows

    @property
    def delivered(self):
        """Plain bytes that the kernel was given whole."""
        if not self.tls:
            return self.handed
        return max([p for c, p in self.records if c <= self.handed],
                   default=0)

    @property
    def acknowledged(self):
        """Plain bytes that the other kernel has, whole, now."""
        unsent = array.array("i", [0])
        fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, unsent)
        have = self.handed - unsent[0]
        if not self.tls:
            return have
        return max([p for c, p in self.records if c <= have], default=0)

    @property
    def is_shaken(self):
        return not self.tls or self.shaken

    # ---- Moving

    def _take_out(self):
        data = self.outgoing.read()
        self.cipher_made += len(data)
        self.outbuf += data

    def _shake(self):
        try:
            self.tls.do_handshake()
            self.shaken = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._ended(error)
        self._take_out()
        self.write()

    def _make(self):
        """Have something in outbuf if there is something to send."""
        if self.outbuf or self.made >= self.to_send or not self.is_shaken:
            return
        n = min(RECORD if self.tls else 262144, self.to_send - self.made)
        data = self.sends.at(self.made, n)
        self.made += n
        if not self.tls:
            self.outbuf += data
            return
        self.tls.write(data)
        self._take_out()
        self.records.append((self.cipher_made, self.made))

    @property
    def wants_write(self):
        return (not self.dead and not self.send_failed and
                (self.outbuf or
                 (self.made < self.to_send and self.is_shaken)))

    def write(self):
        while self.wants_write:
            self._make()
            if not self.outbuf:
                return
            try:
                n = self.sock.send(memoryview(self.outbuf)[:262144])
            except BlockingIOError:
                return
            except OSError as error:
                self.send_failed = error
                return
            self.handed += n
            del self.outbuf[:n]

    def _got(self, data):
        wrong = self.expects.first_wrong(self.received, data)
        if wrong is not None and self.wrong is None:
            self.wrong = wrong
        self.received += len(data)

    def _ended(self, error):
        if self.end:
            return
        self.detail = str(error)
        if isinstance(error, ssl.SSLEOFError):
            self.end = "truncated"
        elif isinstance(error, ssl.SSLError):
            self.end = "alert"
        else:
            self.end = "rst"

    def _decrypt(self):
        if not self.shaken:
            self._shake()
        while self.shaken and not self.end:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._ended(error)
                break
            if not data:
                self.end = "clean"
                break
            self._got(data)
        self._take_out()

    def read(self):
        for _ in range(16):
            try:
                data = self.sock.recv(262144)
            except BlockingIOError:
                return
            except OSError as error:
                self.raw_end = "rst"
                if self.tls:
                    self._decrypt()
                self._ended(error)
                return
            if not data and self.send_failed:
                # The kernel tells an error once, and send() had it.
                self.raw_end = "rst"
                if self.tls:
                    self._decrypt()
                self._ended(self.send_failed)
                return
            if not data:
                self.raw_end = "fin"
                if not self.tls:
                    self.end = self.end or "clean"
                else:
                    self.incoming.write_eof()
                    self._decrypt()
                return
            if self.tls:
                self.incoming.write(data)
                self._decrypt()
            else:
                self._got(data)

    # ---- Its own endings

    def _shut(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass                    # it was reset meanwhile

    def finish(self):
        """Say the clean end; what was to be sent is sent before it."""
        self.finished = True
        if not self.tls:
            self._shut()
            return
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self._take_out()
        self.write()

    def truncate(self):
        """End of TCP in the midst of TLS."""
        self.finished = True
        del self.outbuf[:]
        self.to_send = self.made
        self._shut()

    def alert(self):
        """A fatal alert, as after a record that nobody could read."""
        self.finished = True
        if not self.shaken:
            self.outbuf += b"\x15\x03\x03\x00\x02\x02\x28"
        else:
            self.incoming.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            try:
                self.tls.read(1)
            except ssl.SSLError:
                pass
            self._take_out()
            self.end = None
        self.write()

    def rst(self):
        self.dead = True
        reset(self.sock)

    def close(self):
        if not self.dead:
            self.dead = True
            self.sock.close()


def drive(ends, until, seconds=DEADLINE, quiet=None):
    """Move ENDS till UNTIL() is true: True. False: the time is over.

    QUIET: also leave, with True, when nothing moved for this many seconds.
    """
    limit = time.monotonic() + seconds
    moved = time.monotonic()
    marks = None
    while not until():
        now = time.monotonic()
        state = [(e.handed, e.received, e.end) for e in ends]
        if state != marks:
            marks, moved = state, now
        if quiet is not None and now - moved > quiet:
            return True
        if now > limit:
            return False
        poll, by_fd = select.poll(), {}
        for e in ends:
            if e.dead or e.raw_end == "rst":
                continue
            want = 0
            if e.reading and not e.raw_end:
                want |= select.POLLIN
            if e.wants_write:
                want |= select.POLLOUT
            if want:
                poll.register(e.sock, want)
                by_fd[e.sock.fileno()] = e
        for fd, what in poll.poll(20):
            e = by_fd[fd]
            if e.reading and what & ~select.POLLOUT:
                e.read()
            if what & select.POLLOUT:
                e.write()
    return True
