/** Machines, people and what each may do: enrolment, reinstalled hosts in every state, clones, users, the authority matrix. */
import t from 'tap'
import type { Role } from '../../protocol/http.ts'
import type { Command } from '../../coordinator/domain/events.ts'
import { mayCommand } from '../../coordinator/domain/authority.ts'
import type { Actor } from '../../coordinator/domain/state.ts'
import { SETTINGS, type World, createWorld, must, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2] = [`${W}-1`, `${W}-2`]
const ONE = `prod machines: ${W1} ${W2} outage:0`
const fleet = () => createWorld({ machines: [W1, W2] })
const HEX = '0123456789abcdef'.repeat(4)

t.test('[ORD-5] a token enrols one machine, once, under its name', async (t) => {
  const world = await fleet()
  const facts = {
    agentVersion: 'x',
    os: 'x',
    arch: 'amd64',
    kernel: 'x',
    apt: 'x',
    cluster: null,
    region: null,
    rebootPending: false,
  }
  const use = (tokenHash: string) =>
    world.submit({ kind: 'smith' }, { type: 'enrol', tokenHash, publicKey: 'AAAA', facts, address: '10.0.0.9' })
  const make = (tokenHash: string, ttlMs = 1000) =>
    world.command('cy', { type: 'enrolNew', name: 'web-1', tokenHash, ttlMs, replace: false })
  t.match(await use(HEX), { ok: false, refusals: [{ kind: 'unauthenticated' }] })
  await make(HEX)
  t.match(await use(HEX), { ok: true, value: { name: 'web-1' } })
  t.match(await use(HEX), { ok: false, refusals: [{ kind: 'conflict', message: 'this token was used already' }] })
  t.match(await make('a'.repeat(64)), { ok: false, refusals: [{ kind: 'exists', remedy: /--replace/ }] })
  await world.command('cy', { type: 'enrolNew', name: 'web-2', tokenHash: 'b'.repeat(64), ttlMs: 1000, replace: false })
  await world.later(1000)
  t.match(await use('b'.repeat(64)), { ok: false, refusals: [{ kind: 'expired', message: 'this token has expired' }] })
  await world.command('cy', { type: 'enrolNew', name: 'web-3', tokenHash: 'c'.repeat(64), ttlMs: 1000, replace: false })
  await world.command('cy', { type: 'enrolRevoke', name: 'web-3' })
  t.match(await use('c'.repeat(64)), { ok: false, refusals: [{ kind: 'expired', message: 'this token was revoked' }] })
  t.match(await world.command('cy', { type: 'enrolRevoke', name: 'web-3' }), {
    ok: false,
    refusals: [{ kind: 'not-found' }],
  })
})

t.test("[ORD-5] of two tokens for one name the second does not take the first one's place", async (t) => {
  const world = await fleet()
  const facts = {
    agentVersion: 'x',
    os: 'x',
    arch: 'amd64',
    kernel: 'x',
    apt: 'x',
    cluster: null,
    region: null,
    rebootPending: false,
  }
  for (const tokenHash of ['a'.repeat(64), 'b'.repeat(64)])
    await world.command('cy', { type: 'enrolNew', name: 'web-1', tokenHash, ttlMs: 1000, replace: false })
  const use = (tokenHash: string) =>
    world.submit({ kind: 'smith' }, { type: 'enrol', tokenHash, publicKey: 'AAAA', facts, address: '10.0.0.9' })
  t.match(await use('a'.repeat(64)), { ok: true })
  t.match(await use('b'.repeat(64)), { ok: false, refusals: [{ kind: 'exists' }] })
})

/** Brings W1 into a state, in a project with W2. */
const STATES: { readonly [State in string]: (world: World) => Promise<string> } = {
  pending: (world) => world.ask(ONE),
  checking: async (world) => {
    const change = await world.ask(ONE)
    world.agent(W1).plansBySelf = false
    await world.approve(change)
    return change
  },
  offered: async (world) => {
    const change = await world.ask(ONE)
    await world.steer('pause', change)
    await world.approve(change)
    return change
  },
  waiting: async (world) => {
    const change = await world.ask(ONE)
    await world.agent(W1).cut()
    await world.approve(change)
    return change
  },
  granted: (world) => world.begin(ONE),
  running: async (world) => {
    const change = await world.begin(ONE)
    await world.agent(W1).steps('claim')
    return change
  },
  latched: async (world) => {
    const change = await world.begin(ONE)
    await world.agent(W1).steps('claim', 'latch')
    return change
  },
  unknown: async (world) => {
    const change = await world.begin(ONE)
    await world.agent(W1).steps('claim', 'latch')
    await world.agent(W1).cut()
    await world.later(91_000)
    return change
  },
  revoking: async (world) => {
    const change = await world.begin(ONE)
    await world.steer('cancel', change)
    return change
  },
  failed: async (world) => {
    const change = await world.begin(ONE)
    await world.agent(W1).fail()
    return change
  },
}

for (const [state, reach] of Object.entries(STATES)) {
  t.test(
    `[ORD-6] a host enrolled anew while it is ${state}: its place is settled as lost and never stuck`,
    async (t) => {
      const world = await fleet()
      const change = await reach(world)
      const old = world.agent(W1).id()
      t.match(await world.enrol(W1, {}, true), { ok: true })
      t.match(world.store().get('machines', old), { state: 'retired', project: null })
      await world.agent(W1).connect()
      if (world.json(change).state === 'pending') await world.approve(change)
      if (state !== 'revoking') {
        t.match(world.json(change).stop, {
          kind: 'hold',
          code: 'failed',
          lift: `smith skip ${change} ${W1} --reason REASON`,
        })
        t.match(refusalsIn(await world.steer('resume', change)), [{ kind: 'conflict' }])
        t.match(refusalsIn(await world.retry(change, W1)), [
          { kind: 'conflict', message: /enrolled anew/, remedy: new RegExp(`smith skip ${change} ${W1}`) },
        ])
        await world.skip(change, W1, 'reinstalled')
        if (state === 'offered') await world.steer('resume', change)
        t.match(world.brief(change), new RegExp(`${W2} granted`))
        await world.agent(W2).succeed()
      }
      t.not(world.project(change).closedAt, null, 'the project has ended')
      t.equal(world.driver().view.size('lines'), 0)
      t.match(await world.begin(`prod machines: ${W1} outage:0`), /^CHG/, 'and the new host can be patched')
      t.equal(world.agent(W1).grants().length, 1)
    },
  )
}

t.test('[ORD-6] a host enrolled anew while a request plans refuses that request at once', async (t) => {
  const world = await fleet()
  world.agent(W1).plansBySelf = false
  const { request } = await world.request(ONE)
  await world.enrol(W1, {}, true)
  t.match(world.store().get('requests', must(request ?? undefined).id), { state: 'refused' })
})

t.test(
  '[ORD-7] two holders of one key: both are out, the run is unknown, nothing more is granted to them',
  async (t) => {
    const world = await fleet()
    const change = await world.ask(ONE)
    await world.approve(change)
    const agent = world.agent(W1)
    await agent.steps('claim')
    t.match(await agent.connect({ counter: 1, address: '10.6.6.6' }), {
      ok: false,
      refusals: [{ kind: 'quarantined' }],
    })
    t.match(agent.got.at(-1), { drop: { reason: 'quarantined' } })
    t.equal(world.driver().view.get('sessions', agent.id()), undefined)
    t.match(await agent.connect({ counter: 99 }), { ok: false }, 'nor with a new proof')
    await world.later(91_000)
    t.match(world.brief(change), /hold unknown/)
    await world.resolve(change, W1, 'failed')
    await world.retry(change, W1)
    t.match(world.json(change).stop, {
      kind: 'hold',
      code: 'offline',
      reason: /is in quarantine/,
      lift: `smith skip ${change} ${W1} --reason REASON`,
    })
    await world.skip(change, W1)
    t.match(world.brief(change), new RegExp(`${W2} granted`))
    t.match(await world.refusalsOf(`prod machines: ${W1} outage:0`), [
      { kind: 'cannot-plan', message: /in quarantine/, remedy: /--replace/ },
    ])
    await world.enrol(W1, {}, true)
    await world.agent(W1).connect()
    t.match(await world.ask(`prod machines: ${W1} outage:0`), /^CHG/)
  },
)

t.test('[ORD-8] a newer session takes the place of the older, whose news and end no longer count', async (t) => {
  const world = await fleet()
  const agent = world.agent(W1)
  const older = must(world.driver().view.get('sessions', agent.id())).session
  await agent.connect()
  t.match(agent.got.at(-1), { drop: { session: older, reason: 'superseded' } })
  await world.submit({ kind: 'smith' }, { type: 'sessionClosed', machine: agent.id(), session: older, reason: 'cut' })
  t.not(world.driver().view.get('sessions', agent.id()), undefined)
  const change = await world.begin(ONE)
  const { order } = agent.grant()
  await world.submit(
    { kind: 'machine', id: agent.id(), name: W1 },
    {
      type: 'agentNews',
      machine: agent.id(),
      session: older,
      news: { t: 'records', order, records: [{ n: 1, at: 1, type: 'step', step: 'claim' }] },
    },
  )
  t.match(world.target(change, W1), { state: 'granted' })
})

t.test('[CMD-5] people: a name has one token at a time, which can be revoked and given anew', async (t) => {
  const world = await fleet()
  const add = (tokenHash: string, ttlMs: number | null = null) =>
    world.command('cy', { type: 'userAdd', name: 'dee', roles: ['requester'], tokenHash, ttlMs })
  t.match(await add('a'.repeat(64)), { ok: true })
  t.match(await add('b'.repeat(64)), { ok: false, refusals: [{ kind: 'exists', remedy: /smith user revoke dee/ }] })
  t.match(world.driver().view.get('tokens', 'a'.repeat(64)), { user: 'dee' })
  t.match(await world.command('cy', { type: 'userRevoke', name: 'dee' }), { ok: true })
  t.equal(world.driver().view.get('tokens', 'a'.repeat(64)), undefined)
  t.match(await world.command('cy', { type: 'userRevoke', name: 'dee' }), {
    ok: false,
    refusals: [{ kind: 'not-found' }],
  })
  t.match(await add('c'.repeat(64), 5000), { ok: true })
  t.match(world.driver().view.get('users', 'dee'), { expiresAt: world.driver().now() + 5000, revokedAt: null })
})

t.test('[CMD-5] nobody bears a name that smith itself signs with', async (t) => {
  const world = await fleet()
  for (const name of ['local-admin', 'smith', 'change']) {
    t.match(await world.command('cy', { type: 'userAdd', name, roles: ['approver'], tokenHash: HEX, ttlMs: null }), {
      ok: false,
      refusals: [{ kind: 'bad-value', subject: name }],
    })
  }
})

const COMMANDS: { readonly [Verb in Command['type']]: Command } = {
  request: { type: 'request', text: '', preview: false, key: null },
  pause: { type: 'pause', change: 'CHG0000001', reason: '' },
  resume: { type: 'resume', change: 'CHG0000001', reason: '' },
  cancel: { type: 'cancel', change: 'CHG0000001', reason: '' },
  retry: { type: 'retry', change: 'CHG0000001', machine: 'a', reason: '' },
  skip: { type: 'skip', change: 'CHG0000001', machine: 'a', reason: 'r' },
  resolve: { type: 'resolve', change: 'CHG0000001', machine: 'a', as: 'failed', reason: 'r' },
  freeze: { type: 'freeze', reason: '' },
  unfreeze: { type: 'unfreeze', reason: '' },
  enrolNew: { type: 'enrolNew', name: 'a', tokenHash: HEX, ttlMs: 1, replace: false },
  enrolRevoke: { type: 'enrolRevoke', name: 'a' },
  userAdd: { type: 'userAdd', name: 'a', roles: [], tokenHash: HEX, ttlMs: null },
  userRevoke: { type: 'userRevoke', name: 'a' },
  scheduleAdd: { type: 'scheduleAdd', name: 'a', cron: '* * * * *', text: '' },
  scheduleRemove: { type: 'scheduleRemove', name: 'a' },
  scheduleRun: { type: 'scheduleRun', name: 'a' },
  decide: { type: 'decide', change: 'CHG0000001', decision: 'approve', digest: HEX, reason: '' },
}

/** Who may: v viewer, r requester, a approver, m admin, l the admin socket. Kept by hand, beside the code. */
const MATRIX: { readonly [Verb in Command['type']]: string } = {
  request: 'rm',
  pause: 'raml',
  resume: 'rm',
  cancel: 'raml',
  retry: 'rm',
  skip: 'rm',
  resolve: 'rm',
  freeze: 'raml',
  unfreeze: 'ml',
  enrolNew: 'ml',
  enrolRevoke: 'ml',
  userAdd: 'ml',
  userRevoke: 'ml',
  scheduleAdd: 'rm',
  scheduleRemove: 'raml',
  scheduleRun: 'rm',
  decide: 'a',
}

t.test('[CMD-6] every command by every role, the admin socket and those who give none', async (t) => {
  const roles: readonly (readonly [string, Role])[] = [
    ['v', 'viewer'],
    ['r', 'requester'],
    ['a', 'approver'],
    ['m', 'admin'],
  ]
  for (const [verb, command] of Object.entries(COMMANDS)) {
    const who = MATRIX[command.type]
    for (const localAdminMayApprove of [false, true]) {
      const settings = { ...SETTINGS, approval: { requesterMayApprove: false, localAdminMayApprove } }
      for (const [letter, role] of roles)
        t.equal(
          mayCommand({ kind: 'person', name: 'p', roles: [role] }, command, settings) === null,
          who.includes(letter),
          `${role} ${verb}`,
        )
      t.equal(
        mayCommand({ kind: 'local-admin' }, command, settings) === null,
        who.includes('l') || localAdminMayApprove,
        `local-admin ${verb}`,
      )
      const others: readonly Actor[] = [
        { kind: 'person', name: 'p', roles: [] },
        { kind: 'machine', id: 'x', name: 'x' },
        { kind: 'change' },
        { kind: 'smith' },
      ]
      for (const other of others) {
        const refusal = mayCommand(other, command, settings)
        t.match(refusal, { kind: 'not-allowed', remedy: /\S/ }, `${other.kind} ${verb}`)
      }
    }
  }
  const preview: Command = { type: 'request', text: '', preview: true, key: null }
  t.equal(mayCommand({ kind: 'person', name: 'p', roles: ['viewer'] }, preview, SETTINGS), null)
  t.equal(mayCommand({ kind: 'local-admin' }, preview, SETTINGS), null)
})

t.test('[CMD-6] a refused command changes nothing and says which role it needs', async (t) => {
  const world = await fleet()
  const change = await world.begin(ONE)
  const before = world.rows.length
  for (const command of Object.values(COMMANDS)) {
    t.match(refusalsIn(await world.command('vi', command)), [{ kind: 'not-allowed', remedy: /role/ }])
  }
  const since = world.rows.slice(before).flatMap((row) => row.facts.map((fact) => fact.fact))
  t.strictSame([...new Set(since)], ['rightRefused'], 'but that it was refused is in the audit')
  t.match(world.brief(change), /^running/)
})

t.test('[CMD-7] freezing twice, pausing twice and cancelling twice is no error', async (t) => {
  const world = await fleet()
  const change = await world.begin(ONE)
  for (let time = 0; time < 2; time += 1) {
    t.match(await world.command('ana', { type: 'freeze', reason: 'a' }), { ok: true })
    t.match(await world.steer('pause', change, 'b'), { ok: true })
  }
  t.match(
    await world.command('ana', { type: 'unfreeze', reason: '' }),
    { ok: false, refusals: [{ kind: 'not-allowed' }] },
    'dear to start',
  )
  t.match(await world.command('cy', { type: 'unfreeze', reason: '' }), { ok: true })
  t.match(await world.command('cy', { type: 'unfreeze', reason: '' }), { ok: true })
  await world.agent(W1).steps('claim')
  for (let time = 0; time < 2; time += 1) t.match(await world.steer('cancel', change), { ok: true })
})
