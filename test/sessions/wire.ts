/** A real HTTPS server with a key of its own, for the tests that need sockets. */
import { mkdtempSync, rmSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { type Server, createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { type Keys, loadOrCreateKeys } from '../../coordinator/keys.ts'
import { createFakeClock } from './fakes.ts'

export async function makeKeys(): Promise<Keys> {
  const folder = mkdtempSync(join(tmpdir(), 'smith-keys-'))
  try {
    return await loadOrCreateKeys({
      dir: join(folder, 'keys'),
      instance: 'prod',
      names: [],
      clock: createFakeClock(Date.now()),
      random: { bytes: (count) => randomBytes(count) },
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

export type Wire = {
  readonly server: Server
  readonly port: number
  readonly url: string
  readonly close: () => Promise<void>
}

export async function listen(
  keys: Keys,
  onRequest: (request: IncomingMessage, response: ServerResponse) => void = (_request, response) =>
    void response.writeHead(404).end(),
  version: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3',
): Promise<Wire> {
  const server = createServer({ ...keys.tls, minVersion: version, maxVersion: version }, onRequest)
  const sockets = new Set<{ destroy: () => void }>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    server,
    port,
    url: `https://127.0.0.1:${port}`,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resolve())
      }),
  }
}

/** Resolves when the condition holds; looks again after every turn of the loop, and gives up after a minute. */
export async function until<T>(what: string, condition: () => T | undefined | null | false): Promise<T> {
  const end = Date.now() + 60_000
  for (;;) {
    const value = condition()
    if (value !== undefined && value !== null && value !== false) return value
    if (Date.now() > end) throw new Error(`${what} did not come about in a minute`)
    await new Promise((resolve) => {
      setTimeout(resolve, 2)
    })
  }
}
