/** What is unknown: how it comes, what the machine's evidence settles, and what a person may say. */
import t from 'tap'
import { createWorld, refusalsIn } from './harness.ts'
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
    await world.later(601_000)
    t.equal(agent.revokes().length, 1, 'it may not be claimed any more: only the machine can say that it was not')
    t.match(world.brief(change), new RegExp(`^running: ${W1} granted`))
    await agent.result('void', { step: 'claim', message: 'it was called back' })
    t.match(world.json(change).stop, { code: 'failed', reason: /it was called back; nothing was changed/ })
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
    if (reason === null) continue
    t.match(refusalsIn(await world.resolve(change, W1, 'failed')), [{ message: /may still be taken up until .* UTC/ }])
    await world.later(601_000)
    t.match(await world.resolve(change, W1, 'failed'), { ok: true }, 'then a person may say how it ended')
    t.strictSame(agent.revokes(), [order], 'and it is void for whoever has it')
  }
})

t.test('[UNK-8] a revoke that came alone is no grant that was kept', async (t) => {
  const world = await world3()
  const change = await world.begin(ALL)
  const agent = world.agent(W1)
  await agent.cut()
  agent.orders = [{ order: agent.grant().order, fence: 0, evidence: 'inbox', upTo: 0 }]
  await agent.connect()
  await agent.cut()
  agent.orders = []
  agent.bootId = 'b1'
  await agent.connect()
  t.match(world.json(change).stop, { reason: /was started anew and does not have the grant that was on its way/ })
})

t.test('[UNK-8] a grant that another holder may have is not called back from who does not have it', async (t) => {
  for (const isThere of [true, false]) {
    const world = await world3()
    const change = await world.begin(ALL)
    const agent = world.agent(W1)
    const { order, fence } = agent.grant()
    await agent.say({ t: 'granted', order, fence })
    await agent.cut()
    await world.later(700_000)
    if (isThere) await agent.connect()
    t.match(await world.steer('cancel', change), { ok: true })
    if (!isThere) await agent.connect()
    t.equal(agent.revokes().length, 0, 'its void would free the line of the one that has it')
    t.match(world.json(change).stop, { code: 'unknown', lift: /smith resolve/ })
    await agent.cut()
    agent.inHand('inbox')
    await agent.connect()
    t.equal(agent.revokes().length, 1, 'the one that has it gives it back')
    await agent.say({ t: 'records', order, records: [resultRecord(1, 'void')] })
    t.match(world.brief(change), /^cancelled/)
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
