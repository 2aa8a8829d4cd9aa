/**
 * The agent's connection for real: TLS with the pinned key, then WebSocket on it. Used by main's `run`; connection.ts
 * sees only the port. Nothing is sent before the pin has been checked.
 */
import { WebSocket } from 'ws'
import { AGENT_FRAME_BYTES_MAX, AGENT_SUBPROTOCOL } from '../protocol/agent.ts'
import { connectPinned } from '../protocol/pin.ts'
import type { Connect, Link, LinkEvents } from './ports.ts'
import { problemOf } from './session/guard.ts'

export type Target = { readonly url: string; readonly pin: string; readonly timeoutMs: number }

const PORT = 7600
/** Where in the coordinator the agents' sessions are. */
const PATH = '/agent'

export function hostAndPort(url: string): { readonly host: string; readonly port: number } {
  const { hostname, port } = new URL(url)
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: port === '' ? PORT : Number(port) }
}

export function createWebSocketConnect(target: Target): Connect {
  return (events) => {
    let websocket: WebSocket | null = null
    let isOver = false
    const over = (code: number | null, reason: string) => {
      if (isOver) return
      isOver = true
      events.onClosed(code, reason)
    }
    void connectPinned({ ...hostAndPort(target.url), pin: target.pin, timeoutMs: target.timeoutMs }).then(
      (socket) => {
        if (isOver) socket.destroy()
        else websocket = openOn(socket, target, events, over)
        return undefined
      },
      (error: unknown) => over(null, problemOf(error)),
    )
    const link: Link = {
      // The callback takes the error of a socket that is gone: the 'close' event says the same.
      send: (text) => websocket?.send(text, () => {}),
      close: (code, reason) => {
        isOver = true
        websocket?.close(code, reason)
      },
      terminate: () => {
        isOver = true
        websocket?.terminate()
      },
      bufferedBytes: () => websocket?.bufferedAmount ?? 0,
    }
    return link
  }
}

function openOn(
  socket: Awaited<ReturnType<typeof connectPinned>>,
  target: Target,
  events: LinkEvents,
  over: (code: number | null, reason: string) => void,
): WebSocket {
  const { host, port } = hostAndPort(target.url)
  const options = {
    createConnection: () => socket,
    perMessageDeflate: false,
    maxPayload: AGENT_FRAME_BYTES_MAX,
    maxFragments: 1,
    maxBufferedChunks: 1024,
    autoPong: false,
    followRedirects: false,
    handshakeTimeout: target.timeoutMs,
    closeTimeout: 5_000,
  }
  const name = host.includes(':') ? `[${host}]` : host
  const websocket = new WebSocket(`wss://${name}:${port}${PATH}`, [AGENT_SUBPROTOCOL], options)
  let problem = 'the connection was lost'
  websocket.on('message', (data, isBinary) => events.onMessage(data as Buffer, isBinary))
  websocket.on('error', (error) => {
    problem = error.message
  })
  websocket.on('close', (code, reason) => {
    // 1006 is no code of the peer: there was no closing handshake (RFC 6455 section 7.4.1).
    if (code === 1006) over(null, problem)
    else over(code, reason.toString())
  })
  return websocket
}
