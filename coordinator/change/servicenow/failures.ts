/**
 * What a failed call means: told apart by status, type of content and detail, never by the status alone, since a 403
 * may be a missing right, a rule of the site, or a mandatory field. Pure.
 */
import { CallError } from '../sender.ts'
import type { HttpAnswer } from '../../ports.ts'

/**
 * `auth`: who smith is was not accepted. `acl`: it may not. `rule`: a rule of the site does not allow it now. `policy`:
 * a field that the site wants is missing. `page`: no interface answered but a web page. `doubt`: an answer that can't
 * be about what was asked.
 */
export type FailureKind =
  | 'unreachable'
  | 'auth'
  | 'acl'
  | 'rule'
  | 'policy'
  | 'refused'
  | 'not-found'
  | 'rate'
  | 'server'
  | 'page'
  | 'doubt'
  | 'person'

export class ServiceNowError extends CallError {
  readonly kind: FailureKind
  /** Whether what was asked may have been done all the same. */
  readonly isAmbiguous: boolean
  constructor(
    kind: FailureKind,
    message: string,
    options: { readonly retryMs?: number; readonly isAmbiguous?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, options)
    this.name = 'ServiceNowError'
    this.kind = kind
    this.isAmbiguous = options.isAmbiguous ?? false
  }
}

/** True for the failures that asking again as before can't mend: a person must change something first. */
export function isRefusal(error: unknown): error is ServiceNowError {
  return error instanceof ServiceNowError && ['acl', 'rule', 'policy', 'refused', 'not-found'].includes(error.kind)
}

const QUOTE_MAX = 300

/** One line of what came back, without control characters. */
export function quoted(text: string): string {
  return text
    .replace(/[\p{Cc}\s]+/gu, ' ')
    .trim()
    .slice(0, QUOTE_MAX)
}

/** The `result` of an answer; throws what its failure means. `now` is the wall clock, for a Retry-After with a date. */
export function resultOf(answer: HttpAnswer, what: string, now: number): unknown {
  const { status, headers, text } = answer
  if (status === 204) return null
  const body = headers['content-type']?.toLowerCase().includes('json') === true ? jsonOf(text) : undefined
  if (status >= 200 && status < 300 && isTable(body) && 'result' in body) return body['result']
  const problem = problemOf(body)
  const said = problem === '' ? '' : `: ${problem}`
  if (status === 401) {
    const mfa = headers['x-mfa_token'] === undefined ? '' : ' (the account asks for a second factor)'
    throw new ServiceNowError('auth', `${what}: ServiceNow does not accept smith's account (401)${mfa}${said}`)
  }
  if (status === 429) {
    const retryMs = retryAfterMs(headers, now)
    const message = `${what}: ServiceNow's rate limit is reached; it asks to wait ${Math.ceil(retryMs / 1000)} s${said}`
    throw new ServiceNowError('rate', message, { retryMs })
  }
  if (status >= 500) {
    const retryMs = headers['retry-after'] === undefined ? 0 : retryAfterMs(headers, now)
    throw new ServiceNowError('server', `${what}: ServiceNow answered ${status}${said}`, { retryMs, isAmbiguous: true })
  }
  if (status === 403) throw forbidden(what, problem)
  if (status === 404)
    throw new ServiceNowError('not-found', `${what}: there is no such record, or smith may not see it (404)${said}`)
  if (status >= 400 && body !== undefined)
    throw new ServiceNowError('refused', `${what}: ServiceNow refused it (${status})${said}`)
  throw new ServiceNowError(
    'page',
    `${what}: a web page answered instead of the interface (status ${status}); the instance may be hibernating, in maintenance, or behind a login: ${quoted(text).slice(0, 80)}`,
    { isAmbiguous: true },
  )
}

function forbidden(what: string, problem: string): ServiceNowError {
  const said = problem === '' ? '' : `: ${problem}`
  if (/business rule|state transition|workflow/i.test(problem))
    return new ServiceNowError('rule', `${what}: a rule of the site does not allow it${said}`)
  if (/data policy|mandatory/i.test(problem))
    return new ServiceNowError('policy', `${what}: the site wants more fields${said}`)
  return new ServiceNowError('acl', `${what}: smith's account may not (403)${said}`)
}

const RETRY_MS_MAX = 3_600_000
const RETRY_MS_DEFAULT = 60_000

/** Seconds or a date (RFC 9110 section 10.2.3), else ServiceNow's own header, which is in seconds of the epoch. */
function retryAfterMs(headers: HttpAnswer['headers'], now: number): number {
  const given = headers['retry-after'] ?? ''
  const reset = Number(headers['x-ratelimit-reset'])
  const ms = /^[0-9]{1,9}$/.test(given)
    ? Number(given) * 1000
    : given === ''
      ? reset * 1000 - now
      : Date.parse(given) - now
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 1000), RETRY_MS_MAX) : RETRY_MS_DEFAULT
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // It says that it is JSON and is none: whoever asked is told of a page in its place.
    return undefined
  }
}

/** Message and detail of an error's body; OAuth's own form of it too (RFC 6749 section 5.2). */
export function problemOf(body: unknown): string {
  if (!isTable(body)) return ''
  const { error } = body
  if (typeof error === 'string')
    return quoted([error, textOf(body['error_description'])].filter((one) => one !== '').join(': '))
  if (!isTable(error)) return ''
  return quoted([textOf(error['message']), textOf(error['detail'])].filter((one) => one !== '').join(': '))
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : '')

export function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
