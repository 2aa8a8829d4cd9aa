/**
 * Slack's Web API by Slack's own client: what is used of it, each failure told apart by what it says about whether
 * the call was done. The client's own retries are off: a post that is sent again after a lost answer stands there
 * twice, so messages.ts looks first.
 */
import {
  type Logger as SlackLogger,
  LogLevel,
  WebAPIHTTPError,
  WebAPIPlatformError,
  WebAPIRateLimitedError,
  WebAPIRequestError,
  WebClient,
  type WebClientOptions,
} from '@slack/web-api'
import type { Log } from '../ports.ts'
import { type Content, type Place, type Self, type Slack, SlackError, type SlackProblem } from './ports.ts'

const EVENT_TYPE = 'smith_message'
const REVOKED = [
  'invalid_auth',
  'not_authed',
  'token_revoked',
  'token_expired',
  'account_inactive',
  'not_allowed_token_type',
]
/** Slack says that something broke on its side: what had been done by then is not known. */
const BROKEN = ['internal_error', 'fatal_error', 'service_unavailable', 'request_timeout', 'team_added_to_org']
const LIMITED_MS = 30_000
const PAGES_MAX = 10
/** Slack's clock and ours differ; a message a little older than its making here is looked at too. */
const CLOCK_MS = 120_000

export function clientOptions(apiUrl: string, timeoutMs: number, log: Log): WebClientOptions {
  const silent: SlackLogger = {
    debug: () => {},
    info: () => {},
    warn: (...said) => log.debug({ said }, 'Slack client'),
    error: (...said) => log.debug({ said }, 'Slack client'),
    setLevel: () => {},
    getLevel: () => LogLevel.INFO,
    setName: () => {},
  }
  return {
    slackApiUrl: apiUrl,
    timeout: timeoutMs,
    retryConfig: { retries: 0 },
    rejectRateLimitedCalls: true,
    logger: silent,
  }
}

export function problemOf(error: unknown): SlackProblem {
  if (error instanceof WebAPIRateLimitedError) return { kind: 'later', afterMs: Math.max(1, error.retryAfter) * 1000 }
  if (error instanceof WebAPIPlatformError) {
    const reason = error.data.error
    if (REVOKED.includes(reason)) return { kind: 'revoked' }
    if (reason === 'ratelimited' || reason === 'rate_limited') return { kind: 'later', afterMs: LIMITED_MS }
    // The client takes whatever is no JSON as the name of an error: a page of something in between.
    const isPage = !/^[a-z0-9_]{1,100}$/i.test(reason)
    return isPage || BROKEN.includes(reason) ? { kind: 'unsure' } : { kind: 'refused', code: reason }
  }
  if (error instanceof WebAPIHTTPError)
    return error.statusCode >= 500 ? { kind: 'unsure' } : { kind: 'refused', code: `HTTP ${error.statusCode}` }
  if (error instanceof WebAPIRequestError) return { kind: 'unsure' }
  // A 429 without Retry-After is a plain error of the client, and so is an answer that is no JSON.
  return /retry-after|ratelimit/i.test(String(error)) ? { kind: 'later', afterMs: LIMITED_MS } : { kind: 'unsure' }
}

export function slackError(what: string, error: unknown): SlackError {
  const why = error instanceof Error ? error.message : String(error)
  return new SlackError(problemOf(error), `${what}: ${why}`, error)
}

export function createSlack(ports: {
  readonly apiUrl: string
  readonly timeoutMs: number
  readonly log: Log
  /** Read anew for each call: a token that was replaced in its file is good at once. */
  readonly token: () => string
}): Slack {
  let made: { readonly token: string; readonly web: WebClient } | null = null
  const client = (): WebClient => {
    const token = ports.token()
    if (made?.token !== token)
      made = { token, web: new WebClient(token, clientOptions(ports.apiUrl, ports.timeoutMs, ports.log)) }
    return made.web
  }
  const call = async <T>(what: string, run: (web: WebClient) => Promise<T>): Promise<T> => {
    let web: WebClient
    try {
      web = client()
    } catch (error) {
      throw new SlackError({ kind: 'revoked' }, `the bot token can't be read: ${String(error)}`, error)
    }
    try {
      return await run(web)
    } catch (error) {
      throw slackError(what, error)
    }
  }
  return {
    whoAmI: () => call('auth.test', async (web) => selfOf(await web.auth.test())),
    post: (place, content, key) =>
      call('chat.postMessage', async (web) => {
        const answer = await web.apiCall('chat.postMessage', { ...postOf(place, content), metadata: metadataOf(key) })
        return 'ts' in answer ? String(answer.ts) : ''
      }),
    update: (channel, ts, content) =>
      call('chat.update', async (web) => {
        // Blocks that are not sent stay away: so the buttons go.
        const blocks = content.blocks ?? null
        await web.apiCall('chat.update', { channel, ts, text: content.text, ...(blocks === null ? {} : { blocks }) })
      }),
    upload: (place, file) =>
      call('files.uploadV2', async (web) => {
        const thread = place.thread === null ? {} : { thread_ts: place.thread }
        const { title } = file
        await web.filesUploadV2({
          channel_id: place.channel,
          ...thread,
          filename: title,
          title,
          file: file.bytes,
        })
      }),
    find: (place, wanted, since) => call('looking for a message', (web) => find(web, place, wanted, since)),
    whisper: async (url, text) => {
      try {
        const body = JSON.stringify({ response_type: 'ephemeral', replace_original: false, text })
        const headers = { 'content-type': 'application/json' }
        const signal = AbortSignal.timeout(ports.timeoutMs)
        const answer = await fetch(url, { method: 'POST', headers, body, signal, redirect: 'error' })
        if (!answer.ok) ports.log.warn({ status: answer.status }, 'a click was not answered')
      } catch (error) {
        ports.log.warn({ err: error }, 'a click was not answered')
      }
    },
  }
}

function selfOf(answer: { readonly user_id?: string; readonly bot_id?: string; readonly team_id?: string }): Self {
  return { user: answer.user_id ?? '', bot: answer.bot_id ?? '', team: answer.team_id ?? '' }
}

function postOf(place: Place, content: Content) {
  const blocks = content.blocks ?? null
  return {
    channel: place.channel,
    text: content.text,
    unfurl_links: false,
    unfurl_media: false,
    ...(place.thread === null ? {} : { thread_ts: place.thread }),
    ...(blocks === null ? {} : { blocks }),
  }
}

const metadataOf = (key: string) => ({ event_type: EVENT_TYPE, event_payload: { key } })

type Seen = {
  readonly ts?: string
  readonly metadata?: { readonly event_type?: string; readonly event_payload?: { readonly key?: unknown } }
  readonly files?: readonly { readonly title?: string; readonly name?: string }[]
}

async function find(
  web: WebClient,
  place: Place,
  wanted: { readonly key: string; readonly file: string | null },
  since: number,
): Promise<string | null> {
  const oldest = (Math.max(0, since - CLOCK_MS) / 1000).toFixed(6)
  let cursor: string | undefined
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const common = {
      channel: place.channel,
      oldest,
      limit: 200,
      include_all_metadata: true,
      ...(cursor ? { cursor } : {}),
    }
    const answer = (await (place.thread === null
      ? web.conversations.history(common)
      : web.conversations.replies({ ...common, ts: place.thread }))) as {
      messages?: readonly Seen[]
      response_metadata?: { next_cursor?: string }
    }
    const found = (answer.messages ?? []).find((message) => isWanted(message, wanted))
    if (found !== undefined) return found.ts ?? null
    cursor = answer.response_metadata?.next_cursor
    if (cursor === undefined || cursor === '') return null
  }
  return null
}

function isWanted(message: Seen, wanted: { readonly key: string; readonly file: string | null }): boolean {
  if (wanted.file !== null) return (message.files ?? []).some((file) => file.title === wanted.file)
  return message.metadata?.event_type === EVENT_TYPE && message.metadata.event_payload?.key === wanted.key
}
