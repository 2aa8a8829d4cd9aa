/** Small pieces of every view: states, times, commands to copy, errors, links. Foreign text is only ever set as text. */
import type { ComponentChildren } from 'preact'
import { useState } from 'preact/hooks'
import type { CallError } from './api.ts'
import { harmless } from './ansi.ts'
import { linkTo, now } from './state.ts'
import { clockText, isoText, spanText } from './text.ts'

/** A sign beside each word, since not everybody tells colours apart. */
const SIGNS: Readonly<Record<string, readonly [sign: string, tone: string]>> = {
  complete: ['✓', 'good'],
  succeeded: ['✓', 'good'],
  running: ['▶', 'busy'],
  granted: ['▶', 'busy'],
  rebooting: ['↻', 'busy'],
  verifying: ['▶', 'busy'],
  held: ['■', 'bad'],
  failed: ['✗', 'bad'],
  unknown: ['?', 'bad'],
  waiting: ['◔', 'wait'],
  pending: ['○', 'calm'],
  planned: ['○', 'calm'],
  offered: ['○', 'calm'],
  ready: ['◍', 'calm'],
  skipped: ['–', 'calm'],
  cancelled: ['–', 'calm'],
  voided: ['–', 'calm'],
  online: ['●', 'good'],
  offline: ['○', 'wait'],
}

export function State({ of, text }: { readonly of: string; readonly text?: string }) {
  const [sign, tone] = SIGNS[of] ?? ['·', 'calm']
  return (
    <span class={`state ${tone}`}>
      <span aria-hidden="true">{sign}</span> {text ?? of}
    </span>
  )
}

/** Text that somebody else wrote. */
export function Foreign({ text }: { readonly text: string }) {
  return <bdi>{harmless(text)}</bdi>
}

export function Time({ at }: { readonly at: number }) {
  return (
    <time dateTime={isoText(at)} title={isoText(at)}>
      {clockText(at, now.value)}
    </time>
  )
}

/** How long ago, by the second. */
export function Since({ at }: { readonly at: number }) {
  return (
    <time dateTime={isoText(at)} title={isoText(at)}>
      {spanText(now.value - at)}
    </time>
  )
}

export function MachineLink({
  name,
  order,
  line,
}: {
  readonly name: string
  readonly order?: string | null
  readonly line?: number
}) {
  const parts = [name, ...(order == null ? [] : [order]), ...(order == null || line === undefined ? [] : [line])]
  return (
    <a class="name" href={linkTo('machine', ...parts)}>
      {harmless(name)}
    </a>
  )
}

export function ChangeLink({ change }: { readonly change: string | null }) {
  return change === null ? (
    <span class="name">no change yet</span>
  ) : (
    <a class="name" href={linkTo('project', change)}>
      {harmless(change)}
    </a>
  )
}

/** A command as it would be typed, with a button that copies it. */
export function Command({ text }: { readonly text: string }) {
  const [copied, setCopied] = useState('')
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text)
      setCopied('copied')
    } catch (error) {
      setCopied(`not copied: ${error instanceof Error ? error.message : 'mark it and copy it by hand'}`)
    }
  }
  return (
    <span class="command">
      <code>{harmless(text)}</code>
      <button type="button" class="quiet" onClick={() => void copy()} aria-label={`Copy ${text}`}>
        Copy
      </button>
      <span role="status" class="note">
        {copied}
      </span>
    </span>
  )
}

export function Problem({ error }: { readonly error: CallError | null }) {
  if (error === null) return null
  return (
    <div role="alert" class="panel bad">
      {error.refusals.map(({ message, remedy }) => (
        <p key={message}>
          <Foreign text={message} />
          <br />
          <span class="note">
            <Foreign text={remedy} />
          </span>
        </p>
      ))}
    </div>
  )
}

export function Panel({
  title,
  id,
  children,
}: {
  readonly title: string
  readonly id: string
  readonly children: ComponentChildren
}) {
  return (
    <section class="panel" aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      {children}
    </section>
  )
}

export function Loading({ what }: { readonly what: string }) {
  return (
    <p class="note" role="status">
      Loading {what} …
    </p>
  )
}

/** How a project's machines stand, as a bar and in words. */
export function Totals({ totals }: { readonly totals: Readonly<Record<string, number>> }) {
  const shown = TOTALS.map(([key, word, tone]) => ({ key, word, tone, count: totals[key] ?? 0 })).filter(
    ({ count }) => count > 0,
  )
  return (
    <div class="totals">
      <div class="bar" aria-hidden="true">
        {shown.map(({ key, tone, count }) => (
          <span key={key} class={`fill-${tone}`} style={{ flexGrow: count }} />
        ))}
      </div>
      <p class="note">{shown.map(({ word, count }) => `${count} ${word}`).join(', ')}</p>
    </div>
  )
}

const TOTALS = [
  ['pass', 'passed', 'good'],
  ['fail', 'failed', 'bad'],
  ['unknown', 'unknown', 'bad'],
  ['running', 'running', 'busy'],
  ['unstarted', 'not started', 'calm'],
  ['skipped', 'skipped', 'wait'],
  ['cancelled', 'cancelled', 'wait'],
] as const
