/** Specs that the API server must reject, with their messages. */
export interface Refused {
  spec: Record<string, unknown>;
  says: RegExp;
}

const ips = [{ address: "203.0.113.10" }];
const basic = { mode: "Basic", secretRef: { name: "proxy-passwords" } };
const both = { ...basic, mode: "BasicOrTLS" };
const server = { secretRef: { name: "proxy-certificate" } };
const certificates = { ...server, clientCA: { name: "client-ca" }, clientName: "URI" };
const away = ["198.51.100.0/24"];
const kubeVIP = { staticIPs: ips, nat: { provider: "KubeVIP" }, authentication: basic };
const hop = { url: "http://proxy.corp.example:3128" };
const echo = { echoURLs: ["https://echo.example.net/ip"] };
const rule = { hosts: ["a.example"] };
const open = { to: [{ podSelector: {} }] };
const many = (count: number, make: (index: number) => unknown) => Array.from({ length: count }, (_, i) => make(i));
const bad = (spec: Record<string, unknown>, says: RegExp): Refused => ({ spec, says });
const proxy = (fields: Record<string, unknown>, says: RegExp) => bad({ proxy: fields }, says);
const tls = (fields: Record<string, unknown>, says: RegExp) =>
  bad({ authentication: both, proxy: { tls: { ...certificates, ...fields } } }, says);
const external = (fields: Record<string, unknown>, says: RegExp, spec = {}) =>
  bad(
    { authentication: both, proxy: { tls: certificates, external: { sourceRanges: away, ...fields } }, ...spec },
    says,
  );
const clients = (list: unknown[], says: RegExp, spec = {}) =>
  bad({ authentication: basic, clients: list, ...spec }, says);
const client = (fields: Record<string, unknown>, says: RegExp) => clients([{ name: "billing", ...fields }], says);
const egress = (fields: Record<string, unknown>, says: RegExp) =>
  bad({ networkPolicy: { senders: "Enabled", additionalEgress: [fields] } }, says);

/** One line a rule of the schema; a test checks that no CEL rule is missing. */
export const REFUSED: readonly Refused[] = [
  // Enumerations and types.
  bad({ mode: "enforce" }, /spec\.mode: Unsupported value: "enforce": supported values: "Enforce", "Report"/),
  bad({ defaultAction: "Drop" }, /spec\.defaultAction: Unsupported value: "Drop"/),
  bad({ preset: "Hookdeck" }, /spec\.preset: Unsupported value: "Hookdeck"/),
  bad({ injection: { mode: "Sidecar" } }, /spec\.injection\.mode: Unsupported value/),
  bad({ injection: { conflictPolicy: "Merge" } }, /spec\.injection\.conflictPolicy: Unsupported value/),
  bad({ nat: { provider: "CiliumEgressGateway" } }, /spec\.nat\.provider: Unsupported value/),
  bad({ authentication: { mode: "Digest" } }, /spec\.authentication\.mode: Unsupported value/),
  bad({ verification: { ...echo, onUnverified: "Ignore" } }, /spec\.verification\.onUnverified: Unsupported value/),
  bad({ staticIPs: [{ address: "203.0.113.10", phase: "Old" }] }, /spec\.staticIPs\[0\]\.phase: Unsupported value/),
  bad({ networkPolicy: { proxy: true } }, /spec\.networkPolicy\.proxy: Invalid value: "boolean"/),
  bad({ networkPolicy: { senders: "On" } }, /spec\.networkPolicy\.senders: Unsupported value/),
  bad({ allow: "a.example" }, /spec\.allow: Invalid value: "string"/),
  proxy({ denyStatus: 404 }, /spec\.proxy\.denyStatus: Unsupported value: 404: supported values: "403", "502"/),
  proxy({ reasonDetail: "Some" }, /spec\.proxy\.reasonDetail: Unsupported value/),
  proxy({ accessLog: "Off" }, /spec\.proxy\.accessLog: Unsupported value/),

  // Rules.
  bad({ allow: [{}] }, /spec\.allow\[0\]: .*the rule is empty.*give it hosts, cidrs or ports/),
  bad({ deny: [{ name: "x" }] }, /spec\.deny\[0\]: .*the rule is empty/),
  bad({ deny: [{ cidrs: ["198.51.100.0/24"], except: ["a.example"] }] }, /spec\.deny\[0\]\.except: .*add hosts/),
  bad({ allow: [{ ports: [443], except: ["a.example"] }] }, /spec\.allow\[0\]\.except: .*add hosts/),
  bad({ allow: [{ ...rule, name: "default" }] }, /spec\.allow\[0\]\.name: .*is the name of the default action/),
  bad({ deny: [{ ...rule, name: "default" }] }, /spec\.deny\[0\]\.name: .*is the name of the default action/),
  bad({ allow: [{ ...rule, name: "has space" }] }, /spec\.allow\[0\]\.name: Invalid value: "has space"/),
  bad({ allow: many(2, () => ({ ...rule, name: "a" })) }, /spec: .*allow, deny: two rules have the same name/),
  bad({ deny: many(2, () => ({ ...rule, name: "a" })) }, /spec: .*two rules have the same name/),
  bad({ allow: [{ ...rule, name: "a" }], deny: [{ ...rule, name: "a" }] }, /spec: .*two rules have the same name/),
  bad({ allow: [{ hosts: [] }] }, /spec\.allow\[0\]\.hosts: .*should have at least 1 items/),
  bad({ allow: [{ ...rule, except: [] }] }, /spec\.allow\[0\]\.except: .*should have at least 1 items/),
  bad({ allow: [{ cidrs: [] }] }, /spec\.allow\[0\]\.cidrs: .*should have at least 1 items/),
  bad({ allow: [{ ports: [] }] }, /spec\.allow\[0\]\.ports: .*should have at least 1 items/),
  bad({ ports: [] }, /spec\.ports: .*should have at least 1 items/),
  bad({ allow: [{ hosts: ["10.0.0.5"] }] }, /spec\.allow\[0\]\.hosts\[0\]: Invalid value: "10\.0\.0\.5".*into cidrs/),
  bad({ allow: [{ hosts: ["https://a.example"] }] }, /spec\.allow\[0\]\.hosts\[0\]: .*a host name, without scheme/),
  bad({ deny: [{ hosts: ["a.example:443"] }] }, /spec\.deny\[0\]\.hosts\[0\]: .*a host name, without scheme, port/),
  bad({ deny: [{ hosts: ["ok.example", "*foo.example"] }] }, /spec\.deny\[0\]\.hosts\[1\]: Invalid value/),
  bad({ allow: [{ hosts: ["*"], except: ["a..b"] }] }, /spec\.allow\[0\]\.except\[0\]: Invalid value: "a\.\.b"/),
  bad({ allow: [{ cidrs: ["10.0.0.0"] }] }, /spec\.allow\[0\]\.cidrs\[0\]: .*write one address with \/32 or \/128/),
  bad(
    { deny: [{ cidrs: ["10.0.0.5/8"] }] },
    // Kubernetes 1.33 shows the type of the value.
    /spec\.deny\[0\]\.cidrs\[0\]: .*"(10\.0\.0\.5\/8|string)": cidrs: host bits are set/,
  ),
  bad({ deny: [{ cidrs: ["any"] }] }, /spec\.deny\[0\]\.cidrs\[0\]: .*must be a network such as/),
  bad({ allow: [{ cidrs: ["2001:db8::1/64"] }] }, /spec\.allow\[0\]\.cidrs\[0\]: .*host bits are set/),
  bad({ ports: [0] }, /spec\.ports\[0\]: .*should be greater than or equal to 1/),
  bad({ ports: [65536] }, /spec\.ports\[0\]: .*should be less than or equal to 65535/),
  bad({ ports: ["443-"] }, /spec\.ports\[0\]: Invalid value: "443-".*a port such as 443, or a range such as 8000-8999/),
  bad({ ports: ["9-1"] }, /spec\.ports\[0\]: .*must not be higher than the last; write 80-90/),
  bad({ allow: [{ ports: ["90-80"] }] }, /spec\.allow\[0\]\.ports\[0\]: .*must not be higher than the last/),
  bad({ deny: [{ ports: [443, "54321-54320"] }] }, /spec\.deny\[0\]\.ports\[1\]: .*must not be higher than the last/),
  bad({ deny: [{ ports: ["70000"] }] }, /spec\.deny\[0\]\.ports\[0\]: Invalid value: "70000"/),
  bad({ allow: [{ ports: [true] }] }, /spec\.allow\[0\]\.ports\[0\]: Invalid value: "boolean"/),
  bad({ allow: many(257, () => rule) }, /spec\.allow: Too many: 257: must have at most 256 items/),
  bad({ deny: many(257, () => rule) }, /spec\.deny: Too many: 257/),
  bad({ deny: [{ hosts: many(20_001, (i) => `h${i}.example`) }] }, /spec\.deny\[0\]\.hosts: Too many: 20001/),
  bad({ deny: [{ cidrs: many(501, (i) => `10.${i >> 8}.${i & 255}.0/24`) }] }, /spec\.deny\[0\]\.cidrs: Too many: 501/),
  bad({ ports: many(65, (i) => 1000 + i) }, /spec\.ports: Too many: 65/),

  // Allowed combinations of static IPs, provider, verification and authentication.
  bad({ staticIPs: [{ address: "nat.example" }] }, /spec\.staticIPs\[0\]\.address: .*must be an IP address such as/),
  bad({ staticIPs: [{ address: "2001:DB8::1" }] }, /spec\.staticIPs\[0\]\.address: .*canonical form/),
  bad({ staticIPs: [{ address: "169.254.1.1" }] }, /spec\.staticIPs\[0\]\.address: .*unicast address/),
  bad({ staticIPs: [{ phase: "Active" }] }, /spec\.staticIPs\[0\]\.address: Required value/),
  bad({ staticIPs: [...ips, ...ips] }, /spec\.staticIPs\[1\]: Duplicate value/),
  bad({ staticIPs: many(33, (i) => ({ address: `203.0.113.${i}` })) }, /spec\.staticIPs: Too many: 33/),
  bad({ staticIPs: [{ ...ips[0], sourceAddress: "10.0.4.7" }] }, /spec\.staticIPs: .*External does neither/),
  bad(
    { ...kubeVIP, staticIPs: [{ ...ips[0], sourceAddress: "eth1" }] },
    /spec\.staticIPs\[0\]\.sourceAddress: .*must be an IP address/,
  ),
  bad(
    { ...kubeVIP, staticIPs: [{ ...ips[0], sourceAddress: "127.0.0.1" }] },
    /spec\.staticIPs\[0\]\.sourceAddress: .*unicast address/,
  ),
  bad(
    { ...kubeVIP, staticIPs: [{ ...ips[0], sourceAddress: "fd00::7" }] },
    /spec\.staticIPs\[0\]\.sourceAddress: .*of the same family/,
  ),
  bad({ nat: { provider: "PodIP" } }, /spec\.nat\.podIP: .*PodIP needs it/),
  bad({ nat: { podIP: { annotations: { a: "b" } } } }, /spec\.nat\.podIP: .*goes with nat\.provider: PodIP/),
  bad({ nat: { provider: "PodIP", podIP: {} } }, /spec\.nat\.podIP\.annotations: Required value/),
  bad({ nat: { nodeAddress: {} } }, /spec\.nat\.nodeAddress: .*goes with nat\.provider: NodeAddress only/),
  bad({ nat: { provider: "External", kubeVIP: {} } }, /spec\.nat\.kubeVIP: .*goes with nat\.provider: KubeVIP only/),
  bad({ ...kubeVIP, staticIPs: [] }, /spec\.nat\.provider: .*add staticIPs/),
  bad({ ...kubeVIP, authentication: {} }, /spec\.authentication\.mode: .*set authentication\.mode: Basic/),
  bad(
    { ...kubeVIP, authentication: { ...basic, allowMissing: true }, clients: [{ name: "default" }] },
    /spec\.authentication\.allowMissing: .*on the nodes' network/,
  ),
  bad({ ...kubeVIP, nat: { provider: "NodeAddress" }, preset: "Svix" }, /spec\.preset: .*use another nat\.provider/),
  bad({ ...kubeVIP, preset: "Java" }, /spec\.preset: .*use another nat\.provider/),
  bad({ ...kubeVIP, proxy: { replicas: 2 } }, /spec\.proxy: .*remove proxy\.replicas/),
  bad({ ...kubeVIP, proxy: { affinity: {} } }, /spec\.proxy: .*remove both, and use nodeSelector/),
  bad({ ...kubeVIP, proxy: { topologySpreadConstraints: [] } }, /spec\.proxy: .*remove both, and use nodeSelector/),
  bad({ authentication: basic, preset: "Svix" }, /spec\.authentication\.mode: .*cannot authenticate to a proxy/),
  bad(
    { authentication: { mode: "TLS" }, proxy: { tls: certificates }, preset: "Java" },
    /spec\.authentication\.mode: .*cannot authenticate to a proxy/,
  ),
  bad({ verification: echo }, /spec\.verification: .*Block needs staticIPs/),
  bad(
    { verification: echo, staticIPs: [{ ...ips[0], phase: "Pending" }] },
    /spec\.verification: .*Block needs staticIPs/,
  ),
  bad({ staticIPs: ips, verification: {} }, /spec\.verification\.echoURLs: Required value/),
  bad({ staticIPs: ips, verification: { echoURLs: [] } }, /spec\.verification\.echoURLs: .*at least 1 items/),
  bad(
    { staticIPs: ips, verification: { echoURLs: ["echo.example"] } },
    /spec\.verification\.echoURLs\[0\]: .*an http or https URL/,
  ),
  bad(
    { staticIPs: ips, verification: { ...echo, intervalSeconds: 60, staleAfterSeconds: 30 } },
    /spec\.verification\.staleAfterSeconds: .*must not be less than verification\.intervalSeconds/,
  ),
  bad({ staticIPs: ips, verification: { ...echo, intervalSeconds: 0 } }, /spec\.verification\.intervalSeconds: /),
  bad({ staticIPs: ips, verification: { ...echo, timeoutSeconds: 61 } }, /spec\.verification\.timeoutSeconds: /),
  bad({ authentication: { mode: "Basic" } }, /spec\.authentication\.secretRef: .*both need it/),
  bad({ authentication: { secretRef: { name: "x" } } }, /spec\.authentication\.secretRef: .*goes with .*Basic/),
  bad({ authentication: { mode: "Basic", secretRef: {} } }, /spec\.authentication\.secretRef\.name: Required value/),
  bad({ authentication: { mode: "Basic", secretRef: { name: "A_b" } } }, /spec\.authentication\.secretRef\.name: /),
  bad(
    { authentication: { mode: "BasicOrTLS" }, proxy: { tls: certificates } },
    /spec\.authentication\.secretRef: .*both need it/,
  ),
  bad(
    { authentication: { ...basic, mode: "TLS" }, proxy: { tls: certificates } },
    /spec\.authentication\.secretRef: .*goes with/,
  ),

  // Clients and host sets.
  bad({ clients: [{ name: "default" }] }, /spec\.authentication\.mode: .*clients must authenticate/),
  bad({ authentication: { ...basic, allowMissing: true } }, /spec\.authentication\.allowMissing: .*the client default/),
  clients([{ name: "billing" }], /spec\.authentication\.allowMissing: .*add it to clients/, {
    authentication: { ...basic, allowMissing: true },
  }),
  bad({ authentication: { ...basic, allowMissing: "yes" } }, /spec\.authentication\.allowMissing: .*"string"/),
  // Clients outside of the cluster.
  external({ sourceRanges: undefined }, /spec\.proxy\.external\.sourceRanges: Required value/),
  external({ sourceRanges: [] }, /spec\.proxy\.external\.sourceRanges: .*should have at least 1 items/),
  external({ sourceRanges: many(65, (i) => `10.0.${i}.0/24`) }, /spec\.proxy\.external\.sourceRanges: Too many: 65/),
  external({ sourceRanges: ["198.51.100.7"] }, /external\.sourceRanges\[0\]: .*write one address with \/32 or \/128/),
  external({ sourceRanges: ["198.51.100.7/24"] }, /external\.sourceRanges\[0\]: .*host bits are set/),
  external({ sourceRanges: ["::ffff:198.51.100.0/120"] }, /external\.sourceRanges\[0\]: .*must be a network/),
  external({ sourceRanges: ["example.com/24"] }, /external\.sourceRanges\[0\]: .*must be a network/),
  external({ sourceRanges: [""] }, /external\.sourceRanges\[0\]: .*at least 1 chars/),
  external({ proxyProtocolFrom: [] }, /external\.proxyProtocolFrom: .*should have at least 1 items/),
  external({ proxyProtocolFrom: ["10.0.0.1"] }, /external\.proxyProtocolFrom\[0\]: .*must be a network/),
  external({ proxyProtocolFrom: ["10.0.0.1/8"] }, /external\.proxyProtocolFrom\[0\]: .*host bits are set/),
  external({ proxyProtocolFrom: ["0.0.0.0/0"] }, /external\.proxyProtocolFrom\[0\]: .*name your load balancers/),
  external({ proxyProtocolFrom: ["::/0"] }, /external\.proxyProtocolFrom\[0\]: .*name your load balancers/),
  external({ loadBalancerClass: "a b" }, /external\.loadBalancerClass: Invalid value: "a b"/),
  external(
    { serviceAnnotations: { "egress.outrider.dev/x": "" } },
    /external\.serviceAnnotations: .*are the operator's/,
  ),
  external({ serviceAnnotations: { "a b": "" } }, /external\.serviceAnnotations: .*must be an annotation key/),
  // kube-vip would announce an address of another fleet, or translate to it, without a grant.
  ...["kube-vip.io/loadbalancerIPs", "kube-vip.io/egress", "kube-vip.io/egress-allowed-networks"].map((key) =>
    external({ serviceAnnotations: { [key]: "203.0.113.10" } }, /external\.serviceAnnotations: .*need a grant/),
  ),
  // The proxies would take each file of the Secret for a password, and clients see the certificates.
  bad(
    { authentication: basic, proxy: { tls: { secretRef: basic.secretRef } } },
    /spec\.authentication\.secretRef: .*certificates would be passwords/,
  ),
  ...["clientCA", "crl"].map((field) =>
    bad(
      { authentication: both, proxy: { tls: { ...certificates, [field]: { kind: "Secret", ...basic.secretRef } } } },
      /spec\.authentication\.secretRef: .*certificates would be passwords/,
    ),
  ),
  external({ port: 443 }, /spec\.proxy\.external\.port: .*greater than or equal to 1024/),
  ...[4750, 4751, 9750].map((port) => external({ port }, /spec\.proxy\.external: .*external\.port: must differ from/)),
  external({}, /spec\.proxy\.external: .*add proxy\.tls/, {
    authentication: basic,
    proxy: { external: { sourceRanges: away } },
  }),
  external({}, /spec\.authentication\.mode: .*clients outside of the cluster must authenticate/, {
    authentication: { mode: "None" },
    proxy: { tls: server, external: { sourceRanges: away } },
  }),
  external({}, /spec\.authentication\.allowMissing: .*clients outside of the cluster must authenticate/, {
    authentication: { ...both, allowMissing: true },
    clients: [{ name: "default" }],
  }),
  ...["NodeAddress", "KubeVIP"].map((provider) =>
    external({}, /spec\.proxy: .*no NetworkPolicy protects them/, { staticIPs: ips, nat: { provider } }),
  ),

  clients([], /spec\.clients: .*should have at least 1 items/),
  clients(
    many(257, (i) => ({ name: `c${i}` })),
    /spec\.clients: Too many: 257/,
  ),
  clients([{}], /spec\.clients\[0\]\.name: Required value/),
  clients([{ name: "a" }, { name: "a" }], /spec\.clients\[1\]: Duplicate value/),
  clients([{ name: "a b" }], /spec\.clients\[0\]\.name: Invalid value: "a b"/),
  clients([{ name: "outrider" }], /spec\.clients\[0\]\.name: .*of a shared password/),
  client({ allow: [] }, /spec\.clients\[0\]\.allow: .*should have at least 1 items/),
  client({ allow: many(17, () => rule) }, /spec\.clients\[0\]\.allow: Too many: 17/),
  client({ deny: [] }, /spec\.clients\[0\]\.deny: .*should have at least 1 items/),
  client({ deny: [{}] }, /spec\.clients\[0\]\.deny\[0\]: .*the rule of a client is empty/),
  client({ allow: [{ ...rule, name: "a b" }] }, /spec\.clients\[0\]\.allow\[0\]\.name: Invalid value/),
  client(
    { allow: [{ ports: [443], except: ["a.example"] }] },
    /allow\[0\]\.except: .*this rule of a client has no hosts/,
  ),
  client({ allow: [{ hosts: many(257, (i) => `h${i}.example`) }] }, /allow\[0\]\.hosts: Too many: 257/),
  client({ allow: [{ ...rule, except: many(257, (i) => `h${i}.example`) }] }, /allow\[0\]\.except: Too many: 257/),
  client({ allow: [{ hosts: ["10.0.0.5"] }] }, /allow\[0\]\.hosts\[0\]: Invalid value: "10\.0\.0\.5".*into cidrs/),
  client({ allow: [{ cidrs: many(65, (i) => `10.0.${i}.0/24`) }] }, /allow\[0\]\.cidrs: Too many: 65/),
  client({ allow: [{ cidrs: ["10.0.0.0"] }] }, /allow\[0\]\.cidrs\[0\]: .*a network such as/),
  client({ allow: [{ ports: ["80-"] }] }, /allow\[0\]\.ports\[0\]: .*a range such as 8000-8999/),
  client({ inheritAllow: true }, /spec\.clients\[0\]\.inheritAllow: .*has no effect without allow/),
  client({ defaultAction: "Drop" }, /spec\.clients\[0\]\.defaultAction: Unsupported value/),
  client({ mode: "Off" }, /spec\.clients\[0\]\.mode: Unsupported value/),
  client({ mode: "Report" }, /spec\.clients\[0\]\.mode: .*write defaultAction: Report/),
  client({ ports: [] }, /spec\.clients\[0\]\.ports: .*should have at least 1 items/),
  client({ ports: [0] }, /spec\.clients\[0\]\.ports\[0\]: .*greater than or equal to 1/),
  client({ limits: {} }, /spec\.clients\[0\]\.limits: .*is empty; remove it/),
  client({ limits: { burst: 5 } }, /spec\.clients\[0\]\.limits\.burst: .*no effect without requestsPerSecond/),
  client({ limits: { maxTunnels: -1 } }, /limits\.maxTunnels: .*greater than or equal to 0/),
  client({ limits: { requestsPerSecond: 0 } }, /limits\.requestsPerSecond: .*greater than or equal to 1/),
  client({ limits: { requestsPerSecond: 1, burst: 0 } }, /limits\.burst: .*greater than or equal to 1/),
  client({ upstreamProxies: [] }, /spec\.clients\[0\]\.upstreamProxies: .*should have at least 1 items/),
  client({ upstreamProxies: many(17, () => rule) }, /spec\.clients\[0\]\.upstreamProxies: Too many: 17/),
  client({ upstreamProxies: [{}] }, /spec\.clients\[0\]\.upstreamProxies\[0\]: .*the rule of a client is empty/),
  client({ upstreamProxies: ["proxy.example:3128"] }, /spec\.clients\[0\]\.upstreamProxies\[0\]: .*"string"/),
  bad({ hostSets: [] }, /spec\.hostSets: .*should have at least 1 items/),
  bad({ hostSets: many(65, (i) => ({ name: `s${i}`, ...rule })) }, /spec\.hostSets: Too many: 65/),
  bad({ hostSets: many(2, () => ({ name: "s", ...rule })) }, /spec\.hostSets\[1\]: Duplicate value/),
  bad({ hostSets: [{ name: "a.b", ...rule }] }, /spec\.hostSets\[0\]\.name: Invalid value: "a\.b"/),
  bad({ hostSets: [{ name: "a" }] }, /spec\.hostSets\[0\]\.hosts: Required value/),
  bad({ hostSets: [{ name: "a", hosts: ["set:a"] }] }, /spec\.hostSets\[0\]\.hosts\[0\]: Invalid value: "set:a"/),

  // Upstream proxy.
  bad({ upstreamProxy: {} }, /spec\.upstreamProxy\.url: Required value/),
  bad({ upstreamProxy: { ...hop, resolve: "Remote" } }, /spec\.upstreamProxy\.resolve: Unsupported value/),
  bad({ upstreamProxy: { ...hop, secretRef: {} } }, /spec\.upstreamProxy\.secretRef\.name: Required value/),
  bad({ upstreamProxy: { ...hop, secretRef: { name: "A" } } }, /spec\.upstreamProxy\.secretRef\.name: Invalid value/),
  bad({ upstreamProxy: { url: "https://p.example:1" } }, /spec\.upstreamProxy\.url: .*http:\/\/HOST:PORT, without/),
  bad({ upstreamProxy: { url: "http://u:p@p.example:1" } }, /spec\.upstreamProxy\.url: .*without credentials/),
  bad({ upstreamProxy: hop, ...kubeVIP }, /spec\.upstreamProxy: .*set nat\.provider: External/),
  bad(
    { upstreamProxy: hop, nat: { provider: "PodIP", podIP: { annotations: { a: "b" } } } },
    /spec\.upstreamProxy: .*set nat\.provider: External/,
  ),

  // TLS.
  bad({ injection: { tls: true } }, /spec\.injection: .*add proxy\.tls/),
  bad({ authentication: both, proxy: { tls: server } }, /spec\.proxy: .*clientCA: goes with authentication\.mode: TLS/),
  bad({ proxy: { tls: certificates } }, /spec\.proxy: .*clientCA: goes with authentication\.mode: TLS/),
  bad({ authentication: { mode: "TLS" } }, /spec\.proxy: .*clientCA: goes with authentication\.mode: TLS/),
  proxy({ tls: {} }, /spec\.proxy\.tls\.secretRef: Required value/),
  proxy({ tls: { secretRef: {} } }, /spec\.proxy\.tls\.secretRef\.name: Required value/),
  proxy({ tls: { ...server, port: 443 } }, /spec\.proxy\.tls\.port: .*greater than or equal to 1024/),
  proxy({ tls: { ...server, port: 4750 } }, /spec\.proxy\.tls: .*must differ from proxy\.port/),
  proxy({ tls: { ...server, port: 9750 } }, /spec\.proxy\.tls: .*must differ from proxy\.port/),
  proxy({ tls: { ...server, crl: { name: "revoked" } } }, /spec\.proxy\.tls\.crl: .*add clientCA/),
  proxy({ tls: { ...server, clientName: "OU" } }, /spec\.proxy\.tls\.clientName: .*set both or neither/),
  tls({ clientName: "SAN" }, /spec\.proxy\.tls\.clientName: Unsupported value/),
  tls({ clientCA: {} }, /spec\.proxy\.tls\.clientCA\.name: Required value/),
  tls({ clientCA: { name: "a", kind: "Pod" } }, /spec\.proxy\.tls\.clientCA\.kind: Unsupported value/),
  tls({ clientCA: { name: "a", key: "a/b" } }, /spec\.proxy\.tls\.clientCA\.key: Invalid value: "a\/b"/),
  tls({ clientCA: { name: "a", key: "..data" } }, /spec\.proxy\.tls\.clientCA\.key: Invalid value: "\.\.data"/),
  tls({ crl: { name: "a", key: ".." } }, /spec\.proxy\.tls\.crl\.key: Invalid value: "\.\."/),
  tls({ crl: { name: "A" } }, /spec\.proxy\.tls\.crl\.name: Invalid value: "A"/),

  // Keys of labels and annotations.
  bad(
    { nat: { provider: "PodIP", podIP: { annotations: { "egress.outrider.dev/slot": "1" } } } },
    /spec\.nat\.podIP\.annotations: .*are the operator's/,
  ),
  bad(
    { nat: { provider: "PodIP", podIP: { annotations: { "not a key": "1" } } } },
    /spec\.nat\.podIP\.annotations: .*must be an annotation key/,
  ),
  bad(
    { ...kubeVIP, nat: { provider: "KubeVIP", kubeVIP: { serviceAnnotations: { "egress.outrider.dev/x": "1" } } } },
    /spec\.nat\.kubeVIP\.serviceAnnotations: .*are the operator's/,
  ),
  bad(
    { ...kubeVIP, nat: { provider: "KubeVIP", kubeVIP: { serviceAnnotations: { "a b": "1" } } } },
    /spec\.nat\.kubeVIP\.serviceAnnotations: .*must be an annotation key/,
  ),
  bad(
    { ...kubeVIP, nat: { provider: "KubeVIP", kubeVIP: { loadBalancerClass: "a b" } } },
    /spec\.nat\.kubeVIP\.loadBalancerClass: Invalid value/,
  ),
  bad(
    { ...kubeVIP, nat: { provider: "NodeAddress", nodeAddress: { nodeSelector: { "a b": "c" } } } },
    /spec\.nat\.nodeAddress\.nodeSelector: .*must be a label key/,
  ),
  proxy({ podLabels: { "egress.outrider.dev/policy": "x" } }, /spec\.proxy\.podLabels: .*are the operator's/),
  proxy({ podLabels: { "app.kubernetes.io/name": "x" } }, /spec\.proxy\.podLabels: .*are the operator's/),
  proxy({ podLabels: { "a b": "x" } }, /spec\.proxy\.podLabels: .*must be a label key/),
  proxy({ podLabels: { a: "not a value" } }, /spec\.proxy\.podLabels\.a: Invalid value: "not a value"/),
  proxy({ podAnnotations: { "egress.outrider.dev/x": "" } }, /spec\.proxy\.podAnnotations: .*are the operator's/),
  proxy({ podAnnotations: { "a/b/c": "x" } }, /spec\.proxy\.podAnnotations: .*must be an annotation key/),
  proxy({ serviceAnnotations: { "app.kubernetes.io/x": "" } }, /spec\.proxy\.serviceAnnotations: .*are the operator's/),
  proxy({ serviceAnnotations: { "-": "x" } }, /spec\.proxy\.serviceAnnotations: .*must be an annotation key/),
  proxy({ nodeSelector: { "a b": "x" } }, /spec\.proxy\.nodeSelector: .*must be a label key/),

  // The proxy.
  proxy({ port: 8080, adminPort: 8080 }, /spec\.proxy\.adminPort: .*must differ from proxy\.port/),
  proxy({ port: 80 }, /spec\.proxy\.port: .*greater than or equal to 1024/),
  proxy({ replicas: 0 }, /spec\.proxy\.replicas: .*greater than or equal to 1/),
  proxy({ image: "" }, /spec\.proxy\.image: Invalid value: "".*an image such as registry/),
  proxy({ image: "outrider: 1" }, /spec\.proxy\.image: Invalid value: "outrider: 1".*an image such as registry/),
  proxy({ imagePullSecrets: [{ name: "My_Secret" }] }, /spec\.proxy\.imagePullSecrets\[0\]\.name: Invalid value/),
  proxy(
    { topologySpreadConstraints: [{ maxSkew: 1, topologyKey: "zone" }] },
    /spec\.proxy\.topologySpreadConstraints\[0\]\.whenUnsatisfiable: Required value/,
  ),
  proxy({ priorityClassName: "High" }, /spec\.proxy\.priorityClassName: Invalid value/),
  proxy({ resources: { limits: { memory: "lots" } } }, /spec\.proxy\.resources\.limits\.memory: Invalid value: "lots"/),
  proxy({ timeouts: { connectSeconds: 121 } }, /spec\.proxy\.timeouts\.connectSeconds: .*less than or equal to 120/),
  proxy({ limits: { maxTunnels: 0 } }, /spec\.proxy\.limits\.maxTunnels: .*greater than or equal to 1/),
  proxy({ tolerations: [{ operator: "Equal" }] }, /spec\.proxy\.tolerations\[0\]: .*needs operator: Exists/),
  proxy({ tolerations: [{ key: "a", operator: "Exists", value: "b" }] }, /tolerations\[0\]\.value: .*remove value/),
  proxy(
    { tolerations: [{ key: "a", effect: "NoSchedule", tolerationSeconds: 5 }] },
    /tolerations\[0\]\.tolerationSeconds: .*counts for effect: NoExecute only/,
  ),

  // Injection and NetworkPolicies.
  bad({ injection: { noProxy: ["*"] } }, /spec\.injection\.noProxy\[0\]: Invalid value: "\*"/),
  bad({ injection: { containers: ["a", "a"] } }, /spec\.injection\.containers\[1\]: Duplicate value: "a"/),
  bad({ networkPolicy: { additionalEgress: [open] } }, /spec\.networkPolicy: .*set networkPolicy\.senders: Enabled/),
  egress({ ports: [{ port: 5432 }] }, /additionalEgress\[0\]\.to: Required value/),
  egress({ to: [{}] }, /additionalEgress\[0\]\.to\[0\]: .*set one of the two kinds/),
  egress({ to: [{ ipBlock: { cidr: "10.0.0.0" } }] }, /ipBlock\.cidr: .*must be a network such as/),
  egress({ to: [{ ipBlock: { cidr: "10.0.0.0/8", except: ["x"] } }] }, /ipBlock\.except\[0\]: .*must be a network/),
  egress({ to: [{ ipBlock: { cidr: "10.0.0.0/8", except: ["11.0.0.0/16"] } }] }, /ipBlock\.except: .*inside of cidr/),
  egress({ ...open, ports: [{ port: "http", endPort: 90 }] }, /ports\[0\]\.endPort: .*must be a number/),
  egress({ ...open, ports: [{ port: 100, endPort: 90 }] }, /ports\[0\]\.endPort: .*not higher/),
  egress({ ...open, ports: [{ port: "5432" }] }, /ports\[0\]\.port: Invalid value: "5432"/),
];
