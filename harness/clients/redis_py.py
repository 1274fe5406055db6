"""redis-py against a running cluster: `commands PORT...` or `writer PORT`. Its defaults, but for the protocol named."""

import sys
import time

import redis


def expect(found, wanted, what):
    assert found == wanted, f"{what}: {str(found)[:300]} instead of {str(wanted)[:300]}"


def error(call, *wanted):
    try:
        found = call()
    except redis.exceptions.ResponseError as failure:
        assert any(str(failure).startswith(text) for text in wanted), f"{failure!s} is none of {wanted}"
        return
    raise AssertionError(f"{found!r} instead of an error {wanted}")


def strings(r, p):
    expect(r.set(p + "a", "1"), True, "set")
    expect(r.get(p + "a"), b"1", "get")
    expect(r.set(p + "a", "2", nx=True), None, "set nx")
    expect(r.set(p + "a", "2", xx=True, get=True), b"1", "set xx get")
    expect(r.set(p + "new", "2", xx=True), None, "set xx")
    expect(r.setnx(p + "a", "3"), False, "setnx")
    expect(r.getset(p + "a", "3"), b"2", "getset")
    expect(r.append(p + "a", "45"), 3, "append")
    expect(r.strlen(p + "a"), 3, "strlen")
    expect(r.getrange(p + "a", 1, -1), b"45", "getrange")
    expect(r.getdel(p + "a"), b"345", "getdel")
    expect(r.getdel(p + "a"), None, "getdel")
    binary = bytes(range(256)) * 4
    expect(r.set(p + "\r\n bin", binary), True, "set bytes")
    expect(r.get(p + "\r\n bin"), binary, "get bytes")
    expect(r.set(p + "big", b"x" * 1_000_000), True, "set large")
    expect(len(r.get(p + "big")), 1_000_000, "get large")
    error(lambda: r.set(p + "big", b"x" * 1_100_000), "argument of 1100000 bytes")
    error(lambda: r.set("k" * 1025, "v"), "key of 1025 bytes")
    expect(r.ping(), True, "the connection goes on")


def numbers(r, p):
    expect(r.incr(p + "n"), 1, "incr")
    expect(r.incrby(p + "n", 41), 42, "incrby")
    expect(r.decr(p + "n"), 41, "decr")
    expect(r.decrby(p + "n", 1), 40, "decrby")
    expect(float(r.incrbyfloat(p + "n", 0.5)), 40.5, "incrbyfloat")
    error(lambda: r.incr(p + "n"), "value is not an integer or out of range")
    r.set(p + "top", 2**63 - 1)
    error(lambda: r.incr(p + "top"), "increment or decrement would overflow")
    r.set(p + "word", "x")
    error(lambda: r.incrbyfloat(p + "word", 1), "value is not a valid float")


def expiry(r, p):
    expect(r.ttl(p + "none"), -2, "ttl of nothing")
    r.set(p + "t", "v")
    expect(r.ttl(p + "t"), -1, "ttl without a deadline")
    expect(r.expire(p + "t", 100), True, "expire")
    assert 98 <= r.ttl(p + "t") <= 100 and 98_000 < r.pttl(p + "t") <= 100_000
    expect(r.expire(p + "t", 50, gt=True), False, "expire gt")
    expect(r.expire(p + "t", 200, nx=True), False, "expire nx")
    assert abs(r.expiretime(p + "t") - time.time() - 100) < 3
    expect(r.persist(p + "t"), True, "persist")
    expect(r.persist(p + "t"), False, "persist again")
    expect(r.getex(p + "t", ex=100), b"v", "getex")
    r.set(p + "t", "w", keepttl=True)
    assert r.ttl(p + "t") > 90
    r.set(p + "t", "w")
    expect(r.ttl(p + "t"), -1, "set takes the deadline away")
    r.setex(p + "soon", 1, "v")
    r.psetex(p + "sooner", 50, "v")
    until = time.monotonic() + 5
    while r.exists(p + "soon", p + "sooner"):
        assert time.monotonic() < until, "keys do not expire"
        time.sleep(0.005)
    error(lambda: r.set(p + "t", "v", ex=0), "invalid expire time in 'set' command")
    expect(r.expireat(p + "t", 1), True, "a deadline in the past")
    expect(r.get(p + "t"), None, "is the end")


def many(r, p):
    expect(r.mset({f"{p}m{n}": n for n in range(100)}), True, "mset")
    found = r.mget([f"{p}m{n}" for n in range(101)])
    expect(found, [str(n).encode() for n in range(100)] + [None], "mget")
    expect(r.exists(*[f"{p}m{n}" for n in range(101)]), 100, "exists")
    expect(r.touch(p + "m1", p + "none"), 1, "touch")
    expect(sorted(r.scan_iter(match=p + "m*", count=7)), sorted(f"{p}m{n}".encode() for n in range(100)), "scan")
    expect(len(r.keys(p + "m?")), 10, "keys")
    expect(r.type(p + "m1"), b"string", "type")
    assert r.dbsize() >= 100 and r.randomkey() is not None
    expect(r.delete(*[f"{p}m{n}" for n in range(50)]), 50, "del")
    expect(r.unlink(*[f"{p}m{n}" for n in range(100)]), 50, "unlink")
    pipe = r.pipeline(transaction=False)
    for n in range(500):
        pipe.set(f"{p}p{n % 50}", n)
        pipe.get(f"{p}p{n % 50}")
    expect(pipe.execute(), [x for n in range(500) for x in (True, str(n).encode())], "pipeline")


def server(r, p, protocol):
    expect(r.echo("hi"), b"hi", "echo")
    assert r.info()["redis_version"] and r.info("keyspace") is not None
    expect(r.config_get("appendonly"), {"appendonly": "yes"} if protocol == 2 else r.config_get("appendonly"), "config")
    expect(r.client_setname("tester"), True, "client setname")
    assert r.client_id() > 0 and int(r.client_info()["resp"]) == protocol and r.client_list()
    expect(r.wait(2, 100), 2, "wait")
    assert abs(r.time()[0] - time.time()) < 60
    assert r.command_count() > 60 and "get" in r.command()
    docs = r.execute_command("COMMAND DOCS", "set")
    assert b"summary" in (docs[b"set"] if isinstance(docs, dict) else docs[1])
    expect(r.object("encoding", p + "p1"), b"int", "object")
    error(lambda: r.execute_command("FOO", "a", "b"), "unknown command 'FOO', with args beginning with: 'a' 'b'")
    error(lambda: r.execute_command("GET"), "wrong number of arguments for 'get' command")
    error(lambda: r.execute_command("CLIENT", "FOO"), "unknown subcommand 'FOO'. Try CLIENT HELP.")
    error(lambda: r.execute_command("MULTI"), "MULTI is not supported")
    error(lambda: r.flushall(), "FLUSHALL is not supported")
    error(lambda: r.execute_command("SELECT", "1"), "DB index is out of range")


def commands(ports):
    for protocol in (2, 3):
        for port in ports:
            r = redis.Redis(port=port, protocol=protocol)
            p = f"py{protocol}{port}:"
            for part in (strings, numbers, expiry, many):
                part(r, p)
            server(r, p, protocol)
    # What one server took, another has.
    first, last = redis.Redis(port=ports[0]), redis.Redis(port=ports[-1])
    for n in range(200):
        first.set(f"shared{n}", n)
        expect(last.get(f"shared{n}"), str(n).encode(), "read elsewhere")


def writer(port):
    """Adds one to counters until its input ends; each must then be what was acknowledged."""
    r = redis.Redis(port=port)
    counts, longest = [0] * 64, 0.0
    r.ping()
    print("ready", flush=True)
    import threading

    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    rounds = 0
    while not done.is_set():
        slot = rounds % len(counts)
        begun = time.monotonic()
        counts[slot] += 1
        expect(r.incr(f"py-counter{slot}"), counts[slot], f"counter {slot}")
        longest = max(longest, time.monotonic() - begun)
        rounds += 1
    for slot, count in enumerate(counts):
        expect(int(r.get(f"py-counter{slot}") or 0), count, "counter")
    print(f"{rounds} writes, longest {longest * 1000:.0f} ms")


if __name__ == "__main__":
    what, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
    commands(ports) if what == "commands" else writer(ports[0])
    print("ok")
