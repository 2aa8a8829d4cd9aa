/** What stops a project and what a person types then: docs/OPERATIONS.md, as it stands there, on a real coordinator. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { CHECKOUT } from '../demo/process.ts'
import { planOf } from '../coordinator/harness.ts'
import { until } from '../site/harness.ts'
import { type Instance, startInstance } from './instance.ts'
import { PAGES } from './pages.ts'
import { openRunbook } from './runbook.ts'

const book = openRunbook(PAGES.projects)
const MINUTE = 60_000
const ASK = 'prod machines: web-1 web-2 outage:0'
const BECAUSE = 'because of the test'

/** Two machines, and a project of both at the first of them. */
async function begun(t: Parameters<typeof startInstance>[0], words = '') {
  const site = await startInstance(t)
  const [one, two] = [await site.machine('web-1'), await site.machine('web-2')]
  const change = await site.begin(`${ASK} ${words}`)
  await site.granted(one)
  return { site, one, two, change, values: { CHG0000007: change, CHG: change } }
}

const states = async (site: Instance, change: string) => [
  await site.stateOf(change, 'web-1'),
  await site.stateOf(change, 'web-2'),
]

t.test('[OPS-2] the first page: the status names the stop and what lifts it, and stopping is cheap', async (t) => {
  const { site, one, two, change, values } = await begun(t)
  const page = book.page(t, 'Operations', site)
  await site.offline(two)
  await one.succeed()
  page.sees('Waiting:', await site.shows(change, /Waiting:/))
  await page.type('smith pause CHG0000007 --reason R', { values })
  const shown = await page.type('smith status CHG', { values })
  page.sees('Held:', shown.out)
  page.sees('Lift:', shown.out)
  t.match(shown.out, `Held: paused by ana: ${BECAUSE}`)
  t.match(shown.out, `Lift: smith resume ${change}`)
  await page.type('smith freeze --reason R')
  t.match(await site.shows(change, /frozen/), `Held: the instance is frozen by ana: ${BECAUSE}`)
  await page.type('smith cancel CHG0000007 --reason R', { values })
  t.equal((await site.status(change)).state, 'cancelled')
  t.equal(two.grants.length, 0)
})

t.test('[OPS-2] phases: a soak is ended or paused by a person', async (t) => {
  const { site, one, two, change, values } = await begun(t, 'phases:1,100% soak:30')
  const page = book.page(t, 'How a project goes: phases, failures, windows', site)
  await one.succeed()
  page.sees(
    'Waiting: phase 0 soaks for 30 minutes; phase 1 opens at ...',
    await site.shows(change, /Waiting: phase 0 soaks/),
  )
  await page.type('smith pause CHG0000007 --reason R', { values })
  await site.shows(change, /Held: paused by ana/)
  await page.type('smith resume CHG0000007', { values })
  await site.shows(change, /Waiting: phase 0 soaks/)
  await page.type('smith resume CHG0000007', { values })
  await site.granted(two)
})

t.test('[OPS-2] phases: every word of the table is one that a request takes', async (t) => {
  const site = await startInstance(t, { machines: ['web-1', 'web-2'] })
  const page = book.page(t, 'How a project goes: phases, failures, windows', site)
  const help = await page.type('smith patch --help')
  const text = readFileSync(`${CHECKOUT}docs/OPERATIONS.md`, 'utf8')
  const [table = ''] = /^\| word \|[^]*?\n\n/m.exec(text) ?? []
  const words = table
    .split('\n')
    .flatMap((row) =>
      [...(/^\| (`.*?`) \|/.exec(row)?.[1] ?? '').matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? ''),
    )
  t.equal(words.length, 7, 'they are found')
  const tomorrow = new Date(site.driver.now() + 1440 * MINUTE).toISOString().slice(0, 10)
  for (const word of words) {
    t.match(help.out, word.split(':')[0] ?? '', word)
    const asked = `${ASK} ${word.replace('2026-11-24', tomorrow)}${word.startsWith('soak') ? ' phases:1,100%' : ''}`
    const { request } = await site.ask<{ request: string }>('POST', '/requests', { text: asked, preview: true }, 'ana')
    const view = await site.ask<{ refusals: unknown }>('GET', `/requests/${request}?wait=30`, undefined, 'ana')
    t.same(view.refusals, [], word)
  }
})

t.test('[OPS-2] windows: shut it waits, opened it plans again, and ended it can only be given up', async (t) => {
  const site = await startInstance(t)
  const page = book.page(t, 'How a project goes: phases, failures, windows', site)
  const one = await site.machine('web-1')
  const two = await site.machine('web-2')
  const minute = (count: number) => `${new Date(site.driver.now() + count * MINUTE).toISOString().slice(0, 16)}Z`
  const later = await site.begin(`prod machines: web-1 outage:0 window:${minute(60)}/${minute(120)}`)
  const over = await site.begin(`prod machines: web-2 outage:0 window:${minute(5)}/${minute(30)}`)
  const waiting = await site.shows(later, /Waiting: the window/)
  page.sees('Waiting: the window ... opens at ...', waiting)
  t.equal(one.grants.length, 0)
  await site.move(61 * MINUTE)
  await site.granted(one)
  const held = await site.shows(over, /Held: the window/)
  page.sees('Held: the window of the request ended at ...', held)
  t.match(held, `Lift: smith cancel ${over}`)
  await page.type('smith cancel CHG0000007', { values: { CHG0000007: over } })
  t.equal((await site.status(over)).state, 'cancelled')
  t.equal(two.grants.length, 0)
})

t.test('[OPS-2] trains: an approval by policy is signed as that, and taken back', async (t) => {
  const text = readFileSync(`${CHECKOUT}docs/OPERATIONS.md`, 'utf8')
  const [, lines = ''] = /```toml\n(\[\[trains\]\][^]*?)```/.exec(text) ?? []
  const site = await startInstance(t, { lines })
  const page = book.page(t, 'Trains: who may ask, who approves, and when', site)
  const one = await site.machine('dev-web-1')
  await site.machine('dev-web-2')
  const change = await site.raise('prod machines: dev-web-* outage:0')
  await site.granted(one)
  const audit = await site.ask<{ acts: { what: string; who: string }[] }>('GET', '/audit?limit=100')
  t.match(JSON.stringify(audit.acts), /the policy of train dev/)
  await page.type('smith reject CHG0000007', { by: 'bo', values: { CHG0000007: change } })
  await one.succeed()
  await site.shows(change, /Held:/)
})

t.test('[OPS-2] recurring requests: made, listed, run now, and skipped while the last is open', async (t) => {
  const site = await startInstance(t, { machines: ['dev-1'] })
  const page = book.page(t, 'Recurring requests', site)
  const list = () => page.type('smith schedule list')
  await page.type(
    "smith schedule add nightly-dev --cron '0 22 * * 1-5' 'prod machines: dev-* outage:15 busy:skip offline:skip'",
  )
  t.match((await list()).out, /nightly-dev +0 22 \* \* 1-5 +.*\(cron in UTC\) +ana/)
  await page.type('smith schedule run nightly-dev')
  await until('it is raised', () => site.driver.view.size('changes') === 1)
  t.match((await list()).out, /raised CHG\d{7}/)
  const { stderr } = { stderr: (await page.type('smith schedule run nightly-dev', { status: 1 })).err }
  t.match(stderr, /still open/)
})

t.test('[OPS-2] a cluster in use by another project says whose, and what frees it', async (t) => {
  const cluster = 'prod-dal10-carrier3'
  const site = await startInstance(t)
  const page = book.page(t, 'A project waits for another', site)
  const one = await site.machine('web-1', { cluster })
  const two = await site.machine('web-2', { cluster })
  const first = await site.begin('prod machines: web-1 outage:0')
  await site.granted(one)
  await one.records({ type: 'step', step: 'claim' }, { type: 'step', step: 'install' })
  const change = await site.begin('prod machines: web-2 outage:0')
  const shown = await site.shows(change, /Waiting: .*install for/)
  page.sees(
    'Waiting: prod-dal10-carrier3 is in use by CHG0000006 for ana with web-1 since ..., install for 3m 12s',
    shown,
    { CHG0000006: first, '3m 12s': '...' },
  )
  page.sees('Lift:', shown)
  t.match(shown, `Lift: wait; smith status ${first}`)
  const asked = await page.type('smith status CHG0000007 --json', { values: { CHG0000007: change } })
  t.match(JSON.parse(asked.out), { holder: { change: first, machine: 'web-1', requester: 'ana', step: 'install' } })
  const facts: string[] = []
  site.driver.onRow((row) => facts.push(...row.facts.map((fact) => fact.fact)))
  await one.succeed()
  await site.granted(two)
  t.ok(facts.includes('lineFreed') && facts.includes('lineTaken'))
})

t.test('[OPS-2] drift: put back and tried again, left out, or given up', async (t) => {
  for (const choice of ['retry', 'skip', 'cancel'] as const) {
    const site = await startInstance(t)
    const page = book.page(t, 'The plan drifted', site)
    const [one, two] = [await site.machine('web-1'), await site.machine('web-2')]
    const change = await site.raise(ASK)
    const values = { CHG0000007: change }
    two.plan = planOf('3.0')
    const { digest } = await site.status(change)
    await site.ask('POST', `/projects/${change}/approve`, { digest }, 'bo')
    const shown = await site.shows(change, /Held:/)
    page.sees('Held: ...', shown)
    t.match(shown, /Held: web-2 failed: plan-drift: the plan is no longer the approved one: .*hello.*3\.0/)
    t.equal(one.grants.length + two.grants.length, 0)
    if (choice === 'retry') {
      two.plan = planOf('2.0')
      await page.type('smith retry CHG0000007 web-2', { values })
    } else if (choice === 'skip') await page.type('smith skip CHG0000007 web-2 --reason R', { values })
    else await page.type('smith cancel CHG0000007', { values })
    if (choice !== 'cancel') {
      await site.granted(one)
      await one.succeed()
    }
    if (choice === 'retry') {
      await site.granted(two)
      await two.succeed()
    }
    const ends = { retry: 'complete', skip: 'complete', cancel: 'cancelled' } as const
    await until(`after ${choice}`, async () => (await site.status(change)).state === ends[choice])
  }
})

t.test(
  '[OPS-2] a machine that is offline before its turn is waited for, then held, brought back or skipped',
  async (t) => {
    for (const choice of ['resume', 'skip'] as const) {
      const { site, one, two, change, values } = await begun(t)
      const page = book.page(t, 'A machine is offline before its turn', site)
      await site.offline(two)
      await one.succeed()
      const waiting = await site.shows(change, /Waiting:/)
      page.sees('Waiting: ...', waiting)
      t.match(waiting, /Waiting: web-2 has no live agent/)
      await site.move(11 * MINUTE)
      const held = await site.shows(change, /Held:/)
      page.sees('Held: ...', held)
      t.match(held, /Held: web-2 has no live agent/)
      if (choice === 'skip') await page.type('smith skip CHG0000007 web-2 --reason R', { values })
      else {
        await site.online(two)
        t.equal(two.grants.length, 0, 'a hold is lifted by a person only')
        await page.type('smith resume CHG0000007', { values })
        await site.granted(two)
        await two.succeed()
      }
      await until('it is complete', async () => (await site.status(change)).state === 'complete')
      t.same(await states(site, change), ['succeeded', choice === 'skip' ? 'skipped' : 'succeeded'])
    }
  },
)

t.test('[OPS-2] a freeze stops the whole instance, and what was held before is held after it', async (t) => {
  const { site, one, two, change, values } = await begun(t)
  const page = book.page(t, 'Everything must stop', site)
  const db = await site.machine('db-1')
  await site.machine('db-2')
  const paused = await site.begin('prod machines: db-1 db-2 outage:0')
  await site.granted(db)
  await site.ask('POST', `/projects/${paused}/pause`, { reason: 'before' }, 'ana')
  await db.succeed()
  await page.type('smith freeze --reason R', { values })
  await one.succeed()
  await site.shows(change, /Held: the instance is frozen/)
  t.match(
    (await page.type('smith status')).out,
    new RegExp(`^Frozen by ana for .*: ${BECAUSE}\nLift: smith unfreeze\n`),
  )
  t.equal(two.grants.length, 0)
  t.match((await page.type('smith unfreeze', { status: 1 })).err, /needs the role admin/)
  await page.type('smith unfreeze', { by: 'cy' })
  await site.granted(two)
  t.match(await site.text(paused), /Held: paused by ana: before/)
})

t.test('[OPS-3] nothing that these sections say is untried', (t) => {
  t.same(book.left(), [])
  t.end()
})
