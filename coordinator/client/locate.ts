/**
 * Which of several instances a request is for: the one that has the machines which it names. Used by the CLI and by
 * the bot. The invariant: an instance that can't be asked is never taken as one that doesn't have them.
 */
import { isIPv6 } from 'node:net'
import { type Refusal, RefusedError } from '../../protocol/errors.ts'
import type { Client } from './client.ts'
import { isUnreachable } from './failure.ts'

export type Located =
  | { readonly kind: 'one'; readonly client: Client }
  /** No instance knows any of them; what each said. */
  | { readonly kind: 'none'; readonly refusals: readonly Refusal[] }
  | {
      readonly kind: 'several'
      readonly byInstance: readonly { readonly name: string; readonly words: readonly string[] }[]
    }
  | { readonly kind: 'out-of-reach'; readonly name: string; readonly why: string }

/** The words behind `machines:`, up to the next key. An IPv6 address has colons and is no key. */
export function machineWordsOf(text: string): string[] {
  const words: string[] = []
  let isOpen = false
  for (const word of text.split(/\s+/)) {
    const [, key, value = ''] = isIPv6(word) ? [] : (/^([A-Za-z][A-Za-z-]*):(.*)$/.exec(word) ?? [])
    if (key !== undefined) isOpen = key.toLowerCase() === 'machines'
    const name = key === undefined ? word : value
    if (isOpen && name !== '') words.push(name)
  }
  return words
}

/** With one instance there is nothing to find out; it refuses what it does not know itself. */
export async function locate(clients: readonly Client[], text: string): Promise<Located> {
  const [only] = clients
  if (only !== undefined && clients.length === 1) return { kind: 'one', client: only }
  const words = machineWordsOf(text)
  const asked = await Promise.all(clients.map((client) => askFor(client, words)))
  const lost = asked.find((answer) => answer.lost !== null)
  if (lost !== undefined) return { kind: 'out-of-reach', name: lost.client.target.name, why: lost.lost ?? '' }
  const having = asked.filter((answer) => answer.found.length > 0)
  const [first] = having
  if (first === undefined) return { kind: 'none', refusals: asked.flatMap((answer) => answer.refusals) }
  if (having.length === 1) return { kind: 'one', client: first.client }
  const byInstance = having.map((answer) => ({ name: answer.client.target.name, words: answer.found }))
  return { kind: 'several', byInstance }
}

type Asked = {
  readonly client: Client
  readonly found: string[]
  readonly refusals: Refusal[]
  readonly lost: string | null
}

async function askFor(client: Client, words: readonly string[]): Promise<Asked> {
  const found: string[] = []
  const refusals: Refusal[] = []
  for (const word of words) {
    try {
      const { machines } = await client.call('machines', { query: { pattern: word } })
      if (machines.length > 0) found.push(word)
    } catch (error) {
      if (isUnreachable(error)) return { client, found, refusals, lost: error.message }
      if (!(error instanceof RefusedError)) throw error
      // Who may not look can't say that nothing is there.
      if (
        error.refusals.some(
          ({ kind }) => kind === 'not-allowed' || kind === 'unauthenticated' || kind === 'unavailable',
        )
      )
        return { client, found, refusals, lost: error.message }
      refusals.push(...error.refusals)
    }
  }
  return { client, found, refusals, lost: null }
}
