"""An upstream on a framework that says what it reads.

Arguments: flask, django, starlette or http.server, and the file to write the port to. It ends when
its standard input does. Each answers before its own routing, so that every method and path gets an
answer; Flask and Django also have a route `/admin` with a method of its own.
"""

import json
import os
import sys
import threading
import urllib.parse


def tell(where, port):
    with open(where + ".new", "w") as file:
        file.write(str(port))
    os.rename(where + ".new", where)


def wsgi_headers(environ):
    return [name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_")]


def flask():
    from flask import Flask, request
    from werkzeug.serving import WSGIRequestHandler, make_server

    app = Flask(__name__)

    @app.before_request
    def echo():
        said = {
            "method": request.method,
            "path": request.path,
            "host": request.host,
            "headers": wsgi_headers(request.environ),
            "forwarded_for": request.headers.get("X-Forwarded-For"),
        }
        return app.response_class(
            json.dumps(said), headers={"X-Echo": "flask", "Content-Type": "application/json"}
        )

    class Quiet(WSGIRequestHandler):
        def log(self, *args):
            pass

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    return server.server_port, server.serve_forever


def django():
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["__main__.Echo"],
        ROOT_URLCONF="__main__",
        SECRET_KEY="tests",
        LOGGING_CONFIG=None,
    )
    from django import setup
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    setup()

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(get_wsgi_application())
    return server.server_port, server.serve_forever


urlpatterns = []


class Echo:
    """Django's middleware."""

    def __init__(self, get_response):
        pass

    def __call__(self, request):
        from django.http import JsonResponse

        said = {
            "method": request.method,
            "path": request.path,
            "host": request.get_host(),
            "headers": wsgi_headers(request.META),
        }
        return JsonResponse(said, headers={"X-Echo": "django"})


def starlette():
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def app(scope, receive, send):
        if scope["type"] != "http":
            await Starlette()(scope, receive, send)
            return
        request = Request(scope, receive)
        said = {
            "method": request.method,
            "path": scope["path"],
            "url_path": request.url.path,
            "host": request.headers.get("host"),
            "headers": list(request.headers.keys()),
        }
        await JSONResponse(said, headers={"X-Echo": "starlette"})(scope, receive, send)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    # Its port is told before the server runs: who connects before that waits.
    listener.listen(1024)
    # It is in front of nobody: what it is told of its callers it believes from nobody.
    config = uvicorn.Config(app, log_level="error", lifespan="off", proxy_headers=False)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    return listener.getsockname()[1], lambda: server.run(sockets=[listener])


def http_server():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name):
            if name.startswith("do_"):
                return self.echo
            raise AttributeError(name)

        def echo(self):
            path = self.path.split("?", 1)[0]
            said = {
                "method": self.command,
                "path": urllib.parse.unquote(path),
                "url_path": urllib.parse.unquote(urllib.parse.urlsplit(self.path).path),
                "host": self.headers.get("Host"),
                "headers": [name.lower() for name in self.headers],
            }
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("X-Echo", "http.server")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    return server.server_port, server.serve_forever


def main():
    kinds = {
        "flask": flask,
        "django": django,
        "starlette": starlette,
        "http.server": http_server,
    }
    port, serve = kinds[sys.argv[1]]()
    threading.Thread(target=serve, daemon=True).start()
    tell(sys.argv[2], port)
    sys.stdin.read()


if __name__ == "__main__":
    main()
