// Made from crds/egresspolicies.yaml by `make generate`: change that file.
// A field with a default in the schema is not optional: the API server writes it wherever its parent stands.
import type { KubeObject } from "../kube/resource.ts";

/**
 * EgressPolicy says where the webhook senders of a namespace may connect to, and from which addresses they do.
 * The operator runs a fleet of proxies for it. Pods opt in by the label or annotation
 * egress.outrider.dev/policy with the policy's name as value.
 */
export interface EgressPolicy extends KubeObject {
  spec: EgressPolicySpec;
  status?: EgressPolicyStatus;
}

/** What is wanted. */
export interface EgressPolicySpec {
  /**
   * Enforce refuses what the lists forbid. Report lets pass what only the lists forbid (deny rules, targets and
   * ports that are not allowed) and records it as wouldDeny. Private and other special-purpose addresses,
   * authentication and verification bind in both.
   * @default "Enforce"
   */
  mode: "Enforce" | "Report";

  /**
   * For targets that no allow rule matches. Allow: any public address on a port of spec.ports. Report: the same,
   * and it is recorded as wouldDeny. Deny: refused, so that only the allow rules let anything out.
   * @default "Allow"
   */
  defaultAction: "Allow" | "Report" | "Deny";

  /**
   * Ports of allow rules that name none, and of the default action. A deny rule without ports covers every port.
   * @default [80,443,"1024-65535"]
   */
  ports: Array<number | string>;

  /**
   * Rules that allow. Their order does not matter, and a deny rule always wins. With defaultAction: Deny they
   * are all that is allowed. With the other default actions they add what the default does not cover: other
   * ports, and private ranges by cidrs.
   */
  allow?: AllowRuleSpec[];

  /** Rules that deny. Their order does not matter, and they win over every allow rule. */
  deny?: DenyRuleSpec[];

  /**
   * The sender that the pods run: adds its own proxy variables to the usual ones, and its hints and warnings.
   * Generic: programs that read HTTP_PROXY and HTTPS_PROXY, such as those in Go, Python, Ruby and curl.
   * @default "Generic"
   */
  preset: "Generic" | "Convoy" | "Svix" | "Outpost" | "Java";

  /**
   * How pods that opted in get the proxy's address.
   * @default {}
   */
  injection: InjectionSpec;

  /**
   * The addresses that webhook receivers put on their allow lists. They are published in the ConfigMap
   * <policy>-egress-ips. Nothing leaves over a family (IPv4, IPv6) that has no address here.
   */
  staticIPs?: StaticIPSpec[];

  /**
   * What gives the proxies their source addresses. A member is named like its provider and stands only beside
   * it.
   * @default {"provider":"External"}
   */
  nat: NatSpec;

  /**
   * Proves the source address: every proxy asks the echo URLs through its own way out and compares the answer
   * with staticIPs. Without this block nothing is verified.
   */
  verification?: VerificationSpec;

  /**
   * Whether senders need a password at the proxy.
   * @default {"mode":"None"}
   */
  authentication: AuthenticationSpec;

  /**
   * How the proxies run.
   * @default {"port":4750,"adminPort":9750}
   */
  proxy: ProxySpec;

  /**
   * NetworkPolicies that the operator makes. They bind only where the network plugin enforces them.
   * @default {}
   */
  networkPolicy: NetworkPolicySpec;
}

/** One allow rule. Its fields are ANDed, the items of a list are ORed, a missing field does not restrict. */
export interface AllowRuleSpec {
  /**
   * How records, answers and explanations call the rule; unique in the policy. Without a name it is called by
   * its place, such as allow[0].
   */
  name?: string;

  /**
   * Host names: an exact name; *.name for any name below it, at any depth, but not the name itself; or * for
   * every name. Case does not matter. IP addresses belong into cidrs.
   */
  hosts?: string[];

  /** Names that hosts of this rule do not cover. Same forms as hosts. */
  except?: string[];

  /**
   * Networks such as 10.96.0.0/12 or 2001:db8::/32 that the address must lie in. Together with hosts they open
   * private and other special-purpose ranges, for exactly these hosts and ports; without hosts they do so for
   * targets that are IP addresses. Cloud metadata, link-local and loopback addresses stay closed.
   */
  cidrs?: string[];

  /** Ports that the rule allows. Default: spec.ports. */
  ports?: Array<number | string>;
}

/** One deny rule. Its fields are ANDed, the items of a list are ORed, a missing field does not restrict. */
export interface DenyRuleSpec {
  /**
   * How records, answers and explanations call the rule; unique in the policy. Without a name it is called by
   * its place, such as deny[0].
   */
  name?: string;

  /**
   * Host names: an exact name; *.name for any name below it, at any depth, but not the name itself; or * for
   * every name. Case does not matter. IP addresses belong into cidrs.
   */
  hosts?: string[];

  /** Names that hosts of this rule do not cover. Same forms as hosts. */
  except?: string[];

  /**
   * Networks such as 198.51.100.0/24 or 2001:db8::/32. Every address that a name resolves to is looked at;
   * together with hosts only those of these hosts.
   */
  cidrs?: string[];

  /** Ports that the rule denies. Default: every port. */
  ports?: Array<number | string>;
}

/**
 * How pods that opted in get the proxy's address.
 * @default {}
 */
export interface InjectionSpec {
  /**
   * Env sets HTTP_PROXY, HTTPS_PROXY and their kin in the containers when a pod is created. None: you set them
   * yourself.
   * @default "Env"
   */
  mode: "Env" | "None";

  /**
   * For containers that already have another proxy. Respect leaves the container as it is and says so in an
   * event. Overwrite replaces its variables. An empty variable counts as not set.
   * @default "Respect"
   */
  conflictPolicy: "Respect" | "Overwrite";

  /** The containers that get the variables. Default: every app container that is no known sidecar. */
  containers?: string[];

  /** The init containers that get the variables. Default: none. */
  initContainers?: string[];

  /**
   * Entries of NO_PROXY, such as otel-collector.monitoring.svc. Default: none, on purpose: whatever matches goes
   * past the proxy and its policy, tenants' URLs too. Keep entries exact.
   */
  noProxy?: string[];
}

/** One static IP. */
export interface StaticIPSpec {
  /** The address that the world must see, such as 203.0.113.10. */
  address: string;

  /**
   * What the proxy binds or the pod has, where a router behind it maps that to address one to one. Default:
   * address. Not with nat.provider External, which binds nothing.
   */
  sourceAddress?: string;

  /**
   * Active: published and used. Pending: published, not used yet, so that receivers can prepare. Retiring: still
   * published, and drained.
   * @default "Active"
   */
  phase: "Active" | "Pending" | "Retiring";
}

/**
 * What gives the proxies their source addresses. A member is named like its provider and stands only beside
 * it.
 * @default {"provider":"External"}
 */
export interface NatSpec {
  /**
   * External: a NAT gateway or firewall outside of the cluster does it, the operator makes nothing. PodIP: the
   * pods' own addresses are routable, from a pool that pod annotations choose. NodeAddress: nodes have the
   * addresses; the proxy of each is on the network of its node and dials from it. KubeVIP: kube-vip brings each
   * address to the node of its proxy, which dials from it. NodeAddress and KubeVIP run one proxy for each static
   * IP and need authentication.
   * @default "External"
   */
  provider: "External" | "PodIP" | "NodeAddress" | "KubeVIP";

  /** Settings of the provider PodIP. */
  podIP?: {
    /**
     * Annotations of the proxy pods by which the network plugin chooses their addresses, such as
     * cni.projectcalico.org/ipv4pools.
     */
    annotations: Record<string, string>;
  };

  /** Settings of the provider NodeAddress. */
  nodeAddress?: {
    /**
     * Labels of the nodes that may have the addresses. Default: proxy.nodeSelector. Among these, each proxy goes
     * to the node that lists its address or sourceAddress in its status, or in its annotation
     * egress.outrider.dev/addresses.
     */
    nodeSelector?: Record<string, string>;
  };

  /** Settings of the provider KubeVIP. */
  kubeVIP?: {
    /**
     * loadBalancerClass of the Services that hold the addresses: that of your kube-vip, so that no other load
     * balancer takes them.
     * @default "kube-vip.io/kube-vip-class"
     */
    loadBalancerClass: string;

    /**
     * Further annotations of the Services that hold the addresses, such as kube-vip.io/serviceInterface. What the
     * operator sets itself wins.
     */
    serviceAnnotations?: Record<string, string>;
  };
}

/**
 * Proves the source address: every proxy asks the echo URLs through its own way out and compares the answer
 * with staticIPs. Without this block nothing is verified.
 */
export interface VerificationSpec {
  /**
   * URLs that answer with the caller's address, as text or as JSON with the key ip. Two, run by different
   * people, are better than one. outrider echo is such a server.
   */
  echoURLs: string[];

  /** Time between two rounds of questions. Default: 30, and 5 with nat.provider KubeVIP. */
  intervalSeconds?: number;

  /**
   * How long an echo URL may take to answer.
   * @default 5
   */
  timeoutSeconds: number;

  /**
   * How long a proof holds while no echo URL answers, so that their outage is not yours. A wrong answer ends it
   * at once.
   * @default 600
   */
  staleAfterSeconds: number;

  /**
   * What a proxy does while its address is not proven. Block: it answers 503 and is not ready. Allow: it serves,
   * and only status and metrics tell.
   * @default "Block"
   */
  onUnverified: "Block" | "Allow";
}

/**
 * Whether senders need a password at the proxy.
 * @default {"mode":"None"}
 */
export interface AuthenticationSpec {
  /**
   * None: whoever reaches the proxy may use it. Basic: user name and password (RFC 7617), which injection puts
   * into the proxy URL.
   * @default "None"
   */
  mode: "None" | "Basic";

  /**
   * The Secret with the passwords, in the policy's namespace. Its keys PROXY_PASSWORD and
   * PROXY_PASSWORD_PREVIOUS are good for every user name that is no key of the Secret; two of them allow a
   * rotation. Every other key is a client's name and needs the password of that key. Do not call a key outrider:
   * that is the user name of pods without a client annotation. Passwords are of the characters A-Z a-z 0-9 . _ ~
   * -, since they go into a URL as they are.
   */
  secretRef?: {
    /** The Secret's name. */
    name: string;
  };
}

/**
 * How the proxies run.
 * @default {"port":4750,"adminPort":9750}
 */
export interface ProxySpec {
  /**
   * Number of proxies. Default: 2, unless something else such as a HorizontalPodAutoscaler sets the
   * Deployment's. Not with the providers NodeAddress and KubeVIP: there it is one for each static IP.
   */
  replicas?: number;

  /**
   * Port of the proxy's container, or of the node with NodeAddress and KubeVIP. The Service is always at 4750.
   * @default 4750
   */
  port: number;

  /**
   * Port of probes, metrics and status.
   * @default 9750
   */
  adminPort: number;

  /** Resources of the proxy's container. A proxy uses one CPU at most. */
  resources?: ResourceRequirements;

  /** Labels of the nodes that proxies may run on, such as those whose addresses are fixed. */
  nodeSelector?: Record<string, string>;

  /** Taints of nodes that proxies tolerate, beside not-ready and unreachable for 30 s. */
  tolerations?: Toleration[];

  /** Further labels of the proxy pods. */
  podLabels?: Record<string, string>;

  /** Further annotations of the proxy pods. */
  podAnnotations?: Record<string, string>;

  /** Further annotations of the Service that senders use. */
  serviceAnnotations?: Record<string, string>;

  /** The PriorityClass of the proxy pods. */
  priorityClassName?: string;

  /**
   * How long a proxy waits.
   * @default {}
   */
  timeouts: {
    /**
     * To resolve a name.
     * @default 2
     */
    dnsSeconds: number;

    /**
     * To connect to a target, all its addresses together.
     * @default 5
     */
    connectSeconds: number;

    /**
     * Until a tunnel without any byte is closed.
     * @default 300
     */
    idleSeconds: number;

    /**
     * For open tunnels to finish when a proxy stops. At least your longest delivery.
     * @default 30
     */
    drainSeconds: number;
  };

  /**
   * How much one proxy carries.
   * @default {}
   */
  limits: {
    /**
     * Tunnels of one proxy.
     * @default 10000
     */
    maxTunnels: number;

    /**
     * Tunnels of one client on one proxy; 0: no limit. A client is a user name that has a password of its own,
     * else a source address.
     * @default 0
     */
    maxTunnelsPerClient: number;
  };

  /**
   * Status of refusals, for senders that read one of them wrongly.
   * @default 403
   */
  denyStatus: 403 | 502;

  /**
   * What a refusal tells of an address. Class: its class, such as private; tenants read it. Full: the address
   * too.
   * @default "Class"
   */
  reasonDetail: "Class" | "Full";

  /**
   * Which records a proxy writes: one a tunnel or request.
   * @default "All"
   */
  accessLog: "All" | "Denied" | "None";
}

/** Resources of the proxy's container. A proxy uses one CPU at most. */
export interface ResourceRequirements {
  /** What the scheduler sets aside, such as cpu and memory. */
  requests?: Record<string, number | string>;

  /** What the container may use at most, such as memory. */
  limits?: Record<string, number | string>;
}

/** As in a pod. */
export interface Toleration {
  /** The taint's key. Empty: every taint, with operator Exists. */
  key?: string;

  /** Exists: whatever the value. Equal (default): the same value. */
  operator?: "Exists" | "Equal";

  /** The taint's value, with operator Equal. */
  value?: string;

  /** The taint's effect. Default: every effect. */
  effect?: "NoSchedule" | "PreferNoSchedule" | "NoExecute";

  /** How long a NoExecute taint is tolerated. Default: forever. */
  tolerationSeconds?: number;
}

/**
 * NetworkPolicies that the operator makes. They bind only where the network plugin enforces them.
 * @default {}
 */
export interface NetworkPolicySpec {
  /**
   * Enabled: only pods of this namespace that were injected, or have the label egress.outrider.dev/policy with
   * the policy's name, reach the proxies; the proxies reach DNS, public addresses, and what allow rules open by
   * cidrs. None is made for proxies on nodes' networks (NodeAddress, KubeVIP), where none binds.
   * @default "Enabled"
   */
  proxy: "Enabled" | "Disabled";

  /**
   * Enabled: injected pods may leave only through the proxy, beside DNS and additionalEgress. List your
   * databases there first. Other NetworkPolicies that select these pods open more.
   * @default "Disabled"
   */
  senders: "Enabled" | "Disabled";

  /** What else the senders may reach, such as their databases: egress rules as in a NetworkPolicy. */
  additionalEgress?: NetworkPolicyEgressRule[];
}

/** An egress rule (NetworkPolicyEgressRule). It needs to, since a rule without it opens every destination. */
export interface NetworkPolicyEgressRule {
  /** Destinations, ORed. */
  to: Array<{
    /** A network. */
    ipBlock?: {
      /** Such as 10.20.0.0/16. */
      cidr: string;

      /** Networks inside of cidr that stay closed. */
      except?: string[];
    };

    /** Labels of pods: of the policy's namespace, or of those that namespaceSelector selects. */
    podSelector?: {
      /** Labels that must be there, with these values. */
      matchLabels?: Record<string, string>;

      /** Further conditions, ANDed. */
      matchExpressions?: Array<{
        /** The label's key. */
        key: string;

        /** How the label is compared with values. */
        operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

        /** With In and NotIn. */
        values?: string[];
      }>;
    };

    /** Labels of namespaces; the empty selector {} is every namespace. */
    namespaceSelector?: {
      /** Labels that must be there, with these values. */
      matchLabels?: Record<string, string>;

      /** Further conditions, ANDed. */
      matchExpressions?: Array<{
        /** The label's key. */
        key: string;

        /** How the label is compared with values. */
        operator: "In" | "NotIn" | "Exists" | "DoesNotExist";

        /** With In and NotIn. */
        values?: string[];
      }>;
    };
  }>;

  /** Ports, ORed. Default: every port. */
  ports?: Array<{
    /** Default: TCP. */
    protocol?: "TCP" | "UDP" | "SCTP";

    /** A port, or the name of a port of the pods. */
    port?: number | string;

    /** Last port of a range that begins with port. */
    endPort?: number;
  }>;
}

/** What is. Only the operator writes it, and only what it has seen. */
export interface EgressPolicyStatus {
  /** The generation of the spec that this status is about. */
  observedGeneration?: number;

  /**
   * Ready sums up. The others: Accepted (the spec is valid), Programmed (objects are applied), PolicyDistributed
   * (every ready proxy runs exactly this policy), ProxyAvailable, IPsAssigned, EgressIPVerified,
   * WorkloadsInjected, NetworkPolicyApplied.
   */
  conditions?: Condition[];

  /** What became of each static IP. */
  staticIPs?: StaticIPStatus[];

  /** Where senders find the proxies. */
  endpoint?: {
    /** The Service's name in full. */
    host: string;

    /** The Service's port. */
    port: number;

    /** The Service's address. */
    clusterIP?: string;
  };

  /** The same in short texts, for columns. */
  summary?: {
    /** The addresses in use, separated by commas. */
    staticIPs?: string;

    /** Static IPs that were seen from outside, of all that are in use. */
    verified?: string;

    /** Ready proxies, of all that are wanted. */
    proxies?: string;

    /** Pods that were injected, of all that opted in. */
    workloads?: string;

    /** The document that the proxies should run. */
    policyHash?: string;
  };
}

/** A condition (metav1.Condition). */
export interface Condition {
  /** What the condition is about. */
  type: string;

  /** Whether it holds. */
  status: "True" | "False" | "Unknown";

  /** The generation of the spec that it is about. */
  observedGeneration?: number;

  /** When status last changed. */
  lastTransitionTime: string;

  /** Why, in one word for programs. */
  reason: string;

  /** Why, in a sentence for people. */
  message: string;
}

/** One static IP. */
export interface StaticIPStatus {
  /** The address. */
  address: string;

  /** The slot that has it, where each address has a proxy of its own. */
  slot?: string;

  /** The node that has it, where one has. */
  node?: string;

  /**
   * Unassigned: no proxy has it. Assigned: a proxy has it, not proven from outside. Verified: seen from outside.
   * Mismatch: outside saw another address. Retiring: being drained.
   */
  state: "Unassigned" | "Assigned" | "Verified" | "Mismatch" | "Retiring";

  /** What the echo URLs saw last. */
  observedAddress?: string;

  /** When state last changed. */
  lastTransitionTime?: string;
}
