/** Who is let in, what is understood, and what the core hears and sends; over links without a network. */
import { createPublicKey, verify } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { closeReason } from '../../coordinator/sessions/link.ts'
import { type AgentFrame, AGENT_FRAME_BYTES_MAX, agentFrameSchema } from '../../protocol/agent.ts'
import { decodeFrame } from '../../protocol/decode.ts'
import { GRANT_SIGNATURE_PREFIX } from '../../protocol/files.ts'
import {
  HASH,
  HELLO,
  INCARNATION,
  MACHINE,
  ORDER,
  OTHER_MACHINE,
  PLAN,
  PLAN_HASH,
  authFrame,
  createKey,
  grantPayload,
  grantSend,
  lineRecord,
  machineRow,
  recordsFrame,
  settle,
} from './fakes.ts'

import { connect, open, prove, queryRefused, types, world } from './sessions-world.ts'

t.test('[SES-1] challenge, auth, ready, hello: only then the core hears of the machine', async (t) => {
  const w = world()
  const peer = connect(w)
  t.match(peer.link.sent[0], { t: 'challenge', instance: 'prod', incarnation: INCARNATION })
  t.same(w.sessions.stats().unauthenticated, 1)
  prove(w, peer, 1)
  t.match(peer.link.sent[1], { t: 'ready' })
  t.same(w.core.events, [], 'a proof alone tells the core nothing')
  peer.say(HELLO)
  await settle()
  t.match(w.core.events, [{ type: 'sessionOpened', machine: MACHINE, counter: 1, address: '10.0.0.1', hello: HELLO }])
  t.same(w.sessions.stats(), { connected: 1, unauthenticated: 0, ended: {} })
})

t.test(
  '[SES-2] a proof counts only with the stored key, for this connection, and for the machine that it names',
  async (t) => {
    const wrongKey = world()
    const peer = connect(wrongKey)
    peer.say(authFrame(createKey(), peer.link.sent[0], 1))
    t.match(peer.link.closed, { code: 4401, reason: /signature is not by the key/ })

    const unknown = world()
    const stranger = connect(unknown)
    stranger.say(authFrame(unknown.key, stranger.link.sent[0], 1, { machine: '99'.repeat(16) }))
    t.match(stranger.link.closed, { code: 4401, reason: /is not enrolled here/ })

    const swapped = world()
    const impostor = connect(swapped)
    impostor.say(authFrame(swapped.key, impostor.link.sent[0], 1, { machine: OTHER_MACHINE }))
    t.match(impostor.link.closed, { code: 4401 }, 'a right key does not prove another machine')

    const replayed = world()
    const first = connect(replayed)
    const proof = authFrame(replayed.key, first.link.sent[0], 1)
    const second = connect(replayed)
    second.say(proof)
    t.match(second.link.closed, { code: 4401 }, 'a proof of another connection')

    const empty = world()
    const blank = connect(empty)
    blank.say({ ...authFrame(empty.key, blank.link.sent[0], 1), signature: '' })
    t.match(blank.link.closed, { code: 4401 })
    await settle()
    for (const w of [wrongKey, unknown, swapped, replayed, empty])
      t.same(w.core.events, [], 'the core never hears of it')
  },
)

t.test('[SES-3] a counter that was used before is told to the core and ends the connection with 4010', async (t) => {
  const w = world()
  await open(w, 5)
  for (const counter of [5, 4]) {
    const clone = connect(w)
    prove(w, clone, counter)
    await settle()
    t.match(clone.link.closed, { code: 4010, reason: /two machines hold one key/ })
    t.match(w.core.events.at(-1), {
      type: 'keyShared',
      machine: MACHINE,
      address: '10.0.0.1',
      problem: new RegExp(`counter ${counter} `),
    })
  }
  const forged = connect(w)
  forged.say(authFrame(createKey(), forged.link.sent[0], 1))
  await settle()
  t.equal(types(w).filter((type) => type === 'keyShared').length, 2, 'a wrong key can put nobody in quarantine')

  const early = world()
  const one = connect(early)
  const two = connect(early)
  prove(early, one, 1)
  prove(early, two, 1)
  t.match(two.link.closed, { code: 4010 }, 'also before the first of two has said hello')
})

t.test(
  '[SES-3] an older connection of one holder that was overtaken on its way puts nobody in quarantine',
  async (t) => {
    const w = world()
    const older = connect(w)
    const newer = connect(w)
    prove(w, newer, 2)
    newer.say(HELLO)
    prove(w, older, 1)
    await settle()
    t.match(older.link.closed, { code: 4009, reason: /overtaken/ })
    t.same(types(w), ['sessionOpened'])

    const late = world()
    const first = connect(late)
    prove(late, first, 1)
    const second = connect(late)
    prove(late, second, 2)
    second.say(HELLO)
    first.say(HELLO)
    await settle()
    t.match(first.link.closed, { code: 4009, reason: /overtaken/ }, 'also when only its hello was late')
    t.same(types(late), ['sessionOpened'])
    t.equal(second.link.closed, null)

    const clone = connect(late)
    prove(late, clone, 1)
    await settle()
    t.match(clone.link.closed, { code: 4010 }, 'a challenge that came after the newer proof excuses nothing')
  },
)

t.test('[SES-4] quarantined and retired machines are turned away with the reason', async (t) => {
  const w = world()
  w.core.machines.set(MACHINE, machineRow(w.key, { quarantined: 'two holders of its key' }))
  const peer = connect(w)
  prove(w, peer, 1)
  t.match(peer.link.closed, { code: 4010, reason: /two holders of its key/ })
  w.core.machines.set(MACHINE, machineRow(w.key, { state: 'retired' }))
  const gone = connect(w)
  prove(w, gone, 1)
  t.match(gone.link.closed, { code: 4403, reason: /retired/ })
  await settle()
  t.same(w.core.events, [])
})

t.test('[SES-5] a verb out of its order ends the connection with 4400 and the word for it', async (t) => {
  const frames: AgentFrame[] = [
    HELLO,
    queryRefused(1),
    recordsFrame(1, 1),
    { t: 'ping', n: 1 },
    { t: 'granted', order: ORDER, fence: 1 },
  ]
  for (const frame of frames) {
    const w = world()
    const peer = connect(w)
    peer.say(frame)
    t.match(
      peer.link.closed,
      { code: 4400, reason: new RegExp(`'${frame.t}' before the key was proved`) },
      `${frame.t} before auth`,
    )
    if (frame.t === 'hello') continue
    const proved = connect(w)
    prove(w, proved, 1)
    proved.say(frame)
    t.match(proved.link.closed, { code: 4400, reason: /before 'hello'/ }, `${frame.t} before hello`)
    await settle()
    t.same(w.core.events, [])
  }
  for (const again of ['auth', 'hello'] as const) {
    const w = world()
    const peer = await open(w)
    peer.say(again === 'hello' ? HELLO : authFrame(w.key, peer.link.sent[0], 2))
    t.match(peer.link.closed, { code: 4400, reason: /a second time/ })
    await settle()
    t.same(types(w), ['sessionOpened', 'sessionClosed'])
  }
})

t.test(
  '[SES-6] a malformed frame ends its own connection, says what and where, and nothing else notices',
  async (t) => {
    const cases: [string, string | Uint8Array, boolean, RegExp][] = [
      ['no JSON', '{', false, /not JSON/],
      ['no object', '[1]', false, /not a JSON object/],
      ['null', 'null', false, /not a JSON object/],
      ['binary', Buffer.from('{"t":"ping","n":1}'), true, /binary/],
      ['unknown verb', '{"t":"exec","command":"id"}', false, /malformed frame: t/],
      ['unknown field', '{"t":"ping","n":1,"x":1}', false, /malformed frame: x/],
      ['inherited field', '{"t":"ping","n":1,"constructor":1}', false, /malformed frame: constructor/],
      ['prototype', '{"t":"ping","n":1,"__proto__":{}}', false, /malformed frame/],
      ['key twice', '{"t":"ping","n":1,"n":2}', false, /twice/],
      [
        'deep value',
        JSON.stringify({ ...recordsFrame(1, 2), records: [lineRecord(1), { ...lineRecord(2), step: 'x' }] }),
        false,
        /records/,
      ],
      ['not UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), false, /not JSON/],
      ['number beyond the safe', '{"t":"ping","n":9007199254740993}', false, /malformed frame: n/],
      ['too large', ' '.repeat(AGENT_FRAME_BYTES_MAX + 1), false, /more than 1048576 bytes/],
      ['deep nesting', '['.repeat(100_000), false, /not JSON/],
    ]
    for (const [name, data, isBinary, reason] of cases) {
      const w = world()
      const other = await open(world())
      const peer = await open(w)
      peer.events.onMessage(data, isBinary)
      t.match(peer.link.closed, { code: 4400, reason }, name)
      await settle()
      t.same(types(w), ['sessionOpened', 'sessionClosed'], name)
      t.equal(other.link.closed, null)
      t.match(w.sessions.stats().ended, { malformed: 1 })
      t.ok(
        w.log.lines.some(
          (line) => line.level === 'warn' && line.fields['end'] === 'malformed' && line.fields['machine'] === MACHINE,
        ),
        `${name} is logged`,
      )
      peer.say(queryRefused(1))
      await settle()
      t.equal(w.core.events.length, 2, 'after the end nothing more is heard')
    }
  },
)

t.test('[SES-6] no bytes make a session throw, or reach the core before a proof', async (t) => {
  const checked = fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          fc.json().map((text) => Buffer.from(text)),
          fc
            .record({ t: fc.constantFrom('auth', 'hello', 'records', 'ping', 'planned'), n: fc.anything() })
            .map((value) => Buffer.from(JSON.stringify(value))),
        ),
        { maxLength: 5 },
      ),
      fc.boolean(),
      fc.boolean(),
      async (messages, isBinary, isOpen) => {
        const w = world({}, KEY)
        const peer = isOpen ? await open(w) : connect(w)
        const before = w.core.events.length
        for (const message of messages) peer.events.onMessage(message, isBinary)
        await settle()
        const heard = w.core.events.slice(before).map((event) => event.type)
        return isOpen ? heard.every((type) => type === 'sessionClosed') : heard.length === 0
      },
    ),
    { numRuns: 400 },
  )
  await t.resolves(checked)
})
const KEY = createKey()

t.test('[SES-6] what the decoder accepts, it accepts again as it stands', (t) => {
  const check = () =>
    fc.assert(
      fc.property(fc.json(), fc.boolean(), (text, isBinary) => {
        const decoded = decodeFrame(agentFrameSchema, text, isBinary, 1000)
        return decoded.ok
          ? !isBinary && decodeFrame(agentFrameSchema, JSON.stringify(decoded.value), false, 1000).ok
          : decoded.refusal.message !== ''
      }),
    )
  t.doesNotThrow(check)
  t.end()
})

t.test('[SES-12] the newer of two proved connections of a machine wins, the older is closed with 4009', async (t) => {
  const w = world()
  const older = await open(w, 1)
  const newer = connect(w, '10.0.0.9')
  prove(w, newer, 2)
  t.equal(older.link.closed, null, 'until the newer says hello')
  newer.say(HELLO)
  w.clock.advance(2_999)
  t.equal(older.link.closed, null, 'it has its time to show that it is alive')
  w.clock.advance(1)
  t.match(older.link.closed, { code: 4009, reason: /10\.0\.0\.9/ })
  await settle()
  const [opened, again, closed] = w.core.events
  t.match([opened, again, closed], [{ type: 'sessionOpened' }, { type: 'sessionOpened' }, { type: 'sessionClosed' }])
  t.equal(closed?.type === 'sessionClosed' && closed.session, opened?.type === 'sessionOpened' && opened.session)
  w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'revoke', order: ORDER } })
  t.match(newer.link.sent.at(-1), { t: 'revoke' })
  older.events.onClosed('late')
  t.equal(w.sessions.stats().connected, 1)
})

t.test('[SES-20] an older connection that still answers shows two holders of one key', async (t) => {
  const w = world()
  const older = await open(w, 1)
  const clone = connect(w, '10.0.0.9')
  prove(w, clone, 2)
  clone.say(HELLO)
  await settle()
  t.equal(types(w).filter((type) => type === 'sessionOpened').length, 1, 'it is not taken before that is known')
  const asked = older.link.sent.at(-1)
  t.match(asked, { t: 'ping' })
  older.say({ t: 'pong', n: 1_000_000 })
  t.equal(clone.link.closed, null, 'another pong is no answer')
  older.say({ t: 'pong', n: asked?.t === 'ping' ? asked.n : 0 })
  await settle()
  t.match(clone.link.closed, { code: 4010, reason: /two machines hold one key/ })
  t.match(w.core.events.at(-1), { type: 'keyShared', machine: MACHINE, address: '10.0.0.9' })
  w.clock.advance(10_000)
  t.equal(types(w).filter((type) => type === 'sessionOpened').length, 1)
})

t.test('[SES-20] the newer connection is taken at once when the older ends, and may end while it waits', async (t) => {
  const w = world()
  const older = await open(w, 1)
  const gone = connect(w)
  prove(w, gone, 2)
  gone.say(HELLO)
  gone.events.onClosed('lost')
  const newer = connect(w)
  prove(w, newer, 3)
  newer.say(HELLO)
  older.events.onClosed('lost')
  await settle()
  t.strictSame(types(w), ['sessionOpened', 'sessionOpened', 'sessionClosed'])
  w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'revoke', order: ORDER } })
  t.match(newer.link.sent.at(-1), { t: 'revoke' })
})

t.test('[SES-12] what the core sends in the turn of a hello reaches the connection of that hello', async (t) => {
  const w = world()
  const { submit } = w.core
  const sessions = w.sessions
  Object.assign(w.core, {
    submit: (...input: Parameters<typeof submit>) => {
      if (input[1].type === 'sessionOpened')
        sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'ack', order: ORDER, upTo: 3 } })
      return submit(...input)
    },
  })
  const peer = await open(w)
  t.match(peer.link.sent.at(-1), { t: 'ack', upTo: 3 })
})

t.test('[SES-13] a grant carries a signature over its exact bytes, and the plan from the store', async (t) => {
  const w = world()
  const peer = await open(w)
  w.sessions.send(grantSend(grantPayload()))
  const frame = peer.link.sent.at(-1)
  if (frame?.t !== 'grant') throw new Error('no grant')
  const bytes = Buffer.from(frame.grant.payload, 'base64')
  t.same(JSON.parse(bytes.toString()), grantPayload())
  const key = createPublicKey({ key: Buffer.from(w.orderKey.publicKey, 'base64'), format: 'der', type: 'spki' })
  const signed = Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes])
  t.ok(verify(null, signed, key, Buffer.from(frame.grant.signature, 'base64')))
  t.notOk(verify(null, bytes, key, Buffer.from(frame.grant.signature, 'base64')), 'the prefix is signed with it')
  t.same(frame.grant.plan, PLAN)
  w.sessions.send({ to: 'agent', machine: MACHINE, offer: { order: ORDER, planHash: PLAN_HASH } })
  t.match(peer.link.sent.at(-1), { t: 'offer', order: ORDER, planHash: PLAN_HASH, plan: PLAN })
  const before = peer.link.sent.length
  w.sessions.send({ to: 'agent', machine: MACHINE, offer: { order: ORDER, planHash: HASH } })
  w.sessions.send({ to: 'agent', machine: OTHER_MACHINE, frame: { t: 'revoke', order: ORDER } })
  t.equal(peer.link.sent.length, before, 'an unknown plan and an absent machine send nothing, and nothing throws')
  t.ok(w.log.lines.some((line) => line.level === 'error' && line.fields['planHash'] === HASH))
})

t.test('[SES-14] the core can drop a session, and its no to a hello ends the connection', async (t) => {
  const w = world()
  const peer = await open(w)
  const opened = w.core.events[0]
  if (opened?.type !== 'sessionOpened') throw new Error('not opened')
  w.sessions.send({ to: 'agent', machine: MACHINE, drop: { session: 'f'.repeat(32), reason: 'quarantined' } })
  t.equal(peer.link.closed, null, 'another session is none of this one')
  w.sessions.send({ to: 'agent', machine: MACHINE, drop: { session: opened.session, reason: 'quarantined' } })
  t.match(peer.link.closed, { code: 4010, reason: /quarantined/ })

  for (const [kind, code] of [
    ['quarantined', 4010],
    ['not-allowed', 4403],
    ['internal', 4403],
  ] as const) {
    const v = world()
    v.core.replies.push({ ok: false, refusals: [{ kind, message: 'not you', remedy: 'none' }] })
    const refused = await open(v)
    t.match(refused.link.closed, { code, reason: 'not you' })
    t.same(types(v), ['sessionOpened'], 'what was never opened is not closed')
  }
})

t.test('[SES-14] the core refusing a frame ends the connection only when a rule was broken', async (t) => {
  const w = world()
  const peer = await open(w)
  w.core.replies.push({ ok: false, refusals: [{ kind: 'not-found', message: 'no such query', remedy: 'none' }] })
  peer.say(queryRefused(1))
  await settle()
  t.equal(peer.link.closed, null)
  w.core.replies.push({ ok: false, refusals: [{ kind: 'not-allowed', message: 'not your order', remedy: 'none' }] })
  peer.say(recordsFrame(1, 1))
  await settle()
  t.match(peer.link.closed, { code: 4403, reason: 'not your order' })
})

t.test('[SES-16] when the core ends, connections end with 1001 and none is taken', async (t) => {
  const w = world()
  const peer = await open(w)
  w.core.replies.push(new Error('disk full'))
  peer.say(queryRefused(1))
  await settle()
  t.match(peer.link.closed, { code: 1001 })
  const v = world()
  const other = await open(v)
  v.sessions.stop()
  t.match(other.link.closed, { code: 1001 })
  t.match(connect(v).link.closed, { code: 1001 })
  await settle()
  t.equal(v.clock.armed(), 0)
})

t.test('[SES-6] a close reason fits its frame and is whole characters', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('a', 'ä', '€', '😀'), { maxLength: 200 }).map((all) => all.join('')),
      (text) => {
        const bytes = Buffer.byteLength(closeReason(text))
        return bytes <= 123 && (Buffer.byteLength(text) > 123 || closeReason(text) === text)
      },
    ),
  )
  t.notMatch(closeReason('ä'.repeat(200)), /\ufffd/)
  t.end()
})
