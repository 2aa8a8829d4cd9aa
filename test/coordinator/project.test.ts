/** Scenarios of the serial order, permission, drift, failures and what people decide about them. */
import t from 'tap'
import type { Permission } from '../../coordinator/domain/events.ts'
import { createWorld, must, planOf, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const FLEET = [W1, W2, W3, OTHER]
const ALL = `prod machines: ${W}-* outage:0`

t.test('[SER-2] one machine after another: the next is granted only when the one before has ended', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.begin(ALL)
  for (const name of [W1, W2, W3]) {
    const granted = FLEET.filter((one) => world.agent(one).grants().length > 0)
    t.strictSame(granted, [W1, W2, W3].slice(0, [W1, W2, W3].indexOf(name) + 1))
    await world.agent(name).succeed()
  }
  t.equal(world.brief(change), `complete: ${W1} succeeded, ${W2} succeeded, ${W3} succeeded`)
  t.equal(world.driver().view.size('lines'), 0)
  t.equal(world.driver().view.size('orders'), 0, 'what has ended is on disk only')
})

t.test('[FEN-1] every grant bears a higher fence, over all projects and a restart', async (t) => {
  const world = await createWorld({ machines: FLEET })
  await world.begin(`prod machines: ${W1} outage:0`)
  await world.begin(`prod machines: ${OTHER} outage:0`)
  await world.agent(W1).succeed()
  await world.restart()
  await world.agent(W2).connect()
  await world.begin(`prod machines: ${W2} outage:0`)
  t.strictSame(
    [W1, OTHER, W2].map((name) => world.agent(name).grant().fence),
    [1, 2, 3],
  )
  t.match(world.agent(W2).grant(), {
    type: 'smith-grant-v1',
    attempt: 1,
    machine: world.agent(W2).id(),
    outageMinutes: 0,
    build: 'prod',
  })
})

t.test('[FEN-2] a machine that knows a higher fence gets a higher one', async (t) => {
  const world = await createWorld({ machines: FLEET })
  world.agent(W1).fence = 41
  await world.agent(W1).connect()
  t.match(
    world.driver().view.get('instance', 'instance')?.frozen,
    { by: 'smith' },
    'it knows more than this database does',
  )
  await world.command('cy', { type: 'unfreeze', reason: '' })
  await world.begin(`prod machines: ${W1} outage:0`)
  t.ok(world.agent(W1).grant().fence > 41)
  await world.agent(W1).connect()
  t.equal(world.driver().view.get('instance', 'instance')?.frozen, null, 'a fence that was seen freezes nothing')
})

t.test('[FEN-3] a fence that no coordinator can have given is not taken', async (t) => {
  const world = await createWorld({ machines: FLEET })
  world.agent(W1).fence = Number.MAX_SAFE_INTEGER
  t.match(await world.agent(W1).connect(), { ok: false, refusals: [{ kind: 'not-allowed' }] })
  t.equal(world.driver().view.get('instance', 'instance')?.fence ?? 0, 0)
  await world.begin(`prod machines: ${W2} outage:0`)
  t.equal(world.agent(W2).grant().fence, 1)
})

t.test('[SER-1] a cluster is one line over all projects', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const first = await world.begin(`prod machines: ${W1} outage:0`)
  const second = await world.begin(`prod machines: ${W2} outage:0`)
  const third = await world.begin(`prod machines: ${OTHER} outage:0`)
  t.equal(
    world.brief(second),
    `waiting waiting cluster-busy: ${W2} planned`.replace('planned', world.target(second, W2).state),
  )
  t.equal(world.brief(third), `running: ${OTHER} granted`)
  await world.agent(W1).succeed()
  t.equal(world.brief(first), `complete: ${W1} succeeded`)
  t.equal(world.brief(second), `running: ${W2} granted`)
})

t.test('[SER-3] a failure after the latch keeps its cluster from other projects until it is decided', async (t) => {
  for (const decide of ['skip', 'resolve', 'retry'] as const) {
    const world = await createWorld({ machines: FLEET })
    const first = await world.begin(`prod machines: ${W1} outage:0`)
    const second = await world.begin(`prod machines: ${W2} outage:0`)
    await world.agent(W1).fail()
    t.match(
      world.json(second).stop,
      { code: 'cluster-busy', lift: `smith retry ${first} ${W1}` },
      'the wait names what lifts it',
    )
    if (decide === 'skip') await world.skip(first, W1)
    else if (decide === 'resolve') await world.resolve(first, W1, 'failed')
    else {
      await world.retry(first, W1)
      t.equal(world.json(second).stop?.code, 'cluster-busy', 'a retry takes the line that its failure kept')
      await world.agent(W1).succeed()
    }
    t.equal(world.brief(second), `running: ${W2} granted`, decide)
  }
})

t.test('[SER-3] a failure before the latch keeps its project and no cluster', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const first = await world.begin(`prod machines: ${W1} ${W3} outage:0`)
  const second = await world.begin(`prod machines: ${W2} outage:0`)
  await world.agent(W1).steps('claim', 'update')
  await world.agent(W1).result('failed', { latched: false, cause: 'repo', step: 'update' })
  t.match(world.brief(first), /^held hold failed/)
  t.equal(world.brief(second), `running: ${W2} granted`)
})

t.test('[SER-3] cancelling decides nothing about a machine that failed after its latch', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const first = await world.begin(`prod machines: ${W1} ${W3} outage:0`)
  const second = await world.begin(`prod machines: ${W2} outage:0`)
  await world.agent(W1).fail()
  await world.steer('cancel', first)
  t.match(world.json(first).stop, { kind: 'hold', code: 'failed', lift: `smith skip ${first} ${W1} --reason REASON` })
  t.equal(world.json(second).stop?.code, 'cluster-busy')
  t.match(await world.retry(first, W1), {
    ok: false,
    refusals: [{ kind: 'conflict', remedy: new RegExp(`smith skip ${first} ${W1}`) }],
  })
  t.match(await world.resolve(first, W1, 'succeeded'), { ok: true })
  t.equal(world.brief(first), `cancelled: ${W1} succeeded, ${W3} cancelled`)
  t.equal(world.brief(second), `running: ${W2} granted`)
})

t.test('[SER-4] a permission asked for before the line became free grants nothing', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const [first, second] = [
    await world.ask(`prod machines: ${W1} outage:0`),
    await world.ask(`prod machines: ${W2} outage:0`),
  ]
  world.provider.delayMs = 3000
  await world.approve(first)
  await world.later(1000)
  await world.approve(second)
  await world.later(2500)
  t.equal(world.brief(first), `running: ${W1} granted`)
  t.match(world.brief(second), /cluster-busy/, 'the line was taken while its question was under way')
  await world.agent(W1).succeed()
  t.equal(world.agent(W2).grants().length, 0)
  await world.later(1000)
  t.equal(world.agent(W2).grants().length, 0, 'the answer to the question of before')
  await world.later(2500)
  t.equal(world.agent(W2).grants().length, 1, 'the answer to the question of after')
})

t.test('[APR-1] an answer that is older than ten seconds is asked again', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  let answers = 0
  world.provider.answer = (permission) => ({
    ...permission,
    readAt: permission.readAt - ((answers += 1) === 1 ? 10_001 : 0),
  })
  await world.approve(change)
  t.equal(answers, 2)
  t.equal(world.agent(W1).grants().length, 1)
})

t.test('[APR-1] a provider that never answers within ten seconds grants nothing, and says so', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  world.provider.delayMs = 11_000
  await world.approve(change)
  await world.later(120_000)
  t.equal(world.agent(W1).grants().length, 0)
  t.equal(world.json(change).stop?.code, 'change-provider')
  world.provider.delayMs = 0
  await world.later(25_000)
  t.equal(world.agent(W1).grants().length, 1)
})

t.test('[APR-2] what is not an approval of this digest, now, denies', async (t) => {
  const table = [
    { approval: 'requested', code: 'approval', reason: 'the change waits for approval' },
    { approval: 'withdrawn', code: 'approval', reason: 'the approval was withdrawn by bo' },
    { digest: 'f'.repeat(64), code: 'approval', reason: 'the approval is for another plan than the one at hand' },
    { state: 'closed', code: 'approval', reason: 'the change is closed' },
    { onHold: true, code: 'change-on-hold', reason: 'the change is on hold' },
    { window: { start: 1, end: 2 }, code: 'window', reason: 'the window of the change ended at 1970-01-01 00:00 UTC' },
  ] as const
  for (const { code, reason, ...fields } of table) {
    const world = await createWorld({ machines: FLEET })
    const change = await world.ask(`prod machines: ${W1} outage:0`)
    world.provider.answer = (permission): Permission => Object.assign({}, permission, fields)
    await world.approve(change)
    t.match(world.json(change).stop, { code, reason })
    t.equal(world.agent(W1).grants().length, 0, reason)
    world.provider.answer = (permission) => permission
    await world.later(20_000)
    t.equal(world.agent(W1).grants().length, 1, `${reason}: and when it is over, it goes on`)
  }
})

t.test('[APR-3] an answer that comes too late never restores an approval', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.begin(`prod machines: ${W1} ${W2} outage:0`)
  world.provider.delayMs = 0
  const answers: Permission[] = []
  world.provider.answer = (permission) => {
    answers.push(permission)
    return { ...permission, approval: 'withdrawn' }
  }
  await world.agent(W1).succeed()
  t.match(world.brief(change), /hold approval/)
  const permission = { ...must(answers[0]), approval: 'approved' as const }
  world.provider.isUp = false
  await world.submit(
    { kind: 'change' },
    { type: 'permission', project: world.project(change).id, ask: 'f'.repeat(32), permission },
  )
  await world.settle()
  t.match(world.brief(change), /hold approval/)
})

t.test('[APR-4] nobody approves what they asked for, unless the configuration says so', async (t) => {
  const both = { kind: 'person', name: 'ana', roles: ['requester', 'approver'] } as const
  for (const requesterMayApprove of [false, true]) {
    const world = await createWorld({ machines: FLEET, approval: { requesterMayApprove } })
    const change = await world.ask(`prod machines: ${W1} outage:0`)
    const reply = await world.approve(change, both)
    t.equal(reply.ok, requesterMayApprove)
    if (!reply.ok)
      t.match(reply.refusals, [{ kind: 'not-allowed', message: `ana asked for ${change} and can't approve it` }])
    t.match(await world.decide('reject', change, both), { ok: true }, 'rejecting is always possible')
  }
})

t.test('[APR-4] the admin socket decides only where one person may do all', async (t) => {
  for (const localAdminMayApprove of [false, true]) {
    const world = await createWorld({ machines: FLEET, approval: { localAdminMayApprove } })
    const change = await world.ask(
      `prod machines: ${W1} outage:0`,
      localAdminMayApprove ? { kind: 'local-admin' } : 'ana',
    )
    const reply = await world.approve(change, { kind: 'local-admin' })
    t.equal(reply.ok, localAdminMayApprove)
    t.equal(world.agent(W1).grants().length, localAdminMayApprove ? 1 : 0)
  }
})

t.test('[APR-5] an approval is of a digest', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  for (const digest of [null, 'e'.repeat(64)]) {
    t.match(await world.decide('approve', change, 'bo', digest), {
      ok: false,
      refusals: [{ kind: 'conflict', remedy: new RegExp(world.project(change).digest) }],
    })
  }
  t.match(await world.decide('approve', 'CHG9999999', 'bo', 'e'.repeat(64)), {
    ok: false,
    refusals: [{ kind: 'not-found' }],
  })
  t.equal(world.json(change).state, 'pending')
})

t.test('[APR-6] a change that is rejected is over, and its machines are free', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(ALL)
  await world.decide('reject', change)
  t.equal(world.brief(change), `cancelled: ${W1} cancelled, ${W2} cancelled, ${W3} cancelled`)
  t.match(world.store().get('localChanges', change), { state: 'closed', closeCode: 'unsuccessful' })
  t.match(await world.approve(change), { ok: false, refusals: [{ kind: 'conflict', message: `${change} is closed` }] })
  t.match(await world.ask(ALL), /^CHG/)
})

t.test(
  '[APR-7] an approval withdrawn at any state stops before the next grant, and a new one plans again',
  async (t) => {
    const world = await createWorld({ machines: FLEET })
    const change = await world.ask(ALL)
    world.agent(W3).plansBySelf = false
    await world.approve(change)
    t.match(world.brief(change), /waiting checking/)
    await world.decide('reject', change)
    t.match(world.brief(change), /hold approval/)
    t.match(world.json(change).stop, { reason: 'the approval was withdrawn by bo', lift: `smith approve ${change}` })
    world.agent(W3).plansBySelf = true
    await world.agent(W3).connect()
    t.match(world.brief(change), /hold approval/)
    await world.approve(change)
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
    await world.decide('reject', change)
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`), 'the machine at work finishes')
    await world.agent(W1).succeed()
    t.match(world.brief(change), /hold approval/)
    world.agent(W3).plan = planOf('2.1')
    const before = world.agent(W2).queries().length
    await world.approve(change)
    t.equal(world.agent(W2).queries().length, before + 1)
    t.match(
      world.brief(change),
      new RegExp(`held hold drift: ${W1} succeeded, ${W2} offered, ${W3} failed`),
      'drift is named before the next grant',
    )
  },
)

t.test('[APR-7] a resume or a retry does not lose why there is no approval', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.begin(ALL)
  await world.agent(W1).steps('claim')
  await world.decide('reject', change)
  await world.agent(W1).result('failed', { latched: false })
  await world.retry(change, W1)
  t.match(world.json(change).stop, { code: 'approval', reason: 'the approval was withdrawn by bo' })
  t.match(await world.steer('resume', change), {
    ok: false,
    refusals: [{ kind: 'conflict', remedy: `smith approve ${change}` }],
  })
  t.match(world.json(change).stop, { code: 'approval', reason: 'the approval was withdrawn by bo' })
})

t.test('[APR-8] when a window opens, machines plan again before the first grant', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(ALL)
  const opensAt = world.driver().now() + 3_600_000
  world.provider.answer = (permission) => ({ ...permission, window: { start: opensAt, end: opensAt + 3_600_000 } })
  await world.approve(change)
  await world.later(1_800_000)
  t.match(world.brief(change), /waiting window/, 'a window is waited for as long as it takes')
  const asked = world.agent(W2).queries().length
  world.agent(W2).plan = planOf('2.1')
  await world.later(1_815_000)
  t.equal(world.agent(W2).queries().length, asked + 1)
  t.match(world.brief(change), new RegExp(`held hold drift: ${W1} \\w+, ${W2} failed`))
  t.equal(world.agent(W1).grants().length, 0)
})

t.test('[HLD-1] a failure holds; resume is refused until each failed machine is decided', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.begin(ALL)
  await world.agent(W1).fail({ advice: ['look'], evidence: ['E: no'] })
  t.match(await world.steer('resume', change), { ok: false, refusals: [{ kind: 'conflict', subject: W1 }] })
  t.match(world.target(change, W1), {
    state: 'failed',
    cause: 'maintainer-script',
    evidence: ['E: no'],
    advice: ['look'],
  })
  await world.retry(change, W1)
  t.equal(world.agent(W1).grants().length, 2)
  t.match(world.agent(W1).grant(), { attempt: 2 })
  t.not(world.agent(W1).grants()[0]?.order, world.agent(W1).grant().order, 'a retry is a new order')
  await world.agent(W1).fail()
  await world.skip(change, W1)
  await world.agent(W2).fail()
  await world.resolve(change, W2, 'succeeded', 'done by hand')
  await world.agent(W3).fail()
  await world.resolve(change, W3, 'failed', 'broken disk')
  t.equal(world.brief(change), `failed: ${W1} skipped, ${W2} succeeded, ${W3} failed`)
  t.match(world.target(change, W2), { reason: 'resolved as succeeded by ana: done by hand' })
})

t.test('[HLD-2] what can not be decided now is refused with what to do', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.begin(ALL)
  for (const reply of [
    await world.retry(change, W1),
    await world.skip(change, W1),
    await world.resolve(change, W1, 'failed'),
    await world.resolve(change, W2, 'failed'),
    await world.retry(change, 'nosuch'),
  ]) {
    t.match(refusalsIn(reply), [{ kind: /conflict|not-found/, subject: String }])
    t.notMatch(refusalsIn(reply)[0]?.remedy, /^$/)
  }
  t.match(await world.steer('pause', 'CHG9999999'), {
    ok: false,
    refusals: [{ kind: 'not-found', remedy: 'smith status lists the projects' }],
  })
  await world.agent(W1).succeed()
  t.match(refusalsIn(await world.skip(change, W1)), [{ message: `${W1} is succeeded and can't be skipped` }])
})

t.test('[LOG-5] the change is closed with the code that fits, and its tasks have moved', async (t) => {
  const table: readonly { readonly act: 'pass' | 'skip' | 'skip-all' | 'fail' | 'cancel'; readonly code: string }[] = [
    { act: 'pass', code: 'successful' },
    { act: 'skip', code: 'successful_issues' },
    { act: 'skip-all', code: 'unsuccessful' },
    { act: 'fail', code: 'unsuccessful' },
    { act: 'cancel', code: 'unsuccessful' },
  ]
  for (const { act, code } of table) {
    const world = await createWorld({ machines: FLEET })
    const change = await world.ask(`prod machines: ${W1} ${OTHER} outage:0`)
    if (act === 'skip' || act === 'skip-all') await world.skip(change, W1)
    if (act === 'skip-all') await world.skip(change, OTHER)
    if (act === 'cancel') await world.steer('cancel', change, 'no')
    else await world.approve(change)
    if (act === 'fail') {
      await world.agent(W1).fail()
      await world.resolve(change, W1, 'failed')
    } else if (act === 'pass') await world.agent(W1).succeed()
    if (act === 'pass' || act === 'skip' || act === 'fail') await world.agent(OTHER).succeed()
    t.match(world.store().get('localChanges', change), { state: 'closed', closeCode: code }, act)
    if (act === 'cancel') t.match(world.json(change).closeNotes, /cancelled by ana: no/)
    const closed = new Set(
      world.calls.flatMap((call) => (call.call === 'task' && call.state === 'closed' ? [call.task] : [])),
    )
    t.strictSame([...closed].toSorted(), ['CTASK0000001', 'CTASK0000002'], `${act}: both tasks are closed`)
  }
})

t.test('[LOG-5] a closing that a crash took is made up for, with the same code', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(`prod machines: ${W1} ${OTHER} outage:0`)
  await world.skip(change, OTHER)
  await world.approve(change)
  world.provider.isUp = false
  await world.agent(W1).succeed()
  t.match(world.store().get('localChanges', change), { state: 'open' })
  world.provider.isUp = true
  await world.restart()
  t.match(world.store().get('localChanges', change), { state: 'closed', closeCode: 'successful_issues' })
})
