/**
 * The feed: every row of the journal to whoever follows, in order, each once. A client says what it has (`since`);
 * it is then fed from the store, page by page, and never from memory, so that a slow one costs no more than its
 * socket's buffer: what does not fit waits on disk, and one that stays slow is cut off (4008) and resumes by
 * revision. Called by api.ts after authentication.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { CLOSE_CODES, type CloseReason, type Refusal } from '../../protocol/errors.ts'
import { FEED_SUBPROTOCOL, type FeedFrame } from '../../protocol/feed.ts'
import { ID_PATTERN } from '../../protocol/ids.ts'
import type { Driver } from '../driver.ts'
import type { Clock, Log, Store } from '../ports.ts'
import type { Authenticator, Caller } from './authentication.ts'
import { endWithProblem, problemOf } from './problems.ts'

export type FeedDoor = {
  readonly upgrade: (request: IncomingMessage, socket: Duplex, head: Buffer, caller: Caller) => void
  readonly clients: () => number
  readonly close: () => void
}

export type FeedPorts = {
  readonly driver: Pick<Driver, 'onRow' | 'rev'>
  readonly store: Pick<Store, 'journal' | 'epoch'>
  readonly clock: Clock
  readonly log: Log
  readonly instance: string
  readonly authenticator: Pick<Authenticator, 'personOf'>
  readonly clientsMax: number
}

const PAGE = 200
/** More than this in a client's buffer and no more is read for it. */
const BUFFER_BYTES_MAX = 1_048_576
/** A client that took nothing for so long while its buffer was full is cut off. */
const SLOW_MS_MAX = 10_000
const PING_MS = 15_000
const DEAD_MS = 45_000
const LOOK_MS = 100

type Client = {
  readonly socket: WebSocket
  readonly caller: Caller
  sent: number
  heardAt: number
  /** Since when its buffer has been full, and how full it was then. */
  stuck: { readonly since: number; readonly bytes: number } | null
  waiting: boolean
}

export function createFeed(ports: FeedPorts): FeedDoor {
  const { driver, store, clock } = ports
  const server = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: 1024, handleProtocols: (offered) => (offered.has(FEED_SUBPROTOCOL) ? FEED_SUBPROTOCOL : false) })
  const clients = new Set<Client>()
  const end = (client: Client, reason: CloseReason, text: string) => {
    clients.delete(client)
    client.socket.close(CLOSE_CODES[reason], text)
  }

  /** Sends what the client has not, as far as its buffer takes it; goes on when there is room. */
  const feed = (client: Client) => {
    while (clients.has(client) && client.sent < driver.rev()) {
      if (client.socket.bufferedAmount > BUFFER_BYTES_MAX) {
        wait(client)
        return
      }
      const rows = store.journal({ since: client.sent, limit: PAGE })
      for (const row of rows) {
        sendFrame(client, { t: 'row', row })
        client.sent = row.rev
      }
      if (rows.length === 0) return
    }
  }
  const wait = (client: Client) => {
    const bytes = client.socket.bufferedAmount
    if (client.stuck === null || bytes < client.stuck.bytes) client.stuck = { since: clock.monotonicNow(), bytes }
    if (clock.monotonicNow() - client.stuck.since >= SLOW_MS_MAX) {
      ports.log.info({ sent: client.sent }, 'a client of the feed was too slow and was cut off')
      clients.delete(client)
      client.socket.close(CLOSE_CODES.slowConsumer, `too slow: resume with since=${client.sent}`)
      // What is in its buffer will not be taken, so the closing handshake gets no further: don't wait for it long.
      clock.after(1000, () => client.socket.terminate())
      return
    }
    if (client.waiting) return
    client.waiting = true
    clock.after(LOOK_MS, () => {
      client.waiting = false
      if (client.socket.bufferedAmount <= BUFFER_BYTES_MAX) client.stuck = null
      feed(client)
    })
  }
  const stopRows = driver.onRow(() => {
    for (const client of clients) if (!client.waiting) feed(client)
  })
  let stopPings = () => {}
  const pingAll = () => {
    stopPings = clock.after(PING_MS, () => {
      for (const client of clients) {
        const holds = client.caller.tokenHash === null || ports.authenticator.personOf(client.caller.tokenHash) !== null
        if (!holds) end(client, 'unauthenticated', 'the token was revoked or has expired')
        else if (clock.monotonicNow() - client.heardAt > DEAD_MS) {
          clients.delete(client)
          client.socket.terminate()
        } else client.socket.ping()
      }
      pingAll()
    })
  }
  pingAll()

  const begin = (client: Client, from: { readonly since: number; readonly resumed: boolean }) => {
    clients.add(client)
    const { socket } = client
    socket.on('pong', () => (client.heardAt = clock.monotonicNow()))
    socket.on('message', () => end(client, 'malformed', 'the feed takes no messages'))
    socket.on('error', (error) => ports.log.debug({ err: error }, 'a client of the feed broke the protocol'))
    socket.on('close', () => clients.delete(client))
    sendFrame(client, { t: 'hello', instance: ports.instance, epoch: store.epoch, rev: driver.rev(), resumed: from.resumed })
    feed(client)
  }

  return {
    clients: () => clients.size,
    upgrade: (request, socket, head, caller) => {
      const from = beginOf(request, store.epoch, driver.rev())
      const refusal = 'refusal' in from ? from.refusal : clients.size >= ports.clientsMax ? tooMany(ports.clientsMax) : null
      if (refusal !== null || 'refusal' in from) {
        endWithProblem(socket, problemOf([refusal ?? tooMany(ports.clientsMax)]))
        return
      }
      server.handleUpgrade(request, socket, head, (opened) => {
        begin({ socket: opened, caller, sent: from.since, heardAt: clock.monotonicNow(), stuck: null, waiting: false }, from)
      })
    },
    close: () => {
      stopRows()
      stopPings()
      for (const client of clients) end(client, 'goingAway', 'the coordinator is stopping; come again')
      server.close()
    },
  }
}

function sendFrame(client: Client, frame: FeedFrame): void {
  client.socket.send(JSON.stringify(frame))
}

/** Where a client begins. Without `since` it gets what comes from now on; another epoch means that all is void. */
function beginOf(request: IncomingMessage, epoch: string, rev: number): { readonly since: number; readonly resumed: boolean } | { readonly refusal: Refusal } {
  const bad = (message: string, remedy: string) => ({ refusal: { kind: 'bad-value' as const, message, remedy } })
  if (request.headers.origin !== undefined) {
    return { refusal: { kind: 'not-allowed', message: 'web pages may not follow the feed', subject: 'Origin', remedy: 'use smith feed' } }
  }
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((one) => one.trim())
  if (!offered.includes(FEED_SUBPROTOCOL)) return { refusal: { kind: 'version', message: `the subprotocol ${FEED_SUBPROTOCOL} was not offered`, remedy: `offer ${FEED_SUBPROTOCOL}` } }
  const { searchParams } = new URL(request.url ?? '/', 'http://feed')
  for (const key of searchParams.keys()) if (key !== 'since' && key !== 'epoch') return bad(`${key} is not known here`, 'the feed takes since and epoch')
  const since = searchParams.get('since')
  const known = searchParams.get('epoch')
  if (known !== null && !ID_PATTERN.test(known)) return bad('epoch is no epoch', 'leave it out, or give the one of the last hello')
  if (since !== null && !/^[0-9]{1,15}$/.test(since)) return bad('since is no revision', 'give the rev of the last row, or 0 for all')
  if (known !== null && known !== epoch) return { since: rev, resumed: false }
  if (since === null) return { since: rev, resumed: true }
  if (Number(since) > rev) return bad(`since=${since} is beyond the newest row ${rev}`, 'the database was restored: begin anew without since')
  return { since: Number(since), resumed: true }
}

function tooMany(most: number): Refusal {
  return { kind: 'too-many', message: `${most} clients follow the feed already`, remedy: 'close one, or raise limits.feed_clients' }
}
