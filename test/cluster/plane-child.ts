import { startControlPlane } from "./control-plane.ts";

/** Starts a control plane for a test that kills this process: prints processes and folders that must end with it. */

const plane = await startControlPlane({ kwokNodes: 1 });
const components = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"] as const;
const pids = components.map((component) => plane.program(component).pid);
console.log(JSON.stringify({ folder: plane.folder, pids, url: plane.url }));
setInterval(() => undefined, 60_000);
if (process.argv[2] === "fail") {
  await plane.stop();
  process.exit(1);
}
