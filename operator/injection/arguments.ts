import type { Container } from "./pod.ts";
import { CONVOY_FLAG, isConvoy, type Preset } from "./presets.ts";
import type { Own, Wanted } from "./variables.ts";

const JAVA_FLAG = /^-Dhttps?\.proxyHost$/;

/** Words of a command line, without quotes. Every argument is split, since the command of a shell is one argument. */
function words({ command = [], args = [] }: Container): string[] {
  return [...command, ...args].flatMap((text) => text.split(/[\s"'`;&|]+/)).filter((word) => word !== "");
}

/** Whether a value refers to an injected variable: `$(HTTP_PROXY)`, `$HTTP_PROXY`, `${HTTP_PROXY}`. */
function refersTo(value: string, { urls }: Wanted): boolean {
  const name = /^\$(?:\((\w+)\)|\{(\w+)\}|(\w+))$/
    .exec(value)
    ?.slice(1)
    .find((part) => part !== undefined);
  return name !== undefined && urls.has(name);
}

/** Name of an argument that sets another proxy and overrides variables. Its value may contain a password. */
export function otherProxyArgument(
  container: Container,
  { preset, wanted, own }: { preset: Preset; wanted: Wanted; own: Own },
): string | undefined {
  const all = words(container);
  const isSender = preset.flag === CONVOY_FLAG || isConvoy(container);
  const found = all.find((word, i) => {
    const at = word.indexOf("=");
    const [name, value] = at === -1 ? [word, all[i + 1] ?? ""] : [word.slice(0, at), word.slice(at + 1)];
    if (value === "") return false;
    if (JAVA_FLAG.test(name)) return at !== -1 && !own.host(value);
    return name === CONVOY_FLAG && isSender && !own.url(value) && !refersTo(value, wanted);
  });
  return found?.split("=")[0];
}
