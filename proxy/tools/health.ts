import { connect } from "node:net";
import { formatHostPort, ipPort, noArguments, type Option, optionHelp, readOptions } from "../cli/options.ts";
import { UsageError } from "../cli/usage-error.ts";

const OPTIONS: readonly Option[] = [
  { name: "admin", value: "IP:PORT", fallback: "127.0.0.1:9750", help: "admin port of the proxy" },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider health [--admin IP:PORT]

Requests /livez from the admin port of a proxy on this machine. OUTRIDER_ADMIN is the variable of the option, as of the
proxy. Exit status: 0 alive, 1 no answer or another one, 2 wrong usage.

${optionHelp(OPTIONS)}`;

/** Time limit in milliseconds, shorter than that of the image's health check. */
const ANSWER_MS = 4000;
/** Limit in bytes of the part of an answer that is read. */
const MAX_ANSWER_BYTES = 4096;

/** The addresses of a proxy that listens on all addresses are those of loopback. */
const reached = (host: string): string =>
  host === "" || host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;

/** Requests /livez; resolves to the problem, or null if the proxy is alive. */
function problemOf(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const end = (problem: string | null) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(problem);
    };
    const timer = setTimeout(() => end(`no answer within ${ANSWER_MS / 1000} s`), ANSWER_MS);
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      const line = /^(.*?)\r\n/.exec(text)?.[1];
      if (line === undefined && text.length < MAX_ANSWER_BYTES) return;
      end(/^HTTP\/1\.[01] 200( |$)/.test(line ?? "") ? null : "the answer is not that of a live proxy");
    });
    socket.on("error", (error) => end(error.message));
    socket.on("end", () => end("the connection was closed without an answer"));
    socket.write(`GET /livez HTTP/1.1\r\nHost: ${formatHostPort(host, port)}\r\nConnection: close\r\n\r\n`);
  });
}

/** `outrider health`, for health checks of container engines, which have no shell or curl here. Returns the exit status. @throws UsageError */
export async function runHealth(argv: readonly string[]): Promise<number> {
  const { values, positionals } = readOptions(OPTIONS, argv, process.env);
  if (values.has("help")) {
    console.log(HELP);
    return 0;
  }
  noArguments(positionals);
  const { host, port } = ipPort(values, "admin", "127.0.0.1:9750");
  if (port === 0) throw new UsageError(`${values.shown("admin")} must name a port: a free port is not known here`);
  const problem = await problemOf(reached(host), port);
  if (problem === null) return 0;
  console.error(`outrider: ${formatHostPort(reached(host), port)}: ${problem}`);
  return 1;
}
