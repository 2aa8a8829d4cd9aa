/** Scenarios of what stops a project and what lifts it: unknown, cancel, pause, freeze, waits, restarts, strange agents. */
import t from 'tap'
import { createWorld, must, refusalsIn } from './harness.ts'
import { resultRecord } from './agent.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const FLEET = [W1, W2, W3, OTHER]
const ALL = `prod machines: ${W}-* outage:0`
const world3 = () => createWorld({ machines: FLEET })

t.test('[UNK-1] silence in a run makes it unknown, which blocks its lines and which no time ends', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const second = await world.begin(`prod machines: ${OTHER} outage:0`)
  await world.agent(W1).steps('claim', 'update')
  await world.agent(W1).cut()
  await world.later(89_000)
  t.match(world.brief(change), new RegExp(`^running: ${W1} running`))
  await world.later(2000)
  t.match(world.brief(change), new RegExp(`^held hold unknown: ${W1} unknown, ${W2} offered`))
  for (const reply of [
    await world.steer('resume', change),
    await world.retry(change, W1),
    await world.skip(change, W1),
  ]) {
    t.match(refusalsIn(reply), [{ kind: 'conflict', remedy: new RegExp(`smith resolve ${change} ${W1} --as`) }])
  }
  await world.later(7 * 86_400_000)
  t.match(world.brief(change), new RegExp(`^held hold unknown: ${W1} unknown, ${W2} offered`))
  t.equal(world.brief(second), `running: ${OTHER} granted`, 'other lines go on')
})

t.test('[UNK-2] the machine comes back and says by evidence how it is', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  await agent.steps('claim', 'update')
  await agent.cut()
  await world.later(91_000)
  agent.inHand('latched')
  await agent.connect()
  t.match(world.brief(change), new RegExp(`^running: ${W1} running`))
  t.match(refusalsIn(await world.resolve(change, W1, 'failed')), [
    { kind: 'conflict', message: `${W1} is in reach and still at it`, remedy: /stop smith-agent/ },
  ])
  await agent.steps('replan', 'fetch', 'pre-checks', 'latch', 'install')
  await agent.result('succeeded')
  t.match(world.brief(change), new RegExp(`${W1} succeeded, ${W2} granted`))
})

t.test(
  '[UNK-2] a machine that fell silent comes back with a failure that it proved: a retry is all that is needed',
  async (t) => {
    const world = await world3()
    const change = await world.begin(ALL)
    const agent = world.agent(W1)
    await agent.steps('claim', 'latch', 'install')
    await agent.cut()
    await world.later(91_000)
    t.match(world.brief(change), new RegExp(`^held hold unknown: ${W1} unknown`))
    agent.inHand('ended')
    await agent.connect()
    await agent.result('failed', { cause: 'dpkg-interrupted', message: 'lost in the middle', latched: true })
    t.match(world.json(change).stop, { code: 'failed', lift: `smith retry ${change} ${W1}` })
    t.match(await world.retry(change, W1), { ok: true })
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
  },
)

t.test(
  '[UNK-2] a grant that lay in the inbox while the machine was away is known again, and called back in time',
  async (t) => {
    const world = await world3()
    const change = await world.begin(ALL)
    const agent = world.agent(W1)
    await agent.cut()
    await world.later(91_000)
    t.match(world.brief(change), /hold unknown/)
    agent.inHand('inbox')
    await agent.connect()
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
    await world.later(600_000)
    t.equal(agent.revokes().length, 1, 'it may not be claimed any more: only the machine can say that it was not')
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
    await agent.result('void', { step: 'claim' })
    t.match(world.json(change).stop, { code: 'failed', reason: /the run was not begun/ })
    t.match(world.target(change, W1), { cause: 'unreachable', keepsLine: false })
  },
)

t.test('[UNK-3] a person resolves what is unknown, and what arrives later is evidence only', async (t) => {
  for (const as of ['succeeded', 'failed'] as const) {
    const world = await world3()
    const change = await world.begin(ALL)
    const agent = world.agent(W1)
    await agent.steps('claim', 'update')
    await agent.cut()
    t.match(refusalsIn(await world.resolve(change, W1, as)), [
      { kind: 'conflict', message: /was heard of a moment ago/ },
    ])
    await world.later(91_000)
    t.match(await world.resolve(change, W1, as, 'looked at it'), { ok: true })
    t.match(world.target(change, W1), {
      state: as,
      reason: `resolved as ${as} by ana: looked at it`,
      keepsLine: as === 'failed',
    })
    t.match(world.brief(change), as === 'failed' ? /held hold failed/ : new RegExp(`${W2} granted`))
    const { order } = agent.grant()
    agent.inHand('latched')
    await agent.connect()
    await agent.steps('replan')
    await agent.result('succeeded')
    t.match(world.store().get('orders', order), {
      state: as,
      result: { outcome: 'succeeded' },
      upTo: 4,
      resolvedBy: 'ana',
    })
    t.ok(world.facts().some((fact) => fact.fact === 'evidenceRecorded' && fact.state === 'succeeded'))
    t.equal(world.target(change, W1).state, as)
    t.strictSame(
      agent.got.slice(-2).map((send) => ('frame' in send ? send.frame : send)),
      [
        { t: 'ack', order, upTo: 4 },
        { t: 'forget', order },
      ],
    )
  }
})

t.test('[UNK-3] evidence of an order that a retry has replaced is kept too, whatever stops the project', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  await agent.steps('claim', 'update')
  await agent.cut()
  await world.later(91_000)
  await world.resolve(change, W1, 'failed', 'looked at it')
  const { order } = agent.grant()
  agent.inHand('latched')
  await agent.connect()
  t.match(await world.retry(change, W1), { ok: true })
  await world.later(1000)
  t.not(agent.grant().order, order, 'the retry is at work')
  await agent.fail()
  t.match(world.brief(change), /held hold failed/)
  t.match(await agent.say({ t: 'records', order, records: [resultRecord(3, 'succeeded')] }), { ok: true })
  t.match(world.store().get('orders', order), { state: 'failed', result: { outcome: 'succeeded' }, upTo: 3 })
})

t.test('[UNK-3] evidence that comes after the project has closed is kept too', async (t) => {
  const world = await world3()
  const change = await world.begin(`prod machines: ${W1} outage:0`)
  const agent = world.agent(W1)
  await agent.steps('claim')
  await agent.cut()
  await world.later(91_000)
  await world.resolve(change, W1, 'succeeded')
  t.match(world.brief(change), /^complete/)
  agent.inHand('claimed')
  await agent.connect()
  await agent.result('failed', { latched: true })
  t.match(world.store().get('orders', agent.grant().order), { state: 'succeeded', result: { outcome: 'failed' } })
  t.match(world.brief(change), /^complete/)
})

t.test('[UNK-4] a machine that came back without the order that it had begun can be resolved', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  await agent.steps('claim', 'latch')
  await agent.cut()
  agent.orders = []
  await agent.connect()
  t.match(world.json(change).stop, { code: 'unknown', reason: /no longer knows the order that it had begun/ })
  t.match(await world.resolve(change, W1, 'failed'), { ok: true })
  t.match(world.brief(change), /held hold failed/)
})

t.test('[UNK-4] a run that itself can not tell how it ended is for a person to say', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  await world.agent(W1).steps('claim', 'latch')
  await world.agent(W1).result('unknown', { message: 'the exit status was lost', evidence: ['history.log ends early'] })
  t.match(world.json(change).stop, { code: 'unknown', reason: 'the exit status was lost' })
  t.match(await world.resolve(change, W1, 'succeeded'), { ok: true })
  t.match(world.brief(change), new RegExp(`${W1} succeeded, ${W2} granted`))
})

t.test(
  '[UNK-7] what a machine shows when it is back settles its unknown order, or lays it before a person',
  async (t) => {
    const table = [
      { claimed: false, shown: null, state: 'granted', revoked: true, resolvable: false },
      { taken: true, claimed: false, shown: null, state: 'unknown', revoked: false, resolvable: true },
      { taken: true, claimed: false, shown: 'inbox', state: 'granted', revoked: false, resolvable: false },
      { claimed: false, shown: 'inbox', state: 'granted', revoked: false, resolvable: false },
      { claimed: false, shown: 'refused', state: 'granted', revoked: true, resolvable: false },
      { claimed: false, shown: 'void', state: 'granted', revoked: false, resolvable: false },
      { claimed: false, shown: 'claimed', state: 'running', revoked: false, resolvable: false },
      { claimed: false, shown: 'ended', state: 'running', revoked: false, resolvable: false },
      { claimed: true, shown: 'claimed', state: 'running', revoked: false, resolvable: false },
      { claimed: true, shown: 'latched', state: 'running', revoked: false, resolvable: false },
      { claimed: true, shown: 'ended', state: 'running', revoked: false, resolvable: false },
      { claimed: true, shown: null, state: 'unknown', revoked: false, resolvable: true },
    ] as const
    for (const { claimed, shown, state, revoked, resolvable, ...more } of table) {
      const world = await world3()
      const change = await world.begin(ALL)
      const agent = world.agent(W1)
      const { order, fence } = agent.grant()
      if ('taken' in more) await agent.say({ t: 'granted', order, fence })
      if (claimed) await agent.steps('claim', 'latch')
      await agent.cut()
      await world.later(claimed ? 91_000 : 700_000)
      t.match(world.brief(change), /^held hold unknown/)
      if (shown !== null) agent.inHand(shown)
      await agent.connect()
      const what = `${claimed ? 'claimed' : 'taken' in more ? 'taken' : 'granted'}, shows ${shown ?? 'nothing'}`
      t.equal(world.target(change, W1).state, state, what)
      t.equal(agent.revokes().length > 0, revoked, `${what}: called back`)
      t.equal((await world.resolve(change, W1, 'failed')).ok, resolvable, `${what}: a person may say how it ended`)
      t.equal(world.agent(W2).grants().length, 0, `${what}: nothing else is granted`)
    }
  },
)

t.test('[UNK-8] a grant is sent again only to the boot that it was sent to, and not once it was kept', async (t) => {
  for (const { kept, boot, reason } of [
    { kept: false, boot: 'b0', reason: null },
    { kept: true, boot: 'b0', reason: /no longer has the grant that it had kept.*copy/ },
    { kept: false, boot: 'b1', reason: /was started anew and does not have the grant.*copy/ },
  ]) {
    const world = await world3()
    const change = await world.begin(ALL)
    const agent = world.agent(W1)
    const { order, fence } = agent.grant()
    // An answer to another grant than this one says nothing of it.
    t.match(await agent.say({ t: 'granted', order, fence: kept ? fence : fence + 1 }), { ok: true })
    await agent.cut()
    agent.bootId = boot
    await agent.connect()
    t.equal(agent.grants().length, reason === null ? 2 : 1)
    t.match(world.brief(change), reason === null ? /^running/ : /^held hold unknown/)
    if (reason !== null) t.match(world.json(change).stop, { reason })
    t.equal((await world.resolve(change, W1, 'failed')).ok, reason !== null, 'a person may say how it ended')
  }
})

t.test('[UNK-5] a reboot may take the outage that was declared, and no longer', async (t) => {
  const world = await world3()
  const change = await world.begin(`prod machines: ${W1} outage:15`)
  const agent = world.agent(W1)
  await agent.steps('claim', 'latch', 'install', 'post-checks', 'reboot')
  await agent.cut()
  await world.later(14 * 60_000)
  t.match(world.brief(change), new RegExp(`^running: ${W1} rebooting`))
  await world.later(61_000)
  t.match(world.json(change).stop, {
    code: 'unknown',
    reason: `${W1} did not come back from its reboot in the 15 minutes declared; nothing was heard of it for 900 s`,
  })
  t.match(world.target(change, W1).advice, [/console/, /says by itself/])
})

t.test('[UNK-6] a machine that comes back late from its reboot is in the step in which it was', async (t) => {
  const world = await world3()
  const change = await world.begin(`prod machines: ${W1} outage:5`)
  const agent = world.agent(W1)
  await agent.steps('claim', 'latch', 'install', 'post-checks', 'reboot')
  await agent.cut()
  await world.later(6 * 60_000)
  t.match(world.brief(change), /unknown/)
  agent.inHand('latched')
  await agent.connect()
  t.match(world.brief(change), new RegExp(`^running: ${W1} rebooting`))
  t.match(world.target(change, W1), { advice: [], message: null })
  await agent.steps('verify')
  await agent.cut()
  await world.later(91_000)
  await agent.connect()
  t.match(world.brief(change), new RegExp(`^running: ${W1} verifying`))
})

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
