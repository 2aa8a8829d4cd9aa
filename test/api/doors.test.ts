/**
 * The sockets that the interface listens on: what ends a peer that is slow, silent, large or not understood, the
 * bounds on those who have shown nothing, the admin socket's file, and the end of it all.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, lstatSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import { type TLSSocket, connect as connectTls } from 'node:tls'
import t from 'tap'
import { createApi } from '../../coordinator/api/api.ts'
import { createQueue } from '../../coordinator/api/one-at-a-time.ts'
import { createClient } from '../../coordinator/client/client.ts'
import { listenOn, removeStaleSocket } from '../../coordinator/api/doors.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { HEAD, problemIn, speak } from './wire.ts'
import { type World, createWorld, realClock } from './world.ts'

t.test('[API-8] only TLS 1.3 is spoken', async (t) => {
  const world = await createWorld(t)
  const tried = await new Promise<string>((resolve) => {
    const socket: TLSSocket = connectTls({
      host: '127.0.0.1',
      port: world.port,
      rejectUnauthorized: false,
      maxVersion: 'TLSv1.2',
    })
    socket.once('secureConnect', () => resolve('connected'))
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
  t.match(tried, /PROTOCOL_VERSION/)
  t.equal((await world.call('who', 'vi')).status, 200)
})

t.test('[API-8] what can not be read as a request is refused and its connection ended', async (t) => {
  const world = await createWorld(t)
  const status = async (bytes: string) => problemIn(await speak(world, bytes)).status
  t.equal(await status('\u0001\u0002\r\n\r\n'), 400)
  t.equal(await status(`GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`), 400)
  t.equal(await status(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(9000)}\r\n\r\n`), 431)
  t.equal(await status(`GET /${'x'.repeat(9000)} HTTP/1.1\r\nHost: x\r\n\r\n`), 431)
  const many = Array.from({ length: 500 }, (_, index) => `H${index}: x\r\n`).join('')
  t.match(
    await speak(world, `GET /healthz HTTP/1.1\r\n${HEAD('x')}Connection: close\r\n${many}\r\n`),
    /^HTTP\/1\.1 (200|431)/,
  )
  t.equal((await world.call('who', 'vi')).status, 200)
  t.same(world.errors, [], 'nothing of this is an error of the coordinator')
})

t.test('[API-25] what takes long is waited for on both sides, and what should not is given up', async (t) => {
  const working = Promise.withResolvers<void>()
  const world = await createWorld(t, {
    limits: { stalledMsMax: 700 },
    ports: () => ({
      backup: async (path) => {
        await working.promise
        return { ok: true, value: { path, bytes: 1, sha256: '0'.repeat(64), rev: 1, head: '0'.repeat(64) } }
      },
      missing: async () => {
        await working.promise
        return { ok: true, value: { source: null, at: 1, notEnrolled: [], notKnown: [] } }
      },
    }),
  })
  const timers = { after: realClock.after }
  const reach = { kind: 'socket', path: world.socket } as const
  const client = createClient(timers, { name: 'test', timeoutMs: 500, reach })
  const patient = createClient(timers, { name: 'test', timeoutMs: 60_000, reach })
  const backup = client.call('backup', { body: { path: '/srv/copy', passphrase: 'x'.repeat(20) } })
  await t.rejects(client.call('missing'), /no answer within/, 'the client gives up')
  await t.rejects(patient.call('missing'), /connection was lost|broke off/, 'the coordinator gives up')
  // Both have passed for what was begun before them.
  working.resolve()
  t.match(await backup, { rev: 1 })
})

t.test('[DSH-17] long looks at the store go one after another, and not on for who has gone', async (t) => {
  const queued = createQueue()
  const told: string[] = []
  const gone = new Map<string, () => void>()
  const look = (name: string, pages: number) =>
    queued(
      async (isGone) => {
        for (let page = 1; page <= pages && !isGone(); page += 1) {
          told.push(`${name}${page}`)
          await new Promise((resolve) => setImmediate(resolve))
          if (name === 'b' && page === 2) throw new Error('no disk')
        }
        return name
      },
      (callback) => {
        gone.set(name, callback)
        return () => gone.delete(name)
      },
    )
  const all = [look('a', 3), look('b', 3), look('c', 3), look('d', 2)]
  gone.get('c')?.()
  t.same(
    (await Promise.allSettled(all)).map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled', 'fulfilled'],
  )
  t.same(told, ['a1', 'a2', 'a3', 'b1', 'b2', 'd1', 'd2'])
  t.equal(gone.size, 0, 'nobody is listened for any more')
})

t.test('[API-8] who is slow with the handshake, the headers or the body is cut off', async (t) => {
  const world = await createWorld(t, { limits: { headersMsMax: 150, requestMsMax: 300 } })
  const silent = new Promise<void>((resolve) => {
    const socket = connect({ host: '127.0.0.1', port: world.port })
    socket.on('error', () => {})
    socket.once('close', () => resolve())
    socket.resume()
  })
  const [noRequest, halfHeaders, halfBody] = await Promise.all([
    speak(world, ''),
    speak(world, 'GET /api/v1/who HTTP/1.1\r\nHost:'),
    speak(
      world,
      `POST /api/v1/freeze HTTP/1.1\r\n${HEAD(world.tokens['cy'] ?? '')}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{`,
    ),
    silent,
  ])
  for (const text of [noRequest, halfHeaders, halfBody]) t.match(text, /^(HTTP\/1\.1 408 |$)/)
  t.equal(problemIn(halfHeaders).status, 408)
  t.equal(problemIn(halfBody).status, 408)
  t.equal((await world.call('who', 'vi')).status, 200)
})

t.test(
  '[API-9] connections on which nobody has shown who they are are bounded by address; who shows a token is not among them',
  async (t) => {
    const world = await createWorld(t, { limits: { unprovenPerAddressMax: 3 } })
    t.equal((await world.call('who', 'vi')).status, 200)
    const open = (address: string) => openFrom(world, address)
    const first = [await open('127.0.0.1'), await open('127.0.0.1'), await open('127.0.0.1')]
    t.same(
      first.map(({ isIn }) => isIn),
      [true, true, true],
      'the connection that showed a token takes no place',
    )
    t.equal((await open('127.0.0.1')).isIn, false)
    const other = await open('127.0.0.2')
    t.ok(other.isIn, 'another address has places of its own')
    t.equal((await world.call('who', 'vi')).status, 200)
    const gone = new Promise((resolve) => first[0]?.socket.once('close', resolve))
    first[0]?.socket.destroy()
    await gone
    const again = await untilIn(() => open('127.0.0.1'))
    t.ok(again.isIn, 'a place that was left is free')
    for (const one of [...first, other, again]) one.socket.destroy()
  },
)

t.test('[API-9] in all, they are bounded too', async (t) => {
  const world = await createWorld(t, { limits: { unprovenMax: 2 } })
  const opened = [
    await openFrom(world, '127.0.0.3'),
    await openFrom(world, '127.0.0.4'),
    await openFrom(world, '127.0.0.5'),
  ]
  t.same(
    opened.map(({ isIn }) => isIn),
    [true, true, false],
  )
  for (const { socket } of opened) socket.destroy()
})

type Opened = { readonly socket: Socket; readonly isIn: boolean }

/** A connection that says nothing after its handshake. */
function openFrom(world: World, localAddress: string): Promise<Opened> {
  return new Promise((resolve) => {
    const tcp = connect({ host: '127.0.0.1', port: world.port, localAddress })
    const socket = connectTls({ socket: tcp, rejectUnauthorized: false })
    for (const one of [tcp, socket]) one.on('error', () => resolve({ socket, isIn: false }))
    socket.once('close', () => resolve({ socket, isIn: false }))
    socket.once('secureConnect', () => resolve({ socket, isIn: true }))
  })
}

async function untilIn<One extends { readonly isIn: boolean }>(open: () => Promise<One>): Promise<One> {
  for (let tries = 0; ; tries += 1) {
    const one = await open()
    if (one.isIn || tries > 100) return one
  }
}

t.test(
  '[API-10] the admin socket is open to owner and group only, from its first instant, whatever the umask',
  async (t) => {
    const world = await createWorld(t)
    t.equal(lstatSync(world.socket).mode & 0o777, 0o660)
    const modes: number[] = []
    const before = process.umask(0)
    const server = createServer()
    const path = join(world.dir, 'other.sock')
    try {
      const listening = listenOn(server, { path })
      // It is bound before anything else can happen in this process.
      modes.push(lstatSync(path).mode & 0o777)
      await listening
      t.equal(process.umask(), 0, 'the umask of the process is as it was')
    } finally {
      process.umask(before)
      await new Promise((resolve) => server.close(resolve))
    }
    t.same(modes, [0o660])
  },
)

t.test('[API-10] only a socket on which nobody answers is replaced', async (t) => {
  const world = await createWorld(t)
  const refusal = async (path: string) => {
    const error = await removeStaleSocket(path).then(
      () => null,
      (one: unknown) => one,
    )
    return error instanceof RefusedError ? (error.refusals[0]?.message ?? '') : String(error)
  }
  t.match(await refusal(world.socket), /another coordinator answers/)
  t.equal((await world.call('who', 'socket')).status, 200, 'the one that was asked is unharmed')
  const file = join(world.dir, 'file')
  writeFileSync(file, 'precious')
  t.match(await refusal(file), /is no socket/)
  t.equal(readFileSync(file, 'utf8'), 'precious')
  const link = join(world.dir, 'link')
  symlinkSync(world.socket, link)
  t.match(await refusal(link), /is no socket/)
  const second = createApi(world.ports)
  await t.rejects(second.listenSocket(world.socket), RefusedError)
  await second.close()
  t.equal((await world.call('who', 'socket')).status, 200)
  await world.close()
  t.throws(() => lstatSync(world.socket), { code: 'ENOENT' }, 'it goes with its coordinator')
  t.equal(await refusal(world.socket), 'null', 'nothing there is no obstacle')
})

t.test('[API-10] what a killed coordinator left behind is replaced', async (t) => {
  const world = await createWorld(t)
  const path = join(world.dir, 'stale.sock')
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  try {
    execFileSync(process.execPath, ['-e', script], { stdio: 'ignore', env: {} })
  } catch (error) {
    t.match(error, { signal: 'SIGKILL' })
  }
  t.ok(lstatSync(path).isSocket())
  chmodSync(path, 0o777)
  const next = createApi(world.ports)
  await next.listenSocket(path)
  t.equal(lstatSync(path).mode & 0o777, 0o660)
  await next.close()
})

t.test(
  '[API-12] closing answers who waits and holds nothing open: not a silent peer, not a half request',
  async (t) => {
    // Nothing but the end of the interface ends these peers.
    const world = await createWorld(t, { limits: { headersMsMax: 600_000, requestMsMax: 600_000 } })
    await world.machine('web-1', { plans: false })
    const made = await world.call('requestMake', 'ana', { body: { text: 'prod machines: web-1 outage:0' } })
    const waiting = world.call('request', 'ana', { params: { request: made.body.request }, query: '?wait=30' })
    const silent = connect({ host: '127.0.0.1', port: world.port })
    silent.on('error', () => {})
    await new Promise((resolve) => silent.once('connect', resolve))
    const half = speak(world, 'GET /api/v1/who HTTP/1.1\r\nHost:', 'socket')
    // The call has reached its handler once another one on the same server was answered after it.
    await world.call('who', 'vi')
    const closing = world.close()
    t.equal((await waiting).body.state, 'planning', 'as it stands')
    await closing
    await half
    t.pass('it closed')
    await t.rejects(world.call('who', 'vi'), /ECONNREFUSED|socket hang up/)
  },
)
