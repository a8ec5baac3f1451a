import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { get, type IncomingMessage } from "node:http";
import { test } from "node:test";
import { startProxy } from "../harness/proxy.ts";
import { exchange } from "../harness/raw.ts";
import { readEvents, until } from "./sse.ts";

/** An address of this namespace, which has no route: a caller from it is not on loopback. */
const OUTER = "192.0.2.1";

test("a caller that is not on loopback gets 403 for the page and what it shows", async () => {
  execFileSync("ip", ["address", "add", `${OUTER}/32`, "dev", "lo"]);
  const proxy = await startProxy({ policy: {}, admin: "0.0.0.0:0" });
  const status = (path: string) =>
    new Promise<number>((resolve, reject) => {
      const at = { host: OUTER, localAddress: OUTER, port: proxy.adminPort, path, headers: { host: "localhost" } };
      const answered = (response: IncomingMessage) => {
        response.destroy();
        resolve(response.statusCode!);
      };
      get({ ...at, agent: false }, answered).on("error", reject);
    });
  for (const path of ["/", "/summary", "/decisions"]) assert.equal(await status(path), 403, path);
  assert.equal(await status("/status"), 200);
  await proxy.stop();
});

test("a reader that does not read loses records, and gets their number", async () => {
  // In bytes: the kernel would keep megabytes for a reader.
  for (const name of ["tcp_rmem", "tcp_wmem"]) writeFileSync(`/proc/sys/net/ipv4/${name}`, "4096 8192 8192");
  const proxy = await startProxy({ policy: { deny: [{ name: "all", hosts: ["*"] }] } });
  const reader = await readEvents(proxy.adminPort, "/decisions");
  reader.response.pause();
  const dropped = () => proxy.bound("decision-lines");
  const wire = `CONNECT ${`${"x".repeat(60)}.`.repeat(3)}example:443 HTTP/1.1\r\nX-Smokescreen-Trace-ID: ${"t".repeat(128)}\r\n\r\n`;
  let sent = 0;
  await until(async () => {
    // Fewer than a reader may get in a second.
    await new Promise((resolve) => setTimeout(resolve, 250));
    for (let i = 0; i < 15; i++, sent++) await exchange(proxy.port, wire);
    return (await dropped()) > 0;
  }, "a dropped record");
  const lost = await dropped();
  assert.ok(sent - lost > 30, `${lost} of ${sent} were dropped`);
  reader.response.resume();
  const reported = () => reader.events("dropped").reduce((sum, count) => sum + Number(count), 0);
  await until(() => reported() === lost, "their number");
  assert.equal(reader.events().length, sent - lost);
  reader.close();
  await until(async () => JSON.parse((await proxy.admin("/summary")).text).readers === 0, "no reader");
  await proxy.stop();
});
