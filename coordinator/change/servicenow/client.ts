/**
 * ServiceNow's interface: authentication and its renewal, time limits, the pause that a rate limit asks for. Called by
 * everything in this folder that asks ServiceNow something. It keeps a token in memory and nothing else.
 */
import { type Clock, type Http, type HttpAnswer, HttpError } from '../../ports.ts'
import { ServiceNowError, isTable, problemOf, quoted, resultOf } from './failures.ts'
import type { ServiceNowSettings } from './settings.ts'

export type Ask = {
  readonly method: 'GET' | 'POST' | 'PATCH'
  readonly path: string
  readonly query?: Readonly<Record<string, string>>
  /** Sent as JSON; a text is sent as it is. */
  readonly body?: Readonly<Record<string, unknown>> | string
  /** What this is, for the message of a failure: `reading CHG0000001`. */
  readonly what: string
  readonly timeoutMs?: number
}

export type Client = {
  /** The `result` of the answer; throws a ServiceNowError. */
  readonly ask: (ask: Ask) => Promise<unknown>
  /** How far ServiceNow's clock is ahead of ours, by its last answer; null before one. */
  readonly skewMs: () => number | null
}

export type ClientPorts = {
  readonly settings: ServiceNowSettings
  readonly http: Http
  readonly clock: Clock
  /** The secret in a file, read anew each time, so that it can be changed while the coordinator runs. */
  readonly readSecret: (file: string) => string
}

/** Renewed this long before its end, so that no request is under way with a token that ends. */
const RENEW_BEFORE_MS = 60_000

export function createClient(given: ClientPorts): Client {
  const ports = { ...given, http: toldAsOurs(given), readSecret: (file: string) => secretIn(given, file) }
  const { settings, http, clock } = ports
  const authorize = createAuthorization(ports)
  let pausedUntil = 0
  let skewMs: number | null = null
  const send = async (ask: Ask): Promise<HttpAnswer> => {
    const url = new URL(settings.url + ask.path)
    for (const [name, value] of Object.entries(ask.query ?? {})) url.searchParams.set(name, value)
    const body = ask.body === undefined ? null : typeof ask.body === 'string' ? ask.body : JSON.stringify(ask.body)
    const timeoutMs = Math.min(ask.timeoutMs ?? settings.timeoutMs, settings.timeoutMs)
    const headers: Record<string, string> = {
      accept: 'application/json',
      authorization: await authorize.header(timeoutMs),
    }
    if (body !== null)
      headers['content-type'] = typeof ask.body === 'string' ? 'text/plain; charset=utf-8' : 'application/json'
    const answer = await http({ method: ask.method, url: url.href, headers, body, timeoutMs })
    const date = Date.parse(answer.headers['date'] ?? '')
    if (Number.isFinite(date)) skewMs = date - clock.wallNow()
    return answer
  }
  return {
    skewMs: () => skewMs,
    ask: async (ask) => {
      const waitMs = pausedUntil - clock.monotonicNow()
      if (waitMs > 0) {
        const message = `${ask.what}: waiting ${Math.ceil(waitMs / 1000)} s more, as ServiceNow's rate limit asks`
        throw new ServiceNowError('rate', message, { retryMs: waitMs })
      }
      let answer = await send(ask)
      // A token may be taken back before its time. Nothing was done, so this is no second try of what was asked.
      if (answer.status === 401 && authorize.isRenewable()) {
        authorize.drop()
        answer = await send(ask)
      }
      try {
        return resultOf(answer, ask.what, clock.wallNow())
      } catch (error) {
        if (error instanceof ServiceNowError && error.kind === 'rate')
          pausedUntil = clock.monotonicNow() + error.retryMs
        throw error
      }
    },
  }
}

function toldAsOurs({ settings, http }: ClientPorts): Http {
  return async (ask) => {
    try {
      return await http(ask)
    } catch (error) {
      if (!(error instanceof HttpError)) throw error
      const { isAmbiguous, message } = error
      const text = `ServiceNow (${new URL(settings.url).origin}) can't be reached: ${message}`
      throw new ServiceNowError('unreachable', text, { isAmbiguous, cause: error })
    }
  }
}

function secretIn({ readSecret }: ClientPorts, file: string): string {
  try {
    return readSecret(file)
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    const text = `the secret of ServiceNow (change.servicenow.secret_file) can't be used: ${problem}`
    throw new ServiceNowError('auth', text, { cause: error })
  }
}

type Authorization = {
  readonly header: (timeoutMs: number) => Promise<string>
  readonly isRenewable: () => boolean
  readonly drop: () => void
}

function createAuthorization({ settings, http, clock, readSecret }: ClientPorts): Authorization {
  const { auth } = settings
  if (auth.kind === 'basic') {
    return {
      header: async () =>
        `Basic ${Buffer.from(`${auth.user}:${readSecret(auth.secretFile)}`, 'utf8').toString('base64')}`,
      isRenewable: () => false,
      drop: () => {},
    }
  }
  let token: { readonly text: string; readonly until: number } | null = null
  let asking: Promise<string> | null = null
  const renew = async (timeoutMs: number): Promise<string> => {
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: auth.clientId,
      client_secret: readSecret(auth.secretFile),
      ...(auth.scope === '' ? {} : { scope: auth.scope }),
    })
    const answer = await http({
      method: 'POST',
      url: `${settings.url}/oauth_token.do`,
      headers: { accept: 'application/json', 'content-type': 'application/x-www-form-urlencoded' },
      body: form.toString(),
      timeoutMs,
    })
    const { access_token: text, expires_in: seconds } = tokenOf(answer, clock.wallNow())
    const lifeMs = (Number(seconds) || 0) * 1000
    token = { text, until: clock.monotonicNow() + Math.max(lifeMs - RENEW_BEFORE_MS, lifeMs / 2) }
    return text
  }
  return {
    header: async (timeoutMs) => {
      if (token !== null && clock.monotonicNow() < token.until) return `Bearer ${token.text}`
      asking ??= renew(timeoutMs).finally(() => {
        asking = null
      })
      return `Bearer ${await asking}`
    },
    isRenewable: () => token !== null,
    drop: () => {
      token = null
    },
  }
}

/** The answer of the token's endpoint has no `result`; all its refusals look alike. */
function tokenOf(answer: HttpAnswer, now: number): { readonly access_token: string; readonly expires_in: unknown } {
  const isJson = answer.headers['content-type']?.toLowerCase().includes('json') === true
  let body: unknown
  try {
    body = isJson ? JSON.parse(answer.text) : undefined
  } catch {
    // Told below as an answer without a token.
    body = undefined
  }
  if (answer.status === 200 && isTable(body) && typeof body['access_token'] === 'string')
    return { access_token: body['access_token'], expires_in: body['expires_in'] }
  if (answer.status === 429 || answer.status >= 500 || body === undefined) resultOf(answer, 'getting a token', now)
  throw new ServiceNowError(
    'auth',
    `getting a token: ServiceNow gives none (${answer.status}): ${problemOf(body) || quoted(answer.text)}; see that the client id and secret are right, that glide.oauth.inbound.client.credential.grant_type.enabled is true, and that the OAuth application has a user`,
  )
}
