#!/usr/bin/env bash
# uvicorn 0.54.0 with h11 0.16.0: head, body and end of a response are written one by one, each with a call of the system.
#
# Expected: a response whose whole body is known leaves in one send.
# Seen:     two writes for a body of known length, and three for a chunked one, whose end follows by itself. Each send gives the
#           interpreter away. Where another thread computes, the loop then waits to get it back: 0.2 ms a send beside ONNX Runtime.
# Output seen:
#   known length: writes of 112, 15 bytes
#   chunked: writes of 120, 20, 5 bytes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet uvicorn==0.54.0 h11==0.16.0
cat > probe.py <<'PY'
import asyncio
import socket
from asyncio.selector_events import _SelectorSocketTransport

import uvicorn

BODY = b'{"status":"ok"}'
written: list[int] = []
write = _SelectorSocketTransport.write


def counted(self, data):
    if data:
        written.append(len(data))
    return write(self, data)


_SelectorSocketTransport.write = counted


async def app(scope, receive, send):
    known = [(b"content-length", b"15")] if scope["path"] == "/known" else []
    await send({"type": "http.response.start", "status": 200, "headers": known})
    await send({"type": "http.response.body", "body": BODY})


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.write = lambda data: write(writer.transport, data)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()
    sizes, written[:] = list(written), []
    return ", ".join(map(str, sizes))


async def main():
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="h11", loop="asyncio", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await asyncio.sleep(0.5)
    port = listening.getsockname()[1]
    print(f"known length: writes of {await ask(port, '/known')} bytes")
    print(f"chunked: writes of {await ask(port, '/chunked')} bytes")
    server.should_exit = True
    await task


asyncio.run(main())
PY
env/bin/python probe.py
