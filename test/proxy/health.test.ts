import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { after, test } from "node:test";
import { runOutrider, startProxy } from "../harness/proxy.ts";

/** `outrider health`, the health check of the image. */

test("health is 0 while the proxy answers, and 1 after it", async () => {
  // Not ready, but alive: a restart would not change the policy.
  const proxy = await startProxy({ policy: "broken", args: ["--on-bad-policy", "wait"] });
  assert.equal((await proxy.admin("/readyz")).status, 503);
  const at = `127.0.0.1:${proxy.adminPort}`;
  assert.deepEqual(await runOutrider(["health", "--admin", at]), { status: 0, stdout: "", stderr: "" });
  const anywhere = await runOutrider(["health"], { OUTRIDER_ADMIN: `:${proxy.adminPort}` });
  assert.deepEqual(anywhere, { status: 0, stdout: "", stderr: "" });
  await proxy.stop();
  const gone = await runOutrider(["health"], { OUTRIDER_ADMIN: at });
  assert.deepEqual([gone.status, gone.stdout], [1, ""]);
  assert.equal(gone.stderr, `outrider: ${at}: connect ECONNREFUSED ${at}\n`);
});

test("health rejects other answers, and silence", async () => {
  let answer: string | null = "";
  const server = createServer((socket) => {
    socket.on("error", () => {});
    if (answer !== null) socket.end(answer);
  }).listen(0, "127.0.0.1");
  after(() => server.close());
  await once(server, "listening");
  const at = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  for (const [given, problem] of [
    ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "the answer is not that of a live proxy"],
    ["HTTP/1.1 2000 OK\r\n\r\n", "the answer is not that of a live proxy"],
    ["x".repeat(5000), "the answer is not that of a live proxy"],
    ["HTTP/1.1 200", "the connection was closed without an answer"],
    [null, "no answer within 4 s"],
  ] as const) {
    answer = given;
    const { status, stderr } = await runOutrider(["health", "--admin", at]);
    assert.deepEqual([status, stderr], [1, `outrider: ${at}: ${problem}\n`]);
  }
});

test("health needs the port of a running proxy", async () => {
  const { status, stderr } = await runOutrider(["health"], { OUTRIDER_ADMIN: "127.0.0.1:0" });
  assert.equal(status, 2);
  assert.equal(stderr, "outrider: OUTRIDER_ADMIN must name a port: a free port is not known here\n");
});
