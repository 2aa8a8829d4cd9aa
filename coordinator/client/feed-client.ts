/**
 * The feed as one unbroken stream: connects, continues where it was after every loss, and tells of a changed epoch.
 * Called by `feed`, `logs --follow`, `status --watch` and `patch --wait`. The invariant: a row is handed on at most
 * once and in the order of `rev`; what would be a gap is told, never passed over.
 */
import type { IncomingMessage } from 'node:http'
import * as v from 'valibot'
import type { WebSocket } from 'ws'
import { RefusedError, unreachable } from '../../protocol/errors.ts'
import { FEED_SUBPROTOCOL, type FeedRow, feedFrameSchema } from '../../protocol/feed.ts'
import { problemSchema } from '../../protocol/http.ts'
import { USER_AGENT, authorizationOf, connectionFailure, hostOf, openConnection } from './client.ts'
import { ClientError, EXIT } from './failure.ts'
import { type Target, type Timers, wait } from './target.ts'

const FRAME_BYTES_MAX = 16 * 1024 * 1024
const PING_MS = 15_000
const SILENCE_MS_MAX = 45_000
const BACK_OFF_MS = 250
const BACK_OFF_MS_MAX = 15_000
/** Rows that wait for a slow reader before the connection is paused. */
const WAITING_ROWS_MAX = 256

export type FeedEvents = {
  /** After each (re)connection; `epochWas` is set when the database was restored in between. */
  readonly onHello: (hello: { readonly rev: number; readonly epoch: string; readonly epochWas: string | null }) => void
  readonly onRow: (row: FeedRow) => Promise<void> | void
  /** Rows `from` to `upTo` did not come. */
  readonly onGap: (from: number, upTo: number) => void
  readonly onLost: (why: string) => void
}
/** `exact` is false right after another epoch began: the next row may then have any number. */
type Position = { epoch: string; rev: number; exact: boolean }
type End = { readonly fatal: Error | null; readonly why: string; readonly greeted: boolean }

/** Runs until `signal` is aborted; rejects only when trying again is no use. */
export async function followFeed(
  timers: Timers,
  target: Target,
  from: { readonly epoch: string; readonly since: number },
  events: FeedEvents,
  signal: AbortSignal,
): Promise<void> {
  const position: Position = { epoch: from.epoch, rev: from.since, exact: true }
  let failures = 0
  while (!signal.aborted) {
    const end = await connectOnce(timers, target, position, events, signal)
    if (signal.aborted) return
    if (end.fatal !== null) throw end.fatal
    events.onLost(end.why)
    failures = end.greeted ? 0 : failures + 1
    const bound = Math.min(BACK_OFF_MS_MAX, BACK_OFF_MS * 2 ** Math.min(failures, 10))
    // Full jitter: after a restart of the coordinator not everybody comes back at once.
    await Promise.race([wait(timers, timers.randomBelow(bound) + 20), aborted(signal)])
  }
}

async function connectOnce(
  timers: Timers,
  target: Target,
  position: Position,
  events: FeedEvents,
  signal: AbortSignal,
): Promise<End> {
  let connection
  try {
    connection = await openConnection(target)
  } catch (error) {
    const failure = connectionFailure(target, error)
    const isWrongKey = error instanceof RefusedError && error.refusals[0]?.kind === 'not-allowed'
    return { fatal: isWrongKey ? failure : null, why: failure.message, greeted: false }
  }
  const opened = connection
  // Loaded when it is needed: most verbs never open the feed, and each run of the CLI would pay for it.
  const ws = await import('ws')
  const socket = new ws.WebSocket(
    `ws://${hostOf(target)}/feed?since=${position.rev}&epoch=${position.epoch}`,
    FEED_SUBPROTOCOL,
    {
      createConnection: () => opened as never,
      headers: { 'user-agent': USER_AGENT, ...authorizationOf(target) },
      perMessageDeflate: false,
      maxPayload: FRAME_BYTES_MAX,
      handshakeTimeout: target.timeoutMs,
    },
  )
  const stop = () => socket.terminate()
  signal.addEventListener('abort', stop)
  try {
    return await listen(timers, socket, position, events)
  } finally {
    signal.removeEventListener('abort', stop)
    opened.destroy()
  }
}

function listen(timers: Timers, socket: WebSocket, position: Position, events: FeedEvents): Promise<End> {
  return new Promise((resolve) => {
    let greeted = false
    let heard = true
    let why = 'the connection was closed'
    let fatal: Error | null = null
    let waiting = 0
    let chain = Promise.resolve()
    let cancelPing = () => {}
    const fail = (error: Error) => {
      fatal = error
      socket.terminate()
    }
    const ping = (silentMs: number) => {
      cancelPing = timers.after(PING_MS, () => {
        const silence = heard ? 0 : silentMs + PING_MS
        heard = false
        if (silence >= SILENCE_MS_MAX) {
          why = 'the coordinator fell silent'
          socket.terminate()
          return
        }
        if (socket.readyState === socket.OPEN) socket.ping()
        ping(silence)
      })
    }
    ping(0)
    socket.on('ping', () => (heard = true))
    socket.on('pong', () => (heard = true))
    const handle = async (before: Promise<void>, data: WebSocket.RawData) => {
      await before
      try {
        const hello = await take(textOf(data), position, events)
        greeted ||= hello
      } catch (error) {
        fail(error instanceof Error ? error : new Error(String(error)))
      }
      waiting -= 1
      if (waiting === 0 && socket.isPaused) socket.resume()
    }
    socket.on('message', (data) => {
      heard = true
      if (fatal !== null) return
      waiting += 1
      if (waiting > WAITING_ROWS_MAX) socket.pause()
      // In a chain, so that a slow reader of stdout holds the rows up instead of mixing them.
      chain = handle(chain, data)
    })
    const onRefused = async (response: IncomingMessage) => {
      const end = await refusedHandshake(response)
      cancelPing()
      socket.terminate()
      resolve({ ...end, greeted })
    }
    socket.on('unexpected-response', (_, response) => void onRefused(response))
    socket.on('error', (error) => (why = error.message))
    const onClosed = async (closed: Error | null) => {
      cancelPing()
      await chain
      resolve({ fatal: fatal ?? closed, why, greeted })
    }
    socket.on('close', (code, reason) => void onClosed(closeError(code, reason.toString())))
  })
}

const textOf = (data: WebSocket.RawData): string =>
  Array.isArray(data) ? Buffer.concat(data).toString('utf8') : Buffer.from(data as Buffer).toString('utf8')

/** True for a hello. */
async function take(text: string, position: Position, events: FeedEvents): Promise<boolean> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw notUnderstood('no JSON', error)
  }
  const parsed = v.safeParse(feedFrameSchema, value)
  if (!parsed.success) throw notUnderstood(v.getDotPath(parsed.issues[0]) ?? 'the whole')
  const frame = parsed.output
  switch (frame.t) {
    case 'hello': {
      const epochWas = frame.resumed && frame.epoch === position.epoch ? null : position.epoch
      // The numbers of another epoch mean other rows, so nothing of the old position holds.
      if (epochWas !== null) Object.assign(position, { epoch: frame.epoch, rev: frame.rev, exact: false })
      events.onHello({ rev: frame.rev, epoch: frame.epoch, epochWas })
      return true
    }
    case 'row': {
      const { rev } = frame.row
      if (position.exact && rev <= position.rev) return false
      if (position.exact && rev > position.rev + 1) events.onGap(position.rev + 1, rev - 1)
      Object.assign(position, { rev, exact: true })
      await events.onRow(frame.row)
      return false
    }
    default:
      return unreachable(frame)
  }
}

function notUnderstood(where: string, cause?: unknown): ClientError {
  return new ClientError(
    EXIT.refused,
    `the feed sent a frame that this smith does not understand (${where})`,
    'Use the smith of the same version as the coordinator.',
    cause,
  )
}

/** A handshake answered with 4xx will be answered so again; one with 5xx may not. */
async function refusedHandshake(response: IncomingMessage): Promise<{ fatal: Error | null; why: string }> {
  const status = response.statusCode ?? 0
  const why = `the coordinator answered ${status}`
  const chunks: Buffer[] = []
  try {
    for await (const chunk of response) chunks.push(chunk as Buffer)
    if (status >= 500 || status === 429) return { fatal: null, why }
    const problem = v.safeParse(problemSchema, JSON.parse(Buffer.concat(chunks).toString('utf8')))
    const first = problem.success ? problem.output.refusals[0] : undefined
    if (first !== undefined) return { fatal: new ClientError(EXIT.refused, first.message, first.remedy), why }
  } catch (error) {
    if (!(error instanceof SyntaxError)) return { fatal: null, why }
  }
  return { fatal: new ClientError(EXIT.refused, `${why} to the feed`, 'Compare the versions of both sides.'), why }
}

/** Close codes that say that coming back is no use (protocol/errors.ts, CLOSE_CODES). */
function closeError(code: number, reason: string): Error | null {
  const said = reason === '' ? '' : `: ${reason}`
  if (code === 4401 || code === 4403) {
    return new ClientError(EXIT.refused, `the coordinator ended the feed${said}`, 'Log in again with: smith login')
  }
  if (code === 4400 || code === 4406) {
    return new ClientError(
      EXIT.refused,
      `the coordinator did not understand${said}`,
      'Use the smith of the same version as the coordinator.',
    )
  }
  return null
}

export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
