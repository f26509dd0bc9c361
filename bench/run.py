#!/usr/bin/python3
"""Postern beside HAProxy, nginx stream and Envoy: CPU time per unit of work.

Topology: plain generator -> proxy as TLS client -> the same product as TLS
server -> plain sink. Two processes per product, one worker each. Same key
type, same suite and group, TLS 1.3, mutual verification, no resumption, no
logs. CPU time (user and system) of the proxies' processes is divided by the
units that the generator saw completed; rounds of all products interleave, and
medians are compared inside this run only.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "system"))

from lib import agent as agent_lib  # noqa: E402
from lib.ca import CA  # noqa: E402
from lib.proxy import free_port, wait_for  # noqa: E402

SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"
CLIENT_ID, SERVER_ID = "spiffe://example.org/web", "spiffe://example.org/srv"
SERVER_NAME = "srv.example.org"


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, 0o644)
    return path


class Estate:
    """One CA, one SVID a side, as files and over the Workload API."""

    def __init__(self, folder):
        self.folder = folder
        ca = CA()
        # The DNS name is for products that can check no SPIFFE ID.
        self.client = ca.svid(CLIENT_ID)
        self.server = ca.svid(SERVER_ID, dns=[SERVER_NAME])
        self.ca = os.path.join(folder, "ca.pem")
        with open(self.ca, "wb") as f:
            f.write(ca.pem())
        self.agents = {}
        for side, svid in (("client", self.client), ("server", self.server)):
            agent = agent_lib.Agent(os.path.join(folder, side + ".agent"))
            agent.push(agent_lib.response(
                [agent_lib.x509_svid(svid, ca.der())]))
            self.agents[side] = agent
            cert, key = svid.pem_files(folder)
            os.chmod(cert, 0o644)
            setattr(self, side + "_cert", cert)
            setattr(self, side + "_key", key)
            both = os.path.join(folder, side + ".pem")
            with open(both, "w", encoding="ascii") as f:
                f.write(open(cert, encoding="ascii").read()
                        + open(key, encoding="ascii").read())
            setattr(self, side + "_pem", both)

    def stop(self):
        for agent in self.agents.values():
            agent.stop()


# ---- Products: commands of the two processes -------------------------------

def postern(e, build, plain, mesh, sink):
    binary = os.path.join(build, "postern")
    common = """[global]
workload_api = unix:{agent}
threads = 1
tls_profile = list
ciphersuites = %s
groups = %s
log_level = error
""" % (SUITE, GROUP)
    out = write(os.path.join(e.folder, "out.ini"), common.format(
        agent=e.agents["client"].path) + """[outbound b]
listen = 127.0.0.1:%d
connect = 127.0.0.1:%d
expect = %s
caller = any
log_sample = 1/1000000
""" % (plain, mesh, SERVER_ID))
    inn = write(os.path.join(e.folder, "in.ini"), common.format(
        agent=e.agents["server"].path) + """[inbound a]
listen = 127.0.0.1:%d
forward = 127.0.0.1:%d
allow = %s
log_sample = 1/1000000
""" % (mesh, sink, CLIENT_ID))
    user = ["--user", "65111"] if os.geteuid() == 0 else []
    return [[binary, "run", "--config", c, "--control",
             os.path.join(e.folder, n + ".ctl"), *user]
            for c, n in ((out, "out"), (inn, "in"))]


def haproxy(e, _build, plain, mesh, sink):
    common = """global
  nbthread 1
  maxconn 9000
  ssl-default-bind-ciphersuites %s
  ssl-default-server-ciphersuites %s
  ssl-default-bind-curves %s
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
  tune.ssl.cachesize 0
  tune.bufsize 16384
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  maxconn 9000
""" % (SUITE, SUITE, GROUP)
    out = write(os.path.join(e.folder, "ha-out.cfg"), common + """listen b
  bind 127.0.0.1:%d
  server s 127.0.0.1:%d ssl verify required verifyhost %s ca-file %s crt %s no-ssl-reuse
""" % (plain, mesh, SERVER_NAME, e.ca, e.client_pem))
    inn = write(os.path.join(e.folder, "ha-in.cfg"), common + """listen a
  bind 127.0.0.1:%d ssl crt %s verify required ca-file %s
  tcp-request content reject unless { ssl_c_used }
  server s 127.0.0.1:%d
""" % (mesh, e.server_pem, e.ca, sink))
    return [["haproxy", "-db", "-f", out], ["haproxy", "-db", "-f", inn]]


def nginx(e, _build, plain, mesh, sink):
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    common = """load_module %s;
daemon off; master_process off; worker_processes 1;
pid %%s; error_log stderr crit; user root;
events { worker_connections 18000; }
stream { access_log off;
""" % module
    out = write(os.path.join(e.folder, "ng-out.conf"),
                common % os.path.join(e.folder, "ng-out.pid") + """
server { listen 127.0.0.1:%d backlog=4096; proxy_pass 127.0.0.1:%d;
 proxy_timeout 1h;
 proxy_ssl on; proxy_ssl_verify on; proxy_ssl_verify_depth 3; proxy_ssl_name %s;
 proxy_ssl_trusted_certificate %s; proxy_ssl_certificate %s;
 proxy_ssl_certificate_key %s; proxy_ssl_session_reuse off;
 proxy_ssl_protocols TLSv1.3;
 proxy_ssl_conf_command Ciphersuites %s; proxy_ssl_conf_command Groups %s;
} }
""" % (plain, mesh, SERVER_NAME, e.ca, e.client_cert, e.client_key, SUITE,
       GROUP))
    inn = write(os.path.join(e.folder, "ng-in.conf"),
                common % os.path.join(e.folder, "ng-in.pid") + """
server { listen 127.0.0.1:%d ssl backlog=4096; proxy_pass 127.0.0.1:%d;
 proxy_timeout 1h;
 ssl_certificate %s; ssl_certificate_key %s; ssl_client_certificate %s;
 ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_tickets off;
 ssl_session_cache off; ssl_ecdh_curve %s; ssl_conf_command Ciphersuites %s;
} }
""" % (mesh, sink, e.server_cert, e.server_key, e.ca, GROUP, SUITE))
    return [["nginx", "-c", out], ["nginx", "-c", inn]]


def envoy_tls(e, side):
    return {
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": [GROUP]},
            "tls_certificates": [{
                "certificate_chain": {"filename": getattr(e, side + "_cert")},
                "private_key": {"filename": getattr(e, side + "_key")}}],
            "validation_context": {
                "trusted_ca": {"filename": e.ca},
                "match_typed_subject_alt_names": [{
                    "san_type": "URI", "matcher": {
                        "exact": SERVER_ID if side == "client" else CLIENT_ID}}]},
        }}


def envoy_config(e, name, listen, target, tls_side):
    up = tls_side == "client"
    kind = "UpstreamTlsContext" if up else "DownstreamTlsContext"
    tls = envoy_tls(e, tls_side)
    if not up:
        tls["require_client_certificate"] = True
        tls["disable_stateless_session_resumption"] = True
        tls["disable_stateful_session_resumption"] = True
    else:
        tls["max_session_keys"] = 0
    tls["@type"] = ("type.googleapis.com/envoy.extensions.transport_sockets."
                    "tls.v3." + kind)
    socket_tls = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    chain = {"filters": [{
        "name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network."
                     "tcp_proxy.v3.TcpProxy",
            "stat_prefix": "x", "cluster": "c", "idle_timeout": "0s"}}]}
    cluster = {
        "name": "c", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": 1000000, "max_pending_requests": 1000000}]},
        "load_assignment": {"cluster_name": "c", "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": target}}}}]}]}}
    if up:
        cluster["transport_socket"] = socket_tls
    else:
        chain["transport_socket"] = socket_tls
    config = {
        "stats_config": {"stats_matcher": {"reject_all": True}},
        "static_resources": {
            "listeners": [{
                "name": "l", "tcp_backlog_size": 4096,
                "address": {"socket_address": {
                    "address": "127.0.0.1", "port_value": listen}},
                "filter_chains": [chain]}],
            "clusters": [cluster]}}
    return write(os.path.join(e.folder, name), json.dumps(config))


def envoy(e, build, plain, mesh, sink):
    binary = os.environ.get("ENVOY", "envoy")
    out = envoy_config(e, "ev-out.json", plain, mesh, "client")
    inn = envoy_config(e, "ev-in.json", mesh, sink, "server")
    return [[binary, "-c", c, "--concurrency", "1", "--disable-hot-restart",
             "--log-level", "off"] for c in (out, inn)]


PRODUCTS = {"postern": postern, "haproxy": haproxy, "nginx": nginx,
            "envoy": envoy}


# ---- Where things run: with --pin the proxies share the last core, and
# ---- generator and sink the first; without, the kernel decides.

CORES = sorted(os.sched_getaffinity(0))
PIN = "--pin" in sys.argv
ON_FIRST = ["taskset", "-c", str(CORES[0])] if PIN else []
ON_LAST = ["taskset", "-c", str(CORES[-1])] if PIN else []


# ---- Measuring -------------------------------------------------------------

TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """User and system seconds of PID, from its scheduler statistics."""
    total = 0
    for task in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, task),
                      encoding="ascii") as f:
                total += int(f.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def pss_bytes(pid):
    with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Running:
    """Both hops of one product."""

    def __init__(self, name, estate, build, sink):
        self.name = name
        self.folder = estate.folder
        self.plain, mesh = free_port(), free_port()
        self.processes = [
            subprocess.Popen(ON_LAST + c, stderr=open(self.log_of(i), "wb"),
                             stdout=subprocess.DEVNULL)
            for i, c in enumerate(PRODUCTS[name](
                estate, build, self.plain, mesh, sink))]
        wait_for(self._works, "%s relays a byte" % name, 30)

    def log_of(self, i):
        return os.path.join(self.folder, "%s-%d.log" % (self.name, i))

    def _works(self):
        for p in self.processes:
            if p.poll() is not None:
                log = open(self.log_of(self.processes.index(p)),
                           encoding="utf-8", errors="replace").read()
                raise SystemExit("%s ended at once:\n%s" % (self.name, log))
        try:
            with socket.create_connection(("127.0.0.1", self.plain), 2) as s:
                s.settimeout(2)
                s.sendall(b"Ex")
                return s.recv(1) == b"x"
        except OSError:
            time.sleep(0.1)
            return False

    def cpu(self):
        return [cpu_s(p.pid) for p in self.processes]

    def memory(self):
        return [pss_bytes(p.pid) for p in self.processes]

    def stop(self):
        for p in self.processes:
            p.send_signal(signal.SIGTERM)
        for p in self.processes:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


# name, arguments of load, units, factor for the printed figure, its unit
WORK = [
    ("bulk to mesh", ["up", "{port}", "4", "{bulk}"], 1e9, "s/GB"),
    ("bulk to plain", ["down", "{port}", "4", "{bulk}"], 1e9, "s/GB"),
    ("small message", ["echo", "{port}", "16", "{echo}", "64"], 1e6 / 1e6, "us"),
    ("new connection", ["conn", "{port}", "8", "{conn}"], 1, "us"),
]


def round_of(load, running, work, args):
    before = running.cpu()
    done = subprocess.run(
        [*ON_FIRST, load, *[w.format(port=running.plain, bulk=args.bulk, echo=args.echo,
                          conn=args.conn) for w in work[1]]],
        capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        return None
    time.sleep(0.05)  # the proxies finish closing; their time is counted
    after = running.cpu()
    result = json.loads(done.stdout)
    units = result["units"]
    scale = 1e9 if work[3] == "s/GB" else 1e6
    hops = [(b - a) / units * scale for a, b in zip(before, after)]
    return hops + [sum(hops)]


def idle_of(load, running, count):
    before = running.memory()
    p = subprocess.Popen([*ON_FIRST, load, "idle", str(running.plain), str(count)],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdout.readline()
    time.sleep(1.5)  # allocators give back what they will
    after = running.memory()
    p.communicate(b"")
    return [(b - a) / count / 1024 for a, b in zip(before, after)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build")
    parser.add_argument("--products", default="postern,haproxy,nginx,envoy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bulk", type=int, default=256, help="MiB a stream")
    parser.add_argument("--echo", type=int, default=4000)
    parser.add_argument("--conn", type=int, default=1500)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--pin", action="store_true",
                        help="proxies on one core, load on another")
    parser.add_argument("--json")
    parser.add_argument("--only", help="one kind of work")
    args = parser.parse_args()
    load = os.path.join(args.build, "bench", "load")
    folder = tempfile.mkdtemp(prefix="postern-bench-")
    os.chmod(folder, 0o755)
    if os.geteuid() == 0:  # Postern gives up root
        os.chown(folder, 65111, 65111)
    estate = Estate(folder)
    sink_port = free_port()
    sink = subprocess.Popen([*ON_FIRST, load, "sink", str(sink_port)])
    names = args.products.split(",")
    results = {}
    running = {}
    try:
        for name in names:
            running[name] = Running(name, estate, args.build, sink_port)
        for work in WORK:
            if args.only and args.only != work[0]:
                continue
            for i in range(args.rounds + 1):
                order = names if i % 2 else names[::-1]
                for name in order:
                    figures = round_of(load, running[name], work, args)
                    if i > 0:  # the first round warms up
                        results.setdefault(work[0], {}).setdefault(
                            name, []).append(figures)
        if not args.only or args.only == "idle memory":
            for name in names:
                results.setdefault("idle memory", {})[name] = [
                    idle_of(load, running[name], args.idle)
                    for _ in range(1)]
    finally:
        for r in running.values():
            r.stop()
        sink.terminate()
        sink.wait()
        estate.stop()
        shutil.rmtree(folder, ignore_errors=True)
    report(results, names, args)


def median(rounds, column):
    good = [r[column] for r in rounds if r]
    return statistics.median(good) if good else float("nan")


def report(results, names, args):
    units = {w[0]: w[3] for w in WORK}
    print("| work | unit | %s |" % " | ".join(names))
    print("|---|---|%s" % ("---|" * len(names)))
    for work, by_name in results.items():
        if work == "idle memory":
            for column, role in ((1, "inbound"), (0, "outbound")):
                print("| idle memory, %s | KiB | %s |" % (role, " | ".join(
                    "%.1f" % median(by_name[n], column) for n in names)))
            continue
        for column, role in ((0, "outbound hop"), (1, "inbound hop"),
                             (2, "both hops")):
            print("| %s, %s | %s | %s |" % (
                work, role, units[work], " | ".join(
                    "%.3g" % median(by_name[n], column) for n in names)))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
