/**
 * Serves an archive's folder over HTTP/1.1 on 127.0.0.1 and misbehaves on demand. Called by tests and the demo. It
 * records each request before it answers it, and `close` ends every socket, stall and wait: nothing is left behind.
 */
import { once } from 'node:events'
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import { open, stat } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join, normalize } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { unreachable } from '../../protocol/errors.ts'

export type ArchiveRequest = {
  readonly method: string
  readonly path: string
  readonly range?: string
  readonly ifRange?: string
  readonly ifModifiedSince?: string
}

/** A path matches when the text is found in it, or the expression matches it. */
export type PathPattern = string | RegExp

/** `times`: the rule lifts itself after so many requests. The newest rule that matches a path is the one that acts. */
export type Misbehaviour = { readonly path: PathPattern; readonly times?: number } & (
  | {
      readonly kind: 'status'
      readonly status: number
    } /** Sends headers and so many bytes of the body, then nothing until the rule is lifted; then the rest. */
  | {
      readonly kind: 'stall'
      readonly afterBytes: number
    } /** Promises the whole body and hangs up after so many bytes. */
  | { readonly kind: 'truncate'; readonly afterBytes: number } /** Sends every byte inverted, under the right length. */
  | { readonly kind: 'garbage' }
  | { readonly kind: 'slow'; readonly bytesPerSecond: number } /** Answers with a TCP reset. */
  | { readonly kind: 'reset' }
)

/** Call it to lift the rule, which releases what it stalls. */
export type Lift = (() => void) & {
  /** The first request that the rule acted upon; for a stall once its bytes were handed to the socket. */
  readonly reached: Promise<ArchiveRequest>
}

export type ArchiveServer = {
  /** Without a slash at its end. */
  readonly url: string
  /** All requests, in order of arrival. */
  readonly requests: readonly ArchiveRequest[]
  /** The first request that matches, be it past or to come; `from` leaves out the first so many requests. */
  readonly waitFor: (path: PathPattern, options?: { readonly from?: number }) => Promise<ArchiveRequest>
  readonly misbehave: (rule: Misbehaviour) => Lift
  readonly close: () => Promise<void>
}

type ActiveRule = {
  readonly rule: Misbehaviour
  left: number
  readonly lifted: AbortController
  readonly reached: PromiseWithResolvers<ArchiveRequest>
}
type Waiter = { readonly path: PathPattern; readonly from: number; readonly done: PromiseWithResolvers<ArchiveRequest> }

export async function serveArchive(options: {
  readonly dir: string
  /** A free port when left out. */
  readonly port?: number
  /** The address to listen on; 127.0.0.1 when left out. */
  readonly host?: string
}): Promise<ArchiveServer> {
  const requests: ArchiveRequest[] = []
  const waiters = new Set<Waiter>()
  const rules: ActiveRule[] = []

  const server = createServer((request, response) => {
    const arrived = describe(request)
    requests.push(arrived)
    for (const waiter of waiters) {
      if (requests.length <= waiter.from || !matches(waiter.path, arrived.path)) continue
      waiters.delete(waiter)
      waiter.done.resolve(arrived)
    }
    const active = rules.findLast((one) => one.left > 0 && matches(one.rule.path, arrived.path))
    if (active !== undefined) active.left -= 1
    answer(options.dir, arrived, response, active).catch((error: unknown) => {
      // The client left, or this server closes: there is nobody to tell, and the socket must not linger.
      response.destroy(error instanceof Error ? error : new Error(String(error)))
    })
  })
  const listening = Promise.withResolvers<void>()
  server.once('error', listening.reject)
  const host = options.host ?? '127.0.0.1'
  server.listen(options.port ?? 0, host, listening.resolve)
  await listening.promise

  return {
    url: `http://${host}:${(server.address() as AddressInfo).port}`,
    requests,
    waitFor: (path, { from = 0 } = {}) => {
      const past = requests.slice(from).find((request) => matches(path, request.path))
      if (past !== undefined) return Promise.resolve(past)
      const done = Promise.withResolvers<ArchiveRequest>()
      waiters.add({ path, from, done })
      return done.promise
    },
    misbehave: (rule) => {
      const active = {
        rule,
        left: rule.times ?? Infinity,
        lifted: new AbortController(),
        reached: Promise.withResolvers<ArchiveRequest>(),
      }
      rules.push(active)
      const lift = (): void => {
        active.left = 0
        active.lifted.abort()
      }
      return Object.assign(lift, { reached: active.reached.promise })
    },
    close: async () => {
      const closed = Promise.withResolvers<void>()
      for (const waiter of waiters)
        waiter.done.reject(new Error(`the archive server closed before ${String(waiter.path)} was asked for`))
      server.close(() => closed.resolve())
      server.closeAllConnections()
      await closed.promise
    },
  }
}

async function answer(
  dir: string,
  request: ArchiveRequest,
  response: ServerResponse,
  active: ActiveRule | undefined,
): Promise<void> {
  const rule = active?.rule
  if (active !== undefined && rule?.kind !== 'stall') active.reached.resolve(request)
  if (rule?.kind === 'reset') return void response.socket?.resetAndDestroy()
  if (rule?.kind === 'status') return void response.writeHead(rule.status, { 'content-length': 0 }).end()
  const body = await readBody(dir, request, response)
  if (body === undefined) return
  switch (rule?.kind) {
    case undefined:
      response.end(body)
      return
    case 'garbage':
      response.end(body.map((byte) => byte ^ 0xff))
      return
    case 'truncate':
      await send(response, body.subarray(0, rule.afterBytes))
      response.destroy()
      return
    case 'stall': {
      // Headers go out even when no byte of the body may.
      response.flushHeaders()
      await send(response, body.subarray(0, rule.afterBytes))
      active?.reached.resolve(request)
      await Promise.race([aborted(active?.lifted.signal), once(response, 'close')])
      if (!response.destroyed) response.end(body.subarray(rule.afterBytes))
      return
    }
    case 'slow': {
      const perTick = Math.max(1, Math.round(rule.bytesPerSecond / 20))
      for (let at = 0; at < body.length && !response.destroyed; at += perTick) {
        await send(response, body.subarray(at, at + perTick))
        await delay(50)
      }
      response.end()
      return
    }
    default:
      return unreachable(rule)
  }
}

/** Writes the headers, and gives the bytes that must follow; nothing when the answer is complete without. */
async function readBody(dir: string, request: ArchiveRequest, response: ServerResponse): Promise<Buffer | undefined> {
  const file = await openFile(join(dir, normalize(`/${request.path}`)))
  if (file === undefined) {
    response.writeHead(404, { 'content-length': 0 }).end()
    return undefined
  }
  const headers = {
    'last-modified': file.modified,
    'accept-ranges': 'bytes',
    'content-type': 'application/octet-stream',
  }
  // Exactly as nginx does by default: after a roll back the older file is another file, not an unmodified one.
  if (request.ifModifiedSince === file.modified) {
    response.writeHead(304, headers).end()
    return undefined
  }
  const { length } = file.bytes
  // The rest of a file that is no longer the same would be glued to the start of the other.
  const isSame = request.ifRange === undefined || request.ifRange === file.modified
  const from = isSame ? Number(/^bytes=(\d+)-$/.exec(request.range ?? '')?.[1] ?? 0) : 0
  if (from > 0 && from >= length) {
    response.writeHead(416, { 'content-range': `bytes */${length}`, 'content-length': 0 }).end()
    return undefined
  }
  const partial = from > 0 ? { 'content-range': `bytes ${from}-${length - 1}/${length}` } : {}
  response.writeHead(from > 0 ? 206 : 200, { ...headers, ...partial, 'content-length': length - from })
  if (request.method !== 'HEAD') return file.bytes.subarray(from)
  response.end()
  return undefined
}

/** One open for both, so that a publication that moves on in between cannot mix two files. */
async function openFile(path: string): Promise<{ readonly bytes: Buffer; readonly modified: string } | undefined> {
  const found = await stat(path).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR'))
      return undefined
    throw error
  })
  if (found?.isFile() !== true) return undefined
  const file = await open(path)
  try {
    return { bytes: await file.readFile(), modified: (await file.stat()).mtime.toUTCString() }
  } finally {
    await file.close()
  }
}

function send(response: ServerResponse, bytes: Uint8Array): Promise<void> {
  if (bytes.length === 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    response.write(bytes, (error) => (error ? reject(error) : resolve()))
  })
}

function aborted(signal: AbortSignal | undefined): Promise<unknown> {
  return signal === undefined || signal.aborted ? Promise.resolve() : once(signal, 'abort')
}

function describe(request: IncomingMessage): ArchiveRequest {
  const { range, 'if-range': ifRange, 'if-modified-since': ifModifiedSince } = request.headers
  return {
    method: request.method ?? 'GET',
    path: decodeURIComponent(new URL(request.url ?? '/', 'http://archive').pathname),
    ...(range === undefined ? {} : { range }),
    ...(typeof ifRange === 'string' ? { ifRange } : {}),
    ...(ifModifiedSince === undefined ? {} : { ifModifiedSince }),
  }
}

function matches(pattern: PathPattern, path: string): boolean {
  return typeof pattern === 'string' ? path.includes(pattern) : pattern.test(path)
}
