"""Cases from the field: half-closes, slow readers, late refusals, probes."""

import socket
import ssl
import subprocess
import time

import pytest

from lib import ca as ca_lib
from lib import tls
from lib.estate import Inbound, Listener, Outbound, ca_file
from lib.flow import End, drive
from lib.shortened import shortened
from lib.proxy import wait_for

MIB = 1 << 20


def serving(b, server, ca, folder, spiffe_id="spiffe://example.org/srv"):
    """The next mesh connection of outbound B, shaken."""
    return tls.TlsPeer(server.accept(), b.server_context(
        spiffe_id, cafile=ca_file(folder, ca)), server=True).handshake()


@pytest.mark.case("C-012")
@pytest.mark.sanitize
def test_case_012_half_closing_client_gets_the_late_answer(ca, agent, folder):
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        app = subprocess.Popen(
            ["sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | "
             "nc -N 127.0.0.1 %d" % b.plain], stdout=subprocess.PIPE)
        peer = serving(b, server, ca, folder)
        assert peer.recv_all() == b"GET / HTTP/1.0\r\n\r\n"
        time.sleep(shortened("C-012: the server thinks (s)", 0.5, 2))
        peer.send(b"a" * MIB)
        peer.close_notify()
        assert app.communicate(timeout=tls.DEADLINE)[0] == b"a" * MIB
        assert app.returncode == 0
        line = b.postern.wait_line("event=close", "service=b")
        assert "half_closed=plain" in line and "close=plain-fin" in line
        assert "bytes_in=%d" % MIB in line and "bytes_out=18" in line
        assert "discarded" not in line
        # One close_notify, then only the end of the transport.
        assert peer.recv() == b""
        assert b.postern.count_lines("event=close") == 1


@pytest.mark.case("C-014")
@pytest.mark.parametrize("way", ["peer", "app"])
def test_case_014_reader_that_sleeps_loses_nothing(ca, agent, way):
    pause = shortened("C-014: the reader sleeps (s)", 3, 150)
    total = 50 * 1000 * 1000
    listener = Listener()
    if way == "peer":
        estate = Inbound(ca, agent, listener.addr)
        ctx = estate.client_context()
    else:
        estate = Outbound(ca, agent, listener.addr)
        ctx = estate.server_context()
        ctx.verify_mode = ssl.CERT_NONE
    with estate:
        port = estate.mesh if way == "peer" else estate.plain
        reader = End(socket.create_connection(("127.0.0.1", port)), 1, 2,
                     ctx=ctx if way == "peer" else None)
        assert drive([reader], lambda: reader.is_shaken)
        writer = End(listener.accept(), 2, 1,
                     ctx=None if way == "peer" else ctx, server=True)
        assert drive([reader, writer], lambda: writer.is_shaken)
        writer.to_send = total
        assert drive([reader, writer], lambda: reader.received >= 1000 * 1000)
        reader.reading = False
        until = time.monotonic() + pause
        drive([reader, writer], lambda: time.monotonic() > until,
              seconds=pause + 1)
        reader.reading = True
        assert drive([reader, writer], lambda: not writer.wants_write,
                     seconds=60)
        writer.finish()
        assert drive([reader, writer], lambda: reader.end, seconds=60)
        assert (reader.end, reader.received, reader.wrong) == (
            "clean", total, None)
        reader.close()
        writer.close()


def _mail_session(app, peer, banner, bye):
    """The server greets first, to a client that has said nothing."""
    peer.send(banner)
    assert app.recv(200) == banner
    app.sendall(bye)
    assert peer.recv_exactly(len(bye)) == bye


@pytest.mark.case("C-017")
@pytest.mark.parametrize("banner,bye", [
    (b"* OK IMAP4rev1 ready\r\n", b"a1 LOGOUT\r\n"),
    (b"220 mail ESMTP\r\n", b"QUIT\r\n")])
def test_case_017_mail_clients_that_reset_after_goodbye(
        ca, agent, folder, banner, bye):
    n = shortened("C-017: sessions of each kind", 20, 100)
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        ctx = b.server_context(cafile=ca_file(folder, ca))
        for i in range(2 * n):
            app = b.connect()
            peer = tls.TlsPeer(server.accept(), ctx, server=True).handshake()
            _mail_session(app, peer, banner, bye)
            if i < n:
                tls.reset(app)
                with pytest.raises(ConnectionResetError):
                    peer.recv()
            else:
                app.shutdown(socket.SHUT_WR)
                assert peer.recv() == b""
                peer.close_notify()
                assert app.recv(1) == b""
                app.close()
            peer.close()
        wait_for(lambda: b.postern.count_lines("event=close") == 2 * n,
                 "a line for each session")
        assert b.postern.count_lines("close=plain-rst", "level=info") == n
        assert b.postern.count_lines("close=plain-fin", "level=info") == n
        assert b.postern.count_lines("level=warn") == 0
        assert b.postern.count_lines("level=error") == 0


@pytest.mark.case("C-027")
@pytest.mark.sanitize
def test_case_027_service_that_resets_high_ports_is_no_failed_dial(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr, threads=1) as a:
        ctx = a.client_context()
        # More than once: the breaker must not hold it against the target.
        for i in range(5):
            peer = a.connect(ctx)
            conn, _ = service.sock.accept()
            assert conn.getpeername()[1] >= 1024
            tls.reset(conn)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                peer.recv()
            wait_for(lambda n=i + 1: a.postern.count_lines(
                "close=plain-rst", "bytes_in=0", "bytes_out=0") == n,
                "the abort is the service's")
        assert a.postern.count_lines("close=dial-failed") == 0


@pytest.mark.case("C-045")
def test_case_045_port_probes_are_neither_failures_nor_news(ca, agent):
    seconds = shortened("C-045: probing (s)", 3, 900)
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        ctx = a.client_context()
        probes = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
                s = socket.create_connection(
                    ("127.0.0.1", a.mesh), tls.DEADLINE,
                    source_address=(source, 0))
                if probes % 2:
                    tls.reset(s)
                else:
                    s.close()
                probes += 1
            time.sleep(shortened("C-045: between probes (s)", 0.1, 1))
        peer = a.connect(ctx)
        conn = service.accept()
        peer.send(b"x")
        assert conn.recv(1) == b"x"
        assert service.nobody_came()
        # Of the resets, some are gone before accept: then nothing was held.
        wait_for(lambda: a.postern.metric("postern_connections_active") == 1,
                 "no slot is held")
        assert probes / 2 <= a.postern.metric("postern_probes_total") <= probes
        assert a.postern.metric("postern_handshake_failures_total") == 0
        assert a.postern.count_lines("level=warn") == \
            a.postern.count_lines("level=error") == 0
        conn.close()
        peer.close()


def _hello(ctx):
    """A raw ClientHello of this context, to be cut into pieces."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    obj = ctx.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        obj.do_handshake()
    return obj, incoming, outgoing, outgoing.read()


def _finish_by_hand(sock, obj, incoming, outgoing):
    while True:
        try:
            obj.do_handshake()
            sock.sendall(outgoing.read())
            return
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            data = sock.recv(65536)
            assert data, "ended in the handshake"
            incoming.write(data)


@pytest.mark.case("C-057")
def test_case_057_client_hello_in_pieces(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr, threads=1) as a:
        ctx = a.client_context()
        # Large, as with a hybrid group: a long list of protocols.
        ctx.set_alpn_protocols(["x%03d" % i for i in range(300)])
        size = len(_hello(ctx)[3])
        assert size > 1500
        step = shortened("C-057: split at every Nth offset", 97, 1)
        gap = shortened("C-057: between the pieces (s)", 0.005, 0.3)
        for at in range(1, size, step):
            sock = socket.create_connection(("127.0.0.1", a.mesh))
            sock.settimeout(tls.DEADLINE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            obj, incoming, outgoing, hello = _hello(ctx)
            sock.sendall(hello[:at])
            time.sleep(gap)
            sock.sendall(hello[at:])
            _finish_by_hand(sock, obj, incoming, outgoing)
            service.accept().close()
            sock.close()


@pytest.mark.case("C-057")
def test_case_057_client_hello_byte_by_byte(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        ctx = a.client_context()
        sock = socket.create_connection(("127.0.0.1", a.mesh))
        sock.settimeout(tls.DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        obj, incoming, outgoing, hello = _hello(ctx)
        gap = shortened("C-057: a byte each (s)", 0.001, 0.005)
        for i in range(len(hello)):
            sock.sendall(hello[i:i + 1])
            time.sleep(gap)
        _finish_by_hand(sock, obj, incoming, outgoing)
        service.accept().close()
        sock.close()


@pytest.mark.case("C-059")
@pytest.mark.sanitize
@pytest.mark.parametrize("app_does", ["nothing", "sends", "half-closes"])
def test_case_059_late_refusal_of_the_server_is_an_abort(
        ca, agent, folder, app_does):
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        app = b.connect()
        # A server that trusts another authority refuses after our Finished.
        ctx = b.server_context(cafile=ca_file(folder, ca_lib.CA()))
        conn = server.accept()
        if app_does == "sends":
            app.sendall(b"q" * 1024)
        elif app_does == "half-closes":
            app.shutdown(socket.SHUT_WR)
        with pytest.raises(ssl.SSLError):
            tls.TlsPeer(conn, ctx, server=True).handshake()
        # No clean end first: the first thing that the app sees is the reset.
        with pytest.raises(ConnectionResetError):
            app.recv(1)
        line = b.postern.wait_line("event=close", "service=b")
        assert "close=mesh-alert" in line and "reason=unknown_ca" in line
        assert b.postern.metric(
            "postern_peer_closed_before_data_total") == 1
        conn.close()
