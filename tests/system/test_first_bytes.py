"""The thinnest path: one identity, one rule, bytes both ways."""

import ssl

import pytest

from lib import tls
from lib.estate import Echo, Inbound, Listener, Outbound, ca_file

pytestmark = pytest.mark.sanitize


def test_inbound_allowed_caller_reaches_the_service(ca, agent):
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr) as a:
        peer = a.connect()
        peer.send(b"hello")
        assert peer.recv_exactly(5) == b"hello"
        peer.close_notify()
        assert peer.recv() == b""
        line = a.postern.wait_line("event=close", "service=a")
        assert "src_id=spiffe://example.org/web" in line
        assert "decision=allow" in line
        assert "bytes_in=5" in line and "bytes_out=5" in line
        assert "close=mesh-fin" in line


def test_inbound_stranger_is_refused_and_never_dialled(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        with pytest.raises(ssl.SSLError) as error:
            peer = a.connect(a.client_context("spiffe://example.org/other"))
            peer.recv()
        assert "handshake failure" in tls.alert_of(error.value)
        line = a.postern.wait_line("event=deny", "service=a")
        assert "reason=no_rule" in line
        assert "src_id=spiffe://example.org/other" in line
        assert 'hint="allow = spiffe://example.org/other"' in line
        assert service.nobody_came()


def test_outbound_expected_server_is_reached(ca, agent, folder):
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        app = b.connect()
        peer = tls.TlsPeer(server.accept(), b.server_context(
            cafile=ca_file(folder, ca)), server=True).handshake()
        app.sendall(b"question")
        assert peer.recv_exactly(8) == b"question"
        peer.send(b"answer")
        assert app.recv(100) == b"answer"
        peer.close_notify()
        assert app.recv(100) == b""
        app.close()
        line = b.postern.wait_line("event=close", "service=b")
        assert "dst_id=spiffe://example.org/srv" in line


def test_outbound_unexpected_server_gets_no_byte(ca, agent, folder):
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        app = b.connect()
        app.sendall(b"secret")
        peer = tls.TlsPeer(server.accept(), b.server_context(
            "spiffe://example.org/other", cafile=ca_file(folder, ca)),
            server=True)
        with pytest.raises(ssl.SSLError):
            peer.handshake()
            peer.recv()
        with pytest.raises(ConnectionResetError):
            app.recv(1)
        line = b.postern.wait_line("event=deny", "service=b")
        assert "reason=no_rule" in line
