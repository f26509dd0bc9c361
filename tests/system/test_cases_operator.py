"""Cases from the field: configuration, boot, names, unix sockets, memory."""

import ctypes
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lib import agent as agent_lib
from lib import tls
from lib.estate import Inbound, Listener, Outbound
from lib.flow import End, drive
from lib.proxy import BINARY, Postern, wait_for
from lib.shortened import shortened


def dial(host, port, family=socket.AF_INET):
    s = socket.socket(family)
    s.settimeout(tls.DEADLINE)
    s.connect((host, port))
    return s


def check(folder, text):
    path = os.path.join(folder, "x.ini")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, 0o644)
    done = subprocess.run([BINARY, "check", path], capture_output=True,
                          text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


# ---- Addresses

@pytest.mark.case("C-028")
def test_case_028_second_loopback_family(ca, agent, folder):
    server = Listener()
    with Outbound(ca, agent, server.addr) as b:
        with pytest.raises(ConnectionRefusedError):
            dial("::1", b.plain, socket.AF_INET6)
        app = b.connect()
        server.accept().close()
        app.close()
        _, text = check(folder, b.config)
        assert "C216" in text and "[::1]" in text
        only = b.config.replace("caller = any", "caller = uid 0")
        both = only.replace("[outbound b]", "[outbound b]\n"
                            "listen = [::1]:%d" % b.plain)
        _, text = check(folder, both)
        assert "C216" not in text
        b.postern.write(both)
        assert b.postern.ask("reload")[0] == 0
        # By both families, and by a v6 socket with a mapped v4 address.
        for host, family in (("127.0.0.1", socket.AF_INET),
                             ("::1", socket.AF_INET6),
                             ("::ffff:127.0.0.1", socket.AF_INET6)):
            app = dial(host, b.plain, family)
            server.accept().close()
            app.close()
        # The caller rule holds on each: by somebody else all are refused.
        b.postern.write(both.replace("caller = uid 0", "caller = uid 1"))
        assert b.postern.ask("reload")[0] == 0
        for host, family in (("127.0.0.1", socket.AF_INET),
                             ("::1", socket.AF_INET6),
                             ("::ffff:127.0.0.1", socket.AF_INET6)):
            with pytest.raises(ConnectionResetError):
                dial(host, b.plain, family).recv(1)
        assert server.nobody_came()
        wait_for(lambda: b.postern.count_lines(
            "event=deny", "reason=local_caller") == 3, "three denials")


@pytest.mark.case("C-030")
def test_case_030_naive_translation_shows_all_mistakes_at_once(folder):
    code, text = check(folder, """
[global]
workload_api = /run/x.sock
[inbound a]
listen = :8443
forward = 127.0.0.1:80
alow = spiffe://example.org/web
[outbound b]
listen = 127.0.0.1:6000
connect = 10.9.0.2:9443
caller = any
""")
    assert code == 3
    for diagnostic, hint in (("C110", "expect"), ("C104", "allow"),
                             ("C117", "unix:///"), ("C114", "")):
        at = text.find("error[%s]" % diagnostic)
        assert at >= 0, (diagnostic, text)
        assert hint in text[at:at + 300], (diagnostic, text)


@pytest.mark.case("C-031")
@pytest.mark.sanitize
@pytest.mark.parametrize("how", ["verb", "SIGHUP"])
def test_case_031_broken_reload_is_seen_and_mended(ca, agent, how):
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        p = a.postern
        first = p.ask("status")[1].split("config ")[1].split()[0]

        def reload():
            mark = len(p.lines)
            if how == "verb":
                return p.ask("reload")
            p.process.send_signal(signal.SIGHUP)
            p.wait_line("event=config-", after=mark)
            return None, ""

        broken = a.config + "[inbound c]\nlisten = 127.0.0.1:1\n"
        p.write(broken)
        code, text = reload()
        line = p.wait_line("event=config-refused")
        where = "%s:%d:" % (p.config_path, 1 + broken[:broken.index(
            "[inbound c]")].count("\n"))
        assert where in line
        if how == "verb":
            assert code == 3 and where in text
        assert p.metric("postern_config_last_reload_successful") == 0
        assert p.ask("status")[1].split("config ")[1].split()[0] == first
        p.write(a.config + "# mended\n")
        code, _ = reload()
        assert code in (0, None)
        p.wait_line("event=config-loaded")
        assert p.metric("postern_config_last_reload_successful") == 1


# ---- A network namespace of the test's own

class Namespace:
    """A namespace with a veth pair; NAME is this process's own."""

    def __init__(self):
        self.name = "pt%d" % os.getpid()
        self.run("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
            self.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
            for dev in ("v0", "v1"):
                self.ip("link", "set", dev, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    @staticmethod
    def run(*words):
        return subprocess.run(words, check=True, capture_output=True,
                              text=True).stdout

    def ip(self, *words):
        return self.run("ip", "-n", self.name, *words)

    @property
    def prefix(self):
        """Before a command: it lives in the namespace."""
        return ["nsenter", "--net=/run/netns/" + self.name]

    def join(self):
        """The calling thread moves into the namespace."""
        fd = os.open("/run/netns/" + self.name, os.O_RDONLY)
        assert ctypes_setns(fd) == 0
        os.close(fd)

    def call(self, make, *args):
        """MAKE(*ARGS) on a thread that has joined: its sockets live there."""
        out = []

        def work():
            self.join()
            try:
                out.append(make(*args))
            except OSError as error:
                out.append(error)
        t = threading.Thread(target=work)
        t.start()
        t.join()
        return out[0]

    def dial(self, host, port):
        """A connected socket, or the error."""
        return self.call(dial, host, port)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def ctypes_setns(fd):
    return ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000)


@pytest.fixture
def namespace():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        ns = Namespace()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip("no network namespace: %s" % error)
    yield ns
    ns.close()


@pytest.mark.case("C-033")
def test_case_033_listen_address_that_comes_later(ca, agent, namespace):
    service = namespace.call(Listener)
    config = """
[global]
workload_api = unix:%s
trust_domain = example.org
metrics = off
[inbound early]
listen = 127.0.0.1:8444
forward = %s
allow = example.org/web
[inbound late]
listen = 10.9.0.7:8443
forward = %s
allow = example.org/web
""" % (agent.path, service.addr, service.addr)
    agent.push(agent_lib.response([agent_lib.x509_svid(
        ca.svid("spiffe://example.org/srv"), ca.der())]))
    ctx = tls.context(False, ca.svid("spiffe://example.org/web"))

    def through(host, port):
        sock = namespace.dial(host, port)
        if isinstance(sock, OSError):
            return False
        peer = tls.TlsPeer(sock, ctx).handshake()
        peer.send(b"x")
        conn = service.accept()
        assert conn.recv(1) == b"x"
        conn.close()
        peer.close()
        return True

    with Postern(config, prefix=namespace.prefix) as p:
        p.wait_identity()
        assert through("127.0.0.1", 8444)
        assert not through("10.9.0.7", 8443)
        text = p.ask("status")[1]
        assert "address" in [r for r in text.splitlines()
                             if r.startswith("late ")][0]
        for _ in range(2):
            namespace.ip("addr", "add", "10.9.0.7/24", "dev", "v0")
            added = time.monotonic()
            wait_for(lambda: through("10.9.0.7", 8443), "the address serves")
            assert time.monotonic() - added < 5
            assert "address" not in [
                r for r in p.ask("status")[1].splitlines()
                if r.startswith("late ")][0]
            namespace.ip("addr", "del", "10.9.0.7/24", "dev", "v0")
        assert through("127.0.0.1", 8444)


# ---- Names

class Resolver(threading.Thread):
    """A name server that gives one address, SERVFAIL, or no answer."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 53))
        self.answer, self.asked = None, 0
        self.start()

    def run(self):
        while True:
            try:
                query, who = self.sock.recvfrom(2048)
            except OSError:
                return
            self.asked += 1
            if self.answer == "silent":
                continue
            end = query.index(b"\0", 12) + 5
            question, kind = query[12:end], query[end - 4:end - 2]
            flags, answers, tail = b"\x81\x80", 0, b""
            if self.answer == "fail":
                flags = b"\x81\x82"
            elif kind == b"\0\1":
                answers = 1
                tail = (b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" +
                        socket.inet_aton(self.answer))
            self.sock.sendto(query[:2] + flags + b"\0\1" + bytes(
                [0, answers]) + b"\0\0\0\0" + question + tail, who)


def own_name_service(folder, server):
    """Before a command: it has an /etc/resolv.conf of its own."""
    files = {"resolv.conf": "nameserver %s\noptions timeout:1 attempts:1\n"
             % server, "nsswitch.conf": "hosts: files dns\n"}
    script = ""
    for name, text in files.items():
        path = os.path.join(folder, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(path, 0o644)
        script += "mount --bind %s /etc/%s && " % (path, name)
    return ["unshare", "-m", "sh", "-c", script + 'exec "$@"', "sh"]


def listen_on(host, port):
    s = socket.socket()
    s.bind((host, port))
    s.listen(64)
    s.settimeout(0.2)
    return s


@pytest.mark.case("C-038")
def test_case_038_name_that_moves_fails_and_falls_silent(
        ca, agent, folder, namespace):
    for last in (2, 3, 9):
        namespace.ip("addr", "add", "10.9.0.%d/24" % last, "dev", "v0")
    resolver = namespace.call(Resolver, "10.9.0.9")
    first = namespace.call(listen_on, "10.9.0.2", 9443)
    second = namespace.call(listen_on, "10.9.0.3", 9443)
    resolver.answer = "10.9.0.2"
    enter = namespace.prefix + own_name_service(folder, "10.9.0.9")

    def reaches(s, port=6000):
        """Applications keep trying; one gets through to S in time."""
        until = time.monotonic() + tls.DEADLINE
        while time.monotonic() < until:
            app = namespace.dial("127.0.0.1", port)
            try:
                s.accept()[0].close()
                return True
            except socket.timeout:
                pass
            finally:
                if not isinstance(app, OSError):
                    app.close()
        return False

    agent.push(agent_lib.response([agent_lib.x509_svid(
        ca.svid("spiffe://example.org/web"), ca.der())]))
    config = """
[global]
workload_api = unix:%s
[outbound b]
listen = 127.0.0.1:6000
connect = db.test:9443
expect = example.org/srv
caller = any
resolve_interval = 2s
""" % agent.path
    with Postern(config, prefix=enter) as p:
        p.wait_identity()
        assert reaches(first)
        resolver.answer = "10.9.0.3"
        first.close()
        changed = time.monotonic()
        assert reaches(second)
        assert time.monotonic() - changed < 6       # 3 s when it is quiet
        # Failures keep the last address, and so does silence.
        for answer in ("fail", "silent"):
            resolver.answer = answer
            asked = resolver.asked
            wait_for(lambda n=asked: resolver.asked >= n + 4,
                     "the name is asked again", 60)
            assert reaches(second)
        # A silent server delays no reload: a name without an address is
        # refused to its callers, the others keep theirs.
        p.write(config + "[outbound n]\nlisten = 127.0.0.1:6001\n"
                "connect = new.test:9443\nexpect = example.org/srv\n"
                "caller = any\n")
        began = time.monotonic()
        code, text = p.ask("reload")
        assert time.monotonic() - began < 5
        if code == 0:
            namespace.dial("127.0.0.1", 6001)
            p.wait_line("service=n", "reason=dns")
        else:
            assert "new.test" in text
        assert reaches(second)
    second.close()


# ---- Memory

def rss_kib(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as f:
        return int(f.read().split("VmRSS:")[1].split()[0])


@pytest.mark.case("C-043")
def test_case_043_memory_comes_back_after_stalled_readers(ca, agent):
    n = shortened("C-043: stalled connections", 100, 2000)
    service = Listener()
    with Inbound(ca, agent, service.addr) as a:
        ctx = a.client_context()
        peaks, rests = [], []
        # The first round warms up: it meets pools and heaps that are empty.
        for _ in range(4):
            ends = []
            for i in range(n):
                peer = End(socket.create_connection(("127.0.0.1", a.mesh)),
                           ("p", i), ("s", i), ctx=ctx)
                assert drive([peer], lambda p=peer: p.is_shaken)
                end = End(service.accept(), ("s", i), ("p", i))
                peer.reading = False
                end.to_send = 1 << 20
                ends += [peer, end]
            drive(ends, lambda: False, seconds=60, quiet=0.3)
            peaks.append(rss_kib(a.postern.process.pid))
            for e in ends:
                e.reading = True
            assert drive(ends, lambda: all(
                e.received == 1 << 20 for e in ends[::2]), seconds=120)
            assert all(e.wrong is None for e in ends)
            for e in ends:
                e.close()
            wait_for(lambda: a.postern.metric(
                "postern_connections_active") == 0, "all are gone")
            rests.append(rss_kib(a.postern.process.pid))
        peaks, rests = peaks[1:], rests[1:]
        assert peaks[2] <= peaks[0] * 1.05 + 1024, (peaks, rests)
        assert max(rests) <= rests[0] * 1.3 + 1024, (peaks, rests)


# ---- Unix sockets

@pytest.fixture
def run_folder():
    """Below /run/postern, where Postern makes directories itself."""
    if os.geteuid() != 0:
        pytest.skip("/run/postern needs root")
    base = "/run/postern"
    made = not os.path.exists(base)
    os.makedirs(base, exist_ok=True)
    old = os.stat(base)
    os.chmod(base, 0o711)
    path = os.path.join(base, "t%d" % os.getpid())
    yield path
    shutil.rmtree(path, ignore_errors=True)
    if made:
        os.rmdir(base)
    else:
        os.chmod(base, old.st_mode & 0o7777)


def connects_as(path, gid):
    """errno of a connect by somebody whose only group is GID; 0: none."""
    code = ("import socket,sys\ns=socket.socket(socket.AF_UNIX)\n"
            "sys.exit(s.connect_ex(sys.argv[1]))")
    return subprocess.run(["setpriv", "--reuid=65113", "--regid=%d" % gid,
                           "--clear-groups", sys.executable, "-c", code, path],
                          check=False).returncode


@pytest.mark.case("C-052")
def test_case_052_unix_listener_and_what_lies_in_its_way(
        ca, agent, run_folder):
    server = Listener()
    path = os.path.join(run_folder, "pg.sock")
    # Whoever looks whether somebody listens there is a caller, too.
    with Outbound(ca, agent, server.addr, wait=False,
                  extra="handshake_timeout = 1s") as b:
        config = b.config.replace("127.0.0.1:%d" % b.plain, "unix:" + path)
        b.postern.stop()
        b.postern = Postern(config).wait_identity()
        assert os.stat(run_folder).st_mode & 0o777 == 0o711
        assert os.stat(path).st_mode & 0o777 == 0o600
        # Killed: its file stays, and is replaced by the next one.
        b.postern.kill()
        assert os.path.exists(path)
        b.postern = Postern(config).wait_identity()
        app = socket.socket(socket.AF_UNIX)
        app.connect(path)
        server.accept().close()
        app.close()
        # Somebody who lives there is named, not removed.
        failed = Postern(config, wait=False)
        assert failed.process.wait(tls.DEADLINE) == 1
        assert "another process listens there" in failed.wait_line(path)
        app = socket.socket(socket.AF_UNIX)
        app.connect(path)
        server.accept().close()
        app.close()
        group = config.replace("[outbound b]", "[outbound b]\n"
                               "listen_group = daemon")
        b.postern.stop()
        assert connects_as(path, gid=1) != 0
        b.postern = Postern(group).wait_identity()
        assert connects_as(path, gid=1) == 0
        assert connects_as(path, gid=65113) == errno.EACCES
        server.accept().close()
        b.postern.stop()
        # What is no socket is never removed.
        if os.path.exists(path):
            os.unlink(path)
        for make in (lambda: open(path, "w").close(),
                     lambda: os.symlink("/etc/passwd", path),
                     lambda: os.mkdir(path)):
            make()
            failed = Postern(config, wait=False)
            assert failed.process.wait(tls.DEADLINE) == 1
            failed.wait_line("not removed")
            assert os.path.lexists(path)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        b.postern = Postern(config)
