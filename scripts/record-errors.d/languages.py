# Language runtimes and their libraries. Read by ../record-errors.


def source(name, file, text, *command, **more):
    """A small program, written to `file` and run."""
    @case(name)
    def _(s):
        path = s.file(file, text)
        return s.run(*[word.replace("FILE", path) for word in command], **more)


def python(name, text, need=None):
    @case(name)
    def _(s):
        if need and subprocess.run([PYTHON, "-c", f"import {need}"], capture_output=True).returncode:
            raise Skip(need)
        return s.run(PYTHON, s.file("app.py", text), timeout=40)


python("python-socket", "import socket\ns = socket.socket()\ns.connect(('10.77.0.2', 8443))\n")
python("python-create_connection", "import socket\nsocket.create_connection(('10.77.0.2', 8443))\n")
python("python-urllib", "import urllib.request\nurllib.request.urlopen('http://10.77.0.2:8443/orders')\n")
python("python-http", "import http.client\nc = http.client.HTTPConnection('10.77.0.2', 8443)\nc.request('GET', '/')\n")
python("python-asyncio", "import asyncio\nasyncio.run(asyncio.open_connection('10.77.0.2', 8443))\n")
python("python-asyncio-localhost", "import asyncio\nasyncio.run(asyncio.open_connection('localhost', 8443))\n")
python("python-asyncio-listen", "import asyncio\nasyncio.run(asyncio.start_server(print, '10.9.9.9', 80))\n")
python("python-bind", "import socket\ns = socket.socket()\ns.bind(('10.9.9.9', 80))\n")
python("python-source_address", "import socket\nsocket.create_connection(('10.77.0.2', 8443), source_address=('10.9.9.9', 0))\n")
python("requests", "import requests\nrequests.get('http://10.77.0.2:8443/orders')\n", "requests")
python("requests-message", "import requests\ntry:\n    requests.get('https://10.77.0.2/orders')\nexcept Exception as e:\n    print('ERROR orders:', e)\n", "requests")
python("aiohttp", "import aiohttp, asyncio\nasync def f():\n    async with aiohttp.ClientSession() as s:\n        await s.get('http://10.77.0.2:8443/orders')\nasyncio.run(f())\n", "aiohttp")
python("aiohttp-message", "import aiohttp, asyncio\nasync def f():\n    async with aiohttp.ClientSession() as s:\n        await s.get('https://10.77.0.2/orders')\ntry:\n    asyncio.run(f())\nexcept Exception as e:\n    print(repr(e)); print(e)\n", "aiohttp")
python("httpx", "import httpx\nhttpx.get('http://10.77.0.2:8443/orders')\n", "httpx")
python("psycopg", "import psycopg\npsycopg.connect('host=10.77.0.2 port=5433 user=app dbname=shop')\n", "psycopg")
python("psycopg-localhost", "import psycopg\npsycopg.connect('host=localhost user=app dbname=shop')\n", "psycopg")
python("redis-py", "import redis\nredis.Redis('10.77.0.2', 6379).ping()\n", "redis")
python("pymysql", "import pymysql\npymysql.connect(host='10.77.0.2', port=3306, user='app')\n", "pymysql")
python("pymongo", "import pymongo\npymongo.MongoClient('mongodb://10.77.0.2:27017/', serverSelectionTimeoutMS=500).admin.command('ping')\n", "pymongo")
python("pika", "import pika\npika.BlockingConnection(pika.ConnectionParameters('10.77.0.2', 5672))\n", "pika")
python("grpc", "import grpc\nc = grpc.insecure_channel('10.77.0.2:50051')\nc.unary_unary('/shop.Orders/Get')(b'', timeout=3)\n", "grpc")
python("grpc-v6", "import grpc\nc = grpc.insecure_channel('ipv6:[::1]:50051')\nc.unary_unary('/shop.Orders/Get')(b'', timeout=3)\n", "grpc")


def java(name, body, imports="", expect=None):
    @case(name)
    def _(s):
        if not exists("java"):
            raise Skip("java")
        path = s.file("App.java", f"import java.net.*;\nimport java.io.*;\n{imports}\nclass App {{\n  static void call() throws Exception {{ {body} }}\n  public static void main(String[] a) throws Exception {{ call(); }}\n}}\n")
        return s.run("java", path, timeout=60)


java("java-socket", 'new Socket("10.77.0.2", 8443);')
java("java-socket-source", 'new Socket("10.77.0.2", 8443, InetAddress.getByName("10.9.9.9"), 0);')
java("java-nio", 'java.nio.channels.SocketChannel.open(new InetSocketAddress("10.77.0.2", 8443));')
java("java-nio-bind", 'java.nio.channels.SocketChannel.open().bind(new InetSocketAddress("10.9.9.9", 0)).connect(new InetSocketAddress("10.77.0.2", 8443));')
java("java-http-url", 'new URL("http://10.77.0.2:8443/orders").openStream();')
java("java-http-client", 'java.net.http.HttpClient.newHttpClient().send(java.net.http.HttpRequest.newBuilder(URI.create("http://10.77.0.2:8443/orders")).build(), java.net.http.HttpResponse.BodyHandlers.ofString());')
java("java-message-only", 'try { new Socket("10.77.0.2", 8443); } catch (Exception e) { System.err.println("WARN  c.s.Orders - " + e); }')
java("java-server", 'new ServerSocket(80, 50, InetAddress.getByName("10.9.9.9"));')
java("java-wrapped", 'try { new Socket("10.77.0.2", 8443); } catch (Exception e) { throw new IllegalStateException("cannot reach orders at 10.77.0.2:8443 for http://shop.example:8081/cart", e); }')

source("node-net", "app.js", "require('net').connect(8443, '10.77.0.2');\n", "node", "FILE")
source("node-http", "app.js", "require('http').get('http://10.77.0.2:8443/orders').on('error', e => console.error('orders failed:', e.message));\n", "node", "FILE")
source("node-json", "app.js", "require('https').get('https://10.77.0.2/orders').on('error', e => console.error(JSON.stringify({level: 50, host: 'shop.example:8081', err: e})));\n", "node", "FILE")
source("node-fetch", "app.js", "fetch('http://10.77.0.2:8443/orders');\n", "node", "FILE")
source("node-localhost", "app.js", "require('net').connect(8443, 'localhost');\n", "node", "FILE")
source("node-v6", "app.js", "require('net').connect(8443, 'fd77::2').on('error', e => console.error(String(e)));\n", "node", "FILE")
source("node-local-address", "app.js", "require('net').connect({port: 8443, host: '10.77.0.2', localAddress: '10.9.9.9'});\n", "node", "FILE")
source("node-listen", "app.js", "require('http').createServer().listen(80, '10.9.9.9');\n", "node", "FILE")

source("php-fsockopen", "app.php", "<?php fsockopen('10.77.0.2', 8443, $errno, $error); echo \"$error ($errno)\\n\";", "php", "FILE")
source("php-file_get_contents", "app.php", "<?php file_get_contents('http://10.77.0.2:8443/orders');", "php", "FILE")
source("php-stream", "app.php", "<?php stream_socket_client('tcp://[fd77::2]:6379', $errno, $error);", "php", "FILE")
source("php-server", "app.php", "<?php stream_socket_server('tcp://10.9.9.9:80', $errno, $error);", "php", "FILE")
source("php-socket", "app.php", "<?php $s = socket_create(AF_INET, SOCK_STREAM, 0); socket_connect($s, '10.77.0.2', 8443);", "php", "FILE")
source("php-pdo-mysql", "app.php", "<?php new PDO('mysql:host=10.77.0.2;port=3306;dbname=shop', 'app', '');", "php", "FILE")
source("php-mysqli", "app.php", "<?php new mysqli('10.77.0.2', 'app', '', 'shop', 3306);", "php", "FILE")
source("php-pdo-pgsql", "app.php", "<?php new PDO('pgsql:host=10.77.0.2;port=5432;dbname=shop', 'app', '');", "php", "FILE")
source("php-curl", "app.php", "<?php $c = curl_init('http://10.77.0.2:8443/orders'); curl_exec($c); echo 'cURL error ', curl_errno($c), ': ', curl_error($c), \"\\n\";", "php", "FILE")

source("ruby-tcpsocket", "app.rb", "require 'socket'\nTCPSocket.new('10.77.0.2', 8443)\n", "ruby", "FILE")
source("ruby-nethttp", "app.rb", "require 'net/http'\nNet::HTTP.get(URI('http://10.77.0.2:8443/orders'))\n", "ruby", "FILE")
source("ruby-nethttp-v6", "app.rb", "require 'net/http'\nbegin\nNet::HTTP.get(URI('http://[fd77::2]:8443/orders'))\nrescue => e\nputs \"E, ERROR -- : #{e.class}: #{e.message}\"\nend\n", "ruby", "FILE")
source("ruby-tcpserver", "app.rb", "require 'socket'\nTCPServer.new('10.9.9.9', 8080)\n", "ruby", "FILE")
source("ruby-local-host", "app.rb", "require 'socket'\nTCPSocket.new('10.77.0.2', 8443, '10.9.9.9', 0)\n", "ruby", "FILE")

source("perl-io-socket", "app.pl", "use IO::Socket::INET; IO::Socket::INET->new(PeerAddr => '10.77.0.2:8443', Proto => 'tcp') or die \"orders at 10.77.0.2:8443: $@\";\n", "perl", "FILE")
source("perl-io-socket-bare", "app.pl", "use IO::Socket::INET; IO::Socket::INET->new(PeerAddr => '10.77.0.2', PeerPort => 8443) or die \"$@\";\n", "perl", "FILE")
source("perl-http-tiny", "app.pl", "use HTTP::Tiny; my $r = HTTP::Tiny->new->get('http://10.77.0.2:8443/orders'); print $r->{content};\n", "perl", "FILE")
source("perl-lwp", "app.pl", "use LWP::UserAgent; my $r = LWP::UserAgent->new->get('http://10.77.0.2:8443/orders'); print $r->status_line, \"\\n\", $r->content;\n", "perl", "FILE")

ERL = ["erl", "-noshell", "-eval"]


def erlang(name, text):
    @case(name)
    def _(s):
        return errors_only(s.run(*ERL, text + ", halt().", timeout=40), "eaddr")


erlang("erlang-gen_tcp", "io:format(\"~p~n\", [gen_tcp:connect({10,77,0,2}, 8443, [])])")
erlang("erlang-httpc", "inets:start(), io:format(\"~p~n\", [httpc:request(\"http://10.77.0.2:8443/orders\")])")
erlang("erlang-badmatch", "{ok, _} = gen_tcp:connect({10,77,0,2}, 8443, [])")
erlang("erlang-listen", "io:format(\"~p~n\", [gen_tcp:listen(8080, [{ip, {10,9,9,9}}])])")


def go(name, body, imports='"fmt"; "net"'):
    @case(name)
    def _(s):
        if not exists("go"):
            raise Skip("go")
        path = s.file("main.go", f"package main\nimport ({imports})\nfunc main() {{ {body} }}\n")
        return s.run("go", "run", path, timeout=120, env={"GOCACHE": "/tmp/go-record-cache", "GO111MODULE": "off"})


go("go-dial", '_, err := net.Dial("tcp", "10.77.0.2:8443"); fmt.Println(err)')
go("go-dial-v6", '_, err := net.Dial("tcp", "[fd77::2]:8443"); fmt.Println(err)')
go("go-http", '_, err := http.Get("http://10.77.0.2:8443/orders?next=http://shop.example:8081/"); log.Fatal(err)', '"net/http"; "log"')
go("go-http-default", '_, err := http.Get("https://10.77.0.2/orders"); log.Fatal(err)', '"net/http"; "log"')
go("go-local", 'd := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("10.9.9.9")}}; _, err := d.Dial("tcp", "10.77.0.2:8443"); fmt.Println(err)')
go("go-listen", '_, err := net.Listen("tcp", "10.9.9.9:8080"); fmt.Println(err)')
go("go-udp-lookup", '_, err := (&net.Resolver{PreferGo: true, Dial: func(c context.Context, n, a string) (net.Conn, error) { return net.Dial("udp", "10.77.0.2:53") }}).LookupHost(context.Background(), "orders.shop"); fmt.Println(err)', '"fmt"; "net"; "context"')

source("lua", "app.lua", "local socket = require('socket')\nprint(socket.connect('10.77.0.2', 8443))\nassert(socket.connect('10.77.0.2', 8443))\n", "lua5.3", "FILE")
source("tcl", "app.tcl", "socket 10.77.0.2 8443\n", "tclsh", "FILE")


@case("rust-std")
def _(s):
    path = s.file("main.rs", 'fn main() { match std::net::TcpStream::connect("10.77.0.2:8443") { Err(e) => { eprintln!("orders at 10.77.0.2:8443: {e}"); eprintln!("{e:?}"); Err::<(), _>(e).unwrap() } Ok(_) => {} } }\n')
    subprocess.run(["rustc", "-O", "-o", s.folder + "/main", path], check=True, capture_output=True)
    return s.run(s.folder + "/main")


@case("rust-bind")
def _(s):
    path = s.file("main.rs", 'fn main() { let l = std::net::TcpListener::bind("10.9.9.9:80"); eprintln!("bind 10.9.9.9:80: {}", l.unwrap_err()); }\n')
    subprocess.run(["rustc", "-O", "-o", s.folder + "/main", path], check=True, capture_output=True)
    return s.run(s.folder + "/main")


@case("c-perror")
def _(s):
    path = s.file("main.c", '#include <stdio.h>\n#include <string.h>\n#include <errno.h>\n#include <sys/socket.h>\n#include <netinet/in.h>\n#include <arpa/inet.h>\nint main(void) { struct sockaddr_in a = {0}; a.sin_family = AF_INET; a.sin_port = htons(8443); inet_pton(AF_INET, "10.77.0.2", &a.sin_addr); int s = socket(AF_INET, SOCK_STREAM, 0); if (connect(s, (void *)&a, sizeof a)) { fprintf(stderr, "connect to 10.77.0.2:8443 failed: %s (%d)\\n", strerror(errno), errno); perror("connect"); } }\n')
    subprocess.run(["cc", "-o", s.folder + "/main", path], check=True, capture_output=True)
    return s.run(s.folder + "/main")


@case("strace")
def _(s):
    return s.run("strace", "-f", "-e", "trace=connect", "bash", "-c", "echo > /dev/tcp/10.77.0.2/8443")
