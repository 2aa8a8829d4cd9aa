/**
 * Understands one line of a person: `<build> machines: <machine>... outage:<minutes> [key:value ...]`. Called by
 * planning.ts. It names everything that it does not understand at once, each with its place in the line, and looks
 * at no machine: selection.ts does.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { BUILD_PATTERN, MACHINE_NAME_PATTERN } from '../../protocol/ids.ts'
import { nearestNames } from './nearest.ts'
import { type Pace, paceOf } from './pace.ts'
import { EXAMPLE, KEYS, type Key, type Word, badValue, missing, shown } from './words.ts'

/** How one word names machines. `source` of a pattern is a regular expression, matched as `^(?:source)$`. */
export type MachineWord =
  | { readonly kind: 'name'; readonly name: string; readonly word: Word }
  | { readonly kind: 'address'; readonly address: string; readonly word: Word }
  | { readonly kind: 'pattern'; readonly source: string; readonly word: Word }

export type ParsedRequest = {
  readonly build: string
  readonly machines: readonly MachineWord[]
  readonly except: readonly MachineWord[]
  readonly outageMinutes: number
  readonly offline: 'refuse' | 'skip'
  readonly busy: 'refuse' | 'skip'
  readonly pace: Pace
}
export type ParseOutcome =
  | { readonly ok: true; readonly parsed: ParsedRequest }
  /** `parsed` is what was understood all the same, its build empty when there is none: its machines are looked at too. */
  | { readonly ok: false; readonly refusals: readonly Refusal[]; readonly parsed: ParsedRequest }

export const OUTAGE_MINUTES_MAX = 1440

export function parseRequest(text: string): ParseOutcome {
  const refusals: Refusal[] = []
  const words = wordsOf(text)
  if (words[0]?.text === 'smith-patch') words.shift()
  const values = new Map<Key, Word[]>()
  const build = takeBuild(words, text, refusals)
  let open: Key | null = null
  for (const word of words) {
    const found = keyOf(word)
    if (found === null) {
      if (open === null) refusals.push(notUnderstood(word))
      else {
        values.get(open)?.push(word)
        if (!takesMany(open)) open = null
      }
      continue
    }
    if (found.key === null) {
      refusals.push(unknownKey(found.name, word))
      open = null
      continue
    }
    if (values.has(found.key)) refusals.push(givenTwice(found.key, word))
    const value = found.value
    const kept = values.get(found.key) ?? []
    values.set(found.key, kept)
    if (value.text !== '') kept.push(value)
    open = takesMany(found.key) || value.text === '' ? found.key : null
  }
  return finish(text, build, values, refusals)
}

function finish(text: string, build: string | null, values: Map<Key, Word[]>, refusals: Refusal[]): ParseOutcome {
  const machines = machineWords(values.get('machines') ?? [], refusals)
  if ((values.get('machines') ?? []).length === 0) {
    refusals.push(missing('machines:', 'name at least one machine after machines:', text))
  }
  if (values.has('except') && (values.get('except') ?? []).length === 0) {
    refusals.push(
      missing('the machines after except:', 'name at least one machine after except:, or leave it out', text),
    )
  }
  const except = machineWords(values.get('except') ?? [], refusals)
  const outageMinutes = outageOf(values, text, refusals)
  const offline = skipOf('offline', values, text, refusals)
  const busy = skipOf('busy', values, text, refusals)
  const pace = paceOf(values, text, refusals)
  const parsed = { build: build ?? '', machines, except, outageMinutes: outageMinutes ?? 0, offline, busy, pace }
  return refusals.length > 0 ? { ok: false, refusals, parsed } : { ok: true, parsed }
}

function wordsOf(text: string): Word[] {
  return [...text.matchAll(/\S+/g)].map((match) => ({
    text: match[0],
    start: match.index,
    end: match.index + match[0].length,
  }))
}

/** The key of a word `key:value`; null when it is none. An IPv6 address has colons too and is no key. */
function keyOf(word: Word): { readonly key: Key | null; readonly name: string; readonly value: Word } | null {
  if (isIpv6(word.text)) return null
  const match = /^([A-Za-z][A-Za-z-]*):/.exec(word.text)
  if (match === null) return null
  const name = match[1] ?? ''
  const start = word.start + match[0].length
  const value = { text: word.text.slice(match[0].length), start, end: word.end }
  return { key: KEYS.find((key) => key === name.toLowerCase()) ?? null, name, value }
}

function takesMany(key: Key): boolean {
  return key === 'machines' || key === 'except'
}

function takeBuild(words: Word[], text: string, refusals: Refusal[]): string | null {
  const first = words[0]
  if (first === undefined || keyOf(first)?.key != null) {
    refusals.push(missing('the build', 'begin with prod or the number of a build', text))
    return null
  }
  words.shift()
  if (BUILD_PATTERN.test(first.text)) return first.text
  refusals.push({
    kind: 'bad-value',
    message: `${shown(first)} is no build`,
    subject: shown(first),
    position: { start: first.start, end: first.end },
    remedy: `begin with prod or the number of a build; ${EXAMPLE}`,
  })
  return null
}

function machineWords(words: readonly Word[], refusals: Refusal[]): MachineWord[] {
  return words.flatMap((word) => {
    const machine = machineWord(word)
    if (machine !== null) return [machine]
    refusals.push({
      kind: 'bad-value',
      message: `${shown(word)} is no name, address or pattern of machines`,
      subject: shown(word),
      position: { start: word.start, end: word.end },
      remedy: 'separate machines by spaces; a name has letters, digits, - and .; a pattern * ? or a regular expression',
    })
    return []
  })
}

/** Tells a name, an address and the two kinds of pattern apart (DESIGN: "In a token . and - are plain characters"). */
export function machineWord(word: Word): MachineWord | null {
  const text = word.text
  if (text.length > 2 && text.startsWith('/') && text.endsWith('/')) {
    return { kind: 'pattern', source: text.slice(1, -1), word }
  }
  if (isIpv4(text) || isIpv6(text)) return { kind: 'address', address: normalAddress(text), word }
  if (/[[\](){}|+^$\\]|\.[*+?]/.test(text)) return { kind: 'pattern', source: text, word }
  if (/[*?]/.test(text)) {
    if (!/^[A-Za-z0-9.*?-]+$/.test(text)) return null
    const source = text
      .toLowerCase()
      .replaceAll('.', String.raw`\.`)
      .replaceAll('*', '.*')
      .replaceAll('?', '.')
    return { kind: 'pattern', source, word }
  }
  const name = text.toLowerCase()
  return MACHINE_NAME_PATTERN.test(name) ? { kind: 'name', name, word } : null
}

function isIpv4(text: string): boolean {
  const parts = text.split('.')
  return parts.length === 4 && parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255)
}

function isIpv6(text: string): boolean {
  const groups = text.split('::')
  if (!/^[0-9A-Fa-f:]+(:[0-9.]+)?$/.test(text) || !text.includes(':') || groups.length > 2) return false
  const parts = groups.flatMap((group) => (group === '' ? [] : group.split(':')))
  const fits = parts.every(
    (part, index) => /^[0-9A-Fa-f]{1,4}$/.test(part) || (index === parts.length - 1 && isIpv4(part)),
  )
  return (
    fits && (groups.length === 2 ? parts.length < 8 : parts.length === 8 || (parts.length === 7 && text.includes('.')))
  )
}

/** The one form in which addresses are compared (RFC 5952), an IPv4 address mapped into IPv6 as IPv4. */
export function normalAddress(address: string): string {
  const lower = address.toLowerCase()
  if (!isIpv6(lower)) return lower
  const groups = ipv6Groups(lower)
  const [high = 0, low = 0] = groups.slice(6)
  if (groups.slice(0, 6).join(' ') === '0 0 0 0 0 65535') return [high >> 8, high & 255, low >> 8, low & 255].join('.')
  const text = groups.map((group) => group.toString(16)).join(':')
  // The longest run of at least two zeros is left out, the first of equal ones.
  const [zeros] = [...text.matchAll(/(?<![0-9a-f])0(:0)+(?![0-9a-f])/g)]
    .map((match) => match[0])
    .toSorted((a, b) => b.length - a.length)
  if (zeros === undefined) return text
  const at = new RegExp(`(?<![0-9a-f])${zeros}(?![0-9a-f])`).exec(text)?.index ?? 0
  return `${text.slice(0, at).replace(/:$/, '')}::${text.slice(at + zeros.length).replace(/^:/, '')}`
}

/** The eight groups of an address that isIpv6 accepts. */
function ipv6Groups(address: string): number[] {
  const numbers = (text: string) =>
    text.split(':').flatMap((part) => {
      if (part === '') return []
      if (!part.includes('.')) return [Number.parseInt(part, 16)]
      const [a = 0, b = 0, c = 0, d = 0] = part.split('.').map(Number)
      return [a * 256 + b, c * 256 + d]
    })
  const [head = '', tail] = address.split('::')
  const left = numbers(head)
  if (tail === undefined) return left
  const right = numbers(tail)
  return [...left, ...Array.from({ length: 8 - left.length - right.length }, () => 0), ...right]
}

function outageOf(values: Map<Key, Word[]>, text: string, refusals: Refusal[]): number | null {
  const word = values.get('outage')?.[0]
  if (word === undefined) {
    refusals.push(missing('outage:<minutes>', 'add outage:0, or the minutes of outage declared per machine', text))
    return null
  }
  if (/^[0-9]{1,4}$/.test(word.text) && Number(word.text) <= OUTAGE_MINUTES_MAX) return Number(word.text)
  const remedy = `give whole minutes from 0 to ${OUTAGE_MINUTES_MAX}; outage:0 means that no machine is rebooted`
  refusals.push(badValue('outage', word, 'is no number of minutes', remedy))
  return null
}

function skipOf(
  key: 'offline' | 'busy',
  values: Map<Key, Word[]>,
  text: string,
  refusals: Refusal[],
): 'refuse' | 'skip' {
  const words = values.get(key)
  if (words === undefined) return 'refuse'
  const word = words[0]
  if (word?.text === 'skip') return 'skip'
  if (word === undefined) refusals.push(missing(`the value of ${key}:`, `write ${key}:skip, or leave it out`, text))
  else refusals.push(badValue(key, word, 'is not understood', `the only value of ${key}: is skip`))
  return 'refuse'
}

function notUnderstood(word: Word): Refusal {
  return {
    kind: 'syntax',
    message: `${shown(word)} is not understood here`,
    subject: shown(word),
    position: { start: word.start, end: word.end },
    remedy: `machines stand after machines:; ${EXAMPLE}`,
  }
}

function unknownKey(name: string, word: Word): Refusal {
  const nearest = nearestNames(name.toLowerCase(), KEYS, 1)[0]
  const short = shown({ ...word, text: name })
  return {
    kind: 'unknown-key',
    message: `${short}: is no key of a request`,
    subject: short,
    position: { start: word.start, end: word.start + name.length + 1 },
    remedy:
      nearest === undefined ? `the keys are ${KEYS.map((key) => `${key}:`).join(' ')}` : `did you mean ${nearest}: ?`,
  }
}

function givenTwice(key: Key, word: Word): Refusal {
  return {
    kind: 'duplicate-key',
    message: `${key}: is given twice`,
    subject: key,
    position: { start: word.start, end: word.end },
    remedy: takesMany(key) ? `put all machines after one ${key}:` : `give ${key}: once`,
  }
}
