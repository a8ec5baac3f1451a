import assert from "node:assert/strict";
import { test } from "node:test";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

test("--reuse-port lets processes share one port", async () => {
  const first = await startProxy({ args: [...OPEN_LOOPBACK, "--reuse-port"] });
  const join = () => startProxy({ args: [...OPEN_LOOPBACK, "--reuse-port"], listen: `127.0.0.1:${first.port}` });
  const second = await join();
  assert.equal(second.port, first.port);
  assert.notEqual(second.adminPort, first.adminPort);
  const far = await listen((socket) => socket.pipe(socket));
  const open = async (count: number) => {
    const clients = await Promise.all(Array.from({ length: count }, () => RawClient.open(first.port)));
    await Promise.all(clients.map((client) => client.connect(`127.0.0.1:${far.port}`)));
    return clients;
  };
  const dead = (client: RawClient) => client.ended || client.socket.destroyed;
  const clients = await open(200);
  const [one, two] = await Promise.all([first, second].map((proxy) => proxy.untilStatus(() => true)));
  assert.equal(one!.active + two!.active, 200);
  assert.ok(one!.active >= 50 && two!.active >= 50, `${one!.active} and ${two!.active} tunnels`);

  await second.stop("SIGKILL");
  await Promise.all(
    clients.map((client, i) => {
      client.socket.write(`hello ${i};`);
      return client.until(() => dead(client) || client.text.includes(`hello ${i};`), "life or death");
    }),
  );
  const alive = clients.filter((client) => !dead(client));
  assert.equal(alive.length, one!.active);
  const more = await open(50);
  assert.equal((await first.untilStatus(() => true)).active, one!.active + 50);

  const third = await join();
  const last = await open(200);
  const { active } = await third.untilStatus(() => true);
  assert.ok(active >= 50, `${active} of 200 tunnels went to the new process`);
  for (const client of [...alive, ...more, ...last]) client.socket.destroy();
  for (const proxy of [first, third]) assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a second process without --reuse-port fails", async () => {
  const first = await startProxy({ args: OPEN_LOOPBACK });
  await assert.rejects(startProxy({ listen: `127.0.0.1:${first.port}` }), /the address is in use/);
  await first.stop();
});
