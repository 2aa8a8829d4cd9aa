/**
 * The coordinator ends at each of its calls to ServiceNow, before and after the call is done, and begins again from its
 * disk: one change, one task for each bag, every note once, closed with the right code.
 */
import t, { type Test } from 'tap'
import { type Death, type SnowWorld, createSnowWorld } from './world.ts'

const MACHINES = ['prod-dal10-web-1', 'prod-dal11-web-1'] as const
const LINES = 'settle = 30\nretry_min = 1\nretry_max = 8'

/** The life of a change, whoever dies in it: each act goes on as soon as what it needs is there. */
async function live(world: SnowWorld, death: Death): Promise<string> {
  const { standIn } = world
  const look = async (what: string, isThere: () => boolean) => {
    for (let round = 0; round < 900 && !isThere(); round += 1) {
      if (death.isDead && world.fatal.length === 0 && !revived.has(death)) {
        revived.add(death)
        await world.restart()
        for (const name of MACHINES) await world.agent(name).connect()
      }
      await world.later(1000)
    }
    if (!isThere()) throw new Error(`in vain: ${what}`)
  }
  await world.request(`prod machines: ${MACHINES.join(' ')} outage:0`)
  const changes = () => standIn.records.all('change_request')
  await look('the change', () => changes()[0]?.['state'] === '-4')
  const number = changes()[0]?.['number'] ?? ''
  await look('its number', () => world.store().get('changes', number) !== undefined)
  standIn.records.approve(number)
  for (const name of MACHINES) {
    await look(`the grant of ${name}`, () => world.agent(name).grants().length > 0)
    if (name === MACHINES[0]) await world.agent(name).succeed()
    else await world.agent(name).fail({ message: 'the disk is full', evidence: ['dpkg: error: no space left'] })
  }
  await look('the failure', () => world.target(number, MACHINES[1]).state === 'failed')
  await world.skip(number, MACHINES[1], 'mended later')
  await look(
    'the close',
    () => standIn.records.byNumber(number)['state'] === '3' && world.driver().view.size('outbox') === 0,
  )
  // What may still be on its way has come.
  await world.later(60_000)
  return number
}
const revived = new WeakSet<Death>()

async function prove(t: Test, at: number, when: Death['when']): Promise<number> {
  const death: Death = { at, when, isDead: false }
  const world = await createSnowWorld({ machines: MACHINES, lines: LINES, death })
  const number = await live(world, death)
  const { records } = world.standIn
  const where = `ended ${when} call ${at}`
  t.equal(records.all('change_request').length, 1, `${where}: one change`)
  t.match(records.byNumber(number), { state: '3', close_code: 'successful_issues' }, `${where}: closed`)
  const tasks = records.tasksOf(records.byNumber(number))
  t.equal(tasks.length, 4, `${where}: one task for each bag and those of the flow`)
  t.ok(
    tasks.every((task) => task['state'] === '3' || task['state'] === '4'),
    `${where}: every task is closed`,
  )
  const notes = records.all('sys_journal_field').map((row) => row['value'])
  t.equal(new Set(notes).size, notes.length, `${where}: no note stands twice`)
  for (const said of [
    /web-1: succeeded/,
    /failed \(maintainer-script\): the disk is full[^]*> dpkg: error: no space left/,
    /skipped by ana: mended later/,
  ])
    t.equal(notes.filter((note) => said.test(note ?? '')).length, 1, `${where}: ${said}`)
  t.equal(records.all('sys_attachment').length, 1, `${where}: one attachment`)
  return world.standIn.calls.length
}

t.test('[SNW-2] no end of the coordinator at any call makes anything twice or forgets it', async (t) => {
  const calls = await prove(t, Number.POSITIVE_INFINITY, 'before')
  t.ok(calls > 30, `${calls} calls`)
  for (let at = 1; at <= calls; at += 1)
    for (const when of ['before', 'after', 'late'] as const) await prove(t, at, when)
})

t.test('[SNW-3] an answer that is lost, cut or late makes nothing twice', async (t) => {
  for (const fault of ['lost', 'cut', 'hang', 'late', 'html', { status: 503 }] as const) {
    const none: Death = { at: Number.POSITIVE_INFINITY, when: 'before', isDead: false }
    const world = await createSnowWorld({ machines: MACHINES, lines: LINES })
    const seen = new Set<string>()
    // The first of each kind of call.
    world.standIn.fault = ({ method, path }) => {
      const kind = `${method} ${path}`
      if (seen.has(kind)) return undefined
      seen.add(kind)
      return fault
    }
    const number = await live(world, none)
    const { records } = world.standIn
    const name = typeof fault === 'string' ? fault : `${fault.status}`
    t.equal(records.all('change_request').length, 1, `${name}: one change`)
    t.equal(records.tasksOf(records.byNumber(number)).length, 4, `${name}: one task for each bag`)
    const notes = records.all('sys_journal_field').map((row) => row['value'])
    t.equal(new Set(notes).size, notes.length, `${name}: no note stands twice`)
    t.equal(records.byNumber(number)['close_code'], 'successful_issues', name)
  }
})
