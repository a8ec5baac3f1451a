import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { isInstalled, programMissing } from "../harness/packages.ts";
import { install, NODE, PYTHON } from "./install.ts";

/** The programs in `clients/`: how each starts, and which clients it has. */

/** Proxy and credentials as clients get them. */
export interface Settings {
  host: string;
  port: number;
  user: string;
  password: string;
}

interface Start {
  /** File with one case in a line: its id, URL and number of bytes to post. */
  plan: string;
  /** File of the CA that signed the receivers' certificates. */
  ca: string;
  proxy: Settings;
}

/** A program that plays all cases with one or more clients. */
export interface Program {
  clients: readonly { name: string; missing?: string }[];
  /** Prints one line for each observation: client, case, kind and text, separated by tabs. */
  command: (start: Start) => { command: string[]; env?: Record<string, string> };
}

const here = new URL("clients/", import.meta.url).pathname;
const lacking = (missing: string | null | undefined) => (missing ? { missing } : {});
/** The runner shows stderr. */
const say = (line: string) => console.error(line);

const curl: Program = {
  clients: [{ name: "curl", ...lacking(programMissing("curl")) }],
  command: ({ plan, ca }) => ({ command: [process.execPath, join(here, "curl.mjs"), plan, ca] }),
};

/** `folder` gets the program. A broken Go fails the tests. */
function go(folder: string): Program {
  const client = { name: "Go net/http", ...lacking(isInstalled("go") ? null : "needs Go (https://go.dev/dl)") };
  const program = join(folder, "sender-go");
  if (client.missing === undefined) {
    const env = { ...process.env, GOFLAGS: "-mod=mod", GOPROXY: "off", GOTOOLCHAIN: "local", CGO_ENABLED: "0" };
    execFileSync("go", ["build", "-o", program, join(here, "main.go")], { env, stdio: "inherit" });
  }
  return { clients: [client], command: ({ plan, ca }) => ({ command: [program, plan, ca] }) };
}

function python(): Program {
  const packages = install(PYTHON, say);
  const own = ["requests", "httpx", "aiohttp"].map((name) => ({ name, ...lacking(packages.missing) }));
  const clients = [{ name: "Python urllib", ...lacking(programMissing("python3")) }, ...own];
  const names = clients.filter(({ missing }) => missing === undefined).map(({ name }) => name);
  const interpreter = packages.missing === undefined ? join(packages.folder, "venv/bin/python") : "python3";
  return {
    clients,
    command: ({ plan, ca }) => ({ command: [interpreter, join(here, "client.py"), plan, ca, ...names] }),
  };
}

function node(): Program {
  const packages = install(NODE, say);
  const builtIn = ["Node fetch", "Node http"].map((name) => ({ name }));
  const own = ["undici", "axios", "got"].map((name) => ({ name, ...lacking(packages.missing) }));
  return {
    clients: [...builtIn, ...own],
    command: ({ plan, ca }) => ({
      command: [process.execPath, join(here, "client.mjs"), plan, packages.folder ?? ""],
      env: { NODE_USE_ENV_PROXY: "1", NODE_EXTRA_CA_CERTS: ca },
    }),
  };
}

const java: Program = {
  clients: ["Java HttpClient", "Java HttpURLConnection"].map((name) => ({
    name,
    // A JRE cannot run a source file.
    ...lacking(programMissing("javac")),
  })),
  command: ({ plan, ca, proxy }) => {
    const properties = ["http", "https"].flatMap((scheme) => [
      `-D${scheme}.proxyHost=${proxy.host}`,
      `-D${scheme}.proxyPort=${proxy.port}`,
    ]);
    // The JDK sends no Basic credentials on CONNECT without this.
    const basic = "-Djdk.http.auth.tunneling.disabledSchemes=";
    // A short run compiles faster with the first compiler alone.
    const quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
    const args = [join(here, "Main.java"), plan, ca, proxy.user, proxy.password];
    return { command: ["java", ...quick, ...properties, basic, ...args] };
  },
};

const ruby: Program = {
  clients: [{ name: "Ruby Net::HTTP", ...lacking(programMissing("ruby")) }],
  command: ({ plan, ca }) => ({ command: ["ruby", join(here, "client.rb"), plan, ca] }),
};

/** All programs, in the order of the tables. Installs and builds what is missing. `folder`: for what is built. */
export const programs = (folder: string): readonly Program[] => [curl, go(folder), python(), node(), java, ruby];
