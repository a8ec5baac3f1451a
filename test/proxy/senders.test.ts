import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";

/** Real senders, a real proxy and real receivers on two hosts of their own, joined by a wire with no way out. */

const here = new URL("senders/", import.meta.url).pathname;
const folder = tempFolder();
const ca = join(folder, "ca.pem");
const RECEIVER = "11.0.0.10";
const RECEIVER6 = "2600:1::10";
const SILENT = "11.0.0.99";
/** They stand on the far side, so that a leak would be seen arriving. */
const TRAPS = ["10.0.0.5", "169.254.169.254", "64:ff9b::a00:5"];

const missing =
  netnsMissing() ?? (spawnSync("openssl", ["version"]).error === undefined ? null : "needs openssl (Debian: openssl)");
let net: Netns;
let proxy: ProxyHandle;
let receiver: ChildProcess;
const hits: string[] = [];

before(async () => {
  if (missing !== null) return;
  net = makeNetns([RECEIVER, RECEIVER6, ...TRAPS], [SILENT]);
  const key = join(folder, "key.pem");
  const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const names = "subjectAltName=DNS:hooks.example,DNS:six.example";
  const extensions = ["-subj", "/CN=test", "-addext", names];
  execFileSync("openssl", [...request, ...extensions, "-keyout", key, "-out", ca], { stdio: "ignore" });
  const args = [join(here, "receiver.mjs"), `${RECEIVER},${RECEIVER6}`, TRAPS.join(","), key, ca];
  receiver = spawn("ip", ["netns", "exec", net.internet, process.execPath, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = createInterface({ input: receiver.stdout! });
  const ready = once(lines, "line");
  lines.on("line", (line) => {
    if (line.startsWith("hit")) hits.push(line);
  });
  assert.deepEqual(await ready, ["ready"]);
  // The wire takes a moment until IPv6 works on it.
  const dial = `require("net").connect(80, "${RECEIVER6}").on("error", () => process.exit(1)).on("connect", () => process.exit(0))`;
  const warm = () =>
    spawnSync("ip", ["netns", "exec", net.inside, process.execPath, "-e", dial], { timeout: 3000 }).status;
  for (let i = 0; warm() !== 0; i++) assert.ok(i < 10, "IPv6 does not come up between the two hosts");
  proxy = await startProxy({
    policy: { deny: [{ name: "competitors", hosts: ["*.competitor.example"] }], ports: [80, 443] },
    netns: net.inside,
    env: { PROXY_PASSWORD: "s3cret" },
    args: ["--connect-seconds", "1", "--dns-seconds", "1", "--resolver", "127.0.0.1:53"],
    hosts: [
      `${RECEIVER} hooks.example x.competitor.example`,
      `${RECEIVER6} six.example`,
      `${SILENT} silent.example`,
      "11.0.0.10 closed.example",
      "10.0.0.5 private.example",
      "169.254.169.254 metadata.example",
      "::1 loop.example",
      "64:ff9b::10.0.0.5 nat64.example",
    ].join("\n"),
  });
});

after(async () => {
  if (missing !== null) return;
  assert.equal(await proxy.stop(), 0);
  receiver.kill("SIGKILL");
  await once(receiver, "close");
  net.close();
});

interface Outcome {
  status: number | null;
  text: string;
}

type Send = (url: string, credentials: string) => Promise<Outcome>;

/** `credentials`: user and password as in a URL; with a colon in front, the user name is empty. */
async function run(command: string[], credentials: string, extra: Record<string, string>): Promise<Outcome> {
  const url = `http://${credentials}@127.0.0.1:${proxy.port}`;
  const { PATH, HOME } = process.env;
  const env = {
    PATH: PATH!,
    HOME: HOME ?? "/tmp",
    HTTP_PROXY: url,
    http_proxy: url,
    HTTPS_PROXY: url,
    https_proxy: url,
    ...extra,
  };
  const child = spawn("ip", ["netns", "exec", net.inside, ...command], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000,
  });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  const [status] = (await once(child, "close")) as [number | null];
  return { status, text };
}

/**
 * Each sender: what it needs, how it sends, and whether it shows the reason phrase of a refused CONNECT. Python and
 * undici send no credentials at all for an empty user name, so they have one.
 */
const SENDERS: {
  name: string;
  tool: string[];
  prepare?: () => void;
  send: Send;
  showsPhrase: boolean;
  user: string;
}[] = [
  {
    name: "curl",
    tool: ["curl", "--version"],
    send: (url, credentials) =>
      run(["curl", "-sSv", "--max-time", "10", "--cacert", ca, "-d", '{"event":"paid"}', url], credentials, {}),
    showsPhrase: true,
    user: "",
  },
  {
    name: "Go net/http, as Convoy sends",
    tool: ["go", "version"],
    prepare: () => {
      const env = { ...process.env, GOFLAGS: "-mod=mod", GOPROXY: "off", CGO_ENABLED: "0" };
      execFileSync("go", ["build", "-o", join(folder, "sender"), join(here, "sender.go")], { env, stdio: "inherit" });
    },
    send: (url, credentials) => run([join(folder, "sender"), url, ca], credentials, {}),
    showsPhrase: true,
    user: "",
  },
  {
    name: "Python urllib",
    tool: ["python3", "--version"],
    send: (url, credentials) => run(["python3", join(here, "sender.py"), url, ca], credentials, {}),
    showsPhrase: true,
    user: "sender",
  },
  {
    name: "Node fetch",
    tool: [process.execPath, "--version"],
    send: (url, credentials) =>
      run([process.execPath, join(here, "sender.mjs"), url], credentials, {
        NODE_USE_ENV_PROXY: "1",
        NODE_EXTRA_CA_CERTS: ca,
      }),
    // undici tunnels plain http as well, and says the status of a refused CONNECT and nothing else.
    showsPhrase: false,
    user: "sender",
  },
];

/** Refusals: what is asked, the phrase, and the status that undici shows. */
const REFUSALS: [url: string, phrase: RegExp, status: number][] = [
  [
    "x.competitor.example",
    /egress-denied: x\.competitor\.example is denied by rule competitors; policy test\/test/,
    403,
  ],
  ["hooks.example:22", /egress-denied: port 22 of hooks\.example is not allowed; policy test\/test/, 403],
  [
    "private.example",
    /egress-denied: private\.example resolves to a private address \(10\.0\.0\.0\/8\); policy test\/test/,
    403,
  ],
  ["metadata.example", /egress-denied: metadata\.example resolves to a cloud metadata address/, 403],
  ["loop.example", /egress-denied: loop\.example resolves to a loopback address \(::1\/128\)/, 403],
  ["nat64.example", /egress-denied: nat64\.example resolves to a private address \(10\.0\.0\.0\/8\)/, 403],
  ["nowhere.example", /egress-dns: cannot resolve nowhere\.example: no resolver answers/, 502],
  ["silent.example", /egress-connect: silent\.example:(80|443) did not answer within 1 s/, 504],
];

for (const sender of SENDERS) {
  const skip =
    missing ??
    (spawnSync(sender.tool[0]!, sender.tool.slice(1)).error === undefined ? null : `needs ${sender.tool[0]}`);
  test(`${sender.name}: allowed requests arrive, refused ones say why in the sender's own words`, {
    skip: skip ?? false,
  }, async () => {
    sender.prepare?.();
    for (const url of [
      "https://hooks.example/hook",
      "http://hooks.example/hook",
      "https://six.example/hook",
      "http://six.example/hook",
    ]) {
      const { status, text } = await sender.send(url, `${sender.user}:s3cret`);
      assert.equal(status, 0, text);
      assert.match(text, new RegExp(`got POST /hook for ${new URL(url).hostname}`));
    }
    hits.length = 0;
    for (const [host, phrase, code] of REFUSALS) {
      const secure = await sender.send(`https://${host}/hook`, `${sender.user}:s3cret`);
      assert.notEqual(secure.status, 0);
      if (sender.showsPhrase) assert.match(secure.text, phrase);
      else assert.match(secure.text, new RegExp(`\\b${code}\\b`), `${host}: ${secure.text}`);
      const plain = await sender.send(`http://${host}/hook`, `${sender.user}:s3cret`);
      assert.match(plain.text, sender.showsPhrase ? phrase : new RegExp(`\\b${code}\\b`));
    }
    const wrong = await sender.send("https://hooks.example/hook", `${sender.user}:wrong`);
    assert.notEqual(wrong.status, 0);
    assert.match(wrong.text, sender.showsPhrase ? /egress-auth: wrong proxy credentials/ : /407/);
    const plain = await sender.send("http://hooks.example/hook", `${sender.user}:wrong`);
    assert.match(plain.text, sender.showsPhrase ? /egress-auth: wrong proxy credentials/ : /407/);
    if (sender.user !== "") {
      const empty = await sender.send("http://hooks.example/hook", ":s3cret");
      assert.match(empty.text, sender.showsPhrase ? /egress-auth: no proxy credentials/ : /407/);
    }
    // Nothing of all this reached any receiver, public or internal.
    assert.deepEqual(hits, []);
    for (const record of proxy.records()) {
      if (record.verdict === "deny") assert.equal(record.address, undefined);
    }
  });
}
