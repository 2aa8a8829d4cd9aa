/** Scenarios of the policy of trains: who may ask, what is left out, in which window, and who approves. */
import t from 'tap'
import type { TrainSettings } from '../../coordinator/domain/events.ts'
import { termsOf } from '../../coordinator/domain/pace.ts'
import { START, type World, createWorld, must, refusalsIn } from './harness.ts'

const [D1, D2, DB] = ['dev-dal10-carrier1-worker-1', 'dev-dal10-carrier1-worker-2', 'dev-dal10-carrier1-db-1']
const [S1, S2] = ['stage-dal10-carrier1-worker-1', 'stage-dal10-carrier1-worker-2']
const OTHER = 'lab-dal10-carrier1-worker-1'
const ALL = [D1, D2, DB, S1, S2, OTHER]
const HOUR = 3_600_000
const train = (name: string, more: Partial<TrainSettings> = {}): TrainSettings => ({
  ...{ name, machines: [`${name}-*`], approval: true, roles: [], people: [], except: [], windows: [] },
  ...more,
})
const DEV = train('dev', { approval: false })
const worldOf = (trains: readonly TrainSettings[]) => createWorld({ machines: ALL, trains })
const terms = (world: World, change: string) =>
  termsOf(world.project(change).options, { ...world.tools().calendar, show: (at) => `+${(at - START) / HOUR}h` })
const iso = (at: number) => new Date(at).toISOString().slice(0, 16)
/** The hour of the day, as cron has it, so many hours after the scenario begins. */
const cronAt = (hours: number) =>
  `${new Date(START).getUTCMinutes()} ${(new Date(START).getUTCHours() + hours) % 24} * * *`
/** START with its seconds cut off, as windows are. */
const MINUTE_OF_START = Math.floor(START / 60_000) * 60_000

t.test('[TRN-1] a train without approval approves by its policy, which is recorded and shown', async (t) => {
  const world = await worldOf([DEV, train('stage')])
  const change = await world.ask(`prod machines: ${D1} outage:0`)
  t.match(world.project(change).approval, { by: 'the policy of train dev' })
  t.match(
    world.facts().filter(({ fact }) => fact === 'changeApproved'),
    [{ change, reason: 'by the policy of train dev' }],
  )
  t.match(world.store().get('localChanges', change), { approval: 'approved', decidedBy: 'the policy of train dev' })
  t.strictSame(terms(world, change), ['approved by the policy of train dev'])
  t.equal(world.agent(D1).grants().length, 1)
})

t.test('[TRN-1] an approver takes an approval by policy back, and a person can give it again', async (t) => {
  const world = await worldOf([DEV])
  const change = await world.ask(`prod machines: ${D1} ${D2} outage:0`)
  t.ok((await world.decide('reject', change)).ok)
  await world.agent(D1).succeed()
  t.equal(world.agent(D2).grants().length, 0, 'withdrawn stops before the next')
  t.match(refusalsIn(await world.approve(change, 'ana')), [{ kind: 'not-allowed' }], 'nobody approves their own')
  t.ok((await world.approve(change)).ok)
  t.equal(world.project(change).approval?.by, 'bo')
  t.equal(world.agent(D2).grants().length, 1)
})

t.test('[TRN-1] a train that asks for approval after all takes back what its policy gave', async (t) => {
  const world = await worldOf([DEV])
  const change = await world.ask(`prod machines: ${D1} ${D2} outage:0`)
  await world.agent(D1).steps('claim')
  await world.restart({ trains: [train('dev')] })
  for (const name of [D1, D2]) await world.agent(name).connect()
  await world.agent(D1).succeed()
  t.equal(world.agent(D2).grants().length, 0)
  t.match(world.json(change).stop, {
    code: 'approval',
    reason: 'the change waits for approval: the policy of train dev asks for an approval now',
  })
  t.ok((await world.approve(change)).ok)
  t.equal(world.agent(D2).grants().length, 1, 'a person has approved')
})

t.test('[TRN-2] machines of no train, and of one that wants it, need an approval', async (t) => {
  const world = await worldOf([DEV, train('stage'), train('none', { machines: ['dev-*-db-*'] })])
  for (const [machines, why] of [
    [OTHER, 'of no train'],
    [`${D1} ${S1}`, 'of several trains'],
    [`${D2} ${OTHER}`, 'partly of none'],
    [DB, 'of two trains at once'],
  ] as const) {
    const other = await worldOf(world.settings.trains)
    const change = await other.ask(`prod machines: ${machines} outage:0`)
    t.equal(other.project(change).approval, null, why)
    t.equal(other.project(change).state, 'pending', why)
    t.strictSame(other.project(change).options.policy?.approvedBy ?? [], [], why)
    t.match(refusalsIn(await other.approve(change, 'ana')), [{ kind: 'not-allowed' }])
    t.ok((await other.approve(change)).ok)
  }
})

t.test('[TRN-3] who may ask for machines of a train is told by role or name, and it only narrows', async (t) => {
  const named = train('stage', { people: ['ana', 'vi'], roles: ['admin'] })
  const world = await worldOf([named, DEV])
  const text = `prod machines: ${S1} ${D1} outage:0`
  const eve = { kind: 'person', name: 'eve', roles: ['requester'] } as const
  t.match((await world.request(text, { by: eve })).refusals, [
    {
      kind: 'not-allowed',
      message: 'eve may not ask for machines of train stage',
      remedy: 'these may: ana, vi, whoever has the role admin',
    },
  ])
  t.match((await world.request(text, { by: 'vi' })).refusals, [{ message: 'vi may not ask for a patch' }])
  t.strictSame((await world.request(text, { by: eve, preview: true })).refusals, [], 'looking is free')
  t.strictSame((await world.request(`prod machines: ${D1} outage:0`, { by: eve })).refusals, [])
  t.strictSame((await world.request(`prod machines: ${S1} outage:0`, { by: 'ana' })).refusals, [])
  t.strictSame((await world.request(`prod machines: ${S2} outage:0`, { by: 'cy' })).refusals, [])
})

t.test('[TRN-4] what a train leaves out is out of patterns and shown, and is refused by name', async (t) => {
  const world = await worldOf([train('dev', { except: ['dev-*-db-*', D2] }), train('stage', { except: [D1] })])
  const change = await world.ask('prod machines: dev-* outage:0')
  t.strictSame(
    world.targets(change).map(({ name }) => name),
    [D1],
    'another train has no say',
  )
  t.strictSame(terms(world, change), [`left out by train dev: ${DB}, ${D2}`])
  t.match(await world.refusalsOf(`prod machines: ${S1} ${DB} outage:0`), [
    { kind: 'not-allowed', message: `${DB} is left out by the policy of train dev`, subject: DB },
  ])
  t.match(await world.refusalsOf('prod machines: dev-*-db-* outage:0'), [
    { kind: 'no-match', message: 'except: of the request or of train dev takes out every machine' },
  ])
})

t.test('[TRN-5] a request gets the next window of its train, and nothing is granted before', async (t) => {
  const world = await worldOf([train('dev', { approval: false, windows: [`${cronAt(2)} for 3h`] })])
  const change = await world.ask(`prod machines: ${D1} outage:0`)
  const start = MINUTE_OF_START + 2 * HOUR
  t.strictSame(world.project(change).options.window, { start, end: start + 3 * HOUR })
  t.match(terms(world, change)[0], /^window: .* to .*, from train dev$/)
  t.match(world.json(change).stop, { kind: 'waiting', code: 'window' })
  t.equal(world.agent(D1).grants().length, 0)
  await world.later(2 * HOUR)
  t.equal(world.agent(D1).grants().length, 1)
})

t.test("[TRN-5] a request's own window must lie within those of its trains", async (t) => {
  const world = await worldOf([train('dev', { windows: [`${cronAt(2)} for 3h`] })])
  const windowText = (from: number, to: number) =>
    `prod machines: ${D1} outage:0 window:${iso(START + from)}Z/${iso(START + to)}Z`
  t.match(await world.refusalsOf(windowText(HOUR, 3 * HOUR)), [
    { kind: 'bad-value', message: /does not lie within the windows of train dev$/, remedy: /^leave it out; from / },
  ])
  t.match(await world.refusalsOf(windowText(4 * HOUR, 6 * HOUR)), [{ kind: 'bad-value' }])
  const change = await world.ask(windowText(3 * HOUR, 4 * HOUR))
  t.match(world.project(change).options, { window: { start: MINUTE_OF_START + 3 * HOUR }, policy: { windowOf: [] } })
})

t.test('[TRN-6] over several trains the window is what they have in common, and none is a refusal', async (t) => {
  const stage = train('stage', { windows: [`${cronAt(4)} for 4h`] })
  const dev = train('dev', { windows: [`${cronAt(2)} for 3h`] })
  const world = await worldOf([dev, stage])
  const change = await world.ask(`prod machines: ${D1} ${S1} outage:0`)
  const start = MINUTE_OF_START + 4 * HOUR
  t.strictSame(world.project(change).options.window, { start, end: start + HOUR })
  t.match(terms(world, change), [/, from trains dev, stage$/])
  const apart = await worldOf([dev, train('stage', { windows: [`${cronAt(10)} for 1h`] })])
  t.match(await apart.refusalsOf(`prod machines: ${D1} ${S1} outage:0`), [
    { kind: 'no-match', message: /^the windows of trains dev, stage and of the configuration have no .* in common$/ },
  ])
  const long = await worldOf([dev])
  t.match(await long.refusalsOf(`prod machines: ${D1} outage:1000`), [
    { kind: 'no-match', message: /^the windows of train dev / },
  ])
})

t.test('[TRN-7] a preview and a restart have the same policy', async (t) => {
  const world = await worldOf([DEV])
  const { request } = await world.request(`prod machines: ${D1} outage:0`, { preview: true })
  t.strictSame(must(request ?? undefined).options.policy?.approvedBy, ['dev'])
  const change = await world.ask(`prod machines: ${D1} outage:0`)
  await world.restart()
  t.equal(world.project(change).approval?.by, 'the policy of train dev')
})
