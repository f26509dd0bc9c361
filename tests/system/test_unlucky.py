"""What an unlucky host or a hostile client does to the process as a whole."""

import os
import signal
import socket
import time

import pytest

from lib.estate import Echo, Inbound
from lib.proxy import wait_for

pytestmark = pytest.mark.sanitize


def boot_s():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pin(pid):
    """All threads on one processor: the worst order of their turns."""
    cpu = min(os.sched_getaffinity(0))
    for task in os.listdir("/proc/%d/task" % pid):
        os.sched_setaffinity(int(task), {cpu})


def test_unlucky_process_that_was_stopped_serves_again(ca, agent):
    """A frozen container or a suspended host, longer than the watchdog of
    the workers is patient, is nobody's fault."""
    with Inbound(ca, agent, Echo().listener.addr) as a:
        peer = a.connect()
        peer.send(b"before")
        assert peer.recv_exactly(6) == b"before"
        pin(a.postern.process.pid)
        lag = "postern_worker_loop_lag_seconds_count"
        os.kill(a.postern.process.pid, signal.SIGSTOP)
        until = boot_s() + 6.5
        wait_for(lambda: boot_s() > until, "the process stood still")
        os.kill(a.postern.process.pid, signal.SIGCONT)
        answered = a.postern.metric(lag)
        # Two more rounds of pings: the watchdog has looked in between.
        wait_for(lambda: a.postern.metric(lag) >= answered + 4,
                 "the workers are asked again")
        peer.send(b"after")
        assert peer.recv_exactly(5) == b"after"
        peer.close()


def test_unlucky_connections_closed_unproven_leave_room(ca, agent):
    """Who is closed by the operator before it has shown an identity gives
    its place back: else nobody could call any more."""
    with Inbound(ca, agent, Echo().listener.addr,
                 extra_global="max_connections = 8") as a:
        for _ in range(2):
            silent = [socket.create_connection(("127.0.0.1", a.mesh))
                      for _ in range(3)]
            wait_for(lambda: a.postern.ask("connections")[1].count(
                "HANDSHAKE") == 3, "three handshakes wait")
            assert a.postern.ask("close", "--service=a")[0] == 0
            wait_for(lambda: "HANDSHAKE" not in a.postern.ask(
                "connections")[1], "they are gone")
            for sock in silent:
                sock.close()
        peer = a.connect()
        peer.send(b"room")
        assert peer.recv_exactly(4) == b"room"
        peer.close()
