/** Agents' sessions over real TLS and real WebSocket, and the pinned connection that agent and CLI make. */
import { randomBytes } from 'node:crypto'
import { connect as connectTcp, createServer as createTcpServer } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { type Sessions, createSessions } from '../../coordinator/sessions/sessions.ts'
import type { SessionSettings } from '../../coordinator/sessions/settings.ts'
import { createAgentUpgrade } from '../../coordinator/sessions/websocket.ts'
import type { Clock } from '../../coordinator/ports.ts'
import { AGENT_SUBPROTOCOL, type CoordinatorFrame } from '../../protocol/agent.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { connectPinned, pinOf } from '../../protocol/pin.ts'
import { createRealClock } from '../../agent/run.ts'
import {
  HASH,
  HELLO,
  INCARNATION,
  type Key,
  MACHINE,
  ORDER,
  type FakeCore,
  type FakeLog,
  authFrame,
  createFakeCore,
  createFakeLog,
  createKey,
  lineRecord,
  machineRow,
  storeOf,
} from './fakes.ts'
import { type Wire, listen, makeKeys, until } from './wire.ts'

const keys = await makeKeys()
const clock: Clock = createRealClock()

type World = Wire & { key: Key; core: FakeCore; log: FakeLog; sessions: Sessions }
async function world(t: Test, settings: Partial<SessionSettings> = {}): Promise<World> {
  const key = createKey()
  const core = createFakeCore([machineRow(key)])
  const log = createFakeLog()
  const sessions = createSessions({
    driver: core,
    store: storeOf([]),
    sign: () => ({ signature: '', keyId: HASH }),
    clock,
    random: { bytes: (count) => randomBytes(count) },
    log,
    settings,
    instance: 'prod',
    incarnation: INCARNATION,
  })
  const wire = await listen(keys)
  wire.server.on('upgrade', createAgentUpgrade(sessions, log))
  t.teardown(async () => {
    sessions.stop()
    await wire.close()
  })
  return { ...wire, key, core, log, sessions }
}

type Client = {
  socket: WebSocket
  frames: CoordinatorFrame[]
  closed: Promise<{ code: number; reason: string }>
  failed: Promise<string>
}
function dial(w: Wire, options: { protocols?: string[]; headers?: Record<string, string> } = {}): Client {
  const socket = new WebSocket(`${w.url.replace('https', 'wss')}/agent`, options.protocols ?? [AGENT_SUBPROTOCOL], {
    rejectUnauthorized: false,
    perMessageDeflate: false,
    headers: options.headers ?? {},
  })
  const frames: CoordinatorFrame[] = []
  socket.on('message', (data) => frames.push(JSON.parse((data as Buffer).toString()) as CoordinatorFrame))
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
  })
  const failed = new Promise<string>((resolve) => {
    socket.on('error', (error) => resolve(error.message))
  })
  return { socket, frames, closed, failed }
}
async function open(w: World, counter = 1): Promise<Client> {
  const client = dial(w)
  const challenge = await until('the challenge', () => client.frames[0])
  client.socket.send(JSON.stringify(authFrame(w.key, challenge, counter)))
  await until('ready', () => client.frames[1])
  client.socket.send(JSON.stringify(HELLO))
  await until('the session', () =>
    w.core.events.some((event) => event.type === 'sessionOpened' && event.counter === counter),
  )
  return client
}

t.test('[SES-1] a session over real sockets', async (t) => {
  const w = await world(t)
  const client = await open(w)
  t.equal(client.socket.protocol, AGENT_SUBPROTOCOL)
  t.match(w.core.events[0], { type: 'sessionOpened', address: '127.0.0.1', machine: MACHINE })
  w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'revoke', order: ORDER } })
  await until('the revoke', () => client.frames.some((frame) => frame.t === 'revoke'))
  client.socket.close(1000, 'bye')
  await until('the end', () => w.core.events.at(-1)?.type === 'sessionClosed')
  t.match(w.core.events.at(-1), { reason: /closed by the agent: 1000 bye/ })
})

t.test('[SES-17] a connection from a web page is refused before it is one', async (t) => {
  const w = await world(t)
  for (const origin of ['https://smith.example:7600', 'null', 'http://127.0.0.1']) {
    const client = dial(w, { headers: { Origin: origin } })
    t.match(await client.failed, /403/, origin)
  }
  t.same(w.sessions.stats().unauthenticated, 0)
})

t.test('[SES-17] another subprotocol, or none, is answered with 4406 and what is spoken here', async (t) => {
  const w = await world(t)
  t.match(await dial(w, { protocols: ['smith.agent.v2'] }).closed, { code: 4406, reason: /smith\.agent\.v1/ })
  t.match(await dial(w, { protocols: [] }).closed, { code: 4406 })
  const both = dial(w, { protocols: ['smith.agent.v2', AGENT_SUBPROTOCOL] })
  await until('the challenge', () => both.frames[0])
  both.socket.terminate()
})

t.test('[SES-18] a message in fragments ends its connection with 4400, and only that one', async (t) => {
  const w = await world(t)
  const other = dial(w)
  await until('the challenge', () => other.frames[0])
  for (const parts of [
    ['{"t":"ping",', '"n":1}'],
    ['', '', '{"t":"ping","n":1}'],
  ]) {
    const client = dial(w)
    await until('the challenge', () => client.frames[0])
    for (const [index, part] of parts.entries()) client.socket.send(part, { fin: index === parts.length - 1 })
    t.match(await client.closed, { code: 4400, reason: /fragments/ })
  }
  t.equal(other.socket.readyState, WebSocket.OPEN)
  t.match(w.sessions.stats().ended, { malformed: 2 })
})

t.test('[SES-18] too long, binary, not UTF-8, or breaking RFC 6455: 4400 and a reason', async (t) => {
  const w = await world(t)
  const tooLong = await open(w, 1)
  tooLong.socket.send(' '.repeat(1_048_577))
  t.match(await tooLong.closed, { code: 4400, reason: /more than 1048576 bytes/ })
  const binary = await open(w, 2)
  binary.socket.send(Buffer.from('{"t":"ping","n":1}'))
  t.match(await binary.closed, { code: 4400, reason: /binary/ })
  const notText = await open(w, 3)
  notText.socket.send(Buffer.from([0xff, 0xfe]), { binary: false })
  t.match(await notText.closed, { code: 4400, reason: /UTF-8/ })
  const unmasked = await open(w, 4)
  unmasked.socket.send('{"t":"ping","n":1}', { mask: false })
  t.match(await unmasked.closed, { code: 4400, reason: /RFC 6455/ })
  await until('the ends', () => w.core.events.filter((event) => event.type === 'sessionClosed').length === 4)
})

t.test('[SES-11] a flood before the proof is cut off, also when no message of it is whole', async (t) => {
  const w = await world(t, { unauthenticatedBytesMax: 4096 })
  const client = dial(w)
  await until('the challenge', () => client.frames[0])
  client.socket.send(' '.repeat(500_000))
  t.match(await client.closed, { code: 4400, reason: /before the key was proved/ })
  const pings = dial(w)
  await until('the challenge', () => pings.frames[0])
  for (let n = 0; n < 100; n += 1) pings.socket.ping(Buffer.alloc(100))
  t.match(await pings.closed, { code: 4400, reason: /before the key was proved/ })
})

t.test('[SES-11] too many connections without a proof are refused with 429', async (t) => {
  const w = await world(t, { unauthenticatedPerAddressMax: 2 })
  const first = [dial(w), dial(w)]
  for (const client of first) await until('the challenge', () => client.frames[0])
  t.match(await dial(w).failed, /429/)
  first[0]?.socket.terminate()
  await until('room', () => w.sessions.refusalFor('127.0.0.1') === null)
  const again = dial(w)
  await until('the challenge', () => again.frames[0])
})

t.test('[SES-10] who says nothing is turned away with 4408', async (t) => {
  const w = await world(t, { authMs: 50 })
  t.match(await dial(w).closed, { code: 4408 })
})

t.test('[SES-9] a peer that answers nothing is dropped, though its connection stands', async (t) => {
  const w = await world(t, { pingMs: 20, deadMs: 60 })
  const client = await open(w)
  await until('a ping', () => client.frames.some((frame) => frame.t === 'ping'))
  t.match(await client.closed, { code: 1006 })
  t.match(w.sessions.stats().ended, { silent: 1 })
})

t.test('[SES-8] a fast stream of records passes whole and in order, slowed down to its share', async (t) => {
  const w = await world(t, { messagesPerSecondMax: 100, bytesPerSecondMax: 2_000_000, queuedFramesMax: 4 })
  const client = await open(w)
  const frames = 150
  for (let n = 1; n <= frames; n += 1) {
    client.socket.send(JSON.stringify({ t: 'records', order: ORDER, records: [lineRecord(n, 'x'.repeat(8000))] }))
  }
  const numbers = () =>
    w.core.events.flatMap((event) =>
      event.type === 'agentNews' && event.news.t === 'records' ? event.news.records.map((record) => record.n) : [],
    )
  await until('all records', () => numbers().length === frames)
  t.same(
    numbers(),
    Array.from({ length: frames }, (_, index) => index + 1),
  )
  t.equal(client.socket.readyState, WebSocket.OPEN)
  client.socket.terminate()
})

t.test('[SES-6] random bytes on the socket itself end nothing but that socket', async (t) => {
  const w = await world(t)
  const other = await open(w)
  for (let n = 0; n < 20; n += 1) {
    const client = dial(w)
    await until('the challenge', () => client.frames[0])
    // ws gives no other way to the bytes themselves.
    const raw = Reflect.get(client.socket, '_socket') as { write: (bytes: Uint8Array) => void; end: () => void }
    raw.write(randomBytes(300))
    raw.end()
    await client.closed
  }
  await until('the ends', () => w.sessions.stats().unauthenticated === 0)
  t.equal(other.socket.readyState, WebSocket.OPEN)
  t.equal(w.sessions.stats().connected, 1)
  other.socket.terminate()
})

t.test('[SES-19] the pin is of the public key; another key gets not one byte', async (t) => {
  const received: number[] = []
  const wire = await listen(keys)
  wire.server.on('secureConnection', (socket) => socket.on('data', (chunk: Buffer) => received.push(chunk.length)))
  t.teardown(wire.close)
  t.equal(pinOf(keys.tls.cert), keys.pin)
  const target = { host: '127.0.0.1', port: wire.port, timeoutMs: 30_000 }
  const socket = await connectPinned({ ...target, pin: keys.pin })
  t.equal(socket.getProtocol(), 'TLSv1.3')
  socket.destroy()
  const other = (await makeKeys()).pin
  const failure = await connectPinned({ ...target, pin: other }).then(
    () => null,
    (error: unknown) => error,
  )
  if (!(failure instanceof RefusedError)) throw new Error('connected to a stranger')
  t.match(failure.refusals, [{ kind: 'not-allowed', message: new RegExp(`showed ${keys.pin}, expected was ${other}`) }])
  t.same(received, [])
})

t.test('[SES-19] an older TLS, in which the certificate would pass in the clear, is not spoken', async (t) => {
  const wire = await listen(keys, undefined, 'TLSv1.2')
  t.teardown(wire.close)
  const failure = await connectPinned({ host: '127.0.0.1', port: wire.port, timeoutMs: 30_000, pin: keys.pin }).then(
    () => null,
    (error: unknown) => error,
  )
  t.match(failure, { refusals: [{ kind: 'unavailable', message: /protocol version/ }] })
})

t.test('[SES-19] nobody there, nobody answering, and no TLS are told apart from a wrong key', async (t) => {
  const silent = createTcpServer(() => {})
  const plain = createTcpServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  const ports = await Promise.all(
    [silent, plain].map(
      (server) =>
        new Promise<number>((resolve) => {
          server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port))
        }),
    ),
  )
  t.teardown(() => {
    silent.close()
    plain.close()
  })
  const free = await new Promise<number>((resolve) => {
    const server = createTcpServer()
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
  for (const [port, timeoutMs] of [
    [free, 30_000],
    [ports[1] ?? 0, 30_000],
    [ports[0] ?? 0, 50],
  ] as const) {
    const failure = await connectPinned({ host: '127.0.0.1', port, pin: keys.pin, timeoutMs }).then(
      () => null,
      (error: unknown) => error,
    )
    t.match(failure, { refusals: [{ kind: 'unavailable', message: new RegExp(`127\\.0\\.0\\.1:${port}`) }] })
  }
  const probe = connectTcp(ports[0] ?? 0, '127.0.0.1')
  probe.destroy()
})
