import { startControlPlane } from "./control-plane.ts";

/** `make cluster`: runs a control plane with two simulated nodes for manual use, until Ctrl-C. */

const plane = await startControlPlane({ kwokNodes: 2 });
console.log(`export KUBECONFIG=${plane.userConfig()}`);
console.log("# a control plane with two simulated nodes; Ctrl-C stops it and removes everything");
await new Promise<void>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
  setInterval(() => undefined, 2 ** 30);
});
await plane.stop();
process.exit(0);
