"""`postern demo`, as root and as somebody else: what a newcomer sees."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from lib.proxy import BINARY, DEADLINE, ISSUER, wait_for

pytestmark = pytest.mark.sanitize

NOBODY = 65112
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def free_ports():
    """The first of four ports below those that the kernel hands out."""
    for base in range(20000 + os.getpid() % 2000 * 4, 32000, 4):
        try:
            for port in range(base, base + 4):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise AssertionError("no four ports are free")


def processes_of_group(group):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid, encoding="utf-8") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(pid))
    return found


class Demo:
    def __init__(self, *args, uid=None, env=None, binary=BINARY, port=None):
        self.port = port or free_ports()
        self.lines, self._cond = [], threading.Condition()
        become = []
        if uid and os.geteuid() == 0:
            become = ["setpriv", "--reuid", str(uid), "--regid", str(uid),
                      "--clear-groups"]
        full = dict(os.environ, **(env or {}))
        full.pop("SUDO_UID", None)
        if not env:
            full.pop("XDG_RUNTIME_DIR", None)
        self.process = subprocess.Popen(
            [*become, binary, "demo", "--port", str(self.port), *args],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=full)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for raw in self.process.stdout:
            with self._cond:
                self.lines.append(raw.decode().rstrip("\n"))
                self._cond.notify_all()
        with self._cond:
            self.lines.append("(end)")
            self._cond.notify_all()

    def text(self):
        return "\n".join(self.lines)

    def wait_line(self, *parts, after=0):
        with self._cond:
            def found():
                hits = [i for i, line in enumerate(self.lines)
                        if i >= after and all(p in line for p in parts)]
                return hits or self.lines[-1:] == ["(end)"]
            self._cond.wait_for(found, DEADLINE)
            for i, line in enumerate(self.lines):
                if i >= after and all(p in line for p in parts):
                    return i, line
        raise AssertionError("no line with %r in:\n%s" % (parts, self.text()))

    def wait_ready(self):
        self.wait_line("demo", "curl http://127.0.0.1:%d/" % self.port)
        self.dir = re.search(r"unix:(\S+)/inbound\.agent", self.text())[1]
        with open("/proc/%d/task/%d/children" % (
                self.process.pid, self.process.pid), encoding="utf-8") as f:
            self.children = [int(pid) for pid in f.read().split()]
        self.group = os.getpgid(self.children[0])
        return self

    def end(self, how=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(DEADLINE + 20)
        self._reader.join(5)
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.end()


def curl(port):
    return subprocess.run(
        ["curl", "-s", "--max-time", str(DEADLINE),
         "http://127.0.0.1:%d/" % port],
        capture_output=True, text=True, check=False)


def assert_nothing_left(demo):
    assert processes_of_group(demo.group) == []
    assert not os.path.exists(demo.dir)


@pytest.fixture
def copies(folder):
    """The programs where any uid may run them."""
    for program in (BINARY, ISSUER):
        shutil.copy(program, folder)
    return folder


@as_root
def test_demo_of_root_serves_curl_as_somebody_else():
    with Demo() as demo:
        demo.wait_ready()
        done = curl(demo.port)
        assert done.returncode == 0, demo.text()
        assert "legacy service" in done.stdout
        assert re.search(r"Started as root.*uid 61\d\d\d", demo.text())
        for pid in demo.children:
            assert os.stat("/proc/%d" % pid).st_uid != 0
        with open("/proc/%d/status" % demo.process.pid,
                  encoding="utf-8") as f:
            assert not re.search(r"^Uid:.*\b0\b", f.read(), re.M)
        demo.wait_line("outbound", "event=close", "src_uid=0")
        assert demo.end() == 0
        assert_nothing_left(demo)


@as_root
def test_demo_under_sudo_runs_as_the_user_behind_it():
    env = dict(os.environ, SUDO_UID=str(NOBODY))
    with subprocess.Popen([BINARY, "demo", "--port", str(free_ports())],
                          stdout=subprocess.PIPE, text=True, env=env) as p:
        try:
            assert p.stdout.readline() == (
                "Started as root: everything runs as uid %d.\n" % NOBODY)
        finally:
            p.send_signal(signal.SIGINT)
            p.stdout.read()


def test_demo_without_root_uses_the_runtime_directory(copies):
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    run = os.path.join(copies, "run")
    os.mkdir(run)
    os.chown(run, uid, -1)
    with Demo(uid=uid, binary=os.path.join(copies, "postern"),
              env={"XDG_RUNTIME_DIR": run}) as demo:
        demo.wait_ready()
        assert os.path.dirname(demo.dir) == run
        assert "Started as root" not in demo.text()
        command = ["curl", "-s", "http://127.0.0.1:%d/" % demo.port]
        if os.geteuid() == 0:
            # Root did not start it: a stranger to this outbound service.
            assert curl(demo.port).returncode != 0
            demo.wait_line("outbound", "event=deny", "reason=local_caller",
                           "src_uid=0")
            command = ["setpriv", "--reuid", str(uid), "--regid", str(uid),
                       "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        assert "legacy service" in done.stdout, demo.text()
        assert demo.end() == 0
        assert_nothing_left(demo)
        assert os.listdir(run) == []


def test_demo_shows_rotations_and_connections_survive_them():
    with Demo("--rotate", "1") as demo:
        demo.wait_ready()
        with socket.create_connection(("127.0.0.1", demo.port),
                                      DEADLINE) as app:
            app.sendall(b"POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\n12345")
            after = len(demo.lines)
            for who in ("inbound", "outbound"):
                first, _ = demo.wait_line(who, "event=identity-rotated",
                                          after=after)
                demo.wait_line(who, "event=identity-rotated", after=first + 1)
            app.sendall(b"67890")
            answer = b""
            while piece := app.recv(4096):
                answer += piece
        assert b"received 10 bytes" in answer
        assert demo.end() == 0


def test_demo_intruder_is_denied_and_explained():
    with Demo("--intruder") as demo:
        demo.wait_ready()
        at, line = demo.wait_line("inbound", "event=deny")
        assert "src_id=spiffe://demo.test/intruder" in line
        assert "reason=no_rule" in line
        demo.wait_line("explain", "deny", after=at)
        demo.wait_line("explain", "allow = spiffe://demo.test/intruder",
                       after=at)
        assert curl(demo.port + 1).returncode != 0
        assert curl(demo.port).returncode == 0
        assert demo.end(signal.SIGTERM) == 0
        assert_nothing_left(demo)


def test_demo_that_is_killed_takes_its_children_along():
    with Demo() as demo:
        demo.wait_ready()
        assert len(processes_of_group(demo.group)) >= 4
        demo.end(signal.SIGKILL)
        wait_for(lambda: not processes_of_group(demo.group),
                 "every child has ended")
        shutil.rmtree(demo.dir)


def test_demo_ends_with_its_terminal():
    with Demo() as demo:
        demo.wait_ready()
        assert demo.end(signal.SIGHUP) == 0
        assert_nothing_left(demo)


def test_demo_whose_reader_has_gone_ends(folder):
    """`postern demo | head -1`: nobody looks at it any more."""
    base = free_ports()
    env = dict(os.environ, XDG_RUNTIME_DIR=folder)
    env.pop("SUDO_UID", None)
    if os.geteuid() == 0:
        os.chown(folder, 61184, 61184)
    with subprocess.Popen(
            [BINARY, "demo", "--rotate", "1", "--port", str(base)],
            stdout=subprocess.PIPE, text=True, env=env) as p:
        try:
            for line in p.stdout:
                if "a request has gone through" in line:
                    break
            p.stdout.close()
            assert p.wait(DEADLINE) == 0
        finally:
            p.kill()
    assert os.listdir(folder) == []
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", base))


@pytest.mark.parametrize("run", ["/proc", "relative", "/tmp/" + "d" * 70])
def test_demo_distrusts_a_runtime_directory(run):
    """Not ours, not absolute, or too long for the path of a socket."""
    with Demo(env={"XDG_RUNTIME_DIR": run}) as demo:
        demo.wait_ready()
        assert os.path.dirname(demo.dir) == "/tmp"
        assert os.stat(demo.dir).st_mode & 0o777 == 0o700
        assert demo.end() == 0
        assert_nothing_left(demo)


def test_demo_ends_when_a_part_ends():
    with Demo() as demo:
        demo.wait_ready()
        for pid in demo.children:
            with open("/proc/%d/cmdline" % pid, encoding="utf-8") as f:
                if "inbound.ini" in f.read():
                    os.kill(pid, signal.SIGKILL)
        assert demo.process.wait(DEADLINE) == 1
        demo.wait_line("demo", "inbound ended by itself (signal 9)")
        assert_nothing_left(demo)


@pytest.mark.parametrize("which", [0, 2, 3])
def test_demo_port_in_use_is_named(which):
    base = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + which))
        taken.listen(1)
        with Demo(port=base) as demo:
            assert demo.process.wait(DEADLINE) == 1
            demo.wait_line("port %d of 127.0.0.1 is in use" % (base + which))
            assert "--port" in demo.text()


def test_demo_without_the_issuer_names_its_package(folder):
    alone = shutil.copy(BINARY, folder)
    with Demo(binary=alone, env={"PATH": "/nowhere"}) as demo:
        assert demo.process.wait(DEADLINE) == 1
        demo.wait_line("install the package postern-dev-issuer")


def test_demo_write_leaves_files_that_check_takes(folder):
    target = os.path.join(folder, "edit")
    with Demo("--intruder", "--write", target) as demo:
        assert demo.process.wait(DEADLINE) == 0
    names = sorted(os.listdir(target))
    assert names == ["inbound.ini", "intruder.ini", "outbound.ini"]
    for name in names:
        done = subprocess.run([BINARY, "check", os.path.join(target, name)],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with open(os.path.join(target, name), encoding="utf-8") as f:
            assert target in f.read()
    # What somebody has edited is not written over.
    with Demo("--write", target) as demo:
        assert demo.process.wait(DEADLINE) == 1
        demo.wait_line("inbound.ini: File exists")
