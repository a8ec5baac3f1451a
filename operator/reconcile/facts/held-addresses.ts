import { ANNOTATION, LABEL } from "../../api/names.ts";
import { type Deployment, hasEnded, type Pod, type Service } from "../../api/objects.ts";
import { boundSource, SHARED } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { LOAD_BALANCER_IPS } from "../../providers/kubevip.ts";

/**
 * Index of the objects of slots by what they hold: the id of the slot, which stands for its static IP, and the address
 * that its proxy binds.
 */
const held = ({ metadata: { labels } }: KubeObject, source: string | undefined): string[] => {
  const slot = labels?.[LABEL.slot];
  if (slot === undefined || slot === SHARED) return [];
  return source === undefined ? [slot] : [slot, source];
};

export const heldByDeployment = (object: Deployment): string[] =>
  held(object, object.metadata.annotations?.[ANNOTATION.source]);

export const heldByService = (object: Service): string[] =>
  held(object, object.metadata.annotations?.[LOAD_BALANCER_IPS]);

/** A proxy holds its addresses until it has ended, even without its Deployment. */
export const heldByProxy = (pod: Pod): string[] =>
  hasEnded(pod) || pod.spec?.hostNetwork !== true ? [] : held(pod, boundSource(pod));
