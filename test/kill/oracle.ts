/**
 * What is known before anyone could know it from smith: what was asked and approved, who was to be killed where, and
 * what a person decided. Each entry is on disk before the act that it tells of, in a file that nothing of smith
 * writes; the judge believes it, the packages' own account and what lies on the machines, and nothing else.
 */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs'
import type { Plan } from '../../protocol/plan.ts'
import type { Actor, Stage } from './stages.ts'

export type Entry =
  | { readonly what: 'asked'; readonly line: number; readonly text: string; readonly key: string }
  | {
      readonly what: 'raised'
      readonly change: string
      readonly digest: string
      readonly plans: Readonly<Record<string, { readonly planHash: string; readonly plan: Plan }>>
    }
  | { readonly what: 'approved'; readonly change: string; readonly digest: string }
  | { readonly what: 'retried'; readonly change: string; readonly machine: string; readonly order: string }
  | {
      readonly what: 'killed'
      readonly actor: Actor
      readonly pid: number
      readonly machine: string
      readonly order: string | null
      readonly stage: Stage
    }
  | { readonly what: 'began'; readonly seed: number }

export type Oracle = {
  readonly file: string
  /** On disk when it returns; the answer is the time that the entry bears. */
  readonly write: (entry: Entry) => number
  readonly entries: readonly (Entry & { readonly at: number })[]
  readonly close: () => void
}

export function openOracle(file: string): Oracle {
  const fd = openSync(file, 'a', 0o600)
  const entries: (Entry & { readonly at: number })[] = []
  return {
    file,
    entries,
    write: (entry) => {
      const dated = { at: Date.now(), ...entry }
      writeSync(fd, `${JSON.stringify(dated)}\n`)
      fsyncSync(fd)
      entries.push(dated)
      return dated.at
    },
    close: () => closeSync(fd),
  }
}
