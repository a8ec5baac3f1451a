import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pod } from "../../operator/api/objects.ts";
import { makeDirectFetch, StatusScraper } from "../../operator/reconcile/facts/status-scraper.ts";

/** Which answers of a proxy confirm its policy document. */

const OWNER = "convoy/webhooks";
const pod: Pod = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "p", namespace: "convoy", uid: "1" },
  spec: { containers: [{ ports: [{ name: "admin", containerPort: 9750 }] }] },
  status: { phase: "Running", podIP: "127.0.0.1" },
};
const answer = (hash: string) =>
  JSON.stringify({ policy: { hash }, policyError: null, ready: true, sources: [], verification: [] });

/** A scraper whose clock and answers the test controls. */
function start() {
  const state = {
    now: 0,
    changes: 0,
    begun: 0,
    polls: 0,
    hash: "sha256:1",
    fails: false,
    blocked: undefined as Promise<void> | undefined,
  };
  const scraper = new StatusScraper({
    fetch: async () => {
      const { hash } = state;
      state.begun++;
      await state.blocked;
      if (state.fails) throw new Error("connect ECONNREFUSED");
      return answer(hash);
    },
    intervalMs: 10_000,
    onChange: (owner) => {
      assert.equal(owner, OWNER);
      state.changes++;
    },
    onResult: () => {
      state.polls++;
    },
    now: () => state.now,
  });
  scraper.see(pod, OWNER);
  scraper.start();
  const until = async (wanted: () => boolean) => {
    while (!wanted()) await sleep(10);
  };
  /** Waits for one more result after a time. */
  const pollAfter = async (ms: number) => {
    const before = state.polls;
    state.now += ms;
    await until(() => state.polls > before);
  };
  return { scraper, state, until, pollAfter };
}

test("an answer confirms a document if it is younger than its write and reload", async (t) => {
  const { scraper, state, pollAfter } = start();
  t.after(() => scraper.stop());
  await pollAfter(0);
  assert.equal(scraper.latest(pod).outdated, false);
  state.now += 60_000;
  await pollAfter(0);

  scraper.outdate("convoy/other");
  assert.equal(scraper.latest(pod).outdated, false);
  scraper.outdate(OWNER);
  assert.equal(scraper.latest(pod).outdated, true);
  assert.equal(scraper.latest(pod).status?.hash, "sha256:1");
  const { changes } = state;
  await pollAfter(0);
  assert.equal(scraper.latest(pod).outdated, true, "the proxy may still load the document before");
  assert.equal(state.changes, changes);
  await pollAfter(3000);
  assert.equal(scraper.latest(pod).outdated, false);
  assert.equal(state.changes, changes + 1, "the policy is reconciled again");
});

test("a poll that began before a write does not confirm it", async (t) => {
  const { scraper, state, until, pollAfter } = start();
  t.after(() => scraper.stop());
  await pollAfter(0);
  const { promise, resolve } = Promise.withResolvers<void>();
  state.blocked = promise;
  const { begun } = state;
  state.now += 10_000;
  await until(() => state.begun > begun);
  state.now += 1000;
  scraper.outdate(OWNER);
  state.now += 5000;
  const before = state.polls;
  resolve();
  await until(() => state.polls > before);
  assert.equal(scraper.latest(pod).outdated, true);
  await pollAfter(1000);
  assert.equal(scraper.latest(pod).outdated, false);
});

test("a failed poll does not confirm a document", async (t) => {
  const { scraper, state, pollAfter } = start();
  t.after(() => scraper.stop());
  await pollAfter(0);
  scraper.outdate(OWNER);
  state.fails = true;
  for (let i = 0; i < 5; i++) await pollAfter(3000);
  assert.deepEqual(scraper.latest(pod), {
    status: undefined,
    error: "connect ECONNREFUSED",
    polled: true,
    outdated: true,
  });
  state.fails = false;
  await pollAfter(3000);
  assert.equal(scraper.latest(pod).outdated, false);
});

for (const [what, bytes] of [
  ["of another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nHello"],
  ["without an end", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"],
  ["that is too long", `HTTP/1.1 200 OK\r\n\r\n${"a".repeat(300_000)}`],
] as const) {
  test(`an answer ${what} ends the poll`, { timeout: 20_000 }, async (t) => {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => socket.write(bytes));
    }).listen(0, "127.0.0.1");
    t.after(() => server.close().unref());
    await once(server, "listening");
    const fetched = makeDirectFetch()(pod, (server.address() as AddressInfo).port);
    await assert.rejects(fetched, /^Error: /);
  });
}
