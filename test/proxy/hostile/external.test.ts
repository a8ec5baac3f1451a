import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { TLSSocket } from "node:tls";
import { Rng } from "../../fuzz/seed.ts";
import { Baseline } from "../../harness/baseline.ts";
import { opensslMissing } from "../../harness/certificate.ts";
import { basic, passwordFolder } from "../../harness/clients.ts";
import { clientHello, type Issued, Pki, tlsArgs, tlsConnect, tlsFolder } from "../../harness/pki.ts";
import { OPEN_LOOPBACK, startProxy } from "../../harness/proxy.ts";
import { listen, RawClient } from "../../harness/raw.ts";
import { ipv4, tlv, v1, v2 } from "../proxy-header-encoder.ts";

/** Random input to the port for clients outside of the network: PROXY headers, TLS, proofs. */

const skip = opensslMissing() ?? false;
const CONNECTIONS = 400;
const AT_ONCE = 24;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const PEERS = { client: "127.7.0.1", balancer: "127.9.0.1", stranger: "127.8.0.1" };

let pki: Pki;
let server: Issued;
let billing: Issued;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  if (skip) return;
  pki = new Pki();
  server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  billing = pki.issue("billing", "/CN=billing");
  far = await listen((socket) => {
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
});
after(() => far?.close());

/** A header that names an address. */
function headerOf(rng: Rng, address: string): Buffer {
  if (rng.oneIn(2)) return v1("TCP4", address, "192.0.2.200", rng.int(1, 65_535), 4752);
  const block = Buffer.concat([ipv4(address), ipv4("192.0.2.200"), Buffer.from([4, 1, 18, 144])]);
  const extra = rng.oneIn(2) ? tlv(5, Buffer.alloc(rng.size(300))) : Buffer.alloc(0);
  return v2({ family: 0x11, block: Buffer.concat([block, extra]), checksum: rng.oneIn(2) });
}

const LOCAL = v2({ command: 0, family: 0, block: Buffer.alloc(0) });
const HEADERS = ["none", "client", "client", "stranger", "local", "damaged"] as const;
const PROOFS = ["certificate", "own", "shared", "wrong", "nothing"] as const;

interface Case {
  peer: keyof typeof PEERS;
  header: (typeof HEADERS)[number];
  proof: (typeof PROOFS)[number];
  rng: Rng;
}

/** The status that a complete request gets; null: the connection is closed. Undefined: it depends on the damage. */
function expectedOf({ peer, header, proof }: Case): string | null | undefined {
  const status = proof === "wrong" || proof === "nothing" ? "407" : "200";
  if (peer === "stranger") return null;
  if (peer === "client") return header === "none" ? status : null;
  if (header === "damaged") return undefined;
  return header === "client" ? status : null;
}

function bytesOf({ header, rng }: Case): Buffer {
  if (header === "none") return Buffer.alloc(0);
  if (header === "local") return LOCAL;
  const bytes = headerOf(rng, header === "stranger" ? "203.0.113.9" : "127.7.0.9");
  if (header === "damaged") bytes[rng.int(0, bytes.length - 1)]! ^= 1 << rng.int(0, 7);
  return bytes;
}

/** Writes bytes in pieces. */
async function writeSplit(socket: Socket, bytes: Buffer, rng: Rng): Promise<void> {
  for (let at = 0; at < bytes.length && !socket.destroyed; ) {
    const length = rng.oneIn(2) ? rng.size(30) : bytes.length;
    socket.write(bytes.subarray(at, at + length));
    at += length;
    if (rng.oneIn(3)) await sleep(rng.size(10));
  }
}

const FIELDS = { own: basic("shop:s-pass"), shared: basic("x:together"), wrong: basic("shop:no") };

/** The status of a request over TLS; null: the connection was closed. */
async function ask(port: number, socket: Socket, { proof }: Case): Promise<string | null> {
  try {
    const issued = proof === "certificate" ? billing : undefined;
    const closed = once(socket, "close");
    // A handshake on a socket that is closed already never ends.
    if (socket.destroyed) return null;
    const secure = await Promise.race([tlsConnect(port, pki.file, issued, { socket }), closed]);
    if (!(secure instanceof TLSSocket)) return null;
    const client = RawClient.over(secure);
    const field = proof in FIELDS ? FIELDS[proof as keyof typeof FIELDS] : "";
    client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${field}\r\n`);
    await client.untilEnd(20_000);
    client.socket.destroy();
    return client.text === "" ? null : client.text.slice(9, 12);
  } catch {
    return null;
  }
}

test(`random input to the external port breaks no invariant (SEED=${seed})`, { skip, timeout: 170_000 }, async () => {
  const proxy = await startProxy({
    policy: {},
    args: [
      ...OPEN_LOOPBACK,
      ...tlsArgs(tlsFolder(pki, server), "cn"),
      ...["--listen-external", "127.0.0.1:0", "--external-from", "127.7.0.0/16"],
      ...["--proxy-protocol", "required", "--proxy-protocol-from", "127.9.0.0/16"],
      ...["--password-dir", passwordFolder({ shop: "s-pass", PROXY_PASSWORD: "together" }), "--head-seconds", "3"],
    ],
  });
  const hello = await clientHello();
  const port = proxy.externalPort;
  const warm = connect({ port, host: "127.0.0.1", localAddress: PEERS.client });
  await ask(port, warm, { peer: "client", header: "none", proof: "certificate", rng: new Rng(seed) });
  await proxy.waitRecord(() => true);
  const baseline = await Baseline.of(proxy);
  const served = () => proxy.records().filter(({ verdict }) => verdict === "allow").length;
  const earlier = served();

  let good = 0;
  const run = async (number: number) => {
    const rng = new Rng(seed, number);
    const peer = rng.pick(["client", "balancer", "balancer", "balancer", "stranger"] as const);
    const one: Case = { peer, header: rng.pick(HEADERS), proof: rng.pick(PROOFS), rng };
    const socket = connect({ port, host: "127.0.0.1", localAddress: PEERS[peer], noDelay: true });
    socket.on("error", () => {});
    await once(socket, "connect");
    await writeSplit(socket, bytesOf(one), rng);
    if (rng.oneIn(3)) {
      // No complete handshake: a cut or damaged ClientHello, other bytes, or nothing.
      const cut = Buffer.from(hello.subarray(0, rng.int(0, hello.length - 1)));
      const junk = Buffer.from(Array.from({ length: rng.size(3000) }, () => rng.int(0, 255)));
      if (rng.oneIn(2) && cut.length > 0) cut[rng.int(0, cut.length - 1)]! ^= 1 << rng.int(0, 7);
      await writeSplit(socket, rng.oneIn(3) ? junk : cut, rng);
      if (rng.oneIn(2)) await sleep(rng.size(60));
      if (rng.oneIn(2)) socket.resetAndDestroy();
      else socket.destroy();
      return;
    }
    const status = await ask(port, socket, one);
    socket.destroy();
    if (status === "200") good++;
    const expected = expectedOf(one);
    const what = `connection ${number}: ${JSON.stringify({ ...one, rng: undefined })}`;
    if (expected !== undefined) assert.equal(status, expected, what);
    else assert.ok(status !== "200" || !["wrong", "nothing"].includes(one.proof), what);
  };
  let next = 0;
  const lane = async () => {
    while (next < CONNECTIONS) await run(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  await baseline.restored();
  assert.ok(good > 20, `${good} requests were served`);
  assert.equal(served() - earlier, good);
  assert.equal(await proxy.stop(), 0);
});
