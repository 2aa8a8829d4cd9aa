/**
 * The coordinator's doors: HTTPS with the sockets of agents and feed on one port, and the same routes on the admin
 * socket, where nobody logs in and the principal is `local-admin`. Routes come from protocol/http.ts; each call is
 * authenticated, checked against its schema, handled, and answered as JSON or as a problem with every refusal.
 */
import { chmodSync, existsSync, rmSync } from 'node:fs'
import { type IncomingMessage, type Server, createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify'
import { type Refusal, RefusedError } from '../../protocol/errors.ts'
import { ROUTES, type RouteName } from '../../protocol/http.ts'
import { nearestNames } from '../domain/nearest.ts'
import { type Authenticator, type Channel, createAuthenticator } from './authentication.ts'
import { BODY_BYTES_MAX, checkShape, parseBody, refuse } from './bodies.ts'
import { type FeedDoor, createFeed } from './feed.ts'
import { type Call, type Handlers, createHandlers } from './handlers.ts'
import { openApiDocument } from './openapi.ts'
import { API_LIMITS, type ApiLimits, type ApiPorts } from './ports.ts'
import { PROBLEM_TYPE, endWithProblem, internalRefusal, problemHeaders, problemOf } from './problems.ts'
import { refuseCall, unauthenticated } from './roles.ts'

export type Api = {
  readonly listen: (at: { readonly host: string; readonly port: number }) => Promise<{ readonly port: number }>
  readonly listenSocket: (path: string) => Promise<void>
  readonly close: () => Promise<void>
}

type Parts = {
  readonly ports: ApiPorts
  readonly limits: ApiLimits
  readonly authenticator: Authenticator
  readonly handlers: Handlers
  readonly feed: FeedDoor
}

const HEADERS_MS_MAX = 10_000
const REQUEST_MS_MAX = 15_000
const HEADER_BYTES_MAX = 8192
const SOCKET_MODE = 0o660

export function createApi(ports: ApiPorts): Api {
  const limits = { ...API_LIMITS, ...ports.limits }
  const authenticator = createAuthenticator({
    view: ports.driver.view,
    clock: ports.clock,
    sha256: ports.tools.sha256,
    failuresMax: limits.authFailuresMax,
  })
  const parts: Parts = { ports, limits, authenticator, handlers: createHandlers(ports), feed: createFeed({ ...ports, authenticator, clientsMax: limits.feedClientsMax }) }
  const tls = createApp(parts, 'tls')
  const local = createApp(parts, 'socket')
  let socketPath: string | null = null
  return {
    listen: async ({ host, port }) => {
      await tls.ready()
      await tls.listen({ host, port })
      const address = tls.server.address()
      return { port: typeof address === 'object' && address !== null ? address.port : port }
    },
    listenSocket: async (path) => {
      await local.ready()
      await removeStaleSocket(path)
      await local.listen({ path })
      socketPath = path
      chmodSync(path, SOCKET_MODE)
    },
    close: async () => {
      parts.feed.close()
      await Promise.all([tls.close(), local.close()])
      if (socketPath !== null) rmSync(socketPath, { force: true })
    },
  }
}

/** A socket that a stopped coordinator left behind is replaced; one on which somebody answers is not. */
async function removeStaleSocket(path: string): Promise<void> {
  if (!existsSync(path)) return
  const answers = await new Promise<boolean>((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
  if (!answers) {
    rmSync(path, { force: true })
    return
  }
  throw new RefusedError([
    { kind: 'conflict', message: `another coordinator answers on ${path}`, subject: path, remedy: 'stop it first, or give another admin_socket in the configuration' },
  ])
}

function createApp(parts: Parts, channel: Channel): FastifyInstance {
  const { ports, limits } = parts
  const options = { maxHeaderSize: HEADER_BYTES_MAX, headersTimeout: HEADERS_MS_MAX, requestTimeout: REQUEST_MS_MAX }
  const app = fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    routerOptions: { ignoreTrailingSlash: false, maxParamLength: 300 },
    clientErrorHandler: (error, socket) => {
      const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
      endWithProblem(socket, problemOf([{ kind: 'malformed', message: `the request can't be read: ${error.code}`, remedy: 'send a well-formed HTTP/1.1 request' }], status))
    },
    serverFactory: (handler) => {
      const server: Server =
        channel === 'tls'
          ? createHttpsServer({ ...options, key: ports.tls.key, cert: ports.tls.cert, minVersion: 'TLSv1.3', handshakeTimeout: HEADERS_MS_MAX }, handler)
          : createHttpServer(options, handler)
      server.maxHeadersCount = 64
      server.on('upgrade', (request, socket, head) => upgrade(parts, channel, request, socket, head))
      if (channel === 'tls') capConnections(server, limits)
      return server
    },
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  app.setNotFoundHandler((request, reply) => sendProblem(reply, [unknownRoute(request)], knownPaths().includes(pathOf(request.url)) ? 405 : 404))
  app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, _request, reply) => {
    if (error.statusCode !== undefined && error.statusCode < 500) {
      const kind = error.statusCode === 413 ? 'too-large' : 'malformed'
      return sendProblem(reply, [{ kind, message: error.message, remedy: `send at most ${BODY_BYTES_MAX} bytes of JSON` }], error.statusCode)
    }
    if (error instanceof RefusedError) return sendProblem(reply, error.refusals)
    ports.log.error({ err: error }, 'a call failed')
    return sendProblem(reply, [internalRefusal()])
  })
  for (const name of Object.keys(ROUTES) as RouteName[]) addRoute(app, parts, channel, name)
  addPlainRoutes(app, parts)
  return app
}

/** Nobody may hold all connections: a bound on those from one address, and in all. Sockets of agents count too. */
function capConnections(server: Server, limits: ApiLimits): void {
  const perAddress = new Map<string, number>()
  server.on('connection', (socket) => {
    const address = socket.remoteAddress ?? ''
    const count = (perAddress.get(address) ?? 0) + 1
    if (count > limits.connectionsPerAddressMax) {
      socket.destroy()
      return
    }
    perAddress.set(address, count)
    socket.once('close', () => {
      const left = (perAddress.get(address) ?? 1) - 1
      if (left === 0) perAddress.delete(address)
      else perAddress.set(address, left)
    })
  })
}

function addRoute(app: FastifyInstance, parts: Parts, channel: Channel, name: RouteName): void {
  const route = ROUTES[name]
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      const address = request.socket.remoteAddress ?? 'socket'
      const { caller, refusal } = parts.authenticator.authenticate(channel, request.headers, address)
      const denied = refusal ?? refuseCall(caller?.actor ?? null, name, parts.ports.settings.approval.localAdminMayApprove)
      if (denied !== null) return sendProblem(reply, [denied])
      const query = checkShape(route.query, { ...(request.query as object) }, 'query')
      if (!query.ok) return sendProblem(reply, query.refusals)
      const body = readBody(route.body, request)
      if (!body.ok) return sendProblem(reply, body.refusals)
      const call: Call<never> = {
        actor: caller?.actor ?? { kind: 'smith' },
        address,
        params: request.params as Record<string, string>,
        query: query.value as Record<string, string | undefined>,
        body: body.value as never,
      }
      const handle = parts.handlers[name] as (given: Call<never>) => ReturnType<Handlers[RouteName]>
      const answer = await handle(call)
      if (!answer.ok) {
        // A guessed enrolment token is a failed authentication like any other.
        const isGuess = name === 'enrol' && answer.refusals.some((one) => one.kind === 'unauthenticated')
        const failed = isGuess ? parts.authenticator.noteFailure(address) : null
        return sendProblem(reply, failed?.kind === 'too-many' ? [failed] : answer.refusals)
      }
      return reply.code(answer.status ?? 200).header('cache-control', 'no-store').type('application/json').send(JSON.stringify(answer.value))
    },
  })
}

function readBody(schema: (typeof ROUTES)[RouteName]['body'], request: FastifyRequest) {
  const bytes = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0)
  if (schema === null) return bytes.length === 0 ? ({ ok: true, value: null } as const) : refuse('malformed', 'this route takes no body', 'send none')
  const parsed = parseBody(bytes)
  return parsed.ok ? checkShape(schema, parsed.value, 'body') : parsed
}

function addPlainRoutes(app: FastifyInstance, { ports }: Parts): void {
  app.get('/api/v1/openapi.json', (_request, reply) => reply.type('application/json').send(JSON.stringify(openApiDocument(ports.version))))
  app.get('/healthz', (_request, reply) => reply.type('application/json').send('{"ok":true}'))
  app.get('/readyz', (_request, reply) => {
    const reason = ports.readiness?.() ?? null
    if (reason === null) return reply.type('application/json').send('{"ok":true}')
    return sendProblem(reply, [{ kind: 'unavailable', message: reason, remedy: "look into the coordinator's log" }])
  })
}

function sendProblem(reply: FastifyReply, refusals: readonly Refusal[], status?: number): FastifyReply {
  const problem = problemOf(refusals, status)
  return reply.code(problem.status).headers({ ...problemHeaders(problem.status), 'cache-control': 'no-store' }).type(PROBLEM_TYPE).send(JSON.stringify(problem))
}

function pathOf(url: string): string {
  return url.split('?')[0] ?? ''
}

function knownPaths(): string[] {
  return Object.values(ROUTES).map((route) => route.path)
}

function unknownRoute(request: FastifyRequest): Refusal {
  const path = pathOf(request.url)
  if (knownPaths().includes(path)) return { kind: 'not-found', message: `${path} does not take ${request.method}`, subject: path, remedy: 'see /api/v1/openapi.json' }
  const near = nearestNames(path, knownPaths(), 1)[0]
  return { kind: 'not-found', message: `there is no ${path} here`, subject: path, remedy: near === undefined ? 'see /api/v1/openapi.json' : `did you mean ${near}? See /api/v1/openapi.json` }
}

/** `/agent` goes to the sessions, `/feed` to the feed; nothing else speaks WebSocket here. */
function upgrade(parts: Parts, channel: Channel, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const { ports } = parts
  // A peer that resets its connection in the middle of the handshake is no error of ours.
  socket.on('error', (error: Error) => ports.log.debug({ err: error }, 'a connection was reset in its handshake'))
  const path = pathOf(request.url ?? '')
  if (path === '/agent' && channel === 'tls' && ports.onAgentUpgrade !== undefined) {
    ports.onAgentUpgrade(request, socket, head)
    return
  }
  if (path === '/feed') {
    const address = request.socket.remoteAddress ?? 'socket'
    const { caller, refusal } = parts.authenticator.authenticate(channel, request.headers, address)
    const denied = refusal ?? (caller === null ? unauthenticated() : refuseCall(caller.actor, 'feed', false))
    if (denied !== null || caller === null) endWithProblem(socket, problemOf([denied ?? unauthenticated()]))
    else parts.feed.upgrade(request, socket, head, caller)
    return
  }
  endWithProblem(socket, problemOf([{ kind: 'not-found', message: `there is no WebSocket at ${path}`, subject: path, remedy: 'agents connect to /agent, followers to /feed' }]))
}
