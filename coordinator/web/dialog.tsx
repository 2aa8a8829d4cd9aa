/**
 * A button for something that changes the state, with a dialogue that says what it will do and the command that does
 * the same. Nothing is sent before a person has confirmed it; a refusal is shown with its remedy.
 */
import { useEffect, useRef, useState } from 'preact/hooks'
import type { RouteName } from '../../protocol/http.ts'
import { CallError, type Input, call } from './api.ts'
import { Command, Foreign, Problem } from './parts.tsx'

export type Action = {
  readonly label: string
  /** What it does, as a sentence. */
  readonly about: string
  readonly command: string
  readonly name: RouteName
  readonly input: Input
  /** Whether a reason is asked for: it must be given, it may be, or there is none. */
  readonly reason: 'needed' | 'allowed' | 'none'
  readonly tone?: 'strong' | 'danger' | 'quiet'
}

export function ActionButton({ action }: { readonly action: Action }) {
  const [isOpen, setOpen] = useState(false)
  return (
    <>
      <button type="button" class={action.tone ?? ''} onClick={() => setOpen(true)}>
        {action.label}
      </button>
      {isOpen && <Confirm action={action} close={() => setOpen(false)} />}
    </>
  )
}

function Confirm({ action, close }: { readonly action: Action; readonly close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const [reason, setReason] = useState('')
  const [error, setError] = useState<CallError | null>(null)
  const [isBusy, setBusy] = useState(false)
  useEffect(() => dialog.current?.showModal(), [])
  const confirm = async (event: Event) => {
    event.preventDefault()
    setBusy(true)
    try {
      const given = reason.trim()
      const body = { ...(action.input.body as object), ...(given === '' ? {} : { reason: given }) }
      await call(action.name, { ...action.input, body })
      dialog.current?.close()
    } catch (refused) {
      if (!(refused instanceof CallError)) throw refused
      setError(refused)
      setBusy(false)
    }
  }
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="ask">
      <form onSubmit={(event) => void confirm(event)}>
        <h2 id="ask">{action.label}?</h2>
        <p>
          <Foreign text={action.about} />
        </p>
        {action.reason !== 'none' && (
          <p>
            <label for="reason">Reason{action.reason === 'allowed' ? ' (if you like)' : ''}</label>
            <input
              id="reason"
              value={reason}
              maxLength={500}
              required={action.reason === 'needed'}
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          </p>
        )}
        <p class="note">
          The same as: <Command text={action.command} />
        </p>
        <Problem error={error} />
        <p class="buttons">
          <button type="submit" class={action.tone === 'danger' ? 'danger' : 'strong'} disabled={isBusy}>
            {action.label}
          </button>
          <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
            Not now
          </button>
        </p>
      </form>
    </dialog>
  )
}
