import { availableParallelism } from "node:os";
import type { Tier } from "./tiers.ts";

/**
 * Order of the test files of a run. Each queue is worked off by a number of workers; a worker runs one file at a time.
 * The queues of a step run beside each other. The next step starts when the step before it has ended.
 */
export interface Queue {
  files: string[];
  workers: number;
}

/**
 * Number of files of the tiers `quick` and `control plane` that run at the same time. Each file has its own loopback
 * addresses (test/cluster/block.ts), ports (`freePort`), folders, control groups and network namespaces. More files than
 * this would make the waits too long on a machine with two CPUs. A run of `quick` alone uses all CPUs.
 */
const WORKERS = 2;

/** Files that run while no other file does, and the reason. */
export const ALONE: Readonly<Record<string, string>> = {
  "test/image/image.test.ts": "deletes and builds dist/, from which files of real nodes make their image",
  "test/proxy/endurance.test.ts": "uses two CPUs and most ephemeral ports for its whole time",
};

/**
 * The longest files (45 s and more), longest first: a run must not end with one of them. The end of a run lists its slowest
 * files.
 */
export const LONGEST: readonly string[] = [
  "test/operator/uninterrupted.test.ts",
  "test/e2e/leaks.test.ts",
  "test/chart/upgrade.test.ts",
  "test/operator/outage.test.ts",
  "test/e2e/node-address.test.ts",
  "test/e2e/journey.test.ts",
  "test/e2e/plugin.test.ts",
  "test/operator/takeover.test.ts",
  "test/webhook/rotation.test.ts",
  "test/operator/life.test.ts",
  "test/operator/edges.test.ts",
  "test/chart/install.test.ts",
  "test/chart/install-helm4.test.ts",
  "test/operator/story.test.ts",
  "test/operator/record.test.ts",
  "test/operator/slots.test.ts",
  "test/pages/operator.test.ts",
  "test/operator/pacing.test.ts",
  "test/proxy/tls-crl.test.ts",
  "test/proxy/cli.test.ts",
  "test/operator/kills.test.ts",
  "test/operator/owners.test.ts",
  "test/proxy/verify.test.ts",
  "test/operator/node-address.test.ts",
  "test/operator/proof/proof.test.ts",
  "test/chart/downgrade.test.ts",
  "test/image/buildah.test.ts",
  "test/proxy/authentication-modes.test.ts",
  "test/proxy/hostile/dns-flood.test.ts",
  "test/proxy/acl-service.test.ts",
  "test/package/deb.test.ts",
];

/**
 * Steps of a run, with the longest files of each queue first and those of `quick` last. Files of real nodes run one after
 * the other, since each of them starts a cluster. They wait most of the time, so the others run beside them.
 */
export function stepsOf(files: readonly string[], tierOf: (file: string) => Tier): Queue[][] {
  const last = LONGEST.length;
  const rank = (file: string) => {
    const place = LONGEST.indexOf(file);
    if (place >= 0) return place;
    return tierOf(file) === "quick" ? last + 1 : last;
  };
  const isOnNodes = (file: string) => tierOf(file) === "node";
  const ordered = [...files].sort((a, b) => rank(a) - rank(b));
  const beside = ordered.filter((file) => !(file in ALONE));
  const workers = files.every((file) => tierOf(file) === "quick") ? availableParallelism() : WORKERS;
  const steps = [
    [
      { files: beside.filter(isOnNodes), workers: 1 },
      { files: beside.filter((file) => !isOnNodes(file)), workers },
    ],
    [{ files: ordered.filter((file) => file in ALONE), workers: 1 }],
  ];
  return steps.map((queues) => queues.filter((queue) => queue.files.length > 0)).filter((queues) => queues.length > 0);
}
