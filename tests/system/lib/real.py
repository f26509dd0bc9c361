"""Real programs of other people, and a pair of Posterns between them."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from .proxy import DEADLINE, ISSUER, Postern, free_port, wait_for

CAMPAIGN = os.environ.get("POSTERN_CAMPAIGN") == "1"
ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))
CACHE = os.path.join(ROOT, ".cache")


def shorter(usual, whole):
    """What a quick run does, and what a campaign does."""
    return whole if CAMPAIGN else usual


def tool(name, *places):
    """The path of a program; the test is skipped, by its name, without it."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    for pattern in places:
        found = found or next(iter(sorted(glob.glob(pattern))[-1:]), None)
    if not found:
        pytest.skip("needs " + name)
    return found


def pg_tool(name):
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name),
                    key=lambda p: int(p.split("/")[4]))
    return places[-1] if places else tool(name)


def go_peer():
    path = os.path.join(CACHE, "go", "spiffe-peer")
    if not os.access(path, os.X_OK):
        pytest.skip("needs go-spiffe")
    return path


def js_folder():
    path = os.path.join(CACHE, "js")
    if not os.path.exists(os.path.join(path, ".complete")):
        pytest.skip("needs grpc-js")
    return path


def is_open(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def as_user(name):
    """Arguments of Popen: a daemon that will not run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": name, "group": name, "extra_groups": []}


class Program:
    """A process with its output read as lines, ended by its own id."""

    def __init__(self, command, stop_by=signal.SIGTERM, **kw):
        self.lines, self.stop_by = [], stop_by
        self._cond = threading.Condition()
        kw.setdefault("stdin", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for raw in self.process.stdout:
            self._add(raw.decode("utf-8", "replace").rstrip("\r\n"))
        self._add(None)

    def _add(self, line):
        with self._cond:
            self.lines.append(line)
            self._cond.notify_all()

    @property
    def text(self):
        with self._cond:
            return "\n".join(line for line in self.lines if line is not None)

    def wait_line(self, *parts, seconds=DEADLINE, after=0):
        until = time.monotonic() + seconds
        at = after
        with self._cond:
            while True:
                while at < len(self.lines):
                    line = self.lines[at]
                    if line is not None and all(p in line for p in parts):
                        return line
                    at += 1
                left = until - time.monotonic()
                if left <= 0 or self.lines[-1:] == [None]:
                    raise AssertionError("no line with %r in:\n%s" % (
                        parts, "\n".join(map(str, self.lines[-40:]))))
                self._cond.wait(left)

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def wait(self, seconds=DEADLINE):
        """Exit code, when it ends by itself; all its output has been read."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_by)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Issuer(Program):
    """postern-dev-issuer with a socket for each of NAMES."""

    def __init__(self, folder, names, *options, trust_domain="demo.test"):
        self.folder, self.names = folder, names
        self.control = os.path.join(folder, "issuer.ctl")
        command = [ISSUER, "--trust-domain", trust_domain, "--socket-mode",
                   "0666", "--control", self.control, "--die-with-parent"]
        for name in names:
            command += ["--serve", "%s=/%s" % (self.socket(name), name)]
        if os.geteuid() == 0:
            os.chown(folder, 65111, 65111)
            command += ["--run-as", "65111"]
        super().__init__([*command, *options])
        wait_for(lambda: os.path.exists(self.control) and all(
            os.path.exists(self.socket(n)) for n in names), "issuer serves")

    def socket(self, name):
        return os.path.join(self.folder, "%s.sock" % name)

    def tell(self, command, name=None):
        """One command, for all sockets or the one of NAME."""
        if name:
            command = "@%s %s" % (self.socket(name), command)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(DEADLINE)
            s.connect(self.control)
            s.sendall(command.encode() + b"\n")
            answer = s.recv(4096).decode()
        assert answer.startswith("ok"), answer


PAIR_OUT = """
[global]
workload_api = unix:{agent}
trust_domain = demo.test
[outbound b]
listen = 127.0.0.1:{plain}
{connect}
expect = demo.test/srv
caller = any
{extra}
"""

PAIR_IN = """
[global]
workload_api = unix:{agent}
trust_domain = demo.test
[inbound a]
listen = 127.0.0.1:{mesh}
forward = {forward}
allow = demo.test/web
{extra}
"""


class Pair:
    """An application reaches FORWARD through two Posterns.

    Certificates rotate every ROTATE seconds and rules are reloaded every
    RELOAD seconds, for as long as the pair lives.
    """

    def __init__(self, forward, rotate=2, reload=5,
                 connect="connect = 127.0.0.1:{mesh}", extra_out=""):
        self.folder = tempfile.mkdtemp(prefix="postern-pair-")
        os.chmod(self.folder, 0o755)
        self.plain, self.mesh = free_port(), free_port()
        self.reload_every = reload
        self.failures, self.reloads = [], 0
        self.issuer = Issuer(self.folder, ["srv", "web"], "--ttl", "120",
                             "--rotate-every", str(rotate))
        self.conf_in = PAIR_IN.format(
            agent=self.issuer.socket("srv"), mesh=self.mesh, forward=forward,
            extra="")
        self.inbound = Postern(self.conf_in)
        self.outbound = Postern(PAIR_OUT.format(
            agent=self.issuer.socket("web"), plain=self.plain,
            connect=connect.format(mesh=self.mesh),
            extra=extra_out))
        self.inbound.wait_identity()
        self.outbound.wait_identity()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._reload, daemon=True)
        if reload:
            self._thread.start()

    def _reload(self):
        """A rule comes, a rule goes; the one in use stays."""
        while not self._end.wait(self.reload_every):
            more = "" if self.reloads % 2 else "deny = demo.test/other\n"
            self.inbound.write(self.conf_in + more)
            code, text = self.inbound.ask("reload")
            if code != 0:
                self.failures.append(text)
            self.reloads += 1

    def rotations(self):
        return min(p.metric("postern_svid_rotations_total")
                   for p in (self.inbound, self.outbound))

    def wait_rotations(self, count):
        start = self.rotations()
        wait_for(lambda: self.rotations() >= start + count, "rotations", 60)

    def stop(self):
        self._end.set()
        if self.reload_every:
            self._thread.join(DEADLINE + 60)
        try:
            self.outbound.stop()
            self.inbound.stop()
        finally:
            self.issuer.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
        assert not self.failures, self.failures

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            return self.stop()
        for p in (self.outbound, self.inbound):
            p.kill()
        self.issuer.stop()
        self._end.set()
        shutil.rmtree(self.folder, ignore_errors=True)
        return None

    def assert_clean(self):
        """Nothing was refused, failed or cut on either side."""
        for p in (self.inbound, self.outbound):
            for result in ("denied", "failed", "rejected"):
                assert p.metric("postern_connections_total",
                                result=result) == 0, (
                    result, "\n".join(p.lines[-40:]))
