/** The acts of the journal over the interface: who did what, on what and why, and who was refused. */
import t from 'tap'
import type { Act, AuditVerdict } from '../../protocol/audit.ts'
import { PERSON_HEADER } from '../../protocol/http.ts'
import type { ReportView } from '../../protocol/report.ts'
import { type World, createWorld } from '../api/world.ts'

type Page = { readonly acts: readonly Act[]; readonly next: number | null }

async function audit(world: World, query = '', by = 'vi'): Promise<Page> {
  const answer = await world.ask('GET', `/api/v1/audit${query}`, { token: world.tokens[by] })
  if (answer.status !== 200) throw new Error(answer.text)
  return answer.body as Page
}

/** Oldest first, as a line each. */
const linesOf = ({ acts }: Page) =>
  acts
    .toReversed()
    .map(({ who, what, change, machine, about, reason }) =>
      [who, what, change, machine, about, reason].filter((word) => word !== null && word !== '').join(' | '),
    )

async function eventful(world: World): Promise<string> {
  await world.machine('web-1')
  const by = (person: string, method: string, path: string, body: unknown, via?: string) =>
    world.ask(method, `/api/v1${path}`, {
      token: world.tokens[via ?? person],
      body,
      ...(via === undefined ? {} : { headers: { [PERSON_HEADER]: person } }),
    })
  await by('ana', 'POST', '/requests', { text: 'prod machines: web-1 outage:0', preview: true })
  const change = await world.raise('prod machines: web-1 outage:0')
  const digest = await world.digest(change)
  await by('ana', 'POST', `/projects/${change}/pause`, { reason: 'wrong week' }, 'igorina')
  await by('vi', 'POST', `/projects/${change}/cancel`, {})
  await by('vi', 'POST', `/projects/${change}/cancel`, {})
  await by('vi', 'POST', '/requests', { text: 'prod machines: web-1 outage:0' })
  await by('bo', 'POST', `/projects/${change}/approve`, { digest, reason: 'seen' })
  await by('ana', 'POST', `/projects/${change}/resume`, {})
  await by('ana', 'POST', `/projects/${change}/cancel`, { reason: 'no more' })
  await by('cy', 'POST', '/enrolments', { names: ['web-2'] })
  await by('cy', 'POST', '/enrolments/revoke', { name: 'web-2' })
  await by('cy', 'POST', '/users', { name: 'eve', roles: ['viewer'] })
  await by('cy', 'POST', '/users/revoke', { name: 'eve' })
  await by('ana', 'POST', '/schedules', { name: 'nightly', cron: '0 3 * * *', text: 'prod machines: web-1 outage:0' })
  await by('ana', 'POST', '/schedules/remove', { name: 'nightly' })
  await by('bo', 'POST', '/freeze', { reason: 'fire' })
  await by('cy', 'POST', '/unfreeze', { reason: 'out' })
  return change
}

t.test('[AUD-6] each act stands there with who, what, on what and why, and so does who was refused', async (t) => {
  const world = await createWorld(t)
  const change = await eventful(world)
  const lines = linesOf(await audit(world))
  const from = lines.findIndex((line) => line.startsWith('ana | requestMade'))
  t.match(lines.slice(0, from).join('\n'), /userAdded \| ana \(requester\)[^]*machineEnrolled \| web-1/)
  t.same(
    lines.slice(from).filter((line) => !line.includes('orderGranted')),
    [
      'ana | requestMade | prod machines: web-1 outage:0',
      `change | changeRaised | ${change} | web-1 with build prod | asked for by ana`,
      `ana via igorina | paused | ${change} | wrong week`,
      'vi | rightRefused | cancel | cancel needs the role requester or approver or admin',
      'vi | rightRefused | request | vi may not ask for a patch',
      `bo | changeDecided | ${change} | approved | seen`,
      `change | stopSet | ${change} | hold | paused by ana: wrong week`,
      `change | changeApproved | ${change} | by bo`,
      `ana | resumed | ${change}`,
      `ana | cancelAsked | ${change} | no more`,
      'cy | enrolmentMade | web-2',
      'cy | enrolmentRevoked | web-2',
      'cy | userAdded | eve (viewer)',
      'cy | userRevoked | eve',
      'ana | scheduleMade | nightly: 0 3 * * * prod machines: web-1 outage:0',
      'ana | scheduleRemoved | nightly',
      'bo | frozen | fire',
      'cy | unfrozen | out',
    ],
    'a preview is no act, and the same refusal is recorded once a minute',
  )
})

t.test('[AUD-6] so do who asked for a health report, and who opened and ended a session in a browser', async (t) => {
  const view: ReportView = {
    ...{
      report: 'ab'.repeat(16),
      machine: 'web-1',
      state: 'waiting',
      by: 'ana',
      askedAt: 1,
      order: null,
      change: null,
    },
    ...{ parts: null, problem: null, summary: null, files: [] },
  }
  const reports = { ask: () => view, find: () => undefined, file: () => undefined }
  const world = await createWorld(t, { ports: () => ({ reports }) })
  await world.machine('web-1')
  await world.call('reportAsk', 'ana', { params: { machine: 'web-1' } })
  const origin = `https://127.0.0.1:${world.port}`
  const opened = await world.ask('POST', '/api/v1/session', {
    body: { token: world.tokens['vi'] },
    headers: { origin },
  })
  const cookie = opened.headers['set-cookie']?.[0]?.split(';')[0] ?? ''
  await world.ask('POST', '/api/v1/session', { body: { token: 'no token' }, headers: { origin } })
  await world.ask('POST', '/api/v1/session/end', { body: {}, headers: { origin, cookie } })
  t.same(linesOf(await audit(world)).slice(-3), [
    'ana | reportAsked | web-1',
    'vi | loggedIn | 127.0.0.1',
    'vi | loggedOut | 127.0.0.1',
  ])
})

t.test('[AUD-7] they are found by person, change, machine and time, page by page', async (t) => {
  const world = await createWorld(t)
  const change = await eventful(world)
  const all = (await audit(world)).acts
  const of = async (query: string) => (await audit(world, query)).acts
  t.same(
    await of('?person=bo'),
    all.filter(({ who, reason }) => who === 'bo' || reason === 'by bo'),
  )
  t.same(
    (await of('?person=igorina')).map(({ what }) => what),
    ['paused'],
    'what a bot did for somebody',
  )
  t.ok(
    (await of('?person=ana')).some(({ who }) => who === 'ana via igorina'),
    'is theirs too',
  )
  t.same(
    await of(`?change=${change}`),
    all.filter((act) => act.change === change),
  )
  t.ok((await of('?machine=web-2')).length === 2)
  const middle = all[4]?.at ?? 0
  t.same(
    await of(`?since=${middle}`),
    all.filter(({ at }) => at >= middle),
  )
  t.same(
    await of(`?until=${middle}`),
    all.filter(({ at }) => at <= middle),
  )
  const paged: Act[] = []
  let before: number | null = null
  do {
    const page: Page = await audit(world, `?limit=2${before === null ? '' : `&before=${before}`}`)
    paged.push(...page.acts)
    before = page.next
  } while (before !== null)
  t.same(paged, all)
  for (const query of ['?limit=0', '?since=yesterday', '?before=x', '?who=ana'])
    t.equal((await world.ask('GET', `/api/v1/audit${query}`, { token: world.tokens['vi'] })).status, 400, query)
})

t.test('[AUD-8] the chain is checked while the coordinator serves, and by who may', async (t) => {
  const world = await createWorld(t)
  await eventful(world)
  const path = '/api/v1/audit/verify'
  const ask = (query = '') => world.ask('GET', `${path}${query}`, { token: world.tokens['bo'] })
  const first = (await ask()).body as AuditVerdict
  t.match(first, { rows: world.store.rev(), known: null, problems: [] })
  t.equal(first.head.hash, world.store.head())
  await world.command({ type: 'freeze', reason: 'more' })
  const many = await Promise.all([ask(`?head=${first.head.hash}`), ask(), ask(`?head=${'0'.repeat(63)}1`)])
  t.match(many[0]?.body, { known: first.head.rev, problems: [], rows: first.rows + 1 })
  t.match(many[2]?.body, { known: null, problems: [{ text: /no row has the head/ }] })
  t.equal((await ask('?head=x')).status, 400)
  t.equal((await world.ask('GET', path, { token: world.tokens['vi'] })).status, 403)
})
