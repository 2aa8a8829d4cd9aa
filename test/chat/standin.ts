/**
 * A stand-in for Slack that speaks its protocol to Slack's own client libraries: the Web API, Socket Mode, uploads,
 * answers to clicks. It keeps channels as Slack does and punishes as Slack does: sizes, unknown channels, rates,
 * tokens that were revoked, deliveries that were not acknowledged. Used by the tests and, by hand, by test/demo.
 */
import { randomUUID } from 'node:crypto'
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Loose, blocksProblem } from './standin-blocks.ts'

export const BOT = { user: 'U0SMITH', bot: 'B0SMITH', team: 'T0ACME', app: 'A0SMITH' } as const

export type Posted = {
  readonly channel: string
  readonly ts: string
  readonly thread: string | null
  text: string
  blocks: Loose[] | null
  readonly key: string | null
  readonly file: { readonly title: string; readonly content: string } | null
  /** Every text that it had, the first one first. */
  readonly texts: string[]
}
type Fields = Record<string, string>
/** What becomes of a call: answered so instead, or done and its answer lost. */
export type Fault =
  | { readonly error: string }
  | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: string }
  | 'lost'
  | 'hang'
type Pending = { readonly envelope: Loose; tries: number }

export class StandIn {
  readonly posted: Posted[] = []
  readonly calls: { readonly method: string; readonly fields: Fields; readonly token: string; readonly at: number }[] =
    []
  readonly whispers: string[] = []
  readonly acks: string[] = []
  readonly badTokens = new Set<string>()
  readonly channels = new Set(['D0ANA', 'D0BO', 'D0CY', 'C0LOG', 'C0OPS'])
  readonly sockets = new Set<WebSocket>()
  /** How many connections were ever opened. */
  opened = 0
  /** False: connections are taken and not greeted. */
  greets = true
  /** At most so many posts in a second and channel, 0 for any. */
  postsPerSecond = 0
  #faults: { readonly method: string; readonly fault: Fault; left: number }[] = []
  readonly #pending = new Map<string, Pending>()
  readonly #uploads = new Map<string, { title: string; content: string }>()
  readonly #posts = new Map<string, number[]>()
  readonly #server: Server
  readonly #ws = new WebSocketServer({ noServer: true })
  #count = 0

  private constructor(server: Server) {
    this.#server = server
  }

  static async start(port = 0): Promise<StandIn> {
    const server = createServer()
    const standIn = new StandIn(server)
    server.on('request', (request, response) => void standIn.#serve(request, response))
    server.on('upgrade', (request, socket, head) => {
      standIn.#ws.handleUpgrade(request, socket, head, (link) => standIn.#greet(link))
    })
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
    return standIn
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get apiUrl(): string {
    return `http://127.0.0.1:${this.port}/api/`
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.terminate()
    this.#ws.close()
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  /** The next calls of a method (or of every method: `*`) come to this. */
  fault(method: string, fault: Fault, times = 1): void {
    this.#faults.push({ method, fault, left: times })
  }

  clearFaults(): void {
    this.#faults = []
  }

  /** What stands in a channel, in order; threads among it. */
  in(channel: string): Posted[] {
    return this.posted.filter((message) => message.channel === channel)
  }

  /** A person types; the answer is the message's ts. */
  say(user: string, channel: string, text: string, more: Loose = {}): string {
    const ts = this.#ts()
    const isDirect = channel.startsWith('D')
    const event = {
      ...{ type: isDirect ? 'message' : 'app_mention', user, text, channel, ts, event_ts: ts },
      ...(isDirect ? { channel_type: 'im', client_msg_id: randomUUID(), team: BOT.team } : {}),
      ...more,
    }
    this.event(event)
    return ts
  }

  event(event: Loose): string {
    return this.deliver('events_api', {
      ...{ token: 'x', team_id: BOT.team, api_app_id: BOT.app, type: 'event_callback', event_id: `Ev${randomUUID()}` },
      ...{ event_time: Math.floor(Date.now() / 1000), is_ext_shared_channel: false, event },
    })
  }

  /** A person clicks the button with this action of a message. */
  click(user: string, message: Posted, action: string): string {
    const buttons: Loose[] = (message.blocks ?? []).flatMap((block: Loose) => block.elements ?? [])
    const button = buttons.find((one) => one.action_id === action)
    if (button === undefined) throw new Error(`there is no button ${action} under: ${message.text}`)
    return this.deliver('interactive', {
      ...{
        type: 'block_actions',
        user: { id: user, username: 'x', team_id: BOT.team },
        api_app_id: BOT.app,
        token: 'x',
      },
      container: { type: 'message', message_ts: message.ts, channel_id: message.channel, is_ephemeral: false },
      trigger_id: '1.2.abc',
      team: { id: BOT.team, domain: 'acme' },
      channel: { id: message.channel, name: 'x' },
      message: { type: 'message', user: BOT.user, ts: message.ts, text: message.text },
      response_url: `http://127.0.0.1:${this.port}/response/${randomUUID()}`,
      actions: [{ ...button, action_ts: this.#ts() }],
    })
  }

  deliver(type: string, payload: Loose): string {
    const id = randomUUID()
    const envelope = { envelope_id: id, type, accepts_response_payload: false, payload }
    this.#pending.set(id, { envelope, tries: 0 })
    this.#send(id)
    return id
  }

  /** The same envelope again, as after an acknowledgement that was lost. */
  redeliver(id: string, envelope: Loose): void {
    this.#pending.set(id, { envelope, tries: 1 })
    this.#send(id)
  }

  envelopeOf(id: string): Loose {
    return this.#pending.get(id)?.envelope
  }

  /** A frame to every connection, whatever it is. */
  frame(frame: Loose): void {
    for (const socket of this.sockets) socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  disconnect(reason: string): void {
    this.frame({ type: 'disconnect', reason, debug_info: { host: 'standin' } })
  }

  #ts(): string {
    this.#count += 1
    return `${Math.floor(Date.now() / 1000)}.${String(this.#count).padStart(6, '0')}`
  }

  #greet(link: WebSocket): void {
    this.opened += 1
    this.sockets.add(link)
    link.on('close', () => this.sockets.delete(link))
    link.on('error', () => this.sockets.delete(link))
    link.on('message', (data: Buffer) => {
      const { envelope_id: id } = JSON.parse(data.toString()) as { envelope_id: string }
      this.acks.push(id)
      this.#pending.delete(id)
    })
    if (!this.greets) return
    link.send(
      JSON.stringify({
        ...{ type: 'hello', num_connections: this.sockets.size, debug_info: { host: 'standin', build_number: 1 } },
        connection_info: { app_id: BOT.app },
      }),
    )
    // What nobody acknowledged is delivered again.
    for (const id of this.#pending.keys()) this.#send(id)
  }

  #send(id: string): void {
    const pending = this.#pending.get(id)
    const socket = [...this.sockets].findLast((one) => one.readyState === one.OPEN)
    if (pending === undefined || socket === undefined) return
    const attempt = { retry_attempt: pending.tries, retry_reason: pending.tries === 0 ? '' : 'timeout' }
    pending.tries += 1
    socket.send(JSON.stringify({ ...pending.envelope, ...attempt }))
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const raw = Buffer.concat(chunks)
    const path = (request.url ?? '').split('?')[0] ?? ''
    if (path.startsWith('/response/')) {
      this.whispers.push((JSON.parse(raw.toString()) as { text: string }).text)
      response.end('ok')
      return
    }
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1] ?? ''
    if (path.startsWith('/upload/')) {
      const upload = this.#uploads.get(path.slice('/upload/'.length))
      if (upload !== undefined) upload.content = bodyOf(raw)
      response.end(`OK - ${raw.length}`)
      return
    }
    const method = path.replace('/api/', '')
    const fields = Object.fromEntries(new URLSearchParams(raw.toString()))
    this.calls.push({ method, fields, token: fields['token'] ?? token, at: Date.now() })
    const fault = this.#faultOf(method)
    if (fault === 'hang') return
    if (fault !== null && fault !== 'lost' && 'status' in fault) {
      response.writeHead(fault.status, fault.headers).end(fault.body ?? '')
      return
    }
    const answer =
      fault !== null && fault !== 'lost' ? { ok: false, error: fault.error } : this.#answer(method, fields, token)
    if (fault === 'lost') request.socket.destroy()
    else if ('retryAfter' in answer) response.writeHead(429, { 'retry-after': String(answer.retryAfter) }).end('{}')
    else response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  }

  #faultOf(method: string): Fault | null {
    const found = this.#faults.find((one) => one.left > 0 && (one.method === method || one.method === '*'))
    if (found === undefined) return null
    found.left -= 1
    return found.fault
  }

  #answer(method: string, fields: Fields, header: string): Loose {
    const token = fields['token'] ?? header
    const kind = method === 'apps.connections.open' ? 'xapp-' : 'xoxb-'
    if (!token.startsWith(kind)) return { ok: false, error: 'not_allowed_token_type' }
    if (this.badTokens.has(token)) return { ok: false, error: 'token_revoked' }
    switch (method) {
      case 'auth.test':
        return {
          ok: true,
          url: 'https://acme.slack.com/',
          team: 'Acme',
          user: 'smith',
          team_id: BOT.team,
          user_id: BOT.user,
          bot_id: BOT.bot,
        }
      case 'apps.connections.open':
        return { ok: true, url: `ws://127.0.0.1:${this.port}/link/?key=${randomUUID()}&app_id=${BOT.app}` }
      case 'chat.postMessage':
        return this.#post(fields)
      case 'chat.update':
        return this.#update(fields)
      case 'conversations.history':
      case 'conversations.replies':
        return this.#history(fields)
      case 'files.getUploadURLExternal':
        return this.#upload(fields)
      case 'files.completeUploadExternal':
        return this.#complete(fields)
      default:
        return { ok: false, error: 'unknown_method' }
    }
  }

  #problemOf(fields: Fields): string | null {
    if (!this.channels.has(fields['channel'] ?? fields['channel_id'] ?? '')) return 'channel_not_found'
    const text = fields['text'] ?? ''
    if (text === '' && fields['blocks'] === undefined) return 'no_text'
    if (text.length > 40_000) return 'msg_too_long'
    return fields['blocks'] === undefined ? null : blocksProblem(JSON.parse(fields['blocks']) as Loose[])
  }

  #post(fields: Fields): Loose {
    const problem = this.#problemOf(fields)
    if (problem !== null) return { ok: false, error: problem }
    const channel = fields['channel'] ?? ''
    const recent = (this.#posts.get(channel) ?? []).filter((at) => at > Date.now() - 1000)
    if (this.postsPerSecond > 0 && recent.length >= this.postsPerSecond) return { retryAfter: 1 }
    this.#posts.set(channel, [...recent, Date.now()])
    const thread = fields['thread_ts'] ?? null
    const parent = this.posted.find((message) => message.ts === thread)
    if (parent !== undefined && parent.thread !== null) return { ok: false, error: 'thread_ts_is_a_reply' }
    const metadata = fields['metadata'] === undefined ? null : JSON.parse(fields['metadata'])
    const text = fields['text'] ?? ''
    const message: Posted = {
      ...{ channel, ts: this.#ts(), thread, text, file: null, texts: [text] },
      blocks: fields['blocks'] === undefined ? null : (JSON.parse(fields['blocks']) as Loose[]),
      key: metadata?.event_payload?.key ?? null,
    }
    this.posted.push(message)
    return { ok: true, channel, ts: message.ts, message: this.#shown(message) }
  }

  #update(fields: Fields): Loose {
    const message = this.posted.find((one) => one.ts === fields['ts'] && one.channel === fields['channel'])
    if (message === undefined) return { ok: false, error: 'message_not_found' }
    const problem = this.#problemOf(fields)
    if (problem !== null) return { ok: false, error: problem }
    message.text = fields['text'] ?? ''
    message.texts.push(message.text)
    message.blocks = fields['blocks'] === undefined ? null : (JSON.parse(fields['blocks']) as Loose[])
    return { ok: true, channel: message.channel, ts: message.ts, text: message.text, message: this.#shown(message) }
  }

  #shown(message: Posted): Loose {
    const metadata = { event_type: 'smith_message', event_payload: { key: message.key } }
    const files =
      message.file === null ? {} : { files: [{ id: 'F1', title: message.file.title, name: message.file.title }] }
    const thread = message.thread === null ? {} : { thread_ts: message.thread }
    return {
      type: 'message',
      user: BOT.user,
      bot_id: BOT.bot,
      ts: message.ts,
      text: message.text,
      metadata,
      ...files,
      ...thread,
    }
  }

  /** Newest first in a channel, in pages of two, so that whoever looks must turn them. */
  #history(fields: Fields): Loose {
    const { channel = '', ts, oldest = '0', cursor = '0' } = fields
    if (!this.channels.has(channel)) return { ok: false, error: 'channel_not_found' }
    const all = this.in(channel).filter((message) =>
      ts === undefined ? message.thread === null : message.thread === ts,
    )
    const fresh = all.filter((message) => Number(message.ts) > Number(oldest)).toReversed()
    const from = Number(cursor)
    const next = from + 2 < fresh.length ? String(from + 2) : ''
    const messages = fresh.slice(from, from + 2).map((message) => this.#shown(message))
    return { ok: true, messages, has_more: next !== '', response_metadata: { next_cursor: next } }
  }

  #upload(fields: Fields): Loose {
    if (Number(fields['length'] ?? 0) < 1) return { ok: false, error: 'invalid_arguments' }
    const id = `F${randomUUID().slice(0, 8)}`
    this.#uploads.set(id, { title: fields['filename'] ?? '', content: '' })
    return { ok: true, upload_url: `http://127.0.0.1:${this.port}/upload/${id}`, file_id: id }
  }

  #complete(fields: Fields): Loose {
    const channel = fields['channel_id'] ?? ''
    if (!this.channels.has(channel)) return { ok: false, error: 'channel_not_found' }
    const files = JSON.parse(fields['files'] ?? '[]') as { id: string; title: string }[]
    for (const { id, title } of files) {
      const content = this.#uploads.get(id)?.content ?? ''
      const at = { channel, ts: this.#ts(), thread: fields['thread_ts'] ?? null }
      this.posted.push({ ...at, text: '', blocks: null, key: null, texts: [], file: { title, content } })
    }
    return { ok: true, files: files.map(({ id, title }) => ({ id, title, permalink: '' })) }
  }
}

/** The one part of a multipart body. */
function bodyOf(raw: Buffer): string {
  const text = raw.toString('utf8')
  const from = text.indexOf('\r\n\r\n')
  return from < 0 ? text : text.slice(from + 4, text.lastIndexOf('\r\n--'))
}
