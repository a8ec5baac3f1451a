import { resolve } from "node:path";

/** Container that a documented `docker run` starts, for tests that run the container with runc. */
export interface DockerRun {
  image: string;
  /** Arguments after the image: they replace its CMD. */
  args: string[];
  readOnly: boolean;
  noNewPrivileges: boolean;
  dropsCapabilities: boolean;
  /** Bind mounts, with the source as an absolute path. */
  mounts: { source: string; destination: string; readOnly: boolean }[];
  /** Published ports. */
  ports: { address: string; host: number; container: number }[];
}

/**
 * Parses a `docker run` command without quotes. It knows the flags of our documentation only.
 * @param folder working directory of the command @throws Error for any other flag or value
 */
export function parseDockerRun(command: string, folder: string): DockerRun {
  const [program, verb, ...words] = command.split(" ");
  if (`${program} ${verb}` !== "docker run") throw new Error(`"${program} ${verb}" is not docker run`);
  const run: DockerRun = {
    ...{ image: "", args: [], readOnly: false, noNewPrivileges: false, dropsCapabilities: false },
    ...{ mounts: [], ports: [] },
  };
  while (words[0]?.startsWith("-")) {
    const flag = words.shift()!;
    if (flag === "--rm") continue;
    else if (flag === "--read-only") run.readOnly = true;
    else if (flag === "--cap-drop=ALL") run.dropsCapabilities = true;
    else if (flag === "--security-opt=no-new-privileges") run.noNewPrivileges = true;
    else if (flag === "-p") run.ports.push(portOf(words.shift()));
    else if (flag === "-v") run.mounts.push(mountOf(words.shift(), folder));
    else throw new Error(`${flag}: unknown flag of docker run; translate it in test/image/docker-run.ts`);
  }
  const [image, ...args] = words;
  if (image === undefined) throw new Error("docker run has no image");
  return { ...run, image, args };
}

function portOf(value = ""): DockerRun["ports"][number] {
  const [, address, host, container] = /^([\d.]+):(\d+):(\d+)$/.exec(value) ?? [];
  if (address === undefined) throw new Error(`-p ${value}: must be ADDRESS:PORT:PORT`);
  return { address, host: Number(host), container: Number(container) };
}

function mountOf(value = "", folder: string): DockerRun["mounts"][number] {
  const [, source, destination, mode] = /^(\.?\/[^:]*):(\/[^:]*)(?::(ro))?$/.exec(value) ?? [];
  if (source === undefined) throw new Error(`-v ${value}: must be a path, as /PATH or ./PATH, :/PATH and :ro`);
  return { source: resolve(folder, source), destination: destination!, readOnly: mode === "ro" };
}
