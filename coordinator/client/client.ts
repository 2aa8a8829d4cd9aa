/**
 * One call of the HTTP interface: over a pinned TLS connection or the admin socket, by the names of ROUTES, both
 * ways checked with their schemas. Called by every verb, and by the bot. The invariants: nothing is repeated that could be done
 * twice, and an answer that was lost is said to be lost, never taken for a refusal.
 */
import { type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import * as v from 'valibot'
import { RefusedError } from '../../protocol/errors.ts'
import { PERSON_HEADER, ROUTES, type RouteName, problemSchema } from '../../protocol/http.ts'
import { connectPinned } from '../../protocol/pin.ts'
import { SLOW_ROUTES } from '../../protocol/slow-routes.ts'
import { ClientError, EXIT, usageError } from './failure.ts'
import { type Target, type Timers, wait } from './target.ts'
import { spanText } from './text.ts'

const ANSWER_BYTES_MAX = 256 * 1024 * 1024
const CONNECT_MS_MAX = 10_000
const RETRY_AFTER_MS_MAX = 10_000
const TRIES_MAX = 4
export const USER_AGENT = 'smith-cli'

export type Answer<Name extends RouteName> = v.InferOutput<(typeof ROUTES)[Name]['answer']>
type Body<Name extends RouteName> = (typeof ROUTES)[Name]['body'] extends infer Schema
  ? Schema extends v.GenericSchema
    ? v.InferInput<Schema>
    : undefined
  : never
export type Input<Name extends RouteName> = {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string | undefined>>
  readonly body?: Body<Name>
}
export type Client = {
  readonly target: Target
  readonly call: <Name extends RouteName>(name: Name, input?: Input<Name>) => Promise<Answer<Name>>
}
type Exchange = { readonly status: number; readonly retryAfterMs: number | null; readonly body: Buffer }
/** `sent` is true when the coordinator may have got the request. */
type Lost = { readonly lost: string; readonly sent: boolean; readonly remedy: string | null }

export function createClient(timers: Pick<Timers, 'after'>, target: Target): Client {
  return { target, call: (name, input) => callRoute(timers, target, name, input ?? {}) }
}

async function callRoute<Name extends RouteName>(
  timers: Pick<Timers, 'after'>,
  target: Target,
  name: Name,
  input: Input<Name>,
): Promise<Answer<Name>> {
  const route = ROUTES[name]
  const path = pathOf(route.path, input)
  const body = route.body === null ? null : JSON.stringify(checkedBody(route.body, input.body ?? {}))
  const isKeyed = name === 'requestMake' && body !== null && /"key":/.test(body)
  const repeatable = route.method === 'GET' || isKeyed
  const waitMs = Math.max(target.timeoutMs, SLOW_ROUTES.get(name) ?? 0)
  for (let tries = 1; ; tries += 1) {
    const exchange = await exchangeOnce(target, route.method, path, body, waitMs)
    if ('lost' in exchange) {
      // Once, and only what is the same thing when it is done twice.
      if (exchange.sent && repeatable && tries === 1) continue
      throw lostError(target, exchange, repeatable)
    }
    const pauseMs = exchange.status === 429 || (exchange.status === 503 && repeatable) ? exchange.retryAfterMs : null
    if (pauseMs !== null && pauseMs <= RETRY_AFTER_MS_MAX && tries < TRIES_MAX) {
      await wait(timers, pauseMs)
      continue
    }
    return answerOf(target, route.answer as v.GenericSchema<unknown, Answer<Name>>, exchange)
  }
}

function pathOf(template: string, input: Input<RouteName>): string {
  const path = template.replace(/:([a-z]+)/g, (_, key: string) => encodeURIComponent(input.params?.[key] ?? ''))
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(input.query ?? {})) if (value !== undefined) query.set(key, value)
  return query.size === 0 ? path : `${path}?${query.toString()}`
}

/** What a person typed and the interface would not take is a matter of usage, said before anything is sent. */
function checkedBody(schema: v.GenericSchema, body: unknown): unknown {
  const parsed = v.safeParse(schema, body)
  if (parsed.success) return parsed.output
  const issue = parsed.issues[0]
  throw usageError(`${v.getDotPath(issue) ?? 'the request'} can't be sent: ${issue.message}`, 'Correct the value.')
}

/** A connection on which HTTP can be spoken. Rejects with a ClientError (out of reach) or a RefusedError (wrong key). */
export async function openConnection(target: Target): Promise<Duplex> {
  const { reach } = target
  if (reach.kind === 'tls') {
    const timeoutMs = Math.min(CONNECT_MS_MAX, target.timeoutMs)
    return connectPinned({ host: reach.host, port: reach.port, pin: reach.pin, timeoutMs })
  }
  return new Promise((resolve, reject) => {
    const socket = connect(reach.path)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
    socket.once('error', reject)
  })
}

export function authorizationOf(target: Target): Record<string, string> {
  const person = target.person === undefined ? {} : { [PERSON_HEADER]: target.person }
  return target.reach.kind === 'tls' ? { authorization: `Bearer ${target.reach.token}`, ...person } : {}
}

export function hostOf(target: Target): string {
  if (target.reach.kind === 'socket') return 'localhost'
  const { host, port } = target.reach
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** What a failed connection is to a person: out of reach, but for a key that is not the pinned one. */
export function connectionFailure(target: Target, error: unknown): ClientError {
  const refusal = error instanceof RefusedError ? error.refusals[0] : undefined
  if (refusal !== undefined) return new ClientError(EXIT.unreachable, refusal.message, refusal.remedy, error)
  const why = error instanceof Error ? error.message : String(error)
  const at = target.reach.kind === 'socket' ? `the admin socket ${target.reach.path}` : hostOf(target)
  return new ClientError(
    EXIT.unreachable,
    `the coordinator at ${at} is out of reach: ${why}`,
    target.reach.kind === 'socket'
      ? 'Check that it runs on this machine (systemctl status smith-coordinator) and that you may use the socket.'
      : 'Check the address, that the coordinator runs, and that nothing in between blocks the port.',
    error,
  )
}

async function exchangeOnce(
  target: Target,
  method: string,
  path: string,
  body: string | null,
  waitMs: number,
): Promise<Exchange | Lost> {
  let connection: Duplex
  try {
    connection = await openConnection(target)
  } catch (error) {
    const failure = connectionFailure(target, error)
    return { lost: failure.message, sent: false, remedy: failure.remedy }
  }
  const headers: Record<string, string> = {
    host: hostOf(target),
    accept: 'application/json, application/problem+json',
    'user-agent': USER_AGENT,
    connection: 'close',
    ...authorizationOf(target),
    ...(body === null ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
  }
  return new Promise((resolve) => {
    const lose = (lost: string) => {
      clearTimeout(timer)
      connection.destroy()
      resolve({ lost: `${lost} (${hostOf(target)})`, sent: true, remedy: null })
    }
    const timer = setTimeout(() => lose(`no answer within ${spanText(waitMs)}`), waitMs)
    const call = request({ method, path, headers, createConnection: () => connection })
    call.once('error', (error) => lose(`the connection was lost: ${error.message}`))
    const take = async (response: IncomingMessage) => {
      try {
        const bytes = await collect(response)
        clearTimeout(timer)
        connection.destroy()
        resolve({ status: response.statusCode ?? 0, retryAfterMs: retryAfterOf(response), body: bytes })
      } catch (error) {
        lose(`the answer broke off: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
    call.once('response', (response) => void take(response))
    call.end(body ?? undefined)
  })
}

async function collect(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of response) {
    const bytes = chunk as Buffer
    size += bytes.length
    if (size > ANSWER_BYTES_MAX) throw new Error(`more than ${ANSWER_BYTES_MAX} bytes`)
    chunks.push(bytes)
  }
  return Buffer.concat(chunks)
}

/** Seconds only (RFC 9110 section 10.2.3 also knows a date, which the coordinator never sends). */
function retryAfterOf(response: IncomingMessage): number | null {
  const text = response.headers['retry-after']
  return text !== undefined && /^\d{1,6}$/.test(text) ? Number(text) * 1000 : null
}

function lostError(target: Target, lost: Lost, repeatable: boolean): ClientError {
  if (!lost.sent || repeatable) {
    return new ClientError(
      EXIT.unreachable,
      lost.lost,
      lost.remedy ?? `Check that the coordinator of ${target.name} runs, and try again.`,
    )
  }
  return new ClientError(
    EXIT.unreachable,
    `${lost.lost}; whether it was done is not known`,
    'Look first, with: smith status',
  )
}

function answerOf<T>(target: Target, schema: v.GenericSchema<unknown, T>, exchange: Exchange): T {
  const value = jsonOf(exchange.body)
  if (exchange.status >= 400) {
    const problem = v.safeParse(problemSchema, value)
    if (problem.success && problem.output.refusals.length > 0) {
      throw new RefusedError(problem.output.refusals.map(plainRefusal))
    }
    const again = exchange.retryAfterMs === null ? '' : ` in ${spanText(exchange.retryAfterMs)}`
    throw new ClientError(
      EXIT.refused,
      `the coordinator of ${target.name} answered ${exchange.status} without saying why`,
      exchange.status >= 500 ? `Try again${again}, and look at its own log.` : 'Compare the versions of both sides.',
    )
  }
  const answer = v.safeParse(schema, value)
  if (exchange.status >= 200 && exchange.status < 300 && answer.success) return answer.output
  // A newer coordinator may say more than this smith knows; what it knows is there, and no decision hangs on the rest.
  const saysMore =
    !answer.success && answer.issues.every((issue) => issue.type === 'strict_object' && issue.expected === 'never')
  if (exchange.status === 200 && saysMore) return value as T
  const where = answer.success ? `status ${exchange.status}` : (v.getDotPath(answer.issues[0]) ?? 'the whole')
  throw new ClientError(
    EXIT.refused,
    `the answer of ${target.name} is not one that this smith understands (${where})`,
    'Use the smith of the same version as the coordinator.',
  )
}

/** The schema's optional fields may be there and undefined; those of a Refusal may not. */
function plainRefusal(refusal: v.InferOutput<typeof problemSchema>['refusals'][number]) {
  const { subject, position, ...rest } = refusal
  return { ...rest, ...(subject === undefined ? {} : { subject }), ...(position === undefined ? {} : { position }) }
}

function jsonOf(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}
