"""Workload API servers whose gRPC nobody here wrote: C-core and node."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from lib import agent as agent_lib
from lib import real, tls
from lib.estate import Echo, INBOUND
from lib.proxy import Postern, free_port, wait_for
from lib.real import Program, ROOT

ID = "spiffe://example.org/srv"
INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED = 3, 7, 12
STOPPING = (INVALID_ARGUMENT, UNIMPLEMENTED)


class Server:
    """The same orders for both stacks; each runs in a process of its own."""

    def __init__(self, kind, path):
        self.path = path
        if kind == "grpc-js":
            self.command = [real.tool("node"), ROOT + "/tests/interop/js/agent.js",
                            path, real.js_folder() + "/node_modules"]
        else:
            self.command = ["/usr/bin/python3",
                            ROOT + "/tests/interop/python/agent.py", path]
        self.program = None
        self.start()

    def start(self):
        self.program = Program(self.command, stdin=subprocess.PIPE)
        self.program.wait_line('"ready"', seconds=60)

    def tell(self, **order):
        after = len(self.program.lines)
        self.program.write(json.dumps(order).encode() + b"\n")
        self.program.wait_line('"done"', after=after)

    def push(self, svid, ca, **kw):
        message = agent_lib.response([agent_lib.x509_svid(svid, ca.der())], **kw)
        self.push_bytes(message)

    def push_bytes(self, message):
        self.tell(push=base64.b64encode(message).decode())

    def requests(self):
        return [json.loads(line) for line in self.program.lines
                if line and '"request"' in line]

    def wait_requests(self, count):
        wait_for(lambda: len(self.requests()) >= count,
                 "%d requests" % count)

    def stop(self):
        self.program.kill()


@pytest.fixture(params=["grpcio", "grpc-js"])
def server(request, folder):
    path = os.path.join(folder, "api.sock")
    s = Server(request.param, path)
    s.kind = request.param
    yield s
    s.stop()


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


class Proxy:
    """An inbound service; serial() is the SVID that a peer sees now."""

    def __init__(self, ca, path, echo):
        self.ca, self.mesh = ca, free_port()
        self.client = tls.context(False, ca.svid("spiffe://example.org/web"))
        self.postern = Postern(INBOUND.format(
            agent=path, mesh=self.mesh, forward=echo.listener.addr,
            rules="allow = example.org/web", extra="", extra_global="",
            threads=2))

    def connect(self):
        return tls.connect(("127.0.0.1", self.mesh), self.client)

    def state(self):
        return self.postern.ask("status", json_output=True)[1]["agent"]["state"]

    def wait_state(self, state):
        wait_for(lambda: self.state() == state, "state " + state)

    def wait_svid(self, svid):
        """In the status, then on the wire."""
        def is_there():
            _, answer = self.postern.ask("identity", json_output=True)
            have = answer["identity"]["svid"]
            return have and int(have["serial"], 16) == svid.leaf.serial_number
        wait_for(is_there, "serial %x is in use" % svid.leaf.serial_number)
        peer = self.connect()
        wait_for(lambda: self._serial() == svid.leaf.serial_number,
                 "the new certificate on the wire")
        peer.close()

    def _serial(self):
        from cryptography import x509
        peer = self.connect()
        serial = x509.load_der_x509_certificate(peer.peer_der).serial_number
        peer.close()
        return serial

    def errors(self, code):
        return self.postern.metric(
            "postern_workload_api_stream_errors_total", code=str(code))

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.postern.__exit__(kind, *rest)


# ---- What is asked


class Tap(threading.Thread):
    """Passes bytes between a socket of its own and PATH, and keeps those
    that the client wrote."""

    def __init__(self, path, behind):
        super().__init__(daemon=True)
        self.behind, self.written = behind, bytearray()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        os.chmod(path, 0o777)
        self.sock.listen(8)
        self.start()

    def run(self):
        while True:
            try:
                near, _ = self.sock.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.behind)
            for args in ((near, far, self.written), (far, near, bytearray())):
                threading.Thread(target=self._pass, args=args,
                                 daemon=True).start()

    @staticmethod
    def _pass(source, sink, keep):
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                keep += data
                sink.sendall(data)
        except OSError:
            pass


def frames(data):
    """Type, flags, stream and payload of each HTTP/2 frame."""
    at = 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at:at + 3], "big")
        yield (data[at + 3], data[at + 4],
               int.from_bytes(data[at + 5:at + 9], "big"),
               bytes(data[at + 9:at + 9 + size]))
        at += 9 + size


def test_row_112_request_is_exactly_that_of_the_standard(
        server, folder, ca, echo):
    """Another server could refuse a header too many, or a missing message."""
    tap = Tap(os.path.join(folder, "tap.sock"), server.path)
    svid = ca.svid(ID)
    server.push(svid, ca)
    with Proxy(ca, os.path.join(folder, "tap.sock"), echo) as proxy:
        proxy.wait_svid(svid)
    request, = server.requests()
    metadata = dict(request["metadata"])
    assert request["request"] == ""
    assert metadata.pop("workload.spiffe.io") == ["true"]
    assert request["authority"] == "localhost"
    assert set(metadata) <= {"user-agent", "content-type", "te"}
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert tap.written.startswith(preface)
    seen = list(frames(tap.written[len(preface):]))
    assert seen[0][0] == 4 and not seen[0][1]  # SETTINGS come first
    body = [f for f in seen if f[0] == 0]
    assert b"".join(f[3] for f in body) == bytes(5)
    assert [f[1] & 1 for f in body] == [1]  # one frame, and it ends the stream
    assert len({f[2] for f in seen if f[0] == 1}) == 1
    assert not [f for f in seen if f[0] == 6 and not f[1] & 1]  # no PING
    tap.sock.close()


# ---- What is answered


def test_first_fetch_and_pushes_reach_the_wire(server, ca, echo):
    svids = [ca.svid(ID) for _ in range(4)]
    server.push(svids[0], ca)
    with Proxy(ca, server.path, echo) as proxy:
        for svid in svids:
            server.push(svid, ca)
            proxy.wait_svid(svid)
        assert len(server.requests()) == 1
        assert proxy.postern.metric("postern_svid_rotations_total") == 3


def test_row_102_silence_is_waited_out(server, ca, echo):
    """An agent that mints for minutes must not be asked anew."""
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_state("connected, waiting")
        server.wait_requests(1)
        svid = ca.svid(ID)
        server.push(svid, ca)
        proxy.wait_svid(svid)
        assert len(server.requests()) == 1


def test_update_of_two_mebibytes_is_taken(server, ca, echo):
    """Flow control, and a message over many frames; fields that are not
    known are skipped."""
    svid, later = ca.svid(ID), ca.svid(ID)
    with Proxy(ca, server.path, echo) as proxy:
        for n, s in enumerate((svid, later)):
            message = agent_lib.response([agent_lib.x509_svid(s, ca.der())])
            server.push_bytes(
                agent_lib.field(100 + n, os.urandom(2 << 20)) + message)
            proxy.wait_svid(s)


def test_row_121_permission_denied_first_and_granted_later(server, ca, echo):
    """An agent says so until its entry has been synced: minutes of waiting
    would be an outage."""
    server.tell(refuse=[PERMISSION_DENIED, "no identity issued"])
    with Proxy(ca, server.path, echo) as proxy:
        proxy.postern.wait_line("no identity issued")
        server.wait_requests(2)
        svid = ca.svid(ID)
        server.push(svid, ca)
        proxy.wait_svid(svid)


def test_rows_118_to_122_each_status_is_retried_or_stops(server, ca, echo):
    """All come as trailers alone, at the opening of a stream."""
    last = ca.svid(ID)
    server.push(last, ca)
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_svid(last)
        for code in [c for c in range(1, 17) if c not in STOPPING]:
            before = len(server.requests())
            server.tell(refuse=[code, "status %d" % code])
            # One more attempt at once, the others with growing pauses.
            server.wait_requests(before + 2)
            wait_for(lambda c=code: proxy.errors(c) >= 2, "the errors count")
            last = ca.svid(ID)
            server.push(last, ca)
            proxy.wait_svid(last)
        peer = proxy.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.rst()


@pytest.mark.parametrize("code", STOPPING)
def test_row_118_status_that_stops_ends_with_a_new_socket(
        server, ca, echo, code):
    """The same request would get the same answer, until another server is
    there."""
    server.tell(refuse=[code, "not like this"])
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_state("stopped")
        server.push(ca.svid(ID), ca)
        proxy.postern.wait_line("not like this")
        # Twice the time of a look at the path; retries would be faster.
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert proxy.state() == "stopped"
        assert len(server.requests()) == 1 and proxy.errors(code) == 1
        server.stop()
        server.start()
        svid = ca.svid(ID)
        server.push(svid, ca)
        proxy.wait_svid(svid)


# ---- Ends of the server


def test_agent_killed_and_started_again(server, ca, echo):
    first, second = ca.svid(ID), ca.svid(ID)
    server.push(first, ca)
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_svid(first)
        live = proxy.connect()
        server.program.process.send_signal(signal.SIGKILL)
        server.program.process.wait()
        wait_for(lambda: proxy.postern.metric(
            "postern_workload_api_connected") == 0, "the loss is seen")
        # The file is still there, and refuses.
        assert os.path.exists(server.path)
        fresh = proxy.connect()
        for peer in (live, fresh):
            peer.send(b"works")
            assert peer.recv_exactly(5) == b"works"
        server.start()
        server.push(second, ca)
        proxy.wait_svid(second)
        live.send(b"still")
        assert live.recv_exactly(5) == b"still"
        live.rst()
        fresh.rst()


def test_socket_replaced_by_another_server(server, ca, echo, folder):
    first, second = ca.svid(ID), ca.svid(ID)
    server.push(first, ca)
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_svid(first)
        other = Server(server.kind, os.path.join(folder, "other.sock"))
        try:
            other.push(second, ca)
            os.rename(other.path, server.path)
            assert proxy.state() == "connected"
            server.tell(end=True)
            proxy.wait_svid(second)
            assert len(other.requests()) == 1
        finally:
            other.stop()


def test_row_107_clean_end_of_a_stream_is_reopened_at_once(server, ca, echo):
    svid = ca.svid(ID)
    server.push(svid, ca)
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_svid(svid)
        for n in range(2, 7):
            server.tell(end=True)
            server.wait_requests(n)
            proxy.wait_state("connected")
        assert proxy.postern.count_lines("event=identity-rotated") == 0


def test_announced_end_loses_no_update(server, ca, echo):
    """GOAWAY: what is sent on the open stream afterwards still counts."""
    first, late, second = ca.svid(ID), ca.svid(ID), ca.svid(ID)
    server.push(first, ca)
    with Proxy(ca, server.path, echo) as proxy:
        proxy.wait_svid(first)
        server.tell(drain=True)
        server.push(late, ca)
        proxy.wait_svid(late)
        server.tell(end=True)
        server.program.wait_line('"drained"')
        server.stop()
        server.start()
        server.push(second, ca)
        proxy.wait_svid(second)
