/**
 * Exclusive addresses of the specs that this process has accepted. Other evidence of them, such as Deployments, is only
 * seen later, and concurrent reconciles must not accept one address for two policies.
 */
export class Claims {
  /** Key of the policy (namespace/name) by address. */
  readonly #owners = new Map<string, string>();
  readonly #addresses = new Map<string, ReadonlySet<string>>();

  /** Key of the policy that has an address. */
  ownerOf(address: string): string | undefined {
    return this.#owners.get(address);
  }

  /** Replaces the addresses of a policy. An address of another policy stays there. Returns whether any changed. */
  replace(policy: string, addresses: Iterable<string>): boolean {
    const before = this.#addresses.get(policy) ?? new Set();
    const after = new Set([...addresses].filter((address) => (this.#owners.get(address) ?? policy) === policy));
    for (const address of before) this.#owners.delete(address);
    for (const address of after) this.#owners.set(address, policy);
    if (after.size === 0) this.#addresses.delete(policy);
    else this.#addresses.set(policy, after);
    return after.size !== before.size || [...after].some((address) => !before.has(address));
  }
}
