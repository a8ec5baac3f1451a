import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  AUTHORITY_LIFE_MS,
  bundleOf,
  dueAt,
  type HeldCertificates,
  isReplacing,
  LEAF_LIFE_MS,
  leafNames,
  type Moment,
  nextStep,
  readHeld,
  writeHeld,
} from "../../operator/webhook/certificates/lifecycle.ts";
import { makeAuthority } from "../../operator/webhook/certificates/x509.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { tempFolder } from "../harness/proxy.ts";

const skip = opensslMissing() ?? false;
const NAMES = ["outrider-webhook.outrider-system.svc", "127.0.0.1", "fd00::1"];
const DAY_MS = 24 * 60 * 60 * 1000;
const START = Date.UTC(2026, 0, 1);
const at = (now: number, more: Partial<Moment> = {}): Moment => ({ now, names: NAMES, trusted: true, ...more });
const first = (now = START): HeldCertificates => nextStep(undefined, undefined, at(now))!.held;
/** As it comes back from the Secret. */
const stored = (held: HeldCertificates): HeldCertificates => {
  const read = readHeld(writeHeld(held));
  assert.ok(!("error" in read), JSON.stringify(read));
  return read;
};

/** openssl's verdict about a leaf at a time, with nothing trusted but that bundle. */
function verify(bundle: string, leaf: string, now: number, host: string[]): string {
  const folder = tempFolder();
  const [ca, cert] = [join(folder, "ca.pem"), join(folder, "leaf.pem")];
  writeFileSync(ca, bundle);
  writeFileSync(cert, leaf);
  const strict = ["-x509_strict", "-purpose", "sslserver", "-attime", String(Math.floor(now / 1000)), ...host];
  return execFileSync("openssl", ["verify", ...strict, "-no-CApath", "-no-CAstore", "-CAfile", ca, cert], {
    encoding: "utf8",
    stdio: "pipe",
  });
}

test("openssl accepts the chain for its names and validity only", {
  skip,
}, () => {
  const held = first();
  const bundle = bundleOf(held);
  for (const host of [
    ["-verify_hostname", "outrider-webhook.outrider-system.svc"],
    ["-verify_ip", "127.0.0.1"],
    ["-verify_ip", "fd00::1"],
  ]) {
    assert.match(verify(bundle, held.leaf.pem, START - 59 * 60_000, host), /: OK/);
  }
  assert.match(verify(bundle, held.leaf.pem, START + LEAF_LIFE_MS - 1000, []), /: OK/);
  assert.throws(() => verify(bundle, held.leaf.pem, START + LEAF_LIFE_MS + 1000, []), /expired/);
  assert.throws(() => verify(bundle, held.leaf.pem, START, ["-verify_hostname", "kubernetes.default.svc"]), /mismatch/);
  assert.throws(() => verify(bundleOf(first()), held.leaf.pem, START, []), /unable to get local issuer/);
});

test("times from 2050 have a year with four digits", { skip }, () => {
  const late = Date.UTC(2049, 11, 25);
  const held = first(late);
  assert.match(verify(bundleOf(held), held.leaf.pem, late, []), /: OK/);
  assert.equal(held.leaf.end, late + LEAF_LIFE_MS);
  assert.ok(held.leaf.end > Date.UTC(2050, 0, 1));
});

test("reads the stored certificates, with unique serial numbers", () => {
  const held = first();
  const read = stored(held);
  assert.deepEqual(writeHeld(read), writeHeld(held));
  assert.deepEqual(leafNames(read.leaf), NAMES);
  assert.equal(nextStep(read, undefined, at(START)), undefined);
  const other = first();
  assert.notEqual(other.leaf.x509.serialNumber, held.leaf.x509.serialNumber);
  assert.notEqual(other.authorities[0].x509.subject, held.authorities[0].x509.subject);
});

test("names the problem of a damaged Secret", () => {
  const good = writeHeld(first());
  const other = writeHeld(first());
  for (const [data, message] of [
    [{}, "has no tls.crt"],
    [{ ...good, "ca.crt": "none" }, "ca.crt has no certificate"],
    [{ ...good, "ca.key": other["ca.key"] }, "ca.key is not the key of ca.crt"],
    [{ ...good, "tls.key": other["tls.key"] }, "tls.key is not the key of tls.crt"],
    [{ ...good, "ca.crt": other["ca.crt"], "ca.key": other["ca.key"] }, "tls.crt is not signed by any of ca.crt"],
    [{ ...good, "ca.crt": good["tls.crt"] }, "ca.crt contains a certificate that is not an authority"],
  ] as const) {
    assert.deepEqual(readHeld(data), { error: message });
  }
  assert.ok("error" in readHeld({ ...good, "tls.key": "no key" }));
  assert.ok("error" in readHeld({ ...good, "tls.crt": good["tls.crt"].replace(/[A-Z]{4}/, "AAAA") }));
});

test("renews a leaf after two thirds of its validity", () => {
  const held = first();
  const due = dueAt(held.leaf);
  assert.ok(due <= held.leaf.end - DAY_MS);
  assert.equal(nextStep(held, held, at(due - 1)), undefined);
  const { held: renewed, why } = nextStep(held, held, at(due))!;
  assert.equal(why, "the certificate expires soon");
  assert.deepEqual([renewed.leaf.end, bundleOf(renewed)], [due + LEAF_LIFE_MS, bundleOf(held)]);
  assert.ok(nextStep(held, held, at(held.leaf.end - DAY_MS)) !== undefined);
  // Of a short life, given to it by an authority that ends: the 24 hours count.
  const short = { begin: START, end: START + 2 * DAY_MS, pem: "", x509: held.leaf.x509 };
  assert.equal(dueAt(short), START + DAY_MS);
});

test("replaces an authority in three steps without a gap", { skip }, () => {
  const begun = first();
  const due = dueAt(begun.authorities[0]);
  const old = nextStep(begun, begun, at(due))!.held;
  // Nothing begins while the API server's trust is not known to be in order.
  assert.equal(nextStep(old, old, at(due, { trusted: false })), undefined);
  const one = stored(nextStep(old, old, at(due))!.held);
  assert.equal(isReplacing(one), true);
  assert.equal(one.authorities.length, 2);
  assert.equal(one.leaf.pem, old.leaf.pem);
  assert.equal(nextStep(one, one, at(due + 1000, { trusted: false })), undefined);
  const two = stored(nextStep(one, one, at(due + 1000))!.held);
  assert.equal(isReplacing(two), false);
  // A replica that is late still shows the old leaf.
  for (const leaf of [old.leaf, two.leaf]) {
    assert.match(verify(bundleOf(two), leaf.pem, due + 1000, []), /: OK/);
  }
  let now = due + 1000;
  let held = two;
  for (let step = nextStep(held, held, at(now)); held.authorities.length > 1; step = nextStep(held, held, at(now))) {
    if (step === undefined) now += DAY_MS / 4;
    else held = stored(step.held);
    assert.ok(now < due + 30 * DAY_MS);
  }
  assert.ok(now >= old.leaf.end, "the old authority stays as long as a leaf of it is valid");
  assert.match(verify(bundleOf(held), held.leaf.pem, now, []), /: OK/);
});

test("has valid certificates at every check of five years", () => {
  let held = first();
  let writes = 0;
  for (let now = START; now < START + 5 * 365 * DAY_MS; now += DAY_MS / 4) {
    for (let step = nextStep(held, held, at(now)); step !== undefined; step = nextStep(held, held, at(now))) {
      held = step.held;
      writes++;
    }
    assert.ok(held.leaf.begin < now && held.leaf.end > now + DAY_MS);
    assert.ok(held.authorities.some((authority) => authority.end > held.leaf.end - 1 && authority.begin < now));
    assert.ok(held.authorities.length <= 2);
  }
  // Two thirds of 14 days: some 39 leaves a year.
  assert.ok(writes > 5 * 36 && writes < 5 * 45, String(writes));
});

test("creates new certificates after the expiry", () => {
  const held = first();
  const late = START + AUTHORITY_LIFE_MS + DAY_MS;
  const { held: fresh, why } = nextStep(held, held, at(late))!;
  assert.equal(why, "the authority has expired");
  assert.equal(fresh.authorities.length, 1);
  assert.equal(nextStep(fresh, fresh, at(late)), undefined);
  // The leaf alone has ended: the authority is trusted still.
  const leafless = nextStep(held, held, at(START + LEAF_LIFE_MS + DAY_MS))!.held;
  assert.equal(bundleOf(leafless), bundleOf(held));
});

test("replaces a deleted Secret without a gap and without growth", () => {
  let held = first();
  const next = nextStep(undefined, held, at(START))!.held;
  assert.equal(next.leaf.pem, held.leaf.pem, "the old leaf is served until the new authority is trusted");
  assert.equal(next.authorities[1]!.pem, held.authorities[0].pem);
  // Deleted again in the middle of it: written as it was.
  assert.equal(bundleOf(nextStep(undefined, next, at(START))!.held), bundleOf(next));
  for (let round = 0; round < 20; round++) {
    held = nextStep(undefined, held, at(START))!.held;
    held = nextStep(held, held, at(START))?.held ?? held;
  }
  assert.equal(held.authorities.length, 4);
});

test("adds a missing name and keeps the names of other replicas", () => {
  const held = first();
  const { held: more } = nextStep(held, held, at(START, { names: ["elsewhere.example"] }))!;
  assert.deepEqual(leafNames(more.leaf), ["elsewhere.example", ...NAMES]);
  assert.equal(nextStep(more, more, at(START)), undefined);
});

test("serial numbers are positive and short for all random bytes", { skip }, () => {
  for (const byte of [0x00, 0x01, 0x80, 0xff]) {
    const making = { now: START, lifeMs: DAY_MS, serial: Buffer.alloc(16, byte) };
    const { cert } = makeAuthority("serial", making);
    const folder = tempFolder();
    writeFileSync(join(folder, "ca.pem"), cert);
    const text = execFileSync("openssl", ["x509", "-in", join(folder, "ca.pem"), "-noout", "-serial"], {
      encoding: "utf8",
    });
    assert.match(text, byte === 0 ? /^serial=00$/m : new RegExp(`^serial=${making.serial.toString("hex")}$`, "im"));
  }
});
