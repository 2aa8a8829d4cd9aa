/**
 * Where a key stands in a TOML file. The parser gives values without their places, and an error without its line
 * sends a person searching; so the lines are read once more here, for keys and section headers only. What it can't
 * place (a key inside an inline table) gets the line of the nearest key around it; it decides nothing else.
 */

/** The line (from 1) of a key by its path, or of the nearest table or key around it; null when none is there. */
export function lineOfKey(text: string, path: readonly string[]): number | null {
  const places = placesOf(text)
  for (let length = path.length; length > 0; length -= 1) {
    const line = places.get(JSON.stringify(path.slice(0, length)))
    if (line !== undefined) return line
  }
  return null
}

const BARE_OR_QUOTED = String.raw`(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')`
const DOTTED = String.raw`${BARE_OR_QUOTED}(?:\s*\.\s*${BARE_OR_QUOTED})*`
const HEADER = new RegExp(String.raw`^\s*\[\[?\s*(${DOTTED})\s*\]`)
const KEY = new RegExp(String.raw`^\s*(${DOTTED})\s*=(.*)$`)

function placesOf(text: string): ReadonlyMap<string, number> {
  const places = new Map<string, number>()
  const lists = new Map<string, number>()
  let table: readonly string[] = []
  let closing: string | null = null
  for (const [index, line] of text.split('\n').entries()) {
    if (closing !== null) {
      // Inside a multi-line string nothing is a key.
      if (line.includes(closing)) closing = null
      continue
    }
    const header = HEADER.exec(line)?.[1]
    const pair = KEY.exec(line)
    if (header !== undefined) table = partsOf(header)
    if (header !== undefined && line.trimStart().startsWith('[[')) {
      // The tables of a list bear their number, from 1, behind its name.
      if (!places.has(JSON.stringify(table))) places.set(JSON.stringify(table), index + 1)
      lists.set(header, (lists.get(header) ?? 0) + 1)
      table = [...table, String(lists.get(header))]
    }
    const path = pair?.[1] === undefined ? table : [...table, ...partsOf(pair[1])]
    if (header === undefined && pair === null) continue
    const name = JSON.stringify(path)
    if (!places.has(name)) places.set(name, index + 1)
    closing = opensString(pair?.[2] ?? '')
  }
  return places
}

/** The quotes that end a multi-line string which begins on this line and does not end on it. */
function opensString(value: string): string | null {
  const quotes = /^\s*("""|''')/.exec(value)?.[1]
  if (quotes === undefined) return null
  return value.indexOf(quotes, value.indexOf(quotes) + 3) < 0 ? quotes : null
}

function partsOf(dotted: string): readonly string[] {
  return [...dotted.matchAll(new RegExp(BARE_OR_QUOTED, 'g'))].map(([part]) => {
    if (part.startsWith("'")) return part.slice(1, -1)
    return part.startsWith('"') ? unquote(part) : part
  })
}

/** A basic string's escapes are JSON's and a few more; one of those only costs the exact line. */
function unquote(part: string): string {
  try {
    return String(JSON.parse(part))
  } catch {
    return part.slice(1, -1)
  }
}
