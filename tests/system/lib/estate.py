"""Usual estates: an inbound service, an outbound one, and both in a row."""

import os
import socket
import threading

from . import agent as agent_lib
from . import tls
from .proxy import Postern, free_port

INBOUND = """
[global]
workload_api = unix:{agent}
trust_domain = example.org
threads = {threads}
{extra_global}
[inbound a]
listen = 127.0.0.1:{mesh}
forward = {forward}
{rules}
{extra}
"""

OUTBOUND = """
[global]
workload_api = unix:{agent}
trust_domain = example.org
threads = {threads}
{extra_global}
[outbound b]
listen = 127.0.0.1:{plain}
connect = {target}
expect = {expect}
caller = any
{extra}
"""


class Listener:
    """A listening socket of the test, on loopback."""

    def __init__(self, path=None):
        if path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(path)
            os.chmod(path, 0o777)
            self.addr = "unix:" + path
        else:
            self.sock = socket.socket()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind(("127.0.0.1", 0))
            self.addr = "127.0.0.1:%d" % self.sock.getsockname()[1]
        self.sock.listen(512)
        self.sock.settimeout(tls.DEADLINE)

    @property
    def port(self):
        return self.sock.getsockname()[1]

    def accept(self):
        conn, _ = self.sock.accept()
        conn.settimeout(tls.DEADLINE)
        return conn

    def nobody_came(self):
        """True if nothing waits in the queue now."""
        self.sock.setblocking(False)
        try:
            conn, _ = self.sock.accept()
            conn.close()
            return False
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(tls.DEADLINE)

    def close(self):
        self.sock.close()


class Echo(threading.Thread):
    """Echoes each connection until its end, then ends too."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = Listener()
        self.accepted = 0
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.listener.sock.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(conn,),
                             daemon=True).start()

    @staticmethod
    def _serve(conn):
        conn.settimeout(None)
        try:
            while True:
                data = conn.recv(65536)
                if not data:
                    break
                conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            conn.close()


class Inbound:
    """postern with one inbound service; TLS clients of the test call it."""

    def __init__(self, ca, agent, forward, rules="allow = example.org/web",
                 extra="", extra_global="", server_id="spiffe://example.org/srv",
                 threads=2, federated=None, wait=True):
        self.ca, self.agent = ca, agent
        self.server_id = server_id
        self.mesh = free_port()
        self.svid = ca.svid(server_id)
        agent.push(agent_lib.response(
            [agent_lib.x509_svid(self.svid, ca.der())], federated))
        self.config = INBOUND.format(
            agent=agent.path, mesh=self.mesh, forward=forward, rules=rules,
            extra=extra, extra_global=extra_global, threads=threads)
        self.postern = Postern(self.config)
        if wait:
            self.postern.wait_identity()

    def client_context(self, spiffe_id="spiffe://example.org/web", svid=None,
                       maximum=None):
        return tls.context(False, svid or self.ca.svid(spiffe_id),
                           maximum=maximum)

    def connect(self, ctx=None, **kw):
        return tls.connect(("127.0.0.1", self.mesh),
                           ctx or self.client_context(), **kw)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.postern.__exit__(kind, *rest)


class Outbound:
    """postern with one outbound service towards TARGET."""

    def __init__(self, ca, agent, target, expect="example.org/srv", extra="",
                 extra_global="", client_id="spiffe://example.org/web",
                 threads=2, federated=None, wait=True):
        self.ca, self.agent = ca, agent
        self.plain = free_port()
        self.svid = ca.svid(client_id)
        agent.push(agent_lib.response(
            [agent_lib.x509_svid(self.svid, ca.der())], federated))
        self.config = OUTBOUND.format(
            agent=agent.path, plain=self.plain, target=target, expect=expect,
            extra=extra, extra_global=extra_global, threads=threads)
        self.postern = Postern(self.config)
        if wait:
            self.postern.wait_identity()

    def server_context(self, spiffe_id="spiffe://example.org/srv", svid=None,
                       cafile=None):
        return tls.context(True, svid or self.ca.svid(spiffe_id),
                           cafile=cafile)

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.plain),
                                        tls.DEADLINE)
        sock.settimeout(tls.DEADLINE)
        return sock

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.postern.__exit__(kind, *rest)


def ca_file(folder, *cas):
    path = os.path.join(folder, "ca-%d.pem" % len(os.listdir(folder)))
    with open(path, "wb") as f:
        for ca in cas:
            f.write(ca.pem())
    return path
