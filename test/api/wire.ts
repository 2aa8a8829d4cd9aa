/**
 * What goes over the wire in the tests of the interface: one call with its answer, bytes written by hand, a handshake
 * that is refused. Each answer is checked against the schema of its route, and each refusal against that of problems,
 * so none can differ from what protocol/http.ts says.
 */
import { type IncomingHttpHeaders, request as httpRequest } from 'node:http'
import { type Agent, request as httpsRequest } from 'node:https'
import { type Socket, connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import * as v from 'valibot'
import { type ClientOptions, WebSocket } from 'ws'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import { type Problem, ROUTES, type RouteName, problemSchema } from '../../protocol/http.ts'

export type Doors = { readonly port: number; readonly socket: string }
/** JSON of which a test names a part; what is not there fails the test where it is compared. */
// oxlint-disable-next-line typescript/no-explicit-any -- each answer was checked against the schema of its route
export type Loose = any
export type Answer = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  /** What was parsed of its JSON, as loosely as a test needs it; it was checked against its schema before. */
  readonly body: Loose
}
export type Ask = {
  readonly token?: string | undefined
  readonly socket?: boolean
  readonly body?: unknown
  readonly raw?: string | Buffer
  readonly headers?: Record<string, string>
}

export function exchange(
  at: { readonly port: number; readonly socket: string; readonly agent: Agent },
  method: string,
  path: string,
  ask: Ask,
): Promise<Answer> {
  const payload = ask.raw ?? (ask.body === undefined ? undefined : JSON.stringify(ask.body))
  const headers: Record<string, string> = {
    ...(payload === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(payload)) }),
    ...(ask.token === undefined ? {} : { authorization: `Bearer ${ask.token}` }),
    ...ask.headers,
  }
  return new Promise((resolve, reject) => {
    const options = { method, path, headers }
    const sent =
      ask.socket === true
        ? httpRequest({ ...options, socketPath: at.socket })
        : httpsRequest({ ...options, host: '127.0.0.1', port: at.port, agent: at.agent })
    sent.once('error', reject)
    sent.once('response', (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('error', reject)
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString()
        const isJson = /json/.test(response.headers['content-type'] ?? '') && text !== ''
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          body: isJson ? JSON.parse(text) : null,
        })
      })
    })
    sent.end(payload)
  })
}

function routeOf(method: string, path: string): RouteName | undefined {
  const plain = path.split('?')[0] ?? ''
  return (Object.keys(ROUTES) as RouteName[]).find(
    (name) =>
      ROUTES[name].method === method && new RegExp(`^${ROUTES[name].path.replace(/:[a-z]+/g, '[^/]+')}$`).test(plain),
  )
}

export function checkAnswer(method: string, path: string, answer: Answer): void {
  if (answer.status >= 300) {
    checkProblem(answer)
    return
  }
  const name = routeOf(method, path)
  if (name === undefined) return
  const parsed = v.safeParse(ROUTES[name].answer, answer.body)
  if (!parsed.success)
    throw new Error(
      `${name} answered what its schema does not know: ${v.getDotPath(parsed.issues[0])}: ${parsed.issues[0].message}`,
    )
}

/** RFC 9457, closed, with at least one refusal, and the status said twice. */
export function checkProblem(answer: Answer): Problem {
  const problem = v.parse(problemSchema, answer.body)
  if (!/^application\/problem\+json(;|$)/.test(answer.headers['content-type'] ?? ''))
    throw new Error(`a problem of type ${answer.headers['content-type']}`)
  if (problem.status !== answer.status || problem.refusals.length === 0)
    throw new Error(`a problem that says ${problem.status} came with ${answer.status}`)
  return problem
}

export function kindsOf(answer: Answer): string[] {
  return checkProblem(answer).refusals.map((refusal) => refusal.kind)
}

/** What the handshake of a refused follower was answered with. */
export function refusedFeed(
  world: Doors & { readonly tokens: Readonly<Record<string, string>> },
  by: string | null,
  query: string,
  options: ClientOptions & { readonly protocols?: string[] } = {},
): Promise<Answer> {
  const headers = by === null ? {} : { authorization: `Bearer ${world.tokens[by] ?? by}` }
  const { protocols = [FEED_SUBPROTOCOL], ...more } = options
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(`wss://127.0.0.1:${world.port}/feed${query}`, protocols, {
      rejectUnauthorized: false,
      ...more,
      headers: { ...headers, ...more.headers },
    })
    ws.on('error', () => {})
    ws.once('open', () => {
      ws.terminate()
      reject(new Error('it was let in'))
    })
    ws.once('unexpected-response', (_request, response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString()
        ws.terminate()
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, body: JSON.parse(text) })
      })
    })
  })
}

/** The usual headers of a request that is written by hand. */
export const HEAD = (token: string) => `Host: x\r\nAuthorization: Bearer ${token}\r\n`

/** Sends bytes as they are, and gives all that came until the other side closed. */
export function speak(world: Doors, bytes: string | Buffer, by: 'tls' | 'socket' = 'tls'): Promise<string> {
  return new Promise((resolve) => {
    const socket: Socket =
      by === 'tls'
        ? connectTls({ host: '127.0.0.1', port: world.port, rejectUnauthorized: false })
        : connect(world.socket)
    let text = ''
    socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
    socket.on('error', () => {})
    socket.once('close', () => resolve(text))
    socket.write(bytes)
  })
}

export function problemIn(text: string) {
  const [head = '', body = ''] = text.split('\r\n\r\n')
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1])
  return checkProblem({
    status,
    headers: { 'content-type': /content-type: (.*)/i.exec(head)?.[1]?.trim() ?? '' },
    text,
    body: JSON.parse(body),
  })
}
