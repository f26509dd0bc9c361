"""The real binary, started with a configuration of the test's own."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

BUILD = os.environ.get("POSTERN_BUILD", "build")
BINARY = os.path.join(BUILD, "postern")
ISSUER = os.path.join(BUILD, "postern-dev-issuer")
DEADLINE = float(os.environ.get("POSTERN_DEADLINE", "20"))


_given = set()


def free_port(host="127.0.0.1"):
    """Below the ephemeral ports, or a neighbour's connection may take it."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket(socket.AF_INET6 if ":" in host
                           else socket.AF_INET) as s:
            if port in _given:
                continue
            try:
                s.bind((host, port))
            except OSError:
                continue
            _given.add(port)
            return port


def wait_for(condition, what, seconds=DEADLINE):
    """Poll CONDITION until it is true; its value is returned."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError("in %g s not: %s" % (seconds, what))
        time.sleep(0.005)


class Postern:
    """One `postern run`. Use as a context manager, or call stop()."""

    def __init__(self, config, folder=None, env=None, wait=True, args=(),
                 user=None, prefix=()):
        self.folder = folder or tempfile.mkdtemp(prefix="postern-test-")
        os.chmod(self.folder, 0o755)
        self.config_path = os.path.join(self.folder, "postern.ini")
        self.control = os.path.join(self.folder, "control.sock")
        self.lines = []
        self._cond = threading.Condition()
        self.write(config)
        if user is None:
            user = "root" if os.geteuid() != 0 else None
        command = [BINARY, "run", "--config", self.config_path,
                   "--control", self.control, *args]
        self._user(command, user)
        # A command that ends in an exec of ours: never Python in a fork,
        # which threads of gRPC would make wait for ever.
        command = [*prefix, *command]
        full = dict(os.environ, **(env or {}))
        full.pop("NOTIFY_SOCKET", None)
        if env and "NOTIFY_SOCKET" in env:
            full["NOTIFY_SOCKET"] = env["NOTIFY_SOCKET"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env=full)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.wait_line("event=ready")

    def _user(self, command, user):
        """Tests run as root: the daemon becomes a user of its own."""
        if os.geteuid() == 0:
            uid = "65111" if user in (None, "root") else str(user)
            os.chown(self.folder, int(uid), int(uid))
            os.chown(self.config_path, 0, 0)
            command += ["--user", uid]

    def write(self, config):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config)
        os.chmod(self.config_path, 0o644)

    # ---- Its log

    def _read(self):
        for raw in self.process.stderr:
            with self._cond:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._cond.notify_all()
        with self._cond:
            self.lines.append("(end of log)")
            self._cond.notify_all()

    def wait_line(self, *parts, seconds=DEADLINE, after=0):
        """The first line from index AFTER that holds all PARTS."""
        until = time.monotonic() + seconds
        with self._cond:
            at = after
            while True:
                while at < len(self.lines):
                    if all(p in self.lines[at] for p in parts):
                        return self.lines[at]
                    at += 1
                left = until - time.monotonic()
                if left <= 0 or "(end of log)" in self.lines[-1:]:
                    raise AssertionError("no line with %r in:\n%s" % (
                        parts, "\n".join(self.lines[-40:])))
                self._cond.wait(left)

    def count_lines(self, *parts):
        with self._cond:
            return sum(all(p in line for p in parts) for line in self.lines)

    # ---- Asking it

    def ask(self, *words, json_output=False, check=None):
        """A verb of the command line; returns (exit code, text)."""
        command = [BINARY, words[0], "--control", self.control]
        if json_output:
            command.append("--json")
        done = subprocess.run([*command, *words[1:]], capture_output=True,
                              text=True, timeout=60, check=False)
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        text = done.stdout if done.stdout else done.stderr
        return done.returncode, json.loads(text) if json_output else text

    def metric(self, name, **labels):
        """Sum of the samples of NAME whose labels contain LABELS."""
        _, text = self.ask("metrics", check=0)
        total, seen = 0.0, False
        for line in text.splitlines():
            m = re.match(r"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
            if not m or m.group(1) != name:
                continue
            have = dict(re.findall(r'(\w+)="([^"]*)"', m.group(2) or ""))
            if all(have.get(k) == v for k, v in labels.items()):
                total, seen = total + float(m.group(3)), True
        assert seen, "no metric %s %s" % (name, labels)
        return total

    def wait_identity(self):
        wait_for(lambda: self.metric("postern_identity_fenced") == 0,
                 "an identity is in force")
        # Workers adopt it in their next turn.
        self.wait_line("event=identity-acquired")
        return self

    # ---- Its end

    def stop(self, expect=(0, 7)):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE + 20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("postern did not stop") from None
        self._reader.join(5)
        if expect is not None:
            assert code in expect, "exit %d:\n%s" % (
                code, "\n".join(self.lines[-60:]))
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stop(expect=(0, 7) if kind is None else None)
