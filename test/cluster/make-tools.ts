import { cachedPath, findTool, hasGo, moduleFolder, presentTool, TOOLS, toolVersion } from "./tools.ts";
import { buildTool } from "./tools-build.ts";

/** `make tools`: all tools, one after the other, with a line for each. */

const NAME_WIDTH = Math.max(...TOOLS.map((tool) => tool.name.length));
const failures: string[] = [];
for (const tool of TOOLS) {
  const began = Date.now();
  const say = (line: string) => console.log(`  ${line}`);
  try {
    const present = presentTool(tool.name);
    if (present === null && hasGo()) {
      await buildTool(tool, toolVersion(tool), moduleFolder(tool), cachedPath(tool), say);
    }
    const path = present ?? (await findTool(tool.name));
    const seconds = ((Date.now() - began) / 1000).toFixed(1);
    console.log(`${tool.name.padEnd(NAME_WIDTH)}  ${tool.purpose}: ${path} (${seconds} s)`);
  } catch (error) {
    failures.push(tool.name);
    console.log(`${tool.name.padEnd(NAME_WIDTH)}  ${(error as Error).message}`);
  }
}
if (failures.length > 0) {
  console.log(`not to be had: ${failures.join(", ")}`);
  process.exitCode = 1;
}
