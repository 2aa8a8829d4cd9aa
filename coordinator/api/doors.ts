/**
 * The sockets that the interface listens on: HTTPS with its bounds against peers that have not shown who they are,
 * and the admin socket, a file that only its owner and group may use from its first instant. Called by api.ts.
 * Whoever is slow, silent or many before authentication loses the connection, not the coordinator its memory.
 */
import { lstatSync, rmSync } from 'node:fs'
import { type IncomingMessage, type Server, type ServerResponse, createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { type Socket, connect } from 'node:net'
import { RefusedError } from '../../protocol/errors.ts'
import { addressKey } from './authentication.ts'
import type { ApiLimits, ApiPorts } from './ports.ts'

type Handler = (request: IncomingMessage, response: ServerResponse) => void

type Times = Pick<ApiLimits, 'headersMsMax' | 'requestMsMax' | 'stalledMsMax'>

const HEADERS_COUNT_MAX = 64
const CHECK_MS_MAX = 1_000
/** The bits that a socket file must not have: nothing for others, and it is no program. */
const SOCKET_UMASK = 0o117

function optionsOf(times: Times) {
  return {
    headersTimeout: times.headersMsMax,
    requestTimeout: times.requestMsMax,
    keepAliveTimeout: 5_000,
    maxHeaderSize: 8192,
    // Node looks for overdue requests this often; by default only every 30 s, which would make the bounds above lies.
    connectionsCheckingInterval: Math.min(CHECK_MS_MAX, times.headersMsMax),
  }
}

export function createTlsServer(tls: ApiPorts['tls'], times: Times, handler: Handler): Server {
  const options = { ...optionsOf(times), ...tls, minVersion: 'TLSv1.3', handshakeTimeout: times.headersMsMax } as const
  return bounded(createHttpsServer(options, handler), times)
}

export function createSocketServer(times: Times, handler: Handler): Server {
  return bounded(createHttpServer(optionsOf(times), handler), times)
}

function bounded(server: Server, { stalledMsMax }: Times): Server {
  server.maxHeadersCount = HEADERS_COUNT_MAX
  server.setTimeout(stalledMsMax)
  return server
}

/**
 * Cuts every connection that is there, also one in its TLS handshake or taken over by a WebSocket: `close` of a
 * server waits for those and ends none of them.
 */
export function trackConnections(server: Server): () => void {
  const open = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    open.add(socket)
    socket.once('close', () => open.delete(socket))
  })
  return () => {
    for (const socket of open) socket.destroy()
  }
}

type Peer = { readonly remoteAddress?: string | undefined; readonly remotePort?: number | undefined }

/**
 * Bounds the connections on which nobody has shown who they are, in all and by address, from the first packet on.
 * The answer takes a connection out of the count, once somebody has.
 */
export function capUnproven(
  server: Server,
  limits: Pick<ApiLimits, 'unprovenMax' | 'unprovenPerAddressMax'>,
): (peer: Peer) => void {
  // By address and port, since the TCP socket that is counted and the TLS socket that is proven are two objects.
  const unproven = new Map<string, string>()
  const perAddress = new Map<string, number>()
  const keyOf = (peer: Peer) => `${peer.remoteAddress} ${peer.remotePort}`
  const release = (key: string) => {
    const address = unproven.get(key)
    if (address === undefined) return
    unproven.delete(key)
    const left = (perAddress.get(address) ?? 1) - 1
    if (left > 0) perAddress.set(address, left)
    else perAddress.delete(address)
  }
  server.on('connection', (socket: Socket) => {
    const key = keyOf(socket)
    const address = addressKey(socket.remoteAddress ?? '')
    const count = perAddress.get(address) ?? 0
    if (unproven.size >= limits.unprovenMax || count >= limits.unprovenPerAddressMax) {
      socket.destroy()
      return
    }
    unproven.set(key, address)
    perAddress.set(address, count + 1)
    socket.once('close', () => release(key))
  })
  return (peer) => release(keyOf(peer))
}

export function listenOn(
  server: Server,
  at: { readonly host: string; readonly port: number } | { readonly path: string },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    const isListening = () => {
      server.off('error', reject)
      resolve()
    }
    if (!('path' in at)) {
      server.listen(at, isListening)
      return
    }
    // Node binds within this call, so the file never has other permissions than these.
    const before = process.umask(SOCKET_UMASK)
    try {
      server.listen(at, isListening)
    } finally {
      process.umask(before)
    }
  })
}

/** A socket that a stopped coordinator left behind is replaced; one on which somebody answers, or another file, is not. */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket()) throw taken(path, `${path} is there and is no socket`, 'move it away')
  const problem = await new Promise<string>((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve('answered')
    })
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
  if (problem === 'answered') throw taken(path, `another coordinator answers on ${path}`, 'stop it first')
  if (problem !== 'ECONNREFUSED' && problem !== 'ENOENT')
    throw taken(path, `nobody can tell who has ${path}: ${problem}`, 'look who listens there (ss -xlp)')
  rmSync(path, { force: true })
}

function taken(path: string, message: string, what: string): RefusedError {
  return new RefusedError([
    { kind: 'conflict', message, subject: path, remedy: `${what}, or give another admin_socket in the configuration` },
  ])
}
