import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "node:http";
import { test } from "node:test";
import { startEcho } from "../../proxy/tools/echo.ts";
import { OUTRIDER } from "../harness/proxy.ts";

test("echo answers the address as text, and header claims as JSON", async () => {
  const echo = await startEcho({ host: "127.0.0.1", port: 0 });
  const base = `http://127.0.0.1:${echo.port}`;
  assert.equal(await (await fetch(`${base}/ip`)).text(), "127.0.0.1\n");
  const headers = { "x-forwarded-for": "198.51.100.7, 127.0.0.1", "x-real-ip": "203.0.113.9" };
  const seen = (await (await fetch(`${base}/any?x=1`, { method: "POST", body: "12345", headers })).json()) as {
    ip: string;
    bodyBytes: number;
    explain: Record<string, { present: boolean; claims?: string; sameAsSocket?: boolean }>;
  };
  assert.deepEqual([seen.ip, seen.bodyBytes], ["127.0.0.1", 5]);
  assert.deepEqual(
    Object.entries(seen.explain).map(([name, { present, sameAsSocket }]) => [name, present, sameAsSocket]),
    [
      ["x-forwarded-for", true, true],
      ["x-original-forwarded-for", false, undefined],
      ["x-real-ip", true, false],
      ["cf-connecting-ip", false, undefined],
    ],
  );
  await echo.close();
});

test("echo answers invalid paths, and HEAD without a body", async (t) => {
  const echo = await startEcho({ host: "127.0.0.1", port: 0 });
  t.after(() => echo.close());
  const get = (method: string, path: string) =>
    new Promise<{ status: number | undefined; body: string }>((resolve, reject) => {
      const asked = request({ host: "127.0.0.1", port: echo.port, method, path, agent: false }, async (response) => {
        resolve({ status: response.statusCode, body: Buffer.concat(await response.toArray()).toString() });
      });
      asked.once("error", reject).end();
    });
  assert.equal(JSON.parse((await get("GET", "//?x=1")).body).path, "//");
  assert.deepEqual(await get("GET", "http://echo.example/ip"), { status: 200, body: "127.0.0.1\n" });
  assert.deepEqual(await get("HEAD", "/ip"), { status: 200, body: "" });
});

test("a caller through a dual-stack listener is shown as IPv4", async (t) => {
  const echo = await startEcho({ host: "", port: 0 });
  t.after(() => echo.close());
  if (echo.address !== "::") return t.skip("needs IPv6: the listener is not dual-stack");
  assert.equal(await (await fetch(`http://127.0.0.1:${echo.port}/ip`)).text(), "127.0.0.1\n");
});

test("echo prints its address and ends with status 0 on a signal", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const child = spawn(OUTRIDER, ["echo", "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    const url = /^echo listens on (http:\/\/127\.0\.0\.1:\d+)\n$/.exec(String(line))?.[1];
    assert.ok(url, String(line));
    assert.equal(await (await fetch(`${url}/ip`)).text(), "127.0.0.1\n");
    child.kill(signal);
    assert.deepEqual(await once(child, "close"), [0, null]);
  }
});
