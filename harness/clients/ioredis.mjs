// ioredis against a running cluster: `commands PORT...` or `writer PORT`. Its defaults, but for the protocol named.
import assert from "node:assert/strict";
import { Redis } from "ioredis";

async function fails(promise, text) {
  await assert.rejects(promise, (error) => error.message.includes(text));
}

async function commands(ports) {
  for (const [protocol, port] of [2, 3].flatMap((version) => ports.map((port) => [version, port]))) {
    const r = new Redis(port, "127.0.0.1", { protocol });
    const p = `io${protocol}${port}:`;
    assert.match(await r.call("client", "info"), new RegExp(` resp=${protocol}\\b`));
    assert.equal(await r.set(p + "a", "1", "EX", 100, "NX"), "OK");
    assert.equal(await r.set(p + "a", "2", "NX"), null);
    assert.equal(await r.get(p + "a"), "1");
    assert.ok((await r.ttl(p + "a")) > 90);
    assert.equal(await r.persist(p + "a"), 1);
    assert.equal(await r.incr(p + "a"), 2);
    assert.equal(await r.incrbyfloat(p + "a", 0.5), "2.5");
    assert.equal(await r.append(p + "a", "0"), 4);
    assert.equal(await r.getdel(p + "a"), "2.50");
    assert.equal(await r.mset({ [p + "x"]: 1, [p + "y"]: 2 }), "OK");
    assert.deepEqual(await r.mget(p + "x", p + "y", p + "z"), ["1", "2", null]);
    const bytes = Buffer.from([...Array(256).keys()]);
    await r.set(p + "bin", bytes);
    assert.deepEqual(await r.getBuffer(p + "bin"), bytes);
    const pipeline = r.pipeline();
    for (let n = 0; n < 200; n++) pipeline.set(p + n, n).get(p + n);
    const replies = await pipeline.exec();
    assert.ok(replies.every(([error, value], n) => error === null && value === (n % 2 ? String((n - 1) / 2) : "OK")));
    const found = new Set();
    for await (const keys of r.scanStream({ match: p + "*", count: 20 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 203);
    assert.equal(await r.del([...found]), 203);
    assert.equal(await r.exists(p + "x"), 0);
    assert.ok((await r.info()).includes("redis_version"));
    assert.equal(await r.wait(2, 100), 2);
    assert.equal(typeof (await r.dbsize()), "number");
    await fails(r.call("foo", "a"), "unknown command 'foo', with args beginning with: 'a' ");
    await fails(r.call("multi"), "MULTI is not supported");
    assert.equal(await r.quit(), "OK");
  }
}

async function writer(port) {
  const r = new Redis(port, "127.0.0.1");
  const counts = new Array(64).fill(0);
  let [done, rounds, longest] = [false, 0, 0];
  process.stdin.on("end", () => (done = true)).resume();
  await r.ping();
  console.log("ready");
  while (!done) {
    const slot = rounds++ % counts.length;
    const begun = performance.now();
    assert.equal(await r.incr(`io-counter${slot}`), ++counts[slot]);
    longest = Math.max(longest, performance.now() - begun);
  }
  for (const [slot, count] of counts.entries()) assert.equal(Number(await r.get(`io-counter${slot}`)), count);
  console.log(`${rounds} writes, longest ${longest.toFixed()} ms`);
  await r.quit();
}

const [what, ...ports] = process.argv.slice(2);
await (what === "commands" ? commands(ports.map(Number)) : writer(Number(ports[0])));
console.log("ok");
