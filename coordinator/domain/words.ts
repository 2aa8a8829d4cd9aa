/**
 * The words of a request's line with their places, and the refusals that point at them. Shared by the readers of a
 * line: request.ts (which machines) and pace.ts (how the project goes).
 */
import type { Refusal } from '../../protocol/errors.ts'

/** A word of the line and its place in it, in UTF-16 units, `end` exclusive. */
export type Word = { readonly text: string; readonly start: number; readonly end: number }

export const KEYS = [
  'machines',
  'outage',
  'offline',
  'busy',
  'except',
  'phases',
  'soak',
  'on-failure',
  'max-failures',
  'window',
] as const
export type Key = (typeof KEYS)[number]
/** What stands after each key that was given; no words for a key without a value. */
export type Values = ReadonlyMap<Key, readonly Word[]>

export const EXAMPLE = 'for example: smith-patch prod machines: prod-dal10-carrier3-worker-* outage:0'

const SHOWN_MAX = 200

/** A word as a refusal quotes it, which must not grow with what was pasted. */
export function shown(word: Word): string {
  return word.text.length > SHOWN_MAX ? `${word.text.slice(0, SHOWN_MAX)}...` : word.text
}

export function missing(what: string, remedy: string, text: string): Refusal {
  return {
    kind: 'syntax',
    message: `${what} is missing`,
    position: { start: text.length, end: text.length + 1 },
    remedy: `${remedy}; ${EXAMPLE}`,
  }
}

/** A value that is not understood: its word is what a person sees with a caret under it. */
export function badValue(key: Key, word: Word, problem: string, remedy: string): Refusal {
  return {
    kind: 'bad-value',
    message: `${key}:${shown(word)} ${problem}`,
    subject: shown(word),
    position: { start: word.start, end: word.end },
    remedy,
  }
}
