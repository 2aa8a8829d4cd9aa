/** The names nearest to a mistyped one, for refusals that help. */
import { compareText } from '../../protocol/natural-order.ts'

/** At most `count` of `names` within a third of the word's length (and at least 2 edits), nearest first. */
export function nearestNames(word: string, names: Iterable<string>, count = 3): string[] {
  const reach = Math.max(2, Math.floor(word.length / 3))
  const found: { readonly name: string; readonly distance: number }[] = []
  for (const name of names) {
    if (Math.abs(name.length - word.length) > reach) continue
    const distance = editDistance(word, name, reach)
    if (distance <= reach) found.push({ name, distance })
  }
  return found
    .toSorted((a, b) => a.distance - b.distance || compareText(a.name, b.name))
    .slice(0, count)
    .map((entry) => entry.name)
}

/** Levenshtein's distance, or `reach + 1` as soon as it is certain to be more than `reach`. */
function editDistance(left: string, right: string, reach: number): number {
  let above = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let row = 1; row <= left.length; row += 1) {
    const line = [row]
    for (let column = 1; column <= right.length; column += 1) {
      const substitution = (above[column - 1] ?? 0) + (left[row - 1] === right[column - 1] ? 0 : 1)
      line.push(Math.min(substitution, (above[column] ?? 0) + 1, (line[column - 1] ?? 0) + 1))
    }
    if (Math.min(...line) > reach) return reach + 1
    above = line
  }
  return above[right.length] ?? reach + 1
}
