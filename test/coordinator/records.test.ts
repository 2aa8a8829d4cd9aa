/** What agents send, and what a restart leaves: records once and in order, strange agents, restored databases. */
import t from 'tap'
import { createWorld, must, planOf } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const FLEET = [W1, W2, W3, OTHER]
const ALL = `prod machines: ${W}-* outage:0`
const world3 = () => createWorld({ machines: FLEET })

t.test('[ORD-4] a restart at any state loses nothing and grants nothing twice', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  const again = async () => {
    await world.restart()
    for (const name of FLEET) await world.agent(name).connect()
  }
  await again()
  t.equal(world.json(change).state, 'pending')
  world.agent(W3).plansBySelf = false
  await world.approve(change)
  t.match(world.brief(change), /waiting checking/)
  await again()
  const agent = world.agent(W1)
  t.match(world.brief(change), new RegExp(`^running: ${W1} granted`), 'the run compares its plan once more')
  await agent.steps('claim')
  agent.inHand('claimed')
  await again()
  t.match(world.brief(change), new RegExp(`^running: ${W1} running`))
  t.equal(agent.grants().length, 1)
  await agent.fail()
  agent.orders = []
  await again()
  t.match(world.brief(change), /held hold failed/)
  await world.retry(change, W1)
  agent.orders = []
  await world.restart()
  await agent.connect()
  t.equal(agent.grants().length, 3, 'a grant that the machine does not have is sent again')
  t.strictSame(agent.grants()[1], agent.grants()[2], 'the very same one')
  await world.steer('pause', change)
  await again()
  await agent.succeed()
  t.match(world.brief(change), /hold paused/)
  await world.restart()
  await world.steer('cancel', change)
  t.match(world.brief(change), /^cancelled/)
})

t.test('[ORD-4] a restart with nobody back makes a run unknown', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  await world.restart()
  t.match(world.brief(change), /^running/)
  await world.later(91_000)
  t.match(world.brief(change), /held hold unknown/)
  await world.restart()
  t.match(world.brief(change), /held hold unknown/)
})

t.test('[ORD-4] a change that was not raised before a crash is raised after it, once', async (t) => {
  const world = await world3()
  world.provider.isUp = false
  await world.request(ALL)
  world.provider.isUp = true
  await world.restart()
  await world.later(60_000)
  t.equal(world.json('CHG0000001').state, 'pending')
  t.equal(world.store().projects({ limit: 9 }).length, 1)
})

t.test('[LOG-1] records are taken once and in order, whatever is repeated or left out', async (t) => {
  const world = await world3()
  await world.begin(ALL)
  const agent = world.agent(W1)
  const { order } = agent.grant()
  const step = (n: number) => ({ n, at: 1, type: 'step', step: 'update' }) as const
  const acks = () => agent.got.flatMap((send) => ('frame' in send && send.frame.t === 'ack' ? [send.frame.upTo] : []))
  await agent.say({ t: 'records', order, records: [step(1), step(2)] })
  await agent.say({ t: 'records', order, records: [step(1), step(2)] })
  await agent.say({ t: 'records', order, records: [step(5)] })
  await agent.say({ t: 'records', order, records: [step(2), step(3)] })
  t.strictSame(acks(), [2, 2, 2, 3])
  t.strictSame(
    world
      .store()
      .records({ order, after: 0, limit: 99 })
      .map((record) => record.n),
    [1, 2, 3],
  )
  t.match(await agent.say({ t: 'records', order, records: [step(4), step(6)] }), {
    ok: false,
    refusals: [{ kind: 'malformed' }],
  })
})

t.test('[LOG-2] a result is taken once, and nothing after it', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  const { order } = agent.grant()
  await agent.succeed()
  const count = world.store().records({ order, after: 0, limit: 99 }).length
  const result = must(world.store().records({ order, after: count - 1, limit: 1 })[0])
  for (const record of [result, { ...result, n: count + 1, outcome: 'failed' as const }]) {
    t.match(await agent.say({ t: 'records', order, records: [record] }), { ok: true })
  }
  t.equal(world.store().records({ order, after: 0, limit: 99 }).length, count)
  t.match(world.target(change, W1), { state: 'succeeded' })
})

t.test('[LOG-3] a machine has no say in the orders of another', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const { order } = world.agent(W1).grant()
  const evil = world.agent(W2)
  const before = JSON.stringify(world.rowsOf(change))
  const record = { n: 1, at: 1, type: 'step', step: 'claim' } as const
  t.match(await evil.say({ t: 'records', order, records: [record] }), {
    ok: false,
    refusals: [{ kind: 'not-allowed' }],
  })
  t.match(
    await evil.say({ t: 'records', order: 'f'.repeat(32), records: [record] }),
    { ok: false, refusals: [{ kind: 'not-found' }] },
    'an order that nobody knows',
  )
  const own = must(world.orders(change).find((one) => one.name === W2))
  t.match(
    await evil.say({ t: 'records', order: own.id, records: [record] }),
    { ok: false, refusals: [{ kind: 'not-found' }] },
    'an order that was never granted',
  )
  await evil.say({ t: 'prefetched', order, problem: null })
  await evil.say({ t: 'granted', order, fence: 1 })
  await evil.say({ t: 'planned', query: order, plan: planOf('9'), evidence: evil.evidence, warnings: [] })
  t.equal(JSON.stringify(world.rowsOf(change)), before)
  evil.orders = [{ order, fence: 0, evidence: 'ended', upTo: 9 }]
  await evil.connect()
  t.match(world.target(change, W1), { state: 'granted' })
})

t.test('[LOG-3] a machine that says void after it had begun is not believed', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  await world.agent(W1).steps('claim')
  await world.agent(W1).result('void')
  t.match(world.json(change).stop, { code: 'unknown', reason: /never began, after it had begun/ })
})
