/**
 * The routes of protocol/http.ts on one HTTP server: authenticated before a body is read, checked against their
 * schemas, handled, and answered as JSON or as a problem with every refusal. api.ts makes one for HTTPS and one for
 * the admin socket; nothing that is not in the table can be called but the description and the two health routes.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify'
import { type Refusal, RefusedError } from '../../protocol/errors.ts'
import { ROUTES, type RouteName } from '../../protocol/http.ts'
import { SLOW_ROUTES } from '../../protocol/slow-routes.ts'
import type { Metrics } from '../ports.ts'
import { nearestNames } from '../domain/nearest.ts'
import type { Actor } from '../domain/state.ts'
import { type Authenticator, type Caller, type Channel, plainAddress } from './authentication.ts'
import { BODY_BYTES_MAX, checkShape, headerProblem, parseBody } from './bodies.ts'
import type { Call, Handlers } from './calls.ts'
import { openApiDocument } from './openapi.ts'
import type { ApiPorts } from './ports.ts'
import { addPageRoutes } from './page.ts'
import { PROBLEM_TYPE, endWithProblem, internalRefusal, problemHeaders, problemOf } from './problems.ts'
import { refuseCall } from './roles.ts'

export type RouteParts = {
  readonly ports: ApiPorts
  readonly authenticator: Authenticator
  readonly handlers: Handlers
  readonly channel: Channel
  /** Why it can't serve now, null when it can. */
  readonly notReady: () => string | null
  /** Somebody has shown who they are on this connection. */
  readonly onProven: (socket: IncomingMessage['socket']) => void
  /** A person was refused for want of a right. */
  readonly onRefused: (actor: Actor, call: RouteName, refusal: Refusal) => void
  readonly makeServer: (handler: (request: IncomingMessage, response: ServerResponse) => void) => Server
}

const PARAMETER_LENGTH_MAX = 300
/** To compare long paths takes time that nobody unknown may ask for. */
const LIKELY_LENGTH_MAX = 150
const JSON_TYPE = 'application/json'
const REMEDY = 'see /api/v1/openapi.json'
const names = Object.keys(ROUTES) as RouteName[]

export function createRoutes(parts: RouteParts): FastifyInstance {
  const { ports } = parts
  const app = fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    exposeHeadRoutes: true,
    // In the last moments of the interface a call is answered as at any other time: with a problem.
    return503OnClosing: false,
    routerOptions: { maxParamLength: PARAMETER_LENGTH_MAX },
    serverFactory: parts.makeServer,
    frameworkErrors: (error, _request, reply) =>
      void sendProblem(reply, [badRequest(error.message)], error.statusCode ?? 400),
    clientErrorHandler: (error, socket) => {
      // Only a peer that got as far as HTTP can be answered: an answer before the end of a TLS handshake waits for
      // that end, and would hold the socket for ever.
      if (!/^(HPE_|ERR_HTTP_)/.test(error.code)) {
        socket.destroy()
        return
      }
      const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
      endWithProblem(socket, problemOf([badRequest(`the request can't be read: ${error.code}`)], status))
    },
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  app.setNotFoundHandler((request, reply) => refuseUnknown(request, reply))
  app.setErrorHandler((error: FastifyError, request, reply) => {
    if (error instanceof RefusedError) return sendProblem(reply, error.refusals)
    if (error.statusCode === 413) {
      return sendProblem(reply, [
        { kind: 'too-large', message: `the body has more than ${BODY_BYTES_MAX} bytes`, remedy: 'send less at once' },
      ])
    }
    // Only what the framework itself says about a request; the message of any other error is for the log.
    if (error.code?.startsWith('FST_') && error.statusCode !== undefined && error.statusCode < 500)
      return sendProblem(reply, [badRequest(error.message)], error.statusCode)
    ports.log.error({ err: error, route: request.routeOptions.url }, 'a call failed')
    return sendProblem(reply, [internalRefusal()])
  })
  app.addHook('onResponse', (request, reply, done) => {
    ports.log.debug(
      {
        method: request.method,
        route: request.routeOptions.url ?? null,
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
      },
      'answered',
    )
    done()
  })
  for (const name of names) addRoute(app, parts, name)
  addPlainRoutes(app, parts)
  return app
}

function addRoute(app: FastifyInstance, parts: RouteParts, name: RouteName): void {
  const route = ROUTES[name]
  const { authenticator, channel } = parts
  const callers = new WeakMap<FastifyRequest, Caller>()
  app.route({
    method: route.method,
    url: route.path,
    // Before the body is read: who may not call gets no memory of ours.
    onRequest: (request, reply, done) => {
      const { caller, refusal } = authenticator.authenticate(channel, request.headers, {
        address: addressOf(request),
        isRead: route.method === 'GET',
      })
      const denied = route.roles === 'none' ? null : (refusal ?? refuseCall(caller?.actor ?? null, name))
      if (caller !== null) {
        callers.set(request, caller)
        parts.onProven(request.raw.socket)
      }
      const problem = denied === null ? headerProblem(request.headers, route.body !== null) : null
      if (denied?.kind === 'not-allowed' && caller !== null) parts.onRefused(caller.actor, name, denied)
      if (denied !== null) sendProblem(reply, [denied])
      else if (problem !== null) sendProblem(reply, [problem.refusal], problem.status)
      else done()
    },
    handler: async (request, reply) => {
      const query = checkShape(route.query, { ...(request.query as object) }, 'query')
      const body = readBody(route.body, request)
      const refusals = [...(query.ok ? [] : query.refusals), ...(body.ok ? [] : body.refusals)]
      if (!query.ok || !body.ok) return sendProblem(reply, refusals)
      const call: Call<never> = {
        actor: callers.get(request)?.actor ?? { kind: 'smith' },
        address: addressOf(request),
        session: callers.get(request)?.session ?? null,
        params: request.params as Record<string, string>,
        query: query.value,
        body: body.value as never,
        whenGone: (callback) => {
          reply.raw.once('close', callback)
          return () => reply.raw.off('close', callback)
        },
      }
      // Nothing is sent while it works, which must not look as if nobody took the answer.
      const slowMs = SLOW_ROUTES.get(name)
      if (slowMs !== undefined) request.raw.socket.setTimeout(slowMs)
      const handle = parts.handlers[name] as (given: Call<never>) => ReturnType<Handlers[RouteName]>
      const answer = await handle(call)
      if (answer.ok) return sendJson(reply.code(answer.status ?? 200).headers(answer.headers ?? {}), answer.value)
      // A guessed token in a body is a failed authentication like any other.
      const isGuess =
        (name === 'enrol' || name === 'sessionOpen') && answer.refusals.some((one) => one.kind === 'unauthenticated')
      const failed = isGuess ? authenticator.noteFailure(addressOf(request)) : null
      return sendProblem(reply, failed?.kind === 'too-many' ? [failed] : answer.refusals)
    },
  })
}

function readBody(schema: (typeof ROUTES)[RouteName]['body'], request: FastifyRequest) {
  if (schema === null) return { ok: true, value: null } as const
  const bytes = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0)
  const parsed = parseBody(bytes)
  return parsed.ok ? checkShape(schema, parsed.value, 'body') : parsed
}

function addPlainRoutes(app: FastifyInstance, parts: RouteParts): void {
  const { ports, notReady } = parts
  if (ports.dashboard !== undefined) addPageRoutes(app, ports.dashboard)
  if (ports.metrics !== undefined) addMetrics(app, parts, ports.metrics)
  const description = JSON.stringify(openApiDocument(ports.version))
  app.get('/api/v1/openapi.json', (_request, reply) => reply.type(JSON_TYPE).send(description))
  app.get('/healthz', (_request, reply) => sendJson(reply, { ok: true }))
  app.get('/readyz', (_request, reply) => {
    const reason = notReady()
    if (reason === null) return sendJson(reply, { ok: true })
    return sendProblem(reply, [{ kind: 'unavailable', message: reason, remedy: "look into the coordinator's log" }])
  })
}

/** Names of lines and reasons are nobody's business who may not look; Prometheus shows a token like any other. */
function addMetrics(app: FastifyInstance, parts: RouteParts, metrics: Metrics): void {
  app.get('/metrics', async (request, reply) => {
    const from = { address: addressOf(request), isRead: true }
    const { caller, refusal } = parts.authenticator.authenticate(parts.channel, request.headers, from)
    const denied = refusal ?? refuseCall(caller?.actor ?? null, 'feed')
    if (denied !== null) return sendProblem(reply, [denied])
    parts.onProven(request.raw.socket)
    const { type, text } = await metrics()
    return reply.headers(STATIC_HEADERS).type(type).send(text)
  })
}

const STATIC_HEADERS = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' }

function sendJson(reply: FastifyReply, value: unknown): FastifyReply {
  return reply.headers(STATIC_HEADERS).type(JSON_TYPE).send(JSON.stringify(value))
}

function sendProblem(reply: FastifyReply, refusals: readonly Refusal[], status?: number): FastifyReply {
  const problem = problemOf(refusals, status)
  return reply
    .code(problem.status)
    .headers({ ...problemHeaders(problem.status), ...STATIC_HEADERS })
    .type(PROBLEM_TYPE)
    .send(JSON.stringify(problem))
}

function badRequest(message: string): Refusal {
  return { kind: 'malformed', message, remedy: `send a well-formed HTTP/1.1 request; ${REMEDY}` }
}

function addressOf(request: FastifyRequest): string {
  return plainAddress(request.raw.socket.remoteAddress ?? 'socket')
}

/** The paths that are there, each with its methods and a matcher. */
const PATHS = [...Map.groupBy(names, (name) => ROUTES[name].path)].map(([path, members]) => ({
  path,
  methods: members
    .map((name) => ROUTES[name].method)
    .flatMap((method) => (method === 'GET' ? [method, 'HEAD'] : [method])),
  matcher: new RegExp(`^${path.replaceAll(/:[a-z]+/g, '[^/]+')}$`),
}))
const PLAIN = ['/api/v1/openapi.json', '/healthz', '/readyz'].map((path) => ({
  path,
  methods: ['GET', 'HEAD'],
  matcher: new RegExp(`^${path.replaceAll('.', String.raw`\.`)}$`),
}))

function refuseUnknown(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const path = (request.url.split('?')[0] ?? '').slice(0, PARAMETER_LENGTH_MAX)
  const known = [...PATHS, ...PLAIN].find(({ matcher }) => matcher.test(path))
  if (known !== undefined) {
    const allowed = known.methods.join(', ')
    const refusal: Refusal = {
      kind: 'not-found',
      message: `${known.path} does not take ${request.method}, only ${allowed}`,
      subject: path,
      remedy: REMEDY,
    }
    return sendProblem(reply.header('allow', allowed), [refusal], 405)
  }
  const near = nearestPath(path)
  const remedy = near === undefined ? REMEDY : `did you mean ${near}? ${REMEDY}`
  return sendProblem(reply, [{ kind: 'not-found', message: `there is no ${path} here`, subject: path, remedy }])
}

/** Compared with what was asked for in the places of parameters, so that only the rest of the path counts. */
function nearestPath(path: string): string | undefined {
  if (path.length > LIKELY_LENGTH_MAX) return undefined
  const segments = path.split('/')
  const filled = [...PATHS, ...PLAIN].map((entry) => {
    const parts = entry.path.split('/').map((part, index) => (part.startsWith(':') ? (segments[index] ?? part) : part))
    return [parts.join('/'), entry.path] as const
  })
  const [near] = nearestNames(path, new Set(filled.map(([name]) => name)), 1)
  return filled.find(([name]) => name === near)?.[1]
}
