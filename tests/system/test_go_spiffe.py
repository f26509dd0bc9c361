"""go-spiffe as mesh server and as mesh client, each with an SVID that its own
Workload API client took from postern-dev-issuer.
"""

import os
import socket
import subprocess

import pytest

from lib import real, tls
from lib.estate import Echo, Listener
from lib.proxy import Postern, free_port, wait_for
from lib.real import Issuer, PAIR_IN, PAIR_OUT, Program, shorter

pytestmark = pytest.mark.sanitize

DATA = os.urandom(1 << 20)


@pytest.fixture
def peer():
    return real.go_peer()


@pytest.fixture
def issuer(folder):
    with Issuer(folder, ["srv", "web", "other"], "--ttl", "120") as i:
        yield i


def go_server(peer, issuer, name="srv", wants="web"):
    program = Program([peer, "serve", "unix://" + issuer.socket(name),
                       "127.0.0.1:0", "spiffe://demo.test/" + wants])
    address = program.wait_line("listening ").split()[-1]
    return program, address


def go_call(peer, issuer, port, name="web", wants="srv", data=DATA):
    return subprocess.run(
        [peer, "call", "unix://" + issuer.socket(name), "127.0.0.1:%d" % port,
         "spiffe://demo.test/" + wants],
        input=data, capture_output=True, timeout=60, check=False)


class Out:
    """Postern towards ADDRESS; exchange() is what an application does."""

    def __init__(self, issuer, address, name="web"):
        self.plain = free_port()
        self.postern = Postern(PAIR_OUT.format(
            agent=issuer.socket(name), plain=self.plain,
            connect="connect = " + address, extra=""))
        self.postern.wait_identity()

    def exchange(self, data):
        app = socket.create_connection(("127.0.0.1", self.plain), tls.DEADLINE)
        with app:
            app.settimeout(tls.DEADLINE)
            app.sendall(data)
            try:
                app.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # reset already: recv() tells
            out = bytearray()
            while True:
                got = app.recv(65536)
                if not got:
                    return bytes(out)
                out += got

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.postern.__exit__(kind, *rest)


def inbound(issuer, forward):
    mesh = free_port()
    postern = Postern(PAIR_IN.format(agent=issuer.socket("srv"), mesh=mesh,
                                     forward=forward, extra=""))
    postern.wait_identity()
    return postern, mesh


# ---- go-spiffe serves


def test_go_server_is_reached_and_never_resumed(peer, issuer):
    """Its stock configuration hands out tickets, and does not look at the
    bundles again when one is used."""
    server, address = go_server(peer, issuer)
    with server, Out(issuer, address) as out:
        for _ in range(3):
            data = os.urandom(200000)
            assert out.exchange(data) == data
        server.wait_line("ended after 200000: <nil>")
        wait_for(lambda: server.text.count("ended after 200000: <nil>") == 3,
                 "three clean ends")
        assert server.text.count(
            "accepted spiffe://demo.test/web resumed=false") == 3
        assert "resumed=true" not in server.text


def test_go_server_with_another_identity_gets_no_byte(peer, issuer):
    server, address = go_server(peer, issuer, name="other")
    with server, Out(issuer, address) as out:
        with pytest.raises(ConnectionResetError):
            out.exchange(b"secret")
        line = out.postern.wait_line("event=deny", "reason=no_rule")
        assert "dst_id=spiffe://demo.test/other" in line
        # No check of the alert: libssl's client sends it in plain, since it
        # changes its keys only with its next flight, and Go wants it sealed.
        server.wait_line("refused: ")
        assert "accepted" not in server.text


def test_go_server_that_refuses_us_is_seen_as_a_reset(peer, issuer):
    """In TLS 1.3 the refusal comes after our handshake has ended."""
    server, address = go_server(peer, issuer, wants="other")
    with server, Out(issuer, address) as out:
        with pytest.raises(ConnectionResetError):
            out.exchange(b"hello")
        server.wait_line("refused: ", "unexpected ID")
        line = out.postern.wait_line("event=close", "service=b")
        assert "close=mesh-alert" in line and "reason=bad_certificate" in line
        assert out.postern.metric("postern_peer_closed_before_data_total") == 1


# ---- go-spiffe calls


def test_go_client_is_served(peer, issuer):
    echo = Echo()
    postern, mesh = inbound(issuer, echo.listener.addr)
    with postern:
        done = go_call(peer, issuer, mesh)
        assert done.returncode == 0, done.stderr
        assert done.stdout == DATA
        assert b"connected spiffe://demo.test/srv" in done.stderr
        line = postern.wait_line("event=close", "service=a")
        assert "close=mesh-fin" in line and "bytes_in=1048576" in line


def test_go_client_without_a_rule_is_told_and_never_dialled(peer, issuer):
    service = Listener()
    postern, mesh = inbound(issuer, service.addr)
    with postern:
        done = go_call(peer, issuer, mesh, name="other")
        assert done.returncode == 1 and done.stdout == b""
        assert b"remote error: tls: handshake failure" in done.stderr
        postern.wait_line("event=deny", "reason=no_rule",
                          "src_id=spiffe://demo.test/other")
        assert service.nobody_came()


def test_go_client_that_expects_another_server_leaves(peer, issuer):
    service = Listener()
    postern, mesh = inbound(issuer, service.addr)
    with postern:
        done = go_call(peer, issuer, mesh, wants="other")
        assert done.returncode == 1 and b"unexpected ID" in done.stderr
        line = postern.wait_line("event=close", "service=a")
        assert "close=handshake-failed" in line or "close=mesh-alert" in line
        assert "reason=bad_certificate" in line
        assert service.nobody_came()


@pytest.mark.parametrize("options", [
    ["--key-type", "rsa2048"], ["--key-type", "p384"],
    ["--key-type", "ed25519"], ["--intermediate"]],
    ids=["rsa2048", "p384", "ed25519", "intermediate"])
def test_go_peers_with_each_kind_of_svid(peer, folder, options):
    echo = Echo()
    with Issuer(folder, ["srv", "web"], *options) as issuer:
        server, address = go_server(peer, issuer)
        postern, mesh = inbound(issuer, echo.listener.addr)
        with server, postern, Out(issuer, address) as out:
            assert out.exchange(DATA) == DATA
            done = go_call(peer, issuer, mesh)
            assert done.returncode == 0 and done.stdout == DATA, done.stderr


def test_go_peers_while_all_svids_rotate(peer, folder):
    echo = Echo()
    with Issuer(folder, ["srv", "web"], "--rotate-every", "1") as issuer:
        server, address = go_server(peer, issuer)
        postern, mesh = inbound(issuer, echo.listener.addr)
        with server, postern, Out(issuer, address) as out:
            until, calls = shorter(3, 60), 0
            while out.postern.metric("postern_svid_rotations_total") < until:
                assert out.exchange(DATA) == DATA
                done = go_call(peer, issuer, mesh)
                assert done.returncode == 0 and done.stdout == DATA
                calls += 1
            assert server.text.count("accepted ") == calls


# ---- postern-dev-issuer, judged by go-spiffe


def test_dev_issuer_streams_updates_to_go(peer, issuer):
    with Program([peer, "watch", "unix://" + issuer.socket("web"),
                  "3"]) as watch:
        watch.wait_line("bundles [demo.test]")
        issuer.tell("federate partner.test", "web")
        watch.wait_line("bundles [demo.test partner.test]")
        issuer.tell("hint internal", "web")
        assert watch.wait() == 0, watch.text
        svids = [line.split() for line in watch.text.splitlines()
                 if line.startswith("svid spiffe://demo.test/web ")]
        assert len(svids) == 3
        assert svids[2][3] == "hint=internal"


def test_dev_issuer_refuses_go_with_the_status_of_the_standard(peer, issuer):
    issuer.tell("deny", "web")
    with Program([peer, "watch", "unix://" + issuer.socket("web"),
                  "1"]) as watch:
        watch.wait_line("error: ", "code = PermissionDenied")
        issuer.tell("serve", "web")
        assert watch.wait() == 0, watch.text
        assert "svid spiffe://demo.test/web" in watch.text


def test_dev_issuer_gives_go_bundles_alone(peer, issuer):
    done = subprocess.run(
        [peer, "bundles", "unix://" + issuer.socket("web")],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "bundle demo.test 1" in done.stderr
