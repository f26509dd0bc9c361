"""The verb reload: what it says, and what it leaves alone."""

import os

import pytest

from lib import real, tls
from lib.estate import Echo, Inbound, Listener
from lib.proxy import free_port, wait_for

pytestmark = pytest.mark.sanitize

SECOND = """
[inbound z]
listen = 127.0.0.1:%d
forward = %s
allow = example.org/web
"""


def test_reload_names_each_service_and_what_became_of_it(ca, agent):
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr) as a:
        peer = a.connect()
        code, text = a.postern.ask("reload")
        assert code == 0 and "kept [inbound a]" in text
        a.postern.write(a.config.replace(
            "allow = ", "deny = example.org/other\nallow = "))
        code, text = a.postern.ask("reload")
        assert code == 0 and "changed [inbound a]" in text
        a.postern.write(a.config + SECOND % (free_port(), echo.listener.addr))
        code, text = a.postern.ask("reload")
        assert code == 0 and "added [inbound z]" in text
        a.postern.write(a.config)
        code, text = a.postern.ask("reload")
        assert code == 0 and "removed [inbound z]" in text
        peer.send(b"still here")
        assert peer.recv_exactly(10) == b"still here"
        peer.close_notify()
        assert peer.recv() == b""


def test_reload_of_a_wrong_file_keeps_the_configuration(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        a.postern.write(a.config + "colour = blue\n")
        code, text = a.postern.ask("reload")
        assert code == 3
        assert "colour" in text and a.postern.config_path in text
        a.postern.wait_line("event=config-refused")
        assert a.postern.metric("postern_config_last_reload_successful") == 0
        peer = a.connect()
        peer.send(b"x")
        assert service.accept().recv(1) == b"x"
        peer.rst()
        os.unlink(a.postern.config_path)
        assert a.postern.ask("reload")[0] == 3
        assert a.postern.ask("status")[0] == 0


def test_removed_service_lives_until_its_last_connection_ends(ca, agent):
    """Its part of the old configuration is freed then, and not before."""
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr) as a:
        for _ in range(3):
            port = free_port()
            a.postern.write(a.config + SECOND % (port, echo.listener.addr))
            assert a.postern.ask("reload")[0] == 0
            peers = [tls.connect(("127.0.0.1", port), a.client_context())
                     for _ in range(8)]
            a.postern.write(a.config)
            code, text = a.postern.ask("reload")
            assert code == 0 and "removed [inbound z]" in text
            wait_for(lambda p=port: not real.is_open(p), "z listens no more")
            before = a.postern.count_lines("event=close", "service=z")
            for peer in peers:
                peer.send(b"still here")
                assert peer.recv_exactly(10) == b"still here"
                peer.close_notify()
                assert peer.recv() == b""
            wait_for(lambda n=before: a.postern.count_lines(
                "event=close", "service=z") >= n + 8, "all have ended")
        # The next second frees what is left over.
        last = a.connect()
        last.send(b"x")
        assert last.recv_exactly(1) == b"x"
        last.rst()
