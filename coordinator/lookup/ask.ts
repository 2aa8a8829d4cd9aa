/** Asks a source over HTTP for JSON, and says of every other answer what it is and what to do. */
import { type Http, type HttpAnswer, HttpError } from '../ports.ts'
import { LookupError, isTable, quoted } from './failure.ts'
import type { LookupSettings } from './settings.ts'

export type AskPorts = {
  readonly settings: LookupSettings
  readonly http: Http
  /** Read anew each time, so that they can be changed while the coordinator runs. */
  readonly readSecret: (file: string) => string
  readonly readFile: (file: string, bytesMax: number) => Promise<string>
}
/** What is left of the time for the whole lookup, in milliseconds. */
export type Left = () => number

export async function askJson(ports: AskPorts, url: URL, left: Left): Promise<unknown> {
  const { settings, http } = ports
  const timeoutMs = Math.min(settings.timeoutMs, left())
  if (timeoutMs <= 0)
    throw new LookupError(
      `was not read whole within ${settings.totalMsMax / 1000} s`,
      'see why it is slow, or raise lookup.total',
    )
  const ca = settings.caFile === '' ? {} : { ca: await caOf(ports) }
  const headers = { accept: 'application/json', 'user-agent': 'smith', ...authorization(ports) }
  try {
    const answer = await http({
      method: 'GET',
      url: url.href,
      headers,
      body: null,
      timeoutMs,
      bytesMax: settings.bytesMax,
      ...ca,
    })
    return jsonOf(answer, url)
  } catch (error) {
    if (!(error instanceof HttpError)) throw error
    throw new LookupError(
      `can't be read: ${error.message}`,
      'see that it is up and reached from here (lookup.url, ca_file, timeout, bytes)',
      error,
    )
  }
}

async function caOf({ settings, readFile }: AskPorts): Promise<string> {
  try {
    return await readFile(settings.caFile, settings.bytesMax)
  } catch (error) {
    throw new LookupError(
      `can't be asked: ${error instanceof Error ? error.message : String(error)}`,
      'see lookup.ca_file',
      error,
    )
  }
}

/** NetBox tells the kind of a token by its beginning, whatever the keyword; we write the keyword that belongs to it. */
function authorization({ settings, readSecret }: AskPorts): { readonly authorization?: string } {
  const { source, tokenFile, user } = settings
  if (tokenFile === '') return {}
  let token: string
  try {
    token = readSecret(tokenFile)
  } catch (error) {
    throw new LookupError(
      `can't be asked: ${error instanceof Error ? error.message : String(error)}`,
      'see lookup.token_file',
      error,
    )
  }
  // A header takes no other; the message of Node would show the token.
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new LookupError("can't be asked: the token has a character that no token has", 'see lookup.token_file')
  if (user !== '') return { authorization: `Basic ${Buffer.from(`${user}:${token}`, 'utf8').toString('base64')}` }
  const isOld = source === 'netbox' && !token.startsWith('nbt_')
  return { authorization: `${isOld ? 'Token' : 'Bearer'} ${token}` }
}

function jsonOf(answer: HttpAnswer, asked: URL): unknown {
  const { status, headers, text } = answer
  const type = headers['content-type']?.toLowerCase() ?? ''
  const body = /^application\/([a-z0-9.+-]+\+)?json\b/.test(type.trim()) ? parsed(text) : undefined
  const said = isTable(body) ? `: ${quoted(body['detail'] ?? body)}` : ''
  if (status >= 300 && status < 400)
    throw new LookupError(
      `redirects to ${placeOf(headers['location'], asked)}`,
      'write the address itself in lookup.url; smith takes its token nowhere else',
    )
  if (status === 401 || status === 403)
    throw new LookupError(
      `does not let smith in (${status})${said}`,
      'see lookup.token_file, and that its account may read machines',
    )
  if (status === 429)
    throw new LookupError(
      `has a rate limit (429); it says to wait ${quoted(headers['retry-after'] ?? 'a while')}`,
      'ask again later',
    )
  if (status !== 200)
    throw new LookupError(
      `answers ${status}${said}`,
      status < 500 ? 'see lookup.url and lookup.filters' : 'see that it is well, and ask again',
    )
  if (body !== undefined) return body
  const what = /^\s*</.test(text)
    ? 'a web page'
    : type === '' || type.includes('json')
      ? 'no whole JSON'
      : `${quoted(type)}, and not application/json`
  throw new LookupError(`answers ${what}`, 'see lookup.url: a login page, a proxy or a broken list answers so')
}

export function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Told by the caller, with what else is known of the answer.
    return undefined
  }
}

function placeOf(location: string | undefined, asked: URL): string {
  const url = location === undefined ? null : URL.parse(location, asked.href)
  return url === null ? 'nowhere' : quoted(url.origin + url.pathname)
}
