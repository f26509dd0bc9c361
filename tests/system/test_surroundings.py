"""Control socket, metrics over HTTP, systemd, and the life of the identity."""

import os
import signal
import socket
import ssl
import subprocess
import shutil
import threading
import time
import urllib.error
import urllib.request

import pytest

from lib import agent as agent_lib
from lib import tls
from lib.estate import Echo, Inbound, Listener, Outbound
from lib.flow import End, drive
from lib.proxy import BINARY, Postern, free_port, wait_for
from lib.shortened import shortened


# ---- Control socket

@pytest.mark.sanitize
def test_control_socket_outlives_abuse(ca, agent):
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr) as a:
        p = a.postern

        def client():
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(tls.DEADLINE)
            s.connect(p.control)
            return s

        def ended(s):
            try:
                while s.recv(65536):
                    pass
            except OSError:
                pass
            s.close()

        s = client()
        try:
            s.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        ended(s)
        for line in (b"\0\n", b"status\0\n", b"\n", b"no-such-verb\n",
                     b"status " + b"a" * 4000 + b"\n", b"\xff\xfe\n"):
            s = client()
            s.sendall(line)
            ended(s)
        client().close()                        # nothing at all
        silent = [client() for _ in range(16)]  # all places, and no word
        # They are turned out in time: the operator gets in.
        wait_for(lambda: p.ask("status")[0] == 0, "the operator gets in", 30)
        for s in silent:
            s.close()
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.close()


# ---- Metrics over HTTP

def get(port, path, method="GET"):
    request = urllib.request.Request(
        "http://127.0.0.1:%d%s" % (port, path), method=method,
        data=b"x" if method == "POST" else None)
    try:
        with urllib.request.urlopen(request, timeout=tls.DEADLINE) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_health_over_http(ca, agent):
    port = free_port()
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr,
                 extra_global="metrics = 127.0.0.1:%d" % port) as a:
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.close()
        wait_for(lambda: a.postern.metric(
            "postern_connections_active") == 0, "it ended")
        status, page = get(port, "/metrics")
        assert status == 200
        assert 'postern_connections_total{service="a"' in page
        if shutil.which("promtool"):
            done = subprocess.run(["promtool", "check", "metrics"],
                                  input=page, capture_output=True, text=True,
                                  timeout=60, check=False)
            # Exit code 3: only matters of taste; the text is listed.
            assert done.returncode in (0, 3), done.stderr
            assert "error" not in done.stderr.lower(), done.stderr
        assert get(port, "/livez")[0] == 200
        assert get(port, "/readyz")[0] == 200
        status, page = get(port, "/no/such/page")
        assert status == 404 and "no/such" not in page
        assert get(port, "/metrics", "POST")[0] in (405, 501, 413)
        agent.refuse()
        # Red as soon as nothing may be presented; the process lives on.
        a.postern.write(a.config.replace(
            "[global]", "[global]\nredaction_grace = 0s"))
        assert a.postern.ask("reload")[0] == 0
        wait_for(lambda: get(port, "/readyz")[0] == 503, "readiness is red")
        assert get(port, "/livez")[0] == 200


# ---- systemd

class Notified:
    """What a service manager is told."""

    def __init__(self, address):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address[0] == "@" else address)
        if address[0] != "@":
            os.chmod(address, 0o777)
        self.sock.settimeout(tls.DEADLINE)
        self.said = []

    def wait(self, word, seconds=tls.DEADLINE):
        until = time.monotonic() + seconds
        while True:
            for line in self.said:
                if line.startswith(word):
                    return line
            self.sock.settimeout(max(0.01, until - time.monotonic()))
            self.said += self.sock.recv(4096).decode().split("\n")

    def forget(self):
        self.said = []


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_service_manager_is_told(ca, agent, folder, kind):
    # Not beside the agent's socket: whose folder others may write is refused.
    os.mkdir(os.path.join(folder, "n"))
    os.chmod(os.path.join(folder, "n"), 0o777)
    address = os.path.join(folder, "n", "notify") if kind == "path" \
        else "@postern-test-%d-%d" % (os.getpid(), time.monotonic_ns())
    manager = Notified(address)
    service = Listener()
    with Inbound(ca, agent, service.addr, wait=False,
                 extra_global="drain_timeout = 20s") as a:
        a.postern.stop()
        a.postern = Postern(a.config, env={
            "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
        manager.wait("READY=1")
        assert "services" in manager.wait("STATUS=")
        manager.wait("WATCHDOG=1")
        a.postern.wait_identity()
        peer = a.connect()
        peer.send(b"x")
        conn = service.accept()
        assert conn.recv(1) == b"x"
        a.postern.process.send_signal(signal.SIGTERM)
        manager.wait("STOPPING=1")
        # A drain that lasts is no hang: the watchdog is fed on.
        manager.forget()
        manager.wait("WATCHDOG=1")
        manager.forget()
        manager.wait("WATCHDOG=1")
        peer.send(b"y")
        assert conn.recv(1) == b"y"
        peer.close_notify()
        assert conn.recv(1) == b""
        conn.close()
        assert a.postern.process.wait(tls.DEADLINE) == 0
    manager.sock.close()


def test_sockets_passed_by_the_service_manager(ca, agent):
    echo = Echo()
    passed = Listener()
    with Inbound(ca, agent, echo.listener.addr, wait=False) as a:
        a.postern.stop()
        config = a.config.replace("127.0.0.1:%d" % a.mesh, "systemd:mesh")

        def launch(names, wait=True):
            fd = passed.sock.fileno()
            shell = 'exec 3<&%d; export LISTEN_PID=$$; exec "$@"' % fd
            p = Postern.__new__(Postern)
            # The variable names the process itself: a shell becomes it.
            p.folder, p.config_path = a.postern.folder, a.postern.config_path
            p.control, p.lines = a.postern.control, []
            p._cond = threading.Condition()
            p.write(config)
            command = [BINARY, "run", "--config", p.config_path,
                       "--control", p.control]
            p._user(command, None)
            env = dict(os.environ, LISTEN_FDS="1", LISTEN_FDNAMES=names)
            p.process = subprocess.Popen(
                ["bash", "-c", shell, "bash", *command],
                stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env,
                pass_fds=[fd])
            p._reader = threading.Thread(target=p._read, daemon=True)
            p._reader.start()
            if wait:
                p.wait_line("event=ready")
            return p

        a.postern = launch("mesh")
        a.postern.wait_identity()
        a.mesh = passed.port
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.close()
        # A reload keeps it, and so does our end: it is not ours to close.
        assert a.postern.ask("reload")[0] == 0
        peer = a.connect()
        peer.close()
        a.postern.stop()
        queued = socket.create_connection(("127.0.0.1", passed.port))
        queued.close()
        wrong = launch("other", wait=False)
        assert wrong.process.wait(tls.DEADLINE) == 1
        wrong.wait_line("FileDescriptorName=mesh")
        a.postern = launch("mesh")
    passed.close()


# ---- Life of the identity

@pytest.mark.sanitize
@pytest.mark.parametrize("gate", ["none", "identity"])
def test_start_without_an_identity(ca, agent, gate):
    echo = Echo()
    service_id = "spiffe://example.org/srv"
    with Inbound(ca, agent, echo.listener.addr, wait=False) as a:
        a.postern.stop()
        agent.silence()
        a.postern = Postern(a.config.replace(
            "[global]", "[global]\nstart_gate = " + gate), wait=False)
        a.postern.wait_line("event=start")
        if gate == "none":
            a.postern.wait_line("event=ready")
        # Callers are told at once, and that it is nothing about them.
        with pytest.raises(ssl.SSLError) as error:
            a.connect().recv()
        assert "internal error" in tls.alert_of(error.value)
        a.postern.wait_line("reason=no_identity")
        if gate == "identity":
            assert a.postern.count_lines("event=ready") == 0
        agent.push(agent_lib.response([agent_lib.x509_svid(
            ca.svid(service_id), ca.der())]))
        a.postern.wait_identity()
        a.postern.wait_line("event=ready")
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("role", ["inbound", "outbound"])
def test_expired_identity_is_never_presented(ca, agent, role):
    listener = Listener()
    make = Inbound if role == "inbound" else Outbound
    with make(ca, agent, listener.addr, wait=False) as x:
        name = x.svid.id
        x.postern.stop()
        agent.push(agent_lib.response([agent_lib.x509_svid(
            ca.svid(name, life=4), ca.der())]))
        x.postern = Postern(x.config).wait_identity()
        # What was made under the valid one stays.
        if role == "inbound":
            live = End(socket.create_connection(("127.0.0.1", x.mesh)), 1, 2,
                       ctx=x.client_context())
            assert drive([live], lambda: live.is_shaken)
            far = End(listener.accept(), 2, 1)
        else:
            ctx = x.server_context()
            ctx.verify_mode = ssl.CERT_NONE
            live = End(x.connect(), 1, 2)
            far = End(listener.accept(), 2, 1, ctx=ctx, server=True)
            assert drive([live, far], lambda: far.is_shaken)
        wait_for(lambda: x.postern.metric("postern_identity_fenced") == 1,
                 "the fence is up")
        if role == "inbound":
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                x.connect().recv()
        else:
            with pytest.raises(ConnectionResetError):
                x.connect().recv(1)
        assert listener.nobody_came()
        x.postern.wait_line("event=deny", "reason=no_identity")
        for e in (live, far):
            e.to_send += 1000
        assert drive([live, far],
                     lambda: live.received == far.received == 1000)
        agent.push(agent_lib.response([agent_lib.x509_svid(
            ca.svid(name), ca.der())]))
        wait_for(lambda: x.postern.metric("postern_identity_fenced") == 0,
                 "the fence is down")
        live.close()
        far.close()


@pytest.mark.sanitize
def test_withdrawn_identity_has_its_grace_and_then_ends(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr,
                 extra_global="redaction_grace = 2s") as a:
        live = End(socket.create_connection(("127.0.0.1", a.mesh)), 1, 2,
                   ctx=a.client_context())
        assert drive([live], lambda: live.is_shaken)
        far = End(service.accept(), 2, 1)
        agent.refuse()
        wait_for(lambda: agent.opened >= 2, "asked again, refused again")
        began = time.monotonic()
        assert drive([live, far], lambda: live.end and far.end)
        took = time.monotonic() - began
        assert {live.end, far.end} == {"rst"}
        assert took < 10, took
        a.postern.wait_line("close=identity")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            a.connect().recv()
        live.close()
        far.close()


def test_short_refusal_within_the_grace_ends_nothing(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        live = End(socket.create_connection(("127.0.0.1", a.mesh)), 1, 2,
                   ctx=a.client_context())
        assert drive([live], lambda: live.is_shaken)
        far = End(service.accept(), 2, 1)
        agent.refuse()
        wait_for(lambda: a.postern.metric(
            "postern_workload_api_stream_errors_total", code="7") >= 1,
            "it was refused")
        newer = ca.svid(a.server_id)
        agent.push(agent_lib.response([agent_lib.x509_svid(
            newer, ca.der())]))
        a.postern.wait_line(newer.serial, seconds=60)
        for e in (live, far):
            e.to_send = 1000
        assert drive([live, far],
                     lambda: live.received == far.received == 1000)
        live.close()
        far.close()


def test_rotation_under_load_loses_nothing(ca, agent):
    flows = shortened("rotation: full-duplex flows", 50, 200)
    rounds = shortened("rotation: rotations", 20, 1000)
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        ctx = a.client_context()
        ends = []

        def open_one(i):
            caller = End(socket.create_connection(("127.0.0.1", a.mesh)),
                         ("c", i), ("s", i), ctx=ctx)
            assert drive([caller], lambda: caller.is_shaken or caller.end)
            target = End(service.accept(), ("s", i), ("c", i))
            return [caller, target]

        for i in range(flows):
            ends += open_one(i)
        seen = set()
        for n in range(rounds):
            svid = ca.svid(a.server_id)
            mark = len(a.postern.lines)
            agent.push(agent_lib.response([agent_lib.x509_svid(
                svid, ca.der())]))
            for e in ends:
                e.to_send += 2048
            # New connections meanwhile: none fails.
            for i in range(3):
                pair = open_one((n, i))
                for e in pair:
                    e.to_send = 500
                assert drive(pair, lambda p=pair: all(
                    e.received == 500 for e in p))
                seen.add(pair[0].tls.getpeercert(True))
                pair[0].finish()
                assert drive(pair, lambda p=pair: p[1].end == "clean")
                pair[1].finish()
                assert drive(pair, lambda p=pair: p[0].end == "clean")
                for e in pair:
                    e.close()
            a.postern.wait_line(svid.serial, after=mark)
            want = ends[0].to_send
            assert drive(ends, lambda w=want: all(
                e.received == w for e in ends)), "flows stand still"
        assert [e for e in ends if e.end or e.wrong is not None] == []
        assert len(seen) >= rounds / 2      # the new ones were presented
        assert a.postern.metric("postern_svid_rotations_total") >= rounds - 1
        for e in ends:
            e.close()
