/** What a source writes for a machine, as smith compares it: lower case, without a port, a prefix length or its own domain. Pure. */
import { isIP } from 'node:net'
import { MACHINE_NAME_PATTERN } from '../../protocol/ids.ts'
import type { KnownMachine } from '../domain/known.ts'
import { LookupError } from './failure.ts'

export type Given = {
  readonly id: string
  readonly name: string
  readonly addresses?: readonly string[]
  readonly barred?: string | null
}

/** `10.0.0.11/24`, `[2001:db8::1]:9100`, `host1:9100`: without what follows the address. */
export function bareHost(text: string): string {
  const trimmed = text.trim().toLowerCase()
  const bracketed = /^\[([0-9a-f:.]+)\](?::[0-9]+)?$/.exec(trimmed)?.[1]
  if (bracketed !== undefined) return bracketed
  const address = trimmed.replace(/\/[0-9]{1,3}$/, '')
  return isIP(address) > 0 ? address : trimmed.replace(/:[0-9]{1,5}$/, '').replace(/\.$/, '')
}

/** Null for what can't be a machine of smith: a rack, a switch with a space in its name. */
export function knownOf(given: Given, domains: readonly string[]): KnownMachine | null {
  const { id, barred = null } = given
  const plain = bareHost(given.name)
  const addresses = (given.addresses ?? []).map(bareHost).filter((address) => address !== '')
  if (isIP(plain) > 0) return { id, name: null, addresses: [...new Set([plain, ...addresses])], barred }
  const domain = domains.find((one) => plain.endsWith(`.${one}`))
  const name = domain === undefined ? plain : plain.slice(0, -domain.length - 1)
  return MACHINE_NAME_PATTERN.test(name) ? { id, name, addresses, barred } : null
}

/** The same machine told twice counts once; an empty list is a broken source, and not a site without machines. */
export function listOf(
  given: Iterable<Given>,
  bounds: { readonly domains: readonly string[]; readonly machinesMax: number },
): KnownMachine[] {
  const machines = new Map<string, KnownMachine>()
  for (const one of given) {
    const known = knownOf(one, bounds.domains)
    if (known === null) continue
    machines.set(JSON.stringify(known), known)
    if (machines.size > bounds.machinesMax)
      throw new LookupError(
        `names more than ${bounds.machinesMax} machines`,
        'see that it is the right list, or raise lookup.machines',
      )
  }
  if (machines.size > 0) return [...machines.values()]
  throw new LookupError(
    'names no machine at all',
    'see what it answers: an inventory that could not be read looks just like that',
  )
}
