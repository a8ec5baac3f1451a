#!/usr/bin/env node
// Entry point of the npm package. The first lines have old syntax, so that an old Node.js reaches the message.
if (Number(process.versions.node.split(".")[0]) < 24) {
  console.error(`outrider: Node.js ${process.versions.node} is too old; install Node.js 24 or newer`);
  process.exit(2);
}
const { join } = require("node:path");

const FLAGS = { proxy: [], operator: [] }; // bin/package/npm.ts writes those of bin/outrider.
const args = process.argv.slice(2);
const flags = args[0] === "operator" ? FLAGS.operator : FLAGS.proxy;
const command = [process.execPath].concat(process.execArgv, flags, [join(__dirname, "../dist/outrider.js")], args);
// A running process can no longer choose its young generation, so Node.js replaces itself, with the same process ID.
process.execve(process.execPath, command, process.env);
