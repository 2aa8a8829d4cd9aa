/**
 * A block of lines at the bottom of a terminal that is drawn anew in place, with ordinary lines above it. Called by
 * whoever waits. The invariants: the cursor is shown again however the program ends, and no line is wider than the
 * terminal, so that the block's height is known.
 */
import { type Io, columnsOf } from './io.ts'
import { fit, widthOf } from '../client/text.ts'

export type Live = {
  /** Plain lines, `paint` is applied to each after it was cut to the width. */
  readonly draw: (lines: readonly LiveLine[]) => void
  /** Ends with the block's last state left standing, or wiped. */
  readonly end: (keep: boolean) => void
}
export type LiveLine = { readonly text: string; readonly paint?: (text: string) => string }

const HIDE = '\x1b[?25l'
const SHOW = '\x1b[?25h'

export function createLive(io: Io): Live {
  const { stdout } = io
  let shown: string[] = []
  let last: readonly LiveLine[] = []
  let ended = false
  const restore = () => {
    if (!ended) stdout.write(SHOW)
  }
  process.once('exit', restore)
  stdout.write(HIDE)

  /** A narrower terminal has wrapped what stood there, so the rows are counted at the width of now. */
  const rewind = () => {
    const columns = columnsOf(stdout)
    const rows = shown.reduce((sum, line) => sum + Math.max(1, Math.ceil(widthOf(line) / columns)), 0)
    return rows === 0 ? '' : `\x1b[${rows}A\r\x1b[J`
  }
  const draw = (lines: readonly LiveLine[]) => {
    last = lines
    const columns = columnsOf(stdout) - 1
    const cut = lines
      .slice(0, Math.max(3, (stdout.rows ?? 24) - 1))
      .map((line) => ({ ...line, text: fit(line.text, columns) }))
    const next = cut.map((line) => line.text)
    if (next.join('\n') === shown.join('\n')) return
    stdout.write(`${rewind()}${cut.map((line) => `${(line.paint ?? ((text) => text))(line.text)}\n`).join('')}`)
    shown = next
  }
  const onResize = () => {
    stdout.write(rewind())
    shown = []
    draw(last)
  }
  stdout.on('resize', onResize)
  return {
    draw,
    end: (keep) => {
      stdout.write(`${keep ? '' : rewind()}${SHOW}`)
      stdout.off('resize', onResize)
      process.off('exit', restore)
      ended = true
    },
  }
}
