import { isIP } from "node:net";
import { parseArgs } from "node:util";
import { formatAddress, parseAddress } from "../policy/cidr.ts";
import { MAX_PORTS, nearest, type PortSpec, parsePorts } from "../policy/rules.ts";
import { UsageError } from "./usage-error.ts";

/** One option of a command: its long form, environment variable, and help text. */
export interface Option {
  name: string;
  /** Its letter, as in `-n`. */
  short?: string;
  /** Placeholder of the value in `--help`; absent: a switch. */
  value?: string;
  repeat?: boolean;
  fallback?: string;
  help: string;
}

/** Values as given, by option name: every option is a list, a switch is `["true"]`. */
export class Values extends Map<string, readonly string[]> {
  readonly #variables = new Set<string>();

  setFromVariable(name: string, list: readonly string[]): void {
    this.set(name, list);
    this.#variables.add(name);
  }

  /** The name for error messages: the option or the environment variable that the user set. */
  shown(name: string): string {
    return this.#variables.has(name) ? variableOf(name) : `--${name}`;
  }
}

/** `--connect-seconds` → `OUTRIDER_CONNECT_SECONDS`. */
export function variableOf(name: string): string {
  return `OUTRIDER_${name.toUpperCase().replaceAll("-", "_")}`;
}

/**
 * Reads a command line, then the environment for options that it does not set. Repeatable options are comma-separated
 * in variables. `counterpartOf`: our words for an option of another program. @throws UsageError naming the option
 */
export function readOptions(
  options: readonly Option[],
  argv: readonly string[],
  environment: NodeJS.ProcessEnv,
  counterpartOf: (option: string) => string | undefined = () => undefined,
): { values: Values; positionals: string[] } {
  const spec = Object.fromEntries(
    options.map((o) => [
      o.name,
      {
        type: o.value === undefined ? ("boolean" as const) : ("string" as const),
        multiple: true,
        ...(o.name === "help" ? { short: "h" } : o.short === undefined ? {} : { short: o.short }),
      },
    ]),
  );
  const names = options.map((o) => o.name);
  const { tokens, positionals } = parseArgs({
    args: [...argv],
    options: spec,
    strict: false,
    tokens: true,
    allowPositionals: true,
  });
  const values = new Values();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const option = options.find((o) => o.name === token.name);
    if (option === undefined) {
      const ours = counterpartOf(token.name);
      if (ours !== undefined) {
        throw new UsageError(`${token.rawName} is an option of Smokescreen; here: ${ours} (docs/migrate.md)`);
      }
      const meant = nearest(token.name, names);
      throw new UsageError(`unknown option ${token.rawName}${meant ? `; did you mean --${meant}?` : "; see --help"}`);
    }
    if (option.value !== undefined && (token.value === undefined || token.value === "")) {
      throw new UsageError(`--${option.name} needs a value: ${option.value}`);
    }
    if (option.value === undefined && token.value !== undefined)
      throw new UsageError(`--${option.name} takes no value`);
    const list = values.get(option.name) ?? [];
    if (list.length > 0 && !option.repeat) throw new UsageError(`--${option.name} is given twice`);
    values.set(option.name, [...list, token.value ?? "true"]);
  }
  for (const option of options) {
    const text = environment[variableOf(option.name)];
    if (text === undefined || text === "" || values.has(option.name)) continue;
    if (option.value === undefined && text !== "true" && text !== "false") {
      throw new UsageError(`${variableOf(option.name)} must be true or false, not "${text}"`);
    }
    if (text === "false" && option.value === undefined) continue;
    values.setFromVariable(option.name, option.repeat ? text.split(",").map((part) => part.trim()) : [text]);
  }
  return { values, positionals };
}

/** The option part of `--help`. */
export function optionHelp(options: readonly Option[]): string {
  const left = options.map(
    (o) =>
      `  ${o.short === undefined ? "" : `-${o.short}, `}--${o.name}${o.value === undefined ? "" : ` ${o.value}`}${o.repeat ? " …" : ""}`,
  );
  const width = Math.max(...left.map((l) => l.length)) + 2;
  return options
    .map((o, i) => `${left[i]!.padEnd(width)}${o.help}${o.fallback === undefined ? "" : ` (default ${o.fallback})`}`)
    .join("\n");
}

/** A whole number within bounds. @throws UsageError */
export function wholeNumber(values: Values, name: string, min: number, max: number): number | undefined {
  const text = values.get(name)?.[0];
  if (text === undefined) return undefined;
  const number = Number(text);
  if (!/^\d{1,9}$/.test(text) || number < min || number > max) {
    throw new UsageError(`${values.shown(name)} must be a whole number from ${min} to ${max}, not "${text}"`);
  }
  return number;
}

/** One of some words. @throws UsageError */
export function oneOf<T extends string>(values: Values, name: string, words: readonly T[]): T | undefined {
  const text = values.get(name)?.[0];
  if (text === undefined) return undefined;
  const found = words.find((word) => word === text);
  if (found === undefined)
    throw new UsageError(`${values.shown(name)} must be one of ${words.join(", ")}, not "${text}"`);
  return found;
}

/** IP addresses in their canonical form. @throws UsageError */
export function ipAddresses(values: Values, name: string): string[] {
  return (values.get(name) ?? []).map((text) => {
    const address = parseAddress(text);
    if (address === null) throw new UsageError(`${values.shown(name)} must be an IP address, not "${text}"`);
    return formatAddress(address);
  });
}

/** Ports and ranges, also several in one value, such as `80,443,8000-8999`. @throws UsageError */
export function portList(values: Values, name: string): PortSpec[] | undefined {
  const texts = values.get(name)?.flatMap((text) => text.split(","));
  if (texts === undefined) return undefined;
  if (texts.length > MAX_PORTS)
    throw new UsageError(`${values.shown(name)} has more than ${MAX_PORTS} ports and ranges`);
  return texts.map((text) => {
    const port = text.trim();
    if (parsePorts(port) === null) {
      throw new UsageError(`${values.shown(name)} must be ports or ranges, such as 80,443,8000-8999, not "${text}"`);
    }
    return port.includes("-") ? port : Number(port);
  });
}

/** The path of a URL. @throws UsageError */
export function urlPath(values: Values, name: string): string | undefined {
  const text = values.get(name)?.[0];
  if (text === undefined || /^\/[!-"$->@-~]*$/.test(text)) return text;
  throw new UsageError(`${values.shown(name)} must be a path without query, such as /healthcheck, not "${text}"`);
}

/** Rejects arguments, for commands that take options only. @throws UsageError */
export function noArguments(positionals: readonly string[]): void {
  if (positionals.length > 0) throw new UsageError(`unexpected argument "${positionals[0]}"; see --help`);
}

/**
 * Reads `IP:PORT`, `:PORT` or `[IP]:PORT` to listen on; an empty IP means all addresses. IPv6 needs the brackets and
 * IPv4 may have them: a pod's `[$(HOST_IP)]:4750` is valid for either family. Host names are refused, because they can
 * resolve to several addresses. @throws UsageError
 */
export function ipPort(values: Values, name: string, fallback: string): { host: string; port: number } {
  const text = values.get(name)?.[0] ?? fallback;
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3]);
  const isAddress = match?.[1] !== undefined ? isIP(host) !== 0 : host === "" || isIP(host) === 4;
  if (match === null || port > 65535 || !isAddress) {
    throw new UsageError(`${values.shown(name)} must be IP:PORT, [IP]:PORT or :PORT, not "${text}"`);
  }
  return { host, port };
}

/** The error for a listen address that cannot be used. */
export function listenError(error: unknown, name: string, where: { host: string; port: number }): UsageError {
  const code = (error as NodeJS.ErrnoException).code;
  const why = code === "EADDRINUSE" ? "the address is in use" : (error as Error).message;
  return new UsageError(`--${name} ${formatHostPort(where.host, where.port)}: ${why}`);
}

/** `IP:PORT`, with brackets around IPv6. */
export function formatHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
