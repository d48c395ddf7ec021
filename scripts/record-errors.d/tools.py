# Command-line programs. Read by ../record-errors.


def tool(name, *words, **more):
    @case(name)
    def _(s):
        return s.run(*words, **more)


tool("curl", "curl", "-sS", "http://10.77.0.2:8443/orders")
tool("curl-verbose", "curl", "-v", "-sS", "http://10.77.0.2:8443/orders?next=http://shop.example:8081/")
tool("curl-https", "curl", "-v", "-sS", "https://10.77.0.2/orders")
tool("curl-localhost", "curl", "-v", "-sS", "http://localhost:9200/_search")
tool("curl-proxy", "curl", "-sS", "-v", "-x", "http://10.77.0.2:3128", "http://shop.example:8081/")
tool("curl-interface", "curl", "-v", "-sS", "--interface", "10.9.9.9", "http://10.77.0.2:8443/")
tool("wget", "wget", "-t", "1", "-O", "-", "http://10.77.0.2:8443/orders")
tool("wget-v6", "wget", "-t", "1", "-O", "-", "http://[fd77::2]:8443/")
tool("wget-default-port", "wget", "-t", "1", "-O", "-", "https://10.77.0.2/orders")
tool("wget-bind", "wget", "-t", "1", "-O", "-", "--bind-address=10.9.9.9", "http://10.77.0.2:8443/")
tool("psql", "psql", "-w", "-h", "10.77.0.2", "-U", "app", "shop", "-c", "select 1")
tool("psql-localhost", "psql", "-w", "-h", "localhost", "-U", "app", "shop", "-c", "select 1")
tool("psql-v6", "psql", "-w", "-h", "fd77::2", "-p", "6432", "-U", "app", "shop", "-c", "select 1")
tool("psql-uri", "psql", "-w", "postgresql://app@localhost,10.77.0.2:5433/shop", "-c", "select 1")
tool("redis-cli", "redis-cli", "-h", "10.77.0.2", "-p", "6379", "ping")
tool("redis-cli-v6", "redis-cli", "-h", "::1", "-p", "6380", "ping")
tool("mysql", "mysql", "--protocol=tcp", "-h", "10.77.0.2", "-P", "3306", "-u", "app", "-e", "select 1")
tool("mysql-default-port", "mysql", "--protocol=tcp", "-h", "127.0.0.1", "-u", "app", "-e", "select 1")
tool("ssh", "ssh", "-o", "BatchMode=yes", "-p", "22", "10.77.0.2", "true")
tool("git-http", "git", "clone", "http://10.77.0.2:3000/shop/orders.git", "x")
tool("git-ssh", "git", "clone", "ssh://git@10.77.0.2:2222/shop/orders.git", "x")
tool("git-daemon", "git", "clone", "git://10.77.0.2/shop/orders.git", "x")
tool("rsync", "rsync", "rsync://10.77.0.2/module/")
tool("socat", "socat", "-u", "-", "TCP:10.77.0.2:8443")
tool("socat-bind", "socat", "-u", "-", "TCP:10.77.0.2:8443,bind=10.9.9.9")
tool("nc-openbsd", "nc", "-v", "-w", "2", "10.77.0.2", "8443")
tool("nc-openbsd-v6", "nc", "-v", "-w", "2", "fd77::2", "8443")
tool("ncat", "ncat", "-v", "10.77.0.2", "8443")
tool("telnet", "telnet", "10.77.0.2", "8443")
tool("bash", "bash", "-c", "echo > /dev/tcp/10.77.0.2/8443")
tool("openssl", "openssl", "s_client", "-connect", "10.77.0.2:8443")
tool("ab", "ab", "-n", "1", "http://10.77.0.2:8443/orders")
tool("wrk", "wrk", "-t1", "-c1", "-d1", "http://10.77.0.2:8443/orders")
tool("ldapsearch", "ldapsearch", "-x", "-d", "1", "-H", "ldap://10.77.0.2", "-b", "dc=shop")
tool("mosquitto", "mosquitto_pub", "-h", "10.77.0.2", "-p", "1883", "-t", "a", "-m", "b")
tool("gawk", "gawk", "BEGIN { s = \"/inet/tcp/0/10.77.0.2/8443\"; print \"x\" |& s; s |& getline; print ERRNO }")
tool("busybox-wget", "busybox", "wget", "-O", "-", "http://10.77.0.2:8443/")
tool("busybox-nc", "busybox", "nc", "10.77.0.2", "8443")
tool("lftp", "lftp", "-c", "set net:max-retries 1; set net:timeout 1; debug 5; open ftp://10.77.0.2; ls")
tool("ncat-listen", "ncat", "-l", "10.9.9.9", "8443")
tool("nc-listen", "nc", "-l", "10.9.9.9", "8443")


def localized(name, language, *words):
    """With glibc's own translations (Debian: locales, libc-l10n)."""
    @case(name)
    def _(s):
        made = subprocess.run(["localedef", "-i", language, "-f", "UTF-8", os.path.join(s.folder, language + ".UTF-8")],
                              capture_output=True, text=True) if exists("localedef") else None
        if made is None or not os.path.exists(os.path.join(s.folder, language + ".UTF-8")):
            raise Skip("localedef")
        return s.run(*words, env={"LOCPATH": s.folder, "LC_ALL": language + ".UTF-8", "LANG": language + ".UTF-8"})


localized("wget-german", "de_DE", "wget", "-t", "1", "-O", "-", "http://10.77.0.2:8443/orders")
localized("psql-french", "fr_FR", "psql", "-w", "-h", "10.77.0.2", "-U", "app", "shop", "-c", "select 1")
localized("bash-chinese", "zh_CN", "bash", "-c", "echo > /dev/tcp/10.77.0.2/8443")
localized("psql-russian", "ru_RU", "psql", "-w", "-h", "10.77.0.2", "-U", "app", "shop", "-c", "select 1")
localized("wget-japanese", "ja_JP", "wget", "-t", "1", "-O", "-", "http://10.77.0.2:8443/orders")
localized("bash-spanish", "es_ES", "bash", "-c", "echo > /dev/tcp/10.77.0.2/8443")
