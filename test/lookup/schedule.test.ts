/** Recurring requests where a source of machines is configured: what it says at the time, and never before, counts. */
import t from 'tap'
import type { Known } from '../../coordinator/domain/known.ts'
import { must, PEOPLE, START, type World, createWorld, refusalsIn } from '../coordinator/harness.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
/** START is at 22:13:20 UTC. */
const FIRST = START + 400_000
const HEX = 'ab'.repeat(32)
const TEXT = 'prod machines: web-* outage:0'

type Answer = { readonly names: readonly string[] } | { readonly problem: string }

/** A source that answers with what a test has it know, when the test lets it. */
function createSource() {
  const source = {
    knows: { names: ['web-1'] } as Answer,
    asked: 0,
    /** Set: an answer waits for it. */
    gate: null as Promise<void> | null,
    now: (): number => 0,
  }
  const ask = async (): Promise<Known> => {
    source.asked += 1
    const at = source.now()
    if (source.gate !== null) await source.gate
    const { knows } = source
    if ('problem' in knows) return { source: 'NetBox', at, problem: knows.problem, remedy: 'see that it is up' }
    const machines = knows.names.map((name) => ({ id: name, name, addresses: [], barred: null }))
    return { source: 'NetBox', at, machines }
  }
  return { source, lookup: { source: 'NetBox', ask } }
}

async function worldOf(cron = '20 * * * *') {
  const { source, lookup } = createSource()
  const world = await createWorld({ machines: ['web-1', 'web-2'], lookup })
  source.now = () => world.driver().now()
  await world.command('cy', { type: 'userAdd', name: 'ana', roles: ['requester'], tokenHash: HEX, ttlMs: null })
  const made = await world.command(PEOPLE.ana, { type: 'scheduleAdd', name: 'nightly', cron, text: TEXT })
  t.ok(made.ok)
  return { world, source }
}
const firings = (world: World) => must(world.driver().view.get('schedules', 'nightly')).firings
const requestsMade = (world: World) => world.facts().filter(({ fact }) => fact === 'requestMade').length
const machinesOf = (world: World, change: string) => world.targets(change).map(({ name }) => name)
const connect = async (world: World) => {
  for (const name of ['web-1', 'web-2']) await world.agent(name).connect()
}

t.test('[LKP-20] a schedule asks the source at its time, and means what it says then', async (t) => {
  const { world, source } = await worldOf()
  t.equal(source.asked, 0, 'making it asks nothing')
  source.knows = { names: ['web-2'] }
  await world.later(400_000)
  t.equal(source.asked, 1)
  t.match(firings(world), [{ at: FIRST, by: 'ana', what: 'asked', reasons: [] }])
  t.same(machinesOf(world, 'CHG0000001'), ['web-2'])
  await world.steer('cancel', 'CHG0000001')
  source.knows = { names: ['web-1', 'web-2'] }
  await world.later(HOUR + 1000)
  t.same(machinesOf(world, 'CHG0000002'), ['web-1', 'web-2'], 'asked anew: no list is kept')
  await world.steer('cancel', 'CHG0000002')
  t.ok((await world.command('ana', { type: 'scheduleRun', name: 'nightly' })).ok, 'and so it is when a person runs it')
  t.equal(source.asked, 3)
})

t.test('[LKP-20] a source out of reach means that the time was missed, with its reason', async (t) => {
  const { world, source } = await worldOf()
  source.knows = { problem: 'answers 502' }
  await world.later(400_000)
  const reason =
    'this time was missed, since which machines there are was not known: NetBox answers 502; see that it is up'
  t.match(firings(world), [{ at: FIRST, by: 'ana', what: 'missed', request: null, reasons: [reason] }])
  t.match(
    world.facts().filter(({ fact }) => fact === 'scheduleMissed'),
    [{ text: 'nightly', reason }],
  )
  t.match(refusalsIn(await world.command('ana', { type: 'scheduleRun', name: 'nightly' })), [{ kind: 'unavailable' }])
  t.equal(requestsMade(world), 0)
  source.knows = { names: ['web-1'] }
  await world.later(HOUR - 1000)
  t.equal(requestsMade(world), 0, 'it is not made up for')
  await world.later(1000)
  t.equal(requestsMade(world), 1)
})

t.test('[LKP-21] while the source is being asked a time fires once, whatever else happens', async (t) => {
  const { world, source } = await worldOf()
  const gate = Promise.withResolvers<void>()
  source.gate = gate.promise
  const later = world.later(400_000 + 90_000)
  // The world waits for what is under way: a clock that ticks meanwhile is played by hand.
  while (source.asked === 0) await new Promise((resolve) => setImmediate(resolve))
  for (let tick = 0; tick < 3; tick += 1) await world.driver().submit({ kind: 'smith' }, { type: 'tick' })
  t.same(firings(world), [], 'nothing of it is kept before the answer')
  gate.resolve()
  await later
  t.equal(source.asked, 1)
  t.match(firings(world), [{ at: FIRST, what: 'asked' }])
  t.equal(requestsMade(world), 1)
  await world.driver().submit({ kind: 'smith' }, { type: 'scheduleDue', name: 'nightly', ask: 'x'.repeat(32) })
  t.equal(requestsMade(world), 1, 'an answer that nobody waits for is none')
})

t.test('[LKP-21] a coordinator that ends between the question and the request asks once more, or tells', async (t) => {
  for (const downMs of [20_000, 10 * MINUTE]) {
    const { world, source } = await worldOf()
    const gate = Promise.withResolvers<void>()
    source.gate = gate.promise
    while (source.asked === 0 && world.time.advance()) await new Promise((resolve) => setImmediate(resolve))
    t.equal(source.asked, 1)
    source.gate = null
    const restarted = world.restart({}, downMs)
    // The answer to the life that is over comes all the same.
    gate.resolve()
    await restarted
    await connect(world)
    t.equal(firings(world).length, 1, `${downMs}`)
    t.match(firings(world), [downMs > MINUTE ? { what: 'missed' } : { what: 'refused', reasons: [/no live agent/] }])
  }
})

t.test('[LKP-21] a schedule that was removed and made anew does not take the answer to the old question', async (t) => {
  const { world, source } = await worldOf('* * * * *')
  const gate = Promise.withResolvers<void>()
  source.gate = gate.promise
  const later = world.later(MINUTE)
  while (source.asked === 0) await new Promise((resolve) => setImmediate(resolve))
  const give = (command: Parameters<World['command']>[1]) =>
    world.driver().submit(PEOPLE.ana, { type: 'command', command })
  await give({ type: 'scheduleRemove', name: 'nightly' })
  await give({ type: 'scheduleAdd', name: 'nightly', cron: '0 0 1 1 *', text: TEXT })
  gate.resolve()
  await later
  t.same(firings(world), [])
  t.equal(requestsMade(world), 0)
})
