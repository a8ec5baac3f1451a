/** Options of Smokescreen, for users who move to outrider: docs/migrate.md has the same table. */

/** One setting of Smokescreen. */
interface Setting {
  /** Its flag, without dashes. */
  flag?: string;
  /** Its key in config.yaml. */
  key?: string;
  /** The counterpart here, or what happens without one. */
  ours: string;
}

/** Flags of `cmd/smokescreen.go` and keys of `pkg/smokescreen/config_loader.go` (stripe/smokescreen, July 2026). */
export const SETTINGS: readonly Setting[] = [
  { flag: "config-file", ours: "no configuration file: give the options of its keys" },
  { flag: "egress-acl-file", key: "acl_file", ours: "--policy FILE" },
  { flag: "listen-ip", key: "ip", ours: "--listen IP:PORT" },
  { flag: "listen-port", key: "port", ours: "--listen IP:PORT" },
  { flag: "allow-range", key: "allow_ranges", ours: "--allow-cidr CIDR" },
  { flag: "deny-range", key: "deny_ranges", ours: "--deny-cidr CIDR" },
  { flag: "allow-address", key: "allow_addresses", ours: "--allow-cidr IP/32 or IP/128, without a port" },
  { flag: "deny-address", key: "deny_addresses", ours: "--deny-cidr IP/32 or IP/128, without a port" },
  {
    flag: "unsafe-allow-private-ranges",
    key: "unsafe_allow_private_ranges",
    ours: "--allow-cidr CIDR for each range that you need",
  },
  { flag: "resolver-address", key: "resolver_addresses", ours: "--resolver IP:PORT" },
  { flag: "dns-timeout", key: "dns_timeout", ours: "--dns-seconds N" },
  { flag: "timeout", key: "connect_timeout", ours: "--connect-seconds N" },
  { key: "idle_timeout", ours: "--idle-seconds N" },
  { key: "exit_timeout", ours: "--drain-seconds N" },
  { flag: "max-concurrent-connect-tunnels", key: "max_concurrent_connect_tunnels", ours: "--max-tunnels N" },
  { flag: "max-concurrent-requests", key: "max_concurrent_requests", ours: "--max-tunnels N" },
  {
    flag: "max-request-rate",
    key: "max_request_rate",
    ours: "requestsPerSecond of each client in an EgressPolicy; no counterpart for the whole proxy",
  },
  {
    flag: "max-request-burst",
    key: "max_request_burst",
    ours: "burst of each client in an EgressPolicy; no counterpart for the whole proxy",
  },
  { key: "allow_missing_role", ours: "--allow-missing-client (true); passwords or --tls-client-ca without it (false)" },
  { flag: "tls-server-bundle-file", key: "tls", ours: "--listen-tls IP:PORT with --tls-cert and --tls-key" },
  { flag: "tls-client-ca-file", ours: "--tls-client-ca FILE with --tls-client-name cn" },
  { flag: "tls-crl-file", ours: "--tls-crl FILE" },
  { flag: "statsd-address", key: "statsd_address", ours: "/metrics on the port of --admin" },
  { flag: "expose-prometheus-metrics", ours: "/metrics on the port of --admin" },
  { flag: "prometheus-endpoint", ours: "/metrics on the port of --admin" },
  { flag: "prometheus-listen-ip", ours: "--admin IP:PORT" },
  { flag: "prometheus-port", ours: "--admin IP:PORT" },
  { flag: "stats-socket-dir", key: "stats_socket_dir", ours: "/status and /metrics on the port of --admin" },
  {
    flag: "stats-socket-file-mode",
    key: "stats_socket_file_mode",
    ours: "/status and /metrics on the port of --admin",
  },
  { key: "time_connect", ours: "always on: connectMs of the access record" },
  {
    flag: "additional-error-message-on-deny",
    key: "deny_message_extra",
    ours: "no counterpart: the reason phrase names the policy",
  },
  { flag: "disable-acl-policy-action", ours: "no counterpart: check prints the default action" },
  {
    flag: "proxy-protocol",
    key: "support_proxy_protocol",
    ours: "--proxy-protocol required and --proxy-protocol-from CIDR for each load balancer",
  },
  { flag: "upstream-http-proxy-addr", ours: "upstreamProxy in an EgressPolicy or document, for http and https" },
  { flag: "upstream-https-proxy-addr", ours: "upstreamProxy in an EgressPolicy or document, for http and https" },
  { key: "network", ours: "no counterpart: --deny-cidr ::/0 or 0.0.0.0/0 denies a family" },
  { key: "mitm_ca_cert_file", ours: "no counterpart: outrider intercepts no TLS" },
  { key: "mitm_ca_key_file", ours: "no counterpart: outrider intercepts no TLS" },
  { key: "transport_max_idle_conns", ours: "no counterpart" },
  { key: "transport_max_idle_conns_per_host", ours: "no counterpart" },
  { key: "read_header_timeout", ours: "--head-seconds N" },
  { key: "read_timeout", ours: "--idle-seconds N" },
  { key: "write_timeout", ours: "--idle-seconds N" },
];

/** The counterpart of a flag of Smokescreen; undefined for another word. */
export function counterpartOfFlag(flag: string): string | undefined {
  return SETTINGS.find((setting) => setting.flag === flag)?.ours;
}

/** The keys of Smokescreen's config.yaml that a mapping has, with their counterparts. */
export function smokescreenKeys(value: Record<string, unknown>): { key: string; ours: string }[] {
  return SETTINGS.flatMap(({ key, ours }) => (key !== undefined && Object.hasOwn(value, key) ? [{ key, ours }] : []));
}
