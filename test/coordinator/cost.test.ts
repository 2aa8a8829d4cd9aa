/**
 * What a step costs, in rows that it looks at and writes, which no machine's speed changes: the same story is played in
 * an empty instance and in one with a large fleet and a long history, and every step of it must cost the same.
 */
import t from 'tap'
import { nextWake } from '../../coordinator/domain/clock.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { Event } from '../../coordinator/domain/events.ts'
import { checkWrites } from '../../coordinator/domain/invariants.ts'
import { type TableName, type Write, placeKey } from '../../coordinator/domain/state.ts'
import { step } from '../../coordinator/domain/step.ts'
import * as rows from '../store/rows.ts'
import { SETTINGS, createWorld } from './harness.ts'

const FLEET = 100_000
const HISTORY = 10_000
const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]

type Cost = { readonly event: string; rows: number; readonly writes: number }

/** The state with a counter on every way into it. */
function counted(view: View, count: (rows: number) => void): View {
  const one = <Row>(row: Row): Row => {
    count(1)
    return row
  }
  function* each<Row>(all: Iterable<Row>): Generator<Row> {
    for (const row of all) yield one(row)
  }
  return {
    get: (table, key) => one(view.get(table, key)),
    archived: (table, key) => one(view.archived(table, key)),
    entries: (table) => each(view.entries(table)),
    all: (table) => each(view.all(table)),
    size: (table) => view.size(table),
  }
}

const nameOf = (event: Event) => (event.type === 'command' ? event.command.type : event.type)

/** The core that also does what the driver does around a step, and writes down what all of it cost. */
function meter(costs: Cost[]): typeof step {
  return (view, envelope, tools) => {
    let seen = 0
    const watched = counted(view, (more) => (seen += more))
    const outcome = step(watched, envelope, tools)
    checkWrites(watched, outcome.writes, tools.calendar)
    nextWake(watched, SETTINGS, envelope.at)
    costs.push({ event: nameOf(envelope.event), rows: seen, writes: outcome.writes.length })
    return outcome
  }
}

/** A fleet that is enrolled, and projects that have ended: each with its change, its bag, its machine and its order. */
function* past(machines: number, projects: number): Generator<Write> {
  for (let index = 0; index < machines; index += 1) {
    const machine = rows.machine(`fleet-${index}`)
    yield { table: 'machines', key: machine.id, row: machine, live: true }
    yield { table: 'names', key: machine.name, row: { machine: machine.id }, live: true }
  }
  for (let index = 0; index < projects; index += 1) {
    const change = `CHG${String(1_000_000 + index)}`
    const project = rows.project(`past-${index}`, { change, state: 'closed', outcome: 'complete' })
    const order = rows.order(`o-${index}`, { project: project.id, state: 'succeeded', fence: index + 1 })
    yield { table: 'projects', key: project.id, row: project, live: false }
    yield { table: 'changes', key: change, row: { project: project.id }, live: false }
    yield { table: 'targets', key: placeKey(project.id, 0), row: rows.target(`past-${index}`, 0), live: false }
    yield { table: 'orders', key: order.id, row: order, live: false }
  }
}

/** Everything that a project meets: a failure, a retry, a restart, a pause, a freeze, waits, a skip, a cancelled one. */
async function story(machines: number, projects: number) {
  const costs: Cost[] = []
  const given = [...past(machines, projects)]
  const world = await createWorld({
    machines: [W1, W2, W3],
    core: meter(costs),
    given,
    instance: { fence: projects, change: 2_000_000 },
  })
  const change = await world.begin(`prod machines: ${W1} ${W2} ${W3} outage:0 phases:1,100% soak:5`)
  await world.agent(W1).fail()
  await world.restart()
  for (const name of [W1, W2, W3]) await world.agent(name).connect()
  await world.retry(change, W1)
  await world.agent(W1).succeed()
  await world.steer('pause', change)
  await world.command('cy', { type: 'freeze', reason: '' })
  await world.command('cy', { type: 'unfreeze', reason: '' })
  await world.steer('resume', change)
  await world.later(600_000)
  await world.agent(W2).steps('claim')
  await world.agent(W2).cut()
  await world.later(91_000)
  await world.resolve(change, W2, 'failed')
  await world.skip(change, W2)
  await world.agent(W3).succeed()
  const second = await world.ask(`prod machines: ${W3} outage:0`)
  await world.later(60_000)
  await world.steer('cancel', second)
  await world.enrol(W3, {}, true)
  return { costs, state: world.brief(change), world }
}

const total = (costs: readonly Cost[]) => costs.reduce((sum, cost) => sum + cost.rows + cost.writes, 0)

t.test('[CST-1] no step looks at more rows for a large fleet and a long history than for none', async (t) => {
  const small = await story(0, 0)
  const large = await story(FLEET, HISTORY)
  const { view } = large.world.driver()
  t.ok(view.size('machines') >= FLEET, 'the fleet is there')
  t.equal(large.world.store().get('projects', rows.id('past-0'))?.state, 'closed', 'and the history, on disk')
  t.ok(view.size('projects') === 0 && view.size('orders') === 0, 'of which nothing is in memory')
  t.match(small.state, /^complete/)
  t.equal(large.state, small.state)
  t.ok(small.costs.length > 50, `${small.costs.length} steps`)
  t.strictSame(large.costs, small.costs, 'each step costs the same')
  t.comment(`rows in ${small.costs.length} steps: ${total(small.costs)} with none, ${total(large.costs)} with all`)
})

t.test('[CST-1] only a pattern looks at the whole fleet, once for each word', async (t) => {
  const costs: Cost[] = []
  const world = await createWorld({ machines: [W1], core: meter(costs), given: [...past(1000, 0)] })
  costs.length = 0
  await world.request(`prod machines: ${W}-* outage:0`, { preview: true })
  const [request] = costs
  t.match(request, { event: 'request' })
  t.ok((request?.rows ?? 0) > 1000 && (request?.rows ?? 0) < 1100, `${request?.rows} rows`)
  t.ok(
    costs.slice(1).every((cost) => cost.rows < 100),
    'and no step after it',
  )
})

const TABLES_SEEN: readonly TableName[] = ['machines', 'projects']
t.test('[CST-1] the counter counts', async (t) => {
  const world = await createWorld({ machines: [W1, W2] })
  let seen = 0
  const view = counted(world.driver().view, (more) => (seen += more))
  for (const table of TABLES_SEEN) t.ok([...view.all(table)].length >= 0)
  t.equal(seen, 2)
  view.get('machines', 'x')
  t.equal(seen, 3)
})
