import assert from "node:assert/strict";
import { test } from "node:test";
import { localNetworks4, localNetworks6, ownNetworks } from "../../proxy/egress/source-address.ts";

/** Tables of the kernel as `/proc/net` shows them. */

const FIB_TRIE = `Id 100:
  +-- 0.0.0.0/0 2 0 2
     |-- 0.0.0.0
        /0 host LOCAL
     |-- 10.8.0.0
        /24 host LOCAL
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.9.0.0/16 2 0 2
        |-- 10.9.0.0
           /16 link UNICAST
           /24 host LOCAL
        |-- 10.9.0.255
           /32 link BROADCAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/31 1 0 0
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 192.0.2.2
        /32 host LOCAL tos=4
`;

test("reads local IPv4 routes except a local default route", () => {
  assert.deepEqual(localNetworks4(FIB_TRIE), [
    "10.8.0.0/24",
    "10.9.0.0/24",
    "127.0.0.0/8",
    "127.0.0.1/32",
    "192.0.2.2/32",
  ]);
});

test("reads local IPv6 routes except a local default route", () => {
  const zero = "0".repeat(32);
  const line = (base: string, prefix: string, flags: string) =>
    `${base} ${prefix} ${zero} 00 ${zero} 00000000 00000002 00000000 ${flags}       lo`;
  const text = [
    line("20010db8000000000000000000000000", "40", "00000001"),
    line("26000009000000000000000000000000", "40", "80000001"),
    line("fd000000000000000000000000000002", "80", "80200001"),
    line("fd000000000000000000000000000000", "80", "80100001"),
    line(zero, "00", "80000001"),
    "",
  ].join("\n");
  assert.deepEqual(localNetworks6(text), ["2600:9::/64", "fd00::2/128", "fd00::/128"]);
});

test("the own networks include loopback", () => {
  assert.ok(ownNetworks().includes("127.0.0.0/8"));
});
