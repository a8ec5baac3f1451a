import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { walk as crdFields, readSchema } from "../../crds/schema.ts";
import { PROXY_OPTIONS, readConfig, settingsOf } from "../../proxy/config/config.ts";
import { encodeDocument, makeDocument, readDocument } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { dnsSecondsOf } from "../../proxy/policy-installer.ts";
import { fits, follow, type RootSchema, type Schema } from "../harness/json-schema.ts";
import { runs } from "../harness/runs.ts";
import { clientsDocumentArb, documentArb } from "./arbitraries.ts";

/**
 * Compares docs/policy-document.schema.json with the reader: neither may have a field or a bound that the other does
 * not.
 */

const schema = JSON.parse(
  readFileSync(new URL("../../docs/policy-document.schema.json", import.meta.url), "utf8"),
) as RootSchema & { $defs: Record<string, Schema> };

function reads(value: unknown): boolean {
  try {
    readDocument(value);
    return true;
  } catch {
    return false;
  }
}

const FULL = {
  allow: [{ name: "one", hosts: ["a.example"], except: ["b.example"], cidrs: ["10.0.0.0/8"], ports: [80, "1-2"] }],
  deny: [{ ports: [25] }, { name: "two", cidrs: ["8.8.8.0/24"], opens: false as const }],
  blockedCIDRs: ["10.0.0.0/8"],
  staticIPs: [{ address: "203.0.113.10", sourceAddress: "10.0.0.4", phase: "Retiring" as const }],
  verification: {
    echoURLs: ["https://echo.example/"],
    intervalSeconds: 30,
    timeoutSeconds: 5,
    staleAfterSeconds: 600,
    onUnverified: "Block" as const,
  },
};

/** The fields that only version 2 has. */
const FULL_2 = {
  ...FULL,
  version: 2 as const,
  authentication: { mode: "Basic" as const, allowMissing: true, sharedClient: "default" },
  hostSets: [{ name: "x", hosts: ["x.example"] }],
  clients: [
    {
      name: "billing",
      allow: [{ name: "own", hosts: ["set:x"] }],
      inheritAllow: true as const,
      deny: [{ ports: [25] }],
      defaultAction: "Report" as const,
      mode: "Report" as const,
      ports: [443],
      limits: { maxTunnels: 3, requestsPerSecond: 2, burst: 5 },
    },
    { name: "default" },
  ],
};

test("every document of the proxy is valid by its schema", () => {
  fc.assert(
    fc.property(documentArb, (partial) => {
      const text = encodeDocument(makeDocument(partial));
      assert.ok(fits(schema, schema, JSON.parse(text)), text);
    }),
    { numRuns: runs(500) },
  );
  fc.assert(
    fc.property(clientsDocumentArb, ({ clients: _clients, ...partial }) => {
      const text = encodeDocument(makeDocument({ ...partial, clients: [{ name: "default" }] }));
      assert.ok(fits(schema, schema, JSON.parse(text)), text);
    }),
    { numRuns: runs(200) },
  );
  for (const full of [FULL, FULL_2]) assert.ok(fits(schema, schema, JSON.parse(encodeDocument(makeDocument(full)))));
});

/** Every place in a document, with its schema and a way to put another value there. */
function places(value: unknown, part: Schema, put: (other: unknown) => unknown, path: string): Place[] {
  const here = { value, part: follow(schema, part), put, path };
  if (Array.isArray(value)) {
    const others = value.flatMap((item, i) =>
      places(item, here.part.items!, (other) => put(value.with(i, other)), `${path}[${i}]`),
    );
    return [here, ...others];
  }
  if (typeof value !== "object" || value === null) return [here];
  const fields = Object.entries(value).flatMap(([key, item]) => {
    const inner = here.part.properties?.[key] ?? assert.fail(`the schema lacks ${path}.${key}`);
    return places(item, inner, (other) => put({ ...value, [key]: other }), `${path}.${key}`);
  });
  return [here, ...fields];
}

/** Fields of the smallest document and their defaults. Lists without entries, and the version, have none. */
const SMALLEST = {
  staticIPs: [{ address: "203.0.113.10" }],
  verification: { echoURLs: ["https://echo.example/"] } as never,
};
const GIVEN = [".version", ".policy", ".staticIPs[0].address", ".verification.echoURLs"];

/** The default of a place in a document, by the path of its field in the CRD: a list without its index. */
const defaults = (): Map<string, { value: unknown; part: Schema }> => {
  const document = JSON.parse(encodeDocument(makeDocument(SMALLEST)));
  const leaves = places(document, schema, (other) => other, "").filter(
    ({ value, path }) =>
      (typeof value !== "object" || path === ".ports") && !GIVEN.some((given) => path.startsWith(given)),
  );
  return new Map(
    leaves
      .filter(({ path }) => !path.startsWith(".ports["))
      .map(({ path, value, part }) => [`spec${path.replace("[0]", "[]")}`, { value, part }]),
  );
};

test("reader, schema and CRD have the same defaults", () => {
  const found = defaults();
  assert.ok(found.size >= 16, `${found.size} fields with a default: ${[...found.keys()]}`);
  const inCrd = new Map([...crdFields(readSchema())].map(([path, field]) => [path, field]));
  for (const [path, { value, part }] of found) {
    const crd = inCrd.get(path) ?? assert.fail(`the CRD lacks ${path}`);
    // Its default depends on the provider (`withInterval`).
    if (path !== "spec.verification.intervalSeconds") assert.deepEqual(crd.default, value, `the CRD: ${path}`);
    // The ports have their schema at another place, where a rule has no default.
    const own = path === "spec.ports" ? schema.properties!.ports! : part;
    assert.deepEqual(own.default, value, `the schema: ${path}`);
  }
});

test("a manifest without fields has the defaults of a document", () => {
  const manifest = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "test", namespace: "test" },
    spec: SMALLEST,
  };
  assert.equal(encodeDocument(readManifest(manifest).document), encodeDocument(makeDocument(SMALLEST)));
});

test("a proxy without a policy has the defaults of a document", () => {
  const { config } = readConfig(PROXY_OPTIONS, ["--policy", "x"], {});
  const document = makeDocument({});
  assert.deepEqual(settingsOf(config, null), settingsOf(config, document));
  assert.equal(dnsSecondsOf(config, null), document.proxy.timeouts.dnsSeconds);
});

test("--help has the defaults of a document", () => {
  const { proxy, ports } = makeDocument({});
  const shown: Record<string, string | number> = {
    ...{
      ports: ports.join(),
      "dns-seconds": proxy.timeouts.dnsSeconds,
      "connect-seconds": proxy.timeouts.connectSeconds,
    },
    ...{ "idle-seconds": proxy.timeouts.idleSeconds, "drain-seconds": proxy.timeouts.drainSeconds },
    ...{ "max-tunnels": proxy.limits.maxTunnels, "deny-status": proxy.denyStatus },
    ...{ "reason-detail": proxy.reasonDetail.toLowerCase(), "access-log": proxy.accessLog.toLowerCase() },
  };
  const shared = PROXY_OPTIONS.filter(({ help }) => help.includes("or the policy's)"));
  assert.deepEqual(shared.map(({ name }) => name).sort(), Object.keys(shown).sort());
  for (const { name, help } of shared) assert.ok(help.endsWith(`(default ${shown[name]}, or the policy's)`), help);
});

interface Place {
  value: unknown;
  part: Schema;
  put: (other: unknown) => unknown;
  path: string;
}

test("schema and reader reject the same documents", () => {
  const all = [FULL, FULL_2].flatMap((full) => {
    const document = JSON.parse(encodeDocument(makeDocument(full)));
    return places(document, schema, (other) => other, "");
  });
  assert.ok(all.length > 130, `${all.length} places`);
  let refused = 0;
  for (const { value, part, put, path } of all) {
    const others: unknown[] = [{ zzz: 1 }, [[]], -1, 0.5, true];
    // Names, addresses and CIDRs have a syntax that only the reader checks.
    if (part.type !== "string" || part.pattern !== undefined) others.push("\0");
    if (typeof value === "object" && !Array.isArray(value)) others.push({ ...value, zzz: 1 });
    if (Array.isArray(value)) others.push([]);
    for (const bound of ["minimum", "maximum"] as const) {
      if (part[bound] === undefined) continue;
      others.push(part[bound], Number(part[bound]) + (bound === "minimum" ? -1 : 1));
    }
    for (const word of (part.enum as unknown[] | undefined) ?? []) others.push(word);
    for (const other of others) {
      const document = put(other);
      const good = reads(document);
      assert.equal(
        fits(schema, schema, document),
        good,
        `${path} = ${JSON.stringify(other)}: the proxy ${good ? "reads" : "refuses"} it`,
      );
      if (!good) refused++;
    }
  }
  assert.ok(refused > 900, `${refused} refused`);
});
