"""How proxies are started that can do what Postern does, for comparison.

Each is given a list of Service and the SVIDs as files; what it is asked for is
the same: TLS 1.3 with client certificates on one side, TCP on the other.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass

from . import agent as agent_lib
from .proxy import Postern, wait_for


@dataclass
class Service:
    name: str
    role: str          # inbound, outbound
    listen: str        # "127.0.0.1:PORT" or "unix:PATH"
    target: str
    idle: bool = False     # end what is silent for a second
    connect: bool = False  # give up connecting after a second


def _listens(address):
    """Looked up in the kernel's table: a probe would reach the target."""
    port = ":%04X" % int(address.rsplit(":", 1)[1])
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows = [line.split() for line in f]
    return any(r[1].endswith(port) and r[3] == "0A" for r in rows[1:])


class PosternProduct:
    name = "postern"
    has_unix = True
    drains = True

    def __init__(self, ca, services, drain="20s", threads=1, extra=""):
        self.folder = tempfile.mkdtemp(prefix="postern-test-")
        os.chmod(self.folder, 0o755)
        self.agent = agent_lib.Agent(os.path.join(self.folder, "a.sock"))
        self.agent.push(agent_lib.response([agent_lib.x509_svid(
            ca.svid("spiffe://example.org/postern"), ca.der())]))
        text = ("[global]\nworkload_api = unix:%s\nthreads = %d\n"
                "drain_timeout = %s\n%s\n" % (
                    self.agent.path, threads, drain, extra))
        for s in services:
            text += self._section(s)
        os.chown(self.folder, 65111, 65111)
        self.proxy = Postern(text)
        self.proxy.wait_identity()
        self._mark = 0

    @staticmethod
    def _section(s):
        text = "[%s %s]\nlisten = %s\n" % (s.role, s.name, s.listen)
        if s.role == "inbound":
            text += "forward = %s\nallow = example.org/*\n" % s.target
        else:
            text += "connect = %s\nexpect = example.org/*\n" % s.target
            text += "caller = any\n"
        if s.listen.startswith("unix:"):
            text += "listen_mode = 0666\n"
        if s.idle:
            text += "idle_timeout = 1s\nhalf_close_timeout = 1s\n"
        if s.connect:
            text += "connect_timeout = 1s\nhandshake_timeout = 1s\n"
        return text

    def tail(self):
        return self.proxy.lines[-20:]

    def drain(self):
        self.proxy.process.send_signal(signal.SIGTERM)
        self.proxy.wait_line("event=drain", "no new connections")

    def sigkill(self):
        self.proxy.process.kill()

    def mark(self):
        """books() looks at lines from here on: ports come again."""
        self._mark = len(self.proxy.lines)

    def books(self, client_port):
        """(given in, given out, discarded in, discarded out, close)."""
        line = self.proxy.wait_line("src_addr=127.0.0.1:%d " % client_port,
                                    after=self._mark)

        def number(key):
            m = re.search(r"\b%s=(\d+)" % key, line)
            return int(m.group(1)) if m else 0
        reason = re.search(r"close=(\S+)", line)
        return (number("bytes_in"), number("bytes_out"),
                number("discarded_in"), number("discarded_out"),
                reason.group(1) if reason else "")

    def stop(self):
        self.proxy.stop(expect=None)
        self.agent.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.proxy.folder, ignore_errors=True)


class _FileProduct:
    """A product that reads certificates from files."""

    has_unix = False
    drains = False

    def __init__(self, ca, services, **_):
        self.folder = tempfile.mkdtemp(prefix="postern-test-")
        svid = ca.svid("spiffe://example.org/proxy")
        cert, key = svid.pem_files(self.folder)
        self.pem = os.path.join(self.folder, "both.pem")
        with open(self.pem, "wb") as out:
            for path in (cert, key):
                with open(path, "rb") as f:
                    out.write(f.read())
        os.chmod(self.pem, 0o600)
        self.ca = os.path.join(self.folder, "ca.pem")
        with open(self.ca, "wb") as f:
            f.write(ca.pem())
        self.config = os.path.join(self.folder, "config")
        with open(self.config, "w", encoding="ascii") as f:
            f.write(self.text(services))
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        for s in services:
            wait_for(lambda s=s: _listens(s.listen), s.listen)

    def mark(self):
        pass

    def books(self, client_port):
        return None

    def tail(self):
        return []

    def sigkill(self):
        self.process.kill()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class HAProxy(_FileProduct):
    name = "haproxy"
    binary = "haproxy"

    def command(self):
        return ["haproxy", "-db", "-f", self.config]

    def text(self, services):
        out = "global\n  nbthread 1\ndefaults\n  mode tcp\n"
        for s in services:
            idle = "1s" if s.idle else "1h"
            tls = "ssl crt %s ca-file %s verify required" % (self.pem, self.ca)
            inbound = s.role == "inbound"
            out += ("listen %s\n  bind %s %s\n  server s %s %s\n"
                    "  timeout client %s\n  timeout server %s\n"
                    "  timeout connect %s\n  retries 0\n" % (
                        s.name, s.listen, tls if inbound else "", s.target,
                        "" if inbound else tls, idle, idle,
                        "1s" if s.connect else "5s"))
        return out


class Stunnel(_FileProduct):
    name = "stunnel"
    binary = "stunnel"

    def command(self):
        return ["stunnel", self.config]

    def text(self, services):
        out = "foreground = yes\npid =\nsyslog = no\n"
        for s in services:
            out += "[%s]\naccept = %s\nconnect = %s\n" % (
                s.name, s.listen, s.target)
            out += "cert = %s\nCAfile = %s\nverifyChain = yes\n" % (
                self.pem, self.ca)
            if s.role == "inbound":
                out += "requireCert = yes\n"
            else:
                out += "client = yes\n"
            out += "TIMEOUTidle = %d\nTIMEOUTclose = 5\n" % (
                1 if s.idle else 3600)
            out += "TIMEOUTconnect = %d\n" % (1 if s.connect else 5)
        return out


PRODUCTS = {p.name: p for p in (PosternProduct, HAProxy, Stunnel)}
