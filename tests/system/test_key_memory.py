"""Where the private key is in a running process, and where it is not."""

import base64
import os
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from lib import agent as agent_lib
from lib import real
from lib.estate import Echo, Inbound
from lib.proxy import wait_for

SRV = "spiffe://example.org/srv"

pytestmark = pytest.mark.skipif(os.geteuid() != 0,
                                reason="needs root: reads another's memory")


def secrets(key):
    """What must not be known, as bytes in either order: DER is big-endian,
    the limbs of a BIGNUM are little-endian."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"seed": key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw,
            serialization.NoEncryption())}
    numbers = key.private_numbers()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        named = {"d": numbers.private_value}
    else:
        assert isinstance(key, rsa.RSAPrivateKey)
        named = {n: getattr(numbers, n) for n in
                 ("d", "p", "q", "dmp1", "dmq1", "iqmp")}
    out = {}
    for name, value in named.items():
        size = (value.bit_length() + 7) // 8
        out[name] = value.to_bytes(size, "big")
        out[name + "-reversed"] = value.to_bytes(size, "little")
    return out


class Mapping:
    def __init__(self, head):
        span, self.access = head.split()[:2]
        self.start, self.end = (int(x, 16) for x in span.split("-"))
        self.name = " ".join(head.split()[5:])
        self.flags = []

    def is_safe(self):
        """Locked into memory, and left out of cores."""
        return "lo" in self.flags and "dd" in self.flags


def mappings(pid):
    out = []
    with open("/proc/%d/smaps" % pid, encoding="utf-8") as f:
        for line in f:
            if "-" in line.split()[0]:
                out.append(Mapping(line))
            elif line.startswith("VmFlags:"):
                out[-1].flags = line.split()[1:]
    return out


def hits(pid, wanted):
    """(name, mapping) of each place that holds one of WANTED."""
    out = []
    with open("/proc/%d/mem" % pid, "rb", buffering=0) as mem:
        for m in mappings(pid):
            if "r" not in m.access or m.name.startswith("[v"):
                continue
            mem.seek(m.start)
            try:
                data = mem.read(m.end - m.start)
            except OSError:
                continue
            out += [(name, m) for name, value in wanted.items()
                    if value in data]
    return out


def outside(pid, wanted):
    """Places that are not safe. libcrypto keeps an RSA key's primes once more
    in the ordinary heap, for as long as the key lives."""
    primes = ("p", "q", "p-reversed", "q-reversed")
    return sorted({"%s in %x %s" % (name, m.start, m.name)
                   for name, m in hits(pid, wanted)
                   if not m.is_safe() and name not in primes})


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


def use(a, count=4):
    """Handshakes sign with the key."""
    for _ in range(count):
        peer = a.connect()
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.rst()


def push(a, svid):
    """Returns when peers are shown it."""
    a.agent.push(agent_lib.response([agent_lib.x509_svid(svid, a.ca.der())]))

    def is_shown():
        peer = a.connect()
        der = peer.peer_der
        peer.rst()
        return der == svid.leaf.public_bytes(serialization.Encoding.DER)
    wait_for(is_shown, "the new SVID on the wire")
    return svid


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa2048"])
def test_key_is_only_in_locked_memory_and_gone_after_rotation(
        ca, agent, echo, kind):
    with Inbound(ca, agent, echo.listener.addr,
                 extra_global="log_level = debug") as a:
        pid = a.postern.process.pid
        old = secrets(push(a, ca.svid(SRV, key_kind=kind)).key)
        use(a)
        live = a.connect()
        assert hits(pid, old), "the scan finds nothing at all"
        assert outside(pid, old) == []
        for _ in range(3):
            new = secrets(push(a, ca.svid(SRV, key_kind=kind)).key)
            use(a)
            assert hits(pid, new)
            assert outside(pid, new) == []
            # The connection that began with the first key still lives.
            live.send(b"y")
            assert live.recv_exactly(1) == b"y"
            wait_for(lambda o=old: hits(pid, o) == [], "the old key is gone")
            old = new
        live.rst()
        log = "\n".join(a.postern.lines).encode()
        for value in old.values():
            for shown in (value, value.hex().encode(),
                          value.hex().upper().encode(),
                          base64.b64encode(value)[:-4]):
                assert shown not in log


def test_process_leaves_no_core(ca, agent, echo):
    with Inbound(ca, agent, echo.listener.addr) as a:
        pid = a.postern.process.pid
        with open("/proc/%d/limits" % pid, encoding="utf-8") as f:
            limit = next(line for line in f if "core file size" in line)
        assert limit.split()[4:6] == ["0", "0"]
        # Files of a process that is not dumpable belong to root.
        assert os.stat("/proc/%d/environ" % pid).st_uid == 0


def test_core_taken_by_root_holds_no_key(ca, agent, echo, folder):
    """Such as of a support case: the key's pages are left out."""
    gcore = real.tool("gcore")
    with Inbound(ca, agent, echo.listener.addr) as a:
        use(a)
        pid = a.postern.process.pid
        subprocess.run([gcore, "-o", folder + "/core", str(pid)],
                       capture_output=True, timeout=120, check=True)
        with open("%s/core.%d" % (folder, pid), "rb") as f:
            core = f.read()
        assert SRV.encode() in core
        assert [n for n, v in secrets(a.svid.key).items() if v in core] == []
