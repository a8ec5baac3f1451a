import type { V1Volume, V1VolumeMount } from "@kubernetes/client-node";
import { readsPasswords } from "../../../proxy/policy/clients.ts";
import type { EgressPolicySpec, FileSource, ProxyTlsSpec, UpstreamProxySpec } from "../../api/egresspolicy.ts";

/** Files of the namespace's owner that the proxies read, beside the policy document. */
export interface ProxyFiles {
  volume: V1Volume;
  mount: V1VolumeMount;
  /** Options that name the files. */
  args: string[];
  /** The object with the files, as in `Secret proxy-passwords`. */
  from: string;
}

const ROOT = "/etc/outrider";
/** Values of `--tls-client-name`. */
const CLIENT_NAME: Readonly<Record<NonNullable<ProxyTlsSpec["clientName"]>, string>> = {
  URI: "san-uri",
  DNS: "san-dns",
  CN: "cn",
  OU: "ou",
};

function files(name: string, source: Omit<V1Volume, "name">, args: (folder: string) => string[]): ProxyFiles {
  const folder = `${ROOT}/${name}`;
  const { secret, configMap } = source;
  return {
    volume: { name, ...source },
    mount: { name, mountPath: folder, readOnly: true },
    args: args(folder),
    from: secret === undefined ? `ConfigMap ${configMap!.name}` : `Secret ${secret.secretName}`,
  };
}

/** One key of a ConfigMap or Secret. The private key of a CA in the same Secret is not mounted. */
function oneKey({ kind, name, key }: FileSource): Omit<V1Volume, "name"> {
  const items = [{ key, path: key }];
  return kind === "Secret" ? { secret: { secretName: name, items } } : { configMap: { name, items } };
}

function tlsFiles({ secretRef, clientCA, clientName, crl }: ProxyTlsSpec): ProxyFiles[] {
  const items = ["tls.crt", "tls.key"].map((key) => ({ key, path: key }));
  const server = files("tls", { secret: { secretName: secretRef.name, items } }, (folder) => [
    `--tls-cert=${folder}/tls.crt`,
    `--tls-key=${folder}/tls.key`,
  ]);
  if (clientCA === undefined || clientName === undefined) return [server];
  const ca = files("client-ca", oneKey(clientCA), (folder) => [
    `--tls-client-ca=${folder}/${clientCA.key}`,
    `--tls-client-name=${CLIENT_NAME[clientName]}`,
  ]);
  if (crl === undefined) return [server, ca];
  return [server, ca, files("client-crl", oneKey(crl), (folder) => [`--tls-crl=${folder}/${crl.key}`])];
}

/** Credentials for the upstream proxy: the key `credentials` of its Secret. */
function upstreamFiles({ secretRef }: UpstreamProxySpec): ProxyFiles[] {
  if (secretRef === undefined) return [];
  const key = "credentials";
  const secret = { secretName: secretRef.name, items: [{ key, path: key }] };
  return [files("upstream", { secret }, (folder) => [`--upstream-password-file=${folder}/${key}`])];
}

/** Files that the proxies of a spec read: passwords, certificates, client CA, CRL, and credentials for the upstream proxy. */
export function proxyFiles({ authentication, proxy, upstreamProxy }: EgressPolicySpec): ProxyFiles[] {
  const { mode = "None", secretRef } = authentication ?? {};
  const reads = readsPasswords(mode) && secretRef !== undefined;
  const passwords = reads
    ? [files("passwords", { secret: { secretName: secretRef.name } }, (folder) => [`--password-dir=${folder}`])]
    : [];
  return [
    ...passwords,
    ...(proxy?.tls === undefined ? [] : tlsFiles(proxy.tls)),
    ...(upstreamProxy === undefined ? [] : upstreamFiles(upstreamProxy)),
  ];
}
