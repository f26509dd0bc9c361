"""A SPIFFE Workload API server on grpcio, whose gRPC is not ours.

Messages are encoded by hand: four fields of proto3 need no generated code,
and a test can send what no encoder would write.
"""

import concurrent.futures
import os
import queue
import threading

# The tests start processes all the time and never serve from a child: gRPC's
# handlers around fork can only get in the way, and on 1.51 and later they may
# wait for ever.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402


def _varint(n):
    out = b""
    while n > 0x7f:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    """One length-delimited field."""
    if isinstance(data, str):
        data = data.encode()
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def x509_svid(svid, bundle, hint="", spiffe_id=None):
    """One X509SVID message. BUNDLE is DER, back to back."""
    out = field(1, svid.id if spiffe_id is None else spiffe_id)
    out += field(2, svid.chain_der())
    out += field(3, svid.key_der())
    out += field(4, bundle)
    return out + (field(5, hint) if hint else b"")


def response(svids, federated=None, crls=()):
    """X509SVIDResponse. SVIDS: encoded messages; FEDERATED: {key: DER}."""
    out = b"".join(field(1, s) for s in svids)
    out += b"".join(field(2, c) for c in crls)
    for name, der in (federated or {}).items():
        out += field(3, field(1, name) + field(2, der))
    return out


class Agent:
    """Serves the last pushed message to each stream, then every new one."""

    def __init__(self, path):
        self.path = path
        self._lock = threading.Lock()
        self._streams = []
        self._last = None
        self._error = None
        self.opened = 0
        self.requests = []
        self._server = None
        self.start()

    # ---- Life

    def start(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        handler = grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {
            "FetchX509SVID": grpc.unary_stream_rpc_method_handler(
                self._fetch, request_deserializer=bytes,
                response_serializer=bytes)})
        self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(16),
            options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port("unix:" + self.path)
        self._server.start()
        os.chmod(self.path, 0o777)

    def stop(self):
        self._end_streams()
        self._server.stop(0).wait()

    def _end_streams(self):
        with self._lock:
            for q in self._streams:
                q.put(None)
            self._streams = []

    # ---- What it says

    def push(self, message):
        with self._lock:
            self._last, self._error = message, None
            for q in self._streams:
                q.put(message)

    def refuse(self, code=grpc.StatusCode.PERMISSION_DENIED,
               text="no identity issued"):
        """End every stream with CODE, and every new one."""
        with self._lock:
            self._error = (code, text)
            self._last = None
            for q in self._streams:
                q.put((code, text))
            self._streams = []

    def silence(self):
        """Streams open, and nothing is sent."""
        with self._lock:
            self._last = self._error = None

    def _fetch(self, request, context):
        q = queue.Queue()
        with self._lock:
            self.opened += 1
            self.requests.append(
                (request, dict(context.invocation_metadata())))
            if self._error:
                code, text = self._error
                context.abort(code, text)
            if self._last is not None:
                q.put(self._last)
            self._streams.append(q)
        context.add_callback(lambda: q.put(None))
        while True:
            item = q.get()
            if item is None:
                return
            if isinstance(item, tuple):
                context.abort(*item)
            yield item
