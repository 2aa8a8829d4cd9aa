/** The agent's session half: hello, grants, errands. The real core on a real disk, a link whose far end the test holds. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type Disk, createRealDisk } from '../../../agent/disk/disk.ts'
import { orderLayoutOf } from '../../../agent/disk/layout.ts'
import type { Refusal } from '../../../protocol/errors.ts'
import {
  EVIDENCE,
  FACTS,
  ORDER,
  OTHER_MACHINE,
  PLAN,
  PLAN_HASH,
  createKey,
  grantPayload,
  lineRecord,
  resultRecord,
  signedGrant,
} from '../../sessions/fakes.ts'
import { type Machine, READY, claim, inboxOf, machine, makeState, write } from './machine.ts'

const SECOND = '5e'.repeat(16)
const lines = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => lineRecord(from + index))
const grantFrame = (fields = {}) => ({ t: 'grant', order: ORDER, grant: signedGrant(KEY, grantPayload(fields)) })
const KEY = createKey()
const shipped = (m: Machine) => m.sent('records').flatMap((frame) => frame.records.map((record) => record.n))
const errors = (m: Machine) =>
  m.log.lines
    .filter((line) => line.level === 'error')
    .map((line) => `${line.message}: ${String(line.fields['problem'])}`)

t.test('[AGT-2] hello says everything in hand, and only what is synced', (t) => {
  const synced: string[] = []
  const real = createRealDisk()
  const m = machine(t, {
    disk: {
      ...real,
      fsync: (path) => {
        synced.push(path)
        real.fsync(path)
      },
    },
  })
  writeFileSync(m.layout.fence, '9\n')
  claim(m, ORDER, 9)
  write(m, lines(1, 3))
  writeFileSync(orderLayoutOf(m.layout, ORDER).latch, '')
  writeFileSync(
    join(m.layout.inbox, `grant-${SECOND}.json`),
    JSON.stringify({ type: 'grant', grant: signedGrant(KEY, grantPayload({ order: SECOND, fence: 10 })) }),
  )
  m.agent.start()
  const hello = m.accept()
  t.match(hello, {
    name: 'prod-dal10-carrier3-worker-1',
    bootId: 'abc-1',
    fence: 9,
    builds: ['prod'],
    impediment: null,
  })
  t.match(hello.incarnation, /^[0-9a-f]{32}$/)
  t.same(
    [...hello.orders].toSorted((a, b) => a.fence - b.fence),
    [
      { order: ORDER, fence: 9, evidence: 'latched', upTo: 3 },
      { order: SECOND, fence: 10, evidence: 'inbox', upTo: 0 },
    ],
  )
  t.ok(synced.includes(orderLayoutOf(m.layout, ORDER).records))
  t.ok(synced.includes(m.layout.inbox), 'the name of a grant too, which an agent that ended may have left unsafe')
  t.end()
})

t.test('[AGT-2] an order whose file is damaged is told as claimed, never left out', (t) => {
  const m = machine(t)
  claim(m)
  writeFileSync(orderLayoutOf(m.layout, ORDER).fate, '{"fate":"cl')
  m.agent.start()
  const hello = m.accept()
  t.match(hello.orders, [{ order: ORDER, evidence: 'claimed' }])
  t.match(hello.impediment, { kind: 'internal' }, 'and the fence, which that file would tell, is an impediment')
  t.ok(errors(m).length > 0)
  t.end()
})

t.test(
  '[AGT-3] a grant is whole and synced in the inbox before it is answered; the same again is answered again',
  (t) => {
    const calls: string[] = []
    const real = createRealDisk()
    const m = machine(t, {
      disk: {
        ...real,
        write: (path, ...rest) => {
          calls.push(`write ${path}`)
          real.write(path, ...rest)
        },
        fsync: (path) => {
          calls.push(`fsync ${path}`)
          real.fsync(path)
        },
        rename: (from, to) => {
          calls.push(`rename ${to}`)
          real.rename(from, to)
        },
      },
    })
    m.agent.start()
    m.accept()
    calls.length = 0
    m.link().say(grantFrame())
    const entry = join(m.layout.inbox, `grant-${ORDER}.json`)
    const temporary = join(m.layout.inbox, `.new-grant-${ORDER}.json`)
    t.same(calls, [`write ${temporary}`, `fsync ${temporary}`, `rename ${entry}`, `fsync ${m.layout.inbox}`])
    t.same(
      JSON.parse(readFileSync(entry, 'utf8')),
      { type: 'grant', grant: grantFrame().grant },
      'byte for byte what was signed',
    )
    t.match(m.sent('granted'), [{ order: ORDER, fence: 7 }])
    m.link().say(grantFrame())
    const synced = [`fsync ${m.layout.taken}`, `fsync ${m.layout.inbox}`]
    t.same(calls.slice(4), synced, 'nothing is written again, and its name is safe wherever it is taken to')
    t.equal(m.sent('granted').length, 2)
    claim(m)
    m.link().say(grantFrame())
    t.same(inboxOf(m), [], 'a claimed order gets no second entry')
    t.equal(m.sent('granted').length, 3)
    t.end()
  },
)

t.test('[AGT-3] killed at any disk call of a grant, the agent comes back to a whole entry or none', (t) => {
  const real = createRealDisk()
  for (let killAt = 1; killAt < 40; killAt += 1) {
    const state = makeState(t)
    let calls = 0
    const dying = Object.fromEntries(
      Object.entries(real).map(([name, call]) => [
        name,
        (...input: unknown[]) => {
          if (calls > 0 && (calls += 1) > killAt) throw new Error('killed')
          return (call as (...all: unknown[]) => unknown)(...input)
        },
      ]),
    ) as unknown as Disk
    const m = machine(t, { state, disk: dying, key: KEY })
    m.agent.start()
    m.accept()
    calls = 1
    m.link().say(grantFrame())
    const wasAnswered = m.sent('granted').length > 0
    const again = machine(t, { state, key: KEY })
    again.agent.start()
    const hello = again.accept()
    const entry = join(m.layout.inbox, `grant-${ORDER}.json`)
    if (wasAnswered)
      t.match(hello.orders, [{ order: ORDER, evidence: 'inbox', fence: 7 }], `answered, killed after ${killAt} calls`)
    else if (existsSync(entry))
      t.same(JSON.parse(readFileSync(entry, 'utf8')).type, 'grant', `whole though not answered, after ${killAt} calls`)
    again.link().say(grantFrame())
    t.match(again.sent('granted'), [{ order: ORDER, fence: 7 }], 'the repeated grant is answered')
    t.same(
      inboxOf(again).filter((name) => !name.startsWith('.')),
      [`grant-${ORDER}.json`],
    )
    if (wasAnswered && calls <= killAt) break
  }
  t.end()
})

t.test('[AGT-3] a grant that is not for this machine or order is told in the log and not taken', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say({ t: 'grant', order: ORDER, grant: signedGrant(KEY, grantPayload({ machine: OTHER_MACHINE })) })
  m.link().say({ t: 'grant', order: ORDER, grant: signedGrant(KEY, grantPayload({ order: SECOND })) })
  m.link().say({ t: 'grant', order: ORDER, grant: { ...grantFrame().grant, payload: 'bm8=' } })
  t.same(inboxOf(m), [])
  t.same(m.sent('granted'), [])
  t.equal(errors(m).length, 3)
  t.end()
})

t.test('[AGT-17] a grant or revoke that the disk did not take is asked for again by a new hello', (t) => {
  for (const frame of [grantFrame(), { t: 'revoke', order: ORDER }]) {
    let isFull = true
    const real = createRealDisk()
    const disk: Disk = {
      ...real,
      write: (path, ...rest) => {
        if (isFull && path.includes('inbox'))
          throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' })
        real.write(path, ...rest)
      },
    }
    const m = machine(t, { disk })
    m.agent.start()
    m.accept()
    m.link().say(frame)
    m.link().say(frame)
    t.same(m.sent('granted'), [])
    m.clock.advance(9_000)
    t.equal(m.links.length, 1, 'a full disk is not asked about all the time')
    m.clock.advance(3_000)
    t.equal(m.links.length, 2)
    t.equal(m.links[0]?.closed?.code, 1001)
    isFull = false
    m.accept()
    m.link().say(frame)
    t.equal(inboxOf(m).length, 1)
    m.clock.advance(60_000)
    t.equal(m.links[1]?.closed, null, 'what was kept needs no new hello')
  }
  t.end()
})

t.test('[AGT-17] that an order is let go is asked for again when the disk did not take it', (t) => {
  let isFull = true
  const real = createRealDisk()
  const disk: Disk = {
    ...real,
    write: (path, ...rest) => {
      if (isFull && path.includes('forgotten')) throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO' })
      real.write(path, ...rest)
    },
  }
  const m = machine(t, { disk })
  claim(m)
  write(m, [lineRecord(1), resultRecord(2)])
  m.agent.start()
  m.accept({ [ORDER]: 2 })
  m.link().say({ t: 'forget', order: ORDER })
  m.clock.advance(12_000)
  t.equal(m.links.length, 2)
  isFull = false
  t.equal(m.accept({ [ORDER]: 2 }).orders.length, 1, 'it is still in hand')
  m.link().say({ t: 'forget', order: ORDER })
  m.reconnect()
  t.same(m.accept().orders, [])
  t.end()
})

t.test('[AGT-4] a revoke is dropped for the runner, once, also for an order that never arrived', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say({ t: 'revoke', order: ORDER })
  m.link().say({ t: 'revoke', order: ORDER })
  t.same(inboxOf(m), [`revoke-${ORDER}.json`])
  t.same(JSON.parse(readFileSync(join(m.layout.inbox, `revoke-${ORDER}.json`), 'utf8')), {
    type: 'revoke',
    order: ORDER,
  })
  renameSync(join(m.layout.inbox, `revoke-${ORDER}.json`), join(m.layout.taken, `revoke-${ORDER}.json`))
  m.link().say({ t: 'revoke', order: ORDER })
  t.same(inboxOf(m), [], 'nor again when the runner has taken it')
  claim(m, SECOND)
  m.link().say({ t: 'revoke', order: SECOND })
  t.same(inboxOf(m), [], 'a claimed order can not be revoked, so it is not tried')
  t.end()
})

t.test('[AGT-4] a revoke that came alone is in hand, keeps its grant out, and the void of it is told', (t) => {
  const state = makeState(t)
  const before = machine(t, { state })
  before.agent.start()
  before.accept()
  before.link().say({ t: 'revoke', order: ORDER })
  before.agent.stop()
  const m = machine(t, { state })
  m.agent.start()
  t.match(m.accept().orders, [{ order: ORDER, evidence: 'inbox', fence: 0 }])
  m.link().say(grantFrame())
  t.same(inboxOf(m), [`revoke-${ORDER}.json`], 'the grant has come too late')
  t.same(m.sent('granted'), [], 'and is not said to be kept')
  renameSync(join(m.layout.inbox, `revoke-${ORDER}.json`), join(m.layout.taken, `revoke-${ORDER}.json`))
  write(m, [{ ...resultRecord(1), outcome: 'void' }])
  m.clock.advance(5_000)
  t.match(m.sent('records'), [{ order: ORDER, records: [{ outcome: 'void' }] }])
  t.end()
})

t.test(
  '[AGT-7] an order that is let go is in no later hello, also after a restart, and its downloads are gone',
  (t) => {
    const state = makeState(t)
    const m = machine(t, { state })
    mkdirSync(join(m.layout.prefetch, ORDER), { recursive: true })
    m.agent.start()
    m.accept()
    m.link().say(grantFrame())
    claim(m)
    m.link().say({ t: 'forget', order: ORDER })
    t.ok(
      m.log.lines.some((line) => line.level === 'warn' && line.message.includes('stays in hand')),
      'not without a result',
    )
    write(m, [resultRecord(1)])
    m.clock.advance(200)
    m.link().say({ t: 'ack', order: ORDER, upTo: 1 })
    m.link().say({ t: 'forget', order: ORDER })
    t.notOk(existsSync(join(m.layout.prefetch, ORDER)))
    m.reconnect()
    t.same(m.accept().orders, [])
    const again = machine(t, { state })
    again.agent.start()
    t.same(again.accept().orders, [])
    t.ok(existsSync(orderLayoutOf(m.layout, ORDER).records), "the runner's files are left alone")
    t.end()
  },
)

t.test('[AGT-8] one plan at a time; an answer that found no connection is given when it is asked for again', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  const query = (n: number) => ({ t: 'plan', query: String(n).padStart(32, '0'), build: 'prod', outageMinutes: 0 })
  m.link().say(query(1))
  m.link().say(query(2))
  m.link().say(query(1))
  t.equal(m.plans.length, 1, 'the second waits, the repeated one is the same')
  m.plans[0]?.done({ plan: PLAN, evidence: EVIDENCE, warnings: ['w'.repeat(5000)] })
  t.match(m.sent('planned'), [{ query: query(1).query, plan: PLAN }])
  t.equal(m.sent('planned')[0]?.warnings[0]?.length, 2000)
  t.equal(m.plans.length, 2)
  m.link().lose()
  m.plans[1]?.done({ refusal: { kind: 'cannot-plan', message: 'm'.repeat(9000), remedy: 'r' } })
  m.reconnect()
  m.accept()
  m.link().say(query(2))
  t.equal(m.plans.length, 2, 'it is not made again')
  t.match(m.sent('planRefused'), [{ query: query(2).query, refusal: { kind: 'cannot-plan' } }])
  t.equal(m.sent('planRefused')[0]?.refusal.message.length, 4096)
  for (let n = 10; n < 40; n += 1) m.link().say(query(n))
  t.match(m.sent('planRefused').at(-1), { refusal: { kind: 'too-many' } }, 'the queue is bounded')
  t.end()
})

t.test(
  "[RUN-56] a plan is asked for with how far this machine's clock is from the one that the coordinator told",
  (t) => {
    const m = machine(t)
    const aheadMs = m.clock.wallNow() - READY.at
    m.agent.start()
    m.accept()
    m.clock.advance(5000)
    m.link().say({ t: 'plan', query: '1'.repeat(32), build: 'prod', outageMinutes: 0 })
    t.equal(m.plans[0]?.query.clockAheadMs, aheadMs, 'as it was at the ready, however long ago that is')
    t.end()
  },
)

t.test('[AGT-8] one download at a time; a grant of the order ends it', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  const offer = (order: string) => ({ t: 'offer', order, planHash: PLAN_HASH, plan: PLAN })
  m.link().say(offer(ORDER))
  m.link().say(offer(SECOND))
  t.equal(m.downloads.length, 1)
  m.link().say(grantFrame())
  t.ok(m.downloads[0]?.cancelled)
  t.equal(m.downloads[1]?.order, SECOND, 'the next begins')
  m.downloads[0]?.done(null)
  t.same(m.sent('prefetched'), [], 'a cancelled one answers nothing')
  m.downloads[1]?.done('no space left')
  t.match(m.sent('prefetched'), [{ order: SECOND, problem: 'no space left' }])
  m.link().say(offer(SECOND))
  t.equal(m.sent('prefetched').length, 2)
  t.end()
})

t.test('[AGT-18] what gets into the way of orders after the hello is told by a new one, and so is its end', (t) => {
  let impediment: Refusal | null = null
  const description = { facts: FACTS, bootId: 'abc-1', builds: ['prod'], template: false }
  const m = machine(t, { ports: { describe: () => ({ ...description, impediment }) } })
  m.agent.start()
  t.equal(m.accept().impediment, null)
  impediment = { kind: 'unavailable', message: 'smith-run.path is not active', remedy: 'start it' }
  m.clock.advance(20_000)
  t.equal(m.links.length, 1, 'nobody asked for anything, so it did not look')
  m.link().say({ t: 'offer', order: ORDER, planHash: PLAN_HASH, plan: PLAN })
  t.equal(m.downloads.length, 0)
  m.clock.advance(1000)
  t.match(m.accept().impediment, impediment)
  m.clock.advance(20_000)
  t.equal(m.links.length, 2)
  impediment = null
  m.clock.advance(15_000)
  t.equal(m.accept().impediment, null, 'it looks by itself as long as it is not ready')
  impediment = { kind: 'unknown-build', message: 'no repository is configured', remedy: 'put one there' }
  m.link().say({ t: 'plan', query: SECOND, build: 'prod', outageMinutes: 0 })
  t.equal(m.plans.length, 0)
  m.clock.advance(1000)
  t.match(m.accept().impediment, impediment)
  t.end()
})

t.test('[AGT-15] a grant that the runner refused is told by a new hello, once', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  renameSync(join(m.layout.inbox, `grant-${ORDER}.json`), join(m.layout.refused, `1700-grant-${ORDER}.json`))
  m.clock.advance(200)
  t.match(m.links[0]?.closed, { code: 1001 })
  m.clock.advance(1000)
  t.match(m.accept().orders, [{ order: ORDER, evidence: 'refused', fence: 7 }])
  m.link().say({ t: 'ack', order: ORDER, upTo: 0 })
  m.clock.advance(10_000)
  t.equal(m.link().closed, null)
  m.link().say({ t: 'revoke', order: ORDER })
  m.clock.advance(1)
  t.same(inboxOf(m), [`revoke-${ORDER}.json`])
  const { folder, fate } = orderLayoutOf(m.layout, ORDER)
  renameSync(join(m.layout.inbox, `revoke-${ORDER}.json`), join(m.layout.taken, 'gone'))
  mkdirSync(folder)
  writeFileSync(fate, JSON.stringify({ fate: 'void', reason: 'revoked', at: 1 }))
  write(m, [resultRecord(1, { outcome: 'void', latched: false, step: 'claim' })])
  m.clock.advance(200)
  t.same(shipped(m), [1], 'the void that follows is shipped')
  t.equal(m.link().closed, null)
  t.end()
})
