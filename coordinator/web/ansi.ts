/**
 * What a program printed, as pieces of text that are safe to show: colours are kept as names of classes from a closed
 * set, and every other escape, control, bidirectional or invisible character is shown as what it is, never obeyed.
 * Pure; called by the log. The invariant: no piece holds a character that hides or reorders others.
 */

/** `mark`: not what was printed, but its name, such as `\x1b` or `\u{202e}`. */
export type Piece = { readonly text: string; readonly classes: string; readonly isMark: boolean }

type Colours = {
  readonly front: string
  readonly back: string
  readonly bold: boolean
  readonly faint: boolean
  readonly underlined: boolean
}

const PLAIN: Colours = { front: '', back: '', bold: false, faint: false, underlined: false }
const NAMES = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white']
/** First the colours of ECMA-48 section 8.3.117 (SGR), then any one character that must not act. */
const TOKEN =
  // oxlint-disable-next-line no-control-regex -- escape is what begins them
  /\u001b\[([0-9;]*)m|[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu

/** The pieces of one line; its line end is no part of them. Colours begin anew with each line. */
export function piecesOf(line: string): Piece[] {
  const text = line.replace(/\r?\n$/, '')
  const pieces: Piece[] = []
  let colours = PLAIN
  let at = 0
  const add = (piece: string, isMark: boolean) => {
    if (piece === '') return
    const last = pieces.at(-1)
    const classes = classesOf(colours)
    if (last !== undefined && last.isMark === isMark && last.classes === classes)
      pieces[pieces.length - 1] = { ...last, text: last.text + piece }
    else pieces.push({ text: piece, classes, isMark })
  }
  for (const match of text.matchAll(TOKEN)) {
    const [found, codes] = match
    add(text.slice(at, match.index), false)
    at = match.index + found.length
    if (codes !== undefined) colours = coloured(colours, codes)
    else if (found === '\t') add(found, false)
    else add(escapeOf(found), true)
  }
  add(text.slice(at), false)
  return pieces
}

/** The pieces with every occurrence of `needle` (whatever its case) in pieces of their own, of the class `found`. */
export function highlighted(pieces: readonly Piece[], needle: string): Piece[] {
  if (needle === '') return [...pieces]
  const wanted = needle.toLowerCase()
  return pieces.flatMap((piece) => {
    const lower = piece.text.toLowerCase()
    // Where lower case has another length the places would be wrong.
    if (lower.length !== piece.text.length) return [piece]
    const parts: Piece[] = []
    let at = 0
    for (let next = lower.indexOf(wanted); next >= 0; next = lower.indexOf(wanted, at)) {
      if (next > at) parts.push({ ...piece, text: piece.text.slice(at, next) })
      parts.push({
        ...piece,
        text: piece.text.slice(next, next + wanted.length),
        classes: `${piece.classes} found`.trim(),
      })
      at = next + wanted.length
    }
    if (at < piece.text.length) parts.push({ ...piece, text: piece.text.slice(at) })
    return parts
  })
}

/** One line of foreign text as a plain string, each character that must not act as its name. */
export function harmless(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu, (character) =>
    character === '\t' || character === '\n' ? character : escapeOf(character),
  )
}

function escapeOf(character: string): string {
  const code = character.codePointAt(0) ?? 0
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`
}

function coloured(before: Colours, codes: string): Colours {
  const numbers = codes.split(';').map(Number)
  let colours = before
  for (let index = 0; index < numbers.length; index += 1) {
    const code = numbers[index] ?? 0
    // A colour of 256 or of 16 million has no class: its numbers are passed over.
    if (code === 38 || code === 48) index += numbers[index + 1] === 5 ? 2 : 4
    else colours = withCode(colours, code)
  }
  return colours
}

function withCode(colours: Colours, code: number): Colours {
  if (code === 0) return PLAIN
  if (code === 1) return { ...colours, bold: true }
  if (code === 2) return { ...colours, faint: true }
  if (code === 4) return { ...colours, underlined: true }
  if (code === 22) return { ...colours, bold: false, faint: false }
  if (code === 24) return { ...colours, underlined: false }
  if (code === 39) return { ...colours, front: '' }
  if (code === 49) return { ...colours, back: '' }
  const name = NAMES[code % 10] ?? ''
  const tens = Math.floor(code / 10)
  if (name !== '' && (tens === 3 || tens === 9)) return { ...colours, front: name }
  if (name !== '' && (tens === 4 || tens === 10)) return { ...colours, back: name }
  return colours
}

function classesOf({ front, back, bold, faint, underlined }: Colours): string {
  return [
    front === '' ? '' : `ink-${front}`,
    back === '' ? '' : `paper-${back}`,
    bold ? 'bold' : '',
    faint ? 'faint' : '',
    underlined ? 'underlined' : '',
  ]
    .filter((name) => name !== '')
    .join(' ')
}
