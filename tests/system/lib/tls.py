"""A TLS peer over memory BIOs: every ending can be made on its own.

Python's ssl is OpenSSL; what is tested is Postern's handling of endings, and
there are GnuTLS and Go peers elsewhere.
"""

import os
import select
import socket
import ssl
import struct
import tempfile
import time

DEADLINE = 20.0


def context(server, svid=None, cafile=None, maximum=None):
    """An SSLContext without any name check: SPIFFE is judged elsewhere."""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server
                         else ssl.PROTOCOL_TLS_CLIENT)
    if not server:
        ctx.check_hostname = False
    # Python hides truncations by default; they are what is looked for here.
    ctx.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    ctx.verify_mode = ssl.CERT_NONE
    if server:
        ctx.verify_mode = ssl.CERT_REQUIRED
    if cafile:
        ctx.load_verify_locations(cafile)
        ctx.verify_mode = ssl.CERT_REQUIRED
    if maximum:
        ctx.maximum_version = maximum
    if svid:
        with tempfile.TemporaryDirectory() as folder:
            ctx.load_cert_chain(*svid.pem_files(folder))
    return ctx


class TlsPeer:
    """One TLS connection on a connected socket."""

    def __init__(self, sock, ctx, server=False, sni=None):
        self.sock = sock
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = ctx.wrap_bio(self.incoming, self.outgoing,
                                server_side=server, server_hostname=sni)
        self.until = time.monotonic() + DEADLINE

    # ---- Moving bytes

    def _flush(self):
        data = self.outgoing.read()
        if data:
            self.sock.sendall(data)

    def _fill(self):
        """Wait for bytes of the transport. False: it ended."""
        left = self.until - time.monotonic()
        if left <= 0 or not select.select([self.sock], [], [], left)[0]:
            raise TimeoutError("the peer sends nothing")
        data = self.sock.recv(65536)
        if not data:
            self.incoming.write_eof()
            return False
        self.incoming.write(data)
        return True

    def _run(self, call, *args):
        self.until = time.monotonic() + DEADLINE
        while True:
            try:
                result = call(*args)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                # An alert of ours goes out before the error goes up.
                try:
                    self._flush()
                except OSError:
                    pass
                raise

    def handshake(self):
        self._run(self.tls.do_handshake)
        return self

    def send(self, data):
        view = memoryview(data)
        while view:
            n = self._run(self.tls.write, view[:16384])
            view = view[n:]

    def recv(self, n=65536):
        """Some bytes; b"" for close_notify. Truncation raises SSLError."""
        try:
            return self._run(self.tls.read, n)
        except ssl.SSLZeroReturnError:
            return b""

    def recv_exactly(self, n):
        out = b""
        while len(out) < n:
            got = self.recv(n - len(out))
            if not got:
                raise EOFError("ended after %d of %d bytes" % (len(out), n))
            out += got
        return out

    def recv_all(self):
        out = bytearray()
        while True:
            got = self.recv()
            if not got:
                return bytes(out)
            out += got

    # ---- Endings

    def close_notify(self):
        """Half-close: our end is said, theirs is not awaited."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            pass
        self._flush()

    def fin(self):
        """End of the transport without close_notify: a truncation."""
        self.sock.shutdown(socket.SHUT_WR)

    def rst(self):
        reset(self.sock)

    def close(self):
        self.sock.close()

    @property
    def peer_der(self):
        return self.tls.getpeercert(True)


def reset(sock):
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                    struct.pack("ii", 1, 0))
    sock.close()


def connect(addr, ctx, sni=None, source=None):
    """Connect and shake hands."""
    sock = socket.create_connection(addr, DEADLINE, source_address=source)
    sock.settimeout(DEADLINE)
    return TlsPeer(sock, ctx, sni=sni).handshake()


def alert_of(error):
    """The alert's name in an SSLError: "tlsv1 alert unknown ca"."""
    return os.fsdecode(str(error.reason or error)).lower().replace("_", " ")
