/** How the agent keeps its connection, and what it starts: the real core over a link whose far end the test holds. */
import { createPublicKey, verify } from 'node:crypto'
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { type Disk, createRealDisk } from '../../../agent/disk/disk.ts'
import { counterFile } from '../../../agent/session/connection.ts'
import { authText } from '../../../protocol/agent.ts'
import {
  INCARNATION,
  MACHINE,
  ORDER,
  OTHER_MACHINE,
  createKey,
  grantPayload,
  resultRecord,
  signedGrant,
} from '../../sessions/fakes.ts'
import { CHALLENGE, LIMITS, type Machine, claim, counterOf, inboxOf, machine, makeState, write } from './machine.ts'

const grantFrame = (fields = {}) => ({ t: 'grant', order: ORDER, grant: signedGrant(KEY, grantPayload(fields)) })
const KEY = createKey()
const errors = (m: Machine) =>
  m.log.lines
    .filter((line) => line.level === 'error')
    .map((line) => `${line.message}: ${String(line.fields['problem'])}`)

t.test('[AGT-1] the proof is signed over this connection, with a counter that is on the disk already', (t) => {
  const m = machine(t)
  m.agent.start()
  m.link().say(CHALLENGE)
  const [auth] = m.sent('auth')
  if (auth === undefined) throw new Error('no proof')
  t.match(auth, { machine: MACHINE, counter: 1 })
  t.equal(counterOf(m), '1')
  const text = authText({
    coordinatorNonce: 'ab'.repeat(32),
    agentNonce: auth.nonce,
    machine: MACHINE,
    incarnation: INCARNATION,
    counter: 1,
  })
  const key = createPublicKey({ key: Buffer.from(m.key.publicKey, 'base64'), format: 'der', type: 'spki' })
  t.ok(verify(null, Buffer.from(text), key, Buffer.from(auth.signature, 'base64')))
  m.reconnect()
  m.link().say(CHALLENGE)
  t.match(m.sent('auth')[0], { counter: 2 })
  t.end()
})

t.test('[AGT-1] a counter that can not be kept or trusted is never used', (t) => {
  for (const content of ['', 'x', '12 34', null]) {
    const state = makeState(t)
    const m = machine(t, { state })
    if (content === null) renameSync(counterFile(m.layout), join(state, 'elsewhere'))
    else writeFileSync(counterFile(m.layout), content)
    m.agent.start()
    m.link().say(CHALLENGE)
    t.same(m.sent('auth'), [], `counter file ${JSON.stringify(content)}`)
    t.ok(
      errors(m).some((text) => text.includes(counterFile(m.layout))),
      'the log names the file',
    )
    m.clock.advance(60_000)
    t.equal(m.links.length > 1, true, 'and it is tried again, since the file may be repaired')
  }
  const real = createRealDisk()
  const broken: Disk = {
    ...real,
    fsync: (path) => {
      if (path.includes('counter')) throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
      real.fsync(path)
    },
  }
  const m = machine(t, { disk: broken })
  m.agent.start()
  m.link().say(CHALLENGE)
  t.same(m.sent('auth'), [], 'not synced is not kept')
  t.end()
})

t.test(
  '[AGT-9] reconnects with full jitter, growing from 1 s to 60 s, and begins small again after a good one',
  (t) => {
    const m = machine(t)
    m.agent.start()
    const delays: number[] = []
    for (let n = 0; n < 12; n += 1) {
      const before = m.clock.monotonicNow()
      const { length } = m.links
      m.link().lose()
      while (m.links.length === length) m.clock.advance(1)
      delays.push(m.clock.monotonicNow() - before)
    }
    for (const [n, delay] of delays.entries())
      t.ok(delay <= Math.min(60_000, 1000 * 2 ** n) + 1, `try ${n} after ${delay} ms`)
    t.ok(Math.max(...delays.slice(6)) > 10_000, 'it does grow')
    t.ok(new Set(delays).size > 8, 'and is never the same')
    m.accept()
    m.link().say({ t: 'ping', n: 1 })
    t.match(m.sent('pong'), [{ n: 1 }])
    m.link().lose()
    const { length } = m.links
    m.clock.advance(1001)
    t.equal(m.links.length, length + 1)
    t.end()
  },
)

t.test('[AGT-9] another agent draws other delays', (t) => {
  const delay = (seed: number) => {
    const m = machine(t, { seed })
    m.agent.start()
    m.link().lose()
    m.clock.advance(1001)
    const before = m.clock.monotonicNow()
    m.link().lose()
    while (m.links.length === 2) m.clock.advance(1)
    return m.clock.monotonicNow() - before
  }
  t.ok(new Set([1, 2, 3, 4, 5].map(delay)).size >= 4)
  t.end()
})

t.test('[AGT-9] a refusal that only a person can cure is told with its remedy and not hammered', (t) => {
  for (const [code, words] of [
    [4401, /enrol/],
    [4403, /enrol/],
    [4010, /clone/],
    [4406, /upgrade/],
  ] as const) {
    const m = machine(t)
    m.agent.start()
    m.link().lose(code, 'no')
    t.match(m.log.lines.findLast((line) => line.level === 'error')?.fields['remedy'], words, String(code))
    const before = m.clock.monotonicNow()
    while (m.links.length === 1) m.clock.advance(1)
    t.ok(m.clock.monotonicNow() - before > 1000, 'the ceiling is the long one at once')
  }
  t.end()
})

t.test('[AGT-10] a coordinator that falls silent is given up after 45 s', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  const { length } = m.links
  m.clock.advance(30_000)
  t.match(m.sent('ping'), [{ n: 1 }, { n: 2 }])
  m.link().say({ t: 'pong', n: 2 })
  m.clock.advance(44_000)
  t.notOk(m.links[length - 1]?.terminated)
  while (m.links.length === length) m.clock.advance(1)
  t.ok(m.links[length - 1]?.terminated)
  t.ok(m.clock.monotonicNow() <= 30_000 + 60_000 + 1001)
  t.end()
})

t.test('[AGT-10] a connection that comes to nothing is given up', (t) => {
  for (const stage of ['connecting', 'proving']) {
    const m = machine(t)
    m.agent.start()
    if (stage === 'proving') m.link().say(CHALLENGE)
    m.clock.advance(LIMITS.connectMs)
    t.ok(m.links[0]?.terminated, stage)
  }
  t.end()
})

t.test('[AGT-11] frames out of order, malformed, or of another instance end the connection and do nothing', (t) => {
  const bad: (string | Uint8Array)[] = [
    '{',
    '[]',
    '{"t":"exec","command":"id"}',
    '{"t":"revoke","order":"../../etc"}',
    '{"t":"ack","order":"x","upTo":-1}',
    Buffer.from([0xff]),
  ]
  for (const data of bad) {
    const m = machine(t)
    m.agent.start()
    m.accept()
    m.link().raw(data)
    t.match(m.link().closed, { code: 4400 }, String(data))
    t.same(inboxOf(m), [])
  }
  const early = machine(t)
  early.agent.start()
  early.link().say(grantFrame())
  t.match(early.link().closed, { code: 4400 }, 'a grant before the proof')
  t.same(inboxOf(early), [])
  const twice = machine(t)
  twice.agent.start()
  twice.accept()
  twice.link().say(CHALLENGE)
  t.match(twice.link().closed, { code: 4400 })
  const other = machine(t)
  other.agent.start()
  other.link().say({ ...CHALLENGE, instance: 'dev' })
  t.ok(other.link().terminated)
  t.equal(counterOf(other), '0')
  t.end()
})

t.test('[AGT-11] no bytes from the coordinator make the agent throw', (t) => {
  const m = machine(t)
  m.agent.start()
  const frame = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    fc.json(),
    fc
      .record(
        {
          t: fc.constantFrom('challenge', 'ready', 'plan', 'offer', 'grant', 'revoke', 'ack', 'forget', 'ping'),
          order: fc.constantFrom(ORDER, '..', 1),
          upTo: fc.anything(),
        },
        { requiredKeys: ['t'] },
      )
      .map((value) => JSON.stringify(value)),
  )
  const check = fc.property(frame, fc.boolean(), fc.boolean(), (data, isBinary, isOpen) => {
    if (isOpen) m.accept()
    m.link().raw(data, isBinary)
    m.reconnect()
    return inboxOf(m).every((name) => name === `revoke-${ORDER}.json`)
  })
  t.doesNotThrow(() => fc.assert(check, { numRuns: 150 }))
  t.end()
})

t.test(
  '[AGT-12] where nothing else does, the agent starts the runner, one at a time, while there is work for it',
  (t) => {
    const m = machine(t, { startRunner: true })
    m.agent.start()
    m.accept()
    t.equal(m.runners.length, 0, 'nothing to do, nothing started')
    m.link().say(grantFrame())
    m.clock.advance(0)
    t.equal(m.runners.length, 1)
    m.clock.advance(30_000)
    t.equal(m.runners.length, 1, 'it is at work')
    claim(m)
    m.runners[0]?.(1)
    m.clock.advance(999)
    t.equal(m.runners.length, 1)
    m.clock.advance(1)
    t.equal(m.runners.length, 2, 'it died with the order unfinished, and is started again')
    m.runners[1]?.(1)
    m.clock.advance(1999)
    t.equal(m.runners.length, 2, 'later each time')
    m.clock.advance(1)
    t.equal(m.runners.length, 3)
    m.runners[2]?.(75)
    m.clock.advance(2000)
    t.equal(m.runners.length, 4, 'another one was at work; it is asked for again in a while')
    m.runners[3]?.(75)
    m.clock.advance(3999)
    t.equal(m.runners.length, 4, 'and in a longer while')
    m.link().say({ t: 'revoke', order: OTHER_MACHINE })
    t.equal(m.runners.length, 5, 'but at once when something new lies there')
    renameSync(join(m.layout.inbox, `revoke-${OTHER_MACHINE}.json`), join(m.layout.state, 'settled'))
    write(m, [resultRecord(1)])
    m.runners[4]?.(0)
    m.clock.advance(120_000)
    t.equal(m.runners.length, 5, 'all done')
    t.end()
  },
)

t.test('[AGT-12] a runner is started for what was there before the agent', (t) => {
  for (const kind of ['inbox', 'claimed', 'ended'] as const) {
    const m = machine(t, { startRunner: true })
    if (kind === 'inbox') writeFileSync(join(m.layout.inbox, 'whatever'), '')
    else claim(m)
    if (kind === 'ended') write(m, [resultRecord(1)])
    m.agent.start()
    m.clock.advance(0)
    t.equal(m.runners.length, kind === 'ended' ? 0 : 1, kind)
  }
  t.end()
})
