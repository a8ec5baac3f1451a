/** Takes the place of `node:test` in `runner.ts`: collects the tests of a file, so that each can run many times. */

interface Context {
  diagnostic(): void;
  test(name: string, ...rest: unknown[]): Promise<void>;
}
type Body = (context: Context) => unknown;

export interface Collected {
  name: string;
  run(): Promise<void>;
}

export const collected: Collected[] = [];

const context: Context = {
  diagnostic: () => {},
  test: async (_, ...rest) => {
    await (rest.at(-1) as Body)(context);
  },
};

export function test(name: string, ...rest: unknown[]): void {
  const body = rest.at(-1) as Body;
  collected.push({ name, run: async () => void (await body(context)) });
}

export function describe(_: string, ...rest: unknown[]): void {
  (rest.at(-1) as () => void)();
}

/** A hook, or something else of `node:test` that no test of a pure module needs. */
function unsupported(): never {
  throw new Error("test/mutants/collect.ts supports test, it and describe only");
}

export {
  describe as suite,
  test as it,
  unsupported as after,
  unsupported as afterEach,
  unsupported as before,
  unsupported as beforeEach,
  unsupported as mock,
};
export default test;
