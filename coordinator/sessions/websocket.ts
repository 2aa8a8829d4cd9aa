/**
 * Carries agents' sessions over WebSocket (RFC 6455): takes the upgrades of `/agent` from the HTTPS server and makes
 * a link of each. It decides only what belongs to the transport: no browser (Origin), the subprotocol, one text
 * frame a message, no compression, no automatic pong.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocket, WebSocketServer } from 'ws'
import { AGENT_FRAME_BYTES_MAX, AGENT_SUBPROTOCOL } from '../../protocol/agent.ts'
import { CLOSE_CODES } from '../../protocol/errors.ts'
import type { Log } from '../ports.ts'
import { type Link, closeReason } from './link.ts'
import type { Sessions } from './sessions.ts'

export const AGENT_PATH = '/agent'
const CLOSE_TIMEOUT_MS = 5_000

export type AgentUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => void

export function createAgentUpgrade(sessions: Sessions, log: Log): AgentUpgrade {
  // closeTimeout is in ws 8.23 and not in its types; a name of its own keeps the checker from refusing it.
  const options = {
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: AGENT_FRAME_BYTES_MAX,
    maxFragments: 1,
    maxBufferedChunks: 1024,
    autoPong: false,
    closeTimeout: CLOSE_TIMEOUT_MS,
    WebSocket: AgentSocket,
    // Whatever was asked for is agreed to, so that an agent of another version is told so by a close code.
    handleProtocols: (offered: Set<string>) =>
      offered.has(AGENT_SUBPROTOCOL) ? AGENT_SUBPROTOCOL : ([...offered][0] ?? false),
  }
  const server = new WebSocketServer(options)
  server.on('wsClientError', (error, socket, request) => {
    log.warn({ address: addressOf(request), problem: error.message }, 'agent upgrade refused')
    answer(socket, 400, error.message)
  })
  return (request, socket, head) => {
    const address = addressOf(request)
    // No agent sends Origin; a page in someone's browser always does (RFC 6455 section 10.2).
    if (request.headers.origin !== undefined) {
      log.warn(
        { address, origin: request.headers.origin.slice(0, 200) },
        'agent upgrade refused: it came from a web page',
      )
      answer(socket, 403, 'agents send no Origin header')
      return
    }
    const refusal = sessions.refusalFor(address)
    if (refusal !== null) {
      log.warn({ address, problem: refusal }, 'agent upgrade refused')
      answer(socket, 429, refusal)
      return
    }
    server.handleUpgrade(request, socket, head, (websocket) => adopt(sessions, websocket, socket, address))
  }
}

function adopt(sessions: Sessions, websocket: AgentSocket, socket: Duplex, address: string): void {
  let problem = 'the connection was lost'
  websocket.on('error', (error) => {
    problem = error.message
  })
  if (websocket.protocol !== AGENT_SUBPROTOCOL) {
    websocket.close(
      CLOSE_CODES.version,
      closeReason(`this coordinator speaks ${AGENT_SUBPROTOCOL} only; upgrade the agent or the coordinator`),
    )
    return
  }
  const events = sessions.accept(linkOf(websocket, address))
  websocket.onBroken = events.onBroken
  socket.on('data', (chunk: Buffer) => events.onBytes(chunk.length))
  websocket.on('message', (data, isBinary) => events.onMessage(data as Buffer, isBinary))
  websocket.on('close', (code, reason) =>
    events.onClosed(code === 1006 ? problem : `closed by the agent: ${code} ${reason.toString()}`.trim()),
  )
}

function linkOf(websocket: WebSocket, address: string): Link {
  return {
    address,
    // The callback takes the error of a socket that is gone: the 'close' event says the same.
    send: (text) => websocket.send(text, () => {}),
    close: (code, reason) => websocket.close(code, reason),
    terminate: () => websocket.terminate(),
    pause: () => websocket.pause(),
    resume: () => websocket.resume(),
    bufferedBytes: () => websocket.bufferedAmount,
  }
}

/**
 * ws closes a connection that breaks the protocol by itself, with a code alone. This one lets the session close it,
 * with smith's code and a reason that a person can read in the agent's log.
 */
class AgentSocket extends WebSocket {
  onBroken: ((problem: string) => void) | null = null

  override close(code?: number, data?: string | Buffer): void {
    const problem = code === undefined || data !== undefined ? undefined : BROKEN.get(code)
    const { onBroken } = this
    if (problem === undefined || onBroken === null) {
      super.close(code, data)
      return
    }
    this.onBroken = null
    onBroken(problem)
    super.close(CLOSE_CODES.malformed, problem)
  }
}

/** The codes that ws gives to what it can't accept (ws 8.23, lib/receiver.js). */
const BROKEN = new Map([
  [1002, 'a frame breaks the WebSocket protocol (RFC 6455)'],
  [1007, 'a text frame is not UTF-8'],
  [1008, 'a message came in fragments; a frame is one unfragmented message'],
  [1009, `a message has more than ${AGENT_FRAME_BYTES_MAX} bytes`],
])

/** IPv4 as it is written, also on a socket that takes both families (RFC 4291 section 2.5.5.2). */
function addressOf(request: IncomingMessage): string {
  return (request.socket.remoteAddress ?? 'unknown').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/, '')
}

function answer(socket: Duplex, status: 400 | 403 | 429, problem: string): void {
  const titles = { 400: 'Bad Request', 403: 'Forbidden', 429: 'Too Many Requests' }
  const body = `${problem}\n`
  socket.on('error', () => socket.destroy())
  socket.end(
    `HTTP/1.1 ${status} ${titles[status]}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}
