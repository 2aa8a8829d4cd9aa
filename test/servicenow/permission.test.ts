/** Permission is asked anew for every grant, and any doubt denies: nothing is granted that ServiceNow does not permit then. */
import t from 'tap'
import type { Record_ } from './records.ts'
import type { Fault } from './stand-in.ts'
import { createSnowWorld, NAMES, type SnowWorld } from './world.ts'

const ASK = `prod machines: ${NAMES.join(' ')} outage:0`

/** The first machine is done and the second waits for whatever `spoil` did meanwhile. */
async function betweenTwo(spoil: (world: SnowWorld, number: string) => void, lines = '') {
  const world = await createSnowWorld({ lines })
  const number = await world.approved(ASK)
  await world.agent(NAMES[0]).steps('claim', 'update')
  spoil(world, number)
  await world.agent(NAMES[0]).succeed()
  await world.later(30_000)
  return { world, number, isGranted: () => world.agent(NAMES[1]).grants().length > 0 }
}

const SPOILT: readonly [string, (world: SnowWorld, number: string) => void, RegExp][] = [
  ['canceled', ({ standIn }, number) => standIn.records.edit(number, { state: '4' }), /held.*hold approval/],
  ['reverted to New', ({ standIn }, number) => standIn.records.revert(number), /hold approval/],
  [
    'rejected',
    ({ standIn }, number) => standIn.records.edit(number, { state: '-5', approval: 'rejected' }),
    /hold approval/,
  ],
  [
    'back in Assess',
    ({ standIn }, number) => standIn.records.edit(number, { state: '-4', approval: 'requested' }),
    /hold approval/,
  ],
  ['in Review', ({ standIn }, number) => standIn.records.edit(number, { state: '0' }), /hold approval/],
  ['closed by someone', ({ standIn }, number) => standIn.records.edit(number, { state: '3' }), /hold approval/],
  [
    'without its approval',
    ({ standIn }, number) => standIn.records.edit(number, { approval: 'not_required' }),
    /hold approval/,
  ],
  ['on hold', ({ standIn }, number) => standIn.records.hold(number, true), /waiting change-on-hold/],
  [
    'past its window',
    ({ standIn }, number) =>
      standIn.records.edit(number, { start_date: '2020-01-01 00:00:00', end_date: '2020-01-02 00:00:00' }),
    /window/,
  ],
  [
    'before its window',
    ({ standIn }, number) =>
      standIn.records.edit(number, { start_date: '2040-01-01 00:00:00', end_date: '2040-01-02 00:00:00' }),
    /waiting window/,
  ],
  [
    'without a window',
    ({ standIn }, number) => standIn.records.edit(number, { start_date: '' }),
    /waiting change-provider/,
  ],
  [
    'with its dates the wrong way round',
    ({ standIn }, number) => standIn.records.edit(number, { end_date: '2001-01-01 00:00:00' }),
    /waiting change-provider/,
  ],
  [
    'with a date that is none',
    ({ standIn }, number) => standIn.records.edit(number, { end_date: '31/12/2040 23:59' }),
    /waiting change-provider/,
  ],
  [
    'in a state that nobody knows',
    ({ standIn }, number) => standIn.records.edit(number, { state: '7' }),
    /waiting change-provider/,
  ],
  [
    'with another digest',
    ({ standIn }, number) => standIn.records.edit(number, { correlation_display: `digest ${'0'.repeat(64)}` }),
    /hold approval/,
  ],
  [
    'without a digest',
    ({ standIn }, number) => standIn.records.edit(number, { correlation_display: '' }),
    /hold approval/,
  ],
  [
    "with another's correlation id",
    ({ standIn }, number) => standIn.records.edit(number, { correlation_id: 'smith:other' }),
    /waiting change-provider/,
  ],
  [
    'without a word about hold',
    ({ standIn }, number) => standIn.records.edit(number, { on_hold: '' }),
    /waiting change-provider/,
  ],
  [
    'deleted',
    ({ standIn }, number) =>
      standIn.records.table('change_request').delete(standIn.records.byNumber(number)['sys_id'] ?? ''),
    /waiting change-provider/,
  ],
  [
    'another record',
    ({ standIn }, number) =>
      (standIn.wrongRecord = other(standIn.records.byNumber(number), { sys_id: 'b'.repeat(32) })),
    /waiting change-provider/,
  ],
  [
    'another number',
    ({ standIn }, number) => (standIn.wrongRecord = other(standIn.records.byNumber(number), { number: 'CHG0000001' })),
    /waiting change-provider/,
  ],
]
const other = (row: Record_, fields: Record_): Record_ => ({ ...row, ...fields })

t.test('[SNW-4] a change that does not plainly permit it at this moment permits no grant', async (t) => {
  for (const [what, spoil, brief] of SPOILT) {
    const { world, number, isGranted } = await betweenTwo(spoil)
    t.notOk(isGranted(), `${what}: nothing is granted`)
    t.match(world.brief(number), brief, what)
    t.match(
      world.brief(number),
      /web-1 succeeded, prod-dal10-web-2 (planned|offered)/,
      `${what}: the machine at work was left alone`,
    )
  }
})

t.test('[SNW-4] with nothing against it the next machine is granted', async (t) => {
  const { isGranted } = await betweenTwo(() => {})
  t.ok(isGranted())
})

const DOWN: readonly [string, Fault][] = [
  ['out of reach', 'cut'],
  ['silent', 'hang'],
  ['a web page at 200', 'html'],
  ['a login', { status: 302, headers: { location: '/login.do' } }],
  ['503', { status: 503 }],
  [
    '500 with a transaction that was cancelled',
    { status: 500, error: { message: 'Transaction cancelled: maximum execution time exceeded', detail: null } },
  ],
  ['429', { status: 429, headers: { 'retry-after': '5' }, error: { message: 'Rate limit exceeded', detail: null } }],
  [
    'a missing right',
    {
      status: 403,
      error: { message: 'Operation Failed', detail: 'ACL Exception Update Failed due to security constraints' },
    },
  ],
  [
    'a record that may not be seen',
    {
      status: 404,
      error: { message: 'No Record found', detail: "Record doesn't exist or ACL restricts the record retrieval" },
    },
  ],
]

t.test(
  '[SNW-5] ServiceNow in trouble stops no machine at work and every next grant, waits, is a hold in the end, and then goes on',
  async (t) => {
    for (const [what, fault] of DOWN) {
      const { world, number, isGranted } = await betweenTwo(({ standIn }) => (standIn.fault = () => fault))
      t.notOk(isGranted(), `${what}: nothing is granted`)
      t.match(world.brief(number), /waiting change-provider/, what)
      const { stop } = world.json(number)
      t.not(stop?.reason ?? '', '', `${what}: the stop has its reason`)
      t.not(stop?.lift ?? '', '', `${what}: the stop has what lifts it`)
      await world.later(700_000)
      t.match(world.brief(number), /held hold change-provider/, `${what}: it is a hold in the end`)
      world.standIn.fault = () => undefined
      await world.later(400_000)
      t.notOk(isGranted(), `${what}: a hold is lifted by a person`)
      await world.steer('resume', number)
      await world.later(20_000)
      t.ok(isGranted(), `${what}: and then it goes on`)
      await world.agent(NAMES[1]).succeed()
      await world.later(700_000)
      t.match(
        world.change(number),
        { state: '3', close_code: 'successful' },
        `${what}: nothing that waited was forgotten`,
      )
    }
  },
)

t.test('[SNW-6] what was denied is permitted again by ServiceNow alone: off hold, in the window', async (t) => {
  const { world, number, isGranted } = await betweenTwo(({ standIn }, chg) => standIn.records.hold(chg, true))
  t.notOk(isGranted())
  world.standIn.records.hold(number, false)
  await world.later(30_000)
  t.ok(isGranted())
  t.notOk(
    world.standIn.calls.some((call) => 'on_hold' in call.body),
    'smith never sets it',
  )
})

t.test('[SNW-7] a change that is rejected before anything ran ends its project, with who and why', async (t) => {
  const world = await createSnowWorld()
  const number = await world.ask(ASK)
  world.standIn.records.reject(number, 'not in the week of the release', 'linus')
  await world.later(20_000)
  t.match(world.brief(number), /^cancelled/)
  t.match(world.json(number).closeNotes, /not in the week of the release/)
  await world.later(5000)
  t.equal(world.change(number)['state'], '4')
})

t.test(
  '[SNW-7] a change waits until as many have approved as the site wants, and one reverted to New waits again',
  async (t) => {
    const world = await createSnowWorld()
    world.standIn.records.rules.approvals = 'all'
    const number = await world.ask(ASK)
    world.standIn.records.approve(number, 'grace')
    await world.later(20_000)
    t.match(world.brief(number), /^pending/)
    world.standIn.records.revert(number)
    await world.later(20_000)
    t.match(world.brief(number), /^pending/)
    t.match(world.servicenow().troubles(world.project(number).id).join(), /press "Request Approval" on CHG/)
    world.standIn.records.edit(number, { state: '-4', approval: 'requested' })
    world.standIn.records.approve(number, 'grace')
    world.standIn.records.approve(number, 'linus')
    await world.later(20_000)
    t.equal(world.agent(NAMES[0]).grants().length, 1)
  },
)

t.test(
  '[SNW-8] a model that leaves the approval column alone is believed only where the configuration says so',
  async (t) => {
    for (const lines of ['', 'approval_required = false']) {
      const world = await createSnowWorld({ lines })
      const number = await world.ask(ASK)
      world.standIn.records.edit(number, { state: '-2', approval: 'not requested' })
      await world.later(20_000)
      t.equal(world.agent(NAMES[0]).grants().length, lines === '' ? 0 : 1, lines)
    }
  },
)

t.test(
  '[SNW-9] a token that ended or was taken back is renewed once, and a secret that is wrong is said so',
  async (t) => {
    const { world, isGranted } = await betweenTwo(({ standIn }) => standIn.expireTokens())
    t.ok(isGranted())
    t.equal(world.standIn.tokensGiven, 2)
    await world.later(1_800_000)
    const given = world.standIn.tokensGiven
    t.ok(given >= 2)
    const wrong = await betweenTwo(({ standIn }) => {
      standIn.expireTokens()
      standIn.fault = () => ({
        status: 401,
        error: { message: 'User Not Authenticated', detail: 'Required to provide Auth information' },
      })
    })
    t.notOk(wrong.isGranted())
    t.match(wrong.world.json(wrong.number).stop?.reason, /does not accept smith's account \(401\)/)
  },
)

t.test('[SNW-10] a rate limit is obeyed by all that smith asks', async (t) => {
  const { world, isGranted } = await betweenTwo(({ standIn }) => {
    let isFirst = true
    standIn.fault = () => {
      const given: Fault = {
        status: 429,
        headers: { 'retry-after': '60' },
        error: { message: 'Rate limit exceeded', detail: 'Rate limit of 100 requests per hour' },
      }
      if (!isFirst) return undefined
      isFirst = false
      return given
    }
  })
  t.notOk(isGranted())
  const calls = world.standIn.calls.length
  await world.later(20_000)
  t.equal(world.standIn.calls.length, calls, 'nothing is asked meanwhile')
  await world.later(60_000)
  t.ok(isGranted())
})

t.test('[SNW-36] who asked can not be the only one who approves, unless the configuration says so', async (t) => {
  for (const requesterMayApprove of [false, true]) {
    const world = await createSnowWorld({ approval: { requesterMayApprove } })
    const { records } = world.standIn
    records.put('sys_user', { user_name: 'ana', name: 'Ana' })
    const number = await world.ask(ASK)
    records.approve(number, 'ana')
    await world.later(20_000)
    t.equal(world.agent(NAMES[0]).grants().length, requesterMayApprove ? 1 : 0)
    if (requesterMayApprove) continue
    const { id } = world.project(number)
    t.match(world.servicenow().troubles(id).join(), /ana asked for it and can't be the only one/)
    records.revert(number)
    records.edit(number, { state: '-4', approval: 'requested' })
    records.approve(number, 'grace')
    await world.later(20_000)
    t.equal(world.agent(NAMES[0]).grants().length, 1)
    t.equal(world.servicenow().troubles(id).join(), '')
  }
})

t.test('[SNW-60] who approved is known at each grant: an approval that may be their own permits nothing', async (t) => {
  const reapprove = ({ standIn }: SnowWorld, number: string) => {
    standIn.records.put('sys_user', { user_name: 'ana', name: 'Ana' })
    standIn.records.revert(number)
    standIn.records.edit(number, { state: '-4' })
    standIn.records.approve(number, 'ana')
  }
  const again = await betweenTwo(reapprove)
  t.notOk(again.isGranted(), 'reverted and approved by who asked, while a machine was at work')
  t.match(again.world.servicenow().troubles(again.world.project(again.number).id).join(), /ana asked for it/)
  for (const fault of ['cut', 'html', { status: 403 }, 'ignored', 'between'] as const) {
    const { world, isGranted, number } = await betweenTwo((snow, chg) => {
      reapprove(snow, chg)
      const isAboutApprovers = (path: string) => path.endsWith('/sysapproval_approver')
      if (fault !== 'ignored' && fault !== 'between')
        snow.standIn.fault = ({ path }) => (isAboutApprovers(path) ? fault : undefined)
      snow.standIn.onCall = ({ path }, when) => {
        if (fault === 'ignored') snow.standIn.ignoresQueries = isAboutApprovers(path) && when === 'before'
        if (fault === 'between' && isAboutApprovers(path) && when === 'before') snow.standIn.records.revert(chg)
      }
    })
    t.notOk(isGranted(), `${JSON.stringify(fault)}: nothing is granted`)
    t.match(world.brief(number), /waiting change-provider|hold approval/, JSON.stringify(fault))
  }
})

t.test('[SNW-60] who approved is asked for once as long as the change is not changed', async (t) => {
  const { world, isGranted } = await betweenTwo(() => {})
  t.ok(isGranted())
  const looks = () => world.standIn.calls.filter(({ path }) => path.endsWith('/sysapproval_approver')).length
  const before = looks()
  await world.agent(NAMES[1]).fail({ message: 'the disk is full' })
  await world.retry(world.standIn.records.all('change_request')[0]?.['number'] ?? '', NAMES[1])
  await world.later(20_000)
  t.equal(world.agent(NAMES[1]).grants().length, 2)
  t.equal(looks(), before)
})

t.test('[SNW-63] a change that was canceled is told as canceled, whatever its dates are', async (t) => {
  const { world, number, isGranted } = await betweenTwo(({ standIn }, chg) =>
    standIn.records.edit(chg, { state: '4', start_date: '', end_date: '' }),
  )
  t.notOk(isGranted())
  t.match(world.json(number).stop, { code: 'approval', kind: 'hold' })
})
