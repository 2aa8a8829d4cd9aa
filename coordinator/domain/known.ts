/** What a source outside smith says of which machines there are. known-search.ts finds in it what a request means. */
import type { Instant } from './state.ts'

export type KnownMachine = {
  /** How the source tells it from others: `device 231`. */
  readonly id: string
  /** Lower case; null where the source knows an address only. */
  readonly name: string | null
  /** IP addresses, and other names by which the source reaches it; lower case. */
  readonly addresses: readonly string[]
  /** Why it is not to be patched, as the source has it: `planned`; null when it may be. */
  readonly barred: string | null
}
/** `source` is how a person names it. */
export type Known = { readonly source: string; readonly at: Instant } & (
  | { readonly machines: readonly KnownMachine[] }
  | { readonly problem: string; readonly remedy: string }
)
