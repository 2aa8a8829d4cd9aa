/** Natural order of names: runs of digits compare as numbers, so worker-2 stands before worker-10. */

const PIECES = /[0-9]+|[^0-9]+/g

/** Compares two names naturally; total, so that equal means identical. Digits of any length compare exactly. */
export function compareNaturally(left: string, right: string): number {
  const lefts = left.match(PIECES) ?? []
  const rights = right.match(PIECES) ?? []
  for (let index = 0; index < Math.min(lefts.length, rights.length); index += 1) {
    const a = lefts[index] ?? ''
    const b = rights[index] ?? ''
    const numeric = /^[0-9]/.test(a) && /^[0-9]/.test(b)
    const order = numeric ? compareDigits(a, b) : compareText(a, b)
    if (order !== 0) return order
  }
  return lefts.length - rights.length || compareText(left, right)
}

/** Compares by UTF-16 unit, the same on every machine whatever its locale. */
export function compareText(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0
}

function compareDigits(left: string, right: string): number {
  const a = left.replace(/^0+(?=.)/, '')
  const b = right.replace(/^0+(?=.)/, '')
  return a.length - b.length || compareText(a, b)
}
