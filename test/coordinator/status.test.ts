/**
 * The status as people read it, held to the letter against golden/*.txt. `SMITH_GOLDEN=write node
 * test/coordinator/status.test.ts` writes them anew: the diff is what is reviewed.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { duration, renderStatus } from '../../coordinator/domain/status.ts'
import { EMPTY_PLAN, type World, createWorld, must, planOf } from './harness.ts'

const FOLDER = new URL('golden/', import.meta.url)
const isWriting = process.env['SMITH_GOLDEN'] === 'write'

function matchesGolden(t: Test, name: string, text: string): void {
  const path = new URL(`${name}.txt`, FOLDER)
  if (isWriting) writeFileSync(path, `${text}\n`)
  t.equal(`${text}\n`, readFileSync(path, 'utf8'), `golden/${name}.txt`)
}

const W = 'prod-dal10-carrier3-worker'
const workers = (count: number, cluster = W) => Array.from({ length: count }, (_, index) => `${cluster}-${index + 1}`)

const DESIGN_EXAMPLE = `Project: CHG0268453 Patch: ap-south prod-syd05-carrier1-worker-1005 with Build \`725\`
TOTALS: Pass: 1, Failed NONE, Unstarted NONE

 *Phase 0*, prod-syd05-carrier1-worker-1005, \`complete\` Pass: 1, Fail: 0 Unstarted: 0
   Bag: *prod-syd05-carrier1-worker-1005* - CTASK0348812, State: \`complete\` MachineCount: 1 Pass:1 Fail:0
`

t.test('[STA-1] the finished project of one machine, to the letter', async (t) => {
  const name = 'prod-syd05-carrier1-worker-1005'
  const world = await createWorld({
    machines: [name],
    labels: { [name]: { builds: ['725'] } },
    instance: { change: 268_452, task: 348_811 },
  })
  const change = await world.begin(`725 machines: ${name} outage:0`)
  await world.agent(name).succeed()
  t.equal(`${world.text(change)}\n`, DESIGN_EXAMPLE)
  matchesGolden(t, 'design-example', world.text(change))
})

/** Three machines in two bags; the first has passed, the second failed. */
async function failedInTheMiddle(): Promise<{ world: World; change: string }> {
  const machines = [...workers(2), 'prod-dal10-carrier4-worker-1']
  const world = await createWorld({ machines })
  const change = await world.begin(`prod machines: ${machines.join(' ')} outage:0`)
  await world.agent(`${W}-1`).succeed()
  await world.agent(`${W}-2`).fail()
  return { world, change }
}

t.test('[STA-12] a reboot that is pending stands under its bag, in the change and at the machine', async (t) => {
  const world = await createWorld({ machines: workers(3) })
  world.agent(`${W}-2`).plan = planOf('1', { installs: [], rebootDue: true })
  const change = await world.begin(`prod machines: ${W}-* outage:0`)
  const { view } = world.driver()
  const notes = () => must(view.get('localChanges', change)).notes.join('\n')
  const isPending = (name: string) => must(view.get('machines', world.agent(name).id())).rebootPending
  await world.agent(`${W}-1`).steps('claim')
  await world.agent(`${W}-1`).result('succeeded', { rebootPending: true })
  matchesGolden(t, 'reboot-pending', world.text(change))
  t.match(notes(), `${W}-1: succeeded: succeeded; a reboot is pending`)
  t.match(notes(), `${W}-2: nothing to do; a reboot is pending`)
  await world.agent(`${W}-3`).steps('claim')
  await world.agent(`${W}-3`).result('failed', { rebootPending: true })
  t.strictSame(
    [1, 2, 3].map((number) => isPending(`${W}-${number}`)),
    [true, true, true],
    'also when its run failed',
  )
  await world.skip(change, `${W}-3`)
  t.match(
    world.json(change).closeNotes,
    `2 passed, 0 failed, 1 skipped, 0 cancelled; a reboot is pending on ${W}-1, ${W}-2`,
  )
})

t.test('[STA-4] a failure stands under its bag with its reason and the command that lifts it', async (t) => {
  const { world, change } = await failedInTheMiddle()
  matchesGolden(t, 'failed', world.text(change))
  t.match(world.json(change), {
    state: 'held',
    stop: { kind: 'hold', code: 'failed', lift: `smith retry ${change} ${W}-2`, machine: `${W}-2` },
  })
})

t.test('[STA-4] a failure that was skipped, and the next machine at work', async (t) => {
  const { world, change } = await failedInTheMiddle()
  await world.skip(change, `${W}-2`, 'it is replaced next week')
  matchesGolden(t, 'skipped', world.text(change))
  await world.agent('prod-dal10-carrier4-worker-1').succeed()
  matchesGolden(t, 'skipped-complete', world.text(change))
})

t.test('[STA-4] a cancelled project says so, machine by machine', async (t) => {
  const { world, change } = await failedInTheMiddle()
  await world.steer('cancel', change, 'wrong week')
  matchesGolden(t, 'cancelling', world.text(change))
  await world.skip(change, `${W}-2`)
  matchesGolden(t, 'cancelled', world.text(change))
  t.equal(world.json(change).state, 'cancelled')
})

t.test('[STA-11] before the approval nothing has begun', async (t) => {
  const world = await createWorld({ machines: [...workers(2), 'prod-dal10-carrier4-worker-1'] })
  matchesGolden(t, 'pending', world.text(await world.ask('prod machines: prod-dal10-* outage:15')))
})

t.test('[STA-2] at most five names, then how many more', async (t) => {
  const world = await createWorld({ machines: workers(8) })
  const change = await world.ask(`prod machines: ${W}-* outage:0`)
  for (const name of workers(7)) world.agent(name).plan = planOf('2.1')
  await world.approve(change)
  matchesGolden(t, 'seven-drifted', world.text(change))
  t.equal(world.json(change).totals.fail, 7)
})

t.test('[STA-5] a machine at work shows its step, progress and age', async (t) => {
  const world = await createWorld({ machines: workers(2) })
  const change = await world.begin(`prod machines: ${W}-* outage:0`)
  matchesGolden(t, 'granted', world.text(change))
  const agent = world.agent(`${W}-1`)
  await agent.steps('claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch', 'install')
  await agent.record({ type: 'progress', step: 'install', percent: 42.7, label: 'Unpacking hello (2.0)' })
  await world.later(83_000)
  matchesGolden(t, 'running', world.text(change))
  await agent.steps('post-checks')
  matchesGolden(t, 'running-no-progress', world.text(change))
})

t.test('[STA-6] holds that people set, and unknown', async (t) => {
  const world = await createWorld({ machines: workers(2) })
  const change = await world.begin(`prod machines: ${W}-* outage:0`)
  await world.steer('pause', change, 'lunch')
  matchesGolden(t, 'paused-running', world.text(change))
  await world.agent(`${W}-1`).succeed()
  matchesGolden(t, 'paused', world.text(change))
  await world.command('cy', { type: 'freeze', reason: 'the archive is being moved' })
  matchesGolden(t, 'frozen', world.text(change))
  await world.command('cy', { type: 'unfreeze', reason: '' })
  await world.steer('resume', change)
  const agent = world.agent(`${W}-2`)
  await agent.steps('claim', 'update')
  await agent.cut()
  await world.later(91_000)
  matchesGolden(t, 'unknown', world.text(change))
})

t.test('[STA-7] waits: for a cluster, for an agent, for a window', async (t) => {
  const world = await createWorld({ machines: [...workers(3), 'prod-dal10-carrier4-worker-1'] })
  const first = await world.begin(`prod machines: ${W}-1 outage:0`)
  const second = await world.begin(`prod machines: ${W}-2 outage:0`)
  matchesGolden(t, 'waiting-cluster', world.text(second))
  await world.agent(`${W}-1`).fail()
  await world.later(10_000)
  matchesGolden(t, 'waiting-cluster-failed', world.text(second))
  await world.skip(first, `${W}-1`)
  await world.agent(`${W}-2`).succeed()
  const third = await world.ask(`prod machines: ${W}-3 outage:0`)
  await world.agent(`${W}-3`).cut()
  await world.approve(third)
  matchesGolden(t, 'waiting-offline', world.text(third))
  await world.later(601_000)
  matchesGolden(t, 'waiting-offline-hold', world.text(third))
  const now = world.driver().now()
  world.provider.answer = (permission) => ({ ...permission, window: { start: now + 3_600_000, end: now + 7_200_000 } })
  const fourth = await world.begin('prod machines: prod-dal10-carrier4-worker-1 outage:0')
  matchesGolden(t, 'waiting-window', world.text(fourth))
})

t.test('[STA-7] waits: for the soak of a phase, for a window, and for none that comes again', async (t) => {
  const machines = [...workers(3), 'prod-dal10-carrier4-worker-1']
  const world = await createWorld({ machines })
  const change = await world.begin(`prod machines: ${W}-* outage:0 phases:1,100% soak:30`)
  await world.agent(`${W}-1`).succeed()
  matchesGolden(t, 'waiting-soak', world.text(change))
  const second = await world.begin(
    'prod machines: prod-dal10-carrier4-* outage:0 window:2023-11-14T22:30/2023-11-14T23:00',
  )
  matchesGolden(t, 'waiting-request-window', world.text(second))
  await world.steer('pause', second)
  await world.later(3_600_000)
  await world.steer('resume', second)
  matchesGolden(t, 'window-over', world.text(second))
})

t.test(
  '[STA-13] who has a line, since when, at which step and for whom, is told to those who wait for it',
  async (t) => {
    const world = await createWorld({ machines: workers(2) })
    const first = await world.begin(`prod machines: ${W}-1 outage:0`)
    const since = world.driver().now()
    const second = await world.begin(`prod machines: ${W}-2 outage:0`)
    await world.later(60_000)
    await world.agent(`${W}-1`).steps('claim', 'update')
    await world.later(83_000)
    const holder = {
      line: 'cluster:prod-dal10-carrier3',
      change: first,
      requester: 'ana',
      machine: `${W}-1`,
      order: world.agent(`${W}-1`).grant().order,
      state: 'running',
      since,
      step: 'update',
      stepAt: since + 60_000,
    }
    t.strictSame(world.json(second).holder, holder)
    t.strictSame(world.json(first).holder, holder, 'and to itself')
    matchesGolden(t, 'waiting-cluster-step', world.text(second))
    await world.agent(`${W}-1`).fail()
    t.match(world.json(second).holder, { state: 'failed', machine: `${W}-1` })
    await world.skip(first, `${W}-1`)
    t.match(world.json(second).holder, { machine: `${W}-2`, change: second })
    t.equal(world.json(first).holder, null)
    t.match(
      world.facts().filter((fact) => fact.fact === 'lineTaken' && fact.line === 'cluster:prod-dal10-carrier3'),
      [
        { change: first, machine: `${W}-1`, text: 'for ana' },
        { change: second, machine: `${W}-2`, text: 'for ana' },
      ],
    )
  },
)

t.test('[STA-8] machines planning again are shown as a wait, and empty plans pass without a run', async (t) => {
  const world = await createWorld({ machines: workers(3) })
  world.agent(`${W}-1`).plan = EMPTY_PLAN
  const change = await world.ask(`prod machines: ${W}-* outage:0`)
  world.agent(`${W}-3`).plansBySelf = false
  await world.approve(change)
  matchesGolden(t, 'checking', world.text(change))
  await world.agent(`${W}-3`).say({
    t: 'planned',
    query: must(world.agent(`${W}-3`).queries().at(-1)).query,
    plan: planOf('2.0'),
    evidence: world.agent(`${W}-3`).evidence,
    warnings: [],
  })
  await world.settle()
  matchesGolden(t, 'passed-empty', world.text(change))
})

t.test('[STA-8] a machine asked to plan again before it has answered is waited for once', async (t) => {
  const world = await createWorld({ machines: workers(2) })
  const change = await world.ask(`prod machines: ${W}-* outage:0`)
  const agent = world.agent(`${W}-2`)
  agent.plansBySelf = false
  await world.approve(change)
  const late = must(agent.queries().at(-1)).query
  await world.decide('reject', change)
  await world.approve(change)
  t.match(world.text(change), /1 of 2 machines are planning again/)
  const answerTo = (query: string) =>
    agent.say({ t: 'planned', query, plan: planOf('2.0'), evidence: agent.evidence, warnings: [] })
  await answerTo(late)
  t.match(world.text(change), /1 of 2 machines are planning again/, 'the answer to the question before is too old')
  await answerTo(must(agent.queries().at(-1)).query)
  await world.settle()
  t.notMatch(world.text(change), /planning again/)
})

t.test('[STA-9] what a machine says can not forge a line of the status', async (t) => {
  const world = await createWorld({ machines: workers(1) })
  const change = await world.begin(`prod machines: ${W}-1 outage:0`)
  const agent = world.agent(`${W}-1`)
  await agent.steps('claim')
  await agent.record({ type: 'progress', step: 'claim', percent: 1, label: 'x\n       Lift: rm -rf /' })
  const lines = world.text(change).split('\n').length
  t.equal(
    world
      .text(change)
      .split('\n')
      .filter((line) => line.includes('rm -rf')).length,
    1,
  )
  await agent.result('failed', { message: 'line one\r\n       Lift: rm -rf /\u2028Lift: no\u0085' })
  t.equal(world.text(change).split('\n').length, lines + 1, 'Held and Lift in the place of Now')
  t.equal(
    world
      .text(change)
      .split(/[\n\r\u0085\u2028\u2029]/)
      .filter((line) => /^\s*Lift:/.test(line)).length,
    1,
  )
})

t.test('[STA-10] a bag is running only while one of its machines is', async (t) => {
  const machines = [...workers(2), ...workers(2, 'prod-dal10-carrier4-worker')]
  const world = await createWorld({ machines })
  const change = await world.ask(`prod machines: ${machines.join(' ')} outage:0`)
  world.agent('prod-dal10-carrier4-worker-1').plan = planOf('2.1')
  world.agent(`${W}-1`).plan = planOf('2.1')
  await world.approve(change)
  t.strictSame(
    world.json(change).phases.flatMap((phase) => [phase.state, ...phase.bags.map((bag) => bag.state)]),
    ['held', 'held', 'pending'],
  )
})

t.test('[STA-3] the totals are those of the machines, in every state of a project', async (t) => {
  const { world, change } = await failedInTheMiddle()
  const check = () => {
    const status = world.json(change)
    const states = status.phases.flatMap((phase) =>
      phase.bags.flatMap((bag) => bag.machines.map((machine) => machine.state)),
    )
    t.equal(status.totals.fail, states.filter((state) => state === 'failed').length)
    t.equal(
      Object.values(status.totals).reduce((sum, count) => sum + count, 0),
      states.length,
    )
  }
  check()
  await world.retry(change, `${W}-2`)
  check()
  await world.agent(`${W}-2`).succeed()
  check()
  await world.agent('prod-dal10-carrier4-worker-1').succeed()
  check()
})

t.test('[STA-1] times read as people say them', async (t) => {
  const table: readonly (readonly [number, string])[] = [
    [-5, '0s'],
    [42_900, '42s'],
    [192_000, '3m 12s'],
    [3_720_000, '1h 2m'],
    [183_600_000, '2d 3h'],
  ]
  for (const [ms, wanted] of table) t.equal(duration(ms), wanted)
  const { world, change } = await failedInTheMiddle()
  t.notMatch(renderStatus(world.json(change), world.driver().now()), /undefined|null|NaN/)
})
