import { readAsset } from "./cli/asset.ts";

/** The version of package.json. */
export function version(): string {
  const text = readAsset(new URL("../package.json", import.meta.url));
  return (JSON.parse(text) as { version: string }).version;
}
