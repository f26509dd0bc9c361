"""The verb reload: what it says, and what it leaves alone."""

import os

import pytest

from lib.estate import Echo, Inbound, Listener
from lib.proxy import free_port

pytestmark = pytest.mark.sanitize


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
        second = "\n[inbound z]\nlisten = 127.0.0.1:%d\nforward = %s\n" \
            "allow = example.org/web\n" % (free_port(), echo.listener.addr)
        a.postern.write(a.config + second)
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
