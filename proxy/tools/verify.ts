import { connect, type Socket } from "node:net";
import { ipAddresses, noArguments, type Option, optionHelp, readOptions, wholeNumber } from "../cli/options.ts";
import { UsageError } from "../cli/usage-error.ts";
import { hostOfUrl, observe, portOfUrl } from "../egress/echo-client.ts";
import { ResponseHeadParser } from "../http/head.ts";
import { plainLine } from "../policy/rules.ts";

/** Limit in bytes of a proxy's answer to a CONNECT. */
const MAX_ANSWER_BYTES = 65_536;
/** Limit in characters of an error, which may contain text of the proxy. */
const MAX_ERROR = 300;
/** Limit in characters of a URL that is printed. */
const MAX_URL = 2000;

const OPTIONS: readonly Option[] = [
  { name: "proxy", value: "URL", help: "the proxy to go through: http://USER:PASSWORD@HOST:PORT (required)" },
  { name: "echo", value: "URL", repeat: true, help: "URL that answers with the caller's address (required)" },
  { name: "expect", value: "IP", repeat: true, help: "expected address; without this option every answer is right" },
  { name: "timeout-seconds", value: "N", fallback: "10", help: "time limit for one echo URL" },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider verify --proxy URL --echo URL [--expect IP]…

Requests echo URLs through a proxy, as a sender does, and prints the address that each of them saw.
Exit status: 0 all as expected, 1 a wrong address or no answer, 2 wrong usage.

${optionHelp(OPTIONS)}`;

function readUrl(text: string, name: string, schemes: readonly string[], what: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !schemes.includes(url.protocol)) {
    throw new UsageError(`--${name} must be ${what}, not "${text}"`);
  }
  return url;
}

/** Sends a CONNECT through the proxy, as a sender does. @throws Error with the answer of the proxy */
function tunnel(proxy: URL, echo: URL, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostOfUrl(proxy), port: portOfUrl(proxy) });
    const fail = (what: string) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new Error(plainLine(what, MAX_ERROR)));
    };
    const timer = setTimeout(() => fail(`the proxy did not answer within ${timeoutMs / 1000} s`), timeoutMs);
    let parser = new ResponseHeadParser();
    let received = 0;
    const onData = (chunk: Buffer) => {
      received += chunk.length;
      if (received > MAX_ANSWER_BYTES) return fail(`the proxy answered with more than ${MAX_ANSWER_BYTES} bytes`);
      let parsed = parser.feed(chunk);
      // Interim responses come before the answer.
      while (parsed !== null && "head" in parsed && parsed.head.status < 200) {
        parser = new ResponseHeadParser();
        parsed = parser.feed(parsed.rest);
      }
      if (parsed === null) return;
      if ("error" in parsed) return fail(`the proxy answered with broken HTTP: ${parsed.error}`);
      const { status, reason } = parsed.head;
      if (status !== 200) return fail(`the proxy answered ${status} ${reason}`);
      clearTimeout(timer);
      socket.removeListener("data", onData);
      socket.pause();
      resolve(socket);
    };
    socket.on("data", onData);
    socket.on("error", (error) => fail(error.message));
    socket.on("end", () => fail("the proxy closed the connection"));
    const target = `${echo.hostname}:${portOfUrl(echo)}`;
    const user = decodeURIComponent(proxy.username);
    const credentials = Buffer.from(`${user}:${decodeURIComponent(proxy.password)}`).toString("base64");
    const authorization =
      proxy.username === "" && proxy.password === "" ? "" : `Proxy-Authorization: Basic ${credentials}\r\n`;
    socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${authorization}\r\n`);
  });
}

/** `outrider verify`: returns the exit status. @throws UsageError */
export async function runVerify(argv: readonly string[]): Promise<number> {
  const { values, positionals } = readOptions(OPTIONS, argv, process.env);
  if (values.has("help")) {
    console.log(HELP);
    return 0;
  }
  noArguments(positionals);
  const proxyText = values.get("proxy")?.[0];
  if (proxyText === undefined) throw new UsageError("--proxy URL is required");
  const proxy = readUrl(proxyText, "proxy", ["http:"], "an http URL such as http://:PASSWORD@HOST:4750");
  const echoes = (values.get("echo") ?? []).map((text) => ({
    shown: plainLine(text, MAX_URL),
    url: readUrl(text, "echo", ["http:", "https:"], "an http or https URL"),
  }));
  if (echoes.length === 0) throw new UsageError("--echo URL is required");
  const expected = ipAddresses(values, "expect");
  const timeoutMs = (wholeNumber(values, "timeout-seconds", 1, 300) ?? 10) * 1000;
  let good = true;
  for (const { shown, url } of echoes) {
    try {
      const address = await observe(url, await tunnel(proxy, url, timeoutMs), timeoutMs);
      const right = expected.length === 0 || expected.includes(address);
      good &&= right;
      const comment = right ? "  expected" : `  not expected: ${expected.join(", ")}`;
      console.log(`${shown}  ${address}${expected.length === 0 ? "" : comment}`);
    } catch (error) {
      good = false;
      console.log(`${shown}  no answer: ${(error as Error).message}`);
    }
  }
  return good ? 0 : 1;
}
