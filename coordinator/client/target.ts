/**
 * One coordinator, how it is reached, and the time and chance that reaching it needs. Made by the CLI of a person's
 * file, and by the bot of the coordinator's configuration. Whoever has a Target can call every route.
 */

export type Target = {
  readonly name: string
  readonly timeoutMs: number
  readonly reach:
    | { readonly kind: 'socket'; readonly path: string }
    | {
        readonly kind: 'tls'
        readonly host: string
        readonly port: number
        readonly pin: string
        readonly token: string
      }
  /** The person for whom a bot asks; only a token with the role `bot` may name one. */
  readonly person?: string
}

export type Timers = {
  /** Calls back once; the answer cancels it. */
  readonly after: (delayMs: number, callback: () => void) => () => void
  /** A whole number from 0 to `limit`, exclusive. */
  readonly randomBelow: (limit: number) => number
}

export function wait(timers: Pick<Timers, 'after'>, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    timers.after(delayMs, resolve)
  })
}

/** Waits for the time or for the end, whichever comes first, and leaves nothing behind. */
export function waitUnless(timers: Pick<Timers, 'after'>, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      cancel()
      signal.removeEventListener('abort', end)
      resolve()
    }
    const cancel = timers.after(delayMs, end)
    if (signal.aborted) end()
    else signal.addEventListener('abort', end)
  })
}

/** Host and port of `https://HOST[:PORT]`, null for anything else. */
export function parseUrl(text: string): { readonly host: string; readonly port: number } | null {
  if (!URL.canParse(text)) return null
  const url = new URL(text)
  const isBare = url.pathname === '/' && url.search === '' && url.hash === '' && url.username === ''
  if (url.protocol !== 'https:' || !isBare || url.hostname === '') return null
  // Only a port that is written out counts: without one it is smith's, not that of the web.
  const written = /:(\d+)\/?$/.exec(text)?.[1]
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port: written === undefined ? 7600 : Number(written) }
}
