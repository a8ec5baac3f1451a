import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, test } from "node:test";
import { NO_BUILD } from "../cluster/tools.ts";
import { namespaceMissing, runInNamespace, startInNamespace } from "./namespace.ts";
import { tempFolder } from "./proxy.ts";

/** Programs are built before a network namespace is entered: it has no route for downloads. */

const skip = namespaceMissing() ?? false;
const ENV = { ...process.env };
afterEach(() => {
  for (const name of ["KUBEBUILDER_ASSETS", "XDG_CACHE_HOME", "PATH", NO_BUILD]) {
    if (ENV[name] === undefined) delete process.env[name];
    else process.env[name] = ENV[name];
  }
});

test("a test file starts after its programs are built", { skip }, async () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.PATH = tempFolder();
  delete process.env.KUBEBUILDER_ASSETS;
  delete process.env[NO_BUILD];
  const file = new URL("does-not-exist.ts", import.meta.url);
  await assert.rejects(runInNamespace(file, ["etcd"]), /etcd v\S+ is missing: install Go >= 1\.26/);
});

test("a build inside a namespace fails immediately with its reason", { skip }, async () => {
  const tools = new URL("../cluster/tools.ts", import.meta.url).href;
  const code = `import { findTool } from ${JSON.stringify(tools)};
    await findTool("etcd").catch(({ message }) => console.log(message));
    console.log(process.env.GOPROXY, process.env.npm_config_offline);`;
  const child = await startInNamespace(["--input-type=module", "--eval", code], {
    tools: [],
    stdio: ["ignore", "pipe", "inherit"],
    env: { XDG_CACHE_HOME: tempFolder(), KUBEBUILDER_ASSETS: undefined },
  });
  let text = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  const [status] = await once(child, "close");
  assert.equal(status, 0);
  assert.match(
    text,
    /^etcd v\S+ is missing and is not built now: this network namespace has no route; .* Fix: run `make tools`\noff true\n$/,
  );
});
