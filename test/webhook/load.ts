import type { ControlPlane } from "../cluster/control-plane.ts";
import { createPod, podOf, proxyOf } from "./shared.ts";

/** Requested pods, with their results. */
export interface Load {
  /** Ends it; every failure in words, and the milliseconds that each creation took. */
  stop(): Promise<{ created: number; failures: string[]; ms: number[] }>;
}

/** Creates opted-in pods at a rate, whether earlier ones are answered or not, for at most some minutes. */
export function startLoad(plane: ControlPlane, namespace: string, perSecond: number, maxSeconds = 180): Load {
  const failures: string[] = [];
  const ms: number[] = [];
  const open = new Set<Promise<void>>();
  let asked = 0;
  const create = async () => {
    const name = `load-${asked++}`;
    const began = performance.now();
    try {
      const answer = await createPod(plane, namespace, podOf(name, { annotation: "webhooks" }));
      ms.push(performance.now() - began);
      if (answer.status !== 201) failures.push(`${name}: ${answer.status} ${answer.body.message}`);
      else if (proxyOf(answer) === undefined) failures.push(`${name}: not injected`);
    } catch (error) {
      failures.push(`${name}: ${String(error)}`);
    }
  };
  const timer = setInterval(() => {
    if (asked >= perSecond * maxSeconds) {
      clearInterval(timer);
      return;
    }
    const one = create().finally(() => open.delete(one));
    open.add(one);
  }, 1000 / perSecond);
  return {
    stop: async () => {
      clearInterval(timer);
      await Promise.all(open);
      return { created: asked, failures, ms };
    },
  };
}
