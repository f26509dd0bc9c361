"""A Workload API server on grpcio in a process of its own, told what to say
by the same lines as tests/interop/js/agent.js.
"""

import base64
import json
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)),
                                "../../system"))

from lib import agent as agent_lib  # noqa: E402

import grpc  # noqa: E402

CODES = {code.value[0]: code for code in grpc.StatusCode}
_lock = threading.Lock()


def tell(**what):
    with _lock:
        print(json.dumps(what), flush=True)


class Telling(agent_lib.Agent):
    def _fetch(self, request, context):
        seen = {}
        for key, value in context.invocation_metadata():
            seen.setdefault(key, []).append(str(value))
        # No public name tells the :authority.
        host = context._rpc_event.call_details.host
        tell(request=request.hex(), metadata=list(seen.items()),
             authority=host.decode() if isinstance(host, bytes) else host)
        return super()._fetch(request, context)


def main():
    server = Telling(sys.argv[1])
    tell(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "push" in order:
            server.push(base64.b64decode(order["push"]))
        elif "refuse" in order:
            code, text = order["refuse"]
            server.refuse(CODES[code], text)
        elif "silence" in order:
            server.silence()
        elif "end" in order:
            server._end_streams()
        elif "drain" in order:
            gone = server._server.stop(60)
            threading.Thread(target=lambda: (
                gone.wait(), tell(drained=True)), daemon=True).start()
        tell(done=True)
    os._exit(0)


main()
