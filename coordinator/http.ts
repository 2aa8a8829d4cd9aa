/**
 * One HTTP exchange, as a port: Node's own client outside the tests. Used for everything that the coordinator asks of
 * another system. A redirect is an answer and never followed (it leads to a login page, or elsewhere with our token),
 * and an answer has a bound of bytes and of time.
 */
import { type ClientRequest, type IncomingMessage, request as plainRequest } from 'node:http'
import { request } from 'node:https'
import { type Http, type HttpAnswer, type HttpAsk, HttpError } from './ports.ts'

const BYTES_MAX = 16 * 1024 * 1024

export const realHttp: Http = async (ask) => {
  const signal = AbortSignal.timeout(Math.max(1, Math.ceil(ask.timeoutMs)))
  try {
    return await exchange(ask, signal)
  } catch (error) {
    throw unreachable(ask, error, signal.aborted)
  }
}

function exchange(ask: HttpAsk, signal: AbortSignal): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const asked = begin(ask, signal, (answer) => void collect(answer, ask.bytesMax ?? BYTES_MAX).then(resolve, reject))
    asked.on('error', reject)
    asked.end(ask.body)
  })
}

/** Node's own agents keep a connection for the next page for 5 s, and go through a proxy where NODE_USE_ENV_PROXY says so. */
function begin(ask: HttpAsk, signal: AbortSignal, callback: (answer: IncomingMessage) => void): ClientRequest {
  const url = new URL(ask.url)
  const length = ask.body === null ? {} : { 'content-length': String(Buffer.byteLength(ask.body)) }
  const options = { method: ask.method, headers: { ...ask.headers, ...length }, signal }
  if (url.protocol === 'http:') return plainRequest(url, options, callback)
  const trust = ask.ca === undefined ? {} : { ca: ask.ca }
  return request(url, { ...options, ...trust }, callback)
}

async function collect(answer: IncomingMessage, bytesMax: number): Promise<HttpAnswer> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of answer as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes > bytesMax) throw new Error(`the answer has more than ${bytesMax} bytes`)
    pieces.push(piece)
  }
  const headers = Object.entries(answer.headers).map(([name, value]) => [name, [value].flat().join(', ')])
  return {
    status: answer.statusCode ?? 0,
    headers: Object.fromEntries(headers) as Record<string, string>,
    text: Buffer.concat(pieces).toString('utf8'),
  }
}

/** Only where no connection was made is it certain that nothing was done. */
function unreachable(ask: HttpAsk, error: unknown, isTimeout: boolean): HttpError {
  const cause = error instanceof Error ? error : new Error(String(error))
  const code = 'code' in cause ? String(cause.code) : ''
  const why = isTimeout ? `no answer within ${Math.round(ask.timeoutMs / 100) / 10} s` : cause.message || code
  const isAmbiguous = !['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'].includes(code)
  return new HttpError(why, { isAmbiguous, cause: error })
}
