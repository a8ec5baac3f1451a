import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { BODY, SENDERS, type Sender } from "./senders/senders.ts";

/** Real senders, a real proxy and real receivers on two hosts, joined by a wire without a route out. */

const here = new URL("senders/", import.meta.url).pathname;
const folder = tempFolder();
const ca = join(folder, "ca.pem");
const RECEIVER = "11.0.0.10";
const RECEIVER6 = "2600:1::10";
/** Without a listener. */
const CLOSED = "11.0.0.11";
const SILENT = "11.0.0.99";
/** They are on the far side, so that a leak would arrive there. */
const FAR_TRAPS = ["10.0.0.5", "169.254.169.254", "64:ff9b::a00:5"];
/** These are on the proxy's own host. */
const NEAR_TRAPS = ["127.0.0.1", "::1"];
const HOSTS = `
${RECEIVER} hooks.example other.example x.competitor.example
${RECEIVER6} six.example
${CLOSED} closed.example
${SILENT} silent.example
10.0.0.5 private.example
169.254.169.254 metadata.example
::1 loop.example
64:ff9b::10.0.0.5 nat64.example
`;

const missing = netnsMissing() ?? opensslMissing();
let net: Netns;
let proxy: ProxyHandle;
const receivers: ChildProcess[] = [];
const hits: string[] = [];

async function startReceiver(netns: string, addresses: readonly string[], traps: readonly string[]): Promise<void> {
  const args = [join(here, "receiver.mjs"), addresses.join(), traps.join(), join(folder, "key.pem"), ca];
  const command = ["netns", "exec", netns, process.execPath, ...args];
  const receiver = spawn("ip", command, { stdio: ["ignore", "pipe", "inherit"] });
  receivers.push(receiver);
  const lines = createInterface({ input: receiver.stdout });
  const ready = once(lines, "line");
  lines.on("line", (line) => {
    if (line.startsWith("hit")) hits.push(line);
  });
  assert.deepEqual(await ready, ["ready"]);
}

before(async () => {
  if (missing !== null) return;
  net = makeNetns([RECEIVER, RECEIVER6, CLOSED, ...FAR_TRAPS], [SILENT]);
  makeCertificate(folder, ["hooks.example", "other.example", "six.example"]);
  await startReceiver(net.internet, [RECEIVER, RECEIVER6], FAR_TRAPS);
  await startReceiver(net.inside, [], NEAR_TRAPS);
  proxy = await startProxy({
    policy: { deny: [{ name: "competitors", hosts: ["*.competitor.example"] }], ports: [80, 443] },
    netns: net.inside,
    env: { PROXY_PASSWORD: "s3cret" },
    args: ["--connect-seconds", "1", "--dns-seconds", "1", "--resolver", "127.0.0.1:53"],
    hosts: HOSTS,
  });
});

after(async () => {
  if (missing !== null) return;
  if (proxy !== undefined) assert.equal(await proxy.stop(), 0);
  for (const receiver of receivers) {
    receiver.kill("SIGKILL");
    await once(receiver, "close");
  }
  net?.close();
});

/** Why a sender cannot be tested here; false when it can. */
const lacks = (sender: Sender): string | false => {
  if (missing !== null) return missing;
  const [tool, ...args] = sender.tool;
  return spawnSync(tool!, args).error === undefined ? false : `needs ${tool}`;
};

/** Runs a sender on the proxy's host, with the proxy in its environment as in Convoy; each URL creates one record. */
async function send(sender: Sender, urls: string[], password = "s3cret", user = sender.user) {
  const url = `http://${user}:${password}@127.0.0.1:${proxy.port}`;
  const { PATH, HOME } = process.env;
  const variables = { HTTP_PROXY: url, http_proxy: url, HTTPS_PROXY: url, https_proxy: url };
  const { command, env } = sender.command({ urls, ca, folder });
  const before = proxy.records().length;
  const child = spawn("ip", ["netns", "exec", net.inside, ...command], {
    env: { PATH, HOME, ...variables, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000,
  });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      text += chunk;
    });
  }
  const [status] = (await once(child, "close")) as [number | null];
  await proxy.waitRecord(() => proxy.records().length >= before + urls.length);
  return { status, text, records: proxy.records().slice(before) };
}

/** Packets that arrived on the far side: all of IPv4 (no ARP), and TCP of both families. */
function packets(): { ipv4: string; tcp: string } {
  const command = ["netns", "exec", net.internet, "cat", "/proc/net/snmp"];
  const lines = execFileSync("ip", command, { encoding: "utf8" }).split("\n");
  const value = (protocol: string, field: string): string => {
    const [names, values] = lines.filter((line) => line.startsWith(`${protocol}: `)).map((line) => line.split(" "));
    return values![names!.indexOf(field)]!;
  };
  return { ipv4: value("Ip", "InReceives"), tcp: value("Tcp", "InSegs") };
}

interface Refusal {
  /** `{port}` is a placeholder for the requested port. */
  phrase: string;
  status: number;
  code: string;
  /** The decision of the policy: an allowed request may still fail. */
  verdict: "allow" | "deny";
}

/** Requests a host by https and by http, and expects this refusal in the sender's output and in the record. */
async function expectRefusal(sender: Sender, host: string, refusal: Refusal): Promise<void> {
  for (const scheme of ["https", "http"] as const) {
    const url = `${scheme}://${host}/hook`;
    const port = String(new URL(url).port || (scheme === "https" ? 443 : 80));
    const phrase = refusal.phrase.replace("{port}", port);
    const { status, text, records } = await send(sender, [url]);
    const shows = scheme === "https" ? sender.showsTunnel : sender.showsPlain;
    const { exit, expected } = shows({ url, status: refusal.status, phrase });
    assert.ok(text.includes(expected), `${url}: no ${JSON.stringify(expected)} in ${text}`);
    assert.equal(status, exit, text);
    const target = `${new URL(url).hostname}:${port}`;
    assert.deepEqual(
      records.map((record) => [record.target, record.verdict, record.code, record.address]),
      [[target, refusal.verdict, refusal.code, undefined]],
    );
  }
}

const denied = (code: string, reason: string): Refusal => {
  return { code, status: 403, verdict: "deny", phrase: `egress-denied: ${reason}; policy test/test` };
};

const failed = (code: string, status: number, phrase: string): Refusal => ({ code, status, verdict: "allow", phrase });

/** Refused before anything is dialled. */
const REFUSED: [host: string, refusal: Refusal][] = [
  ["x.competitor.example", denied("denied-rule", "x.competitor.example is denied by rule competitors")],
  ["hooks.example:8022", denied("port", "port 8022 of hooks.example is not allowed")],
  ["private.example", denied("address", "private.example resolves to a private address (10.0.0.0/8)")],
  ["10.0.0.5", denied("address", "10.0.0.5 is a private address (10.0.0.0/8)")],
  ["metadata.example", denied("address", "metadata.example resolves to a cloud metadata address (169.254.169.254/32)")],
  ["loop.example", denied("address", "loop.example resolves to a loopback address (::1/128)")],
  ["nat64.example", denied("address", "nat64.example resolves to a private address (10.0.0.0/8)")],
];

/** Allowed, but the connection fails. */
const FAILED: [host: string, refusal: Refusal][] = [
  ["nowhere.example", failed("dns-failed", 502, "egress-dns: cannot resolve nowhere.example: no resolver answers")],
  ["closed.example", failed("refused", 502, "egress-connect: closed.example:{port} refused the connection")],
  ["silent.example", failed("timeout", 504, "egress-connect: silent.example:{port} did not answer within 1 s")],
];

for (const sender of SENDERS) {
  // These tests are first, so that no earlier connection can send a late packet.
  test(`${sender.name}: shows the reason of a refusal; no packet leaves`, {
    skip: lacks(sender),
  }, async () => {
    sender.prepare?.(folder);
    const before = packets();
    for (const [host, refusal] of REFUSED) await expectRefusal(sender, host, refusal);
    for (const scheme of ["https", "http"] as const) {
      const url = `${scheme}://hooks.example/hook`;
      const { text } = await send(sender, [url], "wrong");
      const shows = scheme === "https" ? sender.showsTunnel : sender.showsPlain;
      const { expected } = shows({
        url,
        status: 407,
        phrase: "egress-auth: wrong proxy credentials; set them in the proxy URL",
      });
      assert.ok(text.includes(expected), `no ${JSON.stringify(expected)} in ${text}`);
    }
    assert.deepEqual(hits, []);
    assert.deepEqual(packets(), before);
  });
}

for (const sender of SENDERS) {
  test(`${sender.name}: delivers unchanged over IPv4 and IPv6`, {
    skip: lacks(sender),
  }, async () => {
    const before = packets();
    for (const host of ["hooks.example", "six.example"]) {
      for (const scheme of ["https", "http"]) {
        const { status, text } = await send(sender, [`${scheme}://${host}/hook?id=1`]);
        assert.equal(status, 0, text);
        const got = /got (.*)/.exec(text)?.[1]?.split(" | ") ?? [];
        assert.equal(got[0], "POST /hook?id=1", text);
        assert.equal(got.at(-1), BODY);
        assert.ok(got.some((field) => field.toLowerCase() === `host: ${host}`));
        assert.doesNotMatch(got.join("\n"), /^(proxy-|x-forwarded-for|forwarded|x-real-ip)/im);
      }
    }
    // The counters of the previous test do increase.
    assert.notDeepEqual(packets(), before);
    assert.ok(hits.includes(`hit ${RECEIVER} 443`) && hits.includes(`hit ${RECEIVER6} 80`));
  });

  test(`${sender.name}: distinguishes failures of name, port and host`, {
    skip: lacks(sender),
  }, async () => {
    for (const [host, failure] of FAILED) await expectRefusal(sender, host, failure);
  });

  test(`${sender.name}: the user name may be empty`, { skip: lacks(sender) }, async () => {
    const { status, text } = await send(sender, ["http://hooks.example/hook"], "s3cret", "");
    if (sender.sendsEmptyUser) assert.equal(status, 0, text);
    // Then it sends no credentials at all: such a sender needs a user name in its URL.
    else
      assert.ok(
        text.includes(
          sender.showsPlain({
            url: "",
            status: 407,
            phrase: "egress-auth: no proxy credentials; set them in the proxy URL",
          }).expected,
        ),
        text,
      );
  });
}

const go = SENDERS.find((sender) => sender.name.startsWith("Go"))!;
test("Go: decides each plain request of a shared connection", {
  skip: lacks(go),
}, async () => {
  const urls = ["hooks.example", "other.example", "six.example", "private.example"].map((h) => `http://${h}/hook`);
  const { status, text, records } = await send(go, urls);
  assert.equal(status, 0, text);
  assert.equal(text.match(/^200 OK$/gm)?.length, 3);
  assert.match(text, /^403 egress-denied: private\.example resolves to a private address/m);
  assert.deepEqual(
    records.map((record) => record.verdict),
    ["allow", "allow", "allow", "deny"],
  );
  assert.equal(new Set(records.map((record) => record.source)).size, 1);
});

test("no packet reached an internal address", { skip: missing ?? false }, () => {
  const traps = [...FAR_TRAPS, ...NEAR_TRAPS];
  assert.deepEqual(
    hits.filter((line) => traps.includes(line.split(" ")[1]!)),
    [],
  );
});
