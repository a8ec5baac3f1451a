import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readClientCertificate } from "../../proxy/tls/client-certificate.ts";
import { readCrls } from "../../proxy/tls/crl.ts";
import { element, elements, firstIntegers, oidOf, serialOf, TAG, timeOf } from "../../proxy/tls/der.ts";
import { pemBlocks, pemOf } from "../../proxy/tls/pem.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { Pki } from "../harness/pki.ts";

const skip = opensslMissing() ?? false;
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

test("reads lengths, serial numbers, OIDs and times of DER", () => {
  const [short, long] = elements(hex("02 01 05 04 81 80".concat("00".repeat(128))));
  assert.deepEqual([short!.tag, short!.content, long!.content.length], [TAG.integer, hex("05"), 128]);
  assert.equal(serialOf(element(hex("02 03 00 80 01"), TAG.integer)), "8001");
  assert.equal(serialOf(element(hex("02 01 00"), TAG.integer)), "00");
  assert.deepEqual(
    [...firstIntegers(element(hex("30 0b 30 04 02 02 00 ff 30 03 02 01 05"), TAG.sequence))],
    ["ff", "05"],
  );
  assert.equal(oidOf(element(hex("06 03 55 1d 11"), TAG.oid)), "2.5.29.17");
  assert.equal(oidOf(element(hex("06 09 2a 86 48 86 f7 0d 01 01 0b"), TAG.oid)), "1.2.840.113549.1.1.11");
  const time = (tag: number, text: string) => timeOf({ tag, content: Buffer.from(text), whole: hex("") });
  assert.equal(time(TAG.utcTime, "491231235959Z"), Date.UTC(2049, 11, 31, 23, 59, 59));
  assert.equal(time(TAG.utcTime, "500101000000Z"), Date.UTC(1950, 0, 1));
  assert.equal(time(TAG.generalizedTime, "20500101000000Z"), Date.UTC(2050, 0, 1));
});

test("rejects what is no DER", () => {
  for (const text of [
    "",
    "30",
    "30 80 00 00",
    "30 01",
    "30 84 ff ff ff ff",
    "30 85 00 00 00 00 01 00",
    "1f 01 00",
    "30 00 00",
    "02 01 05",
  ]) {
    assert.throws(() => element(hex(text), TAG.sequence), /malformed DER/, text);
  }
  for (const text of ["30 03 02 02 05", "30 03 04 01 05", "31 03 02 01 05", "30 02 02 01"]) {
    const content = hex(text);
    assert.throws(() => firstIntegers({ tag: TAG.sequence, content, whole: content }), /malformed DER/, text);
  }
});

test("a changed octet of a CRL or certificate is an error, or another value", { skip }, () => {
  const pki = new Pki();
  const issued = pki.issue("billing", "/CN=billing", { names: ["URI:urn:a"] });
  pki.revoke(issued);
  const [crl] = pemBlocks(readFileSync(pki.crl(join(pki.folder, "ca.crl"))), "X509 CRL");
  const [certificate] = pemBlocks(readFileSync(issued.cert), "CERTIFICATE");
  assert.deepEqual([...readCrls(crl!)[0]!.serials], ["1001"]);
  assert.equal(readClientCertificate(certificate!, "san-uri").name, "urn:a");
  for (const [bytes, read] of [
    [crl!, (changed: Buffer) => readCrls(changed)],
    [certificate!, (changed: Buffer) => readClientCertificate(changed, "san-uri")],
  ] as const) {
    for (let at = 0; at < bytes.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff, bytes[at]! ^ 1]) {
        const changed = Buffer.from(bytes);
        changed[at] = value;
        try {
          read(changed);
        } catch (error) {
          assert.ok(error instanceof Error && !(error instanceof RangeError), `octet ${at}: ${error}`);
        }
      }
    }
  }
});

test("a name in an encoding other than UTF-8 is no name", { skip }, () => {
  const issued = new Pki().issue("bill", "/CN=bill");
  const [certificate] = pemBlocks(readFileSync(issued.cert), "CERTIFICATE");
  const at = certificate!.lastIndexOf("bill") - 2;
  assert.equal(readClientCertificate(certificate!, "cn").name, "bill");
  // As a BMPString these octets are two Chinese characters.
  certificate![at] = 0x1e;
  assert.deepEqual(
    [readClientCertificate(certificate!, "cn").name, readClientCertificate(certificate!, "cn").why],
    [null, "the client certificate has no UTF-8 or ASCII CN in its subject"],
  );
});

test("writes PEM without an empty line, whatever the length", () => {
  for (let length = 1; length <= 200; length++) {
    const der = Buffer.alloc(length, 7);
    const lines = pemOf(der, "CERTIFICATE").split("\n").slice(1, -2);
    assert.ok(
      lines.every((line) => line.length > 0 && line.length <= 64),
      `${length} octets: OpenSSL refuses empty lines`,
    );
    assert.deepEqual(Buffer.from(lines.join(""), "base64"), der);
  }
});
