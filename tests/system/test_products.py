"""Programs that people run in front of services today, as mesh peers with
SVIDs in files; and what their monitoring reads.
"""

import os
import socket
import subprocess
import threading

import pytest

from lib import real, tls
from lib.estate import Echo, Inbound, Outbound, ca_file
from lib.proxy import free_port, wait_for
from lib.real import Program

WEB, SRV = "spiffe://example.org/web", "spiffe://example.org/srv"
DATA = os.urandom(3 << 20)


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def exchange(port):
    """DATA through PORT and back, with both ends in order."""
    with socket.create_connection(("127.0.0.1", port), tls.DEADLINE) as sock:
        sock.settimeout(tls.DEADLINE)

        def send():
            sock.sendall(DATA)
            sock.shutdown(socket.SHUT_WR)
        thread = threading.Thread(target=send)
        thread.start()
        out = bytearray()
        while len(out) < len(DATA):
            got = sock.recv(65536)
            assert got, "ended after %d bytes" % len(out)
            out += got
        assert out == DATA
        assert sock.recv(1) == b""
        thread.join()


# ---- stunnel

STUNNEL = """
foreground = yes
pid =
syslog = no
[x]
client = {client}
accept = 127.0.0.1:{accept}
connect = {connect}
cert = {cert}
key = {key}
CAfile = {cafile}
verifyChain = yes
sslVersionMin = TLSv1.3
"""


def stunnel(folder, svid, cafile, client, connect):
    port = free_port()
    cert, key = svid.pem_files(folder)
    path = write(folder, "stunnel.conf", STUNNEL.format(
        client="yes" if client else "no", accept=port, connect=connect,
        cert=cert, key=key, cafile=cafile))
    program = Program([real.tool("stunnel", "/usr/bin/stunnel4"), path])
    program.wait_line("Configuration successful")
    wait_for(lambda: real.is_open(port), "stunnel listens")
    return program, port


def test_stunnel_as_client(ca, agent, echo, folder):
    with Inbound(ca, agent, echo.listener.addr) as a:
        program, port = stunnel(folder, ca.svid(WEB), ca_file(folder, ca),
                                True, "127.0.0.1:%d" % a.mesh)
        with program:
            exchange(port)
        line = a.postern.wait_line("event=close", "bytes_in=%d" % len(DATA))
        assert "bytes_out=%d" % len(DATA) in line


def test_stunnel_as_server(ca, agent, echo, folder):
    program, port = stunnel(folder, ca.svid(SRV), ca_file(folder, ca), False,
                            echo.listener.addr)
    with program, Outbound(ca, agent, "127.0.0.1:%d" % port) as b:
        exchange(b.plain)


# ---- HAProxy

HAPROXY = """
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    timeout connect 20s
    timeout client 60s
    timeout server 60s
listen x
    bind 127.0.0.1:{accept} {bind}
    server s {connect} {server}
"""


def haproxy(folder, svid, cafile, client, connect):
    port = free_port()
    cert, key = svid.pem_files(folder)
    both = os.path.join(folder, "both.pem")
    with open(both, "wb") as out:
        for path in (cert, key):
            with open(path, "rb") as f:
                out.write(f.read())
    options = "ssl crt %s ca-file %s verify required" % (both, cafile)
    path = write(folder, "haproxy.cfg", HAPROXY.format(
        accept=port, connect=connect, bind="" if client else options,
        server=options if client else ""))
    program = Program([real.tool("haproxy"), "-db", "-f", path])
    wait_for(lambda: real.is_open(port), "haproxy listens")
    return program, port


def test_haproxy_as_client(ca, agent, echo, folder):
    with Inbound(ca, agent, echo.listener.addr) as a:
        program, port = haproxy(folder, ca.svid(WEB), ca_file(folder, ca),
                                True, "127.0.0.1:%d" % a.mesh)
        with program:
            exchange(port)
        line = a.postern.wait_line("event=close", "bytes_in=%d" % len(DATA))
        assert "bytes_out=%d" % len(DATA) in line


def test_haproxy_as_server(ca, agent, echo, folder):
    program, port = haproxy(folder, ca.svid(SRV), ca_file(folder, ca), False,
                            echo.listener.addr)
    with program, Outbound(ca, agent, "127.0.0.1:%d" % port) as b:
        exchange(b.plain)


# ---- Prometheus


def test_metrics_are_accepted_by_promtool(ca, agent, echo):
    promtool = real.tool("promtool")
    with Inbound(ca, agent, echo.listener.addr) as a:
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        _, page = a.postern.ask("metrics", check=0)
        peer.rst()
        done = subprocess.run([promtool, "check", "metrics"], input=page,
                              capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 0, done.stdout + done.stderr
