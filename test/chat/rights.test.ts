/** Who may do what through the bot: people by the id of their Slack user, smith's own roles, and buttons. */
import t from 'tap'
import type { Posted } from './standin.ts'
import { type ChatWorld, createChatWorld } from './world.ts'

const STRANGER = "I don't know you"

async function raised(chat: ChatWorld): Promise<{ readonly change: string; readonly plan: Posted }> {
  await chat.world.machine('prod-dal10-web-1')
  chat.slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const plan = await chat.message('D0ANA', /Digest:/)
  const [, change = ''] = /`(CHG\d{7})`/.exec((await chat.message('D0ANA', /^Change request raised/)).text) ?? []
  return { change, plan }
}
const approvals = (chat: ChatWorld) =>
  chat.world.store
    .journal({ since: 0, limit: 10_000 })
    .flatMap((row) => row.facts.filter((fact) => fact.fact === 'changeApproved'))

t.test('[BOT-40] who is not in the configuration may do nothing, whatever their name is', async (t) => {
  const chat = await createChatWorld(t)
  const { slack } = chat
  const { plan } = await raised(chat)
  for (const user of ['U0EVE', 'constructor', 'ana', '__proto__']) {
    slack.say(user, 'D0CY', 'smith-status')
    slack.click(user, plan, 'smith_approve')
  }
  await chat.until('the answers', () => slack.in('D0CY').length === 4 && slack.whispers.length === 4)
  t.ok(slack.in('D0CY').every((message) => message.text.startsWith(STRANGER)))
  t.ok(slack.whispers.every((text) => text.startsWith(STRANGER)))
  t.same(approvals(chat), [])
})

t.test('[BOT-40] the roles of the person decide, on the instance; who is no one there is told so', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const { change } = await raised(chat)
  await world.machine('prod-dal10-web-2')
  slack.say('U0VI', 'D0BO', 'smith-patch prod machines: prod-dal10-web-2 outage:0')
  await chat.message('D0BO', /vi may not ask for a patch/)
  slack.say('U0VI', 'D0BO', `smith-cancel ${change}`)
  await chat.message('D0BO', /cancel needs the role/)
  slack.say('U0GONE', 'D0BO', `smith-pause ${change}`)
  await chat.message('D0BO', /gone is nobody here/)
  slack.say('U0BO', 'D0BO', `smith-pause ${change} too early`)
  await chat.message('D0BO', /`CHG\d{7}` is paused/)
  const actors = world.store
    .journal({ since: 0, limit: 10_000 })
    .filter((row) => row.facts.some((one) => one.fact === 'paused'))
  t.same(
    actors.map((row) => row.actor),
    ['bo via igorina'],
  )
})

t.test(
  '[BOT-41] an approval by button is of the digest shown, by who may, once; who comes later is told who came first',
  async (t) => {
    const chat = await createChatWorld(t, { config: { people: { U0ANA: 'ana', U0BO: 'bo', U0CY: 'bob' } } })
    const { slack, world } = chat
    await world.person('bob', ['approver'])
    const { change, plan } = await raised(chat)
    t.match(plan.text, await world.digest(change))
    slack.click('U0ANA', plan, 'smith_approve')
    await chat.until('a no', () => /needs the role approver/.test(slack.whispers.join()))
    t.ok(plan.blocks !== null, 'the buttons are good still')
    slack.click('U0BO', plan, 'smith_approve')
    const late = { ...plan, blocks: structuredClone(plan.blocks) }
    await chat.until('the approval', () => /Approved by <@U0BO>/.test(plan.text))
    slack.click('U0CY', late, 'smith_approve')
    await chat.until('who it was', () => /Approved by <@U0BO>/.test(slack.whispers.join()))
    slack.click('U0CY', late, 'smith_reject')
    await chat.until('who it was', () => slack.whispers.filter((text) => /Approved by <@U0BO>/.test(text)).length === 2)
    t.equal(approvals(chat).length, 1)
    t.equal((await world.call('project', 'ana', { params: { change } })).body.status.approvedBy, 'bo')
  },
)

t.test(
  '[BOT-41] the buttons go when the change was decided about elsewhere; a button of nothing is answered',
  async (t) => {
    const chat = await createChatWorld(t)
    const { slack, world } = chat
    const { change, plan } = await raised(chat)
    const digest = await world.digest(change)
    const decide = { type: 'decide', change, decision: 'approve', digest, reason: '' } as const
    await world.command(decide, { kind: 'person', name: 'bo', roles: ['approver'] })
    await chat.until('the buttons are gone', () => plan.blocks === null)
    t.match(plan.text, /Approved by <@U0BO>$/)
    const odd = (value: string, action = 'smith_approve') => ({
      ...plan,
      blocks: [{ elements: [{ action_id: action, value }] }],
    })
    for (const value of ['', 'f'.repeat(32), '../talk/x', `${change}:approve`])
      slack.click('U0BO', odd(value), 'smith_approve')
    slack.click('U0BO', odd('f'.repeat(32), 'other'), 'other')
    await chat.until('answers', () => slack.whispers.filter((text) => /no longer know/.test(text)).length === 5)
  },
)

t.test(
  '[BOT-42] a request of more than a few is confirmed first, with the number and the order, by who asked',
  async (t) => {
    const chat = await createChatWorld(t)
    const { slack, world } = chat
    const names = [10, 2, 1, 3].map((number) => `prod-dal10-web-${number}`)
    for (const name of names) await world.machine(name)
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-* outage:15')
    const asked = await chat.message('D0ANA', /Nothing is raised yet/)
    t.match(asked.text, /^\*4 machines, one after another\*, with build `prod` in us-south, outage 15 minutes each:/)
    t.match(asked.text, /1\. prod-dal10-web-1\n2\. prod-dal10-web-2\n3\. prod-dal10-web-3\n4\. prod-dal10-web-10\n/)
    slack.click('U0BO', asked, 'smith_confirm')
    await chat.until('a no', () => /Only <@U0ANA>/.test(slack.whispers.join()))
    const again = { ...asked, blocks: structuredClone(asked.blocks) }
    slack.click('U0ANA', asked, 'smith_confirm')
    slack.click('U0ANA', again, 'smith_confirm')
    await chat.message('D0ANA', /^Change request raised/)
    await chat.quiet()
    t.match(asked.text, /Confirmed: <@U0ANA>/)
    t.notMatch(asked.text, /Nothing is raised yet/)
    t.equal(slack.in('D0ANA').filter((message) => message.text.startsWith('Raising a new')).length, 1)
    slack.say('U0CY', 'D0CY', 'smith-patch prod machines: prod-dal10-web-* outage:0')
    await chat.message('D0CY', /is in the open project/)
    const list = await world.call('projects', 'ana')
    t.equal(list.body.projects.length, 1)
  },
)

t.test('[BOT-42] what is declined raises nothing', async (t) => {
  const chat = await createChatWorld(t, { config: { confirmAbove: 0 } })
  const { slack, world } = chat
  await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const asked = await chat.message('D0ANA', /Nothing is raised yet/)
  slack.click('U0ANA', asked, 'smith_decline')
  await chat.until('the end of it', () => /Not raised/.test(asked.text))
  t.equal((await world.call('projects', 'ana')).body.projects.length, 0)
})

t.test(
  '[BOT-43] what is not understood is refused at once, with a caret, the nearest command, and an example',
  async (t) => {
    const chat = await createChatWorld(t)
    const { slack } = chat
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machnes: a outage:0')
    const refused = await chat.message('D0ANA', /machnes/)
    t.match(refused.text, /\n *\^+\n[^]*do: /)
    slack.say('U0ANA', 'D0ANA', 'smith-retry CHG0268453')
    await chat.message('D0ANA', /Type `smith-retry CHG0268453 MACHINE`/)
    slack.say('U0ANA', 'D0ANA', 'smith-resolve CHG0268453 a --as failed')
    await chat.message('D0ANA', /done with `smith resolve` on the command line/)
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-9 outage:0')
    await chat.message('D0ANA', /prod-dal10-web-9/)
    slack.say('U0ANA', 'C0OPS', 'well, <@U0SMITH>')
    const inChannel = await chat.message('C0OPS', /no command of mine/)
    t.ok(inChannel.thread !== null, 'in a channel it answers in a thread')
    slack.event({
      type: 'message',
      channel_type: 'channel',
      channel: 'C0OPS',
      user: 'U0ANA',
      text: 'smith-help',
      ts: '1.1',
    })
    slack.event({
      type: 'message',
      channel_type: 'im',
      channel: 'D0ANA',
      user: 'U0SMITH',
      bot_id: 'B0SMITH',
      text: 'smith-help',
      ts: '1.2',
    })
    slack.event({
      type: 'message',
      channel_type: 'im',
      channel: 'D0ANA',
      user: 'U0OTHER',
      bot_id: 'B0OTHER',
      text: 'smith-help',
      ts: '1.3',
    })
    slack.say('U0ANA', 'C0OPS', '<@U0SMITH> smith-logs CHG0268453 <http://a.example|a.example>', {
      thread_ts: inChannel.thread,
    })
    const missing = await chat.message('C0OPS', /not running in smith instance in prod/)
    t.equal(missing.thread, inChannel.thread, 'in the thread in which it was asked')
    t.notOk(
      slack.posted.some((message) => message.text.startsWith("I'm igorina")),
      'it hears neither talk in channels, nor itself, nor other bots',
    )
  },
)

t.test(
  '[BOT-44] smith-plan shows and raises nothing; smith-logs shows the end of a log and brings it whole',
  async (t) => {
    const chat = await createChatWorld(t)
    const { slack, world } = chat
    await world.machine('prod-dal10-web-1')
    slack.say('U0ANA', 'D0ANA', 'smith-plan prod machines: prod-dal10-web-1 outage:0')
    await chat.message('D0ANA', /smith instance in prod:\n[^]*Digest: `[0-9a-f]{64}`/)
    t.equal((await world.call('projects', 'ana')).body.projects.length, 0)
    const change = await world.raise('prod machines: prod-dal10-web-1 outage:0')
    slack.say('U0ANA', 'D0ANA', `smith-plan ${change}`)
    await chat.until('the plan', () => slack.in('D0ANA').filter((message) => /Digest:/.test(message.text)).length === 2)
    slack.say('U0ANA', 'D0ANA', `smith-logs ${change}`)
    await chat.message('D0ANA', /There is no log yet/)
    slack.say('U0ANA', 'D0ANA', 'smith-status')
    await chat.message('D0ANA', new RegExp(`smith instance in prod:\n[^]*${change} +pending`))
    t.match(
      slack.in('C0LOG')[0]?.text,
      new RegExp(`^Project: ${change}`),
      'what was asked for elsewhere is told in the log channel',
    )
  },
)

t.test('[SNW-53] a change that is approved elsewhere has its link in chat, and no button', async (t) => {
  const page = 'https://site.example/nav_to.do?uri=change_request.do%3Fsys_id%3D0'
  const chat = await createChatWorld(t, { world: { elsewhere: { link: page, troubles: [] } } })
  const { plan, change } = await raised(chat)
  t.ok(plan.text.endsWith(`\n<${page}|Approve ${change}>`), plan.text)
  t.equal(plan.blocks, null)
  t.match(await chat.message('D0ANA', /^Project: /), {
    text: new RegExp(`CHANGE: ${page.replaceAll(/[?.]/g, '\\$&')}`),
  })
  const odd = await createChatWorld(t, { world: { elsewhere: { link: 'https://site.example/|x>', troubles: [] } } })
  const other = await raised(odd)
  t.notMatch(other.plan.text, /Approve/, 'nothing breaks out of a link')
  t.equal(other.plan.blocks, null, 'and what smith does not decide has no button')
})

t.test('[BOT-45] an edit is answered once and does nothing; a link that Slack unfolds is no edit', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  await world.machine('prod-dal10-web-1')
  const typed = 'smith-plan prod machines: prod-dal10-web-1 outage:0'
  const ts = slack.say('U0ANA', 'D0ANA', typed)
  await chat.message('D0ANA', /Digest:/)
  const edit = (text: string, more: object = {}, before = typed) =>
    slack.event({
      ...{
        type: 'message',
        subtype: 'message_changed',
        channel: 'D0ANA',
        channel_type: 'im',
        ts: '9.9',
        event_ts: '9.9',
      },
      message: { type: 'message', user: 'U0ANA', text, ts, edited: { user: 'U0ANA', ts: '9.9' }, ...more },
      previous_message: { type: 'message', user: 'U0ANA', text: before, ts },
    })
  edit(typed)
  const bots = edit('smith-help', { user: 'U0SMITH', bot_id: 'B0SMITH', ts: '1.1' })
  await chat.until('the acknowledgement', () => slack.acks.includes(bots))
  await chat.quiet()
  const said = slack.in('D0ANA').length
  edit('smith-patch prod machines: prod-dal10-web-1 outage:0')
  const answer = await chat.message('D0ANA', /^You edited a message/)
  t.match(answer.text, `as it was first sent: \`${typed}\`, and an edit changes nothing`)
  t.match(answer.text, 'send it as a new message')
  const again = edit('smith-help')
  await chat.until('the acknowledgement', () => slack.acks.includes(again))
  await chat.quiet()
  t.equal(slack.in('D0ANA').length, said + 1, 'once, and neither a link nor an edit of the bot is one')
  t.equal((await world.call('projects', 'ana')).body.projects.length, 0)
  edit('smith-help', { ts: '5.5', thread_ts: ts })
  await chat.until('an answer', () => slack.in('D0ANA').length === said + 2)
  t.match(slack.in('D0ANA').at(-1), { text: /as it was first sent, and/, thread: ts }, 'of a message never heard')
})
