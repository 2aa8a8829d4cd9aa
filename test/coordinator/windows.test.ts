/** Scenarios of when a machine may be granted: windows and blackouts, and the turns that the invariants refuse. */
import t from 'tap'
import { checkWrites } from '../../coordinator/domain/invariants.ts'
import type { Project } from '../../coordinator/domain/state.ts'
import { step } from '../../coordinator/domain/step.ts'
import { createTools } from '../../coordinator/pattern.ts'
import { SETTINGS, START, type World, createWorld, must, planOf, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const X1 = 'prod-dal10-carrier4-worker-1'
const MINUTE = 60_000
const HOUR = 60 * MINUTE
const iso = (at: number) => new Date(at).toISOString().slice(0, 16)
const windowText = (from: number, to: number) => `window:${iso(START + from)}Z/${iso(START + to)}Z`
const granted = (world: World, names: readonly string[]) =>
  names.filter((name) => world.agent(name).grants().length > 0).length

t.test('[WIN-2] nothing is granted before the window opens, which is said, and machines plan again then', async (t) => {
  const world = await createWorld({ machines: [W1, W2] })
  const change = await world.begin(`prod machines: ${W}-* outage:0 ${windowText(2 * HOUR, 4 * HOUR)}`)
  t.match(world.json(change).stop, {
    kind: 'waiting',
    code: 'window',
    reason: /^the window of the request opens at .* UTC$/,
    lift: `wait, or smith cancel ${change}`,
    until: Date.parse(`${iso(START + 2 * HOUR)}Z`),
  })
  await world.later(HOUR)
  t.equal(granted(world, [W1]), 0)
  world.agent(W2).plan = planOf('2.1')
  await world.later(HOUR)
  t.match(
    world.brief(change),
    new RegExp(`^held hold drift: ${W1} offered, ${W2} failed`),
    'named before the first grant',
  )
  t.equal(granted(world, [W1]), 0)
})

t.test('[WIN-2] a machine that can not be expected to end in time is not granted', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3], schedule: { runMsExpected: 30 * MINUTE } })
  const change = await world.begin(`prod machines: ${W}-* outage:10 ${windowText(0, HOUR)}`)
  t.equal(granted(world, [W1]), 1, '30 minutes and the outage')
  await world.agent(W1).steps('claim')
  await world.later(20 * MINUTE)
  await world.agent(W1).succeed()
  t.equal(world.project(change).runMsMax, 20 * MINUTE, 'what the first took is what is expected now')
  t.equal(granted(world, [W2]), 1)
  await world.agent(W2).steps('claim')
  await world.later(25 * MINUTE)
  await world.agent(W2).succeed()
  t.equal(granted(world, [W3]), 0)
  t.match(world.json(change).stop, {
    kind: 'hold',
    code: 'window',
    reason: /^the window of the request ends at .* UTC, too soon for a machine that is expected to take 25m 0s$/,
    lift: `smith cancel ${change}`,
  })
  t.match(refusalsIn(await world.steer('resume', change)), [{ kind: 'conflict', remedy: `smith cancel ${change}` }])
  await world.steer('cancel', change)
  t.match(world.brief(change), new RegExp(`^cancelled: ${W1} succeeded, ${W2} succeeded, ${W3} cancelled`))
})

t.test(
  '[WIN-3] a run that goes on past the end of its window is left alone, and its failure can be tried no more',
  async (t) => {
    const world = await createWorld({ machines: [W1, W2] })
    const change = await world.begin(`prod machines: ${W}-* outage:0 ${windowText(0, HOUR)}`)
    await world.agent(W1).steps('claim', 'latch', 'install')
    await world.later(2 * HOUR)
    t.match(world.brief(change), new RegExp(`^running: ${W1} running`))
    t.strictSame(world.agent(W1).revokes(), [])
    await world.agent(W1).result('failed')
    await world.retry(change, W1)
    t.match(world.json(change).stop, { kind: 'hold', code: 'window', reason: /^the window of the request ended at / })
    await world.steer('cancel', change)
    t.match(world.brief(change), /^cancelled/)
    t.equal(world.driver().view.size('lines'), 0)
  },
)

t.test('[WIN-2] a resolved run, or one that was out of reach, does not count for what is expected', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3] })
  const change = await world.begin(`prod machines: ${W}-* outage:0`)
  await world.agent(W1).steps('claim')
  await world.agent(W1).cut()
  await world.later(5 * HOUR)
  await world.resolve(change, W1, 'succeeded')
  t.equal(world.project(change).runMsMax, null)
  const from = world.driver().now()
  await world.agent(W2).steps('claim')
  await world.agent(W2).cut()
  await world.later(5 * HOUR)
  world.agent(W2).inHand('ended')
  await world.agent(W2).connect()
  await world.agent(W2).result('succeeded', { at: from + 3 * MINUTE })
  t.equal(world.project(change).runMsMax, 3 * MINUTE, 'by its own clock')
})

t.test(
  '[WIN-2] windows and blackouts of the configuration shut every project, and let it go on by themselves',
  async (t) => {
    // START is 2023-11-14T22:13:20Z, a Tuesday.
    const schedule = { windows: ['0 22 * * * for 2h'], blackouts: ['2023-11-15T00:00/2023-11-16T12:00'] }
    const world = await createWorld({ machines: [W1, W2, W3], schedule })
    const change = await world.begin(`prod machines: ${W}-* outage:0`)
    t.equal(granted(world, [W1]), 1)
    await world.agent(W1).steps('claim')
    await world.later(95 * MINUTE)
    await world.agent(W1).succeed()
    t.match(world.json(change).stop, {
      kind: 'waiting',
      code: 'window',
      reason:
        'the window of the configuration ends at 2023-11-15 00:00 UTC, too soon for a machine that is expected to take 1h 35m; it opens at 2023-11-16 22:00 UTC',
      until: Date.parse('2023-11-16T22:00Z'),
    })
    await world.later(2 * HOUR)
    t.equal(world.json(change).stop?.kind, 'waiting')
    for (const name of [W2, W3]) await world.agent(name).cut()
    await world.restart()
    for (const name of [W2, W3]) await world.agent(name).connect()
    await world.later(Date.parse('2023-11-16T22:00Z') - world.driver().now() - 1000)
    t.equal(granted(world, [W2]), 0)
    const before = world.agent(W3).queries().length
    await world.later(2000)
    t.equal(granted(world, [W2]), 1)
    t.equal(world.agent(W3).queries().length, before + 1, 'all that are left planned again')
  },
)

t.test('[WIN-2] a window of the change is one more, and says when it opens', async (t) => {
  const world = await createWorld({ machines: [W1] })
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  const start = world.driver().now() + HOUR
  world.provider.answer = (permission) => ({ ...permission, window: { start, end: start + HOUR } })
  await world.approve(change)
  t.match(world.json(change).stop, {
    kind: 'waiting',
    code: 'window',
    reason: /^the window of the change opens at/,
    until: start,
  })
  await world.later(HOUR + 1000)
  t.equal(granted(world, [W1]), 1)
})

t.test(
  '[WIN-2] a provider that falls silent when its window opens is asked at its intervals, not without end',
  async (t) => {
    let ticks = 0
    const core: typeof step = (view, envelope, tools) => {
      if (envelope.event.type === 'tick') ticks += 1
      return step(view, envelope, tools)
    }
    const world = await createWorld({ machines: [W1], core })
    const change = await world.ask(`prod machines: ${W1} outage:0`)
    const start = world.driver().now() + HOUR
    world.provider.answer = (permission) => ({ ...permission, window: { start, end: start + HOUR } })
    await world.approve(change)
    await world.later(HOUR - 5000)
    world.provider.isUp = false
    ticks = 0
    await world.later(60_000)
    t.ok(ticks < 30, `${ticks} ticks in a minute`)
    world.provider.isUp = true
    await world.later(30_000)
    t.equal(granted(world, [W1]), 1)
  },
)

/** The grant that a core would make which sees its project otherwise than it is, and knows no calendar. */
function wrongGrant(world: World, change: string, fields: Partial<Project>): () => void {
  const { view } = world.driver()
  const at = world.driver().now()
  const real = must(view.get('projects', world.project(change).id))
  const seen: Project = { ...real, stop: null, ...fields }
  const rows = new Map<string, unknown>([
    [`projects ${real.id}`, seen],
    [`asks ${real.id}`, { id: 'a', at }],
  ])
  const wrong: typeof view = {
    ...view,
    get: ((table: 'projects', key: string) => rows.get(`${table} ${key}`) ?? view.get(table, key)) as typeof view.get,
  }
  const permission = {
    ...{ change, approval: 'approved' as const, by: 'bo', reason: null, digest: real.digest },
    ...{ state: 'open' as const, onHold: false, window: null, readAt: at },
  }
  const event = { type: 'permission' as const, project: real.id, ask: 'a', permission }
  const { writes } = step(wrong, { at, actor: { kind: 'change' }, event }, createTools(SETTINGS, world.dice))
  const made = writes.filter((write) => write.table === 'orders' && write.row?.state === 'granted').length
  if (made !== 1) throw new Error('the core granted nothing, so this shows nothing')
  return () => checkWrites(view, writes, createTools(world.settings, world.dice).calendar)
}

t.test('[PHA-2] a grant in a phase that is not open, or before its soak is over, is never committed', async (t) => {
  const world = await createWorld({ machines: [W1, W2] })
  const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
  await world.agent(W1).succeed()
  t.throws(wrongGrant(world, change, { soakFrom: null }), /PHA-2: .*-2 was granted before the soak of phase 0 was over/)
  t.throws(wrongGrant(world, change, { phase: 1 }), /PHA-2/)
  await world.later(31 * MINUTE)
  t.equal(granted(world, [W2]), 1)
})

t.test('[FAI-2] a grant after max-failures is never committed', async (t) => {
  const world = await createWorld({ machines: [W1, X1] })
  const change = await world.begin(`prod machines: ${W1} ${X1} outage:0`)
  await world.agent(W1).fail()
  t.throws(wrongGrant(world, change, { failuresMax: null }), /FAI-2: .* was granted after 1 failures/)
})

t.test('[WIN-2] a grant outside a window or in a blackout is never committed', async (t) => {
  const world = await createWorld({ machines: [W1, W2] })
  const change = await world.begin(`prod machines: ${W}-* outage:0 ${windowText(HOUR, 2 * HOUR)}`)
  const { options } = world.project(change)
  t.throws(
    wrongGrant(world, change, { options: { ...options, window: null }, wasShut: false }),
    /WIN-2: .* was granted outside its window/,
  )
  const shut = await createWorld({ machines: [W1], schedule: { blackouts: ['2023-11-14T22:00/2023-11-15T04:00'] } })
  const second = await shut.begin(`prod machines: ${W1} outage:0`)
  t.throws(wrongGrant(shut, second, { wasShut: false }), /WIN-2: .* while the configuration is shut/)
})
