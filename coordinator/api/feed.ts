/**
 * The feed: every row of the journal to whoever follows, in order, each once. Called by api.ts with each upgrade of
 * `/feed`. It decides who may follow and for how long; what a follower gets is in feed-client.ts. A client that
 * takes nothing costs its buffer's bound and then its connection (4008), and delays nobody else.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocketServer } from 'ws'
import type { Refusal } from '../../protocol/errors.ts'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import type { Driver } from '../driver.ts'
import type { Clock, Log, Store } from '../ports.ts'
import type { Authentication, Authenticator, Caller } from './authentication.ts'
import { beginOf } from './feed-begin.ts'
import { type ClientPorts, FeedClient, FeedSocket } from './feed-client.ts'
import { createRecentRows } from './feed-rows.ts'
import { endWithProblem, problemOf } from './problems.ts'
import { refuseCall, unauthenticated } from './roles.ts'

export type FeedDoor = {
  readonly upgrade: (request: IncomingMessage, socket: Duplex, head: Buffer, authenticate: () => Authentication) => void
  readonly clients: () => number
  /** Ends at once what a session opened that has ended. */
  readonly recheck: () => void
  readonly close: () => void
}

export type FeedPorts = {
  readonly driver: Pick<Driver, 'onRow' | 'rev'>
  readonly store: Pick<Store, 'journal' | 'epoch'>
  readonly clock: Clock
  readonly log: Log
  readonly instance: string
  readonly authenticator: Pick<Authenticator, 'stillHolds'>
  readonly clientsMax: number
}

const LOOK_MS = 1_000
const PING_MS = 15_000
const CLOSE_TIMEOUT_MS = 5_000
const RECENT_BYTES_MAX = 4_194_304
/** The part of all places that one token may have, so that a program that never closes one shuts nobody else out. */
const SHARE = 0.25
const SHARE_MIN = 4

export function createFeed(ports: FeedPorts): FeedDoor {
  const { driver, store, clock } = ports
  const clients = new Set<FeedClient>()
  const recent = createRecentRows(RECENT_BYTES_MAX)
  const server = createServer(ports.log)
  const timers = { ping: () => {}, look: null as (() => void) | null }
  let isClosed = false

  const look = () => {
    timers.look = null
    const full = [...clients].filter((client) => client.look())
    if (full.length > 0) timers.look = clock.after(LOOK_MS, look)
  }
  const clientPorts: ClientPorts = {
    ...ports,
    recent,
    onFull: () => (timers.look ??= clock.after(LOOK_MS, look)),
    onEnd: (client) => clients.delete(client),
  }

  /** A token that was revoked or has expired ends what it opened, and so does a session that was ended. */
  const checkTokens = () => {
    for (const client of clients) {
      if (!ports.authenticator.stillHolds(client.caller))
        client.end('unauthenticated', 'the token was revoked or has expired')
    }
  }
  const stopRows = driver.onRow((row) => {
    recent.add(row)
    if (row.facts.some(({ fact }) => fact === 'userRevoked' || fact === 'userAdded')) checkTokens()
    for (const client of clients) client.pump()
  })
  const pingAll = () => {
    checkTokens()
    for (const client of clients) client.ping()
    timers.ping = clock.after(PING_MS, pingAll)
  }
  timers.ping = clock.after(PING_MS, pingAll)

  return {
    clients: () => clients.size,
    recheck: checkTokens,
    upgrade: (request, socket, head, authenticate) => {
      const full = clients.size >= ports.clientsMax ? tooMany(ports.clientsMax) : null
      const admitted = isClosed ? closing() : (full ?? admit(ports, request, authenticate))
      if ('kind' in admitted) {
        endWithProblem(socket, problemOf([admitted]))
        return
      }
      const { caller, from } = admitted
      const refusal = refuseShare(clients, caller, ports.clientsMax)
      if (refusal !== null) return endWithProblem(socket, problemOf([refusal]))
      server.handleUpgrade(request, socket, head, (opened) => {
        const client = new FeedClient(clientPorts, opened, caller, from.since)
        clients.add(client)
        const { instance } = ports
        client.greet({ t: 'hello', instance, epoch: store.epoch, rev: driver.rev(), resumed: from.resumed })
      })
    },
    close: () => {
      isClosed = true
      stopRows()
      timers.ping()
      timers.look?.()
      for (const client of clients) client.end('goingAway', 'the coordinator is stopping; come again')
      server.close()
    },
  }
}

/** The refusal, or who follows and from where. */
function admit({ driver, store }: FeedPorts, request: IncomingMessage, authenticate: () => Authentication) {
  // Before a token is looked at, so that a page in somebody's browser can't even try one: a page has its session.
  const origin = refuseOrigin(request.headers)
  if (origin !== null) return origin
  const { caller, refusal } = authenticate()
  const denied = refusal ?? refuseCall(caller?.actor ?? null, 'feed')
  if (denied !== null || caller === null) return denied ?? unauthenticated()
  const from = beginOf(request, { epoch: store.epoch, rev: driver.rev() })
  return from.ok ? { caller, from } : from.refusal
}

function createServer(log: Log) {
  // closeTimeout is in ws 8.23 and not in its types; a name of its own keeps the checker from refusing it.
  const options = {
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: 1024,
    maxFragments: 1,
    maxBufferedChunks: 1024,
    autoPong: false,
    closeTimeout: CLOSE_TIMEOUT_MS,
    WebSocket: FeedSocket,
    handleProtocols: () => FEED_SUBPROTOCOL,
  }
  const server = new WebSocketServer(options)
  server.on('wsClientError', (error, socket) => {
    log.debug({ err: error }, 'an upgrade to the feed was malformed')
    endWithProblem(
      socket,
      problemOf([{ kind: 'malformed', message: error.message, remedy: 'open a WebSocket as RFC 6455 says' }]),
    )
  })
  return server
}

function refuseOrigin(headers: IncomingHttpHeaders): Refusal | null {
  if (headers.origin === undefined || headers.authorization === undefined) return null
  return {
    kind: 'not-allowed',
    message: 'web pages may not follow the feed by a token',
    subject: 'Origin',
    remedy: 'log in to the dashboard, or use smith feed',
  }
}

function closing(): Refusal {
  return { kind: 'unavailable', message: 'the coordinator is stopping', remedy: 'come again when it has started' }
}

function refuseShare(clients: ReadonlySet<FeedClient>, caller: Caller, clientsMax: number): Refusal | null {
  const { actor, tokenHash } = caller
  const most = Math.max(SHARE_MIN, Math.floor(clientsMax * SHARE))
  if ([...clients].filter((client) => client.caller.tokenHash === tokenHash).length < most) return null
  const who = actor.kind === 'person' ? actor.name : actor.kind
  return {
    kind: 'too-many',
    message: `${who} follows the feed ${most} times already`,
    remedy: 'close one; a token for each program tells which of them it is',
  }
}

function tooMany(most: number): Refusal {
  return {
    kind: 'too-many',
    message: `${most} clients follow the feed already`,
    remedy: 'close one, or raise limits.feed_clients',
  }
}
