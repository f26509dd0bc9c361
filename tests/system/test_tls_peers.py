"""OpenSSL's and GnuTLS's own programs as peers, honest and hostile.

For each refusal: the alert that the peer saw, the reason in the log, the
counter, and that nothing reached the application.
"""

import os
import select
import socket
import ssl
import subprocess
import tempfile
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from lib import real, tls
from lib.ca import CA, Svid
from lib.estate import Echo, Inbound, Listener, Outbound
from lib.proxy import free_port, wait_for
from lib.real import Program

WEB, SRV = "spiffe://example.org/web", "spiffe://example.org/srv"


@pytest.fixture(scope="session")
def partner():
    """The authority of a federated domain."""
    return CA("partner.org")


@pytest.fixture
def federated(partner):
    return {"spiffe://partner.org": partner.der()}


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


# ---- The programs


def files(folder, svid):
    """Leaf, chain above it and key, each as PEM."""
    where = tempfile.mkdtemp(dir=folder)
    paths = [os.path.join(where, n) for n in ("leaf", "above", "all", "key")]
    pem = [c.public_bytes(serialization.Encoding.PEM)
           for c in [svid.leaf, *svid.chain]]
    key = svid.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption())
    for path, data in zip(paths, (pem[0], b"".join(pem[1:]), b"".join(pem),
                                  key)):
        with open(path, "wb") as f:
            f.write(data)
    return paths


class OpenSSL:
    name = "openssl"

    def __init__(self):
        self.path = real.tool("openssl")

    def credentials(self, folder, svid):
        if svid is None:
            return []
        leaf, above, _, key = files(folder, svid)
        chain = ["-cert_chain", above] if svid.chain else []
        return ["-cert", leaf, "-key", key, *chain]

    def client(self, folder, port, svid, *options):
        return Program([self.path, "s_client", "-connect",
                        "127.0.0.1:%d" % port, "-nocommands", "-ign_eof",
                        *self.credentials(folder, svid), *options],
                       stdin=subprocess.PIPE)

    def server(self, folder, svid, *options):
        port = free_port()
        program = Program(
            [self.path, "s_server", "-accept", "127.0.0.1:%d" % port,
             "-Verify", "4", *self.credentials(folder, svid), *options],
            stdin=subprocess.PIPE)
        program.wait_line("ACCEPT")
        return program, port

    @staticmethod
    def alert(program, number):
        line = program.wait_line("SSL alert number ")
        assert line.endswith("SSL alert number %d" % number), line


class GnuTLS:
    name = "gnutls"

    def __init__(self):
        self.cli, self.serv = real.tool("gnutls-cli"), real.tool("gnutls-serv")

    @staticmethod
    def credentials(folder, svid):
        if svid is None:
            return []
        _, _, both, key = files(folder, svid)
        return ["--x509certfile", both, "--x509keyfile", key]

    def client(self, folder, port, svid, *options):
        return Program([self.cli, "--insecure", "-p", str(port), "127.0.0.1",
                        *self.credentials(folder, svid), *options],
                       stdin=subprocess.PIPE)

    def server(self, folder, svid, *options):
        port = free_port()
        program = Program([self.serv, "--echo", "-p", str(port),
                           "--require-client-cert",
                           *self.credentials(folder, svid), *options],
                          stdin=subprocess.PIPE)
        program.wait_line("Echo Server listening")
        wait_for(lambda: "IPv4" in program.text and "done" in program.text,
                 "gnutls-serv listens")
        return program, port

    @staticmethod
    def alert(program, number):
        line = program.wait_line("alert [")
        assert "alert [%d]" % number in line, line


@pytest.fixture(params=[OpenSSL, GnuTLS], ids=["openssl", "gnutls"])
def stack(request):
    return request.param()


@pytest.fixture
def openssl():
    return OpenSSL()


def exchange(client):
    """A line there and back."""
    client.write(b"over and back\n")
    client.wait_line("over and back")


# ---- Certificates that are accepted


GOOD = {
    "p256": lambda ca, i: ca.svid(i),
    "p384": lambda ca, i: ca.svid(i, key_kind="p384"),
    "rsa2048": lambda ca, i: ca.svid(i, key_kind="rsa2048"),
    "ed25519": lambda ca, i: ca.svid(i, key_kind="ed25519"),
    "intermediate": lambda ca, i: CA(parent=ca).svid(i),
    "two-intermediates": lambda ca, i: CA(parent=CA(parent=ca)).svid(i),
    "rsa-intermediate": lambda ca, i: CA(
        parent=ca, key_kind="rsa2048").svid(i),
}


@pytest.mark.parametrize("kind", GOOD)
def test_clients_with_each_kind_of_certificate(
        stack, ca, agent, echo, folder, kind):
    with Inbound(ca, agent, echo.listener.addr) as a:
        with stack.client(folder, a.mesh, GOOD[kind](ca, WEB)) as client:
            exchange(client)
        line = a.postern.wait_line("event=close", "service=a")
        assert "tls_version=TLSv1.3" in line and "src_id=" + WEB in line


@pytest.mark.parametrize("kind", GOOD)
def test_servers_with_each_kind_of_certificate(stack, ca, agent, folder, kind):
    server, port = stack.server(folder, GOOD[kind](ca, SRV))
    with server, Outbound(ca, agent, "127.0.0.1:%d" % port) as b:
        app = b.connect()
        app.sendall(b"over and back\n")
        if stack.name == "gnutls":
            assert app.recv(100).startswith(b"over")
        else:
            server.wait_line("over and back")
            server.write(b"answer\n")
            assert app.recv(100) == b"answer\n"
        app.close()


def test_federated_client_and_server(stack, ca, partner, federated, agent,
                                     echo, folder):
    with Inbound(ca, agent, echo.listener.addr, federated=federated,
                 rules="allow = partner.org/web") as a:
        with stack.client(folder, a.mesh,
                          partner.svid("spiffe://partner.org/web")) as client:
            exchange(client)


# ---- Certificates that are refused

HANDSHAKE_FAILURE, BAD_CERTIFICATE, UNSUPPORTED_CERTIFICATE = 40, 42, 43
EXPIRED, UNKNOWN_CA, PROTOCOL_VERSION, CERTIFICATE_REQUIRED = 45, 48, 70, 116


def whole_ca(ca, _partner, _id):
    return Svid(ca.cert, [], ca.key, "spiffe://example.org")


def leaf_alone(ca, _partner, spiffe_id):
    svid = CA(parent=ca).svid(spiffe_id)
    svid.chain = []
    return svid


def issued_by_leaf(ca, _partner, spiffe_id):
    middle = CA(parent=ca)
    leaf = ca.svid(spiffe_id, key=middle.key)
    child = middle.svid(spiffe_id)
    child.chain = [leaf.leaf]
    return child


# name: what makes it (CA, partner's CA, ID), alert, reason
BAD = {
    "stranger": (
        lambda ca, p, i: CA("evil.org").svid("spiffe://evil.org/web"),
        UNKNOWN_CA, "unknown_trust_domain"),
    "our-name-by-another-root": (
        lambda ca, p, i: CA().svid(i), UNKNOWN_CA, "bad_chain"),
    "our-name-by-the-partner": (
        lambda ca, p, i: p.svid(i), UNKNOWN_CA, "bad_chain"),
    "partners-name-by-us": (
        lambda ca, p, i: ca.svid("spiffe://partner.org/web"),
        UNKNOWN_CA, "bad_chain"),
    "expired": (
        lambda ca, p, i: ca.svid(i, before=-7200, life=-3600),
        EXPIRED, "expired"),
    "not-yet-valid": (
        lambda ca, p, i: ca.svid(i, before=3600, life=7200),
        BAD_CERTIFICATE, "expired"),
    "two-uris": (
        lambda ca, p, i: ca.svid(i, uris=[i, "spiffe://example.org/admin"]),
        BAD_CERTIFICATE, "bad_id"),
    "no-uri": (
        lambda ca, p, i: ca.svid(i, uris=[]), BAD_CERTIFICATE, "bad_id"),
    "another-scheme": (
        lambda ca, p, i: ca.svid(i, uris=["https://example.org/web"]),
        BAD_CERTIFICATE, "bad_id"),
    "no-path": (
        lambda ca, p, i: ca.svid(i, uris=["spiffe://example.org"]),
        BAD_CERTIFICATE, "bad_id"),
    "authority-as-leaf": (
        lambda ca, p, i: ca.svid(i, ca=True), BAD_CERTIFICATE, "bad_id"),
    "the-root-itself": (whole_ca, BAD_CERTIFICATE, "bad_id"),
    "may-sign-certificates": (
        lambda ca, p, i: ca.svid(i, usage={
            "digital_signature": True, "key_cert_sign": True}),
        BAD_CERTIFICATE, "bad_id"),
    "other-purpose": (
        lambda ca, p, i: ca.svid(i, eku=[ExtendedKeyUsageOID.CODE_SIGNING]),
        UNSUPPORTED_CERTIFICATE, "bad_id"),
    "intermediate-missing": (leaf_alone, UNKNOWN_CA, "bad_chain"),
    "signed-by-a-leaf": (issued_by_leaf, UNKNOWN_CA, "bad_chain"),
    "no-rule": (
        lambda ca, p, i: ca.svid("spiffe://example.org/other"),
        HANDSHAKE_FAILURE, "no_rule"),
}


def assert_reset(b, data=b""):
    """The reset may come as early as within connect()."""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        app = b.connect()
        app.sendall(data)
        app.recv(1)


def assert_denied(service, reason, direction):
    line = service.postern.wait_line("event=deny")
    assert "reason=%s " % reason in line and "close=denied" in line, line
    assert service.postern.metric(
        "postern_denied_total", reason=reason, direction=direction) == 1
    assert service.postern.metric(
        "postern_connections_total", result="denied", direction=direction) == 1
    return line


@pytest.mark.parametrize("kind", BAD)
def test_clients_that_are_refused(
        stack, ca, partner, federated, agent, folder, kind):
    make, alert, reason = BAD[kind]
    app = Listener()
    with Inbound(ca, agent, app.addr, federated=federated) as a:
        with stack.client(folder, a.mesh, make(ca, partner, WEB)) as client:
            stack.alert(client, alert)
        assert_denied(a, reason, "inbound")
        assert app.nobody_came()


def test_row_063_client_without_a_certificate(
        stack, ca, agent, folder):
    app = Listener()
    with Inbound(ca, agent, app.addr) as a:
        with stack.client(folder, a.mesh, None) as client:
            stack.alert(client, CERTIFICATE_REQUIRED)
        assert_denied(a, "no_client_cert", "inbound")
        assert app.nobody_came()


def test_client_that_a_deny_rule_names(stack, ca, agent, folder):
    app = Listener()
    with Inbound(ca, agent, app.addr, rules="allow = example.org/**\n"
                 "deny = example.org/web") as a:
        with stack.client(folder, a.mesh, ca.svid(WEB)) as client:
            stack.alert(client, HANDSHAKE_FAILURE)
        assert_denied(a, "deny_rule", "inbound")
        assert app.nobody_came()


@pytest.mark.parametrize("kind", BAD)
def test_servers_that_are_refused(
        openssl, ca, partner, federated, agent, folder, kind):
    """The application is reset, and what it had said stays here."""
    make, alert, reason = BAD[kind]
    # s_server -quiet would not print alerts.
    server, port = openssl.server(folder, make(ca, partner, SRV))
    with server, Outbound(ca, agent, "127.0.0.1:%d" % port,
                          federated=federated) as b:
        assert_reset(b, b"a secret of the application\n")
        openssl.alert(server, alert)
        assert_denied(b, reason, "outbound")
        assert "secret" not in server.text


# ---- Versions


def test_tls12_is_refused_unless_allowed(stack, ca, agent, folder):
    options = (["-tls1_2"] if stack.name == "openssl"
               else ["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"])
    app = Listener()
    with Inbound(ca, agent, app.addr) as a:
        with stack.client(folder, a.mesh, ca.svid(WEB), *options) as client:
            stack.alert(client, PROTOCOL_VERSION)
        line = a.postern.wait_line("event=close", "service=a")
        assert "close=handshake-failed" in line
        assert a.postern.metric("postern_handshake_failures_total") == 1
        assert app.nobody_came()


def test_tls12_is_spoken_where_tls_min_allows_it(
        stack, ca, partner, federated, agent, echo, folder):
    options = (["-tls1_2"] if stack.name == "openssl"
               else ["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"])
    with Inbound(ca, agent, echo.listener.addr, extra="tls_min = 1.2",
                 federated=federated) as a:
        with stack.client(folder, a.mesh, ca.svid(WEB), *options) as client:
            exchange(client)
        line = a.postern.wait_line("event=close", "service=a")
        assert "tls_version=TLSv1.2" in line
        # The rules are the same there.
        before = echo.accepted
        with stack.client(folder, a.mesh, partner.svid(WEB),
                          *options) as client:
            stack.alert(client, UNKNOWN_CA)
        assert "reason=bad_chain" in a.postern.wait_line("event=deny")
        assert echo.accepted == before


def test_tls11_is_never_spoken(ca, agent, folder):
    gnutls = GnuTLS()
    app = Listener()
    with Inbound(ca, agent, app.addr, extra="tls_min = 1.2") as a:
        with gnutls.client(folder, a.mesh, ca.svid(WEB), "--priority",
                           "LEGACY:-VERS-ALL:+VERS-TLS1.1:%COMPAT") as client:
            gnutls.alert(client, PROTOCOL_VERSION)
        assert app.nobody_came()


def test_server_that_speaks_tls12_alone(openssl, ca, agent, folder):
    server, port = openssl.server(folder, ca.svid(SRV), "-tls1_2")
    target = "127.0.0.1:%d" % port
    with server:
        with Outbound(ca, agent, target) as b:
            assert_reset(b)
            line = b.postern.wait_line("event=close", "service=b")
            assert "close=handshake-failed" in line
        with Outbound(ca, agent, target, extra="tls_min = 1.2") as b:
            app = b.connect()
            app.sendall(b"over and back\n")
            server.wait_line("over and back")
            app.close()


# ---- Row 65: nothing is resumed


def test_row_065_no_ticket_is_on_the_wire(openssl, ca, agent, echo, folder):
    saved = os.path.join(folder, "session")
    with Inbound(ca, agent, echo.listener.addr) as a:
        with openssl.client(folder, a.mesh, ca.svid(WEB), "-msg",
                            "-sess_out", saved) as client:
            exchange(client)
            assert "Handshake" in client.text and "Finished" in client.text
            assert "NewSessionTicket" not in client.text
        assert not os.path.exists(saved)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_row_065_saved_session_leads_to_a_whole_handshake(
        openssl, ca, agent, echo, folder, version):
    """The session comes from a server that gives one away, with the same
    certificate; it is offered to Postern then."""
    saved = os.path.join(folder, "session")
    with Inbound(ca, agent, echo.listener.addr, extra="tls_min = 1.2") as a:
        giver, port = openssl.server(folder, a.svid, "-www")
        with giver, openssl.client(folder, port, ca.svid(WEB), version,
                                   "-sess_out", saved) as client:
            client.write(b"GET / HTTP/1.0\r\n\r\n")
            client.wait_line("Session-ID")
            wait_for(lambda: os.path.exists(saved), "a session is saved")
            client.wait()
        for _ in range(2):
            with openssl.client(folder, a.mesh, ca.svid(WEB), version, "-msg",
                                "-sess_in", saved, "-sess_out",
                                saved) as client:
                exchange(client)
                assert "New, TLSv1." in client.text
                assert "Reused" not in client.text
                assert "NewSessionTicket" not in client.text
        assert a.postern.count_lines("resumed=true") == 0


def test_row_065_gnutls_cannot_resume(ca, agent, echo, folder):
    gnutls = GnuTLS()
    with Inbound(ca, agent, echo.listener.addr) as a:
        with gnutls.client(folder, a.mesh, ca.svid(WEB),
                           "--resume") as client:
            exchange(client)
        assert echo.accepted == 2
        assert "resumed session" not in client.text


def test_row_065_tickets_of_a_server_are_never_used(
        openssl, ca, agent, folder):
    server, port = openssl.server(folder, ca.svid(SRV), "-num_tickets", "4",
                                  "-tlsextdebug", "-msg")
    with server, Outbound(ca, agent, "127.0.0.1:%d" % port) as b:
        for n in range(3):
            app = b.connect()
            app.sendall(b"message %d\n" % n)
            server.wait_line("message %d" % n)
            server.write(b"answer\n")
            assert app.recv(100) == b"answer\n"
            app.close()
            wait_for(lambda n=n: b.postern.count_lines("event=close") == n + 1,
                     "connection %d is over" % n)
        assert "NewSessionTicket" in server.text
        assert '"pre-shared key"' not in server.text
        assert '"session ticket"' not in server.text
        assert "psk kex modes" in server.text  # that is how they are printed
        assert "Reused session-id" not in server.text


# ---- Bytes that are no handshake, and none at all


def hello(spare=0):
    """A ClientHello of OpenSSL, without its last SPARE bytes."""
    ctx = tls.context(False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = ctx.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        peer.do_handshake()
    data = outgoing.read()
    return data[:len(data) - spare]


def read_to_end(sock):
    out = b""
    try:
        while True:
            data = sock.recv(65536)
            if not data:
                return out
            out += data
    except ConnectionResetError:
        return out


@pytest.mark.parametrize("what", [
    b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"\x00" * 64, b"\xff" * 4096, b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\xff\xff" + b"\x01" * 70000,
    b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"],
    ids=["http", "zeros", "ones", "ssh", "record-too-long", "no-hello"])
def test_garbage_is_refused_and_counted(ca, agent, what):
    app = Listener()
    with Inbound(ca, agent, app.addr) as a:
        with socket.create_connection(("127.0.0.1", a.mesh)) as sock:
            sock.settimeout(tls.DEADLINE)
            try:
                sock.sendall(what)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = read_to_end(sock)
        assert len(answer) <= 7  # an alert or nothing
        line = a.postern.wait_line("event=close", "service=a")
        assert "close=handshake-failed" in line and "reason=" in line
        assert a.postern.metric("postern_handshake_failures_total") == 1
        assert app.nobody_came()


@pytest.mark.parametrize("what", ["nothing", "one byte", "half", "whole"])
def test_handshake_that_stops_is_ended_by_its_timeout(ca, agent, what):
    said = {"nothing": b"", "one byte": b"\x16", "half": hello(100),
            "whole": hello()}[what]
    app = Listener()
    with Inbound(ca, agent, app.addr, extra="handshake_timeout = 1s") as a:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", a.mesh)) as sock:
            sock.settimeout(tls.DEADLINE)
            sock.sendall(said)
            read_to_end(sock)
        assert time.monotonic() - start > 0.9
        line = a.postern.wait_line("event=close", "service=a")
        assert "close=handshake-timeout" in line
        assert app.nobody_came()


def test_bytes_that_drip_do_not_extend_the_timeout(ca, agent):
    app = Listener()
    with Inbound(ca, agent, app.addr, extra="handshake_timeout = 1s") as a:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", a.mesh)) as sock:
            for byte in hello():
                try:
                    sock.sendall(bytes([byte]))
                except (BrokenPipeError, ConnectionResetError):
                    break
                # A pause between bytes, cut short by the end.
                if select.select([sock], [], [], 0.05)[0]:
                    break
        assert 0.9 < time.monotonic() - start < 10
        assert "close=handshake-timeout" in a.postern.wait_line(
            "event=close", "service=a")
        assert app.nobody_came()


def test_server_that_never_answers_is_ended_by_the_timeout(ca, agent):
    server = Listener()
    with Outbound(ca, agent, server.addr, extra="handshake_timeout = 1s") as b:
        app = b.connect()
        silent = server.accept()
        with pytest.raises(ConnectionResetError):
            app.recv(1)
        assert "close=handshake-timeout" in b.postern.wait_line(
            "event=close", "service=b")
        silent.close()


def test_health_check_that_only_connects_is_a_probe(ca, agent):
    app = Listener()
    with Inbound(ca, agent, app.addr) as a:
        for _ in range(3):
            socket.create_connection(("127.0.0.1", a.mesh)).close()
        wait_for(lambda: a.postern.metric("postern_probes_total") == 3,
                 "three probes")
        assert a.postern.metric("postern_connections_total",
                                result="failed") == 0
        assert app.nobody_came()
