// Generated from crds/egresspolicies.yaml by `make generate`: change that file.
// A field with a default in the schema is not optional: the API server sets it in every present parent.
import type { KubeObject } from "../kube/resource.ts";

/**
 * EgressPolicy defines where the webhook senders of a namespace may connect to, and from which addresses. The
 * operator runs a fleet of proxies for it. Pods opt in with the label or annotation egress.outrider.dev/policy
 * and the policy's name as value.
 */
export interface EgressPolicy extends KubeObject {
  spec: EgressPolicySpec;
  status?: EgressPolicyStatus;
}

/** Desired state. */
export interface EgressPolicySpec {
  /**
   * Enforce denies requests that the rules do not allow. Report allows them and records them as wouldDeny, to
   * test a policy. Both modes block private and other special-purpose addresses, and enforce authentication and
   * verification.
   * @default "Enforce"
   */
  mode: "Enforce" | "Report";

  /**
   * Action for targets that no rule matches. Allow: allow any public address on a port of spec.ports. Report:
   * the same, but record the request as wouldDeny. Deny: deny the request, so that only allow rules allow
   * targets.
   * @default "Allow"
   */
  defaultAction: "Allow" | "Report" | "Deny";

  /**
   * Ports of the default action, and of allow rules without ports. A deny rule without ports matches every port.
   * @default [80,443,"1024-65535"]
   */
  ports: Array<number | string>;

  /**
   * Allow rules. Their order does not matter, and a deny rule always wins. With defaultAction: Deny, the targets
   * of these rules are the only allowed ones. With the other default actions they add targets that the default
   * does not allow: other ports, and private ranges by cidrs.
   */
  allow?: AllowRuleSpec[];

  /** Deny rules. Their order does not matter, and they have precedence over allow rules. */
  deny?: DenyRuleSpec[];

  /**
   * Lists of host names that rules share. A rule refers to a set by set:NAME in hosts or except, in the lists of
   * the policy and of its clients. The policy document has each set once.
   */
  hostSets?: HostSetSpec[];

  /**
   * Rules of clients. A client is a user name with its own password, or the name in a client certificate. The
   * entry of the client decides its requests. A field that the entry lacks has the value of the policy. The deny
   * rules of the policy apply to every client. Every other client that has authenticated, also with a shared
   * password, gets the entry named default. Without that entry it is refused, so add default first.
   * Never-allowed addresses are refused for every client.
   */
  clients?: ClientSpec[];

  /**
   * The sender that the pods run. Besides the usual variables, injection sets the proxy settings of this sender,
   * and warns of its known problems. Generic: programs that read HTTP_PROXY and HTTPS_PROXY, such as those in
   * Go, Python, Ruby and curl.
   * @default "Generic"
   */
  preset: "Generic" | "Convoy" | "Svix" | "Outpost" | "Java";

  /**
   * Injection of the proxy's address into pods that opted in.
   * @default {}
   */
  injection: InjectionSpec;

  /**
   * Addresses that webhook receivers see and add to their allow lists. They are published in the ConfigMap
   * <policy>-egress-ips. If the list is not empty, proxies connect only over the address families (IPv4, IPv6)
   * of its Active and Retiring addresses.
   */
  staticIPs?: StaticIPSpec[];

  /**
   * Source of the proxies' addresses. Set only the member that matches provider.
   * @default {"provider":"External"}
   */
  nat: NatSpec;

  /**
   * Another proxy, such as that of a company, through which all connections go. Receivers see its addresses.
   * Needs the provider External.
   */
  upstreamProxy?: UpstreamProxySpec;

  /**
   * Verification that requests leave from the static IPs. Every proxy requests the echo URLs over its own egress
   * path and compares the answers with staticIPs. Without this field nothing is verified.
   */
  verification?: VerificationSpec;

  /**
   * Authentication of senders at the proxy.
   * @default {"mode":"None"}
   */
  authentication: AuthenticationSpec;

  /**
   * Settings of the proxies.
   * @default {"port":4750,"adminPort":9750}
   */
  proxy: ProxySpec;

  /**
   * NetworkPolicies of the operator. They have an effect only if the network plugin enforces them.
   * @default {}
   */
  networkPolicy: NetworkPolicySpec;
}

/**
 * One allow rule. It matches if all its fields match. A list matches if one of its items does. A missing field
 * matches everything.
 */
export interface AllowRuleSpec {
  /**
   * Name of the rule in access records, refusals and the output of outrider explain. It must be unique in the
   * policy. Default: its position, such as allow[0].
   */
  name?: string;

  /**
   * Host names: an exact name; *.name for any name below it, at any depth, but not the name itself; * for every
   * name; or set:NAME for the names of a set of spec.hostSets, at most 8 in a rule. Case does not matter. Use
   * cidrs for IP addresses.
   */
  hosts?: string[];

  /** Exceptions from hosts. The rule does not match these names. Same forms as hosts. */
  except?: string[];

  /**
   * Networks such as 10.96.0.0/12 or 2001:db8::/32. The rule allows only resolved addresses in these networks.
   * With hosts, the rule opens private and other special-purpose ranges for exactly these hosts and ports.
   * Without hosts, it opens them for targets that are IP addresses. Cloud metadata, link-local and loopback
   * addresses are always blocked.
   */
  cidrs?: string[];

  /** Ports that the rule allows. Default: spec.ports. */
  ports?: Array<number | string>;
}

/**
 * One deny rule. It matches if all its fields match. A list matches if one of its items does. A missing field
 * matches everything.
 */
export interface DenyRuleSpec {
  /**
   * Name of the rule in access records, refusals and the output of outrider explain. It must be unique in the
   * policy. Default: its position, such as deny[0].
   */
  name?: string;

  /**
   * Host names: an exact name; *.name for any name below it, at any depth, but not the name itself; * for every
   * name; or set:NAME for the names of a set of spec.hostSets, at most 8 in a rule. Case does not matter. Use
   * cidrs for IP addresses.
   */
  hosts?: string[];

  /** Exceptions from hosts. The rule does not match these names. Same forms as hosts. */
  except?: string[];

  /**
   * Networks such as 198.51.100.0/24 or 2001:db8::/32. The proxy checks every address that a name resolves to,
   * and does not connect to addresses in these networks. It denies the request if no other allowed address is
   * left. With hosts, it checks only the addresses of these hosts.
   */
  cidrs?: string[];

  /** Ports that the rule denies. Default: every port. */
  ports?: Array<number | string>;
}

/** One set of host names. */
export interface HostSetSpec {
  /** Name of the set. */
  name: string;

  /** Host names, in the forms of the hosts of a rule. A set does not refer to other sets. */
  hosts: string[];
}

/** The rules of one client. */
export interface ClientSpec {
  /** User name, or name in the certificate. Case matters. default: the entry of every client without one. */
  name: string;

  /** Allow rules of this client. They replace those of the policy, and make Deny the default action. */
  allow?: ClientRuleSpec[];

  /** Use the policy's allow rules in addition to allow of this client. */
  inheritAllow?: boolean;

  /** Deny rules of this client, in addition to those of the policy. */
  deny?: ClientRuleSpec[];

  /**
   * Upstream proxies that requests of this client may name in the field X-Upstream-Https-Proxy. Such requests do
   * not go through spec.upstreamProxy. Default: none.
   */
  upstreamProxies?: ClientRuleSpec[];

  /**
   * Action for targets that no rule matches. Default: Deny if this client has allow, otherwise that of the
   * policy.
   */
  defaultAction?: "Allow" | "Report" | "Deny";

  /**
   * Report allows requests that the lists of this client deny, and records them as wouldDeny. The policy's deny
   * rules bind unless the policy itself is in mode Report. Default: spec.mode.
   */
  mode?: "Enforce" | "Report";

  /**
   * Ports of the default action, and of this client's allow rules without ports. Default: spec.ports. The
   * policy's allow rules keep spec.ports.
   */
  ports?: Array<number | string>;

  /** Limits of this client in each proxy. */
  limits?: {
    /** Concurrent tunnels and requests. 0: no limit. Default: proxy.limits.maxTunnelsPerClient. */
    maxTunnels?: number;

    /** Requests per second. Further ones get 503 with Retry-After. Default: no limit. */
    requestsPerSecond?: number;

    /** Requests that the client can send at once. Default: twice requestsPerSecond. */
    burst?: number;
  };
}

/**
 * One rule of a client. It matches if all its fields match. A list matches if one of its items does. A missing
 * field matches everything.
 */
export interface ClientRuleSpec {
  /**
   * Name of the rule. It must be unique among the rules of the policy and of this client. Default: its position,
   * such as clients.billing.allow[0].
   */
  name?: string;

  /** Host names, as in the rules of the policy. Use set:NAME for a longer list of spec.hostSets. */
  hosts?: string[];

  /** Exceptions from hosts. The rule does not match these names. Same forms as hosts. */
  except?: string[];

  /**
   * Networks such as 10.96.0.0/12 or 2001:db8::/32, as in the rules of the policy. Those of an allow rule open
   * special-purpose ranges for this client only.
   */
  cidrs?: string[];

  /**
   * Ports of the rule. Default of an allow rule: ports of this client, otherwise spec.ports. Default of deny and
   * upstreamProxies: every port.
   */
  ports?: Array<number | string>;
}

/**
 * Injection of the proxy's address into pods that opted in.
 * @default {}
 */
export interface InjectionSpec {
  /**
   * Env sets HTTP_PROXY, HTTPS_PROXY and related variables in the containers when a pod is created. None: you
   * set them yourself.
   * @default "Env"
   */
  mode: "Env" | "None";

  /**
   * Action for containers that already have another proxy. Respect skips the container and reports it in an
   * event. Overwrite replaces its variables. An empty variable counts as not set.
   * @default "Respect"
   */
  conflictPolicy: "Respect" | "Overwrite";

  /**
   * Set https:// URLs of the TLS port of proxy.tls, for senders that can use one. The senders have to trust its
   * certificate. Default: false.
   */
  tls?: boolean;

  /** Containers that get the variables. Default: every app container that is not a known sidecar. */
  containers?: string[];

  /** Init containers that get the variables. Default: none. */
  initContainers?: string[];

  /**
   * Entries of NO_PROXY, such as otel-collector.monitoring.svc. Default: none, since every matching request
   * bypasses the proxy and its policy, including those to tenants' URLs. Use exact host names.
   */
  noProxy?: string[];
}

/** One static IP. */
export interface StaticIPSpec {
  /** The address that receivers see, such as 203.0.113.10. */
  address: string;

  /**
   * The address that the proxy binds or the pod has, if a router maps it one to one to address. Default:
   * address. Not allowed with nat.provider External, which binds nothing.
   */
  sourceAddress?: string;

  /**
   * Active: published and used. Pending: published but not used yet, so that receivers can prepare. Retiring:
   * still published. With NodeAddress and KubeVIP it gets no new requests while a proxy of another address
   * serves. With External and PodIP, change the NAT gateway or the pool.
   * @default "Active"
   */
  phase: "Active" | "Pending" | "Retiring";
}

/**
 * Source of the proxies' addresses. Set only the member that matches provider.
 * @default {"provider":"External"}
 */
export interface NatSpec {
  /**
   * External: a NAT gateway or firewall outside of the cluster has the addresses. PodIP: pods have routable
   * addresses from a pool that pod annotations select. NodeAddress: nodes have the addresses, and the proxy of
   * each address runs on the network of its node and binds it. KubeVIP: kube-vip assigns each address to the
   * node of its proxy, which binds it. NodeAddress and KubeVIP run one proxy for each static IP and require
   * authentication.
   * @default "External"
   */
  provider: "External" | "PodIP" | "NodeAddress" | "KubeVIP";

  /** Settings of the provider PodIP. */
  podIP?: {
    /**
     * Annotations of the proxy pods by which the network plugin selects their addresses, such as
     * cni.projectcalico.org/ipv4pools.
     */
    annotations: Record<string, string>;
  };

  /** Settings of the provider NodeAddress. */
  nodeAddress?: {
    /**
     * Labels of the nodes that may have the addresses. Default: proxy.nodeSelector. Each proxy runs on the node
     * that lists its sourceAddress or address in its status, or in its annotation egress.outrider.dev/addresses.
     */
    nodeSelector?: Record<string, string>;
  };

  /** Settings of the provider KubeVIP. */
  kubeVIP?: {
    /**
     * The loadBalancerClass of your kube-vip, for the Services that hold the addresses, so that no other load
     * balancer uses them.
     * @default "kube-vip.io/kube-vip-class"
     */
    loadBalancerClass: string;

    /**
     * Further annotations of the Services that hold the addresses, such as kube-vip.io/serviceInterface.
     * Annotations of the operator have precedence.
     */
    serviceAnnotations?: Record<string, string>;
  };
}

/**
 * Another proxy, such as that of a company, through which all connections go. Receivers see its addresses.
 * Needs the provider External.
 */
export interface UpstreamProxySpec {
  /**
   * http://HOST:PORT. The proxies' NetworkPolicy opens an address exactly. For a host name it opens the port of
   * public addresses only. The operator rejects metadata and link-local addresses.
   */
  url: string;

  /**
   * Secret with the credentials for the upstream proxy, in the policy's namespace. Its key credentials is
   * USER:PASSWORD. Default: none are sent.
   */
  secretRef?: {
    /** Name of the Secret. */
    name: string;
  };

  /**
   * Local: the proxies resolve and check names, and the upstream proxy gets addresses only. Upstream: it gets
   * the names that the rules allow. Then no address of a name is checked, so a name may lead to a private
   * address or cloud metadata behind the upstream proxy.
   * @default "Local"
   */
  resolve: "Local" | "Upstream";
}

/**
 * Verification that requests leave from the static IPs. Every proxy requests the echo URLs over its own egress
 * path and compares the answers with staticIPs. Without this field nothing is verified.
 */
export interface VerificationSpec {
  /**
   * URLs that answer with the caller's address, as text or as JSON with the key ip. Use two independent ones if
   * possible. outrider echo is such a server.
   */
  echoURLs: string[];

  /** Interval of verification. Default: 30, and 5 with nat.provider KubeVIP. */
  intervalSeconds?: number;

  /**
   * Timeout of one request to an echo URL.
   * @default 5
   */
  timeoutSeconds: number;

  /**
   * How long, in seconds, a proof stays valid while no echo URL answers. An outage of the echo servers then does
   * not block requests. A wrong answer ends the proof at once.
   * @default 600
   */
  staleAfterSeconds: number;

  /**
   * Action of a proxy without a proof of its address. Block: it answers 503 and is not ready. Allow: it serves,
   * and only status and metrics show the problem.
   * @default "Block"
   */
  onUnverified: "Block" | "Allow";
}

/**
 * Authentication of senders at the proxy.
 * @default {"mode":"None"}
 */
export interface AuthenticationSpec {
  /**
   * None: every client that reaches the proxy may use it. Basic: user name and password (RFC 7617), which
   * injection adds to the proxy URL. TLS: a certificate of proxy.tls.clientCA, for senders that you configure
   * yourself. BasicOrTLS: one of both. A client that presents both must have the same name in both.
   * @default "None"
   */
  mode: "None" | "Basic" | "TLS" | "BasicOrTLS";

  /**
   * Serve requests without credentials and client certificate, with the rules of the client default. A wrong
   * password is still refused. Needs clients with the entry default. Not allowed with the providers NodeAddress
   * and KubeVIP. Default: false.
   */
  allowMissing?: boolean;

  /**
   * Secret with the passwords, in the policy's namespace. PROXY_PASSWORD and PROXY_PASSWORD_PREVIOUS are shared
   * passwords, for user names that are not keys of the Secret. Use both during a password rotation. Every other
   * key is a user name, and its value is the password of that user. Pods without the annotation
   * egress.outrider.dev/client use the user name outrider with the shared password, so do not create a key named
   * outrider. Use only the characters A-Z a-z 0-9 . _ ~ - in passwords, since they become part of a URL.
   */
  secretRef?: {
    /** Name of the Secret. */
    name: string;
  };
}

/**
 * Settings of the proxies.
 * @default {"port":4750,"adminPort":9750}
 */
export interface ProxySpec {
  /**
   * Number of proxies. Default: 2. The operator ignores it if another manager, such as a
   * HorizontalPodAutoscaler, has set replicas of the Deployment, unless the policy has the annotation
   * egress.outrider.dev/enforce-replicas with the value true. Not allowed with the providers NodeAddress and
   * KubeVIP, which run one proxy for each static IP.
   */
  replicas?: number;

  /**
   * Port of the proxy container. With NodeAddress and KubeVIP it is also a port of the node. The Service always
   * has port 4750.
   * @default 4750
   */
  port: number;

  /**
   * Port of probes, metrics and status.
   * @default 9750
   */
  adminPort: number;

  /**
   * A second port of the proxies, on which clients speak TLS to the proxy (https:// proxy URLs). The proxies
   * read changed certificates, CAs and CRLs without a restart.
   */
  tls?: ProxyTlsSpec;

  /**
   * A third port of the proxies, and a Service of type LoadBalancer for it, for hosts and functions outside of
   * the cluster. It speaks TLS with the certificate of proxy.tls. Each request needs a password or a client
   * certificate.
   */
  external?: ProxyExternalSpec;

  /**
   * Image of the proxies, which has precedence over the operator's option --proxy-image: another tag or digest
   * of the same repository. Default: the image of --proxy-image. Use it to test a new image with one policy, or
   * to keep the image of one policy during an upgrade.
   */
  image?: string;

  /**
   * Pull secrets of the proxy image, in the policy's namespace. Default: those of the operator's option
   * --proxy-image-pull-secrets. An empty list means none.
   */
  imagePullSecrets?: Array<{
    /** Name of the Secret. */
    name: string;
  }>;

  /** Resources of the container. A proxy uses at most one CPU. */
  resources?: ResourceRequirements;

  /** Labels of the nodes that proxies may run on, such as nodes with fixed addresses. */
  nodeSelector?: Record<string, string>;

  /**
   * Affinity of the proxy pods (core/v1 Affinity). Each of its members replaces the operator's. By default
   * podAntiAffinity spreads the proxies over nodes, and over zones, if possible; set podAntiAffinity to {} for
   * no preference. Not allowed with the providers NodeAddress and KubeVIP, which run each proxy on a node of its
   * own that can have the address.
   */
  affinity?: Affinity;

  /**
   * Topology spread constraints of the proxy pods, besides the default affinity. A constraint with
   * ScheduleAnyway ignores nodes that lack its topologyKey. Not allowed with the providers NodeAddress and
   * KubeVIP.
   */
  topologySpreadConstraints?: TopologySpreadConstraint[];

  /** Further tolerations of the proxy pods. The operator always adds not-ready and unreachable, each for 30 s. */
  tolerations?: Toleration[];

  /**
   * Further labels of the proxy pods. They can replace the labels by which the operator keeps sidecars of
   * service meshes out (docs/mesh.md).
   */
  podLabels?: Record<string, string>;

  /**
   * Further annotations of the proxy pods. They can replace the annotations by which the operator keeps sidecars
   * of service meshes out (docs/mesh.md).
   */
  podAnnotations?: Record<string, string>;

  /** Further annotations of the Service that senders use. */
  serviceAnnotations?: Record<string, string>;

  /** PriorityClass of the proxy pods. */
  priorityClassName?: string;

  /**
   * Timeouts of a proxy.
   * @default {}
   */
  timeouts: {
    /**
     * Timeout of resolving a name.
     * @default 2
     */
    dnsSeconds: number;

    /**
     * Timeout of connecting to a target, for all its addresses together.
     * @default 5
     */
    connectSeconds: number;

    /**
     * Time without traffic after which a tunnel or request is reset.
     * @default 300
     */
    idleSeconds: number;

    /**
     * Time for open tunnels and requests to finish during a graceful shutdown. Set it to at least your longest
     * delivery.
     * @default 30
     */
    drainSeconds: number;
  };

  /**
   * Limits of one proxy.
   * @default {}
   */
  limits: {
    /**
     * Limit of concurrent tunnels and requests of one proxy.
     * @default 10000
     */
    maxTunnels: number;

    /**
     * Limit of concurrent tunnels and requests of one client on one proxy; 0 for no limit. A client is a user name
     * with its own password, or else the IP address of the client.
     * @default 0
     */
    maxTunnelsPerClient: number;
  };

  /**
   * HTTP status of denied requests. Use 502 if your sender misinterprets 403, as some versions of Outpost do.
   * @default 403
   */
  denyStatus: 403 | 502;

  /**
   * Information about an address in the reason of a denied request, which tenants can read. Class: its class and
   * network, such as private (10.0.0.0/8). Full: also the address.
   * @default "Class"
   */
  reasonDetail: "Class" | "Full";

  /**
   * Access records that a proxy writes, one for each tunnel or request.
   * @default "All"
   */
  accessLog: "All" | "Denied" | "None";
}

/**
 * A second port of the proxies, on which clients speak TLS to the proxy (https:// proxy URLs). The proxies
 * read changed certificates, CAs and CRLs without a restart.
 */
export interface ProxyTlsSpec {
  /**
   * Port of the proxy container for TLS. With NodeAddress and KubeVIP it is also a port of the node. The Service
   * always has port 4751.
   * @default 4751
   */
  port: number;

  /**
   * Secret with the certificate of the proxies (tls.crt, its own certificate first) and its private key
   * (tls.key), in the policy's namespace. Secrets of cert-manager have this form. The certificate must contain
   * the name of the Service, <policy>-egress.<namespace>.svc.<cluster domain>.
   */
  secretRef: {
    /** Name of the Secret. */
    name: string;
  };

  /** CA certificates that sign client certificates, in PEM, in the policy's namespace. Use a CA for clients only. */
  clientCA?: FileSource;

  /**
   * Part of a client certificate that names the client. URI and DNS are kinds of subject alternative names. CN
   * and OU are parts of the subject. A certificate without exactly one such part is refused.
   */
  clientName?: "URI" | "DNS" | "CN" | "OU";

  /**
   * Certificate revocation lists of the client CAs, in PEM, in the policy's namespace. Without a valid list the
   * proxies refuse every certificate of its CA.
   */
  crl?: FileSource;
}

/** CA certificates that sign client certificates, in PEM, in the policy's namespace. Use a CA for clients only. */
export interface FileSource {
  /**
   * Kind of the object.
   * @default "ConfigMap"
   */
  kind: "ConfigMap" | "Secret";

  /** Name of the object. */
  name: string;

  /**
   * Key of the object.
   * @default "ca.crt"
   */
  key: string;
}

/**
 * A third port of the proxies, and a Service of type LoadBalancer for it, for hosts and functions outside of
 * the cluster. It speaks TLS with the certificate of proxy.tls. Each request needs a password or a client
 * certificate.
 */
export interface ProxyExternalSpec {
  /**
   * Port of the proxy container. The Service always has port 4751.
   * @default 4752
   */
  port: number;

  /**
   * Addresses of these clients. The load balancer, the proxies' NetworkPolicy and the proxies themselves refuse
   * all others. A change replaces the proxies by a rolling update.
   */
  sourceRanges: string[];

  /**
   * Addresses from which the load balancer connects to the proxies. It must begin each connection with a header
   * of the PROXY protocol, version 1 or 2, which names the client. Default: the load balancer keeps the
   * addresses of clients, so no header is expected. A program with one of these addresses can choose the client
   * address of its connections: name single load balancers.
   */
  proxyProtocolFrom?: string[];

  /**
   * The loadBalancerClass of the Service. Default: the load balancer of the cluster. Kubernetes cannot change it
   * in an existing Service: remove external, and add it again.
   */
  loadBalancerClass?: string;

  /**
   * Annotations of the Service, such as those that configure the load balancer. kube-vip.io/loadbalancerIPs and
   * kube-vip.io/egress are refused, since they choose static IPs.
   */
  serviceAnnotations?: Record<string, string>;
}

/** Resources of the container. A proxy uses at most one CPU. */
export interface ResourceRequirements {
  /** Requested resources, such as cpu and memory. */
  requests?: Record<string, number | string>;

  /** Resource limits, such as memory. */
  limits?: Record<string, number | string>;
}

/**
 * Affinity of the proxy pods (core/v1 Affinity). Each of its members replaces the operator's. By default
 * podAntiAffinity spreads the proxies over nodes, and over zones, if possible; set podAntiAffinity to {} for
 * no preference. Not allowed with the providers NodeAddress and KubeVIP, which run each proxy on a node of its
 * own that can have the address.
 */
export interface Affinity {
  /** Nodes that proxies need or prefer. */
  nodeAffinity?: {
    /** Nodes that proxies may run on. */
    requiredDuringSchedulingIgnoredDuringExecution?: {
      /** Terms. One of them has to match the node. */
      nodeSelectorTerms: Array<{
        /** Requirements on labels (matchExpressions) or on metadata.name (matchFields). */
        matchExpressions?: Array<{
          /** Key of the label, or metadata.name. */
          key: string;

          /** Comparison with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";

          /** Values for In and NotIn. One number for Gt and Lt. */
          values?: string[];
        }>;

        /** Requirements on labels (matchExpressions) or on metadata.name (matchFields). */
        matchFields?: Array<{
          /** Key of the label, or metadata.name. */
          key: string;

          /** Comparison with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";

          /** Values for In and NotIn. One number for Gt and Lt. */
          values?: string[];
        }>;
      }>;
    };

    /** Preferred nodes. */
    preferredDuringSchedulingIgnoredDuringExecution?: Array<{
      /** Weight of the preference. */
      weight: number;

      /** A selector of nodes. All of its requirements have to match. */
      preference: {
        /** Requirements on labels (matchExpressions) or on metadata.name (matchFields). */
        matchExpressions?: Array<{
          /** Key of the label, or metadata.name. */
          key: string;

          /** Comparison with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";

          /** Values for In and NotIn. One number for Gt and Lt. */
          values?: string[];
        }>;

        /** Requirements on labels (matchExpressions) or on metadata.name (matchFields). */
        matchFields?: Array<{
          /** Key of the label, or metadata.name. */
          key: string;

          /** Comparison with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";

          /** Values for In and NotIn. One number for Gt and Lt. */
          values?: string[];
        }>;
      };
    }>;
  };

  /** Pods near which (podAffinity), or far from which (podAntiAffinity), proxies run. */
  podAffinity?: {
    /** Required terms. All of them have to match. */
    requiredDuringSchedulingIgnoredDuringExecution?: Array<{
      /** Label of nodes. Nodes with the same value are one topology. */
      topologyKey: string;

      /** Label selector of pods, or of namespaces (namespaceSelector). */
      labelSelector?: {
        /** Required labels with their values. */
        matchLabels?: Record<string, string>;

        /** Further conditions. All of them have to match. */
        matchExpressions?: Array<{
          /** Key of the label. */
          key: string;

          /** Comparison of the label with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

          /** Values for In and NotIn. */
          values?: string[];
        }>;
      };

      /** Label selector of pods, or of namespaces (namespaceSelector). */
      namespaceSelector?: {
        /** Required labels with their values. */
        matchLabels?: Record<string, string>;

        /** Further conditions. All of them have to match. */
        matchExpressions?: Array<{
          /** Key of the label. */
          key: string;

          /** Comparison of the label with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

          /** Values for In and NotIn. */
          values?: string[];
        }>;
      };

      /** Namespaces of the pods. Default: the policy's namespace. */
      namespaces?: string[];

      /** Keys of labels whose values are compared with those of the new pod. */
      matchLabelKeys?: string[];

      /** Keys of labels whose values are compared with those of the new pod. */
      mismatchLabelKeys?: string[];
    }>;

    /** Preferred terms. */
    preferredDuringSchedulingIgnoredDuringExecution?: Array<{
      /** Weight of the preference. */
      weight: number;

      /** A selector of pods, and a topology. */
      podAffinityTerm: {
        /** Label of nodes. Nodes with the same value are one topology. */
        topologyKey: string;

        /** Label selector of pods, or of namespaces (namespaceSelector). */
        labelSelector?: {
          /** Required labels with their values. */
          matchLabels?: Record<string, string>;

          /** Further conditions. All of them have to match. */
          matchExpressions?: Array<{
            /** Key of the label. */
            key: string;

            /** Comparison of the label with values. */
            operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

            /** Values for In and NotIn. */
            values?: string[];
          }>;
        };

        /** Label selector of pods, or of namespaces (namespaceSelector). */
        namespaceSelector?: {
          /** Required labels with their values. */
          matchLabels?: Record<string, string>;

          /** Further conditions. All of them have to match. */
          matchExpressions?: Array<{
            /** Key of the label. */
            key: string;

            /** Comparison of the label with values. */
            operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

            /** Values for In and NotIn. */
            values?: string[];
          }>;
        };

        /** Namespaces of the pods. Default: the policy's namespace. */
        namespaces?: string[];

        /** Keys of labels whose values are compared with those of the new pod. */
        matchLabelKeys?: string[];

        /** Keys of labels whose values are compared with those of the new pod. */
        mismatchLabelKeys?: string[];
      };
    }>;
  };

  /** Pods near which (podAffinity), or far from which (podAntiAffinity), proxies run. */
  podAntiAffinity?: {
    /** Required terms. All of them have to match. */
    requiredDuringSchedulingIgnoredDuringExecution?: Array<{
      /** Label of nodes. Nodes with the same value are one topology. */
      topologyKey: string;

      /** Label selector of pods, or of namespaces (namespaceSelector). */
      labelSelector?: {
        /** Required labels with their values. */
        matchLabels?: Record<string, string>;

        /** Further conditions. All of them have to match. */
        matchExpressions?: Array<{
          /** Key of the label. */
          key: string;

          /** Comparison of the label with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

          /** Values for In and NotIn. */
          values?: string[];
        }>;
      };

      /** Label selector of pods, or of namespaces (namespaceSelector). */
      namespaceSelector?: {
        /** Required labels with their values. */
        matchLabels?: Record<string, string>;

        /** Further conditions. All of them have to match. */
        matchExpressions?: Array<{
          /** Key of the label. */
          key: string;

          /** Comparison of the label with values. */
          operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

          /** Values for In and NotIn. */
          values?: string[];
        }>;
      };

      /** Namespaces of the pods. Default: the policy's namespace. */
      namespaces?: string[];

      /** Keys of labels whose values are compared with those of the new pod. */
      matchLabelKeys?: string[];

      /** Keys of labels whose values are compared with those of the new pod. */
      mismatchLabelKeys?: string[];
    }>;

    /** Preferred terms. */
    preferredDuringSchedulingIgnoredDuringExecution?: Array<{
      /** Weight of the preference. */
      weight: number;

      /** A selector of pods, and a topology. */
      podAffinityTerm: {
        /** Label of nodes. Nodes with the same value are one topology. */
        topologyKey: string;

        /** Label selector of pods, or of namespaces (namespaceSelector). */
        labelSelector?: {
          /** Required labels with their values. */
          matchLabels?: Record<string, string>;

          /** Further conditions. All of them have to match. */
          matchExpressions?: Array<{
            /** Key of the label. */
            key: string;

            /** Comparison of the label with values. */
            operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

            /** Values for In and NotIn. */
            values?: string[];
          }>;
        };

        /** Label selector of pods, or of namespaces (namespaceSelector). */
        namespaceSelector?: {
          /** Required labels with their values. */
          matchLabels?: Record<string, string>;

          /** Further conditions. All of them have to match. */
          matchExpressions?: Array<{
            /** Key of the label. */
            key: string;

            /** Comparison of the label with values. */
            operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

            /** Values for In and NotIn. */
            values?: string[];
          }>;
        };

        /** Namespaces of the pods. Default: the policy's namespace. */
        namespaces?: string[];

        /** Keys of labels whose values are compared with those of the new pod. */
        matchLabelKeys?: string[];

        /** Keys of labels whose values are compared with those of the new pod. */
        mismatchLabelKeys?: string[];
      };
    }>;
  };
}

/** A constraint (core/v1 TopologySpreadConstraint). */
export interface TopologySpreadConstraint {
  /** Largest difference between the numbers of pods of two topologies. */
  maxSkew: number;

  /** Label of nodes. Nodes with the same value are one topology. */
  topologyKey: string;

  /** Whether the constraint is required or preferred. */
  whenUnsatisfiable: "DoNotSchedule" | "ScheduleAnyway";

  /** Minimum number of topologies. */
  minDomains?: number;

  /** Selector of the counted pods. Default: the proxies of the policy. */
  labelSelector?: {
    /** Required labels with their values. */
    matchLabels?: Record<string, string>;
  };

  /** Keys of labels whose values are compared with those of the new pod. */
  matchLabelKeys?: string[];

  /** Whether nodes that the affinity (nodeAffinityPolicy) or taints (nodeTaintsPolicy) exclude are not counted. */
  nodeAffinityPolicy?: "Honor" | "Ignore";

  /** Whether nodes that the affinity (nodeAffinityPolicy) or taints (nodeTaintsPolicy) exclude are not counted. */
  nodeTaintsPolicy?: "Honor" | "Ignore";
}

/** A toleration (core/v1 Toleration). */
export interface Toleration {
  /** Key of the taint. Empty with operator Exists: every taint. */
  key?: string;

  /** Exists: any value. Equal (default): the same value. */
  operator?: "Exists" | "Equal";

  /** Value of the taint, with operator Equal. */
  value?: string;

  /** Effect of the taint. Default: every effect. */
  effect?: "NoSchedule" | "PreferNoSchedule" | "NoExecute";

  /** Time for which a NoExecute taint is tolerated. Default: forever. */
  tolerationSeconds?: number;
}

/**
 * NetworkPolicies of the operator. They have an effect only if the network plugin enforces them.
 * @default {}
 */
export interface NetworkPolicySpec {
  /**
   * Enabled: only pods of this namespace that are injected, or have the label egress.outrider.dev/policy with
   * the policy's name, reach the proxies. The proxies reach DNS, public addresses, and networks that allow rules
   * open by cidrs. Proxies on the networks of nodes (NodeAddress, KubeVIP) get none, since it would have no
   * effect.
   * @default "Enabled"
   */
  proxy: "Enabled" | "Disabled";

  /**
   * Enabled: injected pods reach only the proxies, DNS and additionalEgress. Add your databases to
   * additionalEgress first. Other NetworkPolicies that select these pods can allow more.
   * @default "Disabled"
   */
  senders: "Enabled" | "Disabled";

  /** Egress rules, as in a NetworkPolicy, for other destinations of the senders, such as their databases. */
  additionalEgress?: NetworkPolicyEgressRule[];
}

/**
 * An egress rule (NetworkPolicyEgressRule). The field to is required: a rule without it would allow every
 * destination.
 */
export interface NetworkPolicyEgressRule {
  /** Destinations. One of them has to match. */
  to: Array<{
    /** A network. */
    ipBlock?: {
      /** Network such as 10.20.0.0/16. */
      cidr: string;

      /** Networks inside of cidr that are not allowed. */
      except?: string[];
    };

    /** Selector of pods, in the policy's namespace or in those that namespaceSelector selects. */
    podSelector?: {
      /** Required labels with their values. */
      matchLabels?: Record<string, string>;

      /** Further conditions. All of them have to match. */
      matchExpressions?: Array<{
        /** Key of the label. */
        key: string;

        /** Comparison of the label with values. */
        operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

        /** Values for In and NotIn. */
        values?: string[];
      }>;
    };

    /** Selector of namespaces. The empty selector {} matches every namespace. */
    namespaceSelector?: {
      /** Required labels with their values. */
      matchLabels?: Record<string, string>;

      /** Further conditions. All of them have to match. */
      matchExpressions?: Array<{
        /** Key of the label. */
        key: string;

        /** Comparison of the label with values. */
        operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

        /** Values for In and NotIn. */
        values?: string[];
      }>;
    };
  }>;

  /** Ports. One of them has to match. Default: every port. */
  ports?: Array<{
    /** Default: TCP. */
    protocol?: "TCP" | "UDP" | "SCTP";

    /** A port, or the name of a port of the pods. */
    port?: number | string;

    /** Last port of a range that starts with port. */
    endPort?: number;
  }>;
}

/**
 * Observed state, written by the operator.
 * @default {"observedGeneration":-1}
 */
export interface EgressPolicyStatus {
  /** Generation of the spec that this status describes. -1: no operator has seen the policy yet. */
  observedGeneration?: number;

  /** Status of the condition Ready, for field selectors: kubectl get egpol -A --field-selector status.ready=False */
  ready?: "True" | "False" | "Unknown";

  /**
   * The operator has stored its record of this policy in its own namespace. From then on it does not read the
   * ConfigMaps in the namespace of the policy, not even if the record is deleted.
   */
  recorded?: boolean;

  /**
   * Ready summarizes the others except WorkloadsInjected: Accepted (the spec is valid), Programmed (objects are
   * applied), PolicyDistributed (every ready proxy runs exactly this policy), ProxyAvailable, IPsAssigned,
   * EgressIPVerified, WorkloadsInjected, NetworkPolicyApplied.
   */
  conditions?: Condition[];

  /** State of each static IP. */
  staticIPs?: StaticIPStatus[];

  /** Clients of the spec in force, in its order, with the number of their pods. */
  clients?: Array<{
    /** Name of the client. */
    name: string;

    /** Number of pods that request the policy with this client. */
    pods: number;
  }>;

  /** Address of the proxies for senders. */
  endpoint?: {
    /** Full DNS name of the Service. */
    host: string;

    /** Port of the Service. */
    port: number;

    /** TLS port of the Service. */
    tlsPort?: number;

    /** Address of the Service. */
    clusterIP?: string;
  };

  /** Short texts for the columns of kubectl get. */
  summary?: {
    /** Static IPs, separated by commas. */
    staticIPs?: string;

    /** Number of static IPs that an echo server has seen, of all Active ones. */
    verified?: string;

    /** Number of available proxies, of the replicas of all Deployments of the policy. */
    proxies?: string;

    /** Number of pods with the current proxy settings, of all that request the policy. */
    workloads?: string;

    /** Hash of the policy document that the proxies should run. */
    policyHash?: string;
  };
}

/** A condition (metav1.Condition). */
export interface Condition {
  /** Type of the condition. */
  type: string;

  /** Status of the condition. */
  status: "True" | "False" | "Unknown";

  /** Generation of the spec that the condition describes. */
  observedGeneration?: number;

  /** Time of the last change of status. */
  lastTransitionTime: string;

  /** Reason in one word, for programs. */
  reason: string;

  /** Reason in a sentence, for users. */
  message: string;
}

/** One static IP. */
export interface StaticIPStatus {
  /** The static IP. */
  address: string;

  /** Id of its slot, if each address has its own proxy. */
  slot?: string;

  /** Node that has the address. */
  node?: string;

  /**
   * Unassigned: no proxy has the address, or its phase is Pending. Assigned: a proxy has it (External: always),
   * and no echo server has seen it yet. Verified: an echo server saw it. Mismatch: an echo server saw another
   * address for the proxy of this address (NodeAddress, KubeVIP). Retiring: its phase is Retiring.
   */
  state: "Unassigned" | "Assigned" | "Verified" | "Mismatch" | "Retiring";

  /** Address that the echo URLs saw last. */
  observedAddress?: string;

  /** Time of the last change of state. */
  lastTransitionTime?: string;
}
