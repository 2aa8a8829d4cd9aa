/**
 * The coordinator's doors: HTTPS with the sockets of agents and feed on one port, and the same routes on the admin
 * socket, where nobody logs in and the principal is `local-admin`. Called by the composition. It joins the parts of
 * this folder and decides where an upgrade goes; nothing else is decided here.
 */
import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Refusal } from '../../protocol/errors.ts'
import { createRefusalNotes } from './audit.ts'
import { type Channel, createAuthenticator } from './authentication.ts'
import {
  capUnproven,
  createSocketServer,
  createTlsServer,
  listenOn,
  removeStaleSocket,
  trackConnections,
} from './doors.ts'
import { type FeedDoor, createFeed } from './feed.ts'
import { createHand } from './calls.ts'
import { createHandlers } from './handlers.ts'
import { API_LIMITS, type ApiLimits, type ApiPorts } from './ports.ts'
import { endWithProblem, problemOf } from './problems.ts'
import { createRoutes } from './routes.ts'
import { createWebSessions } from './web-sessions.ts'
import { createWaiters } from './waiters.ts'

export type Api = {
  readonly listen: (at: { readonly host: string; readonly port: number }) => Promise<{ readonly port: number }>
  readonly listenSocket: (path: string) => Promise<void>
  readonly close: () => Promise<void>
  readonly feedClients: () => number
}

/** How long calls in hand may take to end when the interface closes. */
const CLOSE_MS_MAX = 2_000

export function createApi(ports: ApiPorts): Api {
  const limits = { ...API_LIMITS, ...ports.limits }
  const state = { failure: null as string | null, isClosing: false, port: null as number | null }
  const authenticator = authenticatorOf(ports, limits)
  const waiters = createWaiters(ports, limits.waitersMax)
  const hand = createHand(ports, state)
  const feed = createFeed({ ...ports, authenticator, clientsMax: limits.feedClientsMax })
  const handlers = createHandlers(ports, { ...{ hand, waiters, authenticator, feed }, port: () => state.port })
  const onRefused = createRefusalNotes(ports, hand)
  const notReady = () =>
    state.isClosing ? 'the coordinator is stopping' : (state.failure ?? ports.readiness?.() ?? null)
  const onUpgrade = createUpgrade(ports, feed, authenticator)

  const open = (channel: Channel) => {
    let onProven: (socket: IncomingMessage['socket']) => void = () => {}
    let cutAll: () => void = () => {}
    const app = createRoutes({
      ports,
      authenticator,
      handlers,
      channel,
      notReady,
      onProven: (socket) => onProven(socket),
      onRefused,
      makeServer: (handler) => {
        const server =
          channel === 'tls' ? createTlsServer(ports.tls, limits, handler) : createSocketServer(limits, handler)
        cutAll = trackConnections(server)
        if (channel === 'tls') onProven = capUnproven(server, limits)
        server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
          // From here on the bounds of the sessions and of the feed hold.
          onProven(request.socket)
          onUpgrade(channel, request, socket, head)
        })
        return server
      },
    })
    return { app, server: app.server, cutAll: () => cutAll() }
  }
  const tls = open('tls')
  const local = open('socket')

  return {
    listen: async (at) => {
      await tls.app.ready()
      await listenOn(tls.server, at)
      const address = tls.server.address()
      state.port = typeof address === 'object' && address !== null ? address.port : at.port
      return { port: state.port }
    },
    listenSocket: async (path) => {
      await local.app.ready()
      await removeStaleSocket(path)
      await listenOn(local.server, { path })
    },
    feedClients: feed.clients,
    close: async () => {
      state.isClosing = true
      feed.close()
      waiters.close()
      await Promise.all([tls, local].map(({ server, cutAll }) => closeServer(server, cutAll, ports)))
      await Promise.all([tls, local].map(({ app }) => app.close()))
    },
  }
}

function authenticatorOf({ driver, store, clock, random, tools, instance }: ApiPorts, limits: ApiLimits) {
  const { sha256 } = tools
  const shared = { now: driver.now, sha256 }
  const sessions = createWebSessions({ ...shared, store, random, instance, lifeMs: limits.sessionMsMax })
  return createAuthenticator({ ...shared, view: driver.view, clock, failuresMax: limits.authFailuresMax, sessions })
}

function closeServer(server: Server, cutAll: () => void, { clock }: ApiPorts): Promise<void> {
  if (!server.listening) return Promise.resolve()
  return new Promise((resolve) => {
    const cancel = clock.after(CLOSE_MS_MAX, cutAll)
    server.close(() => {
      cancel()
      resolve()
    })
    server.closeIdleConnections()
  })
}

/** `/agent` goes to the sessions, `/feed` to the feed; nothing else speaks WebSocket here. */
function createUpgrade(ports: ApiPorts, feed: FeedDoor, authenticator: ReturnType<typeof createAuthenticator>) {
  return (channel: Channel, request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    // A peer that resets its connection in the middle of the handshake is no error of ours.
    socket.on('error', (error: Error) => ports.log.debug({ err: error }, 'a connection was reset in its handshake'))
    const path = (request.url ?? '').split('?')[0] ?? ''
    if (path === '/agent' && channel === 'tls' && ports.onAgentUpgrade !== undefined) {
      ports.onAgentUpgrade(request, socket, head)
      return
    }
    if (path === '/feed') {
      const authentication = () =>
        authenticator.authenticate(channel, request.headers, {
          address: request.socket.remoteAddress ?? 'socket',
          isRead: false,
        })
      feed.upgrade(request, socket, head, authentication)
      return
    }
    const refusal: Refusal = {
      kind: 'not-found',
      message: `there is no WebSocket at ${path.slice(0, 200)}`,
      remedy: 'agents connect to /agent, followers to /feed',
    }
    endWithProblem(socket, problemOf([refusal]))
  }
}
