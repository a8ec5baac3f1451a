import type { V1ServicePort, V1ServiceSpec } from "@kubernetes/client-node";
import type { KubeObject } from "../../operator/kube/resource.ts";

/**
 * Envoy configuration that istiod makes for the sidecar of a sender, reduced to one Service port: the outbound
 * listener of the port, and its route and clusters. It follows istio/istio: `pkg/config/kube/conversion.go`
 * (ConvertProtocol), `pilot/pkg/networking/core/listener.go` (outbound listeners) and `httproute.go` (virtual hosts).
 */

export type Service = KubeObject & { spec: V1ServiceSpec };

/** Protocols that istiod knows by `appProtocol`, or by the prefix of the port's name. Any other one is detected. */
const HTTP = ["http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c"];
const TCP = ["tcp", "tls", "https", "mongo", "mysql", "redis"];

/** How a sidecar treats the connections of clients to a port. */
export function protocolOf({ name, appProtocol }: V1ServicePort): "HTTP" | "TCP" | "detected" {
  const word = (appProtocol ?? name?.split("-")[0] ?? "").toLowerCase();
  if (HTTP.includes(word)) return "HTTP";
  return TCP.includes(word) ? "TCP" : "detected";
}

const typed = (type: string, config: object) => ({ "@type": `type.googleapis.com/${type}`, ...config });

const filter = (name: string, type: string, config: object) => ({ name, typed_config: typed(type, config) });

const tcpProxy = (cluster: string) =>
  filter("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", {
    stat_prefix: cluster,
    cluster,
  });

function httpManager(service: Service, port: number, cluster: string): object {
  const { name, namespace } = service.metadata;
  const host = `${name}.${namespace}.svc.cluster.local`;
  const domains = [host, name, `${name}.${namespace}.svc`, `${name}.${namespace}`];
  const route = (name: string, target: string) => ({ name, match: { prefix: "/" }, route: { cluster: target } });
  const config = {
    stat_prefix: `outbound_0.0.0.0_${port}`,
    normalize_path: true,
    path_with_escaped_slashes_action: "KEEP_UNCHANGED",
    upgrade_configs: [{ upgrade_type: "websocket" }],
    route_config: {
      name: String(port),
      ignore_port_in_host_matching: true,
      virtual_hosts: [
        { name: `${host}:${port}`, domains, routes: [route("default", cluster)] },
        // outboundTrafficPolicy ALLOW_ANY, the default.
        { name: "allow_any", domains: ["*"], routes: [route("allow_any", "PassthroughCluster")] },
      ],
    },
    http_filters: [
      filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", {
        suppress_envoy_headers: true,
      }),
    ],
  };
  return filter(
    "envoy.filters.network.http_connection_manager",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    config,
  );
}

const socketAddress = (address: string, port: number) => ({ socket_address: { address, port_value: port } });

/** A cluster with one endpoint. istiod's PassthroughCluster has the address that the client dialled, which is the same. */
const cluster = (name: string, endpoint: number) => ({
  name,
  type: "STATIC",
  connect_timeout: "10s",
  load_assignment: {
    cluster_name: name,
    endpoints: [{ lb_endpoints: [{ endpoint: { address: socketAddress("127.0.0.1", endpoint) } }] }],
  },
});

/**
 * Configuration of the sidecar of a sender. `listen`: port of 127.0.0.1 to which the redirection of the pod leads.
 * `endpoint`: port of 127.0.0.1 of the only endpoint of the Service.
 */
export function sidecarConfig(service: Service, listen: number, endpoint: number): object {
  const [port] = service.spec.ports!;
  const outbound = `outbound|${port!.port}||${service.metadata.name}.${service.metadata.namespace}.svc.cluster.local`;
  const tcp = { filters: [tcpProxy(outbound)] };
  const http = { filters: [httpManager(service, port!.port, outbound)] };
  const inspector = filter(
    "envoy.filters.listener.http_inspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    {},
  );
  const detected = {
    ...http,
    filter_chain_match: { transport_protocol: "raw_buffer", application_protocols: ["http/1.1", "h2c"] },
  };
  const chains = {
    TCP: { filter_chains: [tcp] },
    HTTP: { filter_chains: [http] },
    detected: { listener_filters: [inspector], filter_chains: [detected], default_filter_chain: tcp },
  }[protocolOf(port!)];
  return {
    static_resources: {
      listeners: [{ name: `0.0.0.0_${port!.port}`, address: socketAddress("127.0.0.1", listen), ...chains }],
      clusters: [cluster(outbound, endpoint), cluster("PassthroughCluster", endpoint)],
    },
  };
}
