/**
 * The one form in which the interface says no: RFC 9457 problem details that carry every refusal. Routes, the feed's
 * handshake and the parser of broken requests all make their answer here, so that none shows a stack or a bare text.
 */
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { type Refusal, httpStatusOf } from '../../protocol/errors.ts'
import type { Problem } from '../../protocol/http.ts'

export const PROBLEM_TYPE = 'application/problem+json'
export const RETRY_AFTER_SECONDS = 60
const TEXT_MAX = 4096

/** The first refusal gives the status unless the caller knows a closer one (405, 415, 431). */
export function problemOf(refusals: readonly Refusal[], status?: number): Problem {
  const first = refusals[0]
  const code = status ?? (first === undefined ? 500 : httpStatusOf(first.kind))
  return { type: 'about:blank', title: STATUS_CODES[code] ?? 'Error', status: code, refusals: refusals.map(bounded) }
}

/** The headers that go with a problem (RFC 9110 sections 11.6.1, 15.5.22 and 10.2.3). */
export function problemHeaders(status: number): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': PROBLEM_TYPE }
  if (status === 401) headers['www-authenticate'] = 'Bearer realm="smith"'
  if (status === 426) headers['upgrade'] = 'websocket'
  if (status === 429) headers['retry-after'] = String(RETRY_AFTER_SECONDS)
  return headers
}

/** Answers on a socket that no HTTP response object belongs to, and ends it. */
export function endWithProblem(socket: Duplex, problem: Problem): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  const body = JSON.stringify(problem)
  const headers = {
    ...problemHeaders(problem.status),
    'content-length': String(Buffer.byteLength(body)),
    connection: 'close',
  }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  // Whoever keeps its side open after the answer must not hold the socket.
  socket.end(`HTTP/1.1 ${problem.status} ${problem.title}\r\n${lines.join('')}\r\n${body}`, () => socket.destroy())
}

export function internalRefusal(): Refusal {
  return {
    kind: 'internal',
    message: 'the coordinator met an error of its own',
    remedy: "look into the coordinator's log, and report it",
  }
}

function bounded(refusal: Refusal): Refusal & { position?: { start: number; end: number } } {
  const { position, ...rest } = refusal
  return {
    ...rest,
    message: refusal.message.slice(0, TEXT_MAX),
    remedy: refusal.remedy.slice(0, TEXT_MAX),
    ...(refusal.subject === undefined ? {} : { subject: refusal.subject.slice(0, TEXT_MAX) }),
    ...(position === undefined ? {} : { position: { ...position } }),
  }
}
