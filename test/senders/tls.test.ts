import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { Pki, tlsArgs, tlsFolder } from "../harness/pki.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { ADDRESSES, NAMES } from "./cases.ts";
import { type Program, programs } from "./clients.ts";
import { runInside, startReceiver } from "./stage.ts";
import { type Row, readLines } from "./table.ts";

/**
 * Real HTTP clients that speak TLS to the proxy. docs/senders.md has the table (`UPDATE=1` writes it). The clients run in
 * a network namespace without a route out.
 */

const PAGE = new URL("../../docs/senders.md", import.meta.url).pathname;
const [BEGIN, END] = ["<!-- written by test/senders/tls: begin -->\n", "<!-- end of TLS -->\n"];
const PASSWORD = "s3cret";
const HOST = "webhooks-egress.convoy.svc.cluster.local";
const SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt";
const PROGRAM_MS = 150_000;
const HOOK_MS = 2 * PROGRAM_MS;

const folder = tempFolder();
const file = (name: string) => join(folder, name);
const missing = netnsMissing() ?? opensslMissing();
/** Without namespaces nothing is installed or built. */
const all: readonly Program[] = missing === null ? programs(folder) : [];
const clients = all.flatMap((program) => program.clients);
let net: Netns;
let receiver: ChildProcess;
const proxies: ProxyHandle[] = [];

/** Where the CA of the proxy is: in the roots of the system, only in NODE_EXTRA_CA_CERTS, or nowhere. */
type Trust = "roots" | "added" | "none";
interface Trial {
  trust: Trust;
  /** Whether the clients have a certificate. The proxy then reads no passwords. */
  certificate: boolean;
}

const TRIALS: Readonly<Record<"trusted" | "untrusted" | "added" | "certificate", Trial>> = {
  trusted: { trust: "roots", certificate: false },
  untrusted: { trust: "none", certificate: false },
  added: { trust: "added", certificate: false },
  certificate: { trust: "roots", certificate: true },
};
type TrialName = keyof typeof TRIALS;
const NAMES_OF_TRIALS = Object.keys(TRIALS) as TrialName[];
const SCHEMES = ["http", "https"] as const;
const COLUMNS = [
  "https proxy URL",
  "verifies the proxy",
  "private CA by `NODE_EXTRA_CA_CERTS`",
  "client certificate, set in code",
];
const seen = new Map(NAMES_OF_TRIALS.map((trial) => [trial, new Map<string, Row>()]));

async function play(program: Program, trial: TrialName): Promise<void> {
  const { trust, certificate } = TRIALS[trial];
  const { tlsPort: port } = proxies[certificate ? 1 : 0]!;
  const plan = file("plan");
  const [user, ca] = ["sender", file(trust === "roots" ? "roots.pem" : "ca.pem")];
  const proxy = { host: HOST, port, user, password: PASSWORD };
  const url = `https://${certificate ? "" : `${user}:${PASSWORD}@`}${HOST}:${port}`;
  const { command, env } = program.command({ plan, ca, proxy });
  const { stdout } = await runInside(net, {
    command,
    env: {
      ...{ HTTP_PROXY: url, http_proxy: url, HTTPS_PROXY: url, https_proxy: url },
      ...env,
      // As injection sets it.
      ...(trust === "added" && { NODE_EXTRA_CA_CERTS: file("both.pem") }),
      ...(trust === "roots" && { SSL_CERT_FILE: file("roots.pem") }),
      ...(certificate && { CLIENT_CERT: file("client.crt"), CLIENT_KEY: file("client.key") }),
    },
    mounts: {
      "/etc/resolv.conf": file("resolv.conf"),
      "/etc/hosts": file("hosts"),
      ...(trust === "roots" && { [SYSTEM_ROOTS]: file("roots.pem") }),
    },
    ms: PROGRAM_MS,
  });
  readLines(stdout, seen.get(trial)!);
}

before(
  async () => {
    if (missing !== null) return;
    net = makeNetns(Object.values(ADDRESSES), []);
    makeCertificate(folder, [NAMES.receiver]);
    const pki = new Pki();
    const server = tlsFolder(pki, pki.issue("server", "/CN=proxy", { names: [`DNS:${HOST}`] }));
    const issued = pki.issue("client", "/CN=sender");
    writeFileSync(file("client.crt"), readFileSync(issued.cert));
    writeFileSync(file("client.key"), readFileSync(issued.key));
    for (const name of ["roots.pem", "both.pem"])
      writeFileSync(file(name), `${readFileSync(pki.file)}${readFileSync(file("ca.pem"))}`);
    const cases = SCHEMES.map((scheme) => `${scheme} ${scheme}://${NAMES.receiver}/hook 16\n`);
    writeFileSync(file("plan"), cases.join(""));
    writeFileSync(file("resolv.conf"), "nameserver 127.0.0.1\n");
    writeFileSync(file("hosts"), `127.0.0.1 localhost ${HOST}\n`);
    receiver = await startReceiver(net, Object.values(ADDRESSES), folder);
    const start = (args: string[], env: Record<string, string>) =>
      startProxy({
        policy: { ports: [80, 443] },
        netns: net.inside,
        env,
        args: [...args, "--resolver", "127.0.0.1:53"],
        hosts: `${ADDRESSES.receiver} ${NAMES.receiver}\n`,
      });
    proxies.push(await start(tlsArgs(server), { PROXY_PASSWORD: PASSWORD }));
    proxies.push(await start(tlsArgs(server, "cn"), {}));
    const runs = all.filter((program) => program.clients.some((client) => client.missing === undefined));
    await Promise.all(
      runs.map(async (program) => {
        for (const trial of NAMES_OF_TRIALS) await play(program, trial);
      }),
    );
  },
  { timeout: HOOK_MS },
);

after(async () => {
  for (const proxy of proxies) assert.equal(await proxy.stop(), 0);
  receiver?.kill("SIGKILL");
  net?.close();
});

/** A client that uses a proxy asks it for the target, and does not resolve its name. */
const OWN_LOOKUP = /DNSError|name resolution|getaddrinfo|ENOTFOUND|no such host|UnknownHost/;

function lineOf(name: string): string {
  const row = (trial: TrialName) => seen.get(trial)!.get(name)?.seen;
  const delivered = (trial: TrialName) =>
    SCHEMES.filter((scheme) => /^got POST \//.test(row(trial)?.get(scheme)?.body ?? ""));
  const [trusted, untrusted] = [delivered("trusted"), delivered("untrusted")];
  const isDirect = SCHEMES.some((scheme) => OWN_LOOKUP.test(row("trusted")?.get(scheme)?.error ?? ""));
  const works = (trial: TrialName) => (delivered(trial).some((scheme) => !untrusted.includes(scheme)) ? "yes" : "no");
  const cells =
    trusted.length === 0
      ? [isDirect ? "**no: sends directly**" : "no", "", "", ""]
      : [
          trusted.join(", "),
          untrusted.length === 0 ? "yes" : `**not for ${untrusted.join(" and ")}**`,
          works("added"),
          delivered("certificate").join(", ") || "no",
        ];
  return `| ${[name, ...cells].join(" | ")} |`;
}

const heading = `| client | ${COLUMNS.join(" | ")} |\n|${"---|".repeat(COLUMNS.length + 1)}`;

/** The table in docs/senders.md, and the text around it. */
function page(): { before: string; table: string; after: string } {
  const text = readFileSync(PAGE, "utf8");
  const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
  assert.ok(begin >= BEGIN.length && end >= begin, `${PAGE} has no table: ${BEGIN}`);
  return { before: text.slice(0, begin), table: text.slice(begin, end), after: text.slice(end) };
}

/** Line of a client in the page. */
const documented = (name: string): string | undefined =>
  page()
    .table.split("\n")
    .find((line) => line.startsWith(`| ${name} |`));

// Its time includes that of the hook.
test("the proxy serves clients on its TLS port", { skip: missing ?? false, timeout: HOOK_MS }, () => {
  for (const { name, missing: lacks } of clients) {
    if (lacks === undefined) assert.ok(seen.get("trusted")!.get(name), `${name} ran`);
  }
  if (process.env.SHOW)
    console.error(
      JSON.stringify([...seen].map(([trial, rows]) => [trial, [...rows].map(([name, row]) => [name, [...row.seen]])])),
    );
  if (!process.env.UPDATE) return;
  // Clients that did not run keep their lines.
  const lines = clients.map(({ name, missing }) => (missing === undefined ? lineOf(name) : documented(name)));
  const { before, after } = page();
  writeFileSync(PAGE, `${before}\n${[heading, ...lines.filter((line) => line !== undefined)].join("\n")}\n\n${after}`);
});

for (const { name, missing: lacks } of clients) {
  test(`${name}: speaks TLS to the proxy as in docs/senders.md`, { skip: lacks ?? false }, () => {
    assert.equal(documented(name), lineOf(name));
  });
}

if (missing !== null) test("the table of TLS", { skip: missing }, () => {});

test("docs/senders.md shows no other client with TLS", { skip: missing ?? false }, () => {
  const names = page()
    .table.split("\n")
    .flatMap((line) => /^\| (.+?) \|/.exec(line)?.[1] ?? []);
  assert.deepEqual(names, ["client", ...clients.map(({ name }) => name)]);
});
