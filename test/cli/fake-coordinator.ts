/**
 * A coordinator for the CLI's tests: the routes of ROUTES over TLS and over a socket, with answers that each test
 * sets, and a feed. What it takes and what it serves is checked against the schemas, so that no test can pass on an
 * answer that a coordinator would not give.
 */
import { webcrypto } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import {
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
  createServer as createHttp,
} from 'node:http'
import { createServer as createHttps } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import 'reflect-metadata'
import { X509CertificateGenerator } from '@peculiar/x509'
import * as v from 'valibot'
import { type WebSocket, WebSocketServer } from 'ws'
import { FEED_SUBPROTOCOL, type FeedRow, feedFrameSchema } from '../../protocol/feed.ts'
import { ROUTES, type RouteName, problemSchema } from '../../protocol/http.ts'
import { pinOf } from '../../protocol/pin.ts'

export const TOKEN = `smithp_${'t'.repeat(43)}`
export type Call = {
  readonly name: RouteName
  readonly params: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string>>
  readonly body: Record<string, unknown>
  /** How often this route was called before. */
  readonly nth: number
}
/** An answer of the route's schema, a problem, raw bytes, or `drop`: take the request and lose the answer. */
type Served = object | { problem: object; headers?: Record<string, string> } | { raw: string; status: number } | 'drop'
export type Handler = (call: Call) => Served | Promise<Served>

export type FakeCoordinator = {
  readonly url: string
  readonly pin: string
  readonly socket: string
  readonly calls: Call[]
  readonly on: (name: RouteName, handler: Handler) => void
  /** The feed: rows are numbered here; `kick` cuts every connection. */
  readonly push: (facts: FeedRow['facts'], actor?: string) => void
  readonly kick: () => void
  readonly feedUrls: string[]
  /** The next row's number is never sent. */
  readonly loseRow: () => void
  readonly restoreDatabase: (rev: number) => void
  readonly untilFeed: (connections: number) => Promise<void>
  readonly close: () => Promise<void>
}

const EPOCHS = ['e'.repeat(32), 'f'.repeat(32)]

export async function makeCertificate(): Promise<{ key: string; cert: string; pin: string }> {
  const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify'])
  const made = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=fake',
    keys,
    notBefore: new Date('2020-01-01'),
    notAfter: new Date('2040-01-01'),
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
  })
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64')
  const cert = made.toString('pem')
  return { key: `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`, cert, pin: pinOf(cert) }
}

/** Two ways to one set of answers, and the feed on both. */
async function listen(
  servers: { readonly secure: Server; readonly local: Server; readonly socket: string },
  feed: ReturnType<typeof makeFeed>,
) {
  const { secure, local, socket } = servers
  for (const server of [secure, local]) {
    server.on('upgrade', (request: IncomingMessage, raw, head) => {
      feed.server.handleUpgrade(request, raw, head, (client) => feed.server.emit('connection', client, request))
    })
  }
  await Promise.all([
    new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve)),
    new Promise<void>((resolve) => local.listen(socket, resolve)),
  ])
}

export async function startFake(instance = 'prod'): Promise<FakeCoordinator> {
  const handlers = new Map<RouteName, Handler>()
  const calls: Call[] = []
  const folder = mkdtempSync(join(tmpdir(), 'smith-fake-'))

  const answer = async (request: IncomingMessage, response: ServerResponse, needsToken: boolean) => {
    const url = new URL(request.url ?? '/', 'http://x')
    const found = routeOf(request.method ?? '', url.pathname)
    if (found === null) throw new Error(`no route ${request.method} ${request.url}`)
    const { name, params } = found
    if (needsToken && request.headers.authorization !== `Bearer ${TOKEN}`) {
      return send(response, problem(401, 'unauthenticated', 'no valid token came', 'log in with `smith login`'))
    }
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString('utf8')
    const route = ROUTES[name]
    const body = (route.body === null ? {} : v.parse(route.body, JSON.parse(text))) as Call['body']
    const query = v.parse(route.query, Object.fromEntries(url.searchParams)) as Call['query']
    const call = { name, params, query, body, nth: calls.filter((one) => one.name === name).length }
    calls.push(call)
    const handler = handlers.get(name)
    if (handler === undefined) throw new Error(`no answer was set for ${name}`)
    const served = await handler(call)
    if (served === 'drop') return void request.socket.destroy()
    if (('problem' in served && typeof served.problem === 'object' && served.problem !== null) || 'raw' in served)
      return send(response, served)
    return send(response, { raw: JSON.stringify(v.parse(route.answer, served)), status: 200 })
  }
  const listener =
    (needsToken: boolean): RequestListener =>
    (request, response) => {
      answer(request, response, needsToken).catch((error: unknown) => {
        send(response, problem(500, 'internal', `fake: ${String(error)}`, 'correct the test'))
      })
    }

  const feed = makeFeed(instance)

  const { key, cert, pin } = await makeCertificate()
  const secure = createHttps({ key, cert, minVersion: 'TLSv1.3' }, listener(true))
  const local = createHttp(listener(false))
  const socket = join(folder, 'admin.sock')
  await listen({ secure, local, socket }, feed)
  const who = { instance, name: 'ann', roles: ['requester'], version: '0.1.0', pin, host: '127.0.0.1', port: 7600 }
  handlers.set('who', () => ({ ...who, ...feed.position() }))
  return {
    url: `https://127.0.0.1:${(secure.address() as AddressInfo).port}`,
    pin,
    socket,
    calls,
    on: (name, handler) => handlers.set(name, handler),
    ...feed,
    close: async () => {
      feed.kick()
      for (const server of [secure, local]) {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
      }
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function makeFeed(instance: string) {
  const rows: FeedRow[] = []
  const feedUrls: string[] = []
  const clients = new Set<WebSocket>()
  let epoch = EPOCHS[0] ?? ''
  let first = 0
  let onFeed = () => {}
  const rev = () => first + rows.length
  const server = new WebSocketServer({ noServer: true, handleProtocols: () => FEED_SUBPROTOCOL })
  const frame = (value: unknown) => JSON.stringify(v.parse(feedFrameSchema, value))
  server.on('connection', (client: WebSocket, request: IncomingMessage) => {
    feedUrls.push(request.url ?? '')
    const query = new URL(request.url ?? '/', 'http://x').searchParams
    const resumed = query.get('epoch') === epoch
    clients.add(client)
    client.on('close', () => clients.delete(client))
    client.send(frame({ t: 'hello', instance, epoch, rev: rev(), resumed }))
    const since = resumed ? Number(query.get('since')) : rev()
    for (const row of rows.filter((one) => one.rev > since)) client.send(frame({ t: 'row', row }))
    onFeed()
  })
  return {
    server,
    feedUrls,
    position: () => ({ epoch, rev: rev() }),
    push: (facts: FeedRow['facts'], actor = 'smith') => {
      const row = { rev: rev() + 1, at: 1_700_000_000_000, actor, facts }
      rows.push(row)
      for (const client of clients) client.send(frame({ t: 'row', row }))
    },
    loseRow: () => {
      first += 1
    },
    kick: () => {
      for (const client of clients) client.terminate()
    },
    restoreDatabase: (at: number) => {
      epoch = EPOCHS[1] ?? ''
      rows.length = 0
      first = at
    },
    untilFeed: async (connections: number) => {
      while (feedUrls.length < connections) await new Promise<void>((resolve) => (onFeed = resolve))
    },
  }
}

export function problem(status: number, kind: string, message: string, remedy: string, more: object = {}) {
  const refusals = [{ kind, message, remedy, ...more }]
  return { problem: v.parse(problemSchema, { type: 'about:blank', title: 'No', status, refusals }) }
}

function send(
  response: ServerResponse,
  served: { problem: object; headers?: Record<string, string> } | { raw: string; status: number },
) {
  if ('raw' in served) {
    response.writeHead(served.status, { 'content-type': 'application/json' }).end(served.raw)
    return
  }
  const { status } = served.problem as { status: number }
  response.writeHead(status, { 'content-type': 'application/problem+json', ...served.headers })
  response.end(JSON.stringify(served.problem))
}

function routeOf(method: string, path: string): { name: RouteName; params: Record<string, string> } | null {
  for (const name of Object.keys(ROUTES) as RouteName[]) {
    const route = ROUTES[name]
    const pattern = new RegExp(`^${route.path.replace(/:([a-z]+)/g, '(?<$1>[^/]+)')}$`)
    const match = route.method === method ? pattern.exec(path) : null
    if (match === null) continue
    const groups = Object.entries(match.groups ?? {}).map(([key, value]) => [key, decodeURIComponent(value)] as const)
    return { name, params: Object.fromEntries(groups) }
  }
  return null
}
