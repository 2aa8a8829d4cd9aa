/**
 * Who reaches what: every route by every kind of caller, the core as the one authority about commands, failures and
 * guesses bounded by address, tokens that hold no more. The matrix is made from ROUTES, so a new route is in it.
 */
import t from 'tap'
import type { Command } from '../../coordinator/domain/events.ts'
import { mayCommand } from '../../coordinator/domain/authority.ts'
import type { Actor } from '../../coordinator/domain/state.ts'
import { addressKey } from '../../coordinator/api/authentication.ts'
import { refuseCall } from '../../coordinator/api/roles.ts'
import { ROLES, ROUTES, type Role, type RouteName } from '../../protocol/http.ts'
import { SETTINGS } from '../coordinator/harness.ts'
import { createTime } from '../sim/time.ts'
import { kindsOf, refusedFeed } from './wire.ts'
import { advance, createWorld, factsOf, newPublicKey } from './world.ts'

const NAMES = Object.keys(ROUTES) as RouteName[]
const PEOPLE = ROLES.filter((role) => role !== 'bot')
const GARBAGE = `smithp_${'x'.repeat(43)}`

/** Bodies that a handler would take, so that only the caller decides what becomes of them. */
const BODIES: { readonly [Name in RouteName]?: unknown } = {
  requestMake: { text: 'prod machines: nothing outage:0', preview: true },
  approve: { digest: '0'.repeat(64) },
  retry: { machine: 'web-1' },
  skip: { machine: 'web-1', reason: 'x' },
  resolve: { machine: 'web-1', as: 'failed', reason: 'x' },
  enrolNew: { names: ['web-2'] },
  enrolRevoke: { name: 'web-3' },
  enrol: { token: 'none', publicKey: newPublicKey(), facts: factsOf() },
  sessionOpen: { token: GARBAGE },
  userAdd: { name: 'new', roles: ['viewer'] },
  userRevoke: { name: 'nobody' },
  scheduleAdd: { name: 'n', cron: '* * * * *', text: 'prod machines: none outage:0' },
  scheduleRemove: { name: 'none' },
  scheduleRun: { name: 'none' },
  backup: { path: '/nowhere/b', passphrase: 'long enough' },
}

t.test('[API-1] every route by every caller: only what ROUTES names is let through', async (t) => {
  const world = await createWorld(t, { limits: { authFailuresMax: 1_000_000 } })
  await world.person('old', PEOPLE, 1)
  await world.person('gone', PEOPLE)
  await world.command({ type: 'userRevoke', name: 'gone' })
  while (world.driver.now() <= (world.driver.view.get('users', 'old')?.expiresAt ?? 0))
    await new Promise((resolve) => setImmediate(resolve))
  const people: Record<string, readonly Role[]> = {
    vi: ['viewer'],
    ana: ['requester'],
    bo: ['approver'],
    cy: ['admin'],
    igorina: ['bot'],
  }
  for (const name of NAMES) {
    const { roles } = ROUTES[name]
    const given = { body: BODIES[name] }
    for (const bad of [
      undefined,
      '',
      GARBAGE,
      'smithp_',
      'x'.repeat(4000),
      world.tokens['old'],
      world.tokens['gone'],
    ]) {
      const path = ROUTES[name].path.replace(/:[a-z]+/g, 'none')
      const answer = await world.ask(ROUTES[name].method, path, {
        token: bad,
        ...(ROUTES[name].body === null ? {} : { body: BODIES[name] ?? {} }),
      })
      // For enrolment the token in the body is the one that counts; that of the test is none.
      t.equal(answer.status, 401, `${name} with ${bad?.slice(0, 10) ?? 'nothing'}`)
      t.same(kindsOf(answer), ['unauthenticated'])
      t.equal(answer.headers['www-authenticate'], 'Bearer realm="smith"')
    }
    for (const [person, held] of Object.entries(people)) {
      const may =
        roles === 'none' || (roles !== 'socket' && (roles as readonly Role[]).some((role) => held.includes(role)))
      const answer = await world.call(name, person, given)
      const isDenied =
        answer.status === 403 &&
        kindsOf(answer).includes('not-allowed') &&
        /needs the role|only answered on/.test(answer.text)
      t.equal(isDenied, !may, `${name} by ${held.join()}: ${answer.status}`)
    }
    const local = await world.call(
      name,
      'socket',
      name === 'userAdd' ? { body: { name: 'newer', roles: ['viewer'] } } : given,
    )
    const isDenied = local.status === 403 && /needs the role|only answered on/.test(local.text)
    t.notOk(isDenied, `${name} on the admin socket`)
  }
})

t.test('[API-1] the feed opens to every role and to nobody else; a token counts on the admin socket too', async (t) => {
  const world = await createWorld(t)
  for (const bad of [null, GARBAGE]) t.equal((await refusedFeed(world, bad, '')).status, 401)
  const asVi = await world.ask('POST', '/api/v1/users', {
    socket: true,
    token: world.tokens['vi'],
    body: { name: 'x', roles: ['admin'] },
  })
  t.equal(asVi.status, 403, 'who shows a token is that person')
  t.equal((await world.ask('GET', '/api/v1/who', { socket: true, token: GARBAGE })).status, 401)
  t.match((await world.call('who', 'socket')).body, { name: 'local-admin', roles: [] })
})

t.test('[API-1] a caller is refused before its body is read', async (t) => {
  const world = await createWorld(t)
  const huge = 'x'.repeat(200_000)
  t.equal((await world.ask('POST', '/api/v1/users', { raw: huge })).status, 401)
  t.equal((await world.ask('POST', '/api/v1/users', { raw: '{', token: world.tokens['vi'] })).status, 403)
  t.equal((await world.ask('POST', '/api/v1/users', { raw: huge, token: world.tokens['cy'] })).status, 413)
})

const COMMANDS: { readonly [Name in RouteName]?: Command } = {
  requestMake: { type: 'request', text: 'x', preview: false, key: null },
  approve: { type: 'decide', change: 'x', decision: 'approve', digest: null, reason: '' },
  reject: { type: 'decide', change: 'x', decision: 'reject', digest: null, reason: '' },
  pause: { type: 'pause', change: 'x', reason: '' },
  resume: { type: 'resume', change: 'x', reason: '' },
  cancel: { type: 'cancel', change: 'x', reason: '' },
  retry: { type: 'retry', change: 'x', machine: 'm', reason: '' },
  skip: { type: 'skip', change: 'x', machine: 'm', reason: '' },
  resolve: { type: 'resolve', change: 'x', machine: 'm', as: 'failed', reason: '' },
  freeze: { type: 'freeze', reason: '' },
  unfreeze: { type: 'unfreeze', reason: '' },
  enrolNew: { type: 'enrolNew', name: 'm', tokenHash: '', ttlMs: 1, replace: false },
  enrolRevoke: { type: 'enrolRevoke', name: 'm' },
  userAdd: { type: 'userAdd', name: 'u', roles: [], tokenHash: '', ttlMs: null },
  userRevoke: { type: 'userRevoke', name: 'u' },
  scheduleAdd: { type: 'scheduleAdd', name: 'n', cron: '', text: '' },
  scheduleRemove: { type: 'scheduleRemove', name: 'n' },
  scheduleRun: { type: 'scheduleRun', name: 'n' },
}

/** They change something and are not for the core to decide. */
const NO_COMMANDS: readonly RouteName[] = ['enrol', 'backup', 'reportAsk', 'sessionOpen', 'sessionEnd']

t.test('[API-2] every command by every set of roles: the interface lets through just what the core allows', (t) => {
  const sets = Array.from({ length: 2 ** ROLES.length }, (_, bits) =>
    ROLES.filter((_role, index) => (bits & (1 << index)) !== 0),
  )
  for (const name of NAMES) {
    if (ROUTES[name].method === 'POST') t.ok(name in COMMANDS || NO_COMMANDS.includes(name), `${name} is in this test`)
  }
  for (const [name, command] of Object.entries(COMMANDS) as [RouteName, Command][]) {
    for (const roles of sets) {
      const actor: Actor = { kind: 'person', name: 'p', roles }
      // A preview is open to all who may look, so the route is; whether it is one only the core knows.
      const asked = name === 'requestMake' ? ({ ...command, preview: true } as Command) : command
      const core = roles.length === 0 || mayCommand(actor, asked, SETTINGS) !== null
      t.equal(refuseCall(actor, name) !== null, core, `${name} by ${roles.join() || 'nobody'}`)
    }
    t.equal(refuseCall({ kind: 'local-admin' }, name), null, `${name} on the admin socket is the core's to decide`)
    t.not(refuseCall(null, name), null)
    for (const kind of ['smith', 'change'] as const)
      t.not(refuseCall({ kind }, name), null, 'only people and the admin socket call')
  }
  t.end()
})

t.test(
  '[API-2] the admin socket looks, stops and keeps house; it starts nothing unless the configuration says so',
  async (t) => {
    const strict = await createWorld(t)
    await strict.machine('web-1')
    const text = 'prod machines: web-1 outage:0'
    const preview = await strict.call('requestMake', 'socket', { body: { text, preview: true } })
    t.equal(preview.status, 202, 'a preview starts nothing')
    t.equal((await strict.call('requestMake', 'vi', { body: { text, preview: true } })).status, 202)
    t.equal((await strict.call('requestMake', 'vi', { body: { text } })).status, 403)
    t.same(kindsOf(await strict.call('requestMake', 'socket', { body: { text } })), ['not-allowed'])
    const change = await strict.raise(text)
    const params = { change }
    const digest = await strict.digest(change)
    t.equal((await strict.call('approve', 'socket', { params, body: { digest } })).status, 403)
    t.equal((await strict.call('pause', 'bo', { params })).status, 200, 'an approver may stop')
    t.equal((await strict.call('resume', 'bo', { params })).status, 403)
    t.equal((await strict.call('resume', 'socket', { params })).status, 403)
    t.equal((await strict.call('pause', 'socket', { params })).status, 200)
    t.equal((await strict.call('cancel', 'bo', { params })).status, 200)
    t.equal((await strict.call('freeze', 'bo')).status, 200)
    t.equal((await strict.call('unfreeze', 'bo')).status, 403)
    t.equal((await strict.call('unfreeze', 'socket')).status, 200)
    const lab = await createWorld(t, {
      settings: { approval: { requesterMayApprove: true, localAdminMayApprove: true } },
    })
    await lab.machine('web-1')
    const all = await lab.raise(text, 'socket')
    t.equal(
      (await lab.call('approve', 'socket', { params: { change: all }, body: { digest: await lab.digest(all) } }))
        .status,
      200,
    )
  },
)

t.test(
  '[API-3] the sixth failure of an address in a minute is answered 429; a valid token of the same address is let in',
  async (t) => {
    const time = createTime(1_700_000_000_000)
    const clock = { wallNow: time.now, monotonicNow: time.now, after: time.after }
    const world = await createWorld(t, { clock })
    for (let count = 0; count < 5; count += 1) t.equal((await world.call('who', GARBAGE)).status, 401)
    for (const call of [() => world.call('who', GARBAGE), () => refusedFeed(world, GARBAGE, '')]) {
      const limited = await call()
      t.equal(limited.status, 429)
      t.equal(limited.headers['retry-after'], '60')
      t.same(kindsOf(limited), ['too-many'])
    }
    t.equal((await world.call('who', 'vi')).status, 200, 'who is let in has nothing to do with it')
    t.equal((await world.ask('GET', '/api/v1/who')).status, 401, 'to show nothing is no guess')
    advance(time, 60_000)
    t.equal((await world.call('who', GARBAGE)).status, 401, 'a minute later it begins anew')
  },
)

t.test('[API-3] guessed enrolment tokens are failures too; a real one is taken all the same', async (t) => {
  const world = await createWorld(t)
  const made = await world.call('enrolNew', 'cy', { body: { names: ['web-1'] } })
  const body = (token: string) => ({ token, publicKey: newPublicKey(), facts: factsOf() })
  const statuses: number[] = []
  for (let count = 0; count < 7; count += 1)
    statuses.push((await world.ask('POST', '/api/v1/enrol', { body: body(`smith1.guess-${count}`) })).status)
  t.same(statuses, [401, 401, 401, 401, 401, 429, 429])
  t.equal((await world.call('who', GARBAGE)).status, 429, 'both count together')
  t.equal((await world.ask('POST', '/api/v1/enrol', { body: body(made.body.tokens[0].token) })).status, 200)
})

t.test('[API-3] an address is IPv4 however it is written, or the /64 of IPv6', (t) => {
  t.equal(addressKey('::ffff:10.0.0.1'), '10.0.0.1')
  t.equal(addressKey('2001:db8:1:2:3:4:5:6'), addressKey('2001:db8:1:2::9'))
  t.not(addressKey('2001:db8:1:2::9'), addressKey('2001:db8:1:3::9'))
  t.equal(addressKey('::1'), '0:0:0:0')
  t.end()
})

t.test('[API-4] a token ends with its time, and does not come back with a wall clock that is set back', async (t) => {
  const time = createTime(1_700_000_000_000)
  let wallOffset = 0
  const clock = { wallNow: () => time.now() + wallOffset, monotonicNow: time.now, after: time.after }
  const world = await createWorld(t, { clock })
  await world.person('eve', ['viewer'], 1000)
  t.equal((await world.call('who', 'eve')).status, 200)
  advance(time, 1001)
  t.equal((await world.call('who', 'eve')).status, 401)
  wallOffset = -3_600_000
  t.equal((await world.call('who', 'eve')).status, 401)
})

t.test('[API-4] a revoked token is none at once, and the one that replaces it is another', async (t) => {
  const world = await createWorld(t)
  const first = world.tokens['vi'] ?? ''
  t.equal((await world.call('userRevoke', 'cy', { body: { name: 'vi' } })).status, 200)
  t.equal((await world.call('who', first)).status, 401)
  const made = await world.call('userAdd', 'cy', { body: { name: 'vi', roles: ['viewer'] } })
  t.equal((await world.call('who', made.body.token)).status, 200)
  t.equal((await world.call('who', first)).status, 401)
})
