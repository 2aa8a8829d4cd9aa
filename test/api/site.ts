/**
 * The interface on real sockets for its tests: HTTPS and the admin socket before the real driver and core, the memory
 * store, and virtual time. Every answer is checked against the schema that its route promises, and every refusal
 * against the schema of problems, so no test passes on an answer that the protocol does not know.
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { type IncomingHttpHeaders, type RequestOptions, request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as v from 'valibot'
import { type RawData, WebSocket } from 'ws'
import { type Api, createApi } from '../../coordinator/api/api.ts'
import type { ApiPorts } from '../../coordinator/api/ports.ts'
import { renderStatus, statusOf } from '../../coordinator/domain/status.ts'
import type { Driver } from '../../coordinator/driver.ts'
import { type Keys, loadOrCreateKeys } from '../../coordinator/keys.ts'
import { createTools } from '../../coordinator/pattern.ts'
import { FEED_SUBPROTOCOL, type FeedFrame, feedFrameSchema } from '../../protocol/feed.ts'
import { type Problem, ROUTES, type Role, type RouteName, problemSchema } from '../../protocol/http.ts'
import { type World, type WorldOptions, createWorld } from '../coordinator/harness.ts'

const strong = { bytes: (count: number) => new Uint8Array(randomBytes(count)) }
const WAIT_MS_MAX = 20_000

let keysOnce: Promise<Keys> | null = null
/** One pair of keys for a whole test file: to make them takes longer than most tests. */
function makeKeys(): Promise<Keys> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-api-keys-'))
  const clock = { wallNow: () => Date.now() }
  keysOnce ??= loadOrCreateKeys({ dir: join(dir, 'keys'), instance: 'test', names: [], clock, random: strong })
  return keysOnce.finally(() => rmSync(dir, { recursive: true, force: true }))
}

export type Answered = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  /** The problem when it is one; a test that expects another answer fails on it. */
  readonly problem: Problem | null
}
export type Way = { readonly token?: string; readonly socket?: boolean; readonly headers?: Record<string, string> }
export type Given = Way & {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string>>
  readonly body?: unknown
}
export type Value<Name extends RouteName> = v.InferOutput<(typeof ROUTES)[Name]['answer']>

export type SiteOptions = WorldOptions & {
  readonly ports?: Partial<ApiPorts>
  /** Stands between the interface and the driver. */
  readonly driver?: (real: Driver) => Driver
}
export type Site = Awaited<ReturnType<typeof createSite>>

export async function createSite(options: SiteOptions = {}) {
  const world = await createWorld(options)
  const keys = await makeKeys()
  const folder = mkdtempSync(join(tmpdir(), 'smith-api-'))
  const socketPath = join(folder, 'admin.sock')
  const real = world.driver()
  const ports = portsOf(world, keys, options.driver?.(real) ?? real, options.ports)
  const api: Api = createApi(ports)
  const { port } = await api.listen({ host: '127.0.0.1', port: 0 })
  await api.listenSocket(socketPath)
  const at = (way: Way): RequestOptions =>
    way.socket === true
      ? { socketPath }
      : ({ host: '127.0.0.1', port, rejectUnauthorized: false, agent: false } as RequestOptions)
  const tokens = new Map<string, string>()
  const site = {
    world,
    api,
    keys,
    port,
    folder,
    socketPath,
    ports,
    /** Any request; the answer must be a problem whenever its status says no. */
    exchange: (method: string, path: string, given: Way & { readonly body?: string | Buffer } = {}) =>
      exchange(given.socket === true, { ...at(given), method, path, headers: headersOf(given) }, given.body),
    /** A call of a route, answered whatever comes. */
    ask: (name: RouteName, { params, query, body, ...way }: Given = {}): Promise<Answered> => {
      const path = pathOf(name, {
        ...(params === undefined ? {} : { params }),
        ...(query === undefined ? {} : { query }),
      })
      return site.exchange(ROUTES[name].method, path, {
        ...way,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    },
    /** A call that must succeed; the answer is of the route's schema. */
    call: async <Name extends RouteName>(name: Name, given: Given = {}): Promise<Value<Name>> => {
      const answered = await site.ask(name, given)
      if (answered.problem !== null) throw new Error(`${name} was refused: ${answered.text}`)
      const value: unknown = v.parse(ROUTES[name].answer, JSON.parse(answered.text))
      return value as Value<Name>
    },
    /** A person with these roles, made once; the answer is a token. */
    person: async (...roles: Role[]): Promise<string> => {
      const name = roles.join('.')
      const known = tokens.get(name)
      if (known !== undefined) return known
      const { token } = await site.call('userAdd', { socket: true, body: { name, roles } })
      tokens.set(name, token)
      return token
    },
    feed: (query: string, way: Way & { readonly protocols?: string[] } = {}) =>
      follow(`${way.socket === true ? `ws+unix:${socketPath}:` : `wss://127.0.0.1:${port}`}/feed${query}`, way),
    close: async () => {
      await api.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
  return site
}

function portsOf(world: World, keys: Keys, driver: Driver, given: Partial<ApiPorts> = {}): ApiPorts {
  const { time, settings } = world
  const quiet = () => {}
  return {
    driver,
    store: world.store(),
    tls: keys.tls,
    pin: keys.pin,
    orderKeyPublicBase64: keys.orderKey.publicKeyBase64,
    instance: settings.instance,
    version: '1.2.3',
    clock: { wallNow: time.now, monotonicNow: time.now, after: time.after },
    random: strong,
    log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
    tools: createTools(settings, strong),
    views: {
      status: (change) =>
        world.store().get('changes', change) === undefined
          ? undefined
          : statusOf(world.rowsOf(change), settings.instance),
      statusText: (status) => renderStatus(status, time.now()),
    },
    ...given,
  }
}

function headersOf(given: Way & { readonly body?: unknown }): Record<string, string> {
  return {
    ...(given.token === undefined ? {} : { authorization: `Bearer ${given.token}` }),
    ...(given.body === undefined ? {} : { 'content-type': 'application/json' }),
    ...given.headers,
  }
}

function pathOf(name: RouteName, given: Given): string {
  const path = ROUTES[name].path.replaceAll(/:([a-z]+)/g, (_, key: string) =>
    encodeURIComponent(given.params?.[key] ?? 'nothing'),
  )
  const query = new URLSearchParams(given.query).toString()
  return query === '' ? path : `${path}?${query}`
}

export function exchange(isPlain: boolean, options: RequestOptions, body?: string | Buffer): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const request = (isPlain ? httpRequest : httpsRequest)(options, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        const status = response.statusCode ?? 0
        resolve({
          status,
          headers: response.headers,
          text,
          problem: status < 400 ? null : problemIn(response.headers, text, status),
        })
      })
    })
    request.on('error', reject)
    request.end(body)
  })
}

/** What RFC 9457 and the protocol say of a refusal. */
export function problemIn(headers: IncomingHttpHeaders, text: string, status: number): Problem {
  if (headers['content-type']?.split(';')[0] !== 'application/problem+json')
    throw new Error(`no problem: ${headers['content-type']} ${text}`)
  const problem = v.parse(problemSchema, JSON.parse(text))
  if (problem.status !== status || problem.refusals.length === 0) throw new Error(`a bad problem: ${status} ${text}`)
  return problem
}

export type Follower = {
  readonly socket: WebSocket
  readonly frames: FeedFrame[]
  readonly revs: () => number[]
  /** The handshake's end: `open`, or the problem with which it was refused. */
  readonly begun: Promise<'open' | Problem>
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>
}

function follow(url: string, way: Way & { readonly protocols?: string[] }): Follower {
  const socket = new WebSocket(url, way.protocols ?? [FEED_SUBPROTOCOL], {
    rejectUnauthorized: false,
    headers: headersOf(way),
  })
  const frames: FeedFrame[] = []
  const begun = new Promise<'open' | Problem>((resolve, reject) => {
    socket.once('open', () => resolve('open'))
    socket.on('error', reject)
    socket.once('unexpected-response', (_request, response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () =>
        resolve(problemIn(response.headers, Buffer.concat(chunks).toString(), response.statusCode ?? 0)),
      )
    })
  })
  // Whoever looks only at `closed` must not be stopped by an error that it expects.
  begun.catch(() => 'seen by closed')
  socket.on('message', (data: RawData) =>
    frames.push(v.parse(feedFrameSchema, JSON.parse((data as Buffer).toString()))),
  )
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.once('close', (code, reason) => resolve({ code, reason: reason.toString() }))
  })
  const revs = () => frames.flatMap((frame) => (frame.t === 'row' ? [frame.row.rev] : []))
  return { socket, frames, revs, begun, closed }
}

/** Waits for a condition that sockets or the driver bring about. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const endAt = Date.now() + WAIT_MS_MAX
  while (!condition()) {
    if (Date.now() > endAt) throw new Error(`waited in vain until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** `from`, `from + 1`, ... `to`. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index)
}
