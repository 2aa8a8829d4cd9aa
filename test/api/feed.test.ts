/** The feed on real sockets: every row once, in order, to each who may follow, whatever the others do. */
import { once } from 'node:events'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import { FEED_SUBPROTOCOL, type FeedRow } from '../../protocol/feed.ts'
import type { Problem } from '../../protocol/http.ts'
import { must } from '../coordinator/harness.ts'
import { type Follower, type Site, type SiteOptions, createSite, range, until } from './site.ts'

const OTHER_EPOCH = 'd'.repeat(32)

/** A site whose rows a test makes: `say(n)` commits n rows through the real driver. */
async function createFeedSite(options: SiteOptions = {}) {
  const site = await createSite(options)
  const token = await site.person('viewer')
  let isFrozen = false
  const say = async (count: number, reason = 'again') => {
    for (let made = 0; made < count; made += 1) {
      await site.world.submit(
        { kind: 'local-admin' },
        { type: 'command', command: { type: isFrozen ? 'unfreeze' : 'freeze', reason } },
      )
      isFrozen = !isFrozen
    }
  }
  return { site, token, say, rev: () => site.world.store().rev() }
}

function hello(follower: Follower) {
  const [first] = follower.frames
  if (first?.t !== 'hello') throw new Error(`no hello: ${JSON.stringify(first)}`)
  return first
}

const upTo = (follower: Follower, rev: number) => until(`row ${rev}`, () => follower.revs().at(-1) === rev)

t.test('[FED-1] a client gets every row after the one it has, each once, in order, and then what comes', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  await say(300)
  const { epoch } = site.world.store()
  const at = rev()
  const all = site.feed('?since=0', { token })
  await upTo(all, at)
  t.same(hello(all), { t: 'hello', instance: 'test', epoch, rev: at, resumed: true })
  t.same(all.revs(), range(1, at), 'more than a page')
  const rows = all.frames.flatMap((frame) => (frame.t === 'row' ? [frame.row] : []))
  t.same(rows, [...site.world.store().journal({ since: 0, limit: 1000 })], 'as the journal has them')
  const later = site.feed(`?since=${at - 2}&epoch=${epoch}`, { token })
  await upTo(later, at)
  const socket = site.feed(`?since=${at}`, { socket: true })
  const now = site.feed('', { token })
  await Promise.all([socket.begun, now.begun])
  await say(3)
  for (const follower of [all, later, socket, now]) await upTo(follower, at + 3)
  t.same(later.revs(), range(at - 1, at + 3))
  t.same(socket.revs(), range(at + 1, at + 3), 'on the admin socket too')
  t.same(now.revs(), range(at + 1, at + 3), 'without since only what comes')
})

t.test('[FED-2] who reconnects in the middle of a flood gets each row exactly once', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const start = rev()
  const got: number[] = []
  const total = 1500
  const flood = say(total)
  for (let last = start, count = 0; last < start + total; count += 1) {
    const follower = site.feed(`?since=${last}`, { token })
    await until(
      'some rows',
      () => follower.revs().length > 40 + (count % 7) * 13 || follower.revs().at(-1) === start + total,
    )
    follower.socket.terminate()
    await follower.closed
    got.push(...follower.revs())
    last = must(follower.revs().at(-1))
  }
  await flood
  t.same(got, range(start + 1, start + total))
})

t.test('[FED-2] a row that comes while the handshake is under way is neither lost nor told twice', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  for (const round of range(1, 30)) {
    const since = rev()
    const follower = site.feed(round % 2 === 0 ? `?since=${since}` : '', { token })
    await say(5)
    await follower.begun
    await say(1)
    await upTo(follower, since + 6)
    const first = must(follower.revs()[0])
    t.same(follower.revs(), range(first, since + 6))
    t.equal(first, round % 2 === 0 ? since + 1 : hello(follower).rev + 1, 'after what the hello said')
    follower.socket.terminate()
  }
})

t.test('[FED-3] another epoch voids what a client has; a number from the future is refused', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const at = rev()
  const stranger = site.feed(`?since=1&epoch=${OTHER_EPOCH}`, { token })
  await stranger.begun
  const ahead = site.feed(`?since=${at + 500}&epoch=${OTHER_EPOCH}`, { token })
  await ahead.begun
  await say(1)
  for (const follower of [stranger, ahead]) {
    await upTo(follower, at + 1)
    t.match(hello(follower), { epoch: site.world.store().epoch, rev: at, resumed: false })
    t.same(follower.revs(), [at + 1], 'and it gets only what comes')
  }
  for (const query of [
    `?since=${at + 2}`,
    `?since=${at + 2}&epoch=${site.world.store().epoch}`,
    '?since=-1',
    '?since=x',
    '?epoch=x',
    '?until=3',
    '?since=1&since=2',
  ]) {
    const begun = (await site.feed(query, { token }).begun) as Problem
    t.equal(begun.status, 400, query)
  }
})

t.test('[FED-4] a client that reads nothing is cut off, keeps its place, and holds up nobody', async (t) => {
  // Rows as the core makes them are small; these are not, so that no buffer of the kernel can take all of them.
  const fat = 'x'.repeat(200_000)
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const at = rev()
  const slow = site.feed('', { token })
  const quick = site.feed('', { token })
  await Promise.all([slow.begun, quick.begun])
  slow.socket.pause()
  const before = process.memoryUsage().arrayBuffers
  // Read as raw rows: the text of a fact is longer than its schema allows.
  const seen: number[] = []
  for (const follower of [slow, quick]) follower.socket.removeAllListeners('message')
  quick.socket.on('message', (data) => seen.push(rowOf(data).rev))
  await say(100, fat)
  await until('the quick one has all', () => seen.at(-1) === at + 100)
  t.same(
    seen.filter((one) => one > 0),
    range(at + 1, at + 100),
  )
  t.ok(process.memoryUsage().arrayBuffers - before < 60_000_000)
  const got: number[] = []
  slow.socket.on('message', (data) => got.push(rowOf(data).rev))
  await site.world.later(12_000)
  slow.socket.resume()
  const { code, reason } = await slow.closed
  t.equal(code, 4008)
  t.match(reason, 'too slow')
  t.ok(got.length > 0 && got.length < 100, `${got.length} rows were under way`)
  t.same(got, range(at + 1, at + got.length), 'what it got is whole')
  const again = site.feed(`?since=${must(got.at(-1))}`, { token })
  again.socket.removeAllListeners('message')
  again.socket.on('message', (data) => got.push(rowOf(data).rev))
  await until('it has the rest', () => got.includes(at + 100))
  t.same(
    got.filter((one) => one > 0),
    range(at + 1, at + 100),
  )
})

/** The row's number, 0 for a hello. */
function rowOf(data: unknown): { rev: number } {
  const frame = JSON.parse((data as Buffer).toString()) as { t: string; row?: FeedRow }
  return { rev: frame.row?.rev ?? 0 }
}

t.test('[FED-4] a client that is only behind catches up from the store at its own pace', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const at = rev()
  await say(60, 'x'.repeat(100_000))
  const late = site.feed(`?since=${at}`, { token })
  late.socket.removeAllListeners('message')
  const got: number[] = []
  late.socket.on('message', (data) => {
    got.push(rowOf(data).rev)
    late.socket.pause()
    setImmediate(() => late.socket.resume())
  })
  await until('it has all', () => got.at(-1) === at + 60)
  t.same(
    got.filter((one) => one > 0),
    range(at + 1, at + 60),
  )
  await site.world.later(9_000)
  t.equal(late.socket.readyState, late.socket.OPEN)
})

t.test('[FED-11] one token takes a part of the places and leaves the others theirs', async (t) => {
  const { site, token } = await createFeedSite({ ports: { limits: { feedClientsMax: 20 } } })
  t.teardown(site.close)
  for (let count = 0; count < 5; count += 1) t.equal(await site.feed('', { token }).begun, 'open')
  t.match(await site.feed('', { token }).begun, { status: 429, refusals: [{ message: / follows the feed 5 times/ }] })
  t.equal(await site.feed('', { socket: true }).begun, 'open')
})

t.test('[FED-5] only who may look follows, and no web page', async (t) => {
  const { site, token } = await createFeedSite({ ports: { limits: { feedClientsMax: 3 } } })
  t.teardown(site.close)
  const refused = async (what: string, follower: Follower, status: number, kind: string) => {
    const begun = await follower.begun
    if (begun === 'open') return t.fail(`${what}: it was let in`)
    return t.match(begun, { status, refusals: [{ kind }] }, what)
  }
  await refused('no token', site.feed(''), 401, 'unauthenticated')
  await refused('a wrong token', site.feed('', { token: `smithp_${'A'.repeat(43)}` }), 401, 'unauthenticated')
  for (const origin of ['https://evil.example', 'null', `https://127.0.0.1:${site.port}`]) {
    await refused(origin, site.feed('', { token, headers: { origin } }), 403, 'not-allowed')
  }
  await refused('no subprotocol', site.feed('', { token, protocols: [] }), 426, 'version')
  await refused('another subprotocol', site.feed('', { token, protocols: ['smith.feed.v2'] }), 426, 'version')
  const several = site.feed('', { token, protocols: ['smith.feed.v2', FEED_SUBPROTOCOL] })
  t.equal(await several.begun, 'open')
  t.equal(several.socket.protocol, FEED_SUBPROTOCOL)
  t.equal(await site.feed('', { socket: true }).begun, 'open', 'the admin socket needs no token')
  t.equal(await site.feed('', { token }).begun, 'open')
  await refused('one too many', site.feed('', { token }), 429, 'too-many')
  several.socket.terminate()
  let next: Follower | null = null
  for (let tries = 0; next === null && tries < 1000; tries += 1) {
    const follower = site.feed('', { token })
    if ((await follower.begun) === 'open') next = follower
  }
  t.ok(next, 'who has gone makes room')
  t.test('other paths have no WebSocket', async (t) => {
    const answer = await speak(site, '/elsewhere', {})
    t.match(answer.text(), /^HTTP\/1\.1 404 /)
  })
})

t.test('[FED-6] a follower whose token no longer holds is cut off with the row that says so', async (t) => {
  let aheadMs = 0
  const { site, token, say, rev } = await createFeedSite({
    driver: (real) => ({ ...real, now: () => real.now() + aheadMs }),
  })
  t.teardown(site.close)
  const { token: other } = await site.call('userAdd', {
    socket: true,
    body: { name: 'ann', roles: ['viewer'], ttlDays: 1 },
  })
  const { token: third } = await site.call('userAdd', { socket: true, body: { name: 'ben', roles: ['viewer'] } })
  const kept = site.feed('', { token })
  const expiring = site.feed('', { token: other })
  const revoked = site.feed('', { token: third })
  await Promise.all([kept.begun, expiring.begun, revoked.begun])
  await site.call('userRevoke', { socket: true, body: { name: 'ben' } })
  t.same(await revoked.closed, { code: 4401, reason: 'the token was revoked or has expired' })
  t.equal(expiring.socket.readyState, expiring.socket.OPEN)
  // The coordinator's clock a day later: the next look at the followers finds the token expired.
  aheadMs = 86_400_001
  await site.world.later(15_001)
  t.equal((await expiring.closed).code, 4401)
  await say(1)
  await upTo(kept, rev())
})

t.test('[FED-6] a person whose token was replaced is cut off too', async (t) => {
  const { site, token } = await createFeedSite()
  t.teardown(site.close)
  const follower = site.feed('', { token })
  await follower.begun
  await site.call('userRevoke', { socket: true, body: { name: 'viewer' } })
  t.equal((await follower.closed).code, 4401)
  t.equal(((await site.feed('', { token }).begun) as Problem).status, 401, 'and does not come in again')
})

t.test('[FED-7] nothing is taken from a client', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const sends: [string, (follower: Follower) => void][] = [
    ['text', (follower) => follower.socket.send('{"t":"hello"}')],
    ['binary', (follower) => follower.socket.send(Buffer.from([1]))],
    ['a long message', (follower) => follower.socket.send('x'.repeat(100_000))],
    [
      'fragments',
      (follower) => {
        follower.socket.send('a', { fin: false })
        follower.socket.send('b', { fin: true })
      },
    ],
  ]
  const good = site.feed('', { token })
  await good.begun
  for (const [what, send] of sends) {
    const follower = site.feed('', { token })
    await follower.begun
    send(follower)
    const { code, reason } = await follower.closed
    t.equal(code, 4400, what)
    t.ok(reason.length > 10, reason)
  }
  const odd = await speak(site, '/feed', { token })
  odd.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]))
  await until('it is cut off', () => odd.isOver() || odd.text().includes('breaks the WebSocket protocol'))
  t.match(
    odd.text(),
    `${String.fromCharCode(4400 >> 8, 4400 & 255)}a frame breaks the WebSocket protocol`,
    'bytes that are no frame',
  )
  odd.socket.destroy()
  await say(1)
  await upTo(good, rev())
})

t.test('[FED-8] a follower that is gone without a word is noticed; one that answers stays', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  const alive = site.feed('', { token })
  const dead = await speak(site, '/feed', { token })
  await alive.begun
  let pings = 0
  alive.socket.on('ping', () => (pings += 1))
  for (const round of range(1, 4)) {
    await site.world.later(15_000)
    await until(`ping ${round}`, () => pings === round)
    // The pong is on its way; a row that is sent and comes back after it shows that it has arrived.
    await say(1)
    await upTo(alive, rev())
    await roundTrip(alive)
  }
  await until('the dead one is closed', () => dead.isOver() || dead.text().includes('nothing was heard'))
  t.match(dead.text(), 'nothing was heard for too long')
  t.equal(alive.socket.readyState, alive.socket.OPEN)
  dead.socket.destroy()
})

/** A ping of the client, answered: whatever it sent before has been read. */
async function roundTrip(follower: Follower): Promise<void> {
  follower.socket.ping()
  await once(follower.socket, 'pong')
}

/** A WebSocket's handshake by hand, whose peer then never says anything. */
async function speak(site: Site, path: string, { token }: { readonly token?: string }) {
  const socket = connectTls({ host: '127.0.0.1', port: site.port, rejectUnauthorized: false })
  let text = ''
  let isOver = false
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
  socket.on('error', () => (isOver = true))
  socket.once('close', () => (isOver = true))
  await once(socket, 'secureConnect')
  const lines = [
    `GET ${path} HTTP/1.1`,
    'host: a',
    'connection: Upgrade',
    'upgrade: websocket',
    'sec-websocket-version: 13',
    'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==',
    `sec-websocket-protocol: ${FEED_SUBPROTOCOL}`,
  ]
  if (token !== undefined) lines.push(`authorization: Bearer ${token}`)
  socket.write(`${lines.join('\r\n')}\r\n\r\n`)
  await until('it is answered', () => isOver || text.includes('\r\n\r\n'))
  return { socket, text: () => text, isOver: () => isOver }
}

t.test('[FED-9] nobody hears of a row before its commit has returned', async (t) => {
  // Rows from before the interface began are read from the store.
  const { site, token, say, rev } = await createFeedSite({ machines: ['prod-dal10-carrier3-worker-1'] })
  t.teardown(site.close)
  // The store has rows that the driver does not know of yet: so it is while a commit is under way.
  const { driver } = site.ports
  const real = driver.rev
  Object.assign(driver, { rev: () => 2 })
  const follower = site.feed('?since=0', { token })
  await follower.begun
  await roundTrip(follower)
  t.same(follower.revs(), [1, 2])
  await say(1)
  await roundTrip(follower)
  t.same(follower.revs(), [1, 2])
  Object.assign(driver, { rev: real })
  await say(1)
  await upTo(follower, rev())
  t.same(follower.revs(), range(1, rev()))
})

t.test('[FED-10] a client that is as fast as the disk lets everybody else have a turn', async (t) => {
  const { site, token, say, rev } = await createFeedSite()
  t.teardown(site.close)
  await say(2000)
  // What is older than the rows in memory is read from the store, so the first rows must be pushed out of it.
  await say(100, 'x'.repeat(100_000))
  const { store } = site.ports
  const { journal } = store
  const reads: number[] = []
  let turn = 0
  let isOver = false
  const count = () => {
    turn += 1
    if (!isOver) setImmediate(count)
  }
  Object.assign(store, {
    journal: (query: Parameters<typeof journal>[0]) => {
      reads.push(turn)
      return journal(query)
    },
  })
  count()
  const follower = site.feed('?since=0', { token })
  follower.socket.removeAllListeners('message')
  const got: number[] = []
  follower.socket.on('message', (data) => got.push(rowOf(data).rev))
  await until('it has all', () => got.at(-1) === rev())
  isOver = true
  t.ok(reads.length > 10, `${reads.length} pages`)
  t.ok(
    reads.every((at, index) => index === 0 || at > (reads[index - 1] ?? 0)),
    'one page a turn',
  )
  t.same(
    got.filter((one) => one > 0),
    range(1, rev()),
  )
})
