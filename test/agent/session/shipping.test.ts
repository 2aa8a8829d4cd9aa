/** How records get from the disk to the coordinator: the real core on a real disk, a clock that the test moves. */
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { type Disk, createRealDisk } from '../../../agent/disk/disk.ts'
import { orderLayoutOf } from '../../../agent/disk/layout.ts'
import { RECORDS_WINDOW_MAX } from '../../../protocol/agent.ts'
import { ORDER, createKey, grantPayload, lineRecord, resultRecord, signedGrant } from '../../sessions/fakes.ts'
import { type Machine, claim, createStoreOfRecords, machine, write } from './machine.ts'

const SECOND = '5e'.repeat(16)
const lines = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => lineRecord(from + index))
const grantFrame = (fields = {}) => ({ t: 'grant', order: ORDER, grant: signedGrant(KEY, grantPayload(fields)) })
const KEY = createKey()
const shipped = (m: Machine) => m.sent('records').flatMap((frame) => frame.records.map((record) => record.n))
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)
const errors = (m: Machine) =>
  m.log.lines
    .filter((line) => line.level === 'error')
    .map((line) => `${line.message}: ${String(line.fields['problem'])}`)

t.test(
  '[AGT-5] records are shipped from the disk in order, in frames within the window, and the rest after acks',
  (t) => {
    const m = machine(t)
    m.agent.start()
    m.accept()
    m.link().say(grantFrame())
    claim(m)
    write(m, lines(1, 1500))
    m.clock.advance(200)
    t.same(shipped(m), range(1, RECORDS_WINDOW_MAX), 'no more than the window')
    t.ok(m.sent('records').every((frame) => frame.records.length <= 256))
    m.link().say({ t: 'ack', order: ORDER, upTo: 512 })
    t.same(shipped(m), range(1, 1500), 'an ack makes room at once')
    m.link().say({ t: 'ack', order: ORDER, upTo: 1500 })
    write(m, [resultRecord(1501)])
    m.clock.advance(200)
    t.equal(shipped(m).at(-1), 1501)
    m.link().say({ t: 'ack', order: ORDER, upTo: 1501 })
    m.clock.advance(10_000)
    t.equal(shipped(m).length, 1501, 'each exactly once')
    t.end()
  },
)

t.test('[AGT-5] a full window waits for its ack, however much lies behind it', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(
    m,
    range(1, 2600).map((n) => lineRecord(n, 'x'.repeat(1000))),
  )
  m.clock.advance(400)
  t.same(shipped(m), range(1, RECORDS_WINDOW_MAX))
  t.same(errors(m), [])
  m.link().buffered = 2_000_000
  m.link().say({ t: 'ack', order: ORDER, upTo: 1024 })
  t.equal(shipped(m).length, RECORDS_WINDOW_MAX, 'nor is a socket filled that takes nothing')
  m.link().buffered = 0
  m.clock.advance(200)
  t.same(shipped(m), range(1, 2 * RECORDS_WINDOW_MAX))
  t.end()
})

t.test('[AGT-5] nothing of a file is sent before it is synced, nor a line without its end', (t) => {
  const synced = new Map<string, number>()
  const real = createRealDisk()
  const m = machine(t, {
    disk: {
      ...real,
      fsync: (path) => {
        synced.set(path, statSync(path).size)
        real.fsync(path)
      },
    },
  })
  const files = orderLayoutOf(m.layout, ORDER)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 2))
  writeFileSync(files.records, `${readFileSync(files.records, 'utf8')}{"n":3,"at":3,`)
  m.clock.advance(200)
  t.same(shipped(m), [1, 2])
  t.equal(synced.get(files.records), statSync(files.records).size)
  t.ok(synced.has(files.folder), 'the runner may have ended between the file and its name')
  writeFileSync(
    files.records,
    `${readFileSync(files.records, 'utf8')}"type":"line","step":"install","offset":3,"text":"late\\n"}\n`,
  )
  m.clock.advance(200)
  t.same(shipped(m), [1, 2, 3])
  t.end()
})

t.test(
  '[AGT-6] of an order that no hello could name, what comes of a revoke is shipped on the same connection',
  (t) => {
    const m = machine(t)
    // A power cut has left its folder and nothing in it.
    mkdirSync(orderLayoutOf(m.layout, ORDER).folder, { recursive: true })
    m.agent.start()
    t.same(m.accept().orders, [])
    m.link().say({ t: 'revoke', order: ORDER })
    write(m, [resultRecord(1)])
    m.clock.advance(400)
    t.same(shipped(m), [1])
    t.end()
  },
)

t.test('[AGT-5] bytes arrive as they are on the disk, whatever they are', (t) => {
  const m = machine(t)
  const texts = [
    '\u001b[31mred\u001b[0m\r\n',
    'nul \u0000\n',
    'ä€😀 \u2028 \u202e\n',
    '"quoted" \\ back\n',
    '\n',
    'x'.repeat(8192),
  ]
  const records = [
    ...texts.map((text, index) => lineRecord(index + 1, text)),
    { n: 7, at: 7, type: 'line', step: 'install', offset: 7, base64: '//79' },
  ]
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, records)
  m.clock.advance(200)
  t.same(
    m.sent('records').flatMap((frame) => frame.records),
    records,
  )
  t.end()
})

t.test('[AGT-5] a result too long for a usual frame goes alone', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  const installed = Array.from(
    { length: 4000 },
    (_, index) => `package-with-a-long-name-${index}:amd64=1:2.3.4-5+deb12u6~really${'7'.repeat(50)}`,
  )
  write(m, [...lines(1, 3), resultRecord(4, { installed })])
  m.clock.advance(200)
  t.same(shipped(m), [1, 2, 3, 4])
  t.equal(m.sent('records').at(-1)?.records.length, 1)
  t.end()
})

t.test('[AGT-6] after a lost connection nothing is lost and nothing is stored twice', (t) => {
  const m = machine(t)
  const store = createStoreOfRecords()
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 300))
  m.clock.advance(200)
  // The coordinator committed the first frame; its ack was lost with the connection.
  const [first] = m.sent('records')
  if (first !== undefined) store.take(first)
  t.equal(store.records.length, 256)
  write(m, lines(301, 400))
  m.reconnect()
  const hello = m.accept()
  t.match(hello.orders, [{ order: ORDER, upTo: 400, evidence: 'claimed' }])
  m.clock.advance(30_000)
  t.same(shipped(m), [], 'nothing is sent before the coordinator has said where it stands')
  m.link().say({ t: 'ack', order: ORDER, upTo: 256 })
  t.same(shipped(m), range(257, 400))
  t.end()
})

t.test('[AGT-6] a coordinator that does not know an order is not sent its records', (t) => {
  const m = machine(t)
  claim(m)
  write(m, [...lines(1, 5), resultRecord(6)])
  m.agent.start()
  t.match(m.accept().orders, [{ order: ORDER, evidence: 'ended', upTo: 6 }])
  m.clock.advance(30_000)
  t.same(shipped(m), [])
  m.link().say({ t: 'ack', order: ORDER, upTo: 0 })
  t.same(shipped(m), range(1, 6))
  t.end()
})

t.test('[AGT-6] a lost frame is sent again: the coordinator repeats its ack, or says nothing', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 600))
  m.clock.advance(200)
  t.equal(shipped(m).length, 600)
  m.link().say({ t: 'ack', order: ORDER, upTo: 256 })
  m.link().sent.length = 0
  m.clock.advance(1000)
  m.link().say({ t: 'ack', order: ORDER, upTo: 256 })
  t.same(shipped(m), range(257, 600), 'a repeated ack asks for what follows it')
  m.link().sent.length = 0
  for (let n = 0; n < 5; n += 1) m.link().say({ t: 'ack', order: ORDER, upTo: 256 })
  t.same(shipped(m), [], 'but a swarm of them is answered once')
  m.clock.advance(5000)
  t.same(shipped(m), range(257, 600), 'and what nobody acknowledges is sent again')
  t.end()
})

t.test('[AGT-6] a coordinator with less than it had gets it again, one with more than the disk gets nothing', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 10))
  m.clock.advance(200)
  m.link().say({ t: 'ack', order: ORDER, upTo: 10 })
  m.link().say({ t: 'ack', order: ORDER, upTo: 4 })
  t.same(shipped(m), [...range(1, 10), ...range(5, 10)])
  m.link().say({ t: 'ack', order: ORDER, upTo: 99 })
  t.same(shipped(m).length, 16)
  t.ok(m.log.lines.some((line) => line.level === 'warn' && line.fields['onDisk'] === 10))
  t.end()
})

t.test('[AGT-6] under any loss of frames, acks and connections each record is stored once and in order', (t) => {
  const run = (steps: readonly number[]) => {
    const m = machine(t, { key: KEY })
    const store = createStoreOfRecords()
    let written = 0
    m.agent.start()
    m.accept()
    m.link().say(grantFrame())
    claim(m)
    let handled = 0
    /** Hands over what was sent, losing frames and acks as the bits say; a lost frame loses all after it. */
    const deliver = (bits: number) => {
      const link = m.link()
      const frames = link.sent.slice(handled)
      handled = link.sent.length
      for (const [index, frame] of frames.entries()) {
        if (frame.t !== 'records') continue
        if (((bits >> (index % 4)) & 1) === 1) continue
        const upTo = store.take(frame)
        if (upTo !== null && (bits & 16) === 0) link.say({ t: 'ack', order: ORDER, upTo })
      }
    }
    const reconnect = () => {
      m.reconnect()
      m.accept({ [ORDER]: store.records.length })
      handled = 0
    }
    for (const step of steps) {
      const count = step % 400
      write(m, lines(written + 1, written + count))
      written += count
      m.clock.advance(200 + (step % 3) * 2500)
      deliver(step >> 3)
      if (step % 7 === 0) reconnect()
    }
    write(m, [resultRecord(written + 1)])
    reconnect()
    for (let n = 0; n < 30 && store.records.length <= written; n += 1) {
      m.clock.advance(2000)
      deliver(0)
    }
    m.agent.stop()
    return store.records.map((record) => record.n).join() === range(1, written + 1).join()
  }
  t.doesNotThrow(() =>
    fc.assert(fc.property(fc.array(fc.nat({ max: 10_000 }), { maxLength: 8 }), run), { numRuns: 40 }),
  )
  t.end()
})

t.test('[AGT-13] with no order open the agent has one timer, and reads nothing', (t) => {
  let calls = 0
  const real = createRealDisk()
  const counting = Object.fromEntries(
    Object.entries(real).map(([name, call]) => [
      name,
      (...input: unknown[]) => {
        calls += 1
        return (call as (...all: unknown[]) => unknown)(...input)
      },
    ]),
  ) as unknown as Disk
  const m = machine(t, { disk: counting, startRunner: true })
  m.agent.start()
  m.accept()
  m.clock.advance(1000)
  calls = 0
  for (let n = 0; n < 20; n += 1) {
    m.clock.advance(15_000)
    m.link().say({ t: 'pong', n })
  }
  t.equal(calls, 0)
  t.equal(m.clock.armed(), 1)
  m.link().say(grantFrame())
  claim(m)
  write(m, [resultRecord(1)])
  m.clock.advance(1000)
  m.link().say({ t: 'ack', order: ORDER, upTo: 1 })
  m.link().say({ t: 'forget', order: ORDER })
  m.clock.advance(1000)
  calls = 0
  m.clock.advance(14_000)
  t.equal(calls, 0, 'and again after an order')
  t.end()
})

t.test('[AGT-31] memory is given back when nothing was done for a while, once for each piece of work', (t) => {
  let rests = 0
  const m = machine(t, { ports: { rest: () => (rests += 1) } })
  m.agent.start()
  m.accept()
  m.clock.advance(9_999)
  t.equal(rests, 0)
  m.clock.advance(1)
  t.equal(rests, 1, 'after the start')
  for (let n = 0; n < 20; n += 1) {
    m.clock.advance(15_000)
    m.link().say({ t: 'pong', n })
    m.link().say({ t: 'ping', n })
  }
  t.equal(rests, 1, 'pings are no work')
  t.equal(m.clock.armed(), 1)
  m.link().say(grantFrame())
  claim(m)
  for (let n = 1; n <= 20; n += 1) {
    write(m, n === 20 ? [resultRecord(n)] : lines(n, n))
    m.clock.advance(5_000)
    m.link().say({ t: 'ack', order: ORDER, upTo: n })
  }
  t.equal(rests, 1, 'not in the middle of a stream')
  m.link().say({ t: 'forget', order: ORDER })
  m.clock.advance(10_000)
  t.equal(rests, 2)
  m.link().say({ t: 'plan', query: 'cd'.repeat(16), build: 'prod', outageMinutes: 0 })
  m.clock.advance(9_000)
  m.plans[0]?.done({ refusal: { kind: 'internal', message: 'no', remedy: 'none' } })
  m.clock.advance(9_999)
  t.equal(rests, 2, 'counted from the answer')
  m.clock.advance(1)
  t.equal(rests, 3)
  m.reconnect()
  m.accept()
  m.agent.stop()
  m.clock.advance(60_000)
  t.equal(rests, 3, 'not after its end')
  t.end()
})

t.test('[AGT-13] a sign from the file system ships at once what the poll would ship later', (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 1))
  m.clock.advance(200)
  const { folder } = orderLayoutOf(m.layout, ORDER)
  write(m, lines(2, 2))
  for (let n = 0; n < 100; n += 1) {
    m.watched.get(folder)?.()
    m.clock.advance(1)
  }
  t.same(shipped(m), [1, 2], 'also when signs come without a pause')
  write(m, [resultRecord(3)])
  m.clock.advance(200)
  t.same([...m.watched.keys()], [], 'what has ended is not watched')
  t.end()
})

t.test('[AGT-14] files that are not what the runner writes are named in the log, and stop nothing else', (t) => {
  const contents: [string, RegExp][] = [
    ['not json\n', /line 1 is not JSON/],
    [`${JSON.stringify(lineRecord(2))}\n`, /line 1 has number 2/],
    [`${JSON.stringify({ ...lineRecord(1), extra: 1 })}\n`, /line 1 is no record/],
    [`${JSON.stringify(lineRecord(1, 'x'.repeat(1_100_000)))}\n`, /longer than a frame/],
  ]
  for (const [content, words] of contents) {
    const m = machine(t)
    m.agent.start()
    m.accept()
    m.link().say(grantFrame())
    claim(m)
    writeFileSync(orderLayoutOf(m.layout, ORDER).records, content)
    claim(m, SECOND)
    m.link().say({ ...grantFrame({ order: SECOND }), order: SECOND })
    write(m, lines(1, 2), SECOND)
    m.clock.advance(1000)
    t.match(errors(m).join(), words)
    t.equal(errors(m).length, 1, 'once')
    t.same(shipped(m), [1, 2], 'the other order is shipped')
  }
  t.end()
})

t.test('[AGT-14] a records file that becomes shorter, or a disk that fails, is told; nothing wrong is sent', (t) => {
  const real = createRealDisk()
  let failing = false
  const m = machine(t, {
    disk: {
      ...real,
      fsync: (path) => {
        if (failing && path.endsWith('records'))
          throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
        real.fsync(path)
      },
    },
  })
  m.agent.start()
  m.accept()
  m.link().say(grantFrame())
  claim(m)
  write(m, lines(1, 2))
  m.clock.advance(200)
  failing = true
  write(m, lines(3, 3))
  m.clock.advance(200)
  t.same(shipped(m), [1, 2], 'not synced, not sent')
  t.match(errors(m).join(), /EIO/)
  failing = false
  m.clock.advance(200)
  t.same(shipped(m), [1, 2, 3])
  truncateSync(orderLayoutOf(m.layout, ORDER).records, 10)
  m.clock.advance(200)
  t.match(errors(m).join(), /has become shorter/)
  t.same(shipped(m), [1, 2, 3])
  t.end()
})

t.test(
  '[RBT-10] the agent tells the runner what is acknowledged of an order that is about to reboot, and of no other',
  (t) => {
    const m = machine(t)
    m.agent.start()
    m.accept()
    m.link().say(grantFrame())
    claim(m)
    write(m, lines(1, 3))
    m.clock.advance(200)
    m.link().say({ t: 'ack', order: ORDER, upTo: 3 })
    const path = join(m.layout.acked, ORDER)
    t.notOk(existsSync(path))
    writeFileSync(orderLayoutOf(m.layout, ORDER).reboot, '{}')
    write(m, lines(4, 5))
    m.clock.advance(200)
    m.link().say({ t: 'ack', order: ORDER, upTo: 4 })
    t.equal(readFileSync(path, 'utf8'), '4\n')
    m.link().say({ t: 'ack', order: ORDER, upTo: 5 })
    t.equal(readFileSync(path, 'utf8'), '5\n')
    write(m, [resultRecord(6)])
    m.clock.advance(200)
    m.link().say({ t: 'ack', order: ORDER, upTo: 6 })
    m.link().say({ t: 'forget', order: ORDER })
    t.notOk(existsSync(path), 'and nothing of it is left when the order is let go')
    t.end()
  },
)
