import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { manifest, runOutrider, tempFolder } from "../harness/proxy.ts";

const folder = tempFolder();
let files = 0;
const file = (text: string): string => {
  const path = join(folder, `${files++}.yaml`);
  writeFileSync(path, text);
  return path;
};

const DENY = [
  { name: "competitors", hosts: ["competitor.example", "*.competitor.example"] },
  { name: "range", cidrs: ["8.8.8.0/24"] },
];
const BEFORE = manifest({ deny: DENY });

/** Edits, the exit status, and the lines that the command prints. */
const ROWS: [what: string, before: string, after: string, status: number, lines: string[]][] = [
  ["no edit", BEFORE, BEFORE, 0, ["no difference: both policies allow the same targets"]],
  [
    "rules that move and get other names",
    BEFORE,
    manifest({ deny: [DENY[1]!, { hosts: DENY[0]!.hosts }] }),
    0,
    ["no difference: both policies allow the same targets"],
  ],
  [
    "a name that a deny rule loses",
    BEFORE,
    manifest({ deny: [{ name: "competitors", hosts: ["*.competitor.example"] }, DENY[1]!] }),
    1,
    [
      "+ competitor.example, ports 80, 443, 1024-65535, public IPv4 addresses except 8.8.8.0/24, public IPv6 addresses: denied by rule competitors -> allowed by the default action",
      "1 opens, 0 close",
    ],
  ],
  [
    "a rule that opens a private range, and one that denies a port",
    BEFORE,
    manifest({
      deny: [...DENY, { name: "admin", ports: [8443] }],
      allow: [{ name: "internal", hosts: ["a.internal.example"], cidrs: ["10.0.0.0/8"], ports: ["443-444"] }],
    }),
    1,
    [
      "+ a.internal.example, port 443, 10.0.0.0/8 (private): address class not allowed -> allowed by rule internal",
      "+ a.internal.example, port 444, 10.0.0.0/8 (private): port not allowed -> allowed by rule internal",
      "- any name except *.competitor.example, competitor.example; IP targets, port 8443, public IPv4 addresses except 8.8.8.0/24, public IPv6 addresses: allowed by the default action -> denied by rule admin",
      "2 open, 1 closes",
    ],
  ],
  [
    "an allow list",
    BEFORE,
    manifest({ deny: DENY, defaultAction: "Deny", allow: [{ hosts: ["*.ok.example"] }] }),
    0,
    [
      "- any name except *.ok.example, *.competitor.example, competitor.example; IP targets, ports 80, 443, 1024-65535, public IPv4 addresses except 8.8.8.0/24, public IPv6 addresses: allowed by the default action -> not on the allow list",
      "0 open, 1 closes",
    ],
  ],
  [
    "another mode",
    manifest({ defaultAction: "Deny", ports: [443] }),
    manifest({ defaultAction: "Deny", ports: [443], mode: "Report" }),
    1,
    ["+ any target, all ports, public addresses: not on the allow list -> allowed in Report", "1 opens, 0 close"],
  ],
  [
    "an upstream proxy that resolves names",
    manifest({ defaultAction: "Deny", allow: [{ name: "ok", hosts: ["ok.example"], ports: [443] }] }),
    manifest({
      defaultAction: "Deny",
      allow: [{ name: "ok", hosts: ["ok.example"], ports: [443] }],
      upstreamProxy: { url: "http://proxy.example:3128", resolve: "Upstream" },
    }),
    1,
    [
      "~ requests leave through http://proxy.example:3128, which resolves names; before: directly",
      "+ ok.example, port 443, all addresses that are not public, unchecked: address class not allowed -> allowed by rule ok",
      "1 opens, 0 close",
    ],
  ],
  [
    "clients with lists of their own",
    manifest({ authentication: { mode: "Basic" }, defaultAction: "Deny" }),
    manifest({
      authentication: { mode: "Basic" },
      defaultAction: "Deny",
      clients: [
        { name: "billing", allow: [{ name: "psp", hosts: ["psp.example"], ports: [443] }] },
        { name: "default", defaultAction: "Allow", ports: [443], allow: [{ hosts: ["x.example"] }] },
      ],
    }),
    1,
    [
      "billing:",
      "  + psp.example, port 443, public addresses: not on the allow list -> allowed by rule psp",
      "other clients, clients with the shared password:",
      "  + any name except x.example; IP targets, port 443, public addresses: not on the allow list -> allowed by the default action",
      "  + x.example, port 443, public addresses: not on the allow list -> allowed by rule clients.default.allow[0]",
      "3 open, 0 close",
    ],
  ],
  [
    "no password any more",
    manifest({ authentication: { mode: "Basic" } }),
    manifest({}),
    1,
    [
      "clients without a proof:",
      "  + any target, ports 80, 443, 1024-65535, public addresses: client refused -> allowed by the default action",
      "1 opens, 0 close",
    ],
  ],
  [
    "files of different kinds",
    "services: []\ndefault: {action: enforce, allowed_domains: [a.example]}\n",
    '{"version": 1, "policy": "a/b", "defaultAction": "Deny", "allow": [{"hosts": ["a.example"]}]}',
    0,
    ["no difference: both policies allow the same targets"],
  ],
];

for (const [what, before, after, status, lines] of ROWS) {
  test(`diff shows ${what}`, async () => {
    const result = await runOutrider(["diff", file(before), file(after)]);
    assert.deepEqual(result.stdout.trimEnd().split("\n"), lines, result.stderr);
    assert.equal(result.status, status);
  });
}

test("diff prints JSON with all ranges", async () => {
  const after = manifest({ deny: [DENY[0]!] });
  const { status, stdout } = await runOutrider(["diff", "--json", file(BEFORE), file(after)]);
  assert.equal(status, 1);
  const { differences, ...counts } = JSON.parse(stdout) as { differences: Record<string, unknown>[] };
  assert.deepEqual(counts, { opens: 1, closes: 0, upstreamProxy: null });
  const [{ embedded, ...one }] = differences as [{ embedded: { layout: string; lasts: string[] }[] }];
  assert.deepEqual(one, {
    clients: null,
    change: "opens",
    upstreamProxies: false,
    hosts: ["*"],
    except: ["*.competitor.example", "competitor.example"],
    literals: true,
    ports: ["80", "443", "1024-65535"],
    addresses: ["8.8.8.0/24", "64:ff9b::808:800/120"],
    old: { verdict: "deny", code: "denied-rule", rule: "range" },
    new: { verdict: "allow", rule: "default" },
  });
  assert.deepEqual(
    embedded.map(({ layout, lasts }) => [layout, lasts]),
    [["ISATAP", ["8.8.8.0/24"]]],
  );
});

test("diff applies its options to both files", async () => {
  const [before, after] = [file(manifest({ ports: [443] })), file(manifest({ ports: ["1-65535"] }))];
  assert.equal((await runOutrider(["diff", before, after])).status, 1);
  assert.equal((await runOutrider(["diff", "--ports", "8443", before, after])).status, 0);
  const opened = file(manifest({ allow: [{ cidrs: ["10.0.0.0/8"] }] }));
  const none = file(manifest({}));
  assert.equal((await runOutrider(["diff", none, opened])).status, 1);
  assert.equal((await runOutrider(["diff", "--deny-cidr", "10.0.0.0/8", none, opened])).status, 0);
});

test("diff exits with 2 for wrong usage and invalid policies", async () => {
  const good = file(BEFORE);
  const rows: [string[], RegExp][] = [
    [[good], /^outrider: diff needs exactly two files: OLD and NEW\n$/],
    [[good, good, good], /diff needs exactly two files/],
    [[good, join(folder, "none")], /^outrider: .*none: no such file\n$/],
    [[good, file(manifest({ alow: [] }))], /\.yaml: spec\.alow: unknown key; did you mean allow\?\n$/],
    [["--service", "a", good, good], /--service is for acl\.yaml files/],
    [["--policy", good, good], /unknown option --policy/],
    [["--allow-cidr", "10.0.0.1/8", good, good], /allow-cidr.*host bits/],
  ];
  for (const [args, expected] of rows) {
    const { status, stdout, stderr } = await runOutrider(["diff", ...args]);
    assert.deepEqual([status, stdout], [2, ""], stderr);
    assert.match(stderr, expected);
  }
  const help = await runOutrider(["diff", "--help"]);
  assert.equal(help.status, 0);
  assert.match(help.stdout, /^Usage: outrider diff OLD NEW\n/);
});
