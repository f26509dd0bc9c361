#!/usr/bin/env python3
"""The close matrix: who ends, how, when, with how much on the way.

Any proxy can be put between the two ends; what it does is judged by the
promises N1 to N10 about a byte stream:

  N1  what arrives is a prefix of what was sent, in order, once
  N2  a clean end: all of it arrives, then a clean end
  N3  a clean end one way does not shorten the other
  N4  an abort arrives as an abort, never as a clean end
  N5  what was received before an abort is delivered before it
  N7  late data after the other's clean end is still delivered
  N8  no target: the caller sees an abort, never an empty success
  N10 the access line's numbers are the true ones
"""

import argparse
import collections
import itertools
import os
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import ca as ca_lib  # noqa: E402
from lib import tls  # noqa: E402
from lib.estate import Listener  # noqa: E402
from lib.flow import End, drive  # noqa: E402
from lib.products import PRODUCTS, Service  # noqa: E402
from lib.proxy import free_port  # noqa: E402

ROLES = ("inbound", "outbound")
KINDS = {"mesh": ("fin", "rst", "truncation", "alert", "silence"),
         "plain": ("fin", "rst", "silence")}
MOMENTS = ("connect", "mid", "full", "half", "drain")
PENDING = (0, 1, 16384, 8 << 20)
BASE, HALF, LATE = 3000, 1000, 5000


@dataclass(frozen=True)
class Case:
    role: str
    side: str
    kind: str
    moment: str
    pending: int

    def __str__(self):
        return "%s-%s-%s-%s-%d" % (self.role, self.side, self.kind,
                                   self.moment, self.pending)

    @property
    def by_caller(self):
        """Does the side that called end it?"""
        return (self.role == "inbound") == (self.side == "mesh")


def all_cases():
    return [Case(role, side, kind, moment, pending)
            for role in ROLES for side in KINDS for kind in KINDS[side]
            for moment in MOMENTS for pending in PENDING]


def sampled(every):
    """Every EVERYth case, and each that has 16 KiB on the way."""
    return [c for i, c in enumerate(all_cases())
            if i % every == 0 or c.pending == 16384]


class Refusing:
    """A port that is taken, and not listened on."""

    def __init__(self):
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.addr = "127.0.0.1:%d" % self.sock.getsockname()[1]

    def close(self):
        self.sock.close()


class Stuffed:
    """A listener whose queue is full: nobody is refused, nobody gets in."""

    def __init__(self):
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.addr = "127.0.0.1:%d" % self.sock.getsockname()[1]
        self.stuffing = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(self.sock.getsockname())
            self.stuffing.append(s)

    def close(self):
        for s in self.stuffing:
            s.close()
        self.sock.close()


class Lane:
    """One running proxy with all services, and the ends around it."""

    def __init__(self, product, ca, only=None, **options):
        self.ca = ca
        self.server_ctx = tls.context(True, ca.svid(
            "spiffe://example.org/peer"))
        self.server_ctx.verify_mode = tls.ssl.CERT_NONE
        self.client_ctx = tls.context(False, ca.svid(
            "spiffe://example.org/peer"))
        self.listeners, self.services = {}, {}
        for role, variant in itertools.product(
                ROLES, ("ok", "refuse", "idle", "stuck")):
            if only and (role, variant) not in only:
                continue
            self._add(role, variant)
        self.proxy = PRODUCTS[product](
            ca, list(self.services.values()), **options)

    def _add(self, role, variant):
        kind = Listener
        if variant == "refuse":
            kind = Refusing
        elif (role, variant) == ("inbound", "stuck"):
            kind = Stuffed
        self.listeners[role, variant] = kind()
        target = self.listeners[role, variant].addr
        self.services[role, variant] = Service(
            role[0] + variant, role, "127.0.0.1:%d" % free_port(), target,
            idle=variant == "idle", connect=variant == "stuck")

    # ---- Making ends

    def call(self, role, variant, flow):
        """The end that calls the proxy."""
        host, port = self.services[role, variant].listen.rsplit(":", 1)
        sock = socket.socket()
        inbound = role == "inbound"
        try:
            sock.connect((host, int(port)))
        except ConnectionResetError:
            # Refused so fast that connect() itself tells of the reset.
            end = End(sock, ("call", flow), ("serve", flow))
            end.end = end.raw_end = "rst"
            return end
        return End(sock, ("call", flow), ("serve", flow),
                   ctx=self.client_ctx if inbound else None)

    def accept(self, role, variant, flow, raw=False):
        """The end that the proxy calls."""
        sock = self.listeners[role, variant].accept()
        plain = role == "inbound" or raw
        return End(sock, ("serve", flow), ("call", flow),
                   ctx=None if plain else self.server_ctx, server=True)

    def pair(self, role, variant, flow):
        """(caller, target), connected and past the handshake."""
        caller = self.call(role, variant, flow)
        if role == "inbound":
            assert drive([caller], lambda: caller.is_shaken or caller.end)
        target = self.accept(role, variant, flow)
        assert drive([caller, target],
                     lambda: caller.is_shaken and target.is_shaken)
        return caller, target

    def stop(self):
        self.proxy.stop()
        for x in self.listeners.values():
            x.close()


class Trial:
    """One case, run and judged."""

    def __init__(self, case, lane, flow):
        self.case, self.lane, self.flow = case, lane, flow
        self.faults = []
        self.notes = {}

    def fault(self, number, text):
        self.faults.append("%s: %s" % (number, text))

    def run(self):
        if self.case.moment == "connect":
            self._run_connect()
        else:
            self._run_connected()
        return self

    # ---- Before there is a connection

    def _run_connect(self):
        c = self.case
        if c.by_caller:
            self._caller_without_target()
        elif c.role == "outbound":
            self._server_without_handshake()
        elif c.kind == "silence":
            self._caller_alone("stuck", "silence")
        else:
            caller = self.lane.call(c.role, "ok", self.flow)
            assert drive([caller], lambda: caller.is_shaken or caller.end)
            target = self.lane.accept(c.role, "ok", self.flow)
            self._end_it(target, caller, "ok")

    def _caller_without_target(self):
        self._caller_alone("refuse", self.case.kind)

    def _caller_alone(self, variant, kind):
        """The target is never there: the caller must see an abort."""
        caller = self.lane.call(self.case.role, variant, self.flow)
        drive([caller], lambda: caller.is_shaken or caller.end)
        caller.to_send = self.case.pending
        drive([caller], lambda: caller.end or not caller.wants_write,
              quiet=0.1)
        if not caller.end and not caller.send_failed:
            self._say_end(caller, kind)
        self._await_abort(caller)

    def _await_abort(self, caller):
        if caller.dead:
            return
        if not drive([caller], lambda: caller.end):
            self.fault("N8", "the caller is told nothing")
        elif caller.end == "clean":
            self.fault("N8", "the caller sees an empty success")
        self._note("caller", caller)
        if caller.received:
            self.fault("N1", "bytes out of nothing")
        caller.close()

    def _server_without_handshake(self):
        kind = self.case.kind
        variant = "stuck" if kind == "silence" else "ok"
        caller = self.lane.call("outbound", variant, self.flow)
        caller.to_send = self.case.pending
        server = self.lane.accept("outbound", variant, self.flow, raw=True)
        drive([caller], lambda: caller.end or not caller.wants_write,
              quiet=0.1)
        if kind == "alert":
            server.outbuf += b"\x15\x03\x03\x00\x02\x02\x28"
            server.write()
        elif kind == "rst":
            server.rst()
        elif kind != "silence":
            server.sock.shutdown(socket.SHUT_WR)
        self._await_abort(caller)
        server.close()

    # ---- Connected

    def _run_connected(self):
        c = self.case
        variant = "idle" if c.kind == "silence" and c.moment != "drain" \
            else "ok"
        self.lane.proxy.mark()
        caller, target = self.lane.pair(c.role, variant, self.flow)
        self.client_port = caller.sock.getsockname()[1]
        ender, other = (caller, target) if c.by_caller else (target, caller)
        for e in (ender, other):
            e.to_send = BASE
        if not drive([ender, other], lambda: ender.received == BASE ==
                     other.received):
            self.fault("N1", "nothing goes through")
            return
        if c.moment == "drain":
            self.lane.proxy.drain()
        if c.moment == "half":
            other.to_send += HALF
            drive([ender, other], lambda: not other.wants_write)
            if c.kind == "alert":
                self._half_unread(ender, other)
            else:
                self._half(ender, other)
        if c.moment == "full":
            other.reading = False
        self._end_it(ender, other, variant)
        self._check_books(ender, other)

    def _half(self, ender, other):
        other.finish()
        if not drive([ender, other], lambda: ender.end) or \
                ender.end != "clean" or ender.received != BASE + HALF:
            self.fault("N2", "first half: %s after %d of %d" % (
                ender.end, ender.received, BASE + HALF))

    @staticmethod
    def _half_unread(ender, other):
        """As above, but the close_notify stays in the ender's kernel: who has
        read one makes no alert any more."""
        drive([ender, other], lambda: ender.received == BASE + HALF)
        ender.reading = False
        other.finish()
        drive([other], lambda: select.select([ender.sock], [], [], 0)[0])

    def _say_end(self, end, kind):
        {"fin": end.finish, "rst": end.rst, "truncation": end.truncate,
         "alert": end.alert, "silence": lambda: None}[kind]()

    def _end_it(self, ender, other, variant):
        """Put what is pending on the way, end, and judge the other side."""
        kind = self.case.kind
        ender.to_send += self.case.pending
        drive([ender, other], lambda: not ender.wants_write or other.end,
              quiet=0.15 if self.case.moment == "full" else None)
        if not ender.tls:
            del ender.outbuf[:]
            ender.made = ender.handed
        ender.to_send = ender.made
        least = ender.acknowledged if kind == "rst" else ender.made
        if kind == "truncation":
            least = ender.delivered
        self._say_end(ender, kind)
        if kind == "silence":
            least = self._await_silence(ender, other, least)
        other.reading = True
        if not drive([ender, other], lambda: other.end):
            self.fault("N2" if kind == "fin" else "N4", "no end arrives")
        self._judge(ender, other, least)
        self._note("other", other)
        self._note("ender", ender)
        for e in (ender, other):
            e.close()

    def _await_silence(self, ender, other, least):
        """Its own timeout ends both; then nothing more is promised."""
        if other.reading:
            drive([ender, other],
                  lambda: other.received >= least or other.end)
        drive([ender, other], lambda: (
            other.end or ender.raw_end == "rst" or
            (ender.end and self.case.moment != "half")))
        return 0 if self.case.moment == "full" else least

    def _judge(self, ender, other, least):
        kind = self.case.kind
        if other.wrong is not None:
            self.fault("N1", "wrong byte at %d" % other.wrong)
        if other.received > ender.made:
            self.fault("N1", "more than was sent")
        if kind == "fin":
            self._judge_clean(ender, other)
            return
        if other.received < least:
            self.fault("N5", "%d of %d bytes" % (other.received, least))
        if other.end == "clean":
            self.fault("N4", "the abort looks like an end")
            return
        if not ender.dead and not ender.raw_end and self.case.kind != "alert":
            drive([ender], lambda: ender.end)
        if not ender.dead and ender.end == "clean" and \
                self.case.moment != "half":
            self.fault("N4", "whom it came from sees a clean end")

    def _judge_clean(self, ender, other):
        if other.received != ender.made or other.end != "clean":
            self.fault("N2", "%s after %d of %d" % (
                other.end, other.received, ender.made))
            return
        if self.case.moment == "half":
            return
        before = other.made
        other.to_send += LATE
        drive([ender, other], lambda: not other.wants_write)
        other.finish()
        drive([ender, other], lambda: ender.end)
        if ender.received < before + LATE:
            self.fault("N7", "late: %d of %d" % (
                ender.received - before, LATE))
        if ender.end != "clean":
            self.fault("N3", "the other direction: %s" % ender.end)
        if ender.wrong is not None:
            self.fault("N1", "wrong byte at %d" % ender.wrong)

    def _note(self, who, end):
        self.notes[who] = (end.end, end.raw_end, end.received)

    # ---- Its own numbers

    REASONS = {"fin": "%s-fin", "rst": "%s-rst", "truncation":
               "%s-truncated", "alert": "%s-alert"}

    def _reason(self):
        c = self.case
        if c.kind == "silence":
            return {"drain": "drain", "half": "half-close-idle"}.get(
                c.moment, "idle")
        first = c.side
        if c.kind == "fin" and c.moment == "half":
            first = "plain" if c.side == "mesh" else "mesh"
        return self.REASONS[c.kind] % first

    def _check_books(self, ender, other):
        books = self.lane.proxy.books(self.client_port)
        if not books:
            return
        given_in, given_out, dropped_in, dropped_out, reason = books
        mesh = ender if ender.tls else other
        plain = other if ender.tls else ender
        for what, given, dropped, source, sink in (
                ("in", given_in, dropped_in, mesh, plain),
                ("out", given_out, dropped_out, plain, mesh)):
            if not sink.received <= given <= given + dropped <= source.made:
                self.fault("N10", "%s: %d given, %d dropped; %d of %d came" % (
                    what, given, dropped, sink.received, source.made))
            if self.case.kind == "fin" and dropped:
                self.fault("N10", "%d bytes dropped, ended cleanly" % dropped)
        if reason != self._reason():
            self.fault("N10", "close=%s, not %s" % (reason, self._reason()))


# ---- Many cases

class Runner:
    """Runs cases on several lanes; a drain needs a proxy of its own."""

    def __init__(self, product, lanes=4, ca=None):
        self.product, self.ca = product, ca or ca_lib.CA()
        self.n = lanes
        self.lock = threading.Lock()
        self.results = {}
        self.errors = []

    def run(self, cases):
        if not PRODUCTS[self.product].drains:
            cases = [c for c in cases if c.moment != "drain"]
        queue = collections.deque(enumerate(cases))
        threads = [threading.Thread(target=self._work, args=(queue,))
                   for _ in range(self.n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if self.errors:
            raise self.errors[0]
        return self.results

    def _work(self, queue):
        lane = None
        try:
            while True:
                with self.lock:
                    if not queue or self.errors:
                        break
                    i, case = queue.popleft()
                if case.moment == "drain":
                    self._one(case, self._draining(case), i, True)
                else:
                    lane = lane or Lane(self.product, self.ca)
                    self._one(case, lane, i, False)
        except BaseException as error:
            self.errors.append(error)
        finally:
            if lane:
                lane.stop()

    def _draining(self, case):
        return Lane(self.product, self.ca, only={(case.role, "ok")},
                    drain="1s" if case.kind == "silence" else "20s")

    def _one(self, case, lane, i, own):
        started = time.monotonic()
        try:
            trial = Trial(case, lane, i).run()
            trial.took = time.monotonic() - started
        except Exception as error:
            raise AssertionError("%s: %r\n%s" % (
                case, error, "\n".join(lane.proxy.tail()))) from error
        finally:
            if own:
                lane.stop()
        with self.lock:
            self.results[case] = trial


def table(results):
    """A row for each case but the amount, a column for each amount."""
    rows = collections.OrderedDict()
    for case in sorted(results, key=lambda c: all_cases().index(c)):
        key = (case.role, case.side, case.kind, case.moment)
        faults = results[case].faults
        rows.setdefault(key, {})[case.pending] = ",".join(sorted(
            {f.split(":")[0] for f in faults})) or "ok"
    out = ["%-9s%-7s%-12s%-9s" % ("role", "side", "end", "moment") +
           "".join("%12s" % p for p in PENDING)]
    for key, cells in rows.items():
        out.append("%-9s%-7s%-12s%-9s" % key + "".join(
            "%12s" % cells.get(p, "-") for p in PENDING))
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--product", choices=sorted(PRODUCTS),
                        default="postern")
    parser.add_argument("--build", help="where postern was built")
    parser.add_argument("--sample", type=int, default=1,
                        help="every Nth case, and those with 16 KiB")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--case", help="only the cases with this in the name")
    args = parser.parse_args()
    if args.build:
        from lib import proxy
        proxy.BUILD = args.build
        proxy.BINARY = os.path.join(args.build, "postern")
    cases = sampled(args.sample)
    if args.case:
        cases = [c for c in all_cases() if args.case in str(c)]
    started = time.monotonic()
    results = Runner(args.product, args.lanes).run(cases)
    print(table(results))
    bad = [c for c in results if results[c].faults]
    for c in bad:
        print("%s: %s %s" % (c, "; ".join(results[c].faults),
                             results[c].notes))
    for c in results:
        if results[c].took > 5:
            print("%s: took %.1f s" % (c, results[c].took))
    print("%s: %d cases, %d of them broken, %.0f s" % (
        args.product, len(results), len(bad), time.monotonic() - started))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
