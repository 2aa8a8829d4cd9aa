/**
 * What a person does with requests and projects over HTTP, from the preview to the approval, and finds again: lists
 * whose pages lose nothing, refusals that name the nearest, names of any length; and the whole coordinator as it is
 * composed, from its start to a failure of its disk.
 */
import t from 'tap'
import { createCoordinator } from '../../coordinator/app.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { Agent } from 'node:https'
import { loadOrCreateKeys } from '../../coordinator/keys.ts'
import { createMemoryStore } from '../../coordinator/store/memory.ts'
import { checkProblem, exchange, kindsOf } from './wire.ts'
import { INSTANCE, advance, createWorld, factsOf, newPublicKey, random, realClock } from './world.ts'
import { createTime } from '../sim/time.ts'

const TEXT = 'prod machines: web-1 outage:0'

t.test('[API-21] an approval is of the digest that was shown, and not by who asked', async (t) => {
  const world = await createWorld(t)
  await world.machine('web-1')
  await world.person('both', ['requester', 'approver'])
  const change = await world.raise(TEXT, 'both')
  const params = { change }
  const plan = await world.call('plan', 'vi', { params })
  t.match(plan.body, {
    machines: [{ name: 'web-1', phase: 0, bag: 'web-1', warnings: ['web-1 has a warning'] }],
    skipped: [],
  })
  const digest = await world.digest(change)
  t.equal(plan.body.digest, digest, 'plan and status show the same one')
  const wrong = await world.call('approve', 'bo', { params, body: { digest: '0'.repeat(64) } })
  t.same([wrong.status, kindsOf(wrong)], [409, ['conflict']])
  t.match(wrong.text, digest, 'it says which one it is')
  const self = await world.call('approve', 'both', { params, body: { digest } })
  t.same([self.status, kindsOf(self)], [403, ['not-allowed']])
  t.equal((await world.call('project', 'vi', { params })).body.status.approvedBy, null)
  t.equal((await world.call('approve', 'bo', { params, body: { digest } })).status, 200)
  t.equal((await world.call('project', 'vi', { params })).body.status.approvedBy, 'bo')
  t.equal((await world.call('reject', 'bo', { params })).status, 200, 'and it can be withdrawn')
  const lab = await createWorld(t, {
    settings: { approval: { requesterMayApprove: true, localAdminMayApprove: false } },
  })
  await lab.machine('web-1')
  await lab.person('both', ['requester', 'approver'])
  const own = await lab.raise(TEXT, 'both')
  const approved = await lab.call('approve', 'both', {
    params: { change: own },
    body: { digest: await lab.digest(own) },
  })
  t.equal(approved.status, 200, 'where the configuration says so')
})

t.test('[API-22] a preview shows the plan and begins nothing; a key is of one request', async (t) => {
  const world = await createWorld(t)
  await world.machine('web-1')
  const made = await world.call('requestMake', 'vi', { body: { text: TEXT, preview: true } })
  t.equal(made.status, 202)
  const params = { request: made.body.request }
  const seen = await world.call('request', 'vi', { params, query: '?wait=30' })
  t.match(seen.body, { state: 'previewed', change: null, by: 'vi', plan: { machines: [{ name: 'web-1' }] } })
  t.same((await world.call('projects', 'vi')).body.projects, [])
  const key = 'a'.repeat(32)
  const first = await world.call('requestMake', 'ana', { body: { text: TEXT, key } })
  const again = await world.call('requestMake', 'ana', { body: { text: TEXT, key } })
  t.equal(again.body.request, first.body.request)
  const other = await world.call('requestMake', 'ana', { body: { text: `${TEXT} busy:skip`, key } })
  t.same([other.status, kindsOf(other)], [409, ['conflict']])
  t.equal((await world.call('requestMake', 'cy', { body: { text: TEXT, key } })).status, 409, "nor another's")
  await world.call('request', 'ana', { params: { request: first.body.request }, query: '?wait=30' })
  t.equal((await world.call('projects', 'vi')).body.projects.length, 1, 'one change was raised')
})

t.test('[API-23] a list comes in pages, newest first, that lose nothing and repeat nothing', async (t) => {
  const time = createTime(1_700_000_000_000)
  const world = await createWorld(t, { clock: { wallNow: time.now, monotonicNow: time.now, after: time.after } })
  const changes: string[] = []
  for (let index = 0; index < 6; index += 1) {
    await world.machine(`web-${index}`)
    changes.push(await world.raise(`prod machines: web-${index} outage:0`))
    // The third, fourth and fifth are made in one millisecond.
    if (index < 2 || index === 4) advance(time, 5)
  }
  const found: string[] = []
  for (let query = '?limit=2'; ;) {
    const { projects } = (await world.call('projects', 'vi', { query })).body
    if (projects.length === 0) break
    found.push(...projects.map((one: { change: string }) => one.change))
    query = `?limit=2&before=${projects.at(-1).createdAt}`
  }
  t.same(found, changes.toReversed())
})

t.test('[API-24] a machine that is not found is answered with the nearest names', async (t) => {
  const world = await createWorld(t)
  for (const name of ['prod-dal10-web-1', 'prod-dal10-web-2']) await world.machine(name)
  const wrong = await world.call('machines', 'vi', { query: '?pattern=prod-dal10-wbe-1' })
  t.equal(wrong.status, 404)
  t.match(checkProblem(wrong).refusals, [{ kind: 'unknown-machine', remedy: /did you mean prod-dal10-web-1/ }])
  t.same(kindsOf(await world.call('machines', 'vi', { query: '?pattern=nothing-*' })), ['no-match'])
  t.same(kindsOf(await world.call('machines', 'vi', { query: `?pattern=${encodeURIComponent('/(/')}` })), ['bad-value'])
})

t.test('[API-24] a name of any length that a machine may have can be enrolled', async (t) => {
  const world = await createWorld(t)
  const name = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(61)}`
  t.equal(name.length, 253)
  const made = await world.call('enrolNew', 'cy', { body: { names: [name] } })
  const body = { token: made.body.tokens[0].token, publicKey: newPublicKey(), facts: factsOf() }
  const enrolled = await world.ask('POST', '/api/v1/enrol', { body })
  t.match(enrolled.body, { name })
  t.equal((await world.call('machineOrders', 'vi', { params: { machine: name } })).status, 200)
  const most = Array.from({ length: 200 }, (_, index) => `${name.slice(0, -3)}${String(index).padStart(3, '0')}`)
  t.equal(
    (await world.call('enrolNew', 'cy', { body: { names: most } })).status,
    200,
    'as many as the CLI sends at once',
  )
})

t.test('[API-12] the composed coordinator is ready when it serves, and not when its store fails', async (t) => {
  const world = await createWorld(t)
  const adminSocket = `${world.dir}/composed.sock`
  const lines = [
    'instance = "test"',
    'listen = "127.0.0.1:0"',
    `state_dir = "${world.dir}"`,
    `admin_socket = "${adminSocket}"`,
  ]
  const parsed = parseConfig(lines.join('\n'), 'test.toml')
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.refusals))
  const keys = await loadOrCreateKeys({ dir: world.keysDir, instance: INSTANCE, names: [], clock: realClock, random })
  const fatal: Error[] = []
  const store = createMemoryStore(random)
  const { log } = world.ports
  const coordinator = createCoordinator({
    config: parsed.config,
    store,
    keys,
    clock: realClock,
    random,
    log,
    version: '1',
    onFatal: (error) => fatal.push(error),
  })
  const { port } = await coordinator.start()
  const ask = (method: string, path: string) =>
    exchange({ port, socket: adminSocket, agent: new Agent() }, method, path, { socket: true })
  t.equal((await ask('GET', '/readyz')).status, 200)
  t.match((await ask('GET', '/api/v1/who')).body, { host: '127.0.0.1', port, pin: keys.pin, name: 'local-admin' })
  t.match((await ask('GET', '/metrics')).text, /^smith_commit_duration_seconds_count\{.*\} [1-9]/m)
  Object.assign(store, {
    commit: () => {
      throw new Error('no space left')
    },
  })
  t.equal((await ask('POST', '/api/v1/freeze')).status, 503)
  const after = await ask('GET', '/readyz')
  t.equal(after.status, 503)
  t.match(after.text, /the coordinator failed/)
  t.equal(fatal.length, 1)
  await coordinator.stop()
})
