/** The bounds of a session: order, share, silence, slowness, numbers; over links without a network. */
import t from 'tap'
import { createBucket } from '../../coordinator/sessions/settings.ts'
import { HELLO, MACHINE, ORDER, settle } from './fakes.ts'

import { connect, open, prove, queryRefused, types, world } from './sessions-world.ts'

t.test('[SES-7] frames reach the core one at a time and in the order in which they came', async (t) => {
  const w = world()
  const peer = await open(w)
  w.core.hold = true
  for (const n of [1, 2, 3]) peer.say(queryRefused(n))
  await settle()
  const heard = () =>
    w.core.events.flatMap((event) =>
      event.type === 'agentNews' && event.news.t === 'planRefused' ? [Number(event.news.query)] : [],
    )
  t.same(heard(), [1])
  w.core.release?.()
  await settle()
  t.same(heard(), [1, 2])
  peer.events.onClosed('gone')
  w.core.release?.()
  await settle()
  t.same(heard(), [1, 2, 3], 'what was said before the loss is still heard')
  t.notOk(types(w).includes('sessionClosed'), 'the end is told after all of it')
  w.core.release?.()
  w.core.hold = false
  await settle()
  t.match(w.core.events.at(-1), { type: 'sessionClosed', machine: MACHINE, reason: 'gone' })
})

t.test('[SES-7] frames that come while the hello is decided wait for it', async (t) => {
  const w = world()
  w.core.hold = true
  const peer = connect(w)
  prove(w, peer, 1)
  peer.say(HELLO)
  peer.say(queryRefused(1))
  await settle()
  t.same(types(w), ['sessionOpened'])
  w.core.release?.()
  await settle()
  t.same(types(w), ['sessionOpened', 'agentNews'])
})

t.test('[SES-8] while the core is behind, the peer is not read, and nothing is dropped', async (t) => {
  const w = world({ queuedFramesMax: 4 })
  const peer = await open(w)
  w.core.hold = true
  for (let n = 0; n < 5; n += 1) peer.say(queryRefused(n))
  t.ok(peer.link.paused)
  w.clock.advance(14_000)
  for (let n = 0; n < 5; n += 1) {
    w.core.release?.()
    await settle()
  }
  t.notOk(peer.link.paused)
  t.equal(types(w).filter((type) => type === 'agentNews').length, 5)
  t.equal(peer.link.closed, null)
})

t.test('[SES-8] an agent beyond its share is slowed down, never cut off', async (t) => {
  const w = world({ messagesPerSecondMax: 10, bytesPerSecondMax: 1000 })
  const peer = await open(w)
  w.clock.advance(1000)
  for (let n = 0; n < 15; n += 1) peer.say(queryRefused(n))
  t.ok(peer.link.paused, 'more messages than a second may have')
  await settle()
  w.clock.advance(499)
  t.ok(peer.link.paused)
  w.clock.advance(1)
  t.notOk(peer.link.paused)
  t.equal(types(w).filter((type) => type === 'agentNews').length, 15, 'all of them were heard')
  w.clock.advance(1000)
  peer.events.onBytes(3000)
  t.ok(peer.link.paused, 'more bytes than a second may have')
  w.clock.advance(2000)
  t.notOk(peer.link.paused)
  t.equal(peer.link.closed, null)
})

t.test('[SES-8] the bucket gives back what time brings, and no more than a second of it', (t) => {
  const bucket = createBucket(10)
  t.equal(bucket.take(0, 10), 0)
  t.equal(bucket.take(0, 1), 100)
  t.equal(bucket.take(60_000, 10), 0, 'a long rest saves up one second only')
  t.equal(bucket.take(60_000, 5), 500)
  t.end()
})

t.test('[SES-9] both sides hear of each other; a peer that is silent for 45 s is dropped', async (t) => {
  const w = world()
  const peer = await open(w)
  w.clock.advance(15_000)
  t.match(peer.link.sent.at(-1), { t: 'ping', n: 1 })
  peer.say({ t: 'pong', n: 1 })
  peer.say({ t: 'ping', n: 7 })
  t.match(peer.link.sent.at(-1), { t: 'pong', n: 7 })
  w.clock.advance(44_000)
  t.notOk(peer.link.terminated, 'heard of 44 s ago')
  w.clock.advance(16_000)
  t.ok(peer.link.terminated)
  await settle()
  t.match(w.core.events.at(-1), { type: 'sessionClosed', reason: /nothing was heard/ })
  t.same(w.sessions.stats(), { connected: 0, unauthenticated: 0, ended: { silent: 1 } })
  t.equal(w.clock.armed(), 0, 'no timer is left behind')
})

t.test('[SES-9] a peer that we do not read is not taken for silent', async (t) => {
  const w = world({ queuedFramesMax: 1 })
  const peer = await open(w)
  w.core.hold = true
  peer.say(queryRefused(1))
  peer.say(queryRefused(2))
  t.ok(peer.link.paused)
  w.clock.advance(200_000)
  t.notOk(peer.link.terminated)
  w.core.release?.()
  await settle()
  w.core.release?.()
  await settle()
  w.clock.advance(40_000)
  t.notOk(peer.link.terminated, 'the silence is counted from the moment at which reading began again')
})

t.test('[SES-10] who does not prove a key and say hello within 5 s is turned away with 4408', async (t) => {
  for (const isProved of [false, true]) {
    const w = world()
    const peer = connect(w)
    if (isProved) prove(w, peer, 1)
    w.clock.advance(4999)
    t.equal(peer.link.closed, null)
    w.clock.advance(1)
    t.match(peer.link.closed, { code: 4408 })
    await settle()
    t.same(w.core.events, [])
    t.equal(w.sessions.stats().unauthenticated, 0)
  }
})

t.test('[SES-11] unproved connections are few: of one address, of all, and in bytes', async (t) => {
  const w = world({ unauthenticatedMax: 3, unauthenticatedPerAddressMax: 2, unauthenticatedBytesMax: 1000 })
  connect(w, '10.0.0.1')
  const second = connect(w, '10.0.0.1')
  const third = connect(w, '10.0.0.1')
  t.match(third.link.closed, { code: 4029, reason: /10\.0\.0\.1/ })
  third.say(HELLO)
  connect(w, '10.0.0.2')
  t.match(connect(w, '10.0.0.3').link.closed, { code: 4029, reason: /3 connections/ })
  prove(w, second, 1)
  t.equal(w.sessions.refusalFor('10.0.0.1'), null, 'a proof makes room')
  const flood = connect(w, '10.0.0.1')
  flood.events.onBytes(1001)
  t.match(flood.link.closed, { code: 4400, reason: /before the key was proved/ })
  t.equal(w.sessions.refusalFor('10.0.0.1'), null, 'and so does an end')
})

t.test('[SES-15] a peer that takes nothing is dropped after 10 s, and pings fill no memory', async (t) => {
  const w = world()
  const peer = await open(w)
  peer.link.buffered = 70_000
  const before = peer.link.sent.length
  peer.say({ t: 'ping', n: 1 })
  t.equal(peer.link.sent.length, before, 'no pong on a full socket')
  peer.link.buffered = 1_048_577
  w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'revoke', order: ORDER } })
  w.clock.advance(5000)
  peer.link.buffered = 0
  w.clock.advance(10_000)
  t.notOk(peer.link.terminated, 'it took them in time')
  peer.say({ t: 'pong', n: 1 })
  peer.link.buffered = 1_048_577
  w.sessions.send({ to: 'agent', machine: MACHINE, frame: { t: 'revoke', order: ORDER } })
  w.clock.advance(10_000)
  t.ok(peer.link.terminated)
  t.match(w.sessions.stats().ended, { slowConsumer: 1 })
})
