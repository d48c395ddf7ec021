"""Real peers of long exchanges: started by tests/it/peers.rs, which says where and how long.

    streams.py serve-grpc             a gRPC server; prints its port
    streams.py serve-ws               a WebSocket server that echoes; prints its port
    streams.py chat ADDR N PAUSE_S    a bidirectional gRPC stream with N messages, a pause before each
    streams.py quiet ADDR             a gRPC stream that stays open and quiet, until it is ended
    streams.py calls                  gRPC calls, each told by a line of JSON on the standard input
    streams.py ws ADDR                a WebSocket that stays open, until it is ended
    streams.py sse ADDR               an event stream over HTTP/1.1, until it is ended

Clients print `open` once there is something to end, then one line of JSON about the end.
"""

import http.client
import json
import sys
import time
from concurrent import futures

TIMEOUT_S = 60
USER = ("x-user", "alice")
METHOD = "/orders/chat"


def said(what):
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


def serve_grpc():
    import grpc

    def echo(messages, context):
        for message in messages:
            yield message

    class Any(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.stream_stream_rpc_method_handler(echo)

    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([Any()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    said(str(port))
    sys.stdin.read()


def ended(begun, code, text):
    said({"code": code, "text": text, "ended": time.time(), "lasted": time.time() - begun})


def grpc_call(addr, messages):
    import grpc

    channel = grpc.insecure_channel(addr)
    call = channel.stream_stream(METHOD)(messages, metadata=(USER,), timeout=TIMEOUT_S)
    return channel, call


def chat(addr, count, pause):
    import grpc

    def messages():
        for n in range(count):
            time.sleep(pause)
            yield str(n).encode()

    begun, got = time.time(), 0
    _channel, call = grpc_call(addr, messages())
    try:
        for message in call:
            assert message == str(got).encode(), message
            got += 1
    except grpc.RpcError as error:
        return ended(begun, error.code().name, error.details())
    said({"code": call.code().name, "got": got, "lasted": time.time() - begun})


def quiet(addr):
    import grpc
    import threading

    over = threading.Event()

    def messages():
        yield b"hello"
        over.wait(TIMEOUT_S)

    begun = time.time()
    _channel, call = grpc_call(addr, messages())
    try:
        for message in call:
            assert message == b"hello"
            said("open")
        ended(begun, call.code().name, call.details())
    except grpc.RpcError as error:
        ended(begun, error.code().name, error.details())
    over.set()


def calls():
    import grpc

    for line in sys.stdin:
        told = json.loads(line)
        begun = time.time()
        options = [("grpc.default_authority", told["authority"])]
        messages = iter([b"x" * told["bytes"]])
        metadata = [tuple(pair) for pair in told["metadata"]]
        with grpc.insecure_channel(told["addr"], options) as channel:
            call = channel.stream_stream(told["path"])(messages, metadata=metadata, timeout=TIMEOUT_S)
            try:
                list(call)
                ended(begun, call.code().name, call.details())
            except grpc.RpcError as error:
                ended(begun, error.code().name, error.details())


def serve_ws():
    import asyncio
    from websockets.asyncio.server import serve

    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    async def main():
        async with serve(echo, "127.0.0.1", 0) as server:
            said(str(server.sockets[0].getsockname()[1]))
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(main())


def ws(addr):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    begun = time.time()
    socket = connect(f"ws://{addr}/orders/ws", additional_headers=[USER], proxy=None)
    socket.send("hello")
    assert socket.recv(TIMEOUT_S) == "hello"
    said("open")
    try:
        socket.recv(TIMEOUT_S)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else None
        ended(begun, code, closed.rcvd.reason if closed.rcvd else "no close frame")


def sse(addr):
    begun = time.time()
    connection = http.client.HTTPConnection(addr, timeout=TIMEOUT_S)
    connection.request("GET", "/orders/events", headers=dict([USER]))
    response = connection.getresponse()
    assert response.status == 200, response.status
    assert response.readline().startswith(b"data:")
    said("open")
    try:
        # Whole bodies only: `readline` takes a missing last chunk for the end.
        response.read()
        ended(begun, "end", "")
    except http.client.IncompleteRead:
        ended(begun, "broken", "")


match sys.argv[1:]:
    case ["serve-grpc"]:
        serve_grpc()
    case ["serve-ws"]:
        serve_ws()
    case ["chat", addr, count, pause]:
        chat(addr, int(count), float(pause))
    case ["quiet", addr]:
        quiet(addr)
    case ["calls"]:
        calls()
    case ["ws", addr]:
        ws(addr)
    case ["sse", addr]:
        sse(addr)
    case _:
        sys.exit(__doc__)
