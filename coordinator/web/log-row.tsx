/** One record of a log as one row: its number with its address, time, step, and its text made safe. */
import type { RunRecord } from '../../protocol/files.ts'
import { highlighted, piecesOf } from './ansi.ts'
import { Foreign } from './parts.tsx'
import { now } from './state.ts'
import { clockText } from './text.ts'

type Given = {
  readonly n: number
  readonly record: RunRecord | undefined
  readonly before: RunRecord | undefined
  readonly isChosen: boolean
  readonly needle: string
  readonly goTo: (n: number) => void
}

export function LogRow({ n, record, before, isChosen, needle, goTo }: Given) {
  const step = record === undefined || !('step' in record) ? '' : record.step
  const stepBefore = before !== undefined && 'step' in before ? before.step : ''
  return (
    <span role="cell" class={`record ${record?.type ?? 'absent'} ${isChosen ? 'chosen' : ''}`} data-n={n}>
      <button type="button" class="number" tabIndex={-1} aria-label={`Link to line ${n}`} onClick={() => goTo(n)}>
        {n}
      </button>
      <span class="time">{record === undefined ? '' : clockText(record.at, now.value)}</span>
      <span class="step">{step === stepBefore ? '' : step}</span>
      <span class="text">{record === undefined ? '…' : <Text record={record} needle={needle} />}</span>
    </span>
  )
}

function Text({ record, needle }: { readonly record: RunRecord; readonly needle: string }) {
  switch (record.type) {
    case 'line': {
      const pieces = highlighted(piecesOf('text' in record ? record.text : textOf(record.base64)), needle)
      return (
        <bdi>
          {pieces.map((piece, index) => (
            <span key={index} class={piece.isMark ? 'mark' : piece.classes}>
              {piece.text}
            </span>
          ))}
        </bdi>
      )
    }
    case 'step':
      return <>step {record.step}</>
    case 'progress':
      return (
        <>
          {Math.floor(record.percent)}% <Foreign text={record.label} />
        </>
      )
    case 'note':
      return <Foreign text={record.text} />
    case 'hole':
      return (
        <>
          {record.bytes} bytes are missing here ({record.reason === 'bound' ? 'over the bound' : 'power cut'})
        </>
      )
    case 'result':
      return (
        <>
          {record.outcome}
          {record.cause !== null && ` (${record.cause})`}: <Foreign text={record.message} />
        </>
      )
    default:
      return record satisfies never
  }
}

/** Bytes that are no UTF-8: what can't be decoded is shown as the sign for that (U+FFFD). */
function textOf(base64: string): string {
  return new TextDecoder().decode(Uint8Array.from(atob(base64), (letter) => letter.codePointAt(0) ?? 0))
}
