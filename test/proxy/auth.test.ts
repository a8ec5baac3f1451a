import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

const basic = (text: string, scheme = "Basic"): string =>
  `Proxy-Authorization: ${scheme} ${Buffer.from(text).toString("base64")}\r\n`;

async function statusOf(proxy: ProxyHandle, port: number, header: string): Promise<string> {
  const text = await exchange(
    proxy.port,
    `GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${header}\r\n`,
  );
  return text.split("\r\n")[0]!;
}

test("PROXY_PASSWORD is valid for any user name, else 407", async () => {
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
  );
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, env: { PROXY_PASSWORD: "s3cret-Word" } });
  for (const header of [basic(":s3cret-Word"), basic("project-42:s3cret-Word"), basic(":s3cret-Word", "bASIC")]) {
    assert.equal(await statusOf(proxy, far.port, header), "HTTP/1.1 200 OK", header);
  }
  const wrong = [
    basic(":wrong"),
    basic("s3cret-Word"),
    basic("s3cret-Word:"),
    basic(":s3cret-Word", "Bearer"),
    basic(":s3cret-Word2"),
    basic(":"),
  ];
  for (const header of [...wrong, "Proxy-Authorization: Basic %%%\r\n"]) {
    assert.match(
      await statusOf(proxy, far.port, header),
      /^HTTP\/1\.1 407 egress-auth: wrong proxy credentials/,
      header,
    );
  }
  const missing = await exchange(proxy.port, "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n");
  assert.match(missing, /^HTTP\/1\.1 407 egress-auth: no proxy credentials/);
  assert.match(missing, /\r\nProxy-Authenticate: Basic realm="outrider", charset="UTF-8"\r\n/);
  await proxy.waitRecord((r) => r.client === "project-42");
  await proxy.stop();
  assert.doesNotMatch(proxy.stderr() + JSON.stringify(proxy.records()), /s3cret-Word/);
  await far.close();
});

test("a mounted Secret has passwords per client and two shared ones", async () => {
  const folder = tempFolder();
  const files = { PROXY_PASSWORD: "new-one\n", PROXY_PASSWORD_PREVIOUS: "old-one", billing: "b-pass", shop: "s-pass" };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
  );
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--password-dir", folder] });
  for (const pair of [":new-one", "x:old-one", "billing:b-pass", "shop:s-pass"]) {
    assert.equal(await statusOf(proxy, far.port, basic(pair)), "HTTP/1.1 200 OK", pair);
  }
  for (const pair of ["billing:s-pass", ":b-pass", "other:b-pass", "billing:"]) {
    assert.match(await statusOf(proxy, far.port, basic(pair)), /^HTTP\/1\.1 407 /, pair);
  }
  await proxy.stop();
  assert.doesNotMatch(proxy.stderr(), /percent-encoded/);
  await far.close();
});

test("warns about a password that a URL would have to escape", async () => {
  const proxy = await startProxy({ policy: {}, env: { PROXY_PASSWORD: "p@ss:w/rd" } });
  const ask = (header: string) => exchange(proxy.port, `CONNECT 10.0.0.5:443 HTTP/1.1\r\n${header}\r\n`);
  assert.match(await ask(basic("x:p@ss:w/rd")), /^HTTP\/1\.1 403 /);
  assert.match(await ask(basic("x:p@ss")), /^HTTP\/1\.1 407 /);
  assert.equal(await proxy.stop(), 0);
  assert.match(proxy.stderr(), /"level":"warn".*PROXY_PASSWORD: has characters that must be percent-encoded/);
  assert.doesNotMatch(proxy.stderr(), /w\/rd/);
});

test("does not start with an empty or a missing password", async () => {
  const folder = tempFolder();
  const policy = join(folder, "policy.yaml");
  const head = "apiVersion: egress.outrider.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: x}\n";
  writeFileSync(policy, `${head}spec: {authentication: {mode: Basic, secretRef: {name: p}}}\n`);
  const args = ["proxy", "--policy", policy, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const empty = await runOutrider(args, { PROXY_PASSWORD: "" });
  assert.deepEqual(
    [empty.status, empty.stderr],
    [2, "outrider: PROXY_PASSWORD: the password is empty; set one, or leave it out\n"],
  );
  const none = await runOutrider([...args, "--log-level", "silent"]);
  assert.equal(none.status, 2);
  assert.match(
    none.stderr,
    /spec\.authentication\.mode: Basic needs a password: set PROXY_PASSWORD or --password-dir\n$/,
  );
});
