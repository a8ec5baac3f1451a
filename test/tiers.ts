/**
 * Tiers of test files, by what a file needs. `quick` starts neither a proxy nor an operator as a process and needs no
 * tools. `node` runs on real nodes, as root. `control plane` is everything between: the commands on real sockets, the
 * operator on a real API server, the chart with Helm, network namespaces.
 */
export const TIERS = ["quick", "control plane", "node"] as const;
export type Tier = (typeof TIERS)[number];

/** In a test file: it starts a command of ours, or needs a tool, root or a network namespace. */
const HEAVY =
  /\b(startProxy|runOutrider|OUTRIDER|bin\/outrider|make run|(controlPlane|cluster|helms?|tools|namespace)Missing)\b/;

/** Tier of a test file. `path`: from the root of the repository. */
export function tierOf(path: string, text: string): Tier {
  if (path.startsWith("test/e2e/")) return "node";
  // They load the proxy.
  if (path.startsWith("test/proxy/hostile/")) return "control plane";
  return HEAVY.test(text) ? "control plane" : "quick";
}

/** A tier by its name, with a hyphen or a space; undefined if there is no such tier. */
export const tierNamed = (name: string): Tier | undefined =>
  TIERS.find((tier) => tier.replace(" ", "-") === name.replace(" ", "-"));
