"""What Schemathesis must know of a center: lines of JSON, and which token it is itself using."""

import json
import os

import schemathesis

OWN_TOKEN = os.environ["KEEPGATE_OWN_TOKEN"]


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """The schema of lines is that of one line."""
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def last_line(context, response):
    return json.loads(response.content.splitlines()[-1])


@schemathesis.hook
def filter_case(context, case):
    """The token of all these requests is not revoked by one of them."""
    path = case.path_parameters or {}
    return not (case.operation.path == "/v1/tokens/{id}" and path.get("id") == OWN_TOKEN)
