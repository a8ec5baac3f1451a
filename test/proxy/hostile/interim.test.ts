import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { after, before, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { finish } from "../../harness/finish.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen, RawClient } from "../../harness/raw.ts";

/** Heads with a status of 1xx, which many clients take for the answer (docs/adr/0015-interim-responses.md). */

/** The final answer comes when the client has already sent its next request. */
const LATE_MS = 300;
const SCRIPT = new URL("../senders/shared.py", import.meta.url).pathname;

let proxy: ProxyHandle;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example b.example\n" });
  far = await listen((socket) => {
    socket.on("data", (chunk) => {
      const [, path, host] = /^[A-Z]+ \/(\S*)[\s\S]*?Host: (\S+?):/i.exec(String(chunk)) ?? [];
      if (path === undefined) return;
      const final = `HTTP/1.1 200 OK\r\nContent-Length: ${host!.length}\r\n\r\n${host}`;
      if (host === "b.example") socket.write(final);
      else {
        socket.write(
          path
            .split("-")
            .map((code) => `HTTP/1.1 ${code} Interim\r\nX-A: 1\r\n\r\n`)
            .join(""),
        );
        setTimeout(() => socket.write(final), LATE_MS);
      }
    });
    socket.on("end", () => socket.end());
  });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

/** Why a Python library cannot be tested here; false when it can. */
const lacks = (library: string): string | false =>
  spawnSync("python3", ["-c", `import ${library}`]).status === 0 ? false : `needs python3 with ${library}`;

for (const library of ["requests", "http.client"]) {
  test(`Python ${library}: the answer of one host never reaches the request for another`, {
    skip: lacks(library),
  }, async () => {
    const baseline = await Baseline.of(proxy);
    const urls = ["a", "b", "a", "b"].map((host) => `http://${host}.example:${far.port}/103`);
    const result = await finish(spawn("python3", [SCRIPT, library, proxy.url(), ...urls]));
    assert.equal(result.stdout, "200 a.example\n200 b.example\n200 a.example\n200 b.example\n", JSON.stringify(result));
    await baseline.restored(4);
  });
}

const request = (path: string, fields: string, minor = 1): string =>
  `POST http://a.example:${far.port}/${path} HTTP/1.${minor}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n${fields}\r\n`;
const FINAL = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nVia: 1.1 outrider\r\nConnection: close\r\n\r\na.example";
const CONTINUE = "HTTP/1.1 100 Continue\r\nVia: 1.1 outrider\r\n\r\n";

test("forwards one expected 100 and drops other 1xx responses", async () => {
  const baseline = await Baseline.of(proxy);
  const expect = "Expect: 100-Continue\r\n";
  assert.equal(await exchange(proxy.port, request("103-100-102-100-199", expect)), CONTINUE + FINAL);
  assert.equal(await exchange(proxy.port, request("100-103", "")), FINAL);
  assert.equal(await exchange(proxy.port, request("100", expect, 0)), FINAL);
  await baseline.restored(3);
});

test("a client that waits for its 100 gets it before it sends a body", async () => {
  const baseline = await Baseline.of(proxy);
  const client = await RawClient.open(proxy.port);
  client.socket.write(
    `POST http://a.example:${far.port}/100 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n`,
  );
  await client.untilText(CONTINUE);
  client.socket.write("body");
  await client.untilText("a.example");
  client.socket.destroy();
  await baseline.restored(1);
});
