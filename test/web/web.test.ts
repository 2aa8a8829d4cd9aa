/**
 * The dashboard without a browser: its session and who may use it, its files and their policy, what it asks the
 * interface for, and the pure parts that decide what is shown.
 */
import { Agent } from 'node:https'
import fc from 'fast-check'
import t from 'tap'
import { WebSocket } from 'ws'
import { createApi } from '../../coordinator/api/api.ts'
import { openDashboardFiles } from '../../coordinator/dashboard-files.ts'
import { harmless, highlighted, piecesOf } from '../../coordinator/web/ansi.ts'
import { estimateOf } from '../../coordinator/web/estimate.ts'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import type { MachineStatus } from '../../protocol/status.ts'
import { exchange, kindsOf, refusedFeed } from '../api/wire.ts'
import { type World, advance, createWorld, random } from '../api/world.ts'
import { createTime } from '../sim/time.ts'
import { appendLines } from './lines.ts'

const OWN = (world: World) => ({ origin: `https://127.0.0.1:${world.port}` })
const HOUR = 3_600_000

/** Logs in; the answer is the cookie as a browser would send it. */
async function enter(world: World, person: string): Promise<string> {
  const answer = await world.ask('POST', '/api/v1/session', {
    body: { token: world.tokens[person] },
    headers: OWN(world),
  })
  if (answer.status !== 200) throw new Error(answer.text)
  return (answer.headers['set-cookie']?.[0] ?? '').split(';')[0] ?? ''
}

const whoIs = (world: World, cookie: string) => world.ask('GET', '/api/v1/who', { headers: { cookie } })

t.test('[DSH-1] a session is a cookie that no script reads, kept as a hash, and ends with its time', async (t) => {
  const time = createTime(1_700_000_000_000)
  const clock = { wallNow: time.now, monotonicNow: time.now, after: time.after }
  const world = await createWorld(t, { clock, limits: { sessionMsMax: HOUR } })
  const opened = await world.ask('POST', '/api/v1/session', { body: { token: world.tokens['vi'] } })
  t.match(opened.body, { name: 'vi', roles: ['viewer'] })
  const [cookie = ''] = opened.headers['set-cookie'] ?? []
  const [pair = '', ...attributes] = cookie.split('; ')
  t.match(pair, /^__Host-smith-[a-z0-9-]+=[A-Za-z0-9_-]{43}$/)
  t.same(attributes.toSorted(), ['HttpOnly', 'Max-Age=3600', 'Path=/', 'SameSite=Strict', 'Secure'])
  const kept = JSON.stringify(world.store.ledger.list('web-session/'))
  t.notMatch(kept, pair.split('=')[1] ?? 'x', 'only its hash is kept')
  t.match((await whoIs(world, pair)).body, { name: 'vi' })
  t.match((await whoIs(world, `other=1; ${pair}; more=2`)).body, { name: 'vi' })
  const name = pair.split('=')[0] ?? ''
  for (const bad of ['', `${name}=`, `${name}=${'A'.repeat(43)}`, `x${pair}`])
    t.equal((await whoIs(world, bad)).status, 401, bad)
  advance(time, HOUR - 1000)
  t.equal((await whoIs(world, pair)).status, 200)
  advance(time, 1000)
  t.equal((await whoIs(world, pair)).status, 401, 'its time is over')
})

t.test('[DSH-1] a session ends at the logout, and with its token, and so does the feed that it follows', async (t) => {
  const world = await createWorld(t)
  const cookie = await enter(world, 'ana')
  const headers = { cookie, ...OWN(world) }
  const other = await enter(world, 'ana')
  const ended = await world.ask('POST', '/api/v1/session/end', { headers, body: {} })
  t.equal(ended.status, 200)
  t.match(ended.headers['set-cookie']?.[0], /^__Host-smith-[a-z0-9-]+=; .*Max-Age=0$/)
  t.equal((await whoIs(world, cookie)).status, 401)
  t.equal((await whoIs(world, other)).status, 200, 'one of the same person stays')
  await world.command({ type: 'userRevoke', name: 'ana' })
  t.equal((await whoIs(world, other)).status, 401)
  t.equal((await refusedFeed(world, null, '', { headers: { cookie: other, ...OWN(world) } })).status, 401)
})

t.test('[DSH-1] the instances of one host do not take each other’s sessions', async (t) => {
  const [one, two] = [await createWorld(t), await createWorld(t, { ports: () => ({ instance: 'stage' }) })]
  // A browser sends the cookies of a host to each of its ports.
  const jar = new Map<string, string>()
  for (const world of [one, two]) {
    const pair = await enter(world, 'vi')
    jar.set(pair.split('=')[0] ?? '', pair)
  }
  const cookie = [...jar.values()].join('; ')
  for (const world of [one, two]) t.match((await whoIs(world, cookie)).body, { name: 'vi' })
})

t.test('[DSH-1] only a person’s own valid token opens one, and guesses are bounded', async (t) => {
  const world = await createWorld(t)
  for (const token of ['', 'x', `smithp_${'x'.repeat(43)}`, world.tokens['igorina'] ?? '']) {
    const answer = await world.ask('POST', '/api/v1/session', { body: { token } })
    t.same([answer.status, kindsOf(answer)], [401, ['unauthenticated']], token.slice(0, 12))
    t.equal(answer.headers['set-cookie'], undefined)
  }
  for (let tries = 0; tries < 2; tries += 1)
    await world.ask('POST', '/api/v1/session', { body: { token: `smithp_${'y'.repeat(43)}` } })
  const bounded = await world.ask('POST', '/api/v1/session', { body: { token: 'x' } })
  t.equal(bounded.status, 429)
})

t.test('[DSH-1] a restart of the coordinator logs nobody out, and a restored database everybody', async (t) => {
  const world = await createWorld(t, {
    store: (dir) => openSqliteStore({ path: `${dir}/a.db`, random, program: 'test' }),
  })
  const cookie = await enter(world, 'vi')
  const again = createApi(world.ports)
  const { port } = await again.listen({ host: '127.0.0.1', port: 0 })
  t.teardown(again.close)
  const agent = new Agent({ rejectUnauthorized: false })
  const seen = await exchange({ port, socket: '', agent }, 'GET', '/api/v1/who', { headers: { cookie } })
  t.match(seen.body, { name: 'vi' }, 'what a session is lies on disk')
  const { ledger } = world.store
  const [kept] = ledger.list('web-session/')
  t.match(kept?.doc, { user: 'vi', epoch: world.store.epoch })
  ledger.put([[kept?.key ?? '', { ...(kept?.doc as object), epoch: 'f'.repeat(32) }]])
  t.equal((await whoIs(world, cookie)).status, 401, 'one of another life of the database is none')
})

t.test('[DSH-1] the feed of a session is followed by its page, and ends with it', async (t) => {
  const world = await createWorld(t)
  const cookie = await enter(world, 'vi')
  const headers = { cookie, ...OWN(world) }
  const url = `wss://127.0.0.1:${world.port}/feed`
  const socket = new WebSocket(url, FEED_SUBPROTOCOL, { rejectUnauthorized: false, headers })
  await new Promise((resolve) => socket.once('message', resolve))
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await world.ask('POST', '/api/v1/session/end', { headers, body: {} })
  t.equal(await closed, 4401)
})

t.test('[DSH-2] no other site rides a session: not with a call, a look, or the feed', async (t) => {
  const world = await createWorld(t)
  const cookie = await enter(world, 'cy')
  const freeze = (headers: Record<string, string>) =>
    world.ask('POST', '/api/v1/freeze', { body: { reason: 'x' }, headers: { cookie, ...headers } })
  const FOREIGN: readonly Record<string, string>[] = [
    {},
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: `http://127.0.0.1:${world.port}` },
    { origin: `https://127.0.0.1:${world.port}.evil.example` },
    { origin: `https://127.0.0.1:${world.port + 1}` },
    { ...OWN(world), 'sec-fetch-site': 'same-site' },
    { ...OWN(world), 'sec-fetch-site': 'cross-site' },
  ]
  for (const headers of FOREIGN) {
    const answer = await freeze(headers)
    t.same([answer.status, kindsOf(answer)], [403, ['not-allowed']], JSON.stringify(headers))
    const feed = await refusedFeed(world, null, '', { headers: { cookie, ...headers } })
    t.equal(feed.status, 403, `the feed with ${JSON.stringify(headers)}`)
  }
  t.equal((await world.ask('GET', '/api/v1/overview', { headers: { cookie, origin: 'https://a.b' } })).status, 403)
  t.equal((await world.call('projects', 'vi')).body.frozen, null, 'nothing was done')
  t.equal((await freeze(OWN(world))).status, 200, 'the page itself may')
  t.equal((await freeze({ ...OWN(world), 'sec-fetch-site': 'same-origin' })).status, 200)
})

t.test(
  '[DSH-3] the page and its files: a policy that lets nothing else in, and names that bear their content',
  async (t) => {
    const world = await createWorld(t, { ports: () => ({ dashboard: openDashboardFiles() }) })
    const page = await world.ask('GET', '/')
    t.equal(page.status, 200)
    t.equal(page.headers['content-type'], 'text/html; charset=utf-8')
    t.equal(page.headers['cache-control'], 'no-store')
    const policy = String(page.headers['content-security-policy']).split('; ')
    for (const one of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"])
      t.ok(policy.includes(one), one)
    for (const one of ["frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"])
      t.ok(policy.includes(one), one)
    t.notMatch(policy.join(), /unsafe|https?:|data:|\*/, 'no way around it')
    t.match(page.headers, { 'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY' })
    t.notMatch(page.text, /<style|style=|onload|<script(?![^>]* src=)/, 'no inline script or style')
    const assets = [...page.text.matchAll(/"(\/assets\/[^"]+)"/g)].map((match) => match[1] ?? '')
    t.equal(assets.length, 3)
    for (const asset of assets) {
      const answer = await world.ask('GET', asset)
      t.equal(answer.status, 200, asset)
      t.match(asset, /-[0-9a-f]{16}\.(js|css|svg)$/)
      t.match(answer.headers, {
        'cache-control': 'public, max-age=31536000, immutable',
        'x-content-type-options': 'nosniff',
        'content-security-policy': /default-src 'none'/,
      })
    }
    t.equal((await world.ask('GET', '/assets/none.js')).status, 404)
    t.equal((await world.ask('GET', '/assets/..%2f..%2fpackage.json')).status, 404)
    const bare = await createWorld(t)
    t.equal((await bare.ask('GET', '/')).status, 404, 'what is not there is absent')
  },
)

t.test('[DSH-4] the overview says of each line who has it, and of each open project what stops it', async (t) => {
  const world = await createWorld(t)
  const machine = await world.machine('prod-dal10-web-1')
  await world.machine('prod-dal10-db-1', { online: false })
  await world.machine('prod-dal10-edge-1', { plans: false })
  const change = await world.raise('prod machines: prod-dal10-web-1 outage:0')
  await world.call('requestMake', 'ana', { body: { text: 'prod machines: prod-dal10-edge-1 outage:0' } })
  const before = (await world.call('overview', 'vi')).body
  t.match(before, {
    lines: [],
    projects: [{ change, state: 'pending', digest: await world.digest(change), totals: { unstarted: 1 } }],
    requests: [{ by: 'ana', state: 'planning', planned: 0, total: 1 }],
    machines: { enrolled: 3, online: 2 },
    frozen: null,
  })
  await world.call('approve', 'bo', { params: { change }, body: { digest: await world.digest(change) } })
  while (machine.grants.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await world.call('freeze', 'cy', { body: { reason: 'fire' } })
  const after = (await world.call('overview', 'vi')).body
  t.match(after.lines, [{ machine: 'prod-dal10-web-1', change, requester: 'ana', state: 'granted' }])
  t.match(after, { frozen: { by: 'cy', reason: 'fire' } })
})

t.test(
  '[DSH-5] a search finds every record with the text, a bounded part at a time, whatever its colours',
  async (t) => {
    const world = await createWorld(t)
    const order = await appendLines(world, 'prod-dal10-web-1', 45_000, (n) =>
      n % 9_000 === 0 ? `a needle ${n}` : n === 30_001 ? '\u001b[31mNEE\u001b[0mDLE in red' : `straw ${n}`,
    )
    const found: number[] = []
    const parts: number[] = []
    for (let after = 0; ;) {
      const query = `?text=Needle&after=${after}`
      const { body } = await world.call('logSearch', 'vi', { params: { order }, query })
      found.push(...body.matches)
      parts.push(body.scannedUpTo - after)
      after = body.scannedUpTo
      if (after >= body.upTo) break
    }
    t.same(found, [9_000, 18_000, 27_000, 30_001, 36_000, 45_000])
    t.ok(parts.length > 2 && parts.every((part) => part <= 20_000), parts.join())
    const many = (await world.call('logSearch', 'vi', { params: { order }, query: '?text=straw' })).body
    t.equal(many.matches.length, 1_000, 'an answer is bounded too')
    t.equal(many.scannedUpTo, many.matches.at(-1), 'and what follows is looked at next')
    t.equal((await world.call('logSearch', 'vi', { params: { order: '0'.repeat(32) }, query: '?text=x' })).status, 404)
    t.equal((await world.call('logSearch', 'vi', { params: { order } })).status, 400)
  },
)

// oxlint-disable-next-line no-control-regex -- they are what is looked for
const ACTING = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/

t.test(
  '[DSH-6] no text of a package acts: colours become classes of a closed set, all else its own name',
  async (t) => {
    t.same(piecesOf('\u001b[1;31mbad\u001b[0m good\n'), [
      { text: 'bad', classes: 'ink-red bold', isMark: false },
      { text: ' good', classes: '', isMark: false },
    ])
    const hostile = piecesOf('a\u001b]8;;http://e\u0007b\u202ec\u001b[2Jd\re<script>')
    t.equal(hostile.map(({ text }) => text).join(''), 'a\\x1b]8;;http://e\\x07b\\u{202e}c\\x1b[2Jd\\x0de<script>')
    t.same(
      hostile.filter(({ isMark }) => isMark).map(({ text }) => text),
      ['\\x1b', '\\x07', '\\u{202e}', '\\x1b', '\\x0d'],
    )
    t.equal(harmless('x\u2066y\u0000'), 'x\\u{2066}y\\x00')
    const text = fc.string({
      unit: fc.constantFrom('\u001b[', '31', ';', 'm', '\u001b]', '\u0007', '\u202e', 'a', '\t', '38', '\u200b'),
    })
    fc.assert(
      fc.property(fc.oneof(text, fc.string({ unit: 'binary' })), (line) => {
        const shown = piecesOf(line)
        for (const { text: piece, classes } of shown) {
          if (ACTING.test(piece)) return false
          if (!/^((ink|paper)-[a-z]+|bold|faint|underlined| )*$/.test(classes)) return false
        }
        return true
      }),
    )
    const marked = highlighted(piecesOf('one Two one'), 'ONE')
    t.same(
      marked.map(({ text: piece, classes }) => [piece, classes]),
      [
        ['one', 'found'],
        [' Two ', ''],
        ['one', 'found'],
      ],
    )
  },
)

t.test('[DSH-7] the expected end comes from the machines done, and there is none before one is', (t) => {
  const machine = (state: MachineStatus['state'], startedAt: number | null, endedAt: number | null) =>
    ({ state, startedAt, endedAt }) as MachineStatus
  const left = [machine('planned', null, null), machine('ready', null, null)]
  t.equal(estimateOf(left, 1000), null)
  const done = [machine('succeeded', 0, 100), machine('succeeded', 150, 250), machine('succeeded', 300, 5_000)]
  t.same(estimateOf(done, 6_000), null, 'nothing is left')
  t.same(estimateOf([...done, ...left], 6_000), { endAt: 6_000 + 2 * 150, perMachineMs: 100, from: 3 })
  const active = machine('running', 5_960, null)
  t.same(estimateOf([...done, active, ...left], 6_000), { endAt: 6_000 + 60 + 2 * 150, perMachineMs: 100, from: 3 })
  t.end()
})
