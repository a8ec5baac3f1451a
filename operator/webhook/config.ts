import { isIP } from "node:net";
import { ipPort, type Option, type Values } from "../../proxy/cli/options.ts";
import { UsageError } from "../../proxy/cli/usage-error.ts";

/** Options of the webhook, in the order of `--help`. */
export const WEBHOOK_OPTIONS: readonly Option[] = [
  {
    name: "webhook",
    value: "IP:PORT|off",
    fallback: "off",
    help: "where pods are injected at admission, by HTTPS; the chart has :10250, which private clusters let through",
  },
  {
    name: "webhook-configuration",
    value: "NAME",
    fallback: "outrider-webhook",
    help: "the MutatingWebhookConfiguration whose caBundle is kept right",
  },
  {
    name: "webhook-names",
    value: "NAME",
    repeat: true,
    help: "DNS names and addresses under which the API server calls (default: outrider-webhook.NAMESPACE.svc)",
  },
  {
    name: "webhook-cert-dir",
    value: "FOLDER",
    help: "tls.crt and tls.key of your own (cert-manager's); caBundle is left to you then (default: made and renewed)",
  },
  {
    name: "owner",
    value: "NAME",
    help: "the operator's own Deployment: takes the webhook's Secret with it when it is deleted (default: nobody)",
  },
];

/** The webhook's part of the command line, checked. */
export interface WebhookConfig {
  listen: { host: string; port: number };
  configuration: string;
  /** Empty: those of the Service. */
  names: readonly string[];
  certDir: string | undefined;
  owner: string | undefined;
}

const DNS_NAME = /^(?=.{1,253}$)(\*\.)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$/;
const OBJECT_NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

/** Undefined: off. @throws UsageError naming the option */
export function readWebhookConfig(values: Values): WebhookConfig | undefined {
  const one = (name: string) => values.get(name)?.[0];
  for (const name of ["webhook-configuration", "owner"]) {
    const text = one(name);
    if (text !== undefined && !OBJECT_NAME.test(text)) {
      throw new UsageError(`${values.shown(name)} must be the name of an object, not "${text}"`);
    }
  }
  const names = values.get("webhook-names") ?? [];
  const bad = names.find((name) => isIP(name) === 0 && !DNS_NAME.test(name));
  if (bad !== undefined) {
    throw new UsageError(`${values.shown("webhook-names")} must be a DNS name or an IP address, not "${bad}"`);
  }
  const where = one("webhook") ?? "off";
  if (where === "off") return undefined;
  return {
    listen: ipPort(values, "webhook", ":10250"),
    configuration: one("webhook-configuration") ?? "outrider-webhook",
    names,
    certDir: one("webhook-cert-dir"),
    owner: one("owner"),
  };
}
