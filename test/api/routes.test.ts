/** What the routes do and show, on real sockets: commands, waiting, tokens, views, and the end of the interface. */
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openCoordinator } from '../../coordinator/app.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { ENROL_TOKEN_PATTERN } from '../../protocol/agent.ts'
import { PERSON_TOKEN_PATTERN } from '../../protocol/http.ts'
import { must } from '../coordinator/harness.ts'
import { createSite, exchange, range, sha256, until } from './site.ts'

const ASK = 'prod machines: prod-dal10-carrier3-worker-1 outage:0'
const MACHINES = ['prod-dal10-carrier3-worker-1', 'prod-dal10-carrier3-worker-2']
const ED25519 = generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
const FACTS = {
  agentVersion: '1',
  os: 'Debian 12',
  arch: 'amd64',
  kernel: '6.1',
  apt: '2.6',
  cluster: null,
  region: null,
  rebootPending: false,
}

t.test('[API-13] a command is answered after its commit, in the name of who gave it', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const token = await site.person('requester')
  const { rev } = await site.call('freeze', { token, body: { reason: 'audit' } })
  const row = must(site.world.store().journal({ since: rev - 1, limit: 1 })[0])
  t.match(row, { rev, actor: 'requester', facts: [{ fact: 'frozen', reason: 'audit' }] })
  t.match((await site.call('projects', { token })).frozen, { by: 'requester', reason: 'audit' })
  await site.call('unfreeze', { socket: true, body: {} })
  t.equal(must(site.world.store().journal({ since: rev, limit: 1 })[0]).actor, 'local-admin')
  t.test('the same key is the same request', async (t) => {
    const body = { text: ASK, key: 'c'.repeat(32) }
    const first = await site.call('requestMake', { token, body })
    t.equal((await site.call('requestMake', { token, body })).request, first.request)
  })
})

t.test('[API-13] where one person may do all, the admin socket may approve', async (t) => {
  const site = await createSite({
    machines: MACHINES,
    approval: { localAdminMayApprove: true, requesterMayApprove: true },
  })
  t.teardown(site.close)
  const made = await site.call('requestMake', { socket: true, body: { text: ASK } })
  const { change, plan } = await site.call('request', {
    socket: true,
    params: { request: made.request },
    query: { wait: '30' },
  })
  t.match(change, /^CHG/)
  const { digest } = await site.call('plan', { socket: true, params: { change: must(change ?? undefined) } })
  t.match(
    await site.call('approve', { socket: true, params: { change: must(change ?? undefined) }, body: { digest } }),
    { done: true },
  )
  t.ok(plan === null || plan.digest === digest)
})

t.test('[API-14] a request can be waited for, by a bounded number and no longer than its caller', async (t) => {
  const site = await createSite({ machines: MACHINES, ports: { limits: { waitersMax: 2 } } })
  t.teardown(site.close)
  let listeners = 0
  const onRow = site.ports.driver.onRow
  Object.assign(site.ports.driver, {
    onRow: (listener: Parameters<typeof onRow>[0]) => {
      listeners += 1
      const stop = onRow(listener)
      return () => {
        listeners -= 1
        stop()
      }
    },
  })
  const token = await site.person('requester')
  const agent = site.world.agent(must(MACHINES[0]))
  agent.plansBySelf = false
  const { request } = await site.call('requestMake', { token, body: { text: ASK } })
  const ask = (wait: string) => site.call('request', { token, params: { request }, query: { wait } })
  t.equal((await ask('0')).state, 'planning', 'without a wait it is answered as it stands')
  t.test('the time is over', async (t) => {
    const waiting = ask('5')
    await until('it waits', () => listeners === 1)
    await site.world.later(5_001)
    t.equal((await waiting).state, 'planning')
    t.equal(listeners, 0)
  })
  t.test('the caller goes away', async (t) => {
    const socket = connect(site.socketPath)
    socket.write(`GET /api/v1/requests/${request}?wait=30 HTTP/1.1\r\nhost: a\r\n\r\n`)
    await until('it waits', () => listeners === 1)
    socket.destroy()
    await until('it waits no longer', () => listeners === 0)
    t.end()
  })
  t.test('it is raised', async (t) => {
    const waiting = [ask('30'), ask('30')]
    await until('both wait', () => listeners === 2)
    t.equal((await ask('30')).state, 'planning', 'beyond the bound it is answered at once')
    const { query } = must(agent.queries()[0])
    if ('kind' in agent.plan) throw new Error('no plan')
    await agent.say({ t: 'planned', query, plan: agent.plan, evidence: agent.evidence, warnings: [] })
    for (const made of await Promise.all(waiting))
      t.match(made, { state: 'raised', change: /^CHG[0-9]{7}$/, planned: 1, total: 1 })
    t.equal(listeners, 0)
  })
})

t.test('[API-5] a refusal is a problem with every reason at once', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const token = await site.person('requester', 'admin')
  t.test('of the line that was asked, with its places', async (t) => {
    const text = 'prod machines: prod-dal10-carrier3-worker-9 outage:x colour:red'
    const { problem, status } = await site.ask('requestMake', { token, body: { text } })
    t.equal(status, must(problem ?? undefined).status)
    const kinds = problem?.refusals.map((refusal) => refusal.kind)
    t.same(new Set(kinds), new Set(['unknown-machine', 'bad-value', 'unknown-key']))
    for (const { position, remedy } of must(problem?.refusals)) {
      t.ok(position !== undefined && position.end > position.start)
      t.ok(remedy.length > 0)
    }
  })
  t.test('of a body and a query together', async (t) => {
    const { problem, status } = await site.exchange('POST', '/api/v1/users?colour=red', {
      token,
      body: '{"name":"A b","roles":["king"],"age":3}',
    })
    t.equal(status, 400)
    t.same(problem?.refusals.map((refusal) => refusal.subject).toSorted(), ['age', 'colour', 'name', 'roles.0'])
  })
  t.test('of a core that fails: nothing of the error is shown', async (t) => {
    const views = {
      status: () => {
        throw new Error('secret detail')
      },
      statusText: () => '',
    }
    const broken = await createSite({ ports: { views } })
    const { status, text } = await broken.ask('project', { socket: true, params: { change: 'CHG0000001' } })
    t.equal(status, 500)
    t.notMatch(text, 'secret')
    await broken.close()
  })
})

t.test('[API-4] a token that was revoked, has expired or was replaced is none', async (t) => {
  const site = await createSite()
  t.teardown(site.close)
  const add = async (name: string, ttlDays?: number) => {
    const { token } = await site.call('userAdd', {
      socket: true,
      body: { name, roles: ['viewer'], ...(ttlDays === undefined ? {} : { ttlDays }) },
    })
    return token
  }
  const revoked = await add('ann')
  const short = await add('ben', 1)
  for (const token of [revoked, short]) t.equal((await site.ask('who', { token })).status, 200)
  await site.call('userRevoke', { socket: true, body: { name: 'ann' } })
  t.equal((await site.ask('who', { token: revoked })).status, 401)
  await site.world.later(86_400_001)
  t.equal((await site.ask('who', { token: short })).status, 401)
  const again = await site.ask('userAdd', { socket: true, body: { name: 'ben', roles: ['admin'] } })
  t.equal((await site.ask('who', { token: short })).status, 401, 'a new token revives no old one')
  t.ok([200, 409].includes(again.status))
  t.test('[API-16] the token is shown once and kept as its hash', async (t) => {
    const token = await add('cas')
    t.match(token, PERSON_TOKEN_PATTERN)
    const stored =
      JSON.stringify([...site.world.store().load()]) +
      JSON.stringify(site.world.store().journal({ since: 0, limit: 1000 }))
    t.notMatch(stored, token)
    t.match(stored, sha256(token))
    const { users } = await site.call('userList', { socket: true })
    t.notMatch(JSON.stringify(users), sha256(token), 'nor is the hash shown')
    t.ok(users.some((user) => user.name === 'cas'))
  })
})

t.test('[API-17] enrolment tokens are bound to a name and a coordinator, for one use, all or none', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const make = (body: object) => site.ask('enrolNew', { socket: true, body })
  const refused = await make({ names: ['new-1', must(MACHINES[0]), 'new-1', must(MACHINES[1])] })
  t.same(refused.problem?.refusals.map((refusal) => refusal.kind).toSorted(), ['duplicate-key', 'exists', 'exists'])
  t.same(
    (await site.call('enrolList', { socket: true })).enrolments.filter((one) => one.name === 'new-1'),
    [],
    'nothing was made',
  )
  const { tokens } = await site.call('enrolNew', { socket: true, body: { names: ['new-1', 'new-2'], ttlSeconds: 60 } })
  t.same(
    tokens.map((one) => one.name),
    ['new-1', 'new-2'],
  )
  const { token } = must(tokens[0])
  const [, , pin, name] = must(ENROL_TOKEN_PATTERN.exec(token) ?? undefined, 'a token of that form')
  t.same([pin, name], [site.keys.pin, 'new-1'])
  const stored = JSON.stringify([...site.world.store().load()])
  t.notMatch(stored, token)
  t.match(stored, sha256(token))
  const enrol = (given: string, publicKey = ED25519) =>
    site.ask('enrol', { body: { token: given, publicKey, facts: FACTS } })
  const rsa = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    .publicKey.export({ type: 'spki', format: 'der' })
    .toString('base64')
  t.equal((await enrol(token, rsa)).status, 400, 'only an Ed25519 key is one')
  const enrolled = await site.call('enrol', { body: { token, publicKey: ED25519, facts: FACTS } })
  t.match(enrolled, { name: 'new-1', instance: 'test', orderKey: site.keys.orderKey.publicKeyBase64 })
  t.equal(site.world.store().get('machines', enrolled.machine)?.publicKey, ED25519)
  t.equal((await enrol(token)).status, 409, 'a second use')
  await site.world.later(60_001)
  t.equal((await enrol(must(tokens[1]).token)).status, 410, 'too late')
  const { enrolments } = await site.call('enrolList', { socket: true })
  t.match(
    enrolments.find((one) => one.name === 'new-1'),
    { by: 'local-admin', usedAt: Number },
  )
  t.notMatch(JSON.stringify(enrolments), sha256(token))
})

t.test('[API-18] machines, projects, orders and logs are shown as the core knows them', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const token = await site.person('viewer')
  const { world } = site
  const change = await world.begin(`prod machines: ${MACHINES.join(' ')} outage:0`)
  await world.agent(must(MACHINES[0])).succeed()
  const status = await site.call('project', { token, params: { change } })
  t.equal(status.status.change, change)
  t.match(status.text, `Project: ${change} Patch:`)
  t.equal(status.rev, world.store().rev())
  const { projects } = await site.call('projects', { token })
  t.match(projects, [{ change, state: 'running', requester: 'ana', totals: { pass: 1 } }])
  const { orders } = await site.call('projectOrders', { token, params: { change } })
  t.match(orders, [
    { machine: MACHINES[0], state: 'succeeded', change },
    { machine: MACHINES[1], state: 'granted' },
  ])
  const [first] = orders
  t.test('[API-15] the log comes in pages, each record once', async (t) => {
    const order = must(first).order
    const seen: number[] = []
    for (let after = 0, isMore = true; isMore;) {
      const page = await site.call('log', { token, params: { order }, query: { after: String(after), limit: '4' } })
      seen.push(...page.records.map((record) => record.n))
      after = seen.at(-1) ?? after
      isMore = page.records.length > 0
      t.ok(page.ended)
      t.equal(page.upTo, must(first).upTo)
    }
    t.same(seen, range(1, must(first).upTo))
  })
  t.test('[API-15] a page of long lines ends before it is a burden', async (t) => {
    const agent = world.agent(must(MACHINES[1]))
    const text = 'x'.repeat(8000)
    for (const n of range(0, 199)) await agent.record({ type: 'line', step: 'install', offset: n * 8000, text })
    const order = must(orders[1]).order
    const page = await site.call('log', { token, params: { order } })
    t.ok(page.records.length > 100 && page.records.length < 200, `${page.records.length}`)
    const rest = await site.call('log', { token, params: { order }, query: { after: String(page.records.length) } })
    t.equal(page.records.length + rest.records.length, 200)
  })
  t.test('[API-20] a pattern means what it means in a request', async (t) => {
    const list = async (pattern: string) =>
      (await site.call('machines', { token, query: { pattern } })).machines.map((machine) => machine.name)
    t.same(await list('*-worker-*'), MACHINES)
    t.same(await list('prod-dal10-carrier3-worker-[2-9]'), [MACHINES[1]])
    t.equal((await site.ask('machines', { token, query: { pattern: 'nothing-*' } })).status, 404)
    const [machine] = (await site.call('machines', { token, query: { pattern: must(MACHINES[1]) } })).machines
    t.match(machine, {
      online: true,
      cluster: 'prod-dal10-carrier3',
      region: 'us-south',
      project: change,
      builds: ['prod'],
    })
    t.match((await site.call('machineOrders', { token, params: { machine: must(MACHINES[0]) } })).orders, [
      { change, state: 'succeeded' },
    ])
  })
  t.test('a finished project is shown as before', async (t) => {
    await world.agent(must(MACHINES[1])).succeed()
    t.match((await site.call('projects', { token })).projects, [{ change, state: 'complete', stop: null }])
    t.equal((await site.call('projectOrders', { token, params: { change } })).orders.length, 2)
    t.equal((await site.call('plan', { token, params: { change } })).machines.length, 2)
    t.equal((await site.call('project', { token, params: { change } })).status.state, 'complete')
  })
  t.test('what is not there is not found', async (t) => {
    for (const [name, params] of [
      ['project', { change: 'CHG9999999' }],
      ['plan', { change: '../x' }],
      ['request', { request: 'x' }],
      ['log', { order: '__proto__' }],
      ['machineOrders', { machine: 'constructor' }],
    ] as const) {
      t.equal((await site.ask(name, { token, params })).status, 404, name)
    }
  })
})

t.test('[API-12] when it closes, who waits is answered and nothing is left', async (t) => {
  const site = await createSite({ machines: MACHINES })
  const token = await site.person('requester')
  site.world.agent(must(MACHINES[0])).plansBySelf = false
  const { request } = await site.call('requestMake', { token, body: { text: ASK } })
  let rows = 0
  const { onRow } = site.ports.driver
  Object.assign(site.ports.driver, { onRow: (listener: Parameters<typeof onRow>[0]) => ((rows += 1), onRow(listener)) })
  const waiting = site.call('request', { token, params: { request }, query: { wait: '30' } })
  await until('it waits', () => rows > 0)
  const feed = site.feed('', { token })
  await feed.begun
  const closing = site.close()
  t.equal((await waiting).state, 'planning')
  t.same(await feed.closed, { code: 1001, reason: 'the coordinator is stopping; come again' })
  await closing
  const again = createServer()
  again.listen(site.port, '127.0.0.1')
  await once(again, 'listening')
  again.close()
  t.notOk(existsSync(site.socketPath))
})

t.test('[API-19] a backup is a new private file of the whole database, made on the admin socket only', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'smith-api-backup-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const lines = [
    'instance = "test"',
    'listen = "127.0.0.1:0"',
    `state_dir = "${folder}/state"`,
    `admin_socket = "${folder}/admin.sock"`,
  ]
  const parsed = parseConfig(lines.join('\n'), 'test.toml')
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.refusals))
  const quiet = () => {}
  const { coordinator } = await openCoordinator({
    config: parsed.config,
    clock: {
      wallNow: () => Date.now(),
      monotonicNow: () => performance.now(),
      after: (delayMs, callback) => {
        const timer = setTimeout(callback, delayMs)
        return () => clearTimeout(timer)
      },
    },
    random: { bytes: (count) => new Uint8Array(randomBytes(count)) },
    log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
    version: '1.2.3',
    names: [],
    onFatal: (error) => t.fail(error.message),
  })
  const { port } = await coordinator.start()
  t.teardown(coordinator.stop)
  const headers = { 'content-type': 'application/json' }
  const post = (path: string, body: object) =>
    exchange(true, { socketPath: `${folder}/admin.sock`, method: 'POST', path, headers }, JSON.stringify(body))
  const added = await post('/api/v1/users', { name: 'ann', roles: ['admin'] })
  const { token } = JSON.parse(added.text) as { token: string }
  const file = join(folder, 'copy.smith')
  const body = { path: file, passphrase: 'a passphrase' }
  const checked = await exchange(true, { socketPath: `${folder}/admin.sock`, path: '/api/v1/audit/verify' })
  const before = (JSON.parse(checked.text) as { head: { rev: number; hash: string } }).head
  const answered = await post('/api/v1/backup', body)
  t.equal(answered.status, 200)
  const bytes = readFileSync(file)
  t.same(JSON.parse(answered.text), {
    path: file,
    bytes: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    rev: before.rev,
    head: before.hash,
  })
  const acts = await exchange(true, { socketPath: `${folder}/admin.sock`, path: '/api/v1/audit?limit=1' })
  const [act] = (JSON.parse(acts.text) as { acts: object[] }).acts
  t.match(act, { who: 'local-admin', what: 'backupMade', about: file }, 'and it stands in the audit')
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.notOk(bytes.includes('SQLite format 3') || bytes.includes('PRIVATE KEY'), 'it is sealed')
  const again = await post('/api/v1/backup', body)
  t.match(again.problem, { status: 409, refusals: [{ kind: 'exists' }] }, 'a file that is there is kept')
  const relative = await post('/api/v1/backup', { ...body, path: 'copy' })
  t.equal(relative.status, 400)
  const options = {
    host: '127.0.0.1',
    port,
    rejectUnauthorized: false,
    method: 'POST',
    path: '/api/v1/backup',
    headers: { ...headers, authorization: `Bearer ${token}` },
  }
  t.equal(
    (await exchange(false, options, JSON.stringify({ ...body, path: `${file}2` }))).status,
    403,
    'not for an admin from afar',
  )
  t.notOk(existsSync(`${file}2`))
})
