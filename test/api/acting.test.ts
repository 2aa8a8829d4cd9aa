/** A bot's token: it looks at everything, commands nothing itself, and acts for a person with that person's roles only. */
import t from 'tap'
import { BOT_ROUTES, PERSON_HEADER, ROUTES, type Role, type RouteName } from '../../protocol/http.ts'
import { kindsOf } from './wire.ts'
import { PEOPLE, createWorld } from './world.ts'

const people: Readonly<Record<string, readonly Role[]>> = { ...PEOPLE, marvin: ['bot'] }

t.test('[BOT-1] a bot acts for a person with the roles that this person has now, and both are recorded', async (t) => {
  const world = await createWorld(t, { people })
  await world.machine('web-1')
  const ask = (method: string, path: string, person: string, body?: unknown) =>
    world.ask(method, path, { token: world.tokens['igorina'], headers: { [PERSON_HEADER]: person }, body })
  const request = (person: string) =>
    ask('POST', ROUTES.requestMake.path, person, { text: 'prod machines: web-1 outage:0' })
  t.equal((await request('vi')).status, 403, 'a viewer may not ask, whoever speaks for her')
  const made = await request('ana')
  t.equal(made.status, 202)
  t.equal(made.body.by, 'ana', 'the request is hers')
  t.equal(world.store.journal({ since: world.store.rev() - 1, limit: 1 }).length, 1)
  const actors = world.store.journal({ since: 0, limit: 1000 }).map((row) => row.actor)
  t.ok(actors.includes('ana via igorina'), 'the journal names both')
  const who = await ask('GET', ROUTES.who.path, 'bo')
  t.same([who.body.name, who.body.roles], ['bo', ['approver']])
  await world.command({ type: 'userRevoke', name: 'ana' })
  t.equal((await request('ana')).status, 403, 'who was revoked has no rights through a bot either')
})

t.test('[BOT-1] an approval through a bot is still not by the person who asked', async (t) => {
  const world = await createWorld(t, { people: { ...people, duo: ['requester', 'approver'] } })
  await world.machine('web-1')
  const change = await world.raise('prod machines: web-1 outage:0', 'duo')
  const digest = await world.digest(change)
  const approve = (person: string) =>
    world.ask('POST', `/api/v1/projects/${change}/approve`, {
      token: world.tokens['igorina'],
      headers: { [PERSON_HEADER]: person },
      body: { digest },
    })
  t.equal((await approve('duo')).status, 403)
  t.equal((await approve('bo')).status, 200)
})

t.test('[BOT-2] only a bot acts for others, for people only, and only what is asked in chat', async (t) => {
  const world = await createWorld(t, { people })
  const path = ROUTES.who.path
  const as = (by: string, person: string, route: string = path, method = 'GET', body?: unknown) =>
    world.ask(method, route, { token: world.tokens[by], headers: { [PERSON_HEADER]: person }, body })
  t.equal((await as('cy', 'ana')).status, 403, 'an admin is no bot')
  for (const nobody of ['nobody', '', 'marvin', 'igorina', 'ana, bo', 'constructor'])
    t.same(kindsOf(await as('igorina', nobody)), ['not-allowed'], `not for ${nobody}`)
  t.equal((await world.ask('GET', path, { socket: true, headers: { [PERSON_HEADER]: 'ana' } })).status, 403)
  for (const name of Object.keys(ROUTES) as RouteName[]) {
    const route = ROUTES[name]
    if (BOT_ROUTES.has(name) || route.roles === 'none') continue
    const answer = await as(
      'igorina',
      'cy',
      route.path.replace(/:[a-z]+/g, 'none'),
      route.method,
      route.body ? {} : undefined,
    )
    t.equal(answer.status, 403, `${name} is not done through a bot`)
  }
  t.equal((await world.call('machines', 'igorina')).status, 200, 'by itself it looks')
  t.equal((await world.call('freeze', 'igorina')).status, 403, 'and commands nothing')
  t.equal((await world.call('requestMake', 'igorina', { body: { text: 'prod machines: x outage:0' } })).status, 403)
  const roles = ['bot', 'approver']
  t.equal((await world.call('userAdd', 'cy', { body: { name: 'both', roles } })).status, 400, 'a bot is nothing else')
})
