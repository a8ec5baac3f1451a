import { registerHooks } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { collected } from "./collect.ts";

/**
 * A test runner for Stryker that loads the test files once and repeats their tests for each mutant, without a process for
 * each. For mutants of code that runs at an import, it loads all files again. Stryker ends the process of a mutant that
 * does not end.
 */

const COLLECT = new URL("collect.ts", import.meta.url).href;
let loads = 0;
registerHooks({
  resolve: (name, context, next) => {
    if (name === "node:test") return { url: COLLECT, shortCircuit: true };
    const found = next(name, context);
    // A file of the mutated copy: another URL is another module.
    const isOurs =
      found.url.startsWith(pathToFileURL(`${process.cwd()}/`).href) && !found.url.includes("/node_modules/");
    return isOurs ? { ...found, url: `${found.url}?load=${loads}` } : found;
  },
});

/** Shared with the mutated sources (`@stryker-mutator/instrumenter`). */
interface Instrumented {
  activeMutant?: string | undefined;
  currentTestId?: string | undefined;
  hitLimit?: number | undefined;
  hitCount?: number | undefined;
  mutantCoverage?: object;
}

const scope = globalThis as { __stryker__?: Instrumented };
scope.__stryker__ ??= {};
const instrumented = scope.__stryker__;

interface MutantRun {
  activeMutant: { id: string };
  /** `static`: the mutant must be active while the files load. */
  mutantActivation: "static" | "runtime";
  testFilter?: string[];
  hitLimit?: number;
}

/** Values of `TestStatus` of Stryker. */
const SUCCESS = 0;
const FAILED = 1;

class Runner {
  static readonly inject = ["options"];
  readonly #files: readonly string[];
  #loaded = false;

  constructor(options: { outrider: { tests: readonly string[] } }) {
    this.#files = options.outrider.tests;
  }

  capabilities(): object {
    return { reloadEnvironment: true };
  }

  async #load(): Promise<void> {
    if (this.#loaded) return;
    this.#loaded = true;
    loads++;
    collected.length = 0;
    for (const file of this.#files) await import(pathToFileURL(resolve(file)).href);
    if (collected.length === 0) throw new Error(`no test in ${this.#files.join(", ")}`);
  }

  async dryRun(): Promise<object> {
    await this.#load();
    const tests = [];
    for (const { name, run } of collected) {
      instrumented.currentTestId = name;
      const start = performance.now();
      const error = await run().then(
        () => null,
        (reason: unknown) => String(reason),
      );
      const result = { id: name, name, timeSpentMs: performance.now() - start };
      tests.push(
        error === null ? { ...result, status: SUCCESS } : { ...result, status: FAILED, failureMessage: error },
      );
    }
    instrumented.currentTestId = undefined;
    return { status: "complete", tests, mutantCoverage: instrumented.mutantCoverage };
  }

  async mutantRun({ activeMutant, mutantActivation, testFilter, hitLimit }: MutantRun): Promise<object> {
    instrumented.hitLimit = hitLimit;
    instrumented.hitCount = hitLimit === undefined ? undefined : 0;
    const isStatic = mutantActivation === "static";
    if (isStatic) this.#loaded = false;
    else await this.#load();
    instrumented.activeMutant = activeMutant.id;
    try {
      return await this.#detect(testFilter);
    } finally {
      instrumented.activeMutant = undefined;
      if (isStatic) this.#loaded = false;
    }
  }

  async #detect(filter: readonly string[] | undefined): Promise<object> {
    let nrOfTests = 0;
    let name = "load";
    try {
      await this.#load();
      for (const test of collected) {
        if (filter !== undefined && !filter.includes(test.name)) continue;
        ({ name } = test);
        nrOfTests++;
        await test.run();
      }
    } catch (error) {
      if ((instrumented.hitCount ?? 0) > (instrumented.hitLimit ?? Number.POSITIVE_INFINITY)) {
        return { status: "timeout", reason: "the mutant repeats a loop" };
      }
      return { status: "killed", killedBy: [name], failureMessage: String(error), nrOfTests };
    }
    return { status: "survived", nrOfTests };
  }
}

export const strykerPlugins = [{ kind: "TestRunner", name: "outrider", injectableClass: Runner }];
