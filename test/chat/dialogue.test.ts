/** The runbook's dialogue with the bot, word for word, against Slack's own libraries and a real coordinator. */
import t from 'tap'
import { createChatWorld, runOf } from './world.ts'

const MENTION = '<@U0ANA>'

t.test('[BOT-10] from the request to the end, in the words of the runbook', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  await chat.message('D0ANA', /^Got it: `prod machines: prod-dal10-web-1 outage:0`/)
  const raised = await chat.message('D0ANA', /^Change request raised/)
  const change = /`(CHG\d{7})`/.exec(raised.text)?.[1] ?? ''
  t.equal(raised.text, `Change request raised: \`${change}\` waiting for approval`)
  await chat.quiet()
  const texts = slack.in('D0ANA').map((message) => message.text)
  t.equal(texts[1], 'Raising a new change request.')
  t.equal(texts[2], raised.text)
  t.match(texts[3], /install .*\n[^]*Digest: `[0-9a-f]{64}`/, 'the plan and its digest')
  t.match(
    texts[4],
    new RegExp(
      `^Project: ${change} Patch: .* prod-dal10-web-1 with Build \`prod\`\nTOTALS: Pass: 0, Failed NONE, Unstarted prod-dal10-web-1`,
    ),
  )
  t.equal(texts.length, 5)
  const plan = slack.in('D0ANA')[3]
  if (plan === undefined) throw new Error('no plan')
  slack.click('U0BO', plan, 'smith_approve')
  await chat.until('the approval', () => /Approved by <@U0BO>/.test(plan.text))
  t.equal(plan.blocks, null, 'the buttons are gone')
  await chat.until('the grant', () => machine.grants.length > 0)
  await runOf(machine, 'succeeded')
  const end = await chat.message('D0ANA', /is `complete`/)
  t.match(end.text, new RegExp(`^${MENTION} \`${change}\` is \`complete\` after .*: pass 1$`))
  await chat.quiet()
  const living = slack.in('D0ANA')[4]
  t.match(living?.text, /TOTALS: Pass: 1, Failed NONE, Unstarted NONE/)
  t.ok((living?.texts.length ?? 0) > 1, 'it was edited')
  t.equal(slack.in('D0ANA').length, 6, 'and nothing else was said')
  slack.say('U0ANA', 'D0ANA', `smith-status ${change}`)
  await chat.message('D0ANA', /^Master, I'm trying to get patch status from smith instance in prod$/)
  await chat.until('the status', () => slack.in('D0ANA').length === 8)
  const status = await world.call('project', 'ana', { params: { change } })
  t.equal(slack.in('D0ANA')[7]?.text, status.body.text, 'the status to the letter')
  t.same(
    world.store
      .journal({ since: 0, limit: 10_000 })
      .filter((row) => row.facts.some((fact) => fact.fact === 'changeApproved')).length,
    1,
  )
})

t.test('[BOT-11] the log channel has one thread for each machine: steps, what failed, and the whole log', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const plan = await chat.message('D0ANA', /Digest:/)
  slack.click('U0BO', plan, 'smith_approve')
  await chat.until('the grant', () => machine.grants.length > 0)
  await runOf(machine, 'failed')
  const trouble = await chat.message('D0ANA', /needs you/)
  t.match(
    trouble.text,
    /^<@U0ANA> `CHG\d{7}` needs you:\nprod-dal10-web-1 failed: demo: its postinst failed \(maintainer-script\)\nHeld: .*\nLift: `smith (retry|resume|skip) CHG/,
  )
  const [change = ''] = /CHG\d{7}/.exec(trouble.text) ?? []
  await chat.until('the file', () => slack.in('C0LOG').some((message) => message.file !== null))
  await chat.quiet()
  const [head, ...replies] = slack.in('C0LOG')
  t.match(head?.text, new RegExp(`^\\*prod-dal10-web-1\\* \\| failed after .* \\| \`${change}\` \\| prod$`))
  t.ok(
    replies.every((reply) => reply.thread === head?.ts),
    'all the rest is in its thread',
  )
  const steps = replies.find((reply) => / granted\n/.test(reply.text))
  t.match(steps?.text, /claim\n.* latch\n.* install\n.*\*failed\* demo: its postinst failed/)
  const why = replies.find((reply) => /maintainer-script/.test(reply.text))
  t.match(
    why?.text,
    /dpkg: error processing package demo &lt;exit 1&gt;\ndo: look into \/var\/log\/demo\.log/,
    'decisive lines, escaped',
  )
  const file = replies.find((reply) => reply.file !== null)?.file
  t.match(file?.title, new RegExp(`^${change} prod-dal10-web-1 [0-9a-f]{8}\\.log$`))
  t.match(file?.content, /Setting up <demo> & friends \.\.\.\n[^]*== failed \(maintainer-script\)/, 'the log as it was')
  t.equal(slack.in('C0LOG').length, 4)
  slack.say('U0ANA', 'D0ANA', `smith retry ${change} prod-dal10-web-1`)
  await chat.message('D0ANA', /will be tried again/)
  await chat.until('another grant', () => machine.grants.length > 1)
  await runOf(machine, 'succeeded')
  await chat.message('D0ANA', /is `complete`/)
  await chat.quiet()
  t.match(slack.in('C0LOG')[0]?.text, /\| succeeded after/, 'the same thread goes on')
  t.equal(slack.in('C0LOG').filter((message) => message.thread === null).length, 1)
})
