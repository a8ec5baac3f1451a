import assert from "node:assert/strict";
import { test } from "node:test";
import { type Job, LookupQueue, zoneOf } from "../../proxy/dns/lookup-queue.ts";

const SLOTS = 256;
const PLACES = 1024;

function makeJob(zone: string): Job {
  return { zone, waitsFor: new Set(), runsFor: null };
}

/** Enters this many jobs and counts the results. */
function enterMany(queue: LookupQueue<Job>, count: number, of: (i: number) => { client: string; zone: string }) {
  const result: Record<"start" | "wait" | "full", Job[]> = { start: [], wait: [], full: [] };
  for (let i = 0; i < count; i++) {
    const { client, zone } = of(i);
    const job = makeJob(zone);
    result[queue.enter(job, client)].push(job);
  }
  return result;
}

test("a zone has two labels, or three below such as co.uk", () => {
  const zones: Record<string, string> = {
    "a.b.example.com": "example.com",
    "example.com": "example.com",
    com: "com",
    "a.b.example.co.uk": "example.co.uk",
    "example.co.uk": "example.co.uk",
    "co.uk": "co.uk",
    "x.shop.com.br": "shop.com.br",
    "x.ab.io": "ab.io",
    "a.com.example": "com.example",
    "hooks.default.svc.cluster.local": "cluster.local",
  };
  for (const [host, zone] of Object.entries(zones)) assert.equal(zoneOf(host), zone);
});

test("a zone or client gets at most a quarter of the slots", () => {
  for (const of of [
    (i: number) => ({ client: "one", zone: `zone${i}` }),
    (i: number) => ({ client: `client${i}`, zone: "one" }),
  ]) {
    const queue = new LookupQueue<Job>(SLOTS, PLACES);
    const { start, wait, full } = enterMany(queue, 2000, of);
    assert.deepEqual([start.length, wait.length], [SLOTS / 4, PLACES / 4]);
    assert.equal(full.length, 2000 - SLOTS / 4 - PLACES / 4);
  }
});

test("a zone of one client leaves most of the share of that client", () => {
  const queue = new LookupQueue<Job>(SLOTS, PLACES);
  const dead = enterMany(queue, 2000, () => ({ client: "one", zone: "dead" })).start.length;
  assert.ok(dead < SLOTS / 12, `${dead} slots`);
  const other = enterMany(queue, 2000, (i) => ({ client: "one", zone: `zone${i}` })).start.length;
  assert.ok(other > dead, `${other} slots`);
});

test("a new client starts immediately beside 16 greedy ones", () => {
  const queue = new LookupQueue<Job>(SLOTS, PLACES);
  for (let greedy = 0; greedy < 16; greedy++) {
    enterMany(queue, 300, (i) => ({ client: `client${greedy}`, zone: `zone${greedy}.${i}` }));
    const newcomer = makeJob("new");
    assert.equal(queue.enter(newcomer, "newcomer"), "start", `beside ${greedy + 1}`);
    queue.leave(newcomer);
  }
});

test("clients take turns, and so do the zones of a client", () => {
  const queue = new LookupQueue<Job>(4, 4000);
  const running = [1, 2, 3, 4].map((i) => {
    const job = makeJob(`running${i}`);
    assert.equal(queue.enter(job, `running${i}`), "start");
    return job;
  });
  const order = ["a one", "a one", "a two", "b one"].map((text) => {
    const [client, zone] = text.split(" ") as [string, string];
    const job = makeJob(`${client}-${zone}`);
    assert.equal(queue.enter(job, client), "wait");
    return job;
  });
  const started: (Job | null)[] = [];
  for (const job of running) {
    queue.leave(job);
    const next = queue.next();
    started.push(next);
    if (next !== null) queue.leave(next);
  }
  // One of client a, one of b, then the other zone of a, then the first again.
  assert.deepEqual(started, [order[0], order[3], order[2], order[1]]);
  assert.equal(queue.next(), null);
});

test("the next free slot goes to a client without slots", () => {
  const queue = new LookupQueue<Job>(SLOTS, PLACES * 8);
  const started = new Map<string, Job>();
  for (let greedy = 0; greedy < 40; greedy++) {
    const { start } = enterMany(queue, 300, (i) => ({ client: `client${greedy}`, zone: `zone${greedy}.${i}` }));
    for (const job of start) started.set(`client${greedy}`, job);
  }
  assert.ok(started.size < 40);
  queue.leave(started.get("client0")!);
  const next = queue.next()!;
  assert.ok(next.runsFor !== null && !started.has(next.runsFor), `${next.runsFor} has slots`);
});

test("a waiting job starts when a new client needs it too", () => {
  const queue = new LookupQueue<Job>(SLOTS, PLACES);
  const { wait } = enterMany(queue, 300, (i) => ({ client: "greedy", zone: `zone${i}` }));
  assert.equal(queue.enter(wait[50]!, "greedy"), "wait");
  assert.equal(queue.enter(wait[50]!, "newcomer"), "start");
  assert.deepEqual([wait[50]!.runsFor, wait[50]!.waitsFor.size], ["newcomer", 0]);
});

test("every waiting job starts, and all counts return to zero", () => {
  const queue = new LookupQueue<Job>(SLOTS, PLACES);
  let random = 1;
  const next = (below: number) => {
    random = (random * 48_271) % 2_147_483_647;
    return random % below;
  };
  const { start, wait } = enterMany(queue, 3000, () => ({ client: `c${next(5)}`, zone: `z${next(40)}` }));
  const running = [...start];
  const ended = new Set<Job>();
  while (running.length > 0) {
    const job = running.splice(next(running.length), 1)[0]!;
    queue.leave(job);
    ended.add(job);
    for (let more = queue.next(); more !== null; more = queue.next()) running.push(more);
  }
  assert.equal(ended.size, start.length + wait.length);
  assert.equal(enterMany(queue, 2000, (i) => ({ client: "one", zone: `zone${i}` })).start.length, SLOTS / 4);
});
