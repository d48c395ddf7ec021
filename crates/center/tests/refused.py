"""Asks for what is refused, over and over, as any Python program would: HOST PORT TOKEN.

Prints a line of JSON: how many connections it made, and what went wrong.
"""

import http.client
import json
import sys

HOST, PORT, TOKEN = sys.argv[1], int(sys.argv[2]), sys.argv[3]
connections = 0


class Connection(http.client.HTTPConnection):
    def connect(self):
        global connections
        connections += 1
        super().connect()


def asks(bodies):
    """Each refusing path, with each of these bodies."""
    bearer = {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"}
    for body in bodies:
        yield 401, "POST", "/v1/tokens", {}, body
        yield 401, "POST", "/access/v1/evaluation", {"Authorization": "Bearer x"}, body
        yield 401, "POST", "/v1/services/s/apply", {}, body
        yield 404, "POST", "/nothing", bearer, body
        yield 405, "POST", "/healthz", {}, body
        yield 405, "POST", "/v1/services", bearer, body
        yield 415, "POST", "/v1/tokens", {"Authorization": "Bearer " + TOKEN}, body
        yield 400, "POST", "/v1/services/s/apply?x=1", bearer, body
        yield 400, "POST", "/v1/tokens", bearer, body
        yield 403, "POST", "/keepgate.sync.v1.Sync/Follow", {}, body


def run(name, bodies, chunked, may_close):
    global connections
    connections, wrong, asked, closes = 0, [], 0, 0
    connection = Connection(HOST, PORT, timeout=60)
    for status, method, path, headers, body in asks(bodies):
        asked += 1
        data = iter([body[: len(body) // 2], body[len(body) // 2 :]]) if chunked else body
        try:
            connection.request(method, path, body=data, headers=headers, encode_chunked=chunked)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            wrong.append(f"{path}: {error!r}")
            connection.close()
            continue
        says_close = (answer.getheader("Connection") or "").lower() == "close"
        closes += says_close
        if answer.status < 400 and "Follow" not in path:
            wrong.append(f"{path}: {answer.status}")
        if says_close and not may_close:
            wrong.append(f"{path}: closes after a small body")
    connection.close()
    # One connection, and one more after each answer that said that it is the last.
    most = 1 + closes
    print(json.dumps({"name": name, "asked": asked, "connections": connections,
                      "most": most, "wrong": wrong}))


small = [b"{}", b"x" * 1000, b"[" * 100_000]
large = [b"x" * 3_000_000]
run("small", small, False, False)
run("small, chunked", [b"x" * 1000, b"y" * 100_000], True, False)
run("large", large, False, True)
run("large, chunked", large, True, True)
