import { cachedPath, getTools, presentTool, TOOLS } from "./tools.ts";

/** `make tools`: builds all tools and prints their paths. */

const NAME_WIDTH = Math.max(...TOOLS.map((tool) => tool.name.length));
const errors = new Map<string, string>();
const names = TOOLS.map(({ name }) => name);
await getTools(names, console.log, (tool, error) => void errors.set(tool.name, error.message));
for (const tool of TOOLS) {
  const place = errors.get(tool.name) ?? `${tool.purpose}: ${presentTool(tool.name) ?? cachedPath(tool)}`;
  console.log(`${tool.name.padEnd(NAME_WIDTH)}  ${place}`);
}
if (errors.size > 0) {
  console.log(`not available: ${[...errors.keys()].join(", ")}`);
  process.exitCode = 1;
}
