const common = {
  mode: "Report",
  defaultAction: "Deny",
  ports: [443, "8000-8999"],
  allow: [
    {
      name: "all-fields",
      hosts: ["*.a.example"],
      except: ["b.a.example"],
      cidrs: ["10.96.0.0/12"],
      ports: [8080, "9000-9001"],
    },
  ],
  deny: [{ name: "none", hosts: ["*"], except: ["a.example"], cidrs: ["198.51.100.0/24"], ports: ["1-65535"] }],
  hostSets: [{ name: "payment", hosts: ["*.pay.example"] }],
  clients: [
    {
      name: "billing",
      allow: [
        {
          name: "payment",
          hosts: ["set:payment", "b.example"],
          except: ["a.pay.example"],
          cidrs: ["10.20.0.0/16"],
          ports: [443, "8000-8001"],
        },
      ],
      inheritAllow: true,
      upstreamProxies: [
        { name: "partner", hosts: ["*"], except: ["set:payment"], cidrs: ["10.30.0.0/16"], ports: [3128] },
      ],
      deny: [{ name: "own", hosts: ["*"], except: ["set:payment"], cidrs: ["2001:db8::/32"], ports: [25] }],
      defaultAction: "Report",
      mode: "Enforce",
      ports: [8443, "9000-9001"],
      limits: { maxTunnels: 0, requestsPerSecond: 50, burst: 100 },
    },
    { name: "default" },
  ],
  preset: "Convoy",
  injection: {
    mode: "Env",
    tls: true,
    conflictPolicy: "Overwrite",
    containers: ["agent"],
    initContainers: ["migrate"],
    noProxy: ["otel-collector.monitoring.svc", ".internal", "10.0.0.0/8", "[fd00::1]:4317"],
  },
  staticIPs: [{ address: "203.0.113.10", sourceAddress: "10.0.4.7", phase: "Active" }],
  verification: {
    echoURLs: ["https://echo.example.net/ip"],
    intervalSeconds: 10,
    timeoutSeconds: 3,
    staleAfterSeconds: 60,
    onUnverified: "Block",
  },
  authentication: { mode: "BasicOrTLS", secretRef: { name: "proxy-passwords" } },
  networkPolicy: {
    proxy: "Disabled",
    senders: "Enabled",
    additionalEgress: [
      {
        to: [
          { ipBlock: { cidr: "10.20.0.0/16", except: ["10.20.30.0/24"] } },
          {
            podSelector: { matchLabels: { app: "db" }, matchExpressions: [{ key: "tier", operator: "Exists" }] },
            namespaceSelector: {
              matchLabels: { team: "data" },
              matchExpressions: [{ key: "env", operator: "In", values: ["prod"] }],
            },
          },
          {
            podSelector: { matchExpressions: [{ key: "tier", operator: "NotIn", values: ["web"] }] },
          },
        ],
        ports: [
          { protocol: "TCP", port: 5432, endPort: 5433 },
          { protocol: "UDP", port: "dns" },
        ],
      },
    ],
  },
};

const proxy = {
  port: 14_750,
  adminPort: 19_750,
  tls: {
    port: 14_751,
    secretRef: { name: "proxy-certificate" },
    clientCA: { kind: "ConfigMap", name: "client-ca", key: "ca.crt" },
    clientName: "URI",
    crl: { kind: "Secret", name: "client-ca", key: "ca.crl" },
  },
  image: "registry.example:5000/team/outrider:0.1.0",
  imagePullSecrets: [{ name: "registry" }],
  resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "1Gi", cpu: 1 } },
  nodeSelector: { "topology.kubernetes.io/zone": "a" },
  tolerations: [
    { key: "egress", operator: "Equal", value: "yes", effect: "NoExecute", tolerationSeconds: 30 },
    { operator: "Exists" },
  ],
  podLabels: { team: "hooks" },
  podAnnotations: { "example.com/scrape": "true" },
  serviceAnnotations: { "example.com/note": "anything at all" },
  priorityClassName: "system-cluster-critical",
  timeouts: { dnsSeconds: 1, connectSeconds: 2, idleSeconds: 3, drainSeconds: 4 },
  limits: { maxTunnels: 5, maxTunnelsPerClient: 1 },
  denyStatus: 502,
  reasonDetail: "Full",
  accessLog: "Denied",
};

const term = {
  topologyKey: "topology.kubernetes.io/zone",
  labelSelector: {
    matchLabels: { app: "db" },
    matchExpressions: [{ key: "tier", operator: "NotIn", values: ["web"] }],
  },
  namespaceSelector: {
    matchLabels: { team: "data" },
    matchExpressions: [{ key: "env", operator: "In", values: ["prod"] }],
  },
  namespaces: ["data"],
  matchLabelKeys: ["pod-template-hash"],
  mismatchLabelKeys: ["tenant"],
};
const node = {
  matchExpressions: [{ key: "disktype", operator: "In", values: ["ssd"] }],
  matchFields: [{ key: "metadata.name", operator: "NotIn", values: ["node-a"] }],
};
const podTerms = {
  requiredDuringSchedulingIgnoredDuringExecution: [term],
  preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 100, podAffinityTerm: term }],
};

/** Not for slots, and not with `allowMissing`. */
const external = {
  port: 14_752,
  sourceRanges: ["198.51.100.0/24", "2001:db8:7::/48", "0.0.0.0/0"],
  proxyProtocolFrom: ["10.9.0.1/32"],
  loadBalancerClass: "service.k8s.aws/nlb",
  serviceAnnotations: { "service.beta.kubernetes.io/aws-load-balancer-proxy-protocol": "*" },
};

/** Not for slots. */
const scheduling = {
  affinity: {
    nodeAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [node] },
      preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 1, preference: node }],
    },
    podAffinity: podTerms,
    podAntiAffinity: podTerms,
  },
  topologySpreadConstraints: [
    {
      maxSkew: 1,
      topologyKey: "kubernetes.io/hostname",
      whenUnsatisfiable: "DoNotSchedule",
      minDomains: 2,
      labelSelector: { matchLabels: { app: "proxy" } },
      matchLabelKeys: ["pod-template-hash"],
      nodeAffinityPolicy: "Honor",
      nodeTaintsPolicy: "Ignore",
    },
  ],
};

/** Specs that have every field of the schema between them. */
export const EVERYTHING: readonly Record<string, unknown>[] = [
  {
    ...common,
    // Not for slots.
    authentication: { ...common.authentication, allowMissing: true },
    nat: { provider: "PodIP", podIP: { annotations: { "cni.projectcalico.org/ipv4pools": '["egress"]' } } },
    proxy: { ...proxy, ...scheduling, replicas: 3 },
  },
  {
    ...common,
    nat: { provider: "PodIP", podIP: { annotations: { "cni.projectcalico.org/ipv4pools": '["egress"]' } } },
    proxy: { ...proxy, external },
  },
  {
    ...common,
    staticIPs: [{ address: "203.0.113.10", phase: "Active" }],
    nat: { provider: "External" },
    upstreamProxy: {
      url: "http://proxy.corp.example:3128",
      secretRef: { name: "upstream-credentials" },
      resolve: "Upstream",
    },
    proxy,
  },
  {
    ...common,
    nat: { provider: "NodeAddress", nodeAddress: { nodeSelector: { egress: "fixed" } } },
    proxy,
  },
  {
    ...common,
    nat: {
      provider: "KubeVIP",
      kubeVIP: {
        loadBalancerClass: "kube-vip.io/kube-vip-class",
        serviceAnnotations: { "kube-vip.io/serviceInterface": "eth1" },
      },
    },
    proxy,
  },
];
