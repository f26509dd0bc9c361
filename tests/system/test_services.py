"""Databases, caches and web servers through two Posterns, while their
certificates rotate and their rules are reloaded: nothing may fail.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from lib import real
from lib.estate import Listener
from lib.proxy import DEADLINE, free_port, wait_for
from lib.real import Pair, Program, shorter

SECONDS = shorter(7, 120)


@pytest.fixture(scope="module")
def module_folder():
    path = tempfile.mkdtemp(prefix="postern-real-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def owned_folder(parent, user):
    path = os.path.join(parent, user)
    os.mkdir(path, 0o700)
    if os.geteuid() == 0:
        shutil.chown(path, user, user)
    return path


def run(command, seconds=SECONDS + 60, **kw):
    done = subprocess.run(command, capture_output=True, text=True,
                          timeout=seconds, check=False, **kw)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- PostgreSQL


class Postgres:
    """A cluster of the test's own, with pgbench's tables."""

    def __init__(self, folder):
        initdb, server = real.pg_tool("initdb"), real.pg_tool("postgres")
        self.psql, self.pgbench = real.pg_tool("psql"), real.pg_tool("pgbench")
        home = owned_folder(folder, "postgres")
        self.port = free_port()
        who = real.as_user("postgres")
        data = os.path.join(home, "data")
        run([initdb, "-D", data, "-A", "trust", "-U", "postgres", "-N"],
            cwd=home, **who)
        self.program = Program(
            [server, "-D", data, "-p", str(self.port), "-k", home,
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
             "-c", "max_connections=200"],
            stop_by=signal.SIGINT, cwd=home, **who)
        self.program.wait_line("ready to accept connections", seconds=60)
        run([self.pgbench, *self.at(self.port), "-i", "-q", "-s", "1",
             "postgres"])

    @staticmethod
    def at(port):
        return ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]

    def query(self, sql, port=None):
        return run([self.psql, *self.at(port or self.port), "-XAtc", sql,
                    "postgres"]).strip()


@pytest.fixture(scope="module")
def postgres(module_folder):
    server = Postgres(module_folder)
    yield server
    server.program.stop()


@pytest.mark.parametrize("mode", [
    ["-M", "simple"], ["-M", "prepared"], ["-M", "simple", "-C"]],
    ids=["simple", "prepared", "connection-each"])
def test_pgbench_loses_no_transaction(postgres, mode):
    with Pair("127.0.0.1:%d" % postgres.port) as pair:
        text = run([postgres.pgbench, *postgres.at(pair.plain), "-n", "-c", "8",
                    "-j", "2", "-T", str(SECONDS), *mode, "postgres"])
        done = int(re.search(r"actually processed: (\d+)", text).group(1))
        failed = re.search(r"failed transactions: (\d+)", text)
        assert done > 0 and "aborted" not in text, text
        assert failed is None or failed.group(1) == "0", text
        assert pair.rotations() >= 2 and pair.reloads >= 1
        assert postgres.query("select 40 + 2", pair.plain) == "42"
        pair.assert_clean()


def test_postgres_rows_arrive_whole(postgres):
    with Pair("127.0.0.1:%d" % postgres.port) as pair:
        sql = ("select md5(string_agg(repeat(md5(i::text), 1000), '')) "
               "from generate_series(1, 500) i")
        rows = ("copy (select repeat(md5(i::text), 1000) "
                "from generate_series(1, 500) i) to stdout")
        got = hashlib.md5(postgres.query(rows, pair.plain).replace(
            "\n", "").encode()).hexdigest()
        assert got == postgres.query(sql)


@pytest.mark.case("C-019")
def test_postgres_cancel_reaches_the_server_of_its_query(postgres):
    """The cancel request is a connection of its own: with two targets, of
    which the first was dead, both must land on the same one, also when the
    first has come back in between."""
    first = free_port()
    lines = "connect = 127.0.0.1:%d\nconnect = 127.0.0.1:{mesh}" % first
    with Pair("127.0.0.1:%d" % postgres.port, reload=0, connect=lines) as pair:
        back = None
        for n in range(shorter(10, 100)):
            psql = Program([postgres.psql, *postgres.at(pair.plain), "-XAtc",
                            "select 'round %d', pg_sleep(60)" % n, "postgres"],
                           stop_by=signal.SIGKILL)
            with psql:
                wait_for(lambda n=n: postgres.query(
                    "select count(*) from pg_stat_activity where state = "
                    "'active' and query like 'select ''round %d''%%'" % n)
                    == "1", "the query runs")
                if n == 3:
                    back = Returned(first)
                psql.process.send_signal(signal.SIGINT)
                assert psql.wait() != 0
                assert "canceling statement due to user request" in psql.text
        assert back.nobody_came()
        back.close()


class Returned(Listener):
    """The first target, alive again."""

    def __init__(self, port):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(16)


# ---- Redis


@pytest.fixture(scope="module")
def redis(module_folder):
    server = real.tool("redis-server")
    real.tool("redis-benchmark")
    home = owned_folder(module_folder, "redis")
    port = free_port()
    program = Program([server, "--port", str(port), "--bind", "127.0.0.1",
                       "--save", "", "--appendonly", "no", "--dir", home],
                      **real.as_user("redis"))
    wait_for(lambda: real.is_open(port), "redis listens")
    program.port = port
    yield program
    program.stop()


def test_redis_benchmark_has_no_error(redis):
    with Pair("127.0.0.1:%d" % redis.port) as pair:
        for keep in ("1", "0"):  # a connection for all, one for each
            text = run([
                "redis-benchmark", "-h", "127.0.0.1", "-p", str(pair.plain),
                "-c", "20", "-n", str(shorter(8000, 400000)
                                      if keep == "1" else shorter(800, 20000)),
                "-k", keep, "-d", "1000", "-t", "set,get,lrange_100", "--csv"])
            assert '"SET"' in text and '"GET"' in text, text
            assert "rror" not in text, text
        pair.assert_clean()


class Resp:
    """The little of Redis' protocol that a subscriber needs."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.file = self.sock.makefile("rb")

    def send(self, *words):
        out = b"*%d\r\n" % len(words)
        for w in words:
            out += b"$%d\r\n%s\r\n" % (len(w), w)
        self.sock.sendall(out)

    def reply(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), "the stream ended"
        kind, rest = line[:1], line[1:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"$":
            return self.file.read(int(rest) + 2)[:-2]
        return rest

    def close(self):
        self.file.close()
        self.sock.close()


def news(n):
    return b"%08d" % n * (1 + n * 997 % 5000)


def test_redis_subscriber_misses_nothing_while_certificates_rotate(redis):
    """One connection that lives through all rotations and reloads."""
    with Pair("127.0.0.1:%d" % redis.port, rotate=1, reload=1) as pair:
        listener, sender = Resp(pair.plain), Resp(pair.plain)
        listener.send(b"SUBSCRIBE", b"news")
        assert listener.reply()[0] == b"subscribe"
        done, count, seen = threading.Event(), [0], [0]
        # The server cuts a subscriber off that falls far behind.
        ahead = threading.Semaphore(100)

        def publish():
            while not done.is_set():
                ahead.acquire()
                sender.send(b"PUBLISH", b"news", news(count[0]))
                assert sender.reply() == b"1", redis.text
                count[0] += 1
            sender.send(b"PUBLISH", b"news", b"end")

        thread = threading.Thread(target=publish)
        until = pair.rotations() + shorter(4, 60)
        thread.start()
        try:
            while True:
                kind, _, body = listener.reply()
                if body == b"end":
                    break
                assert kind == b"message" and body == news(seen[0])
                seen[0] += 1
                ahead.release()
                if seen[0] % 500 == 0 and pair.rotations() >= until:
                    done.set()
        except AssertionError as error:
            raise AssertionError("%s\n%s\n%s" % (
                error, redis.text, "\n".join(
                    pair.inbound.lines + pair.outbound.lines))) from None
        finally:
            done.set()
            ahead.release()
            thread.join()
        assert seen[0] == count[0] and pair.reloads >= 1
        listener.close()
        sender.close()


# ---- MariaDB


@pytest.fixture(scope="module")
def mariadb(module_folder):
    install, server = real.tool("mariadb-install-db"), real.tool("mariadbd")
    real.tool("mariadb"), real.tool("mariadb-slap")
    home = owned_folder(module_folder, "mysql")
    data, port = os.path.join(home, "data"), free_port()
    who = real.as_user("mysql")
    run([install, "--no-defaults", "--datadir=" + data, "--skip-test-db",
         "--auth-root-authentication-method=normal"], cwd=home, **who)
    program = Program(
        [server, "--no-defaults", "--datadir=" + data, "--port=%d" % port,
         "--bind-address=127.0.0.1", "--socket=" + home + "/s.sock",
         "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0",
         "--max-allowed-packet=64M"], cwd=home, **who)
    program.wait_line("ready for connections", seconds=60)
    run(["mariadb", "--no-defaults", "-S", home + "/s.sock", "-u", "root",
         "-e", "create user t@'127.0.0.1' identified by 'p'; "
         "grant all on *.* to t@'127.0.0.1'"])
    yield port
    program.stop()


def maria_at(port):
    return ["--no-defaults", "-h", "127.0.0.1", "-P", str(port), "-u", "t",
            "-pp", "--skip-ssl"]


def test_mariadb_whose_server_speaks_first(mariadb):
    with Pair("127.0.0.1:%d" % mariadb) as pair:
        run(["mariadb-slap", *maria_at(pair.plain), "--concurrency=8",
             "--iterations=1", "--auto-generate-sql",
             "--number-of-queries=%d" % shorter(2000, 100000),
             "--auto-generate-sql-load-type=mixed"])
        text = run(["mariadb", *maria_at(pair.plain), "--max-allowed-packet=64M",
                    "-N", "-B", "-e", "select repeat('0123456789abcdef', 500000)"])
        assert text.strip() == "0123456789abcdef" * 500000
        for _ in range(shorter(40, 1000)):
            assert run(["mariadb", *maria_at(pair.plain), "-N", "-B", "-e",
                        "select 6 * 7"]).strip() == "42"
        pair.assert_clean()


# ---- HTTP

BLOCK = 1048573  # a prime: no buffer size divides it
PATTERN = bytes(hashlib.shake_256(b"postern").digest(BLOCK)) * 2
TOTAL = shorter(256, 1024) << 20


class Checker:
    """Every byte is a function of its offset, looked at on arrival."""

    def __init__(self):
        self.count = 0

    def take(self, data):
        at = self.count % BLOCK
        if len(data) > BLOCK:
            for i in range(0, len(data), BLOCK):
                self.take(data[i:i + BLOCK])
            return
        assert data == PATTERN[at:at + len(data)], (
            "a wrong byte in %d bytes from %d" % (len(data), self.count))
        self.count += len(data)


def pieces(total):
    sent = 0
    while sent < total:
        at = sent % BLOCK
        n = min(262144, total - sent)
        yield PATTERN[at:at + n]
        sent += n


def read_head(file):
    lines = [file.readline().strip()]
    while lines[-1]:
        lines.append(file.readline().strip())
    return lines


class Web(threading.Thread):
    """GET sends the pattern, PUT checks it and answers with a count."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = Listener()
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.listener.sock.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            conn.settimeout(DEADLINE * 3)
            threading.Thread(target=self._serve, args=(conn,),
                             daemon=True).start()

    @staticmethod
    def _serve(conn):
        with conn, conn.makefile("rb") as file:
            head = read_head(file)
            if head[0].startswith(b"GET"):
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
                             b"Connection: close\r\n\r\n" % TOTAL)
                for piece in pieces(TOTAL):
                    conn.sendall(piece)
                return
            length = next(int(h.split(b":")[1]) for h in head
                          if h.lower().startswith(b"content-length"))
            # curl waits for this before it sends a body.
            conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            check = Checker()
            try:
                while check.count < length:
                    data = file.read1(262144)
                    if not data:
                        break
                    check.take(data)
                answer = b"%d right" % check.count
            except AssertionError as error:
                answer = str(error).encode()
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
                         b"Connection: close\r\n\r\n%s" % (len(answer), answer))


def fetch(port, check):
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.settimeout(DEADLINE * 3)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with sock.makefile("rb") as file:
            assert read_head(file)[0].endswith(b"200 OK")
            while True:
                data = file.read1(262144)
                if not data:
                    return
                check.take(data)


def test_http_download_and_upload_have_every_byte_right(folder):
    """Both at once: the two directions share one thread."""
    curl, web = real.tool("curl"), Web()
    with Pair(web.listener.addr, rotate=1, reload=1) as pair:
        source = os.path.join(folder, "source")
        with open(source, "wb") as f:
            for piece in pieces(TOTAL):
                f.write(piece)
        rounds = 0
        while rounds == 0 or pair.rotations() < 2 or pair.reloads < 1:
            upload = Program([curl, "-sS", "-T", source,
                              "http://127.0.0.1:%d/" % pair.plain])
            check = Checker()
            with upload:
                fetch(pair.plain, check)
                assert check.count == TOTAL
                assert upload.wait(DEADLINE * 6) == 0, upload.text
                assert upload.text == "%d right" % TOTAL
            rounds += 1
        pair.assert_clean()


NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def test_nginx_serves_many_small_files_and_keeps_connections(folder):
    nginx, curl = real.tool("nginx"), real.tool("curl")
    port = free_port()
    conf = os.path.join(folder, "nginx.conf")
    with open(conf, "w", encoding="utf-8") as f:
        f.write(NGINX.format(folder=folder, port=port))
    for n in range(50):
        with open(os.path.join(folder, "f%d" % n), "wb") as f:
            f.write(PATTERN[n:n + n * 1009])
    want = hashlib.sha256(b"".join(
        PATTERN[n:n + n * 1009] for n in range(50))).hexdigest()
    with Program([nginx, "-e", "stderr", "-c", conf, "-p", folder]), \
            Pair("127.0.0.1:%d" % port, reload=1) as pair:
        wait_for(lambda: real.is_open(port), "nginx listens")
        for version in ("--http1.1", "--http1.0"):  # one connection, or 50
            for _ in range(shorter(4, 100)):
                done = subprocess.run(
                    [curl, "-sSf", version,
                     "http://127.0.0.1:%d/f[0-49]" % pair.plain],
                    capture_output=True, timeout=60, check=True)
                assert hashlib.sha256(done.stdout).hexdigest() == want
        pair.assert_clean()
