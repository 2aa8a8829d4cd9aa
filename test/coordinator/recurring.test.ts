/** Scenarios of recurring requests: when they are made, in whose name, and what keeps one from being made. */
import t from 'tap'
import type { Actor } from '../../coordinator/domain/state.ts'
import type { Turn } from '../../coordinator/ports.ts'
import { crashMemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import { createDice } from '../sim/random.ts'
import { PEOPLE, START, type World, type WorldOptions, createWorld, must, refusalsIn } from './harness.ts'

const [W1, W2] = ['dev-dal10-carrier1-worker-1', 'dev-dal10-carrier1-worker-2']
const TEXT = `prod machines: ${W1} outage:0`
const MINUTE = 60_000
const HOUR = 60 * MINUTE
/** START is at 22:13:20 UTC: the first time is 6 minutes and 40 seconds ahead. */
const CRON = '20 * * * *'
const FIRST = START + 400_000
const HEX = 'ab'.repeat(32)

async function worldOf(options: WorldOptions = {}) {
  const world = await createWorld({ machines: [W1, W2], ...options })
  for (const name of ['ana', 'vi'] as const) await addUser(world, name, ['requester'])
  return world
}
const addUser = (world: World, name: string, roles: readonly ('requester' | 'viewer' | 'approver')[]) =>
  world.command('cy', { type: 'userAdd', name, roles, tokenHash: HEX.replace('a', name.slice(0, 1)), ttlMs: null })
const add = (world: World, more: { by?: Actor; cron?: string; text?: string; name?: string } = {}) =>
  world.command(more.by ?? PEOPLE.ana, {
    ...{ type: 'scheduleAdd', name: more.name ?? 'nightly', cron: more.cron ?? CRON, text: more.text ?? TEXT },
  })
const firings = (world: World, name = 'nightly') => must(world.driver().view.get('schedules', name)).firings
const facts = (world: World) =>
  world.facts().filter((one) => one.fact.startsWith('schedule') && one.fact !== 'scheduleMade')
const requestsMade = (world: World) => world.facts().filter(({ fact }) => fact === 'requestMade').length
const connect = async (world: World) => {
  for (const name of [W1, W2]) await world.agent(name).connect()
}

t.test(
  '[SCD-1] a request is made at each time, in the name of who made the schedule, and waits for approval',
  async (t) => {
    const world = await worldOf()
    t.ok((await add(world)).ok)
    t.equal(world.driver().view.get('schedules', 'nightly')?.next, FIRST)
    await world.later(399_000)
    t.equal(requestsMade(world), 0)
    await world.later(1000)
    const [firing] = firings(world)
    t.match(firing, { at: FIRST, by: 'ana', what: 'asked', reasons: [] })
    const request = must(world.store().get('requests', must(firing?.request ?? undefined)))
    t.match(request, { by: 'ana', text: TEXT, state: 'raised' })
    t.match(facts(world), [
      { fact: 'scheduleFired', text: 'nightly', request: request.id, reason: 'in the name of ana' },
    ])
    const change = must(request.change ?? undefined)
    t.equal(world.project(change).approval, null)
    t.equal(world.agent(W1).grants().length, 0, 'never approved by itself')
    t.match(refusalsIn(await world.approve(change, 'ana')), [{ kind: 'not-allowed' }])
    await world.steer('cancel', change)
    await world.later(HOUR + 1000)
    t.equal(firings(world).length, 2)
    t.equal(requestsMade(world), 2)
  },
)

t.test('[SCD-2] only the policy of its train approves what a schedule asks for', async (t) => {
  const rest = { roles: [], people: [], except: [], windows: [] }
  const world = await worldOf({ trains: [{ name: 'dev', machines: ['dev-*'], approval: false, ...rest }] })
  await add(world)
  await world.later(HOUR)
  t.equal(world.agent(W1).grants().length, 1)
})

t.test('[SCD-3] who is revoked, has expired or lost the role asks for nothing, with the reason', async (t) => {
  const revoked = await worldOf()
  await add(revoked)
  await revoked.command('cy', { type: 'userRevoke', name: 'ana' })
  await revoked.later(HOUR)
  t.match(firings(revoked), [{ what: 'refused', request: null, reasons: ['ana is no user any more'] }])
  t.match(facts(revoked), [{ fact: 'scheduleRefused', text: 'nightly', reason: 'ana is no user any more' }])

  const lost = await worldOf()
  await add(lost)
  await lost.command('cy', { type: 'userRevoke', name: 'ana' })
  await addUser(lost, 'ana', ['viewer'])
  await lost.later(HOUR)
  t.match(firings(lost), [{ what: 'refused', reasons: ['ana may not ask for a patch'] }])

  const expired = await worldOf()
  await expired.command('cy', { type: 'userRevoke', name: 'ana' })
  await expired.command('cy', { type: 'userAdd', name: 'ana', roles: ['requester'], tokenHash: HEX, ttlMs: MINUTE })
  await add(expired)
  await expired.later(HOUR)
  t.match(firings(expired), [{ what: 'refused', reasons: ['the token of ana has expired'] }])
  t.equal(requestsMade(revoked) + requestsMade(lost) + requestsMade(expired), 0)
})

t.test('[SCD-4] a time that the coordinator was down for is told, counted and not made up for', async (t) => {
  const world = await worldOf()
  await add(world)
  await world.restart({}, 3 * HOUR)
  await connect(world)
  t.match(firings(world), [
    { at: FIRST, what: 'missed', request: null, reasons: [/^3 times from this on were missed/] },
  ])
  t.match(facts(world), [{ fact: 'scheduleMissed', text: 'nightly', reason: /^3 times/ }])
  t.equal(world.driver().view.get('schedules', 'nightly')?.next, FIRST + 3 * HOUR)
  await world.later(HOUR)
  t.match(firings(world), [{ what: 'missed' }, { what: 'asked', at: FIRST + 3 * HOUR }])
  t.equal(requestsMade(world), 1)
})

t.test('[SCD-4] a short restart over its time still asks, and years of every minute end in time', async (t) => {
  const world = await worldOf()
  await add(world)
  await add(world, { name: 'often', cron: '* * * * *', text: `prod machines: ${W2} outage:0` })
  await world.later(380_000)
  const before = firings(world, 'often').length
  await world.restart({}, 40_000)
  t.match(firings(world), [{ what: 'refused', at: FIRST, reasons: [/has no live agent/] }], 'late by 20 s')
  await world.restart({}, 400 * 24 * HOUR)
  t.match(firings(world, 'often').at(-1), { what: 'missed', reasons: [/^over 1000 times from this on were missed/] })
  t.ok(before > 0)
  const next = must(world.driver().view.get('schedules', 'often')?.next ?? undefined)
  t.ok(next > world.driver().now() && next <= world.driver().now() + MINUTE)
})

t.test('[SCD-5] while its last project is open a schedule asks for nothing, and says why', async (t) => {
  const world = await worldOf()
  await add(world)
  await world.later(2 * HOUR)
  const change = 'CHG0000001'
  t.match(firings(world), [
    { what: 'asked' },
    { what: 'skipped', request: null, reasons: [`its last project ${change} is still open`] },
  ])
  t.match(facts(world)[1], { fact: 'scheduleSkipped', reason: /CHG0000001/ })
  t.match(refusalsIn(await world.command('ana', { type: 'scheduleRun', name: 'nightly' })), [
    { kind: 'conflict', message: `nightly: its last project ${change} is still open` },
  ])
  await world.steer('cancel', change)
  await world.later(HOUR)
  t.match(firings(world).at(-1), { what: 'asked' })
})

t.test('[SCD-5] a request that still plans is not over either', async (t) => {
  const world = await worldOf({ limits: { planTimeMsMax: 10 * MINUTE } })
  world.agent(W1).plansBySelf = false
  await add(world, { cron: '20,21 * * * *' })
  await world.later(400_000 + MINUTE + 1000)
  t.match(firings(world), [
    { what: 'asked' },
    { what: 'skipped', reasons: [/^its last request \([0-9a-f]{32}\) is not done$/] },
  ])
})

t.test('[SCD-6] what refuses the request is kept with the schedule, of the line and of the machines', async (t) => {
  const world = await worldOf({ offline: [W1] })
  await add(world)
  await add(world, { name: 'other', text: `prod machines: ${W2} outage:0` })
  world.agent(W2).plan = { kind: 'cannot-plan', message: 'its lists are broken', remedy: 'mend them' }
  await world.later(HOUR)
  t.match(firings(world), [{ what: 'refused', reasons: [`${W1} has no live agent`] }])
  const request = must(firings(world, 'other')[0]?.request ?? undefined)
  t.match(world.store().get('requests', request), { state: 'refused', refusals: [{ message: /its lists are broken/ }] })
})

t.test('[SCD-7] a firing and its request are one turn: a crash around it makes neither two nor none', async (t) => {
  for (const failAt of ['before', 'never'] as const) {
    const disk = createMemoryDisk(createDice(2, 'schedule'))
    const fault = { isDue: failAt === 'before', hits: 0 }
    const store = () => {
      crashMemoryDisk(disk)
      const inner = openMemoryStore(disk)
      const commit = (turn: Turn) => {
        if (fault.isDue && turn.row.facts.some(({ fact }) => fact === 'scheduleFired')) {
          fault.hits += 1
          throw new Error('the disk is gone')
        }
        return inner.commit(turn)
      }
      return { ...inner, commit }
    }
    const world = await worldOf({ store })
    await add(world)
    await world.later(400_000)
    t.equal(world.fatal.length, failAt === 'before' ? 1 : 0)
    fault.isDue = false
    const asked = requestsMade(world)
    t.equal(asked, failAt === 'before' ? 0 : 1)
    await world.restart()
    await connect(world)
    await world.later(50 * MINUTE)
    t.equal(firings(world).length, 1, failAt)
    t.equal(requestsMade(world), asked, 'after a crash it is told, not asked twice')
  }
})

t.test(
  '[SCD-7] the same time of the same schedule is the same request, also for a database that knows it',
  async (t) => {
    const world = await worldOf()
    await add(world)
    const { id } = must(world.driver().view.get('schedules', 'nightly'))
    const key = world.tools().sha256(`schedule ${id} ${FIRST}`).slice(0, 32)
    await world.request(TEXT, { key })
    await world.later(401_000)
    t.equal(requestsMade(world), 1)
    t.equal(firings(world)[0]?.request, world.store().get('requestKeys', key)?.request)
  },
)

t.test('[SCD-8] a schedule that can not work is refused with every reason, with its place', async (t) => {
  const world = await worldOf()
  await add(world)
  const at = `prod machines: ${W1} outage:x window:2026-01-01T00:00/04:00`
  const refused = refusalsIn(await add(world, { cron: '61 * * * *', text: at }))
  t.match(refused, [
    { kind: 'exists', subject: 'nightly' },
    { kind: 'bad-value', message: /^61 \* \* \* \* is no cron expression: / },
    { kind: 'bad-value', subject: 'x', position: { start: at.indexOf('x window') } },
    { kind: 'bad-value', message: /is one time, and a schedule asks again and again/ },
  ])
  for (const cron of ['* * * * * *', '@daily', '0 0 30 2 *', ''])
    t.match(refusalsIn(await add(world, { name: 'x', cron })), [{ kind: 'bad-value', subject: cron }], cron)
  t.match(refusalsIn(await add(world, { name: 'x', by: PEOPLE.bo })), [{ kind: 'not-allowed' }])
  t.match(refusalsIn(await world.command('ana', { type: 'scheduleRemove', name: 'x' })), [{ kind: 'not-found' }])
  t.equal(world.driver().view.size('schedules'), 1)
  t.ok((await world.command('bo', { type: 'scheduleRemove', name: 'nightly' })).ok, 'an approver may stop it')
  await world.later(2 * HOUR)
  t.equal(requestsMade(world), 0)
})

t.test('[SCD-9] who runs a schedule now asks in their own name', async (t) => {
  const world = await worldOf()
  await add(world)
  const vi: Actor = { kind: 'person', name: 'vi', roles: ['requester', 'approver'] }
  t.ok((await world.command(vi, { type: 'scheduleRun', name: 'nightly' })).ok)
  const [firing] = firings(world)
  t.match(firing, { by: 'vi', what: 'asked', at: START })
  const request = world.store().get('requests', must(firing?.request ?? undefined))
  t.equal(request?.by, 'vi')
  t.match(refusalsIn(await world.approve(must(request?.change ?? undefined), vi)), [{ kind: 'not-allowed' }])
})

t.test('[SCD-10] its times are those of the configured time zone, also after that was changed', async (t) => {
  const world = await worldOf({ schedule: { timezone: 'Europe/Berlin' } })
  await add(world, { cron: '0 2 * * *' })
  const next = () => new Date(must(world.driver().view.get('schedules', 'nightly')?.next ?? undefined)).toISOString()
  t.equal(next(), '2023-11-15T01:00:00.000Z')
  await world.restart({ schedule: { ...world.settings.schedule, timezone: 'UTC' } })
  t.equal(next(), '2023-11-15T02:00:00.000Z')
})
