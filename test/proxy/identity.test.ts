import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Credentials } from "../../proxy/config/credentials.ts";
import {
  type Identity,
  identify,
  isSameUser,
  proofOf,
  recordName,
  stillValid,
  viewFor,
} from "../../proxy/config/identity.ts";
import type { Authentication } from "../../proxy/policy/clients.ts";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile } from "../../proxy/policy/engine.ts";
import { type ClientCertificate, readClientCertificate } from "../../proxy/tls/client-certificate.ts";
import { ClientTrust, readCas } from "../../proxy/tls/client-trust.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { type Issued, Pki } from "../harness/pki.ts";

const skip = opensslMissing() ?? false;
const MODES = ["None", "Basic", "TLS", "BasicOrTLS"] as const;
const PASSWORDS = { PROXY_PASSWORD: "together", billing: "b-pass", shop: "s-pass" };

function credentialsOf(passwords: Record<string, string>): Credentials {
  const credentials = new Credentials();
  for (const [name, password] of Object.entries(passwords)) credentials.add(name, password);
  return credentials;
}

const credentials = credentialsOf(PASSWORDS);
const under = (mode: Authentication["mode"], allowMissing = false, sharedClient = "default"): Authentication => ({
  mode,
  allowMissing,
  sharedClient,
});
const basic = (pair: string) => `Basic ${Buffer.from(pair, "latin1").toString("base64")}`;

/** Certificates of one authority. */
function certificates() {
  const pki = new Pki();
  const read = ({ cert }: Issued): ClientCertificate =>
    readClientCertificate(new X509Certificate(readFileSync(cert)).raw, "cn");
  return {
    trust: new ClientTrust(readCas(readFileSync(pki.file), Date.now()).cas, null, []),
    billing: read(pki.issue("billing", "/CN=billing")),
    expired: read(pki.issue("expired", "/CN=billing", { from: -7200, to: -3600 })),
    nameless: read(pki.issue("nameless", "/O=none")),
  };
}

/** An identity or a refusal as one line. */
function shown(result: ReturnType<typeof identify>): string {
  if ("code" in result) return `${result.code}: ${result.reason.replace(/ on \d\S+$/, "")}`;
  return result.kind === "own" ? `${result.name} ${proofOf(result)}` : `${proofOf(result)} ${recordName(result) ?? ""}`;
}

const WRONG = "auth: wrong proxy credentials; set them in the proxy URL";
const NO_PASSWORD = "auth: no proxy credentials; set them in the proxy URL";
const NO_CERTIFICATE = "client: no client certificate; use an https:// proxy URL and set one in the client";
const NO_NAME = "client: the client certificate has no CN in its subject";
const TWO_NAMES = "client: the credentials and the client certificate have different names";
const EXPIRED = "client: the client certificate expired";

test("without client CAs no certificate is accepted", { skip }, () => {
  const { billing } = certificates();
  const proofs = { authorization: undefined, certificate: billing, from: "192.0.2.1", isExternal: false };
  for (const mode of ["TLS", "BasicOrTLS"] as const) {
    const identity = identify(proofs, credentials, null, under(mode, true));
    assert.equal(shown(identity), "client: this proxy no longer accepts client certificates", mode);
  }
});

test("each row of the identity table decides in each mode", { skip }, () => {
  const { trust, billing, expired, nameless } = certificates();
  const missing = "none ";
  const rows: [string, ClientCertificate | null, string | undefined, [string, string, string, string]][] = [
    ["an expired certificate", expired, undefined, [missing, NO_PASSWORD, EXPIRED, EXPIRED]],
    [
      "an expired certificate and an own password",
      expired,
      basic("billing:b-pass"),
      [missing, "billing password", EXPIRED, EXPIRED],
    ],
    ["no Basic scheme", null, "Bearer x", [missing, WRONG, NO_CERTIFICATE, WRONG]],
    ["no base64", null, "Basic %%%", [missing, WRONG, NO_CERTIFICATE, WRONG]],
    ["no colon", null, basic("billing"), [missing, WRONG, NO_CERTIFICATE, WRONG]],
    ["an empty value", null, "", [missing, WRONG, NO_CERTIFICATE, WRONG]],
    ["a wrong password", null, basic("billing:nope"), [missing, WRONG, NO_CERTIFICATE, WRONG]],
    ["the password of another client", null, basic("billing:s-pass"), [missing, WRONG, NO_CERTIFICATE, WRONG]],
    [
      "the shared password with a name that has its own",
      null,
      basic("billing:together"),
      [missing, WRONG, NO_CERTIFICATE, WRONG],
    ],
    [
      "a wrong password beside a certificate",
      billing,
      basic("billing:nope"),
      [missing, WRONG, "billing certificate", WRONG],
    ],
    [
      "a wrong password beside a certificate without a name",
      nameless,
      basic("x:nope"),
      [missing, WRONG, NO_NAME, WRONG],
    ],
    ["a certificate without a name", nameless, undefined, [missing, NO_PASSWORD, NO_NAME, NO_NAME]],
    ["that and an own password", nameless, basic("shop:s-pass"), [missing, "shop password", NO_NAME, NO_NAME]],
    ["that and the shared password", nameless, basic("x:together"), [missing, "shared x", NO_NAME, NO_NAME]],
    ["two names", billing, basic("shop:s-pass"), [missing, "shop password", "billing certificate", TWO_NAMES]],
    ["an own password", null, basic("shop:s-pass"), [missing, "shop password", NO_CERTIFICATE, "shop password"]],
    ["a certificate", billing, undefined, [missing, NO_PASSWORD, "billing certificate", "billing certificate"]],
    ["both", billing, basic("billing:b-pass"), [missing, "billing password", "billing certificate", "billing both"]],
    [
      "a certificate and the shared password",
      billing,
      basic("x:together"),
      [missing, "shared x", "billing certificate", "billing certificate"],
    ],
    ["the shared password", null, basic("x:together"), [missing, "shared x", NO_CERTIFICATE, "shared x"]],
    ["the shared password without a name", null, basic(":together"), [missing, "shared ", NO_CERTIFICATE, "shared "]],
    ["nothing", null, undefined, [missing, NO_PASSWORD, NO_CERTIFICATE, NO_PASSWORD]],
  ];
  for (const [name, certificate, authorization, expected] of rows) {
    const proofs = { authorization, certificate, from: "192.0.2.1", isExternal: false };
    const at = (allowMissing: boolean) =>
      MODES.map((mode) => shown(identify(proofs, credentials, trust, under(mode, allowMissing))));
    assert.deepEqual(at(false), expected, name);
    // It replaces the refusal of a missing proof, and no other one.
    const admitted = expected.map((one) => (one === NO_PASSWORD || one === NO_CERTIFICATE ? missing : one));
    assert.deepEqual(at(true), admitted, `${name}, allowMissing`);
    // A client outside of the network needs a proof in every mode, also for a moment in which a policy admits all.
    const outside = (mode: Authentication["mode"]) =>
      shown(identify({ ...proofs, isExternal: true }, credentials, trust, under(mode, true)));
    for (const [i, mode] of MODES.entries()) {
      const inside = expected[i]!;
      assert.deepEqual(outside(mode), inside === missing ? NO_CERTIFICATE : inside, `${name}, outside, ${mode}`);
    }
  }
});

/** Identifies a client that must be accepted. */
function accepted(
  pair: string | undefined,
  certificate: ClientCertificate | null,
  trust: ClientTrust | null,
  mode: Authentication["mode"],
): Identity {
  const authorization = pair === undefined ? undefined : basic(pair);
  const identity = identify(
    { authorization, certificate, from: "192.0.2.1", isExternal: false },
    credentials,
    trust,
    under(mode, pair === undefined && certificate === null),
  );
  assert.ok(!("code" in identity));
  return identity;
}

test("an identity is valid as long as each of its proofs is", { skip }, () => {
  const { trust, billing } = certificates();
  const revoking = { refuses: () => "the client certificate is revoked" } as unknown as ClientTrust;
  const { billing: _own, ...withoutBilling } = PASSWORDS;
  const { PROXY_PASSWORD: _shared, ...withoutShared } = PASSWORDS;
  const of = (pair?: string, certificate: ClientCertificate | null = null) =>
    accepted(pair, certificate, trust, "BasicOrTLS");
  const own = of("billing:b-pass");
  const shared = of("x:together");
  const proven = of(undefined, billing);
  const both = of("billing:b-pass", billing);
  const beside = of("x:together", billing);
  const missing = of();
  const GONE = "auth";
  const rows: [string, Record<string, string>, ClientTrust | null, Authentication, [Identity, string | null][]][] = [
    [
      "nothing changed",
      PASSWORDS,
      trust,
      under("BasicOrTLS"),
      [
        [own, null],
        [shared, null],
        [proven, null],
        [both, null],
        [beside, null],
      ],
    ],
    [
      "the own password is removed",
      withoutBilling,
      trust,
      under("BasicOrTLS"),
      [
        [own, GONE],
        [shared, null],
        [proven, null],
        [both, GONE],
        [beside, null],
      ],
    ],
    [
      "the own password is another",
      { ...PASSWORDS, billing: "new" },
      trust,
      under("BasicOrTLS"),
      [
        [own, GONE],
        [both, GONE],
        [proven, null],
      ],
    ],
    [
      "the own password is the shared one",
      { ...withoutBilling, PROXY_PASSWORD: "b-pass" },
      trust,
      under("BasicOrTLS"),
      [
        [own, GONE],
        [both, GONE],
      ],
    ],
    [
      "the shared password is removed",
      withoutShared,
      trust,
      under("BasicOrTLS"),
      [
        [own, null],
        [shared, GONE],
        [both, null],
        [beside, GONE],
      ],
    ],
    [
      "the claimed name gets a password of its own",
      { ...PASSWORDS, x: "x-pass" },
      trust,
      under("BasicOrTLS"),
      [
        [shared, GONE],
        [own, null],
      ],
    ],
    [
      "all passwords are removed",
      {},
      trust,
      under("BasicOrTLS"),
      [
        [own, GONE],
        [shared, GONE],
        [proven, null],
        [both, GONE],
      ],
    ],
    [
      "the certificate is revoked",
      PASSWORDS,
      revoking,
      under("BasicOrTLS"),
      [
        [own, null],
        [proven, "client"],
        [both, "client"],
        [beside, "client"],
      ],
    ],
    [
      "there is no client CA",
      PASSWORDS,
      null,
      under("BasicOrTLS"),
      [
        [own, null],
        [proven, "client"],
        [both, "client"],
      ],
    ],
    [
      "the mode reads no passwords",
      PASSWORDS,
      trust,
      under("TLS"),
      [
        [own, GONE],
        [shared, GONE],
        [proven, null],
        [both, GONE],
        [missing, "client"],
      ],
    ],
    [
      "the mode reads no certificates",
      PASSWORDS,
      trust,
      under("Basic"),
      [
        [own, null],
        [proven, "client"],
        [both, "client"],
        [missing, GONE],
      ],
    ],
    [
      "a missing proof is admitted",
      PASSWORDS,
      trust,
      under("Basic", true),
      [
        [missing, null],
        [own, null],
      ],
    ],
    ["no proof is needed", PASSWORDS, trust, under("None"), [[missing, null]]],
    ["a missing proof is no longer admitted", PASSWORDS, trust, under("BasicOrTLS"), [[missing, GONE]]],
  ];
  for (const [name, passwords, now, authentication, expected] of rows) {
    for (const [identity, code] of expected) {
      const found = stillValid(identity, credentialsOf(passwords), now, authentication)?.code ?? null;
      assert.equal(found, code, `${name}: ${shown(identity)}`);
    }
  }
});

test("names select an entry as decoded text, exactly", () => {
  const names = ["billing", "bücher", "authed", "__proto__", "\uFFFD", "default"];
  const policy = (names: string[]) => compile(makeDocument({ version: 2, clients: names.map((name) => ({ name })) }));
  const all = policy(names);
  const view = (identity: Identity, sharedClient = "default", set = all) =>
    viewFor(set, identity, under("Basic", false, sharedClient))?.entry;
  const own = (name: string): Identity => ({ kind: "own", name });
  const utf8 = (name: string) => Buffer.from(name).toString("latin1");
  for (const name of names) assert.equal(view(own(utf8(name))), name);
  const others = [
    "Billing",
    "billing ",
    " billing",
    "billing\0",
    "billing%20",
    "bücher",
    "constructor",
    "toString",
    "",
    utf8("ｂilling"),
    utf8("bu\u0308cher"),
    utf8("\uFEFFbilling"),
    utf8("bi\u200Blling"),
    utf8("Bücher"),
    "\xFF",
    "\xC1\xA2illing",
    "b\xFCcher",
    "\xED\xA0\x80",
  ];
  for (const name of others) {
    assert.equal(view(own(name)), "default", JSON.stringify(name));
    assert.equal(view(own(name), "default", policy(["billing"])), undefined, JSON.stringify(name));
  }
  const known = {
    name: "billing",
    user: "billing",
    credential: { client: null, digest: Buffer.alloc(32) },
    countedAs: null,
  };
  const shared: Identity = { kind: "shared", known };
  assert.equal(view(shared), "default");
  assert.equal(view(shared, "authed"), "authed");
  assert.equal(view(shared, "authed", policy(["billing", "default"])), "default");
  assert.equal(view(shared, "default", policy(["billing"])), undefined);
  assert.equal(view({ kind: "missing" }, "authed"), "default");
  assert.equal(view({ kind: "missing" }, "authed", policy(["authed"])), undefined);
  const plain = compile(makeDocument({}));
  for (const identity of [own("\xFF"), shared, { kind: "missing" as const }]) {
    assert.equal(viewFor(plain, identity, under("Basic")), plain);
  }
});

test("a user of a client connection is an identity and a user name as sent", { skip }, () => {
  const { trust, billing } = certificates();
  const of = (pair?: string, certificate: ClientCertificate | null = null) =>
    accepted(pair, certificate, trust, "BasicOrTLS");
  const users: [string | undefined, ClientCertificate | null][] = [
    ["billing:b-pass", null],
    ["shop:s-pass", null],
    ["x:together", null],
    ["y:together", null],
    [undefined, null],
    [undefined, billing],
    ["x:together", billing],
    ["y:together", billing],
  ];
  for (const [i, one] of users.entries()) {
    for (const [j, other] of users.entries()) {
      assert.equal(isSameUser(of(...one), of(...other)), i === j, `${i} ${j}`);
    }
  }
});
