/** Names of a release in its registry. */
export interface Target {
  /** Image without tag, such as `ghcr.io/acme/outrider`. */
  image: string;
  /** Repository that `helm push` gets, such as `ghcr.io/acme/charts`; the chart is `outrider` in it. */
  charts: string;
  /** Whether the registry is on loopback, where it is reached by plain HTTP, as containerd and Docker do. */
  isLoopback: boolean;
}

/** `X.Y.Z`, with an optional pre-release. Build metadata is no part of a tag in a registry. */
export const VERSION = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/;

const HOST = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?$/;
const OWNER = /^[a-z0-9]+([._/-]+[a-z0-9]+)*$/;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+)(:\d+)?$/;

/** Names in a registry, in lower case as registries require. @throws Error that names a wrong value */
export function targetOf(registry: string, owner: string): Target {
  const [host, path] = [registry.toLowerCase(), owner.toLowerCase()];
  if (!HOST.test(host))
    throw new Error(`--registry: "${registry}" is no host[:port]; use the host only, such as ghcr.io`);
  if (!OWNER.test(path)) throw new Error(`--owner: "${owner}" is no path of a registry; use for example acme`);
  const image = `${host}/${path}/outrider`;
  return { image, charts: `${host}/${path}/charts`, isLoopback: LOOPBACK.test(host) };
}
