import { isIP } from "node:net";
import { ipPort, type Option, type Values } from "../../proxy/cli/options.ts";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import { OBJECT_NAME } from "../api/names.ts";

/** Options of the webhook, in the order of `--help`. */
export const WEBHOOK_OPTIONS: readonly Option[] = [
  {
    name: "webhook",
    value: "IP:PORT|off",
    fallback: "off",
    help: "address of the admission webhook (HTTPS); the chart uses :10250, which private clusters usually allow",
  },
  {
    name: "webhook-configuration",
    value: "NAME",
    fallback: "outrider-webhook",
    help: "Mutating- and ValidatingWebhookConfiguration whose caBundle the operator writes",
  },
  {
    name: "webhook-names",
    value: "NAME",
    repeat: true,
    help: "DNS names and addresses by which the API server calls the webhook (default: outrider-webhook.NAMESPACE.svc)",
  },
  {
    name: "webhook-cert-dir",
    value: "FOLDER",
    help: "folder of your own tls.crt, tls.key and ca.crt, such as cert-manager's (default: generated certificates)",
  },
];

/** Validated command line of the webhook. */
export interface WebhookConfig {
  listen: { host: string; port: number };
  configuration: string;
  /** Default: the names of the Service. */
  names: readonly string[];
  certDir: string | undefined;
}

const DNS_NAME = /^(?=.{1,253}$)(\*\.)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$/;

/** Name of an object; undefined if the option is not set. @throws UsageError with the option */
export function objectName(values: Values, name: string): string | undefined {
  const text = values.get(name)?.[0];
  if (text === undefined || OBJECT_NAME.test(text)) return text;
  throw new UsageError(`${values.shown(name)} must be the name of an object, not "${text}"`);
}

/** Reads the options, with their defaults set; undefined if the webhook is off. @throws UsageError with the option */
export function readWebhookConfig(values: Values): WebhookConfig | undefined {
  const one = (name: string) => values.get(name)?.[0];
  const configuration = objectName(values, "webhook-configuration")!;
  const names = values.get("webhook-names") ?? [];
  const bad = names.find((name) => isIP(name) === 0 && !DNS_NAME.test(name));
  if (bad !== undefined) {
    throw new UsageError(`${values.shown("webhook-names")} must be a DNS name or an IP address, not "${bad}"`);
  }
  const where = one("webhook")!;
  if (where === "off") return undefined;
  return {
    listen: ipPort(values, "webhook", where),
    configuration,
    names,
    certDir: one("webhook-cert-dir"),
  };
}
