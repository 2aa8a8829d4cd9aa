/**
 * One HTTP exchange, as a port: Node's own fetch outside the tests. A redirect is no answer (it leads to a login page),
 * and an answer has a bound of bytes and of time.
 */
import { ServiceNowError } from './failures.ts'
import type { Http, HttpAsk } from './http-port.ts'

const BYTES_MAX = 16 * 1024 * 1024

export const fetchHttp: Http = async (ask) => {
  const signal = AbortSignal.timeout(Math.max(1, Math.ceil(ask.timeoutMs)))
  try {
    const { method, url, headers, body } = ask
    const answer = await fetch(url, { method, headers, body, signal, redirect: 'manual' })
    const pieces: Uint8Array[] = []
    let bytes = 0
    for await (const piece of answer.body ?? []) {
      bytes += piece.length
      if (bytes > BYTES_MAX) throw new Error(`the answer has more than ${BYTES_MAX} bytes`)
      pieces.push(piece)
    }
    const text = Buffer.concat(pieces).toString('utf8')
    return { status: answer.status, headers: Object.fromEntries(answer.headers), text }
  } catch (error) {
    throw unreachable(ask, error)
  }
}

/** Only where no connection was made is it certain that nothing was done. */
function unreachable(ask: HttpAsk, error: unknown): ServiceNowError {
  const { origin } = new URL(ask.url)
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
  const isTimeout = error instanceof Error && error.name === 'TimeoutError'
  const why = isTimeout
    ? `no answer within ${Math.round(ask.timeoutMs / 1000)} s`
    : cause instanceof Error
      ? cause.message || code
      : String(cause)
  const isAmbiguous = !['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'].includes(code)
  return new ServiceNowError('unreachable', `ServiceNow (${origin}) can't be reached: ${why}`, {
    isAmbiguous,
    cause: error,
  })
}
