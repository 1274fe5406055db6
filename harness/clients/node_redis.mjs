// node-redis against a running cluster: `commands PORT...` or `writer PORT`. Its defaults, but for the protocol named.
import assert from "node:assert/strict";
import { createClient } from "redis";

async function connect(port, options = {}) {
  const r = createClient({ url: `redis://127.0.0.1:${port}`, ...options });
  r.on("error", (error) => {
    throw error;
  });
  return r.connect();
}

async function commands(ports) {
  for (const RESP of [2, 3]) {
    for (const port of ports) {
      const r = await connect(port, { RESP });
      const p = `node${RESP}${port}:`;
      assert.equal(await r.ping(), "PONG");
      assert.equal(await r.set(p + "a", "1", { expiration: { type: "EX", value: 100 }, condition: "NX" }), "OK");
      assert.equal(await r.set(p + "a", "2", { condition: "NX" }), null);
      assert.equal(await r.get(p + "a"), "1");
      assert.ok((await r.ttl(p + "a")) > 90);
      assert.equal(await r.incrBy(p + "a", 41), 42);
      assert.equal(await r.append(p + "a", "7"), 3);
      assert.equal(await r.strLen(p + "a"), 3);
      assert.equal(await r.getDel(p + "a"), "427");
      assert.equal(await r.mSet({ [p + "x"]: "1", [p + "y"]: "2" }), "OK");
      assert.deepEqual(await r.mGet([p + "x", p + "y", p + "z"]), ["1", "2", null]);
      const replies = await Promise.all([...Array(200).keys()].map((n) => r.set(p + n, String(n))));
      assert.ok(replies.every((reply) => reply === "OK"));
      let found = 0;
      for await (const keys of r.scanIterator({ MATCH: p + "*", COUNT: 20 })) found += keys.length;
      assert.equal(found, 202);
      assert.equal(await r.del([p + "x", p + "y"]), 2);
      assert.equal(await r.exists(p + "x"), 0);
      assert.equal((await r.configGet("appendonly")).appendonly, "yes");
      assert.ok((await r.info()).includes("redis_version"));
      assert.equal(await r.wait(2, 100), 2);
      assert.ok((await r.commandCount()) > 60);
      await assert.rejects(r.sendCommand(["foo", "a"]), /unknown command 'foo', with args beginning with: 'a'/);
      await assert.rejects(r.multi().set(p + "t", "1").exec());
      await r.close();
    }
  }
}

async function writer(port) {
  const r = await connect(port);
  const counts = new Array(64).fill(0);
  let [done, rounds, longest] = [false, 0, 0];
  process.stdin.on("end", () => (done = true)).resume();
  console.log("ready");
  while (!done) {
    const slot = rounds++ % counts.length;
    const begun = performance.now();
    assert.equal(await r.incr(`node-counter${slot}`), ++counts[slot]);
    longest = Math.max(longest, performance.now() - begun);
  }
  for (const [slot, count] of counts.entries()) assert.equal(Number(await r.get(`node-counter${slot}`)), count);
  console.log(`${rounds} writes, longest ${longest.toFixed()} ms`);
  await r.close();
}

const [what, ...ports] = process.argv.slice(2);
await (what === "commands" ? commands(ports.map(Number)) : writer(Number(ports[0])));
console.log("ok");
