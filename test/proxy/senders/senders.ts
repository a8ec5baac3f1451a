import { execFileSync } from "node:child_process";
import { join } from "node:path";

/** The body that every sender posts. */
export const BODY = '{"event":"paid"}';

/** A refusal in the words of the proxy. */
interface Refused {
  url: string;
  status: number;
  phrase: string;
}

/** A program that sends webhooks: its command, and its output when the proxy refuses. */
export interface Sender {
  name: string;
  /** Fails to start when the tool is missing. */
  tool: string[];
  prepare?: (folder: string) => void;
  command(what: { urls: string[]; ca: string; folder: string }): { command: string[]; env?: Record<string, string> };
  /** Python and undici send no credentials at all for an empty user name, so they have one. */
  user: string;
  sendsEmptyUser: boolean;
  /** For a refused CONNECT. */
  showsTunnel(refused: Refused): { exit: number; expected: string };
  /** For refused plain http, where the sender treats the proxy's answer as the receiver's. */
  showsPlain(refused: Refused): { exit: number; expected: string };
}

const here = new URL(".", import.meta.url).pathname;
const line = ({ status, phrase }: Refused): string => `${status} ${phrase}`;

const curl: Sender = {
  name: "curl",
  tool: ["curl", "--version"],
  command: ({ urls, ca }) => ({
    command: ["curl", "-sSv", "--max-time", "10", "--cacert", ca, "-d", BODY, ...urls],
  }),
  user: "",
  sendsEmptyUser: true,
  showsTunnel: (refused) => ({ exit: 56, expected: `< HTTP/1.1 ${line(refused)}\r\n` }),
  showsPlain: (refused) => ({ exit: 0, expected: `< HTTP/1.1 ${line(refused)}\r\n` }),
};

const go: Sender = {
  name: "Go net/http, as Convoy sends",
  tool: ["go", "version"],
  prepare: (folder) => {
    const env = { ...process.env, GOFLAGS: "-mod=mod", GOPROXY: "off", GOTOOLCHAIN: "local", CGO_ENABLED: "0" };
    execFileSync("go", ["build", "-o", join(folder, "sender"), join(here, "sender.go")], { env, stdio: "inherit" });
  },
  command: ({ urls, ca, folder }) => ({ command: [join(folder, "sender"), ca, ...urls] }),
  user: "",
  sendsEmptyUser: true,
  showsTunnel: ({ url, phrase }) => ({ exit: 1, expected: `Post "${url}": ${phrase}\n` }),
  showsPlain: (refused) => ({ exit: 0, expected: `${line(refused)}\n${refused.phrase}\n` }),
};

const python: Sender = {
  name: "Python urllib",
  tool: ["python3", "--version"],
  command: ({ urls, ca }) => ({ command: ["python3", join(here, "sender.py"), urls[0]!, ca] }),
  user: "sender",
  sendsEmptyUser: false,
  showsTunnel: (refused) => ({ exit: 1, expected: `OSError('Tunnel connection failed: ${line(refused)}')\n` }),
  showsPlain: (refused) => ({ exit: 1, expected: `${line(refused)}\n` }),
};

const node: Sender = {
  name: "Node fetch",
  tool: [process.execPath, "--version"],
  command: ({ urls, ca }) => ({
    command: [process.execPath, join(here, "sender.mjs"), urls[0]!],
    env: { NODE_USE_ENV_PROXY: "1", NODE_EXTRA_CA_CERTS: ca },
  }),
  user: "sender",
  sendsEmptyUser: false,
  // undici tunnels plain http as well, and prints only the status of a refused CONNECT.
  showsTunnel: ({ status }) => ({ exit: 1, expected: `Proxy response (${status}) !== 200 when HTTP Tunneling` }),
  showsPlain: ({ status }) => ({ exit: 1, expected: `Proxy response (${status}) !== 200 when HTTP Tunneling` }),
};

/** The senders that are tested. */
export const SENDERS: readonly Sender[] = [curl, go, python, node];
