import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startDeliveries } from "../harness/deliveries.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

const drains = (delay: number, drain: number) => ({
  OUTRIDER_DRAIN_DELAY_SECONDS: `${delay}`,
  OUTRIDER_DRAIN_SECONDS: `${drain}`,
});

/** In this time a loaded machine sends a request and sees the phase. */
const DELAY_SECONDS = 5;
/** Time limit for a change of the phase on a loaded machine. */
const PHASE_MS = 60_000;
const untilPhase = (proxy: ProxyHandle, phase: string) => proxy.untilStatus((now) => now.phase === phase, PHASE_MS);

/** Whether a connection is accepted. */
async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

test("SIGTERM starts a graceful shutdown with exit status 0", async () => {
  const proxy = await startProxy({ env: drains(DELAY_SECONDS, 120), args: OPEN_LOOPBACK });
  const far = await listen((socket) => socket.pipe(socket));
  const early = await RawClient.open(proxy.port);
  await early.connect(`127.0.0.1:${far.port}`);
  const stopped = proxy.stop("SIGTERM");
  await untilPhase(proxy, "leaving");
  assert.deepEqual(await proxy.admin("/readyz"), { status: 503, text: "draining\n" });
  const late = await RawClient.open(proxy.port);
  await late.connect(`127.0.0.1:${far.port}`);

  await untilPhase(proxy, "draining");
  assert.equal(await accepts(proxy.port), false);
  assert.equal((await proxy.admin("/livez")).status, 200);
  for (const client of [early, late]) {
    client.socket.write("still relayed");
    await client.untilText("still relayed");
  }
  for (const client of [early, late]) client.socket.end();
  assert.equal(await stopped, 0);
  assert.deepEqual(
    proxy.records().map((record) => record.close),
    ["client-end", "client-end"],
  );
  await far.close();
});

test("resets tunnels after the drain time or a second signal", async () => {
  for (const [signal, second, env] of [
    ["SIGTERM", null, drains(0, 1)],
    ["SIGTERM", "SIGTERM", drains(600, 600)],
    ["SIGINT", "SIGINT", drains(0, 600)],
  ] as const) {
    const proxy = await startProxy({ env, args: OPEN_LOOPBACK });
    const far = await listen((socket) => socket.resume());
    const client = await RawClient.open(proxy.port);
    await client.connect(`127.0.0.1:${far.port}`);
    const stopped = proxy.stop(signal);
    if (second !== null) {
      await proxy.untilStatus((status) => status.phase !== "serving");
      proxy.signal(second);
    }
    assert.equal(await stopped, 0);
    assert.deepEqual(
      proxy.records().map(({ close, verdict }) => [close, verdict]),
      [["drain", "allow"]],
    );
    client.socket.destroy();
    await far.close();
  }
});

test("closes keep-alive connections after the current response", async () => {
  const proxy = await startProxy({ env: drains(DELAY_SECONDS, 120), args: OPEN_LOOPBACK });
  const held: Socket[] = [];
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk).includes("/slow")) held.push(socket);
      else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
  });
  const get = (path: string) => `GET http://127.0.0.1:${far.port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const [idle, slow, next] = await Promise.all([1, 2, 3].map(() => RawClient.open(proxy.port)));
  for (const client of [idle!, slow!, next!]) {
    client.socket.write(get("/first"));
    await client.untilText("\r\n\r\nok");
    assert.doesNotMatch(client.text, /Connection: close/);
  }
  slow!.socket.write(get("/slow"));
  while (held.length === 0) await sleep(10);
  const stopped = proxy.stop();
  await untilPhase(proxy, "leaving");
  next!.socket.write(get("/second"));
  await next!.untilText("Connection: close");
  await untilPhase(proxy, "draining");
  await idle!.untilEnd();
  held[0]!.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
  await slow!.untilText("Connection: close\r\n\r\nlate");
  for (const client of [idle!, slow!, next!]) client.socket.destroy();
  assert.equal(await stopped, 0);
  await far.close();
});

test("answers 503 to a next request while draining", async () => {
  const proxy = await startProxy({ env: drains(0, 120), args: OPEN_LOOPBACK });
  const far = await listen((socket) => {
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  const wire = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`;
  const client = await RawClient.open(proxy.port);
  client.socket.write(wire + wire.slice(0, 10));
  await client.untilText("\r\n\r\nok");
  const stopped = proxy.stop();
  await untilPhase(proxy, "draining");
  client.socket.write(wire.slice(10));
  await client.untilEnd();
  assert.match(client.text, /ok(HTTP\/1\.1 503 egress-unavailable: this proxy is shutting down\r\n[\s\S]*)$/);
  assert.match(client.text, /\r\nConnection: close\r\n[\s\S]*\r\nRetry-After: 1\r\n/);
  client.socket.destroy();
  assert.equal(await stopped, 0);
  assert.deepEqual(
    proxy.records().map(({ code }) => code),
    [undefined, "draining"],
  );
  await far.close();
});

/** One address in front of a fleet, like a Service: new connections go to proxies that were ready a moment ago. */
async function frontOf(fleet: () => readonly ProxyHandle[]) {
  let ready: ProxyHandle[] = [...fleet()];
  let turn = 0;
  let looking = false;
  const look = setInterval(async () => {
    if (looking) return;
    looking = true;
    const answers = await Promise.all(
      fleet().map(async (proxy) => {
        const page = await proxy.admin("/readyz").catch(() => null);
        return page?.status === 200 ? proxy : null;
      }),
    );
    ready = answers.filter((proxy) => proxy !== null);
    looking = false;
  }, 100);
  const front = await listen((socket) => {
    const chosen = ready[turn++ % ready.length];
    if (chosen === undefined) {
      socket.destroy();
      return;
    }
    const onward = connect({ port: chosen.port, host: "127.0.0.1", allowHalfOpen: true });
    onward.on("error", () => socket.resetAndDestroy());
    socket.pipe(onward).pipe(socket);
  });
  const close = async () => {
    clearInterval(look);
    await front.close();
  };
  return { port: front.port, uses: (proxy: ProxyHandle) => ready.includes(proxy), close };
}

test("a rolling restart behind one address loses no delivery", { timeout: 300_000 }, async () => {
  const start = () => startProxy({ env: drains(DELAY_SECONDS, 120), args: OPEN_LOOPBACK });
  let fleet = [await start(), await start()];
  const front = await frontOf(() => fleet);
  const deliveries = await startDeliveries(front.port);
  for (let i = 0; i < 2; i++) {
    const old = fleet[0]!;
    const fresh = await start();
    fleet = [...fleet, fresh];
    while (!front.uses(fresh)) await sleep(20);
    assert.equal(await old.stop(), 0);
    fleet = fleet.filter((proxy) => proxy !== old);
  }
  const { sent, delivered, retries } = await deliveries.stop();
  assert.ok(sent > 100, `${sent} deliveries`);
  assert.deepEqual({ delivered, retries }, { delivered: sent, retries: 0 });
  for (const proxy of fleet) await proxy.stop();
  await front.close();
});
