import { mkdirSync, readdirSync, readlinkSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { ControlPlane } from "./plane.ts";

/** A volume of a pod, of the kinds that proxies mount. */
export interface Volume {
  name: string;
  configMap?: { name: string; items?: KeyToPath[]; optional?: boolean };
  secret?: { secretName: string; items?: KeyToPath[]; optional?: boolean };
  emptyDir?: object;
  /** The API server adds it for a ServiceAccount's token; no proxy reads it, and it stays empty here. */
  projected?: object;
}

interface KeyToPath {
  key: string;
  path: string;
}

/** Content by path; one of `binaryData` or of a Secret is bytes. */
export type VolumeFiles = Record<string, Buffer>;

interface Source {
  data?: Record<string, string>;
  binaryData?: Record<string, string>;
}

/** The current files of a volume; undefined while a source is missing, which a kubelet waits for. */
export async function gatherVolume(
  plane: ControlPlane,
  namespace: string,
  volume: Volume,
): Promise<VolumeFiles | undefined> {
  const from = volume.configMap ?? volume.secret;
  if (from === undefined) {
    if (volume.emptyDir !== undefined || volume.projected !== undefined) return {};
    throw new Error(`volume ${volume.name}: only configMap, secret, emptyDir and projected are played`);
  }
  const kind = "secretName" in from ? `secrets/${from.secretName}` : `configmaps/${from.name}`;
  const source = await plane.get<Source>(`/api/v1/namespaces/${namespace}/${kind}`);
  if (source === undefined) return from.optional === true ? {} : undefined;
  const bytes = (text: string, encoding: "utf8" | "base64") => Buffer.from(text, encoding);
  const plain = volume.secret === undefined ? "utf8" : "base64";
  const all: VolumeFiles = Object.fromEntries([
    ...Object.entries(source.data ?? {}).map(([key, text]) => [key, bytes(text, plain)]),
    ...Object.entries(source.binaryData ?? {}).map(([key, text]) => [key, bytes(text, "base64")]),
  ]);
  if (from.items === undefined) return all;
  const chosen: VolumeFiles = {};
  for (const { key, path } of from.items) {
    const content = all[key];
    if (content !== undefined) chosen[path] = content;
    else if (from.optional !== true) return undefined;
  }
  return chosen;
}

/** Whether two volumes have equal content. */
export function sameFiles(a: VolumeFiles, b: VolumeFiles): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => b[name]?.equals(a[name]!));
}

const first = (path: string): string => path.split("/")[0]!;

/**
 * Writes a volume as the kubelet does (pkg/volume/util/atomic_writer.go): files in their own folder, `..data` a link to
 * it that is replaced by rename, and for each name a link through `..data`. A reader sees all old or all new files.
 */
export function writeVolume(mount: string, files: VolumeFiles): void {
  const version = `..${process.hrtime.bigint()}`;
  mkdirSync(join(mount, version), { recursive: true });
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(mount, version, path)), { recursive: true });
    writeFileSync(join(mount, version, path), content);
  }
  const before = readdirSync(mount).includes("..data") ? readlinkSync(join(mount, "..data")) : undefined;
  symlinkSync(version, join(mount, "..data_tmp"));
  renameSync(join(mount, "..data_tmp"), join(mount, "..data"));
  const wanted = new Set(Object.keys(files).map(first));
  const present = readdirSync(mount).filter((name) => !name.startsWith(".."));
  for (const name of wanted) if (!present.includes(name)) symlinkSync(join("..data", name), join(mount, name));
  for (const name of present) if (!wanted.has(name)) rmSync(join(mount, name));
  if (before !== undefined) rmSync(join(mount, before), { recursive: true });
}
