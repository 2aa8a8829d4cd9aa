/** The routes of recurring requests: who may, what is shown, and what became of each time. */
import t from 'tap'
import { createSite } from './site.ts'

const MACHINES = ['prod-dal10-carrier3-worker-1', 'prod-dal10-carrier3-worker-2']
const BODY = { name: 'nightly', cron: '* * * * *', text: `prod machines: ${MACHINES[0]} outage:0` }
const MINUTE = 60_000

t.test('[SCD-11] schedules are made, shown, run and removed by those who may, in their own name', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const [viewer, requester] = [await site.person('viewer'), await site.person('requester')]
  t.match(await site.ask('scheduleAdd', { token: viewer, body: BODY }), { status: 403 })
  const made = await site.call('scheduleAdd', { token: requester, body: BODY })
  t.match(made, { ...BODY, timezone: 'UTC', firings: [], next: Number })
  t.match(await site.ask('scheduleAdd', { token: requester, body: BODY }), { status: 409 })
  t.match(await site.ask('scheduleAdd', { token: requester, body: { ...BODY, name: '../x' } }), { status: 400 })
  await site.world.later(MINUTE + 1000)
  const { schedules } = await site.call('schedules', { token: viewer })
  t.match(schedules, [
    { ...BODY, firings: [{ outcome: 'raised', change: /^CHG[0-9]{7}$/, by: made.by, reasons: [], request: String }] },
  ])
  t.match(await site.ask('scheduleRun', { token: requester, body: { name: 'nightly' } }), { status: 409 }, 'still open')
  t.match(await site.ask('scheduleRun', { token: viewer, body: { name: 'nightly' } }), { status: 403 })
  t.match(await site.call('scheduleRemove', { token: requester, body: { name: 'nightly' } }), { done: true })
  t.match(await site.ask('scheduleRemove', { token: requester, body: { name: 'nightly' } }), { status: 404 })
  t.same((await site.call('schedules', { token: viewer })).schedules, [])
})

t.test('[SCD-11] what refused a request while its machines planned stands with its time', async (t) => {
  const site = await createSite({ machines: MACHINES })
  t.teardown(site.close)
  const token = await site.person('requester')
  site.world.agent(MACHINES[0] ?? '').plan = { kind: 'cannot-plan', message: 'its lists are broken', remedy: 'mend' }
  await site.call('scheduleAdd', { token, body: BODY })
  await site.world.later(MINUTE + 1000)
  const { schedules } = await site.call('schedules', { token })
  t.match(schedules[0]?.firings[0], {
    outcome: 'refused',
    change: null,
    reasons: [`${MACHINES[0]}: its lists are broken`],
  })
})
