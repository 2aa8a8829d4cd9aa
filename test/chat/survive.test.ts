/** What Slack does to those who connect to it (its rates, failures, refreshes, revocations), with its own libraries. */
import t from 'tap'
import { SlackError } from '../../coordinator/chat/ports.ts'
import { createSlack } from '../../coordinator/chat/slack.ts'
import { StandIn } from './standin.ts'
import { createChatWorld, runOf } from './world.ts'

const HELP = /^I'm igorina/

t.test('[BOT-20] a delivery that comes twice is one message, also after a restart and as a mention', async (t) => {
  const chat = await createChatWorld(t)
  const { slack } = chat
  const ts = slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.message('D0ANA', HELP)
  const event = { type: 'message', channel_type: 'im', channel: 'D0ANA', user: 'U0ANA', text: 'smith-help', ts }
  const again = slack.event(event)
  await chat.until('the acknowledgement', () => slack.acks.includes(again))
  slack.event({ ...event, type: 'app_mention' })
  chat.life.kill()
  chat.life = chat.live()
  slack.event(event)
  slack.say('U0ANA', 'D0ANA', 'smith-helq')
  await chat.message('D0ANA', /Did you mean `smith-help`/)
  await chat.quiet()
  t.equal(slack.in('D0ANA').filter((message) => HELP.test(message.text)).length, 1)
})

t.test('[BOT-21] a refresh leaves no gap: the next connection stands before the old one goes', async (t) => {
  const chat = await createChatWorld(t)
  const { slack } = chat
  for (const reason of ['warning', 'refresh_requested']) {
    const opened = slack.opened
    const [old] = slack.sockets
    slack.disconnect(reason)
    slack.say('U0ANA', 'D0ANA', `smith-status ${reason}`)
    await chat.until('the next connection', () => slack.opened > opened)
    await chat.until('the end of the old one', () => old?.readyState === old?.CLOSED)
  }
  await chat.until('both answers', () => slack.in('D0ANA').filter((one) => /is no change/.test(one.text)).length === 2)
  const opened = slack.opened
  slack.disconnect('too_many_websockets')
  await chat.until('one connection again', () => slack.opened > opened && slack.sockets.size === 1)
  for (const socket of slack.sockets) socket.terminate()
  slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.message('D0ANA', HELP)
  t.equal(slack.acks.length, 3, 'each was acknowledged')
})

t.test(
  '[BOT-21] a connection that is never greeted is given up, and what is not understood ends nothing',
  async (t) => {
    const chat = await createChatWorld(t, { times: { call: 200 }, startsLater: true })
    const { slack } = chat
    slack.greets = false
    chat.life = chat.live()
    await chat.until('another try', () => slack.opened > 1)
    slack.greets = true
    await chat.until('a greeting', () => chat.life.chat.troubles().length === 0 && slack.sockets.size === 1)
    for (const frame of ['no JSON', '[]', 'null', '7', '{}', { type: 'events_api', envelope_id: 'x' }])
      slack.frame(frame)
    slack.deliver('events_api', { type: 'app_rate_limited', team_id: 'T0ACME', minute_rate_limited: 1 })
    await chat.until('a word about it', () => /limits the events/.test(chat.life.chat.troubles().join()))
    slack.event({ type: 'message', channel_type: 'im', channel: 'D0ANA', subtype: 'message_changed', message: {} })
    slack.event({ type: 'reaction_added' })
    slack.deliver('slash_commands', { command: '/smith' })
    slack.deliver('interactive', { type: 'view_submission' })
    slack.say('U0ANA', 'D0ANA', 'smith-help')
    await chat.message('D0ANA', HELP)
    t.equal(slack.in('D0ANA').length, 1)
  },
)

t.test(
  '[BOT-22] a token that is revoked stops nothing but the talking: it is told, and a new one is good at once',
  async (t) => {
    const chat = await createChatWorld(t)
    const { slack, world } = chat
    const machine = await world.machine('prod-dal10-web-1')
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
    const raised = await chat.message('D0ANA', /^Change request raised/)
    const change = /CHG\d{7}/.exec(raised.text)?.[0] ?? ''
    await chat.quiet()
    const said = slack.posted.length
    slack.badTokens.add(chat.life.botToken)
    slack.badTokens.add(chat.life.appToken)
    for (const socket of slack.sockets) socket.terminate()
    await chat.until('a word about it', () => /revoked/.test(chat.life.chat.troubles().join()))
    const digest = await world.digest(change)
    const approve = { type: 'decide', change, decision: 'approve', digest, reason: '' } as const
    await world.command(approve, { kind: 'person', name: 'bo', roles: ['approver'] })
    await chat.until('the grant, without Slack', () => machine.grants.length > 0)
    await runOf(machine, 'succeeded')
    t.equal((await world.call('project', 'ana', { params: { change } })).body.status.state, 'complete')
    t.equal(slack.posted.length, said, 'nothing could be said')
    t.same(world.fatal, [])
    chat.secrets.set('/bot', 'xoxb-new')
    chat.secrets.set('/app', 'xapp-new')
    await chat.message('D0ANA', /is `complete`/)
    slack.say('U0ANA', 'D0ANA', 'smith-help')
    await chat.message('D0ANA', HELP)
    await chat.until('no trouble', () => chat.life.chat.troubles().length === 0)
  },
)

t.test('[BOT-22] a secret that is missing or others can read is a trouble, not the end', async (t) => {
  const chat = await createChatWorld(t, { startsLater: true, config: { appTokenFile: '/none' } })
  chat.life = chat.live()
  await chat.until('a word about it', () => /the app token can't be read/.test(chat.life.chat.troubles().join()))
  chat.secrets.set('/none', 'xapp-late')
  await chat.until('a connection', () => chat.slack.sockets.size === 1)
  t.same(chat.slack.posted, [])
})

for (const [name, fault] of [
  ['an answer that was lost', 'lost'],
  ['an internal error', { error: 'internal_error' }],
  ['a 503', { status: 503 }],
  ['HTML at 200', { status: 200, body: '<html>' }],
] as const) {
  t.test(`[BOT-23] after ${name} a message is looked for before it is said again`, async (t) => {
    const chat = await createChatWorld(t)
    const { slack } = chat
    slack.fault('chat.postMessage', fault)
    slack.say('U0ANA', 'D0ANA', 'smith-help')
    await chat.message('D0ANA', HELP)
    await chat.quiet()
    t.equal(slack.in('D0ANA').length, 1)
    t.ok(slack.calls.some((call) => call.method === 'conversations.history'))
    slack.say('U0ANA', 'C0OPS', '<@U0SMITH> smith-help')
    slack.fault('chat.postMessage', fault)
    await chat.message('C0OPS', HELP)
    await chat.quiet()
    t.equal(slack.in('C0OPS').length, 1)
    t.ok(
      slack.calls.some((call) => call.method === 'conversations.replies'),
      'in a thread it looks there',
    )
  })
}

t.test('[BOT-23] a call that is never answered ends in time, and is not taken as done', async (t) => {
  const chat = await createChatWorld(t, { times: { call: 300 } })
  chat.slack.fault('chat.postMessage', 'hang')
  chat.slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.message('D0ANA', HELP)
  t.equal(chat.slack.in('D0ANA').length, 1)
})

t.test('[BOT-24] rates: 429 is waited for as long as it says', async (t) => {
  const chat = await createChatWorld(t)
  const { slack } = chat
  slack.fault('chat.postMessage', { status: 429, headers: { 'retry-after': '1' } }, 2)
  slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.message('D0ANA', HELP)
  const tries = slack.calls.filter((call) => call.method === 'chat.postMessage').map((call) => call.at)
  t.equal(tries.length, 3)
  t.ok((tries[1] ?? 0) - (tries[0] ?? 0) >= 990, 'not before its time')
  t.equal(slack.in('D0ANA').length, 1)
  t.notOk(
    slack.calls.some((call) => call.method === 'conversations.history'),
    'what was refused for its rate is not there',
  )
})

t.test('[BOT-24] many messages keep to the rate of a channel, and edits are few', async (t) => {
  const chat = await createChatWorld(t, { times: { postGap: 250, editGap: 100_000 } })
  const { slack } = chat
  slack.postsPerSecond = 8
  for (let count = 0; count < 14; count += 1) slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.until('all answers', () => slack.in('D0ANA').length === 14)
  const refused = chat.logged.filter(({ message }) => message === 'a message was not brought to Slack')
  t.same(refused, [], 'Slack never had to say no')
})

t.test('[BOT-25] what Slack refuses for good is given up with its reason, and the next message is said', async (t) => {
  const chat = await createChatWorld(t, { config: { logChannel: 'C0GONE' } })
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const plan = await chat.message('D0ANA', /Digest:/)
  slack.click('U0BO', plan, 'smith_approve')
  await chat.until('the grant', () => machine.grants.length > 0)
  await runOf(machine, 'succeeded')
  await chat.message('D0ANA', /is `complete`/)
  const said = () => chat.logged.map(({ fields }) => ('err' in fields ? String(fields.err) : '')).join()
  await chat.until('a word about it', () => /channel_not_found/.test(said()))
  slack.fault('chat.update', { error: 'edit_window_closed' }, 100)
  slack.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.message('D0ANA', HELP)
  await chat.quiet()
})

t.test('[BOT-24] each way in which Slack says no is told apart', async (t) => {
  const standIn = await StandIn.start()
  t.teardown(() => standIn.close())
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
  const slack = createSlack({ apiUrl: standIn.apiUrl, timeoutMs: 300, log, token: () => 'xoxb-test' })
  const problemOf = async () => {
    const posting = slack.post({ channel: 'D0ANA', thread: null }, { text: 'x' }, 'key')
    const error = await posting.then(
      () => null,
      (reason: unknown) => reason,
    )
    return error instanceof SlackError ? error.problem : error
  }
  const limited = { kind: 'later', afterMs: 30_000 }
  for (const [fault, problem] of [
    [{ status: 429 }, limited],
    [
      { status: 429, headers: { 'retry-after': '7' } },
      { kind: 'later', afterMs: 7000 },
    ],
    [{ error: 'ratelimited' }, limited],
    [{ error: 'not_in_channel' }, { kind: 'refused', code: 'not_in_channel' }],
    [{ error: 'missing_scope' }, { kind: 'refused', code: 'missing_scope' }],
    [{ error: 'account_inactive' }, { kind: 'revoked' }],
    [{ error: 'internal_error' }, { kind: 'unsure' }],
    [{ status: 404 }, { kind: 'refused', code: 'HTTP 404' }],
    [{ status: 500 }, { kind: 'unsure' }],
    [{ status: 302, headers: { location: '/elsewhere' } }, { kind: 'unsure' }],
    ['hang', { kind: 'unsure' }],
  ] as const) {
    standIn.calls.length = 0
    standIn.clearFaults()
    standIn.fault('*', fault, 9)
    t.same(await problemOf(), problem, JSON.stringify(fault))
    t.equal(standIn.calls.length, 1, 'the client itself tries once')
  }
  await standIn.close()
  t.same(await problemOf(), { kind: 'unsure' }, 'nobody listens')
})

t.test('[BOT-21] Slack is gone as a whole and comes back: what was due is said, once', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const { port } = slack
  await slack.close()
  await chat.until('a word about it', () => /Slack \(connection\)/.test(chat.life.chat.troubles().join()))
  await world.machine('prod-dal10-web-1')
  const change = await world.raise('prod machines: prod-dal10-web-1 outage:0')
  const back = await StandIn.start(port)
  t.teardown(() => back.close())
  await chat.until('what was due', () => back.in('C0LOG').some((message) => message.text.includes(change)))
  back.say('U0ANA', 'D0ANA', 'smith-help')
  await chat.until('the answer', () => back.in('D0ANA').some((message) => HELP.test(message.text)))
  await chat.quiet()
  t.equal(back.in('C0LOG').filter((message) => message.text.startsWith(`Project: ${change}`)).length, 1)
})

t.test('[BOT-21] the connection breaks while something is on its way: it is heard, once', async (t) => {
  const chat = await createChatWorld(t)
  const { slack } = chat
  for (let count = 0; count < 5; count += 1) {
    slack.say('U0ANA', 'D0ANA', `smith-status ${count}`)
    for (const socket of slack.sockets) socket.terminate()
    await chat.until('another connection', () => slack.sockets.size > 0)
  }
  await chat.until('all answers', () => slack.in('D0ANA').length >= 5)
  await chat.until('all acknowledgements', () => new Set(slack.acks).size === 5)
  await chat.quiet()
  t.equal(slack.in('D0ANA').length, 5)
  const opens = slack.calls.filter((call) => call.method === 'apps.connections.open')
  t.ok(
    opens.length > 1 && opens.every((call) => call.token.startsWith('xapp-')),
    'with the token of the app, not of the bot',
  )
})

t.test('[BOT-21] an end in the middle of a connection leaves none open', async (t) => {
  for (const greets of [false, true]) {
    const chat = await createChatWorld(t, { times: { call: 200 }, startsLater: true })
    const { slack } = chat
    slack.greets = greets
    chat.life = chat.live()
    if (!greets) await chat.until('a connection', () => slack.opened > 0)
    await chat.life.chat.stop()
    await chat.until('the end of it', () => slack.sockets.size === 0)
    const { opened } = slack
    await new Promise((resolve) => setTimeout(resolve, 100))
    t.equal(slack.opened, opened, 'and no other is made')
  }
})

t.test('[BOT-23] a file whose last answer was lost is not uploaded twice', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  slack.click('U0BO', await chat.message('D0ANA', /Digest:/), 'smith_approve')
  await chat.until('the grant', () => machine.grants.length > 0)
  slack.fault('files.completeUploadExternal', 'lost')
  await runOf(machine, 'succeeded')
  await chat.message('D0ANA', /is `complete`/)
  await chat.quiet()
  t.equal(slack.in('C0LOG').filter((message) => message.file !== null).length, 1)
})
