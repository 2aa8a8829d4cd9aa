/**
 * What a person typed, as Slack delivers it, made plain and read as a command. Pure. Slack turns host names into
 * links, pasted text brings no-break spaces, and phones curl the quotes: nobody sees that, so nobody is to mind it.
 */
import { nearestNames } from '../domain/nearest.ts'
import { CHANGE_PATTERN } from '../../protocol/ids.ts'

export const VERBS = ['patch', 'status', 'plan', 'logs', 'cancel', 'pause', 'resume', 'retry', 'skip', 'help'] as const
export type Verb = (typeof VERBS)[number]
/** Verbs of the command line that are not given in chat. */
const ELSEWHERE = ['approve', 'reject', 'resolve', 'freeze', 'unfreeze', 'machines', 'enrol', 'user', 'backup']

export type Said =
  | { readonly verb: Verb; readonly rest: string; readonly instance: string | null }
  | { readonly verb: 'elsewhere'; readonly word: string }
  /** No command; `nearest` is one that may have been meant. */
  | { readonly verb: null; readonly word: string; readonly nearest: string | null }

const INVISIBLE = /[\u200b-\u200f\u2060\ufeff\u00ad]/g
const ENTITIES: Readonly<Record<string, string>> = { '&amp;': '&', '&lt;': '<', '&gt;': '>' }

/** The text as it was typed: links are what they show, spaces and quotes are plain, entities are characters. */
export function plain(text: string): string {
  return text
    .replace(/<(mailto:|https?:\/\/|tel:)([^|>]*)(?:\|([^>]*))?>/g, (_, _scheme, rest: string, label?: string) =>
      label === undefined ? rest.replace(/\/$/, '') : label,
    )
    .replace(/<#([A-Z0-9]+)\|?([^>]*)>/g, (_, id: string, name: string) => `#${name === '' ? id : name}`)
    .replace(INVISIBLE, '')
    .replace(/[\u2018\u2019\u201a\u2032]/g, "'")
    .replace(/[\u201c\u201d\u201e\u2033]/g, '"')
    .replace(/[\u2010-\u2015\u2212]/g, (dash) => (dash === '\u2014' ? '--' : '-'))
    .replace(/&(amp|lt|gt);/g, (entity) => ENTITIES[entity] ?? entity)
    .replace(/\s+/g, ' ')
    .trim()
}

/** Reads a message to the bot: `<@U0BOT>`, its name, quotes and code marks around a command are left away. */
export function read(text: string, name: string): Said {
  const spoken = plain(text.replace(/^\s*(?:<@[A-Z0-9]+(?:\|[^>]*)?>[\s:,]*)+/, ''))
  const bare = spoken.replace(new RegExp(`^@?${name}[:,]?\\s+`, 'i'), '').replace(/^[`"']+|[`"']+$/g, '')
  const [, head = '', tail = ''] = /^(\S*)\s*([^]*)$/.exec(bare.trim()) ?? []
  const isTwoWords = /^smith$/i.test(head)
  const [, second = '', others = ''] = isTwoWords ? (/^(\S*)\s*([^]*)$/.exec(tail) ?? []) : []
  const word = (isTwoWords ? `smith-${second}` : head).toLowerCase()
  const verb = VERBS.find((one) => word === `smith-${one}`)
  if (verb === undefined) {
    const elsewhere = ELSEWHERE.find((one) => word === `smith-${one}`)
    if (elsewhere !== undefined) return { verb: 'elsewhere', word: elsewhere }
    const known = new Set(VERBS.map((one) => `smith-${one}`))
    const nearest = nearestNames(word.startsWith('smith') ? word : `smith-${word}`, known, 1)[0] ?? null
    return { verb: null, word: head.slice(0, 100), nearest }
  }
  const rest = isTwoWords ? others : tail
  const named = /(?:^|\s)instance:([a-z0-9][a-z0-9-]*)(?=\s|$)/i.exec(rest)
  const without = named === null ? rest : rest.replace(named[0], ' ')
  return { verb, rest: without.trim(), instance: named?.[1]?.toLowerCase() ?? null }
}

export type Steered = { readonly change: string; readonly machine: string | null; readonly reason: string }

/** `CHG0268453 [machine] [reason]`; the reason may stand behind `--reason` and in quotes, as on the command line. */
export function steered(rest: string, takesMachine: boolean): Steered | null {
  const words = rest.split(/\s+/)
  const change = (words.shift() ?? '').toUpperCase()
  if (!CHANGE_PATTERN.test(change)) return null
  const machine = takesMachine && !(words[0] ?? '--').startsWith('--') ? (words.shift() ?? '').toLowerCase() : null
  const reason = words
    .filter((word) => word !== '--reason')
    .join(' ')
    .replace(/^["']|["']$/g, '')
    .trim()
  return { change, machine, reason }
}
