"""Reload, limits, deadlines and what stands around the data path."""

import os
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lib import ca as ca_lib
from lib import tls
from lib.estate import Echo, Inbound, Listener, Outbound
from lib.flow import End, drive
from lib.proxy import BINARY, Postern, free_port, wait_for
from lib.shortened import shortened


def flow_pair(estate, listener, ctx=None, flow=0):
    """(caller, target) through an inbound estate."""
    caller = End(socket.create_connection(("127.0.0.1", estate.mesh)),
                 ("c", flow), ("s", flow), ctx=ctx or estate.client_context())
    assert drive([caller], lambda: caller.is_shaken or caller.end)
    return caller, End(listener.accept(), ("s", flow), ("c", flow))


def exchange(ends, n=1000):
    for e in ends:
        e.to_send += n
    want = ends[0].to_send
    return drive(ends, lambda: all(e.received >= want for e in ends) or
                 any(e.end for e in ends)) and not any(e.end for e in ends)


# ---- Reload

BAD = {
    "syntax": ("", "nonsense\n", 3),
    "unknown key": ("", "colour = blue\n", 3),
    "no allow": ("allow = example.org/web", "", 3),
    "too many": ("[global]", "[global]\nmax_connections = 16000000", None),
    "cipher": ("[global]", "[global]\ntls_profile = list\n"
               "ciphersuites = TLS_NO_SUCH", None),
}


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_configuration_changes_nothing(ca, agent, kind):
    old, new, want = BAD[kind]
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        ends = flow_pair(a, service)
        generation = a.postern.metric("postern_config_generation")
        config = a.config.replace(old, new) if old else a.config + new
        a.postern.write(config)
        code, text = a.postern.ask("reload")
        assert code != 0 and code == (want or code)
        assert "running configuration unchanged" in text
        assert a.postern.metric("postern_config_generation") == generation
        assert exchange(ends)
        more = flow_pair(a, service)
        assert exchange(more)
        for e in (*ends, *more):
            e.close()


@pytest.mark.sanitize
def test_listeners_are_added_kept_and_removed(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        kept = flow_pair(a, service)
        port = free_port()
        second = a.config + (
            "\n[inbound z]\nlisten = 127.0.0.1:%d\nforward = %s\n"
            "allow = example.org/web\n" % (port, service.addr))
        a.postern.write(second)
        assert a.postern.ask("reload")[0] == 0
        first, a.mesh = a.mesh, port
        added = flow_pair(a, service)
        assert exchange(added) and exchange(kept)
        a.postern.write(a.config)
        assert a.postern.ask("reload")[0] == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port)).recv(1)
            raise AssertionError("the listener is still there")
        # What it had accepted drains.
        assert exchange(added)
        a.mesh = first
        assert exchange(kept)
        for e in (*kept, *added):
            e.close()


@pytest.mark.parametrize("which", ["service", "metrics"])
def test_port_in_use_voids_the_whole_reload(ca, agent, which):
    service, taken = Listener(), socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen(1)
    port = taken.getsockname()[1]
    with Inbound(ca, agent, service.addr) as a:
        # A new rule comes with it, and must not come into force.
        config = a.config.replace("example.org/web", "example.org/new")
        if which == "service":
            config += ("\n[inbound z]\nlisten = 127.0.0.1:%d\nforward = %s\n"
                       "allow = example.org/web\n" % (port, service.addr))
        else:
            config = config.replace(
                "[global]", "[global]\nmetrics = 127.0.0.1:%d" % port)
        a.postern.write(config)
        code, text = a.postern.ask("reload")
        assert code == 1 and "Address already in use" in text
        assert a.postern.metric("postern_config_last_reload_successful") == 0
        ends = flow_pair(a, service)
        assert exchange(ends)
        for e in ends:
            e.close()
    taken.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("threads", [1, 2])
def test_removed_rule_ends_its_connections_and_no_other(ca, agent, threads):
    service = Listener()
    with Inbound(ca, agent, service.addr, threads=threads,
                 rules="allow = example.org/web\n"
                       "allow = example.org/leaver") as a:
        leaver = a.client_context("spiffe://example.org/leaver")
        stay = [flow_pair(a, service, flow=i) for i in range(4)]
        go = [flow_pair(a, service, leaver, flow=i) for i in range(4, 8)]
        for pair in stay + go:
            assert exchange(pair)
        a.postern.write(a.config.replace("allow = example.org/leaver", ""))
        began = time.monotonic()
        assert a.postern.ask("reload")[0] == 0
        flat = [e for pair in go for e in pair]
        assert drive(flat, lambda: all(e.end for e in flat))
        took = time.monotonic() - began
        assert took < 2, took           # 1 s, and a busy machine
        assert {e.end for e in flat} == {"rst"}
        for pair in stay:
            assert exchange(pair)
        wait_for(lambda: a.postern.count_lines("close=policy") == 4,
                 "a line for each")
        assert a.postern.metric("postern_reauthorized_total") == 4
        for pair in stay + go:
            for e in pair:
                e.close()


def test_audit_mode_lets_pass_and_says_so(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr, extra="mode = audit") as a:
        other = a.client_context("spiffe://example.org/other")
        ends = flow_pair(a, service, other)
        assert exchange(ends)
        assert a.postern.metric("postern_audit_mode", service="a") == 1
        # Enforced from now on: it is ended, and named.
        a.postern.write(a.config.replace("mode = audit", "mode = enforce"))
        assert a.postern.ask("reload")[0] == 0
        assert drive(ends, lambda: all(e.end for e in ends))
        assert {e.end for e in ends} == {"rst"}
        assert a.postern.metric("postern_audit_would_deny_total") == 1
        # A chain is verified all the same.
        a.postern.write(a.config)
        assert a.postern.ask("reload")[0] == 0
        foreign = ca_lib.CA().svid(
            "spiffe://example.org/web")
        with pytest.raises(ssl.SSLError):
            a.connect(a.client_context(svid=foreign)).recv()
        for e in ends:
            e.close()


# ---- Local callers

@pytest.fixture(scope="module")
def users():
    """postern-t1 in the group of postern-t2; made and removed here."""
    if os.geteuid() != 0:
        pytest.skip("postern-t1 and postern-t2 can be made by root only")
    made = []
    for name in ("postern-t1", "postern-t2"):
        if subprocess.run(["id", name], capture_output=True,
                          check=False).returncode:
            done = subprocess.run(["useradd", "-M", "-s", "/bin/false", name],
                                  capture_output=True, check=False)
            if done.returncode:
                pytest.skip("no user %s: %s" % (name, done.stderr))
            made.append(name)
    subprocess.run(["usermod", "-aG", "postern-t2", "postern-t1"], check=True)
    yield "postern-t1", "postern-t2"
    for name in made:
        subprocess.run(["userdel", name], capture_output=True, check=False)


CALL = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
try:
    s.sendall(b"x")
    print("got %d" % len(s.recv(1)))
except OSError:
    print("refused")
"""


def call_as(user, port):
    """What a program of USER sees, with all groups of that user."""
    return subprocess.Popen(
        ["setpriv", "--reuid", user, "--regid", user, "--init-groups",
         "/usr/bin/python3", "-c", CALL, str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("rule,allowed", [
    ("user postern-t1", ("postern-t1",)),
    ("user postern-t2", ("postern-t2",)),
    ("group postern-t2", ("postern-t1", "postern-t2")),
    ("group postern-t1", ("postern-t1",))])
def test_caller_rules_by_real_users(ca, agent, users, rule, allowed):
    server = Listener()
    with Outbound(ca, agent, server.addr, wait=False) as b:
        b.postern.stop()
        b.postern = Postern(b.config.replace(
            "caller = any", "caller = " + rule)).wait_identity()
        ctx = b.server_context()
        ctx.verify_mode = ssl.CERT_NONE
        for user in users:
            program = call_as(user, b.plain)
            if user in allowed:
                peer = tls.TlsPeer(server.accept(), ctx,
                                   server=True).handshake()
                peer.send(peer.recv_exactly(1))
                assert program.communicate(timeout=20)[0] == "got 1\n"
                peer.close()
            else:
                assert program.communicate(timeout=20)[0] in (
                    "refused\n", "got 0\n") or \
                    "reset" in program.communicate()[0]
                assert server.nobody_came()
                b.postern.wait_line("reason=local_caller", "event=deny")


# ---- Deadlines: each row of src/conn/conn_states.def

def test_silent_client_is_gone_after_the_handshake_timeout(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr,
                 extra="handshake_timeout = 500ms") as a:
        s = socket.create_connection(("127.0.0.1", a.mesh))
        s.settimeout(tls.DEADLINE)
        began = time.monotonic()
        s.sendall(b"\x16\x03\x01")      # bytes do not extend it
        with pytest.raises(ConnectionResetError):
            s.recv(1)
        assert time.monotonic() - began >= 0.4
        a.postern.wait_line("close=handshake-timeout")
        assert a.postern.metric("postern_handshake_failures_total",
                                reason="timeout") == 1


def test_silent_server_is_gone_after_the_handshake_timeout(ca, agent):
    server = Listener()
    with Outbound(ca, agent, server.addr,
                  extra="handshake_timeout = 500ms") as b:
        app = b.connect()
        conn = server.accept()
        with pytest.raises(ConnectionResetError):
            app.recv(1)
        b.postern.wait_line("close=handshake-timeout", "service=b")
        conn.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("key,close", [
    ("idle_timeout", "idle"), ("half_close_timeout", "half-close-idle")])
def test_silence_ends_after_its_timeout_and_data_restart_it(
        ca, agent, key, close):
    service = Listener()
    with Inbound(ca, agent, service.addr, extra=key + " = 1s") as a:
        caller, target = flow_pair(a, service)
        if key == "half_close_timeout":
            caller.finish()
            assert drive([caller, target], lambda: target.end == "clean")
        began = time.monotonic()
        # A byte now and then keeps it for longer than the timeout.
        until = began + 2
        sent = 0
        while time.monotonic() < until:
            target.to_send += 1
            sent += 1
            assert drive([caller, target],
                         lambda n=sent: caller.received == n)
            pause = time.monotonic() + 0.2
            drive([caller, target], lambda p=pause: time.monotonic() > p)
        last = time.monotonic()
        assert drive([caller, target], lambda: caller.end)
        assert caller.end == "rst"
        assert time.monotonic() - last >= 0.5
        a.postern.wait_line("close=" + close)
        caller.close()
        target.close()


# ---- Limits

def test_full_house_waits_in_the_backlog(ca, agent):
    service = Listener()
    with Inbound(ca, agent, service.addr, threads=1,
                 extra_global="max_connections = 4") as a:
        ctx = a.client_context()
        inside = [flow_pair(a, service, ctx, i) for i in range(4)]
        assert a.postern.metric("postern_connections_limit") == 4
        waiting = End(socket.create_connection(("127.0.0.1", a.mesh)),
                      ("c", 9), ("s", 9), ctx=ctx)
        assert not drive([waiting], lambda: waiting.is_shaken or waiting.end,
                         seconds=0.5)
        for e in inside.pop():
            e.rst()
        assert drive([waiting], lambda: waiting.is_shaken)
        target = End(service.accept(), ("s", 9), ("c", 9))
        assert exchange([waiting, target])
        for e in (waiting, target, *[e for p in inside for e in p]):
            e.close()


def test_descriptors_run_out_and_come_back(ca, agent):
    echo = Echo()
    with Inbound(ca, agent, echo.listener.addr, wait=False, threads=1) as a:
        a.postern.stop()
        # 32 in reserve and two for each connection: room for about 30.
        a.postern = Postern(
            a.config, prefix=["prlimit", "--nofile=96:96"]).wait_identity()
        limit = a.postern.metric("postern_connections_limit")
        assert limit == 32
        ctx = a.client_context()
        many = []
        for i in range(60):
            try:
                s = socket.create_connection(("127.0.0.1", a.mesh))
            except ConnectionResetError:
                continue        # refused so fast that connect() tells
            many.append(End(s, 1, 1, ctx=ctx))
        drive(many, lambda: all(e.shaken or e.end for e in many), quiet=0.5)
        assert sum(e.shaken for e in many) >= 4
        assert a.postern.process.poll() is None
        cpu = a.postern.metric("process_cpu_seconds_total")
        time.sleep(0.5)
        spent = a.postern.metric("process_cpu_seconds_total") - cpu
        assert spent < 0.3, "it spins: %g s of CPU" % spent
        for e in many:
            e.close()
        wait_for(lambda: a.postern.metric("postern_connections_active") == 0,
                 "all are gone")
        peer = a.connect(ctx)
        peer.send(b"still serving")
        assert peer.recv_exactly(13) == b"still serving"
        peer.close()


# ---- Log that cannot be written

@pytest.mark.parametrize("how", ["stopped reader", "full disk"])
def test_log_that_stops_does_not_stop_the_data(ca, agent, folder, how):
    echo = Echo()
    if how == "full disk" and os.geteuid() != 0:
        pytest.skip("a tiny tmpfs needs root")
    tiny = os.path.join(folder, "tiny")
    with Inbound(ca, agent, echo.listener.addr, wait=False, threads=1) as a:
        a.postern.stop()
        if how == "full disk":
            os.mkdir(tiny)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k",
                            "none", tiny], check=True)
            sink = open(os.path.join(tiny, "log"), "wb")
            read_end = None
        else:
            read_end, write_end = os.pipe()
            sink = os.fdopen(write_end, "wb")
        try:
            p = Postern.__new__(Postern)
            p.folder, p.config_path = a.postern.folder, a.postern.config_path
            p.control, p.lines = a.postern.control, []
            p._cond = threading.Condition()
            command = [BINARY, "run", "--config", p.config_path,
                       "--control", p.control]
            p._user(command, None)
            p.process = subprocess.Popen(command, stderr=sink,
                                         stdout=subprocess.DEVNULL)
            p._reader = threading.Thread(target=lambda: None)
            p._reader.start()
            a.postern = p
            wait_for(lambda: os.path.exists(p.control) and
                     p.ask("status")[0] == 0 and
                     p.metric("postern_identity_fenced") == 0, "it serves")
            ctx = a.client_context()
            for _ in range(shortened("connections over a full log", 200,
                                     4000)):
                peer = a.connect(ctx)
                peer.send(b"x")
                assert peer.recv_exactly(1) == b"x"
                peer.close()
            wait_for(lambda: p.metric("postern_log_dropped_total") > 0,
                     "what is lost is counted")
            peer = a.connect(ctx)
            peer.send(b"y")
            assert peer.recv_exactly(1) == b"y"
            peer.close()
            p.stop()
        finally:
            sink.close()
            if read_end is not None:
                os.close(read_end)
            else:
                subprocess.run(["umount", tiny], check=False)
