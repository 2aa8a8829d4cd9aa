/**
 * What a person reads: text of packages and of other people made harmless, durations, sizes, widths, tables and the
 * caret under a place. Pure; every verb prints through it.
 */
import { UNSAFE, visible } from '../../protocol/visible.ts'

export { visible }

/** The same for text of several lines: only the line ends survive. */
export function visibleText(text: string): string {
  return text.split('\n').map(visible).join('\n')
}

/** The same for bytes that may be no UTF-8: what can't be decoded is shown byte by byte. */
export function visibleBytes(bytes: Buffer): string {
  if (isUtf8(bytes)) return visible(bytes.toString('utf8'))
  const pieces: string[] = []
  let from = 0
  while (from < bytes.length) {
    const length = sequenceLength(bytes[from] ?? 0)
    const piece = bytes.subarray(from, from + length)
    const whole = piece.length === length && isUtf8(piece)
    pieces.push(whole ? visible(piece.toString('utf8')) : `\\x${hex(bytes[from] ?? 0, 2)}`)
    from += whole ? length : 1
  }
  return pieces.join('')
}

/** JSON in which no character acts on a terminal; it stays the same value for a program. */
export function jsonText(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(UNSAFE, (character) => {
    if (character === '\n') return character
    return [...Array(character.length).keys()].map((at) => `\\u${hex(character.charCodeAt(at), 4)}`).join('')
  })
}

const hex = (code: number, digits: number) => code.toString(16).padStart(digits, '0')

function isUtf8(bytes: Buffer): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return true
  } catch (error) {
    if (error instanceof TypeError) return false
    throw error
  }
}

function sequenceLength(lead: number): number {
  if (lead >= 0xf0) return 4
  if (lead >= 0xe0) return 3
  return lead >= 0xc0 ? 2 : 1
}

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]/u

/** How many cells of a terminal a line takes that went through `visible` and bears no colour. */
export function widthOf(line: string): number {
  let width = 0
  for (const character of line) width += cellsOf(character)
  return width
}

function cellsOf(character: string): number {
  if (character < '\u0300') return 1
  if (/\p{M}/u.test(character)) return 0
  return WIDE.test(character) ? 2 : 1
}

/** The line cut to `columns` cells, ending in `...` when something was cut. */
export function fit(line: string, columns: number): string {
  const flat = line.replaceAll('\t', '    ')
  if (widthOf(flat) <= columns) return flat
  const dots = columns > 3 ? '...' : ''
  let width = 0
  let kept = ''
  for (const character of flat) {
    width += cellsOf(character)
    if (width > columns - dots.length) break
    kept += character
  }
  return kept + dots
}

const pad = (cell: string, width: number) => cell + ' '.repeat(Math.max(0, width - widthOf(cell)))

/** Rows under a heading, each column as wide as its widest cell; the last column is not padded. */
export function tableLines(heading: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = [heading, ...rows].map((row) => row.map(visible))
  const widths = heading.map((_, column) => Math.max(...all.map((row) => widthOf(row[column] ?? ''))))
  return all.map((row) =>
    row
      .map((cell, column) => pad(cell, widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const

/** Milliseconds of `90s`, `1h`, `2d`, `1h30m`; null when it is no duration. */
export function parseDuration(text: string): number | null {
  if (!/^(\d{1,9}(ms|[smhdw]))+$/.test(text)) return null
  let sum = 0
  for (const [, digits, unit] of text.matchAll(/(\d+)(ms|[smhdw])/g)) {
    sum += Number(digits) * UNIT_MS[unit as keyof typeof UNIT_MS]
  }
  return Number.isSafeInteger(sum) ? sum : null
}

/** A time span in its two largest units: `45s`, `3m 20s`, `2h 5m`, `3d 4h`. */
export function spanText(spanMs: number): string {
  const seconds = Math.max(0, Math.floor(spanMs / 1000))
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return joined(Math.floor(seconds / 60), 'm', seconds % 60, 's')
  if (seconds < 86_400) return joined(Math.floor(seconds / 3600), 'h', Math.floor((seconds % 3600) / 60), 'm')
  return joined(Math.floor(seconds / 86_400), 'd', Math.floor((seconds % 86_400) / 3600), 'h')
}

const joined = (large: number, largeUnit: string, small: number, smallUnit: string) =>
  small === 0 ? `${large}${largeUnit}` : `${large}${largeUnit} ${small}${smallUnit}`

/** Bytes as apt says them: decimal units. */
export function sizeText(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`
  const units = ['kB', 'MB', 'GB', 'TB']
  let size = bytes / 1000
  let unit = 0
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000
    unit += 1
  }
  return `${size < 9.95 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`
}

/** `1 machine`, `3 machines`. */
export function countText(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

const two = (value: number) => String(value).padStart(2, '0')

/** The time of day in the zone of whoever reads. */
export function clockText(at: number): string {
  const date = new Date(at)
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
}

/** Day and time of day in the zone of whoever reads. */
export function dayText(at: number): string {
  const date = new Date(at)
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clockText(at)}`
}

/** The asked text with `^^^` under the place, both moved so that the place is inside `columns`. */
export function caretLines(
  text: string,
  position: { readonly start: number; readonly end: number },
  columns: number,
): readonly [string, string] {
  const start = Math.min(Math.max(0, position.start), text.length)
  const end = Math.min(Math.max(start, position.end), text.length)
  const before = Array.from(flatten(text.slice(0, start)))
  const place = Array.from(flatten(text.slice(start, end)))
  const after = flatten(text.slice(end))
  const room = Math.max(20, columns)
  const placeRoom = Math.max(1, Math.floor(room / 2))
  const shownPlace = place.slice(0, placeRoom).join('')
  const beforeRoom = Math.max(3, room - widthOf(shownPlace) - Math.min(10, widthOf(after)))
  const cut = widthOf(before.join('')) > beforeRoom
  if (cut) while (widthOf(before.join('')) > beforeRoom - 3) before.shift()
  const shownBefore = (cut ? '...' : '') + before.join('')
  const line = fit(shownBefore + shownPlace + (place.length > placeRoom ? '...' : after), room)
  return [line, ' '.repeat(widthOf(shownBefore)) + '^'.repeat(Math.max(1, widthOf(shownPlace)))]
}

const flatten = (text: string) => visible(text).replaceAll('\t', ' ')
