/** `smith-agent` as a program: enrolment over a real connection, the running agent against real sessions, status. */
import { spawn } from 'node:child_process'
import { createPublicKey, randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import { createRealDisk } from '../../../agent/disk/disk.ts'
import { readGrantKeys } from '../../../agent/disk/grant-key.ts'
import { layoutOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import { readStoredIdentity } from '../../../agent/identity.ts'
import { EXIT, runProgram } from '../../../agent/program.ts'
import { createRealClock } from '../../../agent/run.ts'
import type { AgentStatus } from '../../../agent/status.ts'
import { type Sessions, createSessions } from '../../../coordinator/sessions/sessions.ts'
import { createAgentUpgrade } from '../../../coordinator/sessions/websocket.ts'
import { httpStatusOf } from '../../../protocol/errors.ts'
import type { Refusal } from '../../../protocol/errors.ts'
import {
  EVIDENCE,
  type FakeCore,
  HASH,
  INCARNATION,
  MACHINE,
  ORDER,
  PLAN,
  PLAN_HASH,
  createFakeCore,
  createFakeLog,
  createKey,
  grantPayload,
  grantSend,
  lineRecord,
  machineRow,
  resultRecord,
  storeOf,
} from '../../sessions/fakes.ts'
import { type Wire, listen, makeKeys, until } from '../../sessions/wire.ts'

const keys = await makeKeys()
const NAME = 'prod-dal10-carrier3-worker-1'
const SECRET = 's'.repeat(43)
const tokenOf = (pin: string) => `smith1.${SECRET}.${pin}.${NAME}`
const orderKey = createKey()

type Asked = { readonly path: string | undefined; readonly body: { token: string; publicKey: string; facts: object } }
type World = Wire & {
  asked: Asked[]
  core: FakeCore
  sessions: Sessions
  refusal: Refusal | null
  raw: string | null
  config: string
  state: string
}

/** A coordinator as an agent sees it: enrolment, and sessions of whoever enrolled. */
async function world(t: Test): Promise<World> {
  const asked: Asked[] = []
  const core = createFakeCore([])
  const log = createFakeLog()
  const sessions = createSessions({
    driver: core,
    store: storeOf([{ hash: PLAN_HASH, plan: PLAN, evidence: EVIDENCE }]),
    sign: (bytes) => ({ signature: orderKey.sign(bytes), keyId: HASH }),
    clock: createRealClock(),
    random: { bytes: (count) => randomBytes(count) },
    log,
    instance: 'prod',
    incarnation: INCARNATION,
  })
  const wire = await listen(keys, (request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => (text += chunk.toString()))
    request.on('end', () => {
      const body = JSON.parse(text) as Asked['body']
      asked.push({ path: request.url, body })
      if (w.raw !== null) {
        response.writeHead(200).end(w.raw)
        return
      }
      if (w.refusal !== null) {
        const status = httpStatusOf(w.refusal.kind)
        response
          .writeHead(status)
          .end(JSON.stringify({ type: 'about:blank', title: 'no', status, refusals: [w.refusal] }))
        return
      }
      core.machines.set(MACHINE, machineRow({ publicKey: body.publicKey, sign: () => '' }))
      response
        .writeHead(200)
        .end(JSON.stringify({ machine: MACHINE, name: NAME, instance: 'prod', orderKey: orderKey.publicKey }))
    })
  })
  wire.server.on('upgrade', createAgentUpgrade(sessions, log))
  const folder = mkdtempSync(join(tmpdir(), 'smith-enrol-'))
  const state = join(folder, 'state')
  const config = join(folder, 'agent.toml')
  mkdirSync(join(folder, 'repos'))
  writeFileSync(
    join(folder, 'repos', 'prod.sources'),
    'Types: deb\nURIs: file:/nowhere\nSuites: test\nComponents: main\n',
  )
  writeFileSync(
    config,
    [
      `coordinator = "${wire.url}"`,
      `state_dir = "${state}"`,
      `log_file = "${join(folder, 'agent.log')}"`,
      `repos_dir = "${join(folder, 'repos')}"`,
      '[limits]',
      'reconnect_min = 0.02',
      'reconnect_max = 0.05',
      'poll = 0.02',
      '[run]',
      'mode = "systemd"',
      '',
    ].join('\n'),
  )
  const w: World = { ...wire, asked, core, sessions, refusal: null, raw: null, config, state }
  t.teardown(async () => {
    sessions.stop()
    await wire.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return w
}

async function run(...argv: string[]): Promise<{ status: number; out: string; err: string }> {
  let out = ''
  let err = ''
  const sink = (take: (text: string) => void) =>
    new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        take(chunk.toString())
        done()
      },
    })
  const status = await runProgram(
    argv,
    sink((text) => (out += text)),
    sink((text) => (err += text)),
  )
  return { status, out, err }
}
const enrolArgv = (w: World, token = tokenOf(keys.pin)) => [
  'enrol',
  '--coordinator',
  w.url,
  '--token',
  token,
  '--config',
  w.config,
]
const isEmptyState = (w: World) =>
  readStoredIdentity(createRealDisk(), layoutOf(w.state)) === null &&
  readGrantKeys(createRealDisk(), layoutOf(w.state)) === null

t.test('[ENR-1] enrolment makes the key here, keeps it here, and writes whose grants are obeyed', async (t) => {
  const w = await world(t)
  const done = await run(...enrolArgv(w))
  t.match(done, { status: EXIT.done, out: new RegExp(`Enrolled as ${NAME} with instance prod`), err: '' })
  t.equal(w.asked.length, 1)
  t.equal(w.asked[0]?.path, '/api/v1/enrol')
  t.equal(w.asked[0]?.body.token, tokenOf(keys.pin))
  t.notMatch(JSON.stringify(w.asked), /PRIVATE/)
  const layout = layoutOf(w.state)
  const keyFile = join(layout.agent, 'key.pem')
  t.equal(statSync(keyFile).mode & 0o777, 0o600)
  t.equal(
    createPublicKey(readFileSync(keyFile)).export({ type: 'spki', format: 'der' }).toString('base64'),
    w.asked[0]?.body.publicKey,
  )
  t.match(readStoredIdentity(createRealDisk(), layout), {
    machine: MACHINE,
    name: NAME,
    instance: 'prod',
    pin: keys.pin,
  })
  t.match(readGrantKeys(createRealDisk(), layout), { machine: MACHINE, keys: [{ key: orderKey.publicKey }] })
  t.equal(statSync(layout.grantKey).uid, process.getuid?.())
})

t.test('[ENR-2] a coordinator with another key than the token names is sent nothing', async (t) => {
  const w = await world(t)
  const other = (await makeKeys()).pin
  const done = await run(...enrolArgv(w, tokenOf(other)))
  t.match(done, { status: EXIT.failed, err: /does not hold the pinned key[\s\S]*do: / })
  t.same(w.asked, [])
  t.ok(isEmptyState(w))
})

t.test(
  '[ENR-3] a token that is used, expired or foreign is refused in the words of the coordinator, and nothing is left',
  async (t) => {
    const w = await world(t)
    for (const kind of ['conflict', 'expired', 'unauthenticated', 'exists'] as const) {
      w.refusal = { kind, message: `the token is ${kind}`, remedy: 'Make a new one.' }
      const done = await run(...enrolArgv(w))
      t.same(done, { status: EXIT.failed, out: '', err: `error: the token is ${kind}\n   do: Make a new one.\n` })
      t.ok(isEmptyState(w), kind)
    }
    for (const token of ['smith1.abc', 'x', `smith2.${SECRET}.${keys.pin}.${NAME}`, tokenOf(keys.pin).toUpperCase()]) {
      t.match(await run(...enrolArgv(w, token)), { status: EXIT.failed, err: /no enrolment token/ })
    }
    t.equal(w.asked.length, 4, 'what is no token is not shown to anyone')
  },
)

t.test('[ENR-4] an enrolled machine is not enrolled again by accident', async (t) => {
  const w = await world(t)
  await run(...enrolArgv(w))
  const before = readFileSync(join(layoutOf(w.state).agent, 'key.pem'), 'utf8')
  t.match(await run(...enrolArgv(w)), { status: EXIT.failed, err: /enrolled already, as prod-dal10[\s\S]*--force/ })
  t.equal(w.asked.length, 1)
  t.equal(readFileSync(join(layoutOf(w.state).agent, 'key.pem'), 'utf8'), before)
  t.match(await run(...enrolArgv(w), '--force'), { status: EXIT.done })
  t.not(readFileSync(join(layoutOf(w.state).agent, 'key.pem'), 'utf8'), before)
  t.equal(readFileSync(join(layoutOf(w.state).agent, 'counter'), 'utf8'), '0\n')
})

t.test(
  '[ENR-5] exit status 3 when the coordinator is out of reach or answers like none, 2 for a wrong call',
  async (t) => {
    const w = await world(t)
    const free = await new Promise<number>((resolve) => {
      const server = createTcpServer()
      server.listen(0, '127.0.0.1', () => {
        const { port } = server.address() as { port: number }
        server.close(() => resolve(port))
      })
    })
    const elsewhere = [
      'enrol',
      '--coordinator',
      `https://127.0.0.1:${free}`,
      '--token',
      tokenOf(keys.pin),
      '--config',
      w.config,
    ]
    t.match(await run(...elsewhere), { status: EXIT.outOfReach, err: /out of reach[\s\S]*do: / })
    for (const raw of ['<html>', '{}', ' '.repeat(100_000)]) {
      w.raw = raw
      t.match(await run(...enrolArgv(w)), { status: EXIT.outOfReach }, raw.slice(0, 10))
      t.ok(isEmptyState(w))
    }
    t.match(await run('enrol'), { status: EXIT.usage })
    t.match(await run('enrol', '--coordinator', 'http://x', '--token', 'y'), { status: EXIT.usage, err: /https/ })
    t.match(await run('frobnicate'), { status: EXIT.usage })
    t.match(await run('--help'), { status: EXIT.done, out: /enrol/ })
    for (const verb of ['run', 'enrol', 'status', 'figures'])
      t.match(await run(verb, '--help'), { status: EXIT.done, out: /--config/ })
    t.match(await run('status', '--config', '/nowhere/agent.toml'), {
      status: EXIT.failed,
      err: /\/nowhere\/agent\.toml/,
    })
    for (const path of [dirname(w.config), w.state]) chmodSync(path, 0o755)
    chmodSync(w.config, 0o644)
    chmodSync(layoutOf(w.state).agent, 0)
    // Root reads everything, so for a moment it is somebody else.
    if (process.getuid?.() === 0) process.seteuid?.(65_534)
    const forbidden = await run('status', '--config', w.config)
    if (process.getuid?.() === 0) process.seteuid?.(0)
    chmodSync(layoutOf(w.state).agent, 0o700)
    t.match(forbidden, { status: EXIT.failed, err: /^error: .+permission denied.+\n {3}do: Run the command as root/ })
    t.match(await run('run', '--config', w.config), {
      status: EXIT.failed,
      err: /not enrolled[\s\S]*smith-agent enrol/,
    })
  },
)

t.test('[AGT-32] a second agent on one state folder ends with an error, until the first has ended', async (t) => {
  const w = await world(t)
  await run(...enrolArgv(w))
  const main = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url))
  const start = () => execa(process.execPath, [main, 'run', '--config', w.config], { reject: false })
  const sessions = () => w.core.events.filter((event) => event.type === 'sessionOpened').length
  const first = start()
  t.teardown(() => first.kill('SIGKILL'))
  await until('the session', () => sessions() === 1)
  t.match(await start(), { exitCode: EXIT.failed, stderr: /^error: another smith-agent is at work in .+\n {3}do: .+/ })
  t.equal(sessions(), 1, 'it did not even connect')
  first.kill('SIGKILL')
  await first
  const third = start()
  t.teardown(() => third.kill('SIGKILL'))
  await until('the next session', () => sessions() === 2)
})

t.test(
  '[AGT-16] the program connects, ships what a runner writes while it runs, and SIGTERM ends it cleanly',
  async (t) => {
    const w = await world(t)
    await run(...enrolArgv(w))
    t.match(await run('status', '--config', w.config), { status: EXIT.done, out: /agent not running/ })
    t.match(await run('figures', '--config', w.config), { status: EXIT.failed, err: /no agent runs/ })
    const main = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url))
    const child = spawn(process.execPath, [main, 'run', '--config', w.config], { stdio: ['ignore', 'pipe', 'inherit'] })
    let printed = ''
    child.stdout.on('data', (chunk: Buffer) => (printed += chunk.toString()))
    const exited = new Promise<number | null>((resolve) => {
      child.once('exit', resolve)
    })
    t.teardown(() => child.kill('SIGKILL'))
    await until('the session', () => w.core.events.find((event) => event.type === 'sessionOpened'))
    t.match(w.core.events[0], {
      type: 'sessionOpened',
      counter: 1,
      hello: { name: NAME, builds: ['prod'], orders: [] },
    })
    await until('connected', () => existsSync(join(w.state, 'agent', 'connection.json')))
    const figures = ['figures', '--minutes', '0.01', '--config', w.config]
    t.match(JSON.parse((await run(...figures, '--json')).out), { pid: child.pid, minutes: 0.01, threads: Number })
    t.match(await run(...figures), { status: EXIT.done, out: /^Anonymous: +\d+\.\d MB/m })
    t.match(await run('figures', '--minutes', '0'), { status: EXIT.usage, err: /minutes/ })
    const status = JSON.parse((await run('status', '--json', '--config', w.config)).out) as AgentStatus
    t.match(status, { enrolled: true, name: NAME, connection: { state: 'connected' }, orders: [] })

    w.sessions.send(grantSend(grantPayload()))
    await until('the answer', () =>
      w.core.events.some((event) => event.type === 'agentNews' && event.news.t === 'granted'),
    )
    const layout = layoutOf(w.state)
    t.ok(existsSync(join(layout.inbox, `grant-${ORDER}.json`)))
    const files = orderLayoutOf(layout, ORDER)
    mkdirSync(files.folder)
    writeFileSync(files.fate, JSON.stringify({ fate: 'claim', fence: 7, at: 1 }))
    const numbers = () =>
      w.core.events.flatMap((event) =>
        event.type === 'agentNews' && event.news.t === 'records' ? event.news.records.map((record) => record.n) : [],
      )
    for (let n = 1; n <= 3; n += 1) {
      writeFileSync(files.records, `${JSON.stringify(lineRecord(n))}\n`, { flag: 'a' })
      await until(`record ${n}`, () => numbers().includes(n))
    }
    writeFileSync(files.records, `${JSON.stringify(resultRecord(4))}\n`, { flag: 'a' })
    await until('the result', () => numbers().includes(4))
    w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'ack', order: ORDER, upTo: 4 } })
    w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'forget', order: ORDER } })
    await until('it was let go', () => existsSync(join(layout.agent, 'forgotten', ORDER)))
    t.match((await run('status', '--config', w.config)).out, new RegExp(`${ORDER} fence 7: ended, 4 records, shipped`))

    child.kill('SIGTERM')
    t.equal(await exited, 0)
    await until('the end', () => w.core.events.at(-1)?.type === 'sessionClosed')
    t.match(w.core.events.at(-1), { reason: /1001/ })
    t.same(numbers(), [1, 2, 3, 4])
    t.ok(
      printed
        .split('\n')
        .filter(Boolean)
        .every((line) => typeof (JSON.parse(line) as { msg: unknown }).msg === 'string'),
    )
  },
)
