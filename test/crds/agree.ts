/** One value in one field of a policy, and who accepts it. */
export interface Agreement {
  spec: Record<string, unknown>;
  schema: boolean;
  engine: boolean;
  /** Why they differ, where they do. */
  why?: string;
}

const label63 = "a".repeat(63);
const name253 = `${label63}.${label63}.${label63}.${"b".repeat(61)}`;
const both = (make: (value: string) => Record<string, unknown>, good: readonly string[], bad: readonly string[]) => [
  ...good.map((value) => ({ spec: make(value), schema: true, engine: true })),
  ...bad.map((value) => ({ spec: make(value), schema: false, engine: false })),
];
const differ = (
  make: (value: string) => Record<string, unknown>,
  why: string,
  who: "schema" | "engine",
  values: readonly string[],
): Agreement[] =>
  values.map((value) => ({ spec: make(value), schema: who === "schema", engine: who === "engine", why }));

const basic = { mode: "Basic", secretRef: { name: "passwords" } };
const client = (fields: Record<string, unknown>, spec = {}) => ({
  authentication: basic,
  clients: [{ name: "billing", ...fields }],
  ...spec,
});
const named = (value: string) => ({ authentication: basic, clients: [{ name: value }] });
const setNamed = (value: string) => ({ hostSets: [{ name: value, hosts: ["a.example"] }] });
const setOf = (value: string) => ({ hostSets: [{ name: "pay", hosts: [value] }] });
const ofSet = (value: string) => ({ hostSets: [{ name: "pay", hosts: ["a.example"] }], deny: [{ hosts: [value] }] });
const ownHost = (value: string) => client({ deny: [{ hosts: [value] }] });
const ownCidr = (value: string) => client({ deny: [{ cidrs: [value] }] });
const ownPort = (value: string) => client({ deny: [{ ports: [value] }] });
const only = (schema: boolean, engine: boolean, spec: Record<string, unknown>, why?: string): Agreement => ({
  ...{ spec, schema, engine },
  ...(why === undefined ? {} : { why }),
});
const host = (value: string) => ({ deny: [{ hosts: [value] }] });
const except = (value: string) => ({ allow: [{ hosts: ["*"], except: [value] }] });
const cidr = (value: string) => ({ deny: [{ cidrs: [value] }] });
const port = (value: string | number) => ({ deny: [{ ports: [value] }] });
const name = (value: string) => ({ deny: [{ name: value, ports: [1] }] });
const address = (value: string) => ({ staticIPs: [{ address: value }] });
const hop = (value: string) => ({ upstreamProxy: { url: value } });
const ownHops = (value: string) => client({ upstreamProxies: [{ hosts: [value] }] });
const echo = (value: string) => ({ verification: { echoURLs: [value], onUnverified: "Allow" } });

/**
 * Only "schema" accepts: the operator reports `Accepted=False`. Only "engine" accepts: a policy file can have it.
 * What both refuse is refused at once.
 */
export const AGREEMENTS: readonly Agreement[] = [
  ...both(
    host,
    [
      ...[
        "example.com",
        "*.example.com",
        "*",
        "EXAMPLE.com",
        "example.com.",
        "*.example.com.",
        "localhost",
        "a_b.example",
      ],
      ...[
        "_dmarc.example",
        "1.2.3.4.example",
        "1e100.net",
        "xn--bcher-kva.example",
        "bücher.example",
        "*.пример.example",
      ],
      ...[
        "例え.テスト",
        "a-b.c-d.example",
        "x",
        `${label63}.example`,
        name253,
        `*.${name253}`,
        `${name253}.`,
        "dead.beef",
      ],
    ],
    [
      ...["", ".", "..", ".a", "a..b", "a.example..", "*.", "*a.example", "a.*.example", "a*.example", "**", "*.*"],
      ...[
        "10.0.0.5",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "::1",
        "[::1]",
        "fe80::1%eth0",
        "*.1",
      ],
      ...[
        "a.example.7",
        "10.0.0.0/8",
        "example.com:443",
        "https://example.com",
        "example.com/",
        "user@example.com",
        "a b",
      ],
      ...[
        "-a.example",
        "a-.example",
        "a.-b",
        "a.b-",
        "a%2eb",
        "a,b",
        " a",
        "a ",
        "a\tb",
        "a\n",
        `${"a".repeat(64)}.example`,
      ],
    ],
  ),
  ...both(except, ["internal.example", "*.internal.example", "*"], ["10.0.0.5", "a..b", ""]),
  ...differ(
    host,
    "a pattern cannot distinguish 0xyz from the IPv4 spelling 0xff: a last label begins with a letter or _",
    "engine",
    ["a.0xyz", "7zip", "*.3com"],
  ),
  ...differ(host, "characters that UTS 46 maps to others; write the name as it is resolved", "engine", ["a。example"]),
  ...differ(host, "a pattern cannot count a whole name, nor the punycode of a label", "schema", [
    `${name253}c`,
    `${"ü".repeat(63)}.example`,
  ]),
  ...differ(host, "a pattern knows nothing of IDNA: here letters of both directions in one label", "schema", [
    "a\u05d0.example",
  ]),

  ...both(
    cidr,
    [
      "10.0.0.0/8",
      "0.0.0.0/0",
      "192.0.2.7/32",
      "2001:db8::/32",
      "::/0",
      "2001:db8::1/128",
      "2001:DB8::/32",
      "64:ff9b::/96",
    ],
    [
      ...[
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0/8",
        "010.0.0.0/8",
        "10.0.0.5/8",
        "10.0.0.0/ 8",
      ],
      ...[
        "2001:db8::/129",
        "2001:db8::1/64",
        "fe80::%eth0/64",
        "example.com",
        "10.0.0.0/8,11.0.0.0/8",
        "10.0.0.0/255.0.0.0",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
      ],
    ],
  ),

  ...[443, "443", "8000-8999", "1-65535", "80-80", "9-10", "65534-65535", "1000-9999", 1, 65535].map((value) => ({
    spec: port(value),
    schema: true,
    engine: true,
  })),
  ...[0, -1, 65536, "0", "65536", "080", "80-", "-80", "80-70000", "80 - 90", "http", "", "80,443", 1.5, true]
    .concat(
      // In descending order: with fewer digits, and in each place of equally many.
      ["9-1", "90-80", "90-89", "90-9", "65535-1024", "1000-999", "8000-7999", "8765-8764", "54321-54320"],
    )
    .map((value) => ({
      spec: port(value as string),
      schema: false,
      engine: false,
    })),
  ...both(name, ["a", "A.b_c-9", "9", "x".repeat(63)], ["", "-a", "a-", "a b", "ä", "x".repeat(64), "default", "a/b"]),
  ...both(
    address,
    ["203.0.113.10", "2001:db8::10", "10.0.0.5"],
    ["", "203.0.113", "nat.example", "203.0.113.10/32", "fe80::1%eth0"],
  ),
  ...differ(address, "published as text, so it must be canonical", "engine", ["2001:DB8::10", "2001:db8:0::10"]),
  ...differ(address, "no receiver can see it", "engine", ["127.0.0.1", "169.254.0.7", "224.0.0.1", "0.0.0.0", "::1"]),
  ...both(
    echo,
    ["https://echo.example/ip", "http://192.0.2.1:8080/", "https://[2001:db8::1]/ip?x=y", "https://echo.example"],
    ["", "echo.example", "ftp://echo.example/", "https://", "https://a b/", "//echo.example"],
  ),
  ...differ(echo, "credentials, fragments and a missing host are no use here", "engine", [
    "https:///ip",
    "https://u:p@echo.example/",
    "https://e.example/#x",
  ]),
  ...both(
    named,
    ["a", "A.b_c-9", "9", "x".repeat(128), "constructor", "default", "spiffe://cluster.local/ns/convoy/sa/billing"],
    ["", "-a", "a-", "a b", "ä", "x".repeat(129), "a/", "outrider", "PROXY_PASSWORD", "PROXY_PASSWORD_PREVIOUS"],
  ),
  ...both(setNamed, ["a", "A-9", "x".repeat(63)], ["", "-a", "a-", "a.b", "a_b", "x".repeat(64), "ä"]),
  ...both(setOf, ["a.example", "*.a.example", "*"], ["", "set:pay", "10.0.0.5", "a.example:443"]),
  ...both(ofSet, ["set:pay"], ["set:", "set:-pay", "set:pay ", "set:pay.example", "SET:pay", "*.set:pay"]),
  ...differ(ofSet, "a pattern does not know which sets exist", "schema", ["set:other", "set:Pay"]),
  ...both(
    hop,
    [
      ...["http://proxy.corp.example:3128", "http://proxy.corp.example:3128/", "HTTP://Proxy.Corp.Example:1"],
      ...[
        "http://10.0.0.5:8080",
        "http://[2001:db8::5]:65535",
        "http://xn--bcher-kva.example:80",
        "http://localhost:3128",
      ],
    ],
    [
      ...[
        "",
        "http://",
        "http://proxy.example",
        "proxy.example:3128",
        "https://proxy.example:3128",
        "socks5://p.example:1",
      ],
      ...[
        "http://u:p@proxy.example:3128",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "http://p.example:080",
      ],
      ...[
        "http://p.example:3128/path",
        "http://p.example:3128?q",
        "http://p.example:3128#f",
        "http://p.example:3128//",
      ],
      ...["http://2001:db8::5:3128", "http://[proxy.example]:3128", "http://p example:3128", " http://p.example:3128"],
      ...["http://p.example:3128\n", "http://p.example\\a:3128", "http://:3128", "http://bücher.example:80"],
      ...["http://*.example:3128", "http://a%2eb:3128"],
    ],
  ),
  ...differ(hop, "a pattern cannot check an address, nor a whole name", "schema", [
    ...["http://[::::]:3128", "http://1.2.3.400:3128", "http://a..b:3128", "http://-a.example:3128"],
  ]),
  ...differ(hop, "a pattern cannot know the class of an address", "schema", [
    ...["http://169.254.169.254:80", "http://[fe80::1]:80", "http://168.63.129.16:80", "http://[fd00:ec2::254]:80"],
  ]),
  only(false, false, { ...hop("http://a.example:1"), nat: { provider: "PodIP", podIP: { annotations: { a: "b" } } } }),
  only(true, true, { upstreamProxy: { url: "http://a.example:1", secretRef: { name: "a" }, resolve: "Upstream" } }),
  ...both(ownHops, ["a.example", "*.a.example"], ["", "10.0.0.5", "a.example:3128", "http://a.example:3128"]),
  ...both(ownHost, ["a.example", "*.a.example", "*", "bücher.example"], ["", "10.0.0.5", "a..b", "https://a.example"]),
  ...both(
    ownCidr,
    ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::/0", "2001:db8:0:0:0:0:0:0/32"],
    ["", "10.0.0.0", "10.0.0.0/-1", "example.com", "10.0.0.0/8,11.0.0.0/8", "fe80::%eth0/64", "10.0.0.0/255.0.0.0"],
  ),
  ...differ(ownCidr, "CEL for each network of each client exceeds the cost limit", "schema", [
    ...["10.0.0.5/8", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/08", "2001:db8::1/64", "::ffff:10.0.0.0/104"],
  ]),
  ...both(ownPort, ["443", "8000-8999", "1-65535"], ["0", "65536", "080", "80-", "http", ""]),
  ...differ(ownPort, "CEL for each port of each client exceeds the cost limit", "schema", ["9-1", "90-80"]),
  only(true, true, client({ inheritAllow: false })),
  only(false, false, client({ inheritAllow: true })),
  only(false, false, client({ mode: "Report" })),
  only(true, true, client({ mode: "Report", deny: [{ hosts: ["a.example"] }] })),
  only(true, true, client({ mode: "Enforce" })),
  only(false, false, client({ limits: {} })),
  only(false, false, client({ limits: { burst: 1 } })),
  only(true, true, client({ limits: { maxTunnels: 0 } })),
  only(true, true, client({ limits: { requestsPerSecond: 1_000_000 } })),
  only(false, false, client({ limits: { requestsPerSecond: 1_000_001 } })),
  only(true, true, client({ ports: [8443] })),
  only(true, false, client({ ports: [8443] }, { defaultAction: "Deny" }), "the operator compares client and policy"),
  only(
    true,
    false,
    client({ deny: [{ name: "x", hosts: ["a.example"] }] }, { deny: [{ name: "x", hosts: ["b.example"] }] }),
    "names of all clients in one rule of CEL exceed the cost limit",
  ),
  only(
    true,
    false,
    {
      deny: [{ hosts: Array.from({ length: 9 }, () => "set:pay") }],
      hostSets: [{ name: "pay", hosts: ["a.example"] }],
    },
    "CEL that counts the references among 20,000 hosts exceeds the cost limit",
  ),
  only(false, false, { clients: [{ name: "a" }] }),
  only(false, false, { authentication: { ...basic, allowMissing: true } }),
  only(false, false, client({}, { authentication: { ...basic, allowMissing: true } })),
  only(true, true, { ...named("default"), authentication: { ...basic, allowMissing: true } }),
  only(true, true, { authentication: { ...basic, allowMissing: false } }),
  ...differ(echo, "a pattern cannot check the range of a port and the groups of an address", "schema", [
    "https://echo.example:99999/",
    "https://[::::]/",
  ]),
];
