/** Scenarios of how a project goes: its words, phases and soak, and what follows a failure. */
import t from 'tap'
import { failuresMaxOf, phaseEnds } from '../../coordinator/domain/pace.ts'
import { parseRequest } from '../../coordinator/domain/request.ts'
import { EMPTY_PLAN, type World, createWorld, must, planOf, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3, W4] = [`${W}-1`, `${W}-2`, `${W}-3`, `${W}-4`]
const X1 = 'prod-dal10-carrier4-worker-1'
const MINUTE = 60_000
const HOUR = 60 * MINUTE
const paceIn = (text: string) => parseRequest(`prod machines: a outage:0 ${text}`)
const granted = (world: World, names: readonly string[]) =>
  names.filter((name) => world.agent(name).grants().length > 0).length

t.test('[PHA-1] phases are cumulative shares of all machines, rounded up', async (t) => {
  const ends = (text: string, machines: number) => phaseEnds(paceIn(`phases:${text}`).parsed.pace.phases, machines)
  t.strictSame(ends('1,10%,100%', 30), [1, 3, 30])
  t.strictSame(ends('1,10%,100%', 31), [1, 4, 31])
  t.strictSame(ends('1,10%,100%', 10), [1, 10], 'a phase that adds no machine vanishes')
  t.strictSame(ends('5,50%,100%', 4), [4])
  t.strictSame(ends('33%,66%,100%', 3), [1, 2, 3])
  t.strictSame(ends('100%', 7), [7])
  t.strictSame(phaseEnds([], 7), [7], 'one phase without the word')
})

t.test('[PHA-1] the plan, the change and the status have the same phases, in the order shown', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3, W4, X1] })
  const text = `prod machines: prod-dal10-* outage:0 phases:1,50%,100% soak:30`
  const preview = await world.request(text, { preview: true })
  const change = await world.ask(text)
  t.strictSame(
    world
      .json(change)
      .phases.map((phase) => [phase.name, phase.bags.flatMap((bag) => bag.machines.map((one) => one.name))]),
    [
      [W1, [W1]],
      ['prod-dal10-carrier3', [W2, W3]],
      [`${W4}, ${X1}`, [W4, X1]],
    ],
  )
  const raised = must(world.calls.find((call) => call.call === 'raise'))
  t.match(raised, {
    bags: [{ name: W1 }, { name: 'prod-dal10-carrier3', machines: [W2, W3] }, { name: W4 }, { name: X1 }],
    terms: ['phases: 1, 50%, 100% of the machines, with 30 minutes of soak between them'],
  })
  t.match(world.store().get('localChanges', change)?.notes, raised.call === 'raise' ? raised.terms : [])
  t.equal(preview.request?.state, 'previewed')
})

t.test('[PHA-1] a machine that is skipped keeps its place and is no machine of a share', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3], offline: [W1] })
  const change = await world.ask(`prod machines: ${W}-* outage:0 offline:skip phases:1,100%`)
  t.strictSame(
    world.json(change).phases.map((phase) => phase.bags.flatMap((bag) => bag.machines.map((one) => one.name))),
    [[W1, W2], [W3]],
  )
})

t.test('[PHA-2] the next phase opens when the last has ended and its soak is over', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3] })
  const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
  await world.agent(W1).succeed()
  t.match(world.json(change).stop, {
    kind: 'waiting',
    code: 'soak',
    reason: /^phase 0 soaks for 30 minutes; phase 1 opens at /,
    lift: `smith resume ${change}`,
    machine: W2,
    until: world.driver().now() + 30 * MINUTE,
  })
  await world.later(30 * MINUTE - 1000)
  t.equal(granted(world, [W2]), 0)
  t.equal(world.json(change).stop?.kind, 'waiting', 'a soak never becomes a hold')
  await world.later(2000)
  t.equal(granted(world, [W2]), 1)
  t.ok(world.facts().some((fact) => fact.fact === 'phaseOpened' && fact.machine === W2))
  await world.agent(W2).succeed()
  t.equal(granted(world, [W3]), 1, 'inside a phase nothing soaks')
})

t.test('[PHA-2] a person who has seen enough ends the soak, and only when it is what stops the project', async (t) => {
  const world = await createWorld({ machines: [W1, W2] })
  const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
  await world.agent(W1).succeed()
  await world.steer('pause', change, 'look')
  await world.steer('resume', change)
  t.equal(world.json(change).stop?.code, 'soak', 'what was lifted is the pause')
  await world.restart()
  await world.agent(W2).connect()
  t.equal(world.json(change).stop?.code, 'soak', 'a restart ends no soak')
  await world.steer('resume', change, 'seen enough')
  t.equal(granted(world, [W2]), 1)
  t.ok(world.facts().some((fact) => fact.fact === 'resumed' && fact.reason === 'seen enough'))
})

t.test('[PHA-2] a machine with nothing to do does not pass a soak, nor a pause', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3] })
  world.agent(W2).plan = EMPTY_PLAN
  const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
  await world.agent(W1).succeed()
  t.equal(world.brief(change), `waiting waiting soak: ${W1} succeeded, ${W2} planned, ${W3} offered`)
  await world.later(31 * MINUTE)
  t.match(world.brief(change), new RegExp(`${W2} succeeded, ${W3} granted`))
})

t.test(
  '[PHA-2] a failure holds the next phase until it is decided about, and the soak counts from the last run',
  async (t) => {
    const world = await createWorld({ machines: [W1, W2] })
    const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
    await world.agent(W1).fail()
    await world.later(2 * HOUR)
    t.equal(world.json(change).stop?.code, 'failed')
    await world.retry(change, W1)
    t.equal(world.agent(W1).grants().length, 2, 'it goes on at the failed machine')
    await world.agent(W1).succeed()
    t.equal(world.json(change).stop?.code, 'soak')
    await world.later(30 * MINUTE + 1000)
    t.equal(granted(world, [W2]), 1)
  },
)

t.test(
  '[PAC-1] how a project goes is read from its words, and what is not understood is refused with its place',
  async (t) => {
    t.match(paceIn('phases:1,10%,100% soak:30 on-failure:continue max-failures:5% window:2026-11-24T22:00/04:00'), {
      ok: true,
      parsed: {
        pace: {
          phases: [
            { value: 1, unit: 'machines' },
            { value: 10, unit: 'percent' },
            { value: 100, unit: 'percent' },
          ],
          soakMinutes: 30,
          onFailure: 'continue',
          maxFailures: { value: 5, unit: 'percent' },
          window: { text: '2026-11-24T22:00/04:00' },
        },
      },
    })
    t.match(paceIn('').parsed.pace, { phases: [], soakMinutes: 0, onFailure: 'stop', maxFailures: null, window: null })
    t.equal(paceIn('max-failures:2').parsed.pace.onFailure, 'continue', 'who says how many may fail goes on until then')
    for (const [text, word, message] of [
      ['phases:1,10%', '1,10%', /does not end with all machines/],
      ['phases:1,ten,100%', '1,ten,100%', /no list of numbers and percentages/],
      ['phases:0,100%', '0,100%', /no list/],
      ['phases:1,101%', '1,101%', /no list/],
      ['phases:50%,20%,100%', '50%,20%,100%', /does not rise/],
      ['phases:1,1,100%', '1,1,100%', /does not rise/],
      [`phases:${Array.from({ length: 21 }, (_, index) => index + 1).join()},100%`, null, /more than 20 phases/],
      ['phases: soak:3', null, /the value of phases: is missing/],
      ['soak:30', '30', /has no phases to stand between/],
      ['phases:100% soak:long', 'long', /no number of minutes/],
      ['phases:100% soak:10081', '10081', /no number of minutes/],
      ['on-failure:ignore', 'ignore', /is not understood/],
      ['max-failures:0', '0', /no number of machines/],
      ['max-failures:all', 'all', /no number of machines/],
      ['max-failures:2 on-failure:stop', '2', /contradict each other/],
      ['window:', null, /the value of window: is missing/],
      ['phase:1', null, /phase: is no key/],
    ] as const) {
      const line = `prod machines: a outage:0 ${text}`
      const outcome = parseRequest(line)
      const refusal = outcome.ok ? undefined : outcome.refusals.find((one) => message.test(one.message))
      t.ok(refusal !== undefined && refusal.remedy !== '', `${text}: ${JSON.stringify(outcome)}`)
      if (word !== null) t.equal(line.slice(refusal?.position?.start, refusal?.position?.end), word)
    }
  },
)

t.test('[PAC-1] a window that is none or has ended is refused, with what time it is', async (t) => {
  const world = await createWorld({ machines: [W1] })
  for (const [text, message] of [
    ['window:tonight', /is no window: write START\/END/],
    ['window:2020-01-01T00:00/04:00', /has ended already/],
    ['window:2099-01-01T04:00/2099-01-01T00:00', /does not come after/],
  ] as const)
    t.match(await world.refusalsOf(`prod machines: ${W1} outage:0 ${text}`), [
      { kind: 'bad-value', message, remedy: /it is .* UTC now/, position: { start: 60 } },
    ])
})

t.test('[FAI-1] on-failure:continue goes on, and each failure is decided about before the project ends', async (t) => {
  const world = await createWorld({ machines: [W1, W2, X1] })
  const change = await world.begin(`prod machines: prod-dal10-* outage:0 on-failure:continue`)
  await world.agent(W1).steps('claim')
  await world.agent(W1).result('failed', { latched: false, cause: 'repo', step: 'update' })
  t.match(world.brief(change), new RegExp(`^running: ${W1} failed, ${W2} granted`))
  t.match(
    refusalsIn(await world.request(`prod machines: ${W1} outage:0`).then(({ refusals }) => ({ ok: false, refusals }))),
    [{ kind: 'machine-busy' }],
  )
  await world.agent(W2).succeed()
  await world.agent(X1).fail()
  t.match(world.json(change).stop, {
    kind: 'hold',
    code: 'failed',
    reason: new RegExp(`^${W1} failed: repo: .*\\(and 1 more: ${X1}\\)$`),
    lift: `smith retry ${change} ${W1}`,
  })
  t.match(refusalsIn(await world.steer('resume', change)), [{ kind: 'conflict', subject: W1 }])
  await world.retry(change, W1)
  await world.agent(W1).succeed()
  t.match(world.json(change).stop, { code: 'failed', machine: X1 })
  await world.skip(change, X1)
  t.match(world.brief(change), /^complete/)
})

t.test('[FAI-1] a failure after the latch keeps its cluster: a machine of it waits for the decision', async (t) => {
  const world = await createWorld({ machines: [W1, W2, X1] })
  const change = await world.begin(`prod machines: prod-dal10-* outage:0 on-failure:continue`)
  await world.agent(W1).fail()
  t.match(world.json(change).stop, { kind: 'hold', code: 'failed', machine: W1, lift: `smith retry ${change} ${W1}` })
  t.match(refusalsIn(await world.steer('resume', change)), [{ remedy: `smith retry ${change} ${W1}` }])
  await world.resolve(change, W1, 'succeeded')
  t.equal(granted(world, [W2]), 1)
})

t.test(
  '[FAI-1] a kept cluster does not stop the machines of others, and who waits for it is told what frees it',
  async (t) => {
    const world = await createWorld({ machines: [W1, X1, W2] })
    const change = await world.begin(`prod machines: ${W1} ${X1} outage:0 on-failure:continue`)
    const second = await world.begin(`prod machines: ${W2} outage:0`)
    await world.agent(W1).fail()
    t.match(world.brief(change), new RegExp(`^running: ${W1} failed, ${X1} granted`))
    t.match(world.json(second).stop, { code: 'cluster-busy', lift: `smith retry ${change} ${W1}` })
    await world.skip(change, W1)
    t.equal(granted(world, [W2]), 1)
  },
)

t.test('[FAI-1] unknown stops also a project that goes on after failures', async (t) => {
  const world = await createWorld({ machines: [W1, X1] })
  const change = await world.begin(`prod machines: ${W1} ${X1} outage:0 on-failure:continue`)
  await world.agent(W1).steps('claim')
  await world.agent(W1).cut()
  await world.later(91_000)
  t.match(world.brief(change), /^held hold unknown/)
  t.equal(granted(world, [X1]), 0)
})

t.test('[FAI-2] as many failures as max-failures says stop the project', async (t) => {
  const names = [1, 2, 3, 4].map((number) => `prod-dal10-carrier${number}-worker-1`)
  const [A = '', B = '', C = ''] = names
  const world = await createWorld({ machines: names })
  const change = await world.begin(`prod machines: prod-dal10-* outage:0 max-failures:2`)
  await world.agent(A).fail()
  t.equal(granted(world, [B]), 1)
  await world.agent(B).fail()
  t.match(world.json(change).stop, { kind: 'hold', code: 'failed', machine: A })
  t.match(refusalsIn(await world.steer('resume', change)), [{ kind: 'conflict' }])
  await world.later(HOUR)
  t.equal(granted(world, [C]), 0)
  await world.resolve(change, A, 'failed', 'it is scrapped')
  t.equal(granted(world, [C]), 1, 'what a person has decided about counts no more')
  t.equal(failuresMaxOf({ onFailure: 'continue', maxFailures: { value: 10, unit: 'percent' } }, 29), 2)
  t.equal(failuresMaxOf({ onFailure: 'continue', maxFailures: { value: 10, unit: 'percent' } }, 5), 1)
  t.equal(failuresMaxOf({ onFailure: 'stop', maxFailures: null }, 5), 1)
  t.equal(failuresMaxOf({ onFailure: 'continue', maxFailures: null }, 5), null)
})

t.test('[FAI-2] drift counts as a failure', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3] })
  const change = await world.ask(`prod machines: ${W}-* outage:0 max-failures:2`)
  world.agent(W1).plan = planOf('2.1')
  world.agent(W2).plan = planOf('2.1')
  await world.approve(change)
  t.match(world.brief(change), /^held hold drift/)
  await world.skip(change, W1)
  t.equal(granted(world, [W3]), 1)
})

t.test('[ORD-4] after a crash a project goes on at the machine that failed', async (t) => {
  const world = await createWorld({ machines: [W1, W2, W3] })
  const change = await world.begin(`prod machines: ${W}-* outage:0`)
  await world.agent(W1).succeed()
  await world.agent(W2).fail()
  await world.restart()
  for (const name of [W1, W2, W3]) await world.agent(name).connect()
  t.match(world.json(change).stop, { code: 'failed', machine: W2 })
  await world.retry(change, W2)
  await world.restart()
  for (const name of [W1, W2, W3]) await world.agent(name).connect()
  t.equal(
    new Set(
      world
        .agent(W2)
        .grants()
        .map((one) => one.order),
    ).size,
    2,
  )
  t.equal(granted(world, [W3]), 0)
})

t.test('[FAI-3] a machine that keeps its cluster is tried again before the others there', async (t) => {
  const world = await createWorld({ machines: [W1, W2, X1] })
  const change = await world.begin(`prod machines: prod-dal10-* outage:0 on-failure:continue`)
  await world.agent(W1).steps('claim')
  await world.agent(W1).result('failed', { latched: false, cause: 'repo', step: 'update' })
  await world.agent(W2).fail()
  await world.agent(X1).succeed()
  t.match(await world.retry(change, W1), { ok: true })
  t.match(world.json(change).stop, { code: 'failed', machine: W2, lift: `smith retry ${change} ${W2}` })
  t.match(await world.retry(change, W2), { ok: true })
  t.match(world.brief(change), new RegExp(`${W2} granted`), 'what was touched is repaired first')
  await world.agent(W2).succeed()
  t.match(world.brief(change), new RegExp(`${W1} granted`))
  await world.agent(W1).succeed()
  t.match(world.brief(change), /^complete/)
})
