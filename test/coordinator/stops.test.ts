/** Scenarios of what stops a project and what lifts it: cancel, pause, freeze, waits, restarts, strange agents. */
import t from 'tap'
import { createWorld, must, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const FLEET = [W1, W2, W3, OTHER]
const ALL = `prod machines: ${W}-* outage:0`
const world3 = () => createWorld({ machines: FLEET })

t.test('[CMD-1] cancel before the grant: nothing runs', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  t.match(await world.steer('cancel', change, 'no'), { ok: true })
  t.match(world.brief(change), /^cancelled/)
  t.match(refusalsIn(await world.steer('cancel', change)), [
    { kind: 'conflict', message: `${change} is closed (cancelled)`, remedy: /smith patch/ },
  ])
})

t.test('[CMD-1] cancel while machines plan again: nothing runs', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  world.agent(W2).plansBySelf = false
  await world.approve(change)
  await world.steer('cancel', change)
  t.match(world.brief(change), /^cancelled/)
  t.equal(world.driver().view.size('queries'), 0)
})

t.test(
  '[CMD-2] cancel of a grant that was not claimed calls it back, and the machine says which came first',
  async (t) => {
    for (const first of ['void', 'claim'] as const) {
      const world = await world3()
      const change = await world.begin(ALL)
      const agent = world.agent(W1)
      await world.steer('cancel', change)
      t.strictSame(agent.revokes(), [agent.grant().order])
      t.match(world.brief(change), new RegExp(`^running: ${W1} granted, ${W2} cancelled, ${W3} cancelled`))
      if (first === 'void') {
        await agent.result('void', { step: 'claim' })
        t.equal(world.brief(change), `cancelled: ${W1} cancelled, ${W2} cancelled, ${W3} cancelled`)
      } else {
        await agent.succeed()
        t.equal(world.brief(change), `cancelled: ${W1} succeeded, ${W2} cancelled, ${W3} cancelled`)
      }
      t.equal(world.driver().view.size('lines'), 0)
    }
  },
)

t.test('[ORD-9] a grant that a machine did not take up failed for the reason that the machine gives', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const late = 'it had to be claimed by 10:00, and by this machine\u2019s clock it is 11:00'
  await world.agent(W1).result('void', { step: 'claim', message: late, evidence: ['the clock is off'] })
  t.match(world.brief(change), new RegExp(`held hold failed.*${W1} failed`))
  const [target] = [...world.driver().view.all('targets')].filter((one) => one.name === W1)
  t.match(target, { cause: 'unreachable', message: `${late}; nothing was changed`, evidence: ['the clock is off'] })
})

t.test('[CMD-2] a grant that is called back while the machine is away is void by its word only', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  await agent.cut()
  await world.steer('cancel', change)
  await world.later(91_000)
  t.match(world.brief(change), /held hold unknown/)
  await agent.connect()
  t.match(agent.revokes(), [agent.grant().order, agent.grant().order], 'it never got the grant, and is told again')
  t.equal(agent.grants().length, 1, 'a cancelled grant is not sent again')
  await agent.result('void', { step: 'claim' })
  t.match(world.brief(change), /^cancelled/)
})

t.test(
  '[CMD-3] cancel of a run lets the machine finish, and a failure that changed nothing needs no decision',
  async (t) => {
    const world = await world3()
    const change = await world.begin(ALL)
    await world.agent(W1).steps('claim', 'update')
    await world.steer('cancel', change)
    t.strictSame(world.agent(W1).revokes(), [])
    await world.agent(W1).result('failed', { latched: false, step: 'update', cause: 'repo' })
    t.equal(
      world.brief(change),
      `failed: ${W1} failed, ${W2} cancelled, ${W3} cancelled`.replace('failed:', 'cancelled:'),
    )
  },
)

t.test('[CMD-3] an unknown run of a cancelled project is resolved once', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  await world.agent(W1).steps('claim')
  await world.agent(W1).cut()
  await world.later(91_000)
  await world.steer('cancel', change)
  t.match(world.brief(change), /held hold unknown/)
  await world.resolve(change, W1, 'failed')
  t.match(world.brief(change), new RegExp(`^cancelled: ${W1} failed`))
  t.equal(world.driver().view.size('lines'), 0)
})

t.test('[HLD-3] pause and freeze stop before the next grant, at any state, and are lifted by a person', async (t) => {
  for (const how of ['pause', 'freeze'] as const) {
    const world = await world3()
    const change = await world.ask(ALL)
    const stop = () =>
      how === 'pause' ? world.steer('pause', change, 'look') : world.command('ana', { type: 'freeze', reason: 'look' })
    const lift = () =>
      how === 'pause' ? world.steer('resume', change) : world.command('cy', { type: 'unfreeze', reason: '' })
    t.match(await stop(), { ok: true })
    await lift()
    await stop()
    world.agent(W2).plansBySelf = false
    await world.approve(change)
    t.match(world.json(change).stop, {
      kind: 'hold',
      code: how === 'pause' ? 'paused' : 'frozen',
      lift: how === 'pause' ? `smith resume ${change}` : 'smith unfreeze',
    })
    world.agent(W2).plansBySelf = true
    await world.agent(W2).connect()
    await world.later(3_600_000)
    t.equal(world.agent(W1).grants().length, 0)
    await lift()
    t.equal(world.agent(W1).grants().length, 1, `${how} while checking`)
    await stop()
    await world.agent(W1).succeed()
    t.equal(world.agent(W2).grants().length, 0, `${how} while running`)
    await lift()
    t.equal(world.agent(W2).grants().length, 1)
  }
})

t.test('[HLD-3] a stop between a question and its answer: the answer grants nothing', async (t) => {
  for (const type of ['pause', 'freeze'] as const) {
    const world = await world3()
    const change = await world.ask(ALL)
    world.provider.delayMs = 2000
    await world.approve(change)
    await world.later(1000)
    await world.command('ana', type === 'pause' ? { type, change, reason: '' } : { type, reason: '' })
    await world.later(5000)
    t.equal(world.agent(W1).grants().length, 0)
  }
})

t.test('[HLD-4] a wait lifts itself, and becomes a hold that only a person lifts after ten minutes', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  await world.agent(W1).cut()
  await world.approve(change)
  t.match(world.json(change).stop, {
    kind: 'waiting',
    code: 'offline',
    machine: W1,
    lift: new RegExp(`smith skip ${change} ${W1}`),
  })
  await world.later(599_000)
  t.equal(world.json(change).stop?.kind, 'waiting')
  await world.later(2000)
  t.match(world.json(change).stop, { kind: 'hold', code: 'offline', lift: `smith resume ${change}` })
  await world.agent(W1).connect()
  await world.later(3_600_000)
  t.equal(world.json(change).stop?.kind, 'hold', 'a hold does not lift itself')
  await world.steer('resume', change)
  t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
})

t.test('[HLD-4] traffic of other machines does not keep a wait from becoming a hold', async (t) => {
  const world = await world3()
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  await world.agent(W1).cut()
  await world.approve(change)
  for (let second = 0; second < 605; second += 5) {
    await world.agent(OTHER).connect()
    await world.later(5000)
  }
  t.equal(world.json(change).stop?.kind, 'hold')
})

t.test('[HLD-4] a machine whose agent names an impediment is waited for, with its remedy', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  world.agent(W1).impediment = { kind: 'cannot-plan', message: 'the disk is full', remedy: 'make room' }
  await world.agent(W1).connect()
  await world.approve(change)
  t.match(world.json(change).stop, {
    kind: 'waiting',
    code: 'offline',
    reason: `${W1}: the disk is full`,
    lift: 'make room',
  })
  world.agent(W1).impediment = null
  await world.agent(W1).connect()
  t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
})

t.test('[HLD-5] skipping the machine that is waited for goes on with the next', async (t) => {
  const world = await world3()
  const change = await world.ask(ALL)
  await world.agent(W1).cut()
  await world.approve(change)
  await world.skip(change, W1)
  t.match(world.brief(change), new RegExp(`^running: ${W1} skipped, ${W2} granted`))
})

t.test(
  '[FEN-4] a restored database: what machines know and it does not freezes it once, and no order id is used again',
  async (t) => {
    const world = await world3()
    const change = await world.ask(ALL)
    await world.approve(change)
    const offered = must(world.orders(change).find((one) => one.name === W2))
    const agent = world.agent(W2)
    // After the backup that was restored, both of these were granted to the machine.
    agent.fence = 9
    agent.orders = [
      { order: offered.id, fence: 8, evidence: 'ended', upTo: 1 },
      { order: 'f'.repeat(32), fence: 9, evidence: 'claimed', upTo: 1 },
    ]
    await agent.connect()
    t.match(world.driver().view.get('instance', 'instance'), {
      frozen: { by: 'smith', reason: new RegExp(`${W2} knows (fence 9|order f+), which this database does not`) },
    })
    await world.agent(W1).succeed()
    t.equal(agent.grants().length, 0)
    t.match(
      await agent.say({ t: 'records', order: 'f'.repeat(32), records: [{ n: 1, at: 1, type: 'step', step: 'claim' }] }),
      { ok: false, refusals: [{ kind: 'not-found' }] },
      'its session goes on',
    )
    await world.command('cy', { type: 'unfreeze', reason: 'seen' })
    t.equal(agent.grants().length, 1)
    t.not(agent.grant().order, offered.id, 'the machine has a claim of that order')
    t.ok(agent.grant().fence > 9)
    agent.inHand('claimed')
    await agent.connect()
    t.equal(world.driver().view.get('instance', 'instance')?.frozen, null, 'what was seen freezes nothing again')
  },
)
