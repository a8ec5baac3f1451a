/**
 * The test files of `make compat`: each part of outrider that depends on the API server, on its controllers, or on the
 * scheduler. docs/compatibility.md has the results.
 */
export const COMPAT_FILES: readonly string[] = [
  // The schema, CEL rules and their cost, defaults, columns, field selectors.
  "test/crds/crd.test.ts",
  "test/crds/gateways.test.ts",
  // Stored NetworkPolicies, roles, garbage collection.
  "test/operator/guards.test.ts",
  "test/operator/story.test.ts",
  // Quota, Pod Security, names, deletion, Services of one and two families.
  "test/operator/edges.test.ts",
  "test/operator/owners.test.ts",
  // Scheduling, pull secrets, ValidatingAdmissionPolicies.
  "test/operator/other-clusters.test.ts",
  "test/operator/takeover.test.ts",
  // Services of type LoadBalancer, mounted Secrets, the Services, ports and NetworkPolicies of TLS and upstream proxies.
  "test/operator/external-port.test.ts",
  "test/operator/tls-port.test.ts",
  "test/operator/upstream-proxy.test.ts",
  "test/webhook/admission.test.ts",
  "test/webhook/stored.test.ts",
  "test/chart/install.test.ts",
  "test/chart/upgrade.test.ts",
  // CEL on the schema of a CRD, the order in which Helm updates objects.
  "test/chart/downgrade.test.ts",
];
