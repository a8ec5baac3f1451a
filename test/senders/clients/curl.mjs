// curl: one process for each case, since its command line stops at the first failure. -i shows the fields of the proxy too.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";

const [plan, ca] = process.argv.slice(2);
/** For the proxy. */
const { CLIENT_CERT, CLIENT_KEY } = process.env;
const certificate = CLIENT_CERT === undefined ? [] : ["--proxy-cert", CLIENT_CERT, "--proxy-key", CLIENT_KEY];
const print = (id, kind, text) => console.log(["curl", id, kind, text.replace(/\s+/g, " ").trim()].join("\t"));

function run(args, input) {
  return new Promise((resolve) => {
    const child = execFile("curl", args, { maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
      resolve({ status: error?.code ?? 0, stdout, stderr }),
    );
    child.stdin.on("error", () => {}).end(input);
  });
}

print("-", "version", /^curl (\S+)/.exec((await run(["--version"], "")).stdout)[1]);
for (const line of readFileSync(plan, "utf8").trim().split("\n")) {
  const [id, url, bytes] = line.split(" ");
  const args = ["-sS", "-i", "--max-time", "20", "--cacert", ca, ...certificate, "--data-binary", "@-", url];
  const { status, stdout, stderr } = await run(args, "x".repeat(Number(bytes)));
  // The heads of a refused CONNECT and of interim answers come before the answer. The last head has the status.
  const head = [...stdout.matchAll(/^HTTP\/1\.1 (\d+) ?(.*)\r\n((?:.+\r\n)*)\r\n/gm)].at(-1);
  if (status === 0) print(id, "status", head[1]);
  else print(id, "error", stderr);
  if (head === undefined) continue;
  print(id, "phrase", head[2]);
  print(id, "field", /^x-outrider-error: (.*)/im.exec(head[3])?.[1] ?? "");
  print(id, "body", stdout.slice(head.index + head[0].length));
}
