import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ProxyHandle, tempFolder } from "./proxy.ts";
import { RawClient } from "./raw.ts";

/** The field of a Basic user name and password (one character a byte), as `user:password`. */
export const basic = (pair: string): string =>
  `Proxy-Authorization: Basic ${Buffer.from(pair, "latin1").toString("base64")}\r\n`;

/** A folder for `--password-dir`. */
export function passwordFolder(passwords: Record<string, string>): string {
  const folder = join(tempFolder(), "passwords");
  mkdirSync(folder);
  for (const [name, text] of Object.entries(passwords)) writeFileSync(join(folder, name), text);
  return folder;
}

/** Sends a CONNECT with credentials, and waits for the first line of its answer. */
export async function connectAs(proxy: ProxyHandle, pair: string, target: string): Promise<RawClient> {
  const client = await RawClient.open(proxy.port);
  client.socket.write(`CONNECT ${target} HTTP/1.1\r\n${basic(pair)}\r\n`);
  await client.untilText("\r\n");
  return client;
}
