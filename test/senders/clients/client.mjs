// The clients on Node.js, with the proxy of the environment (NODE_USE_ENV_PROXY=1) and the CA of NODE_EXTRA_CA_CERTS.
// Arguments: the plan, and the folder of the packages or an empty text.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [plan, packages] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(join(packages, "node_modules/")).resolve(name)).href);
const version = (name) =>
  JSON.parse(readFileSync(join(packages, "node_modules", name, "package.json"), "utf8")).version;
const TIMEOUT_MS = 20_000;
const FIELD = "x-outrider-error";
const { CLIENT_CERT, CLIENT_KEY } = process.env;
/** A certificate for the proxy. Node's fetch has no option for it. */
const certificate =
  CLIENT_CERT === undefined ? undefined : { cert: readFileSync(CLIENT_CERT), key: readFileSync(CLIENT_KEY) };
const agent = certificate && new http.Agent({ proxyEnv: process.env, ...certificate });

const byFetch = async (url, body) => {
  const response = await fetch(url, { method: "POST", body, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const field = response.headers.get(FIELD);
  return { status: response.status, phrase: response.statusText, field, body: await response.text() };
};

const byHttp = (url, body) =>
  new Promise((resolve, reject) => {
    const { request } = url.startsWith("https:") ? https : http;
    const sent = request(url, { method: "POST", timeout: TIMEOUT_MS, agent }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk) => {
        text += chunk;
      });
      response.on("error", reject).on("end", () => {
        const { statusCode, statusMessage, headers } = response;
        resolve({ status: statusCode, phrase: statusMessage, field: headers[FIELD], body: text });
      });
    });
    sent.on("timeout", () => sent.destroy(new Error("timed out")));
    sent.on("error", reject).end(body);
  });

const withUndici = async () => {
  const { EnvHttpProxyAgent, request } = await load("undici");
  const dispatcher = new EnvHttpProxyAgent(certificate && { proxyTls: certificate });
  return async (url, body) => {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const response = await request(url, { method: "POST", body, dispatcher, signal });
    const { statusCode, statusText, headers } = response;
    return { status: statusCode, phrase: statusText, field: headers[FIELD], body: await response.body.text() };
  };
};

const withAxios = async () => {
  const { default: axios } = await load("axios");
  const options = {
    timeout: TIMEOUT_MS,
    validateStatus: () => true,
    responseType: "text",
    ...(agent && { httpAgent: agent }),
  };
  return async (url, body) => {
    const { status, statusText, headers, data } = await axios.post(url, body, options);
    return { status, phrase: statusText, field: headers[FIELD], body: data };
  };
};

const withGot = async () => {
  const { default: got } = await load("got");
  const options = {
    timeout: { request: TIMEOUT_MS },
    throwHttpErrors: false,
    ...(agent && { agent: { http: agent } }),
  };
  return async (url, body) => {
    const response = await got.post(url, { ...options, body });
    const { statusCode, statusMessage, headers } = response;
    return { status: statusCode, phrase: statusMessage, field: headers[FIELD], body: response.body };
  };
};

const oneLine = (text) =>
  String(text ?? "")
    .replace(/\s+/g, " ")
    .trim();

/** The message of an error and of its causes. */
function messages(error) {
  const found = [];
  for (let one = error; one instanceof Error && found.length < 4; one = one.cause) {
    if (!found.includes(one.message)) found.push(one.message);
  }
  return found.join(": ");
}

const BUILT_IN = [
  ["Node fetch", process.versions.node, () => byFetch],
  ["Node http", process.versions.node, () => byHttp],
];
const INSTALLED = [
  ["undici", withUndici],
  ["axios", withAxios],
  ["got", withGot],
];
const CLIENTS = [...BUILT_IN, ...(packages === "" ? [] : INSTALLED.map(([name, make]) => [name, version(name), make]))];
const cases = readFileSync(plan, "utf8")
  .trim()
  .split("\n")
  .map((line) => line.split(" "));

async function play([name, which, make]) {
  const show = (id, kind, text) => console.log([name, id, kind, oneLine(text)].join("\t"));
  show("-", "version", which);
  const post = await make();
  for (const [id, url, bytes] of cases) {
    try {
      for (const [kind, text] of Object.entries(await post(url, "x".repeat(Number(bytes))))) show(id, kind, text);
    } catch (error) {
      show(id, "error", `${error.name}: ${messages(error)}`);
    }
  }
}

await Promise.all(CLIENTS.map(play));
// Agents keep connections open.
process.exit();
