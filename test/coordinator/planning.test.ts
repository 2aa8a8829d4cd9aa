/** From a request to a project: planning, skipping, keys, previews, bags, empty plans, drift and offers. */
import t from 'tap'
import * as v from 'valibot'
import { requestQueryPrefix } from '../../coordinator/domain/planning.ts'
import { previewOf } from '../../coordinator/domain/preview.ts'
import { createTools } from '../../coordinator/pattern.ts'
import { EMPTY_PLAN, SETTINGS, createWorld, must, planOf } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const FLEET = [
  `${W}-1`,
  `${W}-2`,
  `${W}-10`,
  'prod-dal10-carrier3-master-1',
  'prod-dal10-carrier4-worker-1',
  'prod-syd05-carrier1-worker-1005',
  'db.lon.example.org',
]

const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const ALL = `prod machines: ${W}-* outage:0`
const TRIO = [W1, W2, W3, OTHER]

t.test(
  '[REQ-10] matched machines that can not be patched are skipped where the request says so, named ones never',
  async (t) => {
    const world = await createWorld({ machines: FLEET, offline: [`${W}-1`] })
    const first = await world.ask(`prod machines: ${W}-2 outage:0`)
    const change = await world.ask(`prod machines: prod-dal10-* outage:0 offline:skip busy:skip`)
    t.strictSame(
      world.targets(change).map((target) => [target.name, target.state, target.reason]),
      [
        ['prod-dal10-carrier3-master-1', 'planned', null],
        [`${W}-1`, 'skipped', `${W}-1 has no live agent`],
        [`${W}-2`, 'skipped', `${W}-2 is in the open project ${first}`],
        [`${W}-10`, 'planned', null],
        ['prod-dal10-carrier4-worker-1', 'planned', null],
      ],
      'a skipped machine stands on the change in its place',
    )
    t.match(world.json(change).totals, { skipped: 2, unstarted: 3 })
    await world.steer('cancel', change)
    const named = `prod machines: ${W}-1 ${W}-2 outage:0 offline:skip busy:skip`
    t.strictSame(
      (await world.refusalsOf(named)).map((one) => one.kind),
      ['machine-offline', 'machine-busy'],
    )
    const both = `prod machines: prod-dal10-* ${W}-1 outage:0 offline:skip busy:skip`
    t.strictSame(
      (await world.refusalsOf(both)).map((one) => one.kind),
      ['machine-offline'],
      'a machine that is named as well as matched is named',
    )
    t.match(await world.refusalsOf(`prod machines: ${W}-[12] outage:0 offline:skip busy:skip`), [
      { kind: 'no-match', message: /every machine that matches would be skipped/ },
    ])
    t.strictSame(
      (await world.refusalsOf(`prod machines: ${W}-[12] outage:0 offline:skip`)).map((one) => one.kind),
      ['machine-busy'],
    )
  },
)

t.test('[REQ-10] a machine that can not plan after all is skipped or refuses, by the same rule', async (t) => {
  const world = await createWorld({ machines: FLEET })
  world.agent(`${W}-1`).plan = { kind: 'cannot-plan', message: 'no route to the archive', remedy: 'look' }
  t.match(await world.refusalsOf(`prod machines: ${W}-* outage:0`), [{ kind: 'cannot-plan', subject: `${W}-1` }])
  const change = await world.ask(`prod machines: ${W}-* outage:0 offline:skip`)
  t.equal(world.brief(change), `pending: ${W}-1 skipped, ${W}-2 planned, ${W}-10 planned`)
})

t.test('[REQ-11] the same key is the same request; another line under it is refused', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const text = `prod machines: ${W}-1 outage:0`
  const key = 'c'.repeat(32)
  const first = await world.request(text, { key })
  const again = await world.request(text, { key })
  t.equal(must(again.request ?? undefined).id, must(first.request ?? undefined).id)
  t.equal(world.store().projects({ limit: 9 }).length, 1)
  t.equal(world.driver().view.size('requestKeys'), 0, 'the key of an ended request is on disk only')
  t.match((await world.request(`prod machines: ${W}-2 outage:0`, { key })).refusals, [{ kind: 'conflict' }])
  t.match((await world.request(text, { key, by: 'cy' })).refusals, [{ kind: 'conflict' }], "nor is it another person's")
  await world.restart()
  t.equal(must((await world.request(text, { key })).request ?? undefined).id, must(first.request ?? undefined).id)
})

t.test('[REQ-12] two requests that plan on one machine at once: the later is refused, naming the change', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const agent = world.agent(`${W}-1`)
  agent.plansBySelf = false
  const [one, two] = [
    await world.request(`prod machines: ${W}-1 outage:0`),
    await world.request(`prod machines: ${W}-1 outage:5`),
  ]
  const [first, second] = agent.queries()
  t.not(must(first).query, must(second).query)
  await agent.say({
    t: 'planned',
    query: must(second).query,
    plan: planOf('2.0'),
    evidence: agent.evidence,
    warnings: [],
  })
  await agent.say({
    t: 'planned',
    query: must(first).query,
    plan: planOf('2.0'),
    evidence: agent.evidence,
    warnings: [],
  })
  await world.settle()
  t.match(world.store().get('requests', must(two.request ?? undefined).id), { state: 'raised', change: 'CHG0000001' })
  t.match(world.store().get('requests', must(one.request ?? undefined).id), {
    state: 'refused',
    refusals: [{ kind: 'machine-busy', message: /CHG0000001/ }],
  })
})

t.test('[REQ-13] prod becomes the numbered build that the machines planned, and several are refused', async (t) => {
  const world = await createWorld({ machines: FLEET })
  for (const name of [`${W}-1`, `${W}-2`]) world.agent(name).plan = planOf('2.0', { build: '725' })
  const change = await world.ask(`prod machines: ${W}-1 ${W}-2 outage:0`)
  t.equal(world.project(change).build, '725')
  await world.steer('cancel', change)
  t.match(await world.refusalsOf(`prod machines: ${W}-1 ${W}-10 outage:0`), [
    { kind: 'unknown-build', message: 'prod means several builds on these machines: 725, prod' },
  ])
})

t.test(
  '[REQ-14] a machine that is out of reach while it plans refuses the request when its time is over',
  async (t) => {
    const world = await createWorld({ machines: FLEET })
    for (const name of [`${W}-1`, `${W}-2`]) world.agent(name).plansBySelf = false
    const { request } = await world.request(`prod machines: ${W}-1 ${W}-2 outage:0`)
    await world.agent(`${W}-1`).cut()
    await world.later(61_000)
    t.match(world.store().get('requests', must(request ?? undefined).id), {
      state: 'refused',
      refusals: [
        { kind: 'machine-offline', message: `${W}-1 went away while it was planning` },
        { kind: 'cannot-plan', message: `${W}-2 did not plan within 60 s` },
      ],
    })
  },
)

t.test('[REQ-14] a machine that connects again while it plans is asked again at once', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const agent = world.agent(`${W}-1`)
  agent.plansBySelf = false
  await world.request(`prod machines: ${W}-1 outage:0`)
  agent.plansBySelf = true
  await agent.connect()
  t.equal(world.brief('CHG0000001'), `pending: ${W}-1 planned`)
})

t.test('[REQ-14] planning survives a restart: what was asked is asked again', async (t) => {
  const world = await createWorld({ machines: FLEET, limits: { plansInParallelMax: 1 } })
  const names = [`${W}-1`, `${W}-2`]
  for (const name of names) world.agent(name).plansBySelf = false
  await world.request(`prod machines: ${names.join(' ')} outage:0`)
  t.strictSame(
    names.map((name) => world.agent(name).queries().length),
    [1, 0],
    'no more plan at once than may',
  )
  await world.restart()
  for (const name of names) {
    world.agent(name).plansBySelf = true
    await world.agent(name).connect()
  }
  t.equal(world.brief('CHG0000001'), `pending: ${W}-1 planned, ${W}-2 planned`)
})

t.test('[REQ-15] a preview records no project and takes no machine', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const { request } = await world.request(`prod machines: ${W}-* outage:0`, { by: 'vi', preview: true })
  t.match(request, { state: 'previewed', build: 'prod', total: 3 })
  t.strictSame(world.store().projects({ limit: 9 }), [])
  t.match(await world.ask(`prod machines: ${W}-* outage:0`), /^CHG/)
})

t.test('[REQ-15] a preview shows the bags and the digest that the change will have', async (t) => {
  const world = await createWorld({ machines: FLEET, offline: [`${W}-1`] })
  const text = `prod machines: ${W}-* prod-dal10-carrier4-worker-1 prod-dal10-carrier3-master-1 outage:0 offline:skip`
  const request = must((await world.request(text, { preview: true })).request ?? undefined)
  const tools = createTools(SETTINGS, { bytes: (count) => new Uint8Array(count) })
  const shown = must(
    previewOf(world.driver().view, request, world.store().list('queries', requestQueryPrefix(request.id)), tools),
  )
  const change = await world.ask(text)
  t.equal(shown.digest, world.project(change).digest)
  const bags = world.rowsOf(change).bags
  t.strictSame(
    shown.machines.map((one) => [one.name, one.bag]),
    world
      .targets(change)
      .filter((target) => target.state === 'planned')
      .map((target) => [target.name, bags[target.bag]?.name]),
  )
})

t.test('[REQ-16] a request has a bound of machines', async (t) => {
  const world = await createWorld({ machines: FLEET, limits: { machinesPerRequestMax: 2 } })
  t.match(await world.refusalsOf(`prod machines: ${W}-* outage:0`), [
    { kind: 'too-many', message: '3 machines are more than one request may have (2)' },
  ])
})

t.test('[REQ-17] long lines stay within what a journal row may hold', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const text = `prod machines: ${`${W}-1 `.repeat(400)} outage:0`
  t.match(await world.ask(text), /^CHG/)
  const long = `prod machines: ${W}-(${'1|'.repeat(460)}2) outage:0`
  const change = await world.ask(long.replace('-(1|', '-(2|').replaceAll('1|', '2|'))
  t.ok(world.text(change).length < 1000)
  t.match(
    await world.refusalsOf(
      `prod machines: ${'x'.repeat(9000)} ${'y,'.repeat(5000)} ${'/('.repeat(4000)} outage:${'9'.repeat(9000)}`,
    ),
    [{}, {}, {}],
  )
  const { feedRowSchema } = await import('../../protocol/feed.ts')
  for (const row of world.rows) t.ok(v.is(feedRowSchema, row), `row ${row.rev} is what the feed may carry`)
})

t.test('[REQ-18] phases and bags follow the order of their first mention', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const change = await world.ask(
    `prod machines: prod-dal10-carrier4-worker-1 ${W}-2 prod-dal10-carrier3-master-1 ${W}-1 outage:0`,
  )
  const [phase] = world.json(change).phases
  t.strictSame(
    must(phase).bags.map((bag) => [bag.name, bag.task, bag.machines.map((machine) => machine.name)]),
    [
      ['prod-dal10-carrier4-worker-1', 'CTASK0000001', ['prod-dal10-carrier4-worker-1']],
      ['prod-dal10-carrier3', 'CTASK0000002', [`${W}-2`, 'prod-dal10-carrier3-master-1', `${W}-1`]],
    ],
  )
  t.equal(must(phase).name, 'prod-dal10-carrier4-worker-1, prod-dal10-carrier3')
})

t.test(
  '[PRJ-1] a cluster is the label, else the configured pattern, else the name without role and number, else the machine',
  async (t) => {
    const machines = [`${W}-1`, 'prod-dal10-carrier9-worker-2', 'rack7dal-a', 'rack7dal-b', 'dal.example.org']
    const world = await createWorld({
      machines,
      labels: { 'prod-dal10-carrier9-worker-2': { cluster: 'prod-dal10-carrier3' } },
      clusters: [{ pattern: '^(rack[0-9]+)' }],
    })
    const change = await world.ask(`prod machines: ${machines.join(' ')} outage:0`)
    t.strictSame(
      world.targets(change).map((target) => target.cluster),
      ['prod-dal10-carrier3', 'prod-dal10-carrier3', 'rack7', 'rack7', 'dal.example.org'],
    )
  },
)

t.test('[PRJ-2] the digest is of the plans in their order, skipped machines left out', async (t) => {
  const digest = async (words: string, version = '2.0') => {
    const world = await createWorld({ machines: FLEET, offline: [`${W}-10`] })
    world.agent(`${W}-2`).plan = planOf(version)
    return world.project(await world.ask(`prod machines: ${words} outage:0 offline:skip`)).digest
  }
  const base = await digest(`${W}-1 ${W}-2`)
  t.equal(await digest(`${W}-1 ${W}-2`), base)
  t.not(await digest(`${W}-2 ${W}-1`), base)
  t.not(await digest(`${W}-1 ${W}-2`, '2.1'), base)
  t.equal(await digest(`${W}-*`), base)
})

t.test('[ORD-1] drift is named all at once, before anything is granted, and an older archive is no plan', async (t) => {
  const world = await createWorld({ machines: TRIO })
  const release = (date: number) => ({
    releases: [{ uri: 'http://a', suite: 's', sha256: 'a'.repeat(64), date }],
    downloadBytes: 1,
    installedBytesDelta: 1,
    madeAt: 1,
  })
  for (const name of TRIO) world.agent(name).evidence = release(2000)
  const change = await world.ask(ALL)
  world.agent(W1).plan = planOf('2.1')
  world.agent(W3).plan = planOf('2.0', { removes: [{ name: 'other', arch: 'amd64', version: '1.0' }] })
  world.agent(W2).evidence = release(1000)
  await world.approve(change)
  t.match(world.brief(change), new RegExp(`held hold drift: ${W1} failed, ${W2} planned, ${W3} failed`))
  t.match(world.target(change, W1), {
    cause: 'plan-drift',
    evidence: [/hello:amd64 is at 2\.1 now, approved was 2\.0/],
    keepsLine: false,
  })
  t.match(world.target(change, W3), { evidence: [/other:amd64 would be removed/] })
  t.match(world.target(change, W2), { check: 'refused', message: /is older than at the approval/ })
  t.match(await world.steer('resume', change), {
    ok: false,
    refusals: [
      {
        kind: 'conflict',
        message: new RegExp(`${W1}, ${W3} failed`),
        remedy: new RegExp(`smith retry ${change} ${W1}`),
      },
    ],
  })
})

t.test('[RUN-12] what an older request came to does not stand for the archives of the approval', async (t) => {
  const world = await createWorld({ machines: TRIO })
  const agent = world.agent(W1)
  const seen = (date: number) => {
    const releases = [{ uri: 'http://a', suite: 's', sha256: 'a'.repeat(64), date }]
    agent.evidence = { releases, downloadBytes: 1, installedBytesDelta: 1, madeAt: world.time.now() }
  }
  seen(1000)
  await world.steer('cancel', await world.ask(`prod machines: ${W1} outage:0`))
  await world.later(60_000)
  seen(3000)
  const change = await world.ask(`prod machines: ${W1} outage:0`)
  seen(2000)
  await world.approve(change)
  t.match(world.target(change, W1), { check: 'refused', message: /is older than at the approval/ })
})

t.test('[ORD-2] after drift a retry asks the machine again, and goes on when the archive was put back', async (t) => {
  const world = await createWorld({ machines: TRIO })
  const change = await world.ask(`prod machines: ${W1} ${W2} outage:0`)
  world.agent(W1).plan = planOf('2.1')
  await world.approve(change)
  await world.retry(change, W1)
  t.match(world.brief(change), new RegExp(`held hold drift: ${W1} failed`), 'it is as it was')
  world.agent(W1).plan = planOf('2.0')
  await world.retry(change, W1)
  t.equal(world.brief(change), `running: ${W1} granted, ${W2} offered`)
  t.equal(world.agent(W1).grant().attempt, 1)
})

t.test(
  '[PRJ-3] machines with nothing to do pass without a run; a project of them only completes on approval',
  async (t) => {
    const world = await createWorld({ machines: TRIO })
    for (const name of [W1, W2]) world.agent(name).plan = EMPTY_PLAN
    const change = await world.ask(`prod machines: ${W1} ${W2} outage:0`)
    t.equal(world.json(change).state, 'pending')
    await world.approve(change)
    t.equal(world.brief(change), `complete: ${W1} succeeded, ${W2} succeeded`)
    t.match(world.store().get('localChanges', change), { closeCode: 'successful' })
    world.agent(W1).plan = { ...EMPTY_PLAN, rebootDue: true }
    const other = await world.begin(`prod machines: ${W1} outage:5`)
    t.equal(world.brief(other), `running: ${W1} granted`, 'a reboot that is due and allowed is work')
  },
)

t.test('[PRJ-3] a machine with nothing to do waits its turn, a stop and a failure before it', async (t) => {
  const world = await createWorld({ machines: TRIO })
  world.agent(W2).plan = EMPTY_PLAN
  const change = await world.begin(ALL)
  await world.agent(W1).fail()
  t.equal(world.target(change, W2).state, 'planned')
  await world.skip(change, W1)
  t.equal(world.brief(change), `running: ${W1} skipped, ${W2} succeeded, ${W3} granted`)
})

t.test('[ORD-3] the next machines are offered ahead, a few at a time, and again when they connect anew', async (t) => {
  const world = await createWorld({ machines: TRIO, limits: { prefetchAheadMax: 2 } })
  const change = await world.begin(`prod machines: ${W}-* ${OTHER} outage:0`)
  const offersOf = (name: string) => world.agent(name).got.flatMap((send) => ('offer' in send ? [send.offer] : []))
  t.strictSame(
    TRIO.map((name) => offersOf(name).length),
    [1, 1, 0, 0],
  )
  await world.agent(W2).connect()
  t.equal(offersOf(W2).length, 2, 'an offer may have been lost')
  await world.agent(W2).say({ t: 'prefetched', order: must(offersOf(W2)[0]).order, problem: null })
  t.equal(world.target(change, W2).state, 'ready')
  await world.agent(W2).connect()
  t.equal(offersOf(W2).length, 2, 'what is ready needs no offer')
  await world.agent(W1).succeed()
  t.equal(world.agent(W2).grant().order, must(offersOf(W2)[0]).order)
  t.equal(offersOf(W3).length, 1)
})
