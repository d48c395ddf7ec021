"""An upstream that records each request with the official OpenTelemetry SDK: upstream.py PORT

It takes the trace up from `traceparent`, and exports as the environment says (OTEL_*).
"""

import http.server
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(insecure=True)))
tracer = provider.get_tracer("upstream")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        carrier = {name.lower(): value for name, value in self.headers.items()}
        context = TraceContextTextMapPropagator().extract(carrier)
        with tracer.start_as_current_span("upstream work", context, kind=trace.SpanKind.SERVER):
            body = b"done\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
