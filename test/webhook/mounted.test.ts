import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import pino from "pino";
import { isSignedBy, readCertificates } from "../../operator/webhook/certificates/lifecycle.ts";
import { mergedBundle, otherAuthorities } from "../../operator/webhook/certificates/merge.ts";
import { MountedCertificates } from "../../operator/webhook/certificates/mounted.ts";
import { makeAuthority, makeLeaf, type Pair } from "../../operator/webhook/certificates/x509.ts";
import { Authority } from "../cluster/certificates.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { tempFolder } from "../harness/proxy.ts";

const skip = opensslMissing() ?? false;
let serial = 0;
const making = () => ({ now: Date.now(), lifeMs: 24 * 60 * 60 * 1000, serial: Buffer.from([1, ++serial]) });
const authority = (name: string): Pair => makeAuthority(name, making());
const [a, b, c] = [authority("a"), authority("b"), authority("c")];
const of = (...pairs: Pair[]) => readCertificates(pairs.map(({ cert }) => cert).join(""));
const leafOf = (subject: string, { key }: Pair): Pair =>
  makeLeaf({ subject, key, end: Date.now() + 24 * 60 * 60 * 1000 }, ["x.svc"], making());

test("keeps authorities of caBundle and adds the mounted ones", () => {
  const merged = mergedBundle([b.cert], of(a), otherAuthorities(b.cert, of(a)));
  assert.equal(merged, a.cert + b.cert);
  assert.equal(mergedBundle([merged], of(a), []), a.cert);
  assert.equal(mergedBundle([""], of(a), otherAuthorities("", of(a))), a.cert);
});

test("replicas with different volumes agree on one caBundle", () => {
  let bundle = a.cert;
  const write = (mounted: Pair) => {
    bundle = mergedBundle([bundle], of(mounted), otherAuthorities(bundle, of(mounted)));
    return bundle;
  };
  const first = write(b);
  for (const mounted of [a, b, a]) assert.equal(write(mounted), first);
});

test("bounds the number of authorities, and keeps all mounted ones", () => {
  const many = ["d", "e", "f", "g", "h"].map(authority);
  const count = (text: string) => readCertificates(text).length;
  assert.equal(count(mergedBundle([""], of(a), of(b, ...many))), 4);
  assert.equal(count(mergedBundle([""], of(a, ...many), of(b))), 6);
});

test("accepts the leaf of an authority, and no other", () => {
  const leaf = leafOf("a", a);
  assert.equal(isSignedBy(of(leaf), of(b, a)), true);
  assert.equal(isSignedBy(of(leaf), of(leaf)), true);
  assert.equal(isSignedBy(of(leaf, c), of(b)), false);
  // The same name with another key.
  assert.equal(isSignedBy(of(leaf), of(authority("a"))), false);
});

test("a mounted Secret needs a ca.crt that signed tls.crt", { skip }, () => {
  const folder = tempFolder();
  const signer = new Authority(tempFolder());
  const { cert, key } = signer.issue("leaf", "/CN=leaf", ["DNS:x.svc"]);
  cpSync(cert, join(folder, "tls.crt"));
  cpSync(key, join(folder, "tls.key"));
  const problem = (): string => {
    const log = pino({ level: "silent" });
    // The constructor reads the files first.
    const options = { folder, configuration: "x", log, serve: () => {}, client: undefined as never };
    try {
      new MountedCertificates(options);
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };
  const fix =
    /; add the PEM of the authority that signed tls\.crt: to the Secret as key ca\.crt, or as the chart's value/;
  assert.match(problem(), new RegExp(`^${folder}/ca\\.crt: ENOENT${fix.source}`));
  // cert-manager leaves it empty if the issuer has no known authority.
  writeFileSync(join(folder, "ca.crt"), "");
  assert.match(problem(), new RegExp(`ca\\.crt is not a PEM certificate${fix.source}`));
  writeFileSync(join(folder, "ca.crt"), a.cert);
  assert.match(problem(), new RegExp(`ca\\.crt did not sign tls\\.crt${fix.source}`));
  cpSync(signer.file, join(folder, "ca.crt"));
  assert.equal(problem(), "");
  // Other certificates of the chain are no problem.
  writeFileSync(join(folder, "tls.crt"), readFileSync(cert, "utf8") + a.cert);
  assert.equal(problem(), "");
  rmSync(join(folder, "tls.key"));
  assert.match(problem(), /tls\.key: ENOENT$/);
});
